"""Whether bundles fit on a board, how fast they will be there, and who signed them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from edgeslm.cli.doctor import Finding
from edgeslm.config.loader import Config
from edgeslm.config.sections import Signing
from edgeslm.errors import BoardError
from tests.support.boards import MACHINE, config_with, look, make_bundle, meminfo, put
from tests.support.missing import KILLS, replace_package
from tests.support.signers import Signer


def test_bundles_are_measured_against_the_memory(pi_4: Path, tmp_path: Path) -> None:
    small, large = make_bundle(tmp_path / "small", 86), make_bundle(tmp_path / "large", 930)
    huge, broken = make_bundle(tmp_path / "huge", 3000), tmp_path / "broken"
    found = look(pi_4, bundles=(small, large, huge, broken))
    assert [found[f"bundle {name}"].level for name in ("small", "large", "huge", "broken")] == [
        "ok",
        "warn",
        "bad",
        "bad",
    ]
    parts = "weights 86 MB, KV cache 94 MB, the rest 143 MB"
    assert found["bundle small"].text == f"needs about 323 MB at 2048 tokens ({parts})"
    manifest = json.loads((small / "manifest.json").read_text())
    (small / "manifest.json").write_text(json.dumps({**manifest, "context_length": 64}))
    assert " MB at 64 tokens (" in look(pi_4, bundles=(small,))["bundle small"].text


def test_bundles_of_the_starter_folder_are_found(pi_4: Path, tmp_path: Path) -> None:
    make_bundle(tmp_path / "data/edgeslm/starter/smollm2-135m-int4", 86)
    assert look(pi_4)["bundle smollm2-135m-int4"].level == "ok"


def test_models_of_a_configuration_must_fit_together(pi_4: Path, tmp_path: Path) -> None:
    config = config_with({"a": make_bundle(tmp_path / "a", 420), "b": make_bundle(tmp_path / "b", 420)})
    found = look(pi_4, config)
    assert (found["model a"].level, found["model b"].level, found["all models"].level) == ("ok", "ok", "warn")
    assert found["broker"] == Finding("broker", "ok", "answers in 1 ms")


def test_models_that_fit_in_turns_are_told(pi_4: Path, tmp_path: Path) -> None:
    config = config_with({"a": make_bundle(tmp_path / "a", 420), "b": make_bundle(tmp_path / "b", 420)})
    brief = {name: one.model_copy(update={"keep_alive_s": 600.0}) for name, one in config.models.items()}
    finding = look(pi_4, config.model_copy(update={"models": brief}))["all models"]
    assert finding.level == "ok"
    assert finding.text == (
        "need about 1.7 GB at 2048 tokens, with the daemon's 60 MB, more than is available now; "
        "in turns (keep_alive_s) about 884 MB"
    )
    stays = {**brief, "a": config.models["a"]}
    finding = look(pi_4, config.model_copy(update={"models": stays}))["all models"]
    assert finding.level == "warn", "the one that stays and the other are all models"
    put(pi_4, "proc/meminfo", meminfo(1200, 1000))
    finding = look(pi_4, config.model_copy(update={"models": stays}))["all models"]
    assert finding.level == "bad" and finding.text.endswith("; more than there is")


def test_a_model_of_the_configuration_that_is_not_there(pi_4: Path, tmp_path: Path) -> None:
    found = look(pi_4, config_with({"a": tmp_path / "gone"}))
    assert found["model a"].level == "bad"
    assert str(tmp_path / "gone") in found["model a"].text


def signing_config(bundle: Path, *keys: Path, required: bool = False) -> Config:
    signing = {"require_signature": required, "keys": [str(key) for key in keys]}
    config = config_with({"small": bundle})
    return config.model_copy(update={"signing": Signing.model_validate_json(json.dumps(signing))})


def test_signatures_are_told_in_plain_words(n100: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "small", 0)
    signer, other = Signer(tmp_path), Signer(tmp_path, "other")
    assert "signature model small" not in look(n100, signing_config(bundle))
    finding = look(n100, signing_config(bundle, signer.public))["signature model small"]
    assert (finding.level, finding.text.partition(":")[0]) == ("warn", "not signed")
    finding = look(n100, signing_config(bundle, signer.public, required=True))["signature model small"]
    assert (finding.level, finding.text.partition(":")[0]) == ("bad", "not signed")
    signer.sign(bundle)
    finding = look(n100, signing_config(bundle))["signature model small"]
    assert finding.level == "ok" and "not verified, as no key was named" in finding.text
    finding = look(n100, signing_config(bundle, signer.public, required=True))["signature model small"]
    assert finding == Finding("signature model small", "ok", f"{bundle} is signed by {signer.public}")
    finding = look(n100, signing_config(bundle, other.public, required=True))["signature model small"]
    assert finding.level == "bad" and "not made with the key" in finding.text


@pytest.mark.parametrize(("required", "level"), [(True, "bad"), (False, "warn")])
def test_signatures_without_the_library(
    n100: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, required: bool, level: str
) -> None:
    signer = Signer(tmp_path)
    bundle = signer.sign(make_bundle(tmp_path / "small", 0))
    replace_package(monkeypatch, tmp_path / "packages", "cryptography")
    finding = look(n100, signing_config(bundle, signer.public, required=required))["signature model small"]
    assert (finding.level, finding.advice) == (level, "pip install '.[verify]' in a clone")
    assert finding.text == f"{bundle} is not verifiable: the package cryptography is missing"


def test_a_check_of_signatures_that_fails(
    n100: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signer = Signer(tmp_path)
    bundle = signer.sign(make_bundle(tmp_path / "small", 0))
    replace_package(monkeypatch, tmp_path / "packages", "cryptography", KILLS)
    finding = look(n100, signing_config(bundle, signer.public))["signatures"]
    assert finding.level == "bad" and "signal 9" in finding.text


def test_a_known_model_is_told_with_its_speed(n100: Path, starter: Path) -> None:
    found = look(n100, bundles=(starter / "smollm2-135m-int4",))
    assert found["speed"].text == "reads 15.0 GB/s, computes 200 GFLOPS with 4-bit weights on 4 cores"
    text = found["bundle smollm2-135m-int4"].text
    parts = r"\(weights 1\d\d MB, KV cache 94 MB, the rest \d+ MB\), \d+ MB at all 8192"
    speeds = r"reads \d+ and writes \d+ tokens/s there"
    assert re.fullmatch(rf"needs about 3\d\d MB at 2048 tokens {parts}, {speeds}", text)


def test_a_busy_machine_is_told(n100: Path, starter: Path) -> None:
    found = look(n100, bundles=(starter / "smollm2-135m-int4",), board=replace(MACHINE, busy=True))
    assert "other programs were running" in found["speed"].text


def test_a_board_that_can_not_be_measured_still_tells_the_memory(n100: Path, starter: Path) -> None:
    failed = BoardError("The speed of this machine can't be measured: no engine.")
    told = look(n100, bundles=(starter / "smollm2-135m-int4",), board=failed)
    assert told["speed"].level == "warn"
    assert told["bundle smollm2-135m-int4"].text.endswith("at all 8192")


def test_a_board_short_of_memory_is_not_measured(n100: Path, starter: Path) -> None:
    (n100 / "proc/meminfo").write_text("MemTotal: 500000 kB\nMemAvailable: 300000 kB\n")
    found = look(n100, bundles=(starter / "smollm2-135m-int4",))
    assert (found["speed"].level, found["speed"].text[:12]) == ("warn", "not measured")
    assert "tokens/s" not in found["bundle smollm2-135m-int4"].text

"""The command ``edgeslm prepare``: what it asks for, where, and its exit status."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edgeslm.bundle.manifest import Bundle
from edgeslm.cli import main
from edgeslm.config.loader import load_config
from edgeslm.engine.worker.prepared import Index
from tests.support.nodes import fake_configuration, write_bundle, write_configuration
from tests.support.signers import Signer

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Status, standard output and standard error of ``edgeslm prepare``."""

    def run(*arguments: object) -> tuple[int, str, str]:
        status = main.main(["prepare", *map(str, arguments)])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


@dataclass
class FakePrepare:
    """Keeps what it was asked for and makes nothing."""

    asked: list[tuple[str, Path]] = field(default_factory=list)

    async def __call__(self, bundle: Bundle, graph: str, state_dir: Path) -> Index:
        self.asked.append((graph, state_dir))
        fields: dict[str, Any] = {"bundle": bundle.digest, "graph": graph, "machine": "m", "files": ()}
        return Index(**fields, cores=2, threads=2, seconds={1: 0.4, 2: 0.2})


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakePrepare:
    fake = FakePrepare()
    monkeypatch.setattr("edgeslm.engine.prepack.prepare.prepare", fake)
    return fake


def test_it_is_made_below_the_state_folder(
    run: Run, tmp_path: Path, fake: FakePrepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    config = write_configuration(tmp_path, fake_configuration("mqtt://localhost", tmp_path))
    bundle = write_bundle(tmp_path / "one")
    status, out, err = run(bundle)
    assert (status, err) == (0, "")
    assert f"{tmp_path / 'state' / 'prepared'}/" in out
    assert "2 threads: 200 ms for 128 prompt tokens and 16 new ones  used with threads: auto\n" in out
    assert json.loads(run(bundle, "--config", config, "--json")[1])["threads"] == 2
    folders = [tmp_path / "state", load_config(config).state_dir]
    assert fake.asked == [("model.onnx", folder) for folder in folders]


def test_it_takes_decoders_and_their_graphs(run: Run, tmp_path: Path, fake: FakePrepare) -> None:
    status, _, err = run(write_bundle(tmp_path / "vectors", "encoder"))
    assert status == 1 and "only decoders can be prepared" in err
    status, _, err = run(write_bundle(tmp_path / "plain"), "--adapters")
    assert status == 1 and "it has no graph that takes adapters" in err
    assert fake.asked == []


def test_it_runs_nothing_that_must_be_signed_and_is_not(run: Run, tmp_path: Path, fake: FakePrepare) -> None:
    signing = {"require_signature": True, "keys": [str(Signer(tmp_path).public)]}
    configuration = fake_configuration("mqtt://localhost", tmp_path)
    config = write_configuration(tmp_path, {**configuration, "signing": signing})
    status, _, err = run(write_bundle(tmp_path / "one"), "--config", config)
    assert status == 1 and "not signed" in err
    assert fake.asked == []

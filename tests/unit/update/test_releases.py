"""A node doesn't go back to a lower release of a bundle by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeslm.bundle.manifest import Bundle, load_bundle
from edgeslm.errors import BundleError
from edgeslm.update.command_file import CommandFile
from edgeslm.update.releases import Releases
from edgeslm.update.store import Store
from tests.support.nodes import write_bundle


def released(folder: Path, release: int | None, kind: str = "decoder") -> Bundle:
    name = f"{kind}-{release}"
    return load_bundle(write_bundle(folder / name, kind, weights=name.encode(), release=release))


def test_a_lower_release_than_was_at_work_is_refused_and_both_are_named(tmp_path: Path) -> None:
    Store(tmp_path / "state", "hall").note_release(released(tmp_path, 5))
    store = Store(tmp_path / "state", "hall")
    for fine in (5, 6):
        store.check_release(released(tmp_path, fine))
    for release, told in ((4, 4), (None, 0)):
        with pytest.raises(BundleError, match=f"fake-decoder: release {told} is older than release 5"):
            store.check_release(released(tmp_path, release))
    store.check_release(released(tmp_path, 1, "encoder"))  # another name
    store.note_release(released(tmp_path, 2))
    with pytest.raises(BundleError, match="release 5, which was active"):
        store.check_release(released(tmp_path, 4))


def test_bundles_without_a_number_leave_no_file(tmp_path: Path) -> None:
    releases = Releases(tmp_path / "releases.json")
    releases.check(released(tmp_path, None))
    releases.note(released(tmp_path, None))
    assert not (tmp_path / "releases.json").exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"fake-decoder": "9"}', "[" * 100_000])
def test_a_damaged_file_stops_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "releases.json").write_text(text)
    Releases(tmp_path / "releases.json").check(released(tmp_path, 1))


def test_what_others_could_have_written_is_not_believed(tmp_path: Path) -> None:
    file = tmp_path / "releases.json"
    file.write_text('{"fake-decoder": 9}')
    file.chmod(0o666)
    Releases(file).check(released(tmp_path, 1))


def test_a_command_that_names_no_older_release_is_read_by_a_node_of_0_1_0(tmp_path: Path) -> None:
    command_file = CommandFile(tmp_path, "hall")
    (tmp_path / "updates").mkdir()
    command_file.make("activate", "small", "sha256:1f3a")
    assert "older" not in (tmp_path / "updates/wish-hall.json").read_text()
    (command,) = [command_file.next()]
    assert command is not None and not command.older
    command_file.make("activate", "small", "sha256:1f3a", older=True)
    assert (command := command_file.next()) is not None and command.older

"""Files into a collection: new, changed, unchanged, gone and broken ones."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from edgeslm.errors import KnowledgeError
from edgeslm.knowledge.index.collection import Collection, DocumentOrigin
from edgeslm.knowledge.index.search import search
from edgeslm.knowledge.service import quarantine
from edgeslm.knowledge.service.intake import IntakeListener, Totals, add_files
from tests.support.knowledge.collection_samples import TAG, faults, hash_embed
from tests.support.knowledge.readers import bad_reader
from tests.support.knowledge.readers.bad_reader import ReadWith
from tests.support.knowledge.readers.bad_reader import read_with as read_with


class Listener(IntakeListener):
    def __init__(self) -> None:
        self.files: list[str] = []
        self.parts: list[str] = []
        self.broken: dict[Path, str] = {}

    def on_file(self, source: str) -> None:
        self.files.append(source)

    def on_part(self, source: str, part: str) -> None:
        self.parts.append(f"{source} {part}")

    def on_broken(self, path: Path, sentence: str) -> None:
        self.broken[path] = sentence


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "manuals"
    write(folder / "press/4.md", "# Press 4\n\nOil it each week.\n")
    write(folder / "lathe.txt", "Clean the lathe.\n")
    return folder


@pytest.fixture
def collection(tmp_path: Path) -> Iterator[Collection]:
    with Collection(tmp_path / "kb", writes=True) as made:
        yield made
        assert faults(made.file) == []


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def sources(collection: Collection) -> list[str]:
    return [entry.source for entry in collection.documents()]


def test_all_that_is_in_a_folder_is_added(collection: Collection, folder: Path) -> None:
    totals = add_files(collection, [folder])
    assert (totals.added, totals.passages, totals.broken) == (2, 2, 0)
    assert sources(collection) == ["lathe.txt", "press/4.md"]
    (found,) = search(collection, "oil")
    assert (found.source, found.heading, found.text) == ("press/4.md", "Press 4", "Oil it each week.")
    assert (folder / "press/4.md").read_text()[found.start : found.end] == found.text


def test_what_is_unchanged_is_not_read_again(
    collection: Collection, folder: Path, read_with: ReadWith
) -> None:
    add_files(collection, [folder])
    os.utime(folder / "lathe.txt", (5, 5))
    read_with(("/nowhere/python",))
    assert add_files(collection, [folder]) == Totals(unchanged=2)
    entry = collection.find("lathe.txt")
    assert entry is not None and entry.origin.mtime == 5.0


def test_what_has_changed_is_read_again_even_if_its_time_and_size_are_the_same(
    collection: Collection, folder: Path
) -> None:
    status = (folder / "lathe.txt").stat()
    add_files(collection, [folder])
    write(folder / "lathe.txt", "Grind the lathe.\n")
    os.utime(folder / "lathe.txt", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert add_files(collection, [folder]) == Totals(changed=1, unchanged=1, passages=1)
    assert [found.text for found in search(collection, "lathe")] == ["Grind the lathe."]


def test_only_new_passages_are_embedded(collection: Collection, folder: Path) -> None:
    collection.use_encoder(TAG)
    embedded: list[str] = []

    def embed(texts: Sequence[str]) -> list[list[float]]:
        embedded.extend(texts)
        return hash_embed(texts)

    add_files(collection, [folder], embed=embed)
    assert sorted(embedded) == ["Press 4 Press 4 Oil it each week.", "lathe.txt Clean the lathe."]
    write(folder / "lathe.txt", "Grind the lathe.\n")
    del embedded[:]
    add_files(collection, [folder], embed=embed)
    assert embedded == ["lathe.txt Grind the lathe."]


def test_what_may_not_be_looked_at_is_not_gone(
    collection: Collection, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_files(collection, [folder])
    stat = Path.stat

    def refused(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if path.suffix == ".md":
            raise PermissionError(errno.EACCES, "Permission denied")
        return stat(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "stat", refused)
    assert add_files(collection, [folder], sync=True).removed == 0
    assert sources(collection) == ["lathe.txt", "press/4.md"]


def test_what_was_in_a_folder_that_is_empty_now_may_be_spared(collection: Collection, folder: Path) -> None:
    """As where its disk was unmounted while files of it were read."""
    add_files(collection, [folder])
    files = [path for path in folder.rglob("*") if path.is_file()]
    first, *others = sorted(files)
    for file in others:
        file.unlink()
    assert add_files(collection, [folder], sync=True, spares_empty=True).removed == len(others)
    first.unlink()
    assert add_files(collection, [folder], sync=True, spares_empty=True).removed == 0
    assert add_files(collection, [folder], sync=True).removed == 1


def test_files_that_are_gone_stay_unless_the_folder_is_synced(collection: Collection, folder: Path) -> None:
    outside = write(folder.parent / "outside.txt", "Elsewhere.")
    add_files(collection, [folder, outside])
    outside.unlink()
    (folder / "lathe.txt").unlink()
    assert add_files(collection, [folder]).removed == 0
    assert add_files(collection, [folder], sync=True).removed == 1
    assert sources(collection) == ["outside.txt", "press/4.md"]


def test_a_folder_with_a_name_that_begins_alike_is_another(collection: Collection, folder: Path) -> None:
    other = write(folder.parent / "manuals-old/a.txt", "Old.")
    add_files(collection, [folder, other.parent])
    other.unlink()
    assert add_files(collection, [folder], sync=True).removed == 0


def test_a_broken_file_is_told_and_the_others_go_on(collection: Collection, folder: Path) -> None:
    write(folder / "broken.csv", "a\0b")
    listener = Listener()
    totals = add_files(collection, [folder, folder / "missing.txt"], listener=listener)
    said = [*listener.broken.values()]
    assert (totals.added, totals.broken) == (2, 2)
    assert len(said) == 2
    assert "broken.csv" in said[0]
    assert said[1] == f"{folder / 'missing.txt'}: No such file or directory"


def test_of_a_file_that_breaks_what_was_there_stays(collection: Collection, folder: Path) -> None:
    add_files(collection, [folder])
    write(folder / "lathe.txt", "\0\1\2")
    assert add_files(collection, [folder], sync=True).broken == 1
    assert [found.text for found in search(collection, "lathe")] == ["Clean the lathe."]


def test_a_file_keeps_its_name_whichever_folder_it_comes_with(collection: Collection, folder: Path) -> None:
    add_files(collection, [folder])
    assert add_files(collection, [folder / "press"]) == Totals(unchanged=1)
    write(folder / "press/4.md", "Oil it each day.")
    assert add_files(collection, [folder / "press"]).changed == 1
    assert sources(collection) == ["lathe.txt", "press/4.md"]


def test_another_file_of_the_same_name_is_no_change(collection: Collection, folder: Path) -> None:
    add_files(collection, [folder])
    other = write(folder.parent / "others/lathe.txt", "Another lathe.")
    listener = Listener()
    assert add_files(collection, [other.parent], listener=listener).broken == 1
    assert [*listener.broken.values()] == [
        f"{other}: the collection has a lathe.txt already, from {folder / 'lathe.txt'}; add a folder that "
        "both lie in, or use a collection for each"
    ]
    assert [found.text for found in search(collection, "lathe")] == ["Clean the lathe."]


def test_a_file_that_moved_is_the_same_document(collection: Collection, folder: Path) -> None:
    add_files(collection, [folder])
    moved = folder.rename(folder.parent / "moved")
    write(moved / "lathe.txt", "Grind the lathe.")
    assert add_files(collection, [moved]) == Totals(changed=1, unchanged=1, passages=1)
    assert add_files(collection, [moved], sync=True) == Totals(unchanged=2)


def test_what_folders_hold_besides_is_counted(collection: Collection, folder: Path) -> None:
    write(folder / "picture.png", "")
    write(folder / ".hidden.txt", "")
    assert add_files(collection, [folder]).skipped == {".png": 1, "hidden": 1}


def test_a_collection_that_can_t_be_written_ends_it(collection: Collection, folder: Path) -> None:
    with Collection(collection.file) as reader, pytest.raises(KnowledgeError, match="can't be written to"):
        add_files(reader, [folder])


def test_a_name_that_is_no_text_can_be_added(collection: Collection, folder: Path) -> None:
    """Bytes that are no UTF-8."""
    name = os.fsdecode(b"caf\xe9.txt")
    write(folder / name, "Coffee.")
    assert add_files(collection, [folder]).added == 3
    assert add_files(collection, [folder], sync=True) == Totals(unchanged=3)
    (found,) = search(collection, "coffee")
    assert found.source == "caf?.txt"


@pytest.fixture
def bomb(folder: Path, read_with: ReadWith) -> Path:
    """Crashes its reader."""
    read_with(bad_reader.command(bad_reader.CRASH))
    return write(folder / "bomb.txt", "Oil it.")


def tries(bomb: Path) -> int:
    return len((bomb.parent.parent / "tries").read_text())


def test_a_file_that_crashes_its_reader_is_tried_once_more_behind_the_others_and_left_out(
    collection: Collection, folder: Path, bomb: Path
) -> None:
    listener = Listener()
    totals = add_files(collection, [folder], listener=listener)
    assert (totals.added, totals.broken, tries(bomb)) == (2, 1, 2)
    assert listener.files == ["bomb.txt", "lathe.txt", "press/4.md"]
    assert listener.parts == ["bomb.txt once more"]
    assert [*listener.broken.values()] == [
        "bomb.txt ended the process that read it; it is left out until it changes or edgeslm knowledge add "
        "--again can read it"
    ]
    os.utime(bomb, (5, 5))
    shutil.copy(bomb, folder / "bomb-2.txt")
    bomb.rename(folder / "bomb-3.txt")
    assert add_files(collection, [folder], listener=listener).broken == 2
    assert tries(bomb) == 2, "another date and another name are no other content"
    assert "could not be read within its limits" in listener.broken[folder / "bomb-3.txt"]


def test_what_was_left_out_is_read_when_it_changes_or_is_asked_for(
    collection: Collection, folder: Path, bomb: Path
) -> None:
    add_files(collection, [folder])
    assert add_files(collection, [folder], again=True).broken == 1
    assert tries(bomb) == 3
    write(bomb, "Oil it each week.")
    assert add_files(collection, [folder]).broken == 1
    assert tries(bomb) == 5
    (folder.parent / "mended").touch()
    assert add_files(collection, [folder]).broken == 1
    assert add_files(collection, [folder], again=True).added == 1
    write(folder / "bomb-2.txt", "Oil it each week.")
    assert add_files(collection, [folder]).added == 1, "its content is read again"


def test_a_first_try_counts_after_a_restart(collection: Collection, folder: Path, bomb: Path) -> None:
    status = bomb.stat()
    digest = hashlib.sha256(bomb.read_bytes()).hexdigest()
    quarantine.Quarantine(collection).note(bomb, DocumentOrigin(digest, status.st_size, status.st_mtime))
    assert add_files(collection, [folder]).broken == 1
    assert tries(bomb) == 1


def test_a_file_that_is_replaced_while_it_is_read_is_not_left_out(
    collection: Collection, folder: Path, read_with: ReadWith
) -> None:
    act = "os.truncate(path, 3); os._exit(9)"
    read_with(bad_reader.command(act))
    bomb = write(folder / "bomb.txt", "Oil it.")
    listener = Listener()
    assert add_files(collection, [bomb], listener=listener).broken == 1
    assert (listener.broken, tries(bomb)) == ({bomb: "bomb.txt changed while it was read"}, 1)
    assert quarantine.Quarantine(collection).left_out() == set()


@pytest.mark.parametrize(
    ("name", "most"),
    [("a.md", "16 MiB"), ("a.md.gz", "16 MiB"), ("a.pdf", "4096 MiB"), ("a.pdf.gz", "64 MiB")],
)
def test_a_file_that_claims_terabytes_is_not_read_to_its_end(
    collection: Collection, tmp_path: Path, name: str, most: str
) -> None:
    with (tmp_path / name).open("wb") as file:
        file.truncate(1 << 43)
    listener = Listener()
    add_files(collection, [tmp_path / name], listener=listener)
    assert f"more than {most}" in listener.broken[tmp_path / name]


def test_a_pipe_is_not_waited_for(collection: Collection, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.md")
    listener = Listener()
    add_files(collection, [tmp_path / "a.md"], listener=listener)
    assert listener.broken[tmp_path / "a.md"].endswith("is not a file.")

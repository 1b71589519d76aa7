"""The record of a process and the rules of a disk, on lines as strace writes them."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.unsynced import SECTOR, Call, CannotTrace, Disk, parse, record

FOLDER = Path("/srv/disk")
FILE = FOLDER / "a"


def quoted(text: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in text)


def at(path: Path) -> str:
    return f"<{quoted(str(path).encode())}>"


def opened(path: Path, flags: str = "O_RDWR|O_CREAT") -> str:
    return f'7 openat(AT_FDCWD{at(FOLDER)}, "{quoted(str(path).encode())}", {flags}, 0644) = 3{at(path)}'


def wrote(path: Path, data: bytes, offset: int) -> str:
    return f'7 pwrite64(3{at(path)}, "{quoted(data)}", {len(data)}, {offset}) = {len(data)}'


def appended(path: Path, data: bytes) -> str:
    return f'7 write(3{at(path)}, "{quoted(data)}", {len(data)}) = {len(data)}'


def synced(path: Path) -> str:
    return f"7 fdatasync(3{at(path)}) = 0"


def renamed(old: Path, new: Path) -> str:
    return f'7 rename("{quoted(old.name.encode())}", "{quoted(str(new).encode())}") = 0'


def unlinked(path: Path) -> str:
    return f'7 unlink("{quoted(str(path).encode())}") = 0'


def disk(*lines: str, ordered: bool = False) -> Disk:
    found = Disk(FOLDER, ordered=ordered)
    for call in parse(lines):
        found.apply(call)
    return found


class TestParse:
    def test_a_call(self) -> None:
        assert list(parse([wrote(FILE, b"ab\0", 512)])) == [
            Call("pwrite64", (b"ab\0",), (FILE,), (3, 3, 512), frozenset(), 3, 0)
        ]

    def test_what_failed_and_what_is_no_call_is_left_out(self) -> None:
        lines = [
            f'7 unlink("{quoted(b"/x")}") = -1 ENOENT (No such file or directory)',
            "7 --- SIGCHLD {si_signo=SIGCHLD, si_pid=9} ---",
            "7 +++ exited with 0 +++",
            f'7 write(2{at(FILE)}, "{quoted(b"x")}", 1 <detached ...>',
        ]
        assert list(parse(lines)) == []

    def test_a_call_that_others_interrupt_began_when_it_began(self) -> None:
        lines = [
            f"7 fsync(3{at(FILE)} <unfinished ...>",
            appended(FILE, b"x"),
            "7 <... fsync resumed>)       = 0",
        ]
        lines[1] = lines[1].replace("7", "8", 1)
        assert [(call.name, call.started) for call in parse(lines)] == [("write", 1), ("fsync", 0)]

    def test_data_that_was_cut_short_is_no_record(self) -> None:
        with pytest.raises(ValueError, match="cut the data"):
            list(parse([f'7 write(3{at(FILE)}, "{quoted(b"ab")}"..., 4096) = 4096']))

    @given(st.binary(max_size=40), st.integers(0, 5000))
    def test_any_bytes_come_back(self, data: bytes, offset: int) -> None:
        (call,) = parse([wrote(FILE, data, offset)])
        assert (call.texts, call.numbers[-1]) == ((data,), offset)


class TestData:
    def test_what_was_synced_stays_and_the_rest_goes(self) -> None:
        found = disk(opened(FILE), wrote(FILE, b"old", 0), synced(FILE), wrote(FILE, b"NEW", 0))
        assert found.after_cut() == {FILE: b"old"}
        assert found.after_cut(lambda: True) == {FILE: b"NEW"}
        assert found.after_kill() == {FILE: b"NEW"}

    def test_a_write_may_be_there_in_part(self) -> None:
        found = disk(opened(FILE), synced(FILE), wrote(FILE, b"x" * SECTOR + b"y" * SECTOR, 0))
        keeps = iter([False, True])
        assert found.after_cut(lambda: next(keeps)) == {FILE: bytes(SECTOR) + b"y" * SECTOR}

    def test_a_sync_is_not_for_what_came_while_it_ran(self) -> None:
        lines = [opened(FILE), wrote(FILE, b"a", 0), f"7 fsync(3{at(FILE)} <unfinished ...>"]
        lines += [wrote(FILE, b"b", 1).replace("7", "8", 1), "7 <... fsync resumed>) = 0"]
        assert disk(*lines).after_cut() == {FILE: b"a"}

    def test_writes_follow_each_other(self) -> None:
        found = disk(opened(FILE), appended(FILE, b"ab"), appended(FILE, b"cd"), synced(FILE))
        assert found.after_cut() == {FILE: b"abcd"}
        again = opened(FILE, "O_WRONLY|O_APPEND")
        found = disk(opened(FILE), appended(FILE, b"ab"), again, appended(FILE, b"c"))
        assert found.after_kill() == {FILE: b"abc"}

    def test_a_file_that_is_emptied_and_not_synced_may_be_either(self) -> None:
        found = disk(opened(FILE), appended(FILE, b"old"), synced(FILE), opened(FILE, "O_WRONLY|O_TRUNC"))
        assert found.after_cut() == {FILE: b"old"}
        assert found.after_kill() == {FILE: b""}

    def test_a_length_is_data_too(self) -> None:
        found = disk(opened(FILE), appended(FILE, b"abcd"), synced(FILE), f"7 ftruncate(3{at(FILE)}, 2) = 0")
        assert found.after_cut() == {FILE: b"abcd"}
        assert found.after_kill() == {FILE: b"ab"}
        found = disk(opened(FILE), f"7 fallocate(3{at(FILE)}, 0, 0, 3) = 0")
        assert found.after_kill() == {FILE: bytes(3)}


class TestNames:
    OTHER = FOLDER / "b"

    def test_a_new_file_is_sure_when_it_or_its_folder_is_synced(self) -> None:
        assert disk(opened(FILE), appended(FILE, b"x")).after_cut() == {}
        assert disk(opened(FILE), synced(FILE)).after_cut() == {FILE: b""}
        assert disk(opened(FILE), synced(FOLDER)).after_cut() == {FILE: b""}

    def test_a_rename_is_sure_when_the_folder_is_synced(self) -> None:
        lines = [opened(FILE), appended(FILE, b"x"), synced(FILE), renamed(FILE, self.OTHER)]
        assert disk(*lines).after_cut() == {FILE: b"x"}
        assert disk(*lines).after_cut(lambda: True) == {self.OTHER: b"x"}
        assert disk(*lines, synced(FOLDER)).after_cut() == {self.OTHER: b"x"}

    def test_in_an_ordered_journal_any_sync_makes_names_sure(self) -> None:
        third = FOLDER / "c"
        lines = [opened(FILE), synced(FILE), renamed(FILE, self.OTHER), opened(third), synced(third)]
        assert set(disk(*lines).after_cut()) == {FILE, third}
        assert set(disk(*lines, ordered=True).after_cut()) == {self.OTHER, third}

    def test_a_removed_file_may_come_back(self) -> None:
        found = disk(opened(FILE), synced(FILE), unlinked(FILE))
        assert found.after_cut() == {FILE: b""}
        assert found.after_cut(lambda: True) == {}

    def test_the_second_file_of_a_name_is_not_removed_by_the_end_of_the_first(self) -> None:
        lines = [opened(FILE), synced(FILE), unlinked(FILE), opened(FILE), appended(FILE, b"2"), synced(FILE)]
        assert disk(*lines).after_cut(lambda: True) == {FILE: b"2"}
        assert disk(*lines).after_cut() == {FILE: b"2"}

    def test_files_elsewhere_are_none_of_its_business(self) -> None:
        elsewhere = Path("/srv/other/a")
        assert disk(opened(elsewhere), appended(elsewhere, b"x"), synced(elsewhere)).after_kill() == {}

    @pytest.mark.parametrize("call", ["fallocate(3{}, FALLOC_FL_KEEP_SIZE, 0, 9)", "pwritev(3{}, [], 0, 0)"])
    def test_what_it_does_not_understand_is_an_error(self, call: str) -> None:
        with pytest.raises(ValueError, match="isn't understood here"):
            disk(opened(FILE), f"7 {call.format(at(FILE))} = 0")


PROGRAM = """
import os, sys
os.chdir(sys.argv[1])
with open("kept", "wb") as file:
    file.write(b"x" * 100_000)
    os.fsync(file.fileno())
with open("new", "wb") as file:
    file.write(b"y")
os.rename("new", "kept")
"""


def test_a_real_process(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        calls = record([sys.executable, "-c", PROGRAM, str(folder)], tmp_path)
    except CannotTrace as error:
        pytest.skip(str(error))
    found = Disk(folder)
    for call in calls:
        found.apply(call)
    kept = folder / "kept"
    assert found.after_cut() == {kept: b"x" * 100_000}
    assert found.after_kill() == {kept: b"y"} == {kept: kept.read_bytes()}
    chance = random.Random(1)
    ends = {found.after_cut(lambda: chance.random() < 0.5)[kept] for _ in range(50)}
    assert ends == {b"x" * 100_000, b"", b"y"}  # renamed before its content was there: the classic

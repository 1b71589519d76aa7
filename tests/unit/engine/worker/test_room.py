"""Whether there is memory, by made up files of the kernel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgeslm.engine.worker.room import RESERVE_BYTES, check_room
from edgeslm.errors import NoMemory
from tests.support.boards import write_memory


class Caches:
    """Given back once, if there are any."""

    def __init__(self, root: Path, then: int) -> None:
        self._root, self._then = root, then
        self.given_back = 0

    def forget(self) -> None:
        self.given_back += 1
        write_memory(self._root, self._then)


def test_what_fits_is_let_through(tmp_path: Path) -> None:
    write_memory(tmp_path, RESERVE_BYTES + 20_000_000)
    caches = Caches(tmp_path, 0)
    check_room(10_000_000, "it", caches, tmp_path)
    assert caches.given_back == 0


def test_caches_are_given_back_first(tmp_path: Path) -> None:
    write_memory(tmp_path, RESERVE_BYTES)
    caches = Caches(tmp_path, RESERVE_BYTES + 20_000_000)
    check_room(10_000_000, "it", caches, tmp_path)
    assert caches.given_back == 1


def test_what_does_not_fit_is_refused_with_the_numbers(tmp_path: Path) -> None:
    write_memory(tmp_path, RESERVE_BYTES + 2_100_000)
    with pytest.raises(NoMemory, match=r"^a cache takes 10 MB and 2 MB are free; send a shorter text"):
        check_room(10_000_000, "a cache", Caches(tmp_path, RESERVE_BYTES + 2_100_000), tmp_path)


def test_a_reserve_that_is_used_up_is_no_negative_number(tmp_path: Path) -> None:
    write_memory(tmp_path, 1000)
    with pytest.raises(NoMemory, match="and 0 MB are free"):
        check_room(10_000_000, "a cache", Caches(tmp_path, 1000), tmp_path)


def test_nobody_looks_again_at_once_where_there_was_plenty(tmp_path: Path) -> None:
    write_memory(tmp_path, RESERVE_BYTES + 200_000_000)
    caches = Caches(tmp_path, 0)
    check_room(10_000_000, "it", caches, tmp_path)
    write_memory(tmp_path, 0)
    check_room(10_000_000, "it", caches, tmp_path)
    with pytest.raises(NoMemory):
        check_room(20_000_000, "it", caches, tmp_path)


def test_somebody_looks_again_a_moment_later(tmp_path: Path) -> None:
    write_memory(tmp_path, RESERVE_BYTES + 200_000_000)
    check_room(10_000_000, "it", Caches(tmp_path, 0), tmp_path)
    write_memory(tmp_path, 0)
    with pytest.raises(NoMemory):
        while True:
            check_room(10_000_000, "it", Caches(tmp_path, 0), tmp_path)


def test_a_kernel_that_does_not_tell_stands_in_no_ones_way(tmp_path: Path) -> None:
    check_room(10**15, "it", Caches(tmp_path, 0), tmp_path)


RUNAWAY = """
from edgeslm.engine.worker.room import GRAMMAR_BYTES, limit_memory

limit_memory(100_000_000, 50_000_000)
cache = bytearray(300_000_000)
try:
    grammar = bytearray(GRAMMAR_BYTES + 60_000_000)
except MemoryError:
    print("held")
"""


def test_a_process_is_held_to_what_was_computed_for_it() -> None:
    done = subprocess.run([sys.executable, "-c", RUNAWAY], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("held\n", 0), done.stderr

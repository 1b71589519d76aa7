"""What tasks begin with, on disk: found again whole, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from edgeslm.engine.worker.prefix_cache import PrefixCache

CACHES, HEADS, SIZE = 4, 2, 8
TOKENS = (5, 6, 7)


def make_values(tokens: int = len(TOKENS), seed: int = 0) -> list[npt.NDArray[np.float32]]:
    numbers = np.random.default_rng(seed)
    return [numbers.standard_normal((1, HEADS, tokens, SIZE), np.float32) for _ in range(CACHES)]


def on(folder: Path) -> PrefixCache:
    return PrefixCache(folder / "beginnings", CACHES, HEADS, SIZE)


def with_room_for_two(folder: Path) -> PrefixCache:
    return PrefixCache(folder / "beginnings", CACHES, HEADS, SIZE, kept_bytes=2 * ONE)


def files(folder: Path) -> list[Path]:
    return sorted((folder / "beginnings").iterdir())


def test_what_was_kept_is_found_by_its_tokens(tmp_path: Path) -> None:
    values = make_values()
    on(tmp_path).keep(TOKENS, values)
    found = on(tmp_path).find(TOKENS)
    assert found is not None
    assert np.array_equal(found, np.stack(values))
    assert on(tmp_path).find((5, 6, 8)) is None
    assert on(tmp_path).find((5, 6)) is None


def test_codes_take_a_byte_each(tmp_path: Path) -> None:
    codes = [np.clip(values * 40, -127, 127).astype(np.int8) for values in make_values()]
    folder = tmp_path / "beginnings"
    PrefixCache(folder, CACHES, HEADS, SIZE, np.int8).keep(TOKENS, codes)
    found = PrefixCache(folder, CACHES, HEADS, SIZE, np.int8).find(TOKENS)
    assert found is not None
    assert found.dtype == np.int8
    assert np.array_equal(found, np.stack(codes))
    (file,) = files(tmp_path)
    assert file.stat().st_size == 32 + CACHES * HEADS * len(TOKENS) * SIZE
    assert on(tmp_path).find(TOKENS) is None  # as floats


def test_nothing_is_there_at_first(tmp_path: Path) -> None:
    assert on(tmp_path).find(TOKENS) is None


@pytest.mark.parametrize("place", [0, 40, -1])
def test_a_damaged_file_is_not_believed(place: int, tmp_path: Path) -> None:
    on(tmp_path).keep(TOKENS, make_values())
    (file,) = files(tmp_path)
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    assert on(tmp_path).find(TOKENS) is None


@pytest.mark.parametrize("size", [0, 10, 100])
def test_one_that_was_cut_is_not_believed(size: int, tmp_path: Path) -> None:
    on(tmp_path).keep(TOKENS, make_values())
    os.truncate(files(tmp_path)[0], size)
    assert on(tmp_path).find(TOKENS) is None


def test_one_that_others_could_have_written_is_not_believed(tmp_path: Path) -> None:
    on(tmp_path).keep(TOKENS, make_values())
    files(tmp_path)[0].chmod(0o666)
    assert on(tmp_path).find(TOKENS) is None


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    on(tmp_path).keep(TOKENS, make_values())
    (file,) = files(tmp_path)
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    assert on(tmp_path).find(TOKENS) is None


ONE = 32 + 4 * CACHES * HEADS * len(TOKENS) * SIZE
"""The bytes of a file, almost."""


def test_those_of_before_the_start_go_first(tmp_path: Path) -> None:
    before = with_room_for_two(tmp_path)
    before.keep((1, 1, 1), make_values())
    before.keep((2, 2, 2), make_values())
    after = with_room_for_two(tmp_path)
    assert after.find((1, 1, 1)) is not None
    after.keep((3, 3, 3), make_values())
    assert [after.find((n, n, n)) is not None for n in (1, 2, 3)] == [True, False, True]


def test_what_is_in_use_does_not_make_room(tmp_path: Path) -> None:
    """Tasks that don't all fit would be written anew at each start, one after the other."""
    for _ in range(3):
        start = with_room_for_two(tmp_path)
        written = []
        for n in (1, 2, 3):
            if start.find((n, n, n)) is None:
                start.keep((n, n, n), make_values())
                written += [n] if start.find((n, n, n)) is not None else []
        assert len(files(tmp_path)) == 2
    assert written == []


def test_one_that_is_larger_than_all_may_be_is_not_kept(tmp_path: Path) -> None:
    kept = with_room_for_two(tmp_path)
    kept.keep(TOKENS, make_values())
    kept.keep(range(30), make_values(30))
    assert kept.find(TOKENS) is not None
    assert kept.find(range(30)) is None


def test_it_is_written_once(tmp_path: Path) -> None:
    kept = on(tmp_path)
    kept.keep(TOKENS, make_values())
    (file,) = files(tmp_path)
    written = file.stat().st_mtime_ns
    kept.keep(TOKENS, make_values(seed=1))
    assert file.stat().st_mtime_ns == written


def test_a_disk_that_refuses_stands_in_no_ones_way(tmp_path: Path) -> None:
    (tmp_path / "beginnings").write_text("a file")
    on(tmp_path).keep(TOKENS, make_values())
    assert on(tmp_path).find(TOKENS) is None

"""Pages of mapped files, as the system counts them."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

from edgeslm.engine.mapped import give_back_pages

PAGES = 64


def resident_kb(file: Path) -> int:
    found = re.findall(
        rf"{re.escape(str(file))}\n(?:\w+: .*\n)*?Rss: +(\d+) kB", Path("/proc/self/smaps").read_text()
    )
    return sum(map(int, found))


def test_what_was_read_of_a_file_is_given_back(tmp_path: Path) -> None:
    for name in ("weights", "others"):
        (tmp_path / name).write_bytes(bytes(range(256)) * 16 * PAGES)
    with (tmp_path / "weights").open("rb") as one, (tmp_path / "others").open("rb") as two:
        weights = mmap.mmap(one.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        others = mmap.mmap(two.fileno(), 0, prot=mmap.PROT_READ)
        whole = bytes(weights), bytes(others)
        assert resident_kb(tmp_path / "weights") >= 4 * PAGES
        give_back_pages([tmp_path / "weights"])
        assert resident_kb(tmp_path / "weights") == 0
        assert resident_kb(tmp_path / "others") >= 4 * PAGES
        assert (bytes(weights), bytes(others)) == whole
        weights.close()
        others.close()


def test_what_was_written_to_stays(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(bytes(4096 * PAGES))
    with (tmp_path / "weights").open("rb") as file:
        weights = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        weights[5] = 7
        give_back_pages([tmp_path / "weights"])
        assert weights[5] == 7
        weights.close()


def test_a_file_that_is_gone_or_not_mapped_is_nothing(tmp_path: Path) -> None:
    give_back_pages([tmp_path / "never there"])

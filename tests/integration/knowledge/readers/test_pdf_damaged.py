"""PDFs that broke: each is read or refused in a sentence, and what one does to the child harms no other."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from edgeslm.errors import KnowledgeError
from edgeslm.knowledge.readers.limited import Reading, ReadingListener
from tests.support.knowledge.pdfs import make_pdf

FILES = 1000
NUMBER = re.compile(rb"\d+")
ODD = (b"-1", b"0", b"1", b"3", b"1000000", b"2147483647", b"4294967296", b"1" + b"0" * 18)


def damaged(count: int) -> Iterator[bytes]:
    """Bytes that are changed, lost, doubled or put in, numbers that lie, ends that are missing."""
    chance = random.Random(7)
    lines = ["Vent the pump and then start it."] * 20
    whole = [
        make_pdf([lines, ["Close it."]], outline=[(1, "Vent", 0), (2, "Close it", 1)], title="The pump"),
        make_pdf([lines], password=""),
    ]
    for _ in range(count):
        file = bytearray(chance.choice(whole))
        for _ in range(chance.choice((1, 1, 2, 4, 8, 30))):
            at = chance.randrange(len(file) + 1)
            match chance.randrange(6):
                case 0:
                    file[at : at + 1] = chance.randbytes(1)
                case 1:
                    del file[at : at + chance.choice((1, 3, 20, 200))]
                case 2:
                    file[at:at] = chance.randbytes(chance.choice((1, 4, 30)))
                case 3:
                    file[at:at] = file[(begin := chance.randrange(len(file) + 1)) : begin + 50]
                case 4 if numbers := list(NUMBER.finditer(file)):
                    start, end = chance.choice(numbers).span()
                    file[start:end] = chance.choice(ODD)
                case _ if chance.random() < 0.2:
                    del file[at:]
        yield bytes(file)


def test_a_thousand_damaged_files_are_read_or_refused_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    came: Counter[str] = Counter()
    with Reading() as reading:
        for content in damaged(FILES):
            path.write_bytes(content)
            try:
                document, passages = reading.read(path, "a.pdf", len(content), ReadingListener())
            except KnowledgeError as error:
                assert re.fullmatch(r"a\.pdf [^\n]{10,120}", str(error)), str(error)
                came[str(error)] += 1
            else:
                assert document.source == "a.pdf" and passages
                came["read"] += 1
        path.write_bytes(make_pdf([["Vent it."]]))
        assert reading.read(path, "a.pdf", 900, ReadingListener())[1][0].text == "Vent it."
    assert came["read"] > FILES / 5 and came.total() == FILES, came

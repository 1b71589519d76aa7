"""Training questions for a reader: passages of manuals, with the words of the passage that answer.

    python benchmarks/quality/documents.py reader OUT.jsonl [--cache DIR]
    edgeslm-export reader sentence-transformers/all-MiniLM-L6-v2 reader --questions OUT.jsonl

Up to three answerable questions for each passage, and three unanswerable ones of the same kind, each with a
sentence that answers it and is put into the passage. The passages are from manuals and handbooks of Debian's
packages; none of these is a document of another benchmark. Questions and the places of passages and answers
are in ``reader_questions.jsonl``, the texts come from the packages; a passage whose text has changed in
today's version is skipped, and listed. The output holds the rows for ``edgeslm-export reader``, and the other
passages of each document as negatives.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgeslm_export.jobs.optimum_env import cache_folder
from edgeslm_export.starter import fetch_debian

from benchmarks.lib.manual_pages import PAGE, html_of
from benchmarks.lib.paths import DATA
from edgeslm.errors import EdgeslmError, ExportError
from edgeslm.knowledge.documents.passages import Document, split
from edgeslm.knowledge.documents.sentences import split_sentences
from edgeslm.knowledge.index.queries import BETWEEN
from edgeslm.knowledge.readers.reader import read_document
from edgeslm.tasks.support import content_words

FILE: Final = DATA / "reader_questions.jsonl"
MOST_OTHERS: Final = 40
"""Passages of a document that nobody asked about."""


@dataclass(frozen=True, slots=True)
class Asked:
    """``answer``: where its words stand in the passage's text as it is squeezed, or in ``added``: a sentence
    that the passage doesn't have, and that answers."""

    question: str
    answer: tuple[int, int]
    added: str | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """A passage of a file of a package: characters ``start`` up to ``end`` of the text that is read of it."""

    package: str
    file: str
    start: int
    end: int
    digest: str
    heading: str
    asked: Sequence[Asked]


def load_places() -> list[Place]:
    with FILE.open(encoding="utf-8") as file:
        return [_parse(json.loads(line)) for line in file]


def _parse(row: dict[str, Any]) -> Place:
    asked = [Asked(question, (at[0], at[1]), *added) for question, at, *added in row["asked"]]
    start, end = row["at"]
    return Place(row["package"], row["file"], start, end, row["sha256"], row["heading"], asked)


def squeezed(text: str) -> str:
    """As a device shows a passage to a reader."""
    return " ".join(text.split())


def digest_of(text: str) -> str:
    return hashlib.sha256(squeezed(text).encode()).hexdigest()[:12]


def rows_of(document: Document, places: Sequence[Place]) -> Iterator[dict[str, Any]]:
    """Rows of ``edgeslm-export reader``: questions, and texts that nobody asked about."""
    source = f"{places[0].package}/{places[0].file}"
    taken = []
    for place in places:
        text = document.text[place.start : place.end]
        if digest_of(text) != place.digest:
            continue
        taken.append(place)
        shown = {"text": squeezed(text), "heading": place.heading, "source": source}
        yield from (_question(shown, asked) for asked in place.asked)
    rest = [
        passage
        for passage in split(document)
        if not any(passage.start < place.end and place.start < passage.end for place in taken)
    ]
    for passage in rest[:: max(1, len(rest) // MOST_OTHERS)][:MOST_OTHERS]:
        if text := squeezed(passage.text):
            yield {"text": text, "heading": BETWEEN.join(passage.heading), "source": source}


def _question(shown: dict[str, str], asked: Asked) -> dict[str, Any]:
    """The question with the passage, or with that and the sentence that answers."""
    text, begins, source = shown["text"], 0, shown["text"]
    if asked.added is not None:
        text, begins = with_sentence(text, asked.question, asked.added)
        source = asked.added
    start, end = asked.answer
    answer = {"question": asked.question, "answer": source[start:end], "start": begins + start}
    return {**shown, "text": text, **answer}


def with_sentence(text: str, question: str, sentence: str) -> tuple[str, int]:
    """The text with a sentence more, behind the one that has most of the question's words, and where that
    begins."""
    wanted = set(content_words(question))
    places = split_sentences(text)
    likeliest = max(places, key=lambda at: len(wanted & set(content_words(text[slice(*at)]))), default=(0, 0))
    end = likeliest[1]
    return f"{text[:end]} {sentence}{text[end:]}", end + 1


def read_member(folder: Path, file: str) -> Document:
    """A file of an unpacked package, as the product reads it."""
    path = folder / file
    content = path.read_bytes()
    if path.suffix == ".gz":
        path, content = path.with_suffix(""), gzip.decompress(content)
    if PAGE.fullmatch(path.suffix):
        path, content = path.with_name(f"{path.name}.html"), html_of(content)
    path.write_bytes(content)
    return read_document(path, path.name)


def write_rows(out: Path, cache: Path, say: Any = print) -> None:
    """:raises ExportError: a package can't be had."""
    by_package: dict[str, dict[str, list[Place]]] = defaultdict(lambda: defaultdict(list))
    for place in load_places():
        by_package[place.package][place.file].append(place)
    cache.mkdir(parents=True, exist_ok=True)
    asked = wanted = 0
    with out.open("w", encoding="utf-8") as stream:
        for package, files in sorted(by_package.items()):
            with tempfile.TemporaryDirectory(dir=cache) as name:
                if not fetch_debian(package, Path(name)):
                    raise ExportError(f"apt-get can't download Debian's package {package}.")
                for file, places in sorted(files.items()):
                    wanted += sum(len(place.asked) for place in places)
                    if not (Path(name) / file).is_file():
                        continue
                    for row in rows_of(read_member(Path(name), file), places):
                        asked += "question" in row
                        stream.write(json.dumps(row, ensure_ascii=False) + "\n")
    say(f"{asked} of {wanted} questions; the texts of the others are of another version now")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, metavar="OUT.jsonl")
    parser.add_argument("--cache", type=Path, default=cache_folder() / "documents")
    args = parser.parse_args()
    try:
        write_rows(args.out, args.cache)
    except (EdgeslmError, OSError) as error:
        sys.exit(str(error))

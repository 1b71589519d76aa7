"""Sets of questions to documents, each read as the product reads it.

- ``manuals``: ``grounded_questions``, to mosquitto's man pages, the Debian FAQ and the Debian Reference.
- ``handbooks``: questions of ``reader_questions`` to the manuals of six packages of each half. Unanswerable
  are questions to six other packages, whose documents aren't in the collection.
- ``icecast``: ``icecast_questions.jsonl``, to the documentation of Icecast. 40 questions are answered there,
  14 ask for what it could well say, 6 for something else. The author saw only the documents, and no program
  had answered any of the questions. All are of the half ``test``.

A reader model may have been trained on the questions of ``handbooks``, so its figures there don't count.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from edgeslm_export.starter import fetch_debian

from benchmarks.lib.grounded_questions import Member, Question, Span, documents, load_questions
from benchmarks.lib.paths import DATA
from benchmarks.lib.read_documents import find_answer, read_documents
from benchmarks.lib.reader_questions import Place, digest_of, load_places, read_member
from edgeslm.errors import ExportError
from edgeslm.knowledge.documents.passages import Document

Answered = list[tuple[Question, list[Span]]]
"""Questions with their answers as places in the documents as they are read."""
Read = tuple[dict[str, Document], Answered]

ICECAST: Final = DATA / "icecast_questions.jsonl"
ICECAST_PAGES: Final[Mapping[str, Member]] = {
    name: Member("icecast", "icecast2", "2.4.4-4", f"usr/share/doc/icecast2/{name}", sha256)
    for name, sha256 in {
        "admin-interface.html": "740c48b57bafe486be21af12f90c722125953f4948e5fdc39119d60683a1913b",
        "auth.html": "b75bc4b75aa505690b0ca1749a9e585b86fa33a959842a84c84c038a0d096e8a",
        "basic-setup.html": "fa1237d507bf943dcd0406de1223b7b78435a35783f6478971127fd94a254a20",
        "config-file.html": "6749157a12ad11535ad189d555d801d9c9391a9bdcdd4e2f3b32e12988274896",
        "faq.html": "99bc8b74d7b24754089235b2a34da828d8eabbb5cc52e3032f6b45ce972040bd",
        "glossary.html": "3043a55b8854ac72ae2c6c321ac681f05c9cc1db6ab41d42145841919cc23e7e",
        "index.html": "3f9129c282eb6311f08b3b9a94676a2dc05fe0b624cc20ca77d442cf56b680cb",
        "introduction.html": "9818c70df12669a8eb3268734bf51f0a5884599a3984027be91627d7208139ed",
        "relaying.html": "eeffcfaec92f08523759e87d7da097770136978e2109a383a857e5da68fad7be",
        "server-stats.html": "f39aa0313eb4999b1f3d6d1aa15070f6ebdd511e6a00d563ea0c8df6e86f4dbc",
        "win32.html": "8805cf8911b99702b22cb678c75e7654d07e8d377277bea970823c3a5efe268a",
        "yp.html": "12cfe2314e0faceb2a3b0faf7d525de03dffb49c45dbe9e81e0b502a6e068b4b",
    }.items()
}

PACKAGES: Final = 6
"""Packages of a half whose manuals are in the collection, and as many whose manuals aren't."""
PLACES: Final = (30, 40)
"""Least and most passages with questions of such a package."""
LONGEST: Final = 50_000
"""Characters of a manual; longer ones are left out."""
ANSWERABLE: Final = 10
UNANSWERABLE: Final = 5
"""Questions to a package in the collection, and to one that isn't."""

_WORD: Final = re.compile(r"\S+")


def read_set(name: str, half: str, cache: Path, folder: Path) -> Read:
    """The documents of a set, and its questions of a half.

    :param folder: an empty folder for files that are read.
    :raises ExportError: a package can't be had, or its file is another version.
    """
    return SETS[name](half, cache, folder)


def _read_manuals(half: str, cache: Path, folder: Path) -> Read:
    texts = documents(cache)
    read = read_documents(texts, folder)
    return read, [
        (question, [find_answer(read[a.document], texts[a.document], a) for a in question.answers])
        for question in load_questions()
        if question.half == half
    ]


def _read_icecast(half: str, cache: Path, folder: Path) -> Read:
    read = read_documents(documents(cache, ICECAST_PAGES), folder)
    answered: Answered = []
    with ICECAST.open(encoding="utf-8") as file:
        for row in map(json.loads, file):
            if row["half"] == half:
                answers = [find_words(read[page], words) for page, words in row.get("answers", ())]
                kind = row.get("kind", "answered")
                answered.append(
                    (Question(row["id"], row["question"], half, kind, "", tuple(answers)), answers)
                )
    return read, answered


def find_words(document: Document, words: str) -> Span:
    """:raises ValueError: the document doesn't have these words."""
    pattern = r"\s+".join(map(re.escape, words.split()))
    if (found := re.search(pattern, document.text)) is None:
        raise ValueError(f"{document.source} has nowhere: {words}")
    return Span(document.source, found.start(), found.end())


# --- handbooks ------------------------------------------------------------------------------------------


def _read_handbooks(half: str, cache: Path, folder: Path) -> Read:
    by_package: dict[str, list[Place]] = defaultdict(list)
    for place in load_places():
        by_package[place.package].append(place)
    there, absent = choose_packages(by_package, half)
    read: dict[str, Document] = {}
    answered: Answered = []
    for package in there:
        own, found = _read_package(package, by_package[package], half, cache)
        read |= own
        answered += found
    for package in absent:
        places = _spread(by_package[package], UNANSWERABLE)
        for number, place in enumerate(places):
            question = next(asked.question for asked in place.asked if asked.added is None)
            answered.append((Question(f"{package}-{number}", question, half, "near", "", ()), []))
    return read, answered


def choose_packages(places: Mapping[str, Sequence[Place]], half: str) -> tuple[Sequence[str], Sequence[str]]:
    """Packages of a half whose manuals are in the collection, and those whose aren't, drawn by name."""
    least, most = PLACES
    wanted = {"development": "0", "test": "1"}[half]
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in places}
    drawn = [
        name
        for name in sorted(places, key=digests.__getitem__)
        if least <= len(places[name]) <= most and str(int(digests[name][-1], 16) % 2) == wanted
    ]
    return drawn[:PACKAGES], drawn[PACKAGES : 2 * PACKAGES]


def _read_package(
    package: str, places: Sequence[Place], half: str, cache: Path
) -> tuple[dict[str, Document], Answered]:
    read: dict[str, Document] = {}
    with tempfile.TemporaryDirectory(dir=cache) as name:
        if not fetch_debian(package, Path(name)):
            raise ExportError(f"apt-get can't download Debian's package {package}.")
        for file in sorted({place.file for place in places}):
            if (Path(name) / file).is_file():
                document = replace(read_member(Path(name), file), source=f"{package}/{file}")
                if len(document.text) <= LONGEST:
                    read[document.source] = document
    answered: Answered = []
    same = [place for place in places if _is_same(read.get(f"{package}/{place.file}"), place)]
    chosen = _spread(same, ANSWERABLE)
    for number, place in enumerate(chosen):
        asked = next(asked for asked in place.asked if asked.added is None)
        span = span_of(read[f"{package}/{place.file}"], place, asked.answer)
        question = Question(f"{package}-{number}", asked.question, half, "answered", place.heading, (span,))
        answered.append((question, [span]))
    asked_about = {f"{package}/{place.file}" for place in chosen}
    return {source: read[source] for source in read if source in asked_about}, answered


def _is_same(document: Document | None, place: Place) -> bool:
    return document is not None and digest_of(document.text[place.start : place.end]) == place.digest


def _spread(places: Sequence[Place], most: int) -> list[Place]:
    """Places with an answered question, evenly spread."""
    able = [place for place in places if any(asked.added is None for asked in place.asked)]
    return able[:: max(1, len(able) // most)][:most]


def span_of(document: Document, place: Place, answer: tuple[int, int]) -> Span:
    """An answer's place in the document; ``answer`` counts in the passage's text with single spaces."""
    origins: list[int] = []
    for word in _WORD.finditer(document.text, place.start, place.end):
        origins += range(word.start(), word.end() + 1)  # and the blank after it
    return Span(document.source, origins[answer[0]], origins[answer[1] - 1] + 1)


SETS: Final[Mapping[str, Callable[[str, Path, Path], Read]]] = {
    "manuals": _read_manuals,
    "handbooks": _read_handbooks,
    "icecast": _read_icecast,
}

"""Questions to three sets of Debian's documents, with the places of their answers, or with none.

Two thirds are answered by mosquitto's man pages, the Debian FAQ or the Debian Reference: each has the span
that answers it, the heading above that, and every other span that answers it as well. The last third has no
answer there: ``near`` asks for what these documents could well say, ``general`` for something else. The
author knew the documents and no program that searches in them.

Questions and offsets are in ``grounded_questions.jsonl``, the documents come from Debian's packages. ``half``
was drawn within each group: choose settings on ``development``, report ``test``.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgeslm_export.jobs.optimum_env import cache_folder
from edgeslm_export.starter import fetch_debian

from benchmarks.lib.paths import DATA
from edgeslm.bundle.manifest import file_digest
from edgeslm.errors import EdgeslmError, ExportError

FILE: Final = DATA / "grounded_questions.jsonl"


@dataclass(frozen=True, slots=True)
class Member:
    """A text file of a Debian package that questions were written to."""

    collection: str
    """Which of the three sets it belongs to."""
    package: str
    version: str
    path: str
    """Inside the package, gzipped if it ends in ``.gz``."""
    sha256: str
    """Of the text, since that is what offsets count in: how it is compressed doesn't matter."""


def _man_page(package: str, name: str, sha256: str) -> Member:
    folder = f"usr/share/man/man{name.rpartition('.')[2]}"
    return Member("mosquitto", package, "2.0.21-1", f"{folder}/{name}.gz", sha256)


_BROKER_PAGES: Final = {
    "mosquitto.8": "09fb7766c9e5d46c8ce21c2ba5945f9719abf78e0da2789324e78f7ff16a9c97",
    "mosquitto.conf.5": "aa25c9705d07bce3f05b44dbfa7aaf29e080bd62ba1540a82fbba3f8a1d44ad3",
    "mosquitto-tls.7": "0f3c7064ce9a73c62dc24e33e0c282f1191d19af3e0bbf7a2d5c0448b2ecd0dd",
    "mosquitto_ctrl.1": "19c9b9a09f8dca06032fcf77a5fa6ec8d8beef2da8529229d53927f4601ad999",
    "mosquitto_ctrl_dynsec.1": "d8999d56e2141f4c9f7639166a10ea175cacd51d1cbc72b48e10c6940bb2507e",
    "mosquitto_passwd.1": "144925f14533333152c4ed20da79dc6a88b278ebfaf62852720f1ceba8ef9978",
    "mqtt.7": "40151653ed9325e63ae4f42a28efb57a2aeb8cc2fb9cae21aa674e56a36e7bea",
}
_CLIENT_PAGES: Final = {
    "mosquitto_pub.1": "14ca155692276113da4a5aed42bacf38a7a4e6681c50c0aedc575f2584e34f32",
    "mosquitto_rr.1": "d1cdd4dc69037ce121b25f411ee2ed44a5ce6cb4eaf487826a21826da9ea6be7",
    "mosquitto_sub.1": "32d046de1a4ef3d1c89b87d7c2e6c3ad8b0d0b4ba1a53a8bc98e9e7a6ff2e017",
}
MEMBERS: Final[Mapping[str, Member]] = {
    **{name: _man_page("mosquitto", name, sha256) for name, sha256 in _BROKER_PAGES.items()},
    **{name: _man_page("mosquitto-clients", name, sha256) for name, sha256 in _CLIENT_PAGES.items()},
    "debian-faq": Member(
        "debian-faq",
        "debian-faq",
        "12.2",
        "usr/share/doc/debian/FAQ/debian-faq.en.txt.gz",
        "660228971af26f1d4de010832634a37b8d8eb7bf44e293a10c561993e7be5923",
    ),
    "debian-reference": Member(
        "debian-reference",
        "debian-reference-en",
        "2.127",
        "usr/share/doc/debian-reference-common/docs/debian-reference.en.txt.gz",
        "c5ff0b5f3d3543acdaf155d915055a5a70ebfb1430cd5628ca7c1110c61e87a9",
    ),
}
"""The documents by the names that questions have for them."""


@dataclass(frozen=True, slots=True)
class Span:
    """Characters ``start`` up to ``end`` of a document's text: roff for man pages, else plain text."""

    document: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Question:
    """``answers`` are equally good, the first is the one that the question was written to."""

    id: str
    question: str
    half: str
    """``development`` or ``test``."""
    kind: str
    """``answered``, or why it has no answers: ``near``, ``general``."""
    section: str
    """The heading above the first answer, for man pages the option; "" without an answer."""
    answers: tuple[Span, ...]

    @property
    def document(self) -> str | None:
        """Where the first answer stands; None without an answer."""
        return self.answers[0].document if self.answers else None


def load_questions(path: Path = FILE) -> list[Question]:
    with path.open(encoding="utf-8") as file:
        return [_parse_row(json.loads(line)) for line in file]


def _parse_row(row: dict[str, Any]) -> Question:
    document = row["document"]
    if document is None:
        return Question(row["id"], row["question"], row["half"], row["kind"], "", ())
    here = [[row["start"], row["end"]], *row["also"]]
    places = {document: here, **row.get("elsewhere", {})}
    answers = tuple(Span(name, start, end) for name, spans in places.items() for start, end in spans)
    return Question(row["id"], row["question"], row["half"], "answered", row["section"], answers)


def documents(cache: Path, members: Mapping[str, Member] = MEMBERS) -> dict[str, str]:
    """The text of each document by its name in the questions, line ends as they are.

    :param cache: a folder to keep the texts in; those that aren't there are downloaded by apt-get.
    :raises ExportError: a package can't be had, or its file is another version.
    """
    cache.mkdir(parents=True, exist_ok=True)
    for package in sorted(
        {member.package for name, member in members.items() if not _has(cache, name, member)}
    ):
        with tempfile.TemporaryDirectory(dir=cache) as work:
            if not fetch_debian(package, Path(work)):
                raise ExportError(
                    f"The documents come from Debian's package {package}, which apt-get can't download."
                )
            keep_texts(package, Path(work), cache, members)
    return {name: (cache / name).read_bytes().decode("utf-8") for name in members}


def _has(folder: Path, name: str, member: Member) -> bool:
    return (folder / name).is_file() and file_digest(folder / name) == member.sha256


def keep_texts(package: str, unpacked: Path, cache: Path, members: Mapping[str, Member] = MEMBERS) -> None:
    """Puts the texts of a package into ``cache``, each in one step and only if it is the one that is meant.

    :raises ExportError: a file isn't there, or is another version.
    """
    for name, member in members.items():
        if member.package != package:
            continue
        text = unpacked / name
        try:
            content = (unpacked / member.path).read_bytes()
            text.write_bytes(gzip.decompress(content) if member.path.endswith(".gz") else content)
        except (OSError, EOFError) as error:
            raise ExportError(f"Debian's package {package} has no {member.path} to read ({error}).") from None
        if not _has(unpacked, name, member):
            raise ExportError(
                f"{member.path} of Debian's package {package} is another version than {member.version}, "
                "which the questions were written to."
            )
        text.replace(cache / name)


def check_spans(questions: Sequence[Question], texts: Mapping[str, str]) -> None:
    """:raises ValueError: an answer is empty or not inside its document, with the id of the question."""
    for question in questions:
        for span in question.answers:
            text = texts[span.document]
            if not (0 <= span.start < span.end <= len(text) and text[span.start : span.end].strip()):
                raise ValueError(
                    f"{question.id}: {span.document} has nothing from {span.start} to {span.end}."
                )


def main(arguments: Sequence[str] | None = None) -> None:
    """Checks each answer against its document and counts the questions of each set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--cache", type=Path, default=cache_folder() / "documents", help="keeps the documents (%(default)s)"
    )
    args = parser.parse_args(arguments)
    questions = load_questions()
    try:
        check_spans(questions, documents(args.cache))
    except (EdgeslmError, ValueError) as error:
        sys.exit(str(error))
    counts = Counter((group_of(question), question.half) for question in questions)
    groups = list(dict.fromkeys(group_of(question) for question in questions))
    table = {group: {half: counts[group, half] for half in ("development", "test")} for group in groups}
    print(f"{'questions':>18}  development  test")
    for group, halves in table.items():
        print(f"{group:>18}  {halves['development']:>11}  {halves['test']:>4}")
    print(json.dumps({"benchmark": "grounded_questions", "questions": table}))


def group_of(question: Question) -> str:
    """The set of documents that answers it, or why none does."""
    return MEMBERS[question.document].collection if question.document else question.kind

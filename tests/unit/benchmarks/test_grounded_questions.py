"""benchmarks/lib/grounded_questions.py: valid rows, documents of one version, checked spans."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgeslm.errors import ExportError
from tests.support.benchmarks.scripts import BENCHMARKS, load_scripts

ROWS: list[dict[str, Any]] = [
    json.loads(line)
    for line in (BENCHMARKS / "data/grounded_questions.jsonl").read_text("utf-8").splitlines()
]
ANSWERED = [row for row in ROWS if row["document"] is not None]
UNANSWERED = [row for row in ROWS if row["document"] is None]
IDS = [row["id"] for row in ANSWERED]

HELLO = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"  # the SHA-256 of ``hello``


@pytest.fixture(scope="module")
def grounded() -> ModuleType:
    return load_scripts("grounded_questions")["grounded_questions"]


def test_there_are_as_many_questions_of_each_kind_as_promised(grounded: ModuleType) -> None:
    sets = Counter(grounded.MEMBERS[row["document"]].collection for row in ANSWERED)
    assert sets == {"mosquitto": 50, "debian-faq": 50, "debian-reference": 50}
    assert Counter(row["kind"] for row in UNANSWERED) == {"near": 50, "general": 25}


def test_each_group_is_halved(grounded: ModuleType) -> None:
    groups: dict[str, Counter[str]] = {}
    for question in grounded.load_questions():
        group = grounded.group_of(question)
        groups.setdefault(group, Counter())[question.half] += 1
    for halves in groups.values():
        assert set(halves) == {"development", "test"}
        assert abs(halves["development"] - halves["test"]) <= 1


def test_no_id_and_no_question_comes_twice() -> None:
    assert [row["id"] for row in ROWS] == [f"q{number:03}" for number in range(1, len(ROWS) + 1)]
    asked = ["".join(filter(str.isalnum, row["question"].casefold())) for row in ROWS]
    assert len(set(asked)) == len(asked)


@pytest.mark.parametrize("row", ANSWERED, ids=IDS)
def test_an_answered_question_has_its_places(grounded: ModuleType, row: dict[str, Any]) -> None:
    needed = {"id", "question", "document", "section", "start", "end", "also", "half"}
    assert needed <= set(row) <= needed | {"elsewhere"}
    assert row["question"].strip() == row["question"] != "" and row["section"].strip()
    elsewhere = row.get("elsewhere", {})
    assert row["document"] not in elsewhere and {row["document"], *elsewhere} <= set(grounded.MEMBERS)
    here = [[row["start"], row["end"]], *row["also"]]
    for spans in (here, *elsewhere.values()):
        assert spans and all(0 <= start < end <= start + 300 for start, end in spans)
        ordered = sorted(spans)
        assert all(one[1] <= other[0] for one, other in pairwise(ordered))


def test_an_unanswered_question_has_no_place() -> None:
    for row in UNANSWERED:
        assert set(row) == {"id", "question", "document", "kind", "half"} and row["question"].strip()


def test_questions_are_read_with_the_place_that_they_were_written_to_first(grounded: ModuleType) -> None:
    by_id = {question.id: question for question in grounded.load_questions()}
    assert list(by_id) == [row["id"] for row in ROWS]
    for row in ANSWERED:
        question = by_id[row["id"]]
        assert (question.kind, question.document, question.section) == (
            "answered",
            row["document"],
            row["section"],
        )
        assert question.answers[0] == grounded.Span(row["document"], row["start"], row["end"])
        others = sum(len(spans) for spans in row.get("elsewhere", {}).values())
        assert len(question.answers) == 1 + len(row["also"]) + others
    for row in UNANSWERED:
        question = by_id[row["id"]]
        assert (question.kind, question.document, question.answers) == (row["kind"], None, ())


def test_a_place_outside_its_document_is_named(grounded: ModuleType) -> None:
    question = next(q for q in grounded.load_questions() if q.document == "mqtt.7")
    texts = {"mqtt.7": "x" * 10_000}
    grounded.check_spans([question], texts)
    for start, end in ((9_000, 10_001), (5, 5), (-1, 5)):
        wrong = replace(question, answers=(grounded.Span("mqtt.7", start, end),))
        with pytest.raises(ValueError, match=rf"{question.id}: mqtt\.7 has nothing from {start} to {end}"):
            grounded.check_spans([wrong], texts)
    with pytest.raises(ValueError, match="has nothing"):
        grounded.check_spans([question], {"mqtt.7": " " * 10_000})


def test_a_text_is_kept_only_in_the_version_that_is_meant(grounded: ModuleType, tmp_path: Path) -> None:
    unpacked, cache = tmp_path / "unpacked", tmp_path / "cache"
    unpacked.mkdir()
    cache.mkdir()
    members = {"faq": grounded.Member("s", "p", "1", "faq.gz", HELLO)}

    with pytest.raises(ExportError, match=r"package p has no faq\.gz to read"):
        grounded.keep_texts("p", unpacked, cache, members)
    (unpacked / "faq.gz").write_bytes(b"hello")
    with pytest.raises(ExportError, match=r"package p has no faq\.gz to read"):
        grounded.keep_texts("p", unpacked, cache, members)
    (unpacked / "faq.gz").write_bytes(gzip.compress(b"hello world"))
    with pytest.raises(ExportError, match=r"faq\.gz of Debian's package p is another version than 1"):
        grounded.keep_texts("p", unpacked, cache, members)
    assert not list(cache.iterdir())

    (unpacked / "faq.gz").write_bytes(gzip.compress(b"hello"))
    grounded.keep_texts("p", unpacked, cache, members)
    assert (cache / "faq").read_bytes() == b"hello"


def test_a_package_is_fetched_only_for_a_text_that_is_not_kept(
    grounded: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetch(package: str, work: Path) -> bool:
        asked.append(package)
        (work / "faq.gz").write_bytes(gzip.compress(b"hello"))
        return package == "p"

    members = {"faq": grounded.Member("s", "p", "1", "faq.gz", HELLO)}
    monkeypatch.setattr(grounded, "fetch_debian", fetch)
    assert grounded.documents(tmp_path / "cache", members) == {"faq": "hello"}
    assert grounded.documents(tmp_path / "cache", members) == {"faq": "hello"} and asked == ["p"]
    (tmp_path / "cache" / "faq").write_bytes(b"damaged")
    assert grounded.documents(tmp_path / "cache", members) == {"faq": "hello"} and asked == ["p", "p"]

    members = {"x": grounded.Member("s", "q", "1", "faq.gz", HELLO)}
    with pytest.raises(ExportError, match="package q, which apt-get can't download"):
        grounded.documents(tmp_path / "cache", members)

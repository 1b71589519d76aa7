"""Shares of questions whose right section a search finds first, or among the first three or five.

    python benchmarks/quality/documents.py search [--bundle DIR] [--reader DIR] [--cache DIR]

Three corpora of Debian's documents, all for development:

- ``faq``: 102 titles of the Debian FAQ that are questions, each to its own section. These titles are removed
  from headings and passages. Titles that continue the question before them ("And ...") are not asked.
- ``reference``: the title of each lowest section of the Debian Reference, to the text below it. The titles
  are removed from all headings, and each from the text of its own section; ambiguous titles are not asked.
- ``manuals``: the answerable questions of the development half of ``grounded_questions.jsonl``, over
  mosquitto's man pages, the FAQ and the Reference together. A passage is right that overlaps an answer.

Each question is searched by words alone, by vectors alone, by both with the defaults, and reranked by
sentences and, with ``--reader``, by a reader. Documents come from Debian's packages; mandoc converts man
pages to HTML. Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from edgeslm_export.evaluate.report_card import load_encoder
from edgeslm_export.jobs.optimum_env import cache_folder

from benchmarks.lib.cards import Say, run_benchmark
from benchmarks.lib.grounded_questions import Span, documents, load_questions
from benchmarks.lib.paths import STARTER
from benchmarks.lib.read_documents import find_answer, read_documents
from benchmarks.lib.second_look import search_twice
from edgeslm.bundle.manifest import load_bundle
from edgeslm.cli.embedding import Embedding
from edgeslm.engine.worker.encoder import Encoder
from edgeslm.knowledge.documents.passages import Document, Passage, split
from edgeslm.knowledge.index.collection import Collection, DocumentOrigin
from edgeslm.knowledge.index.queries import EncoderTag, Found
from edgeslm.knowledge.index.rerank import DEPTH
from edgeslm.knowledge.index.search import Weights, search

BUNDLE: Final = STARTER / "minilm-l6-int8"
AT: Final = (1, 3, 5)
WAYS: Final[Mapping[str, tuple[bool, Weights]]] = {
    "words": (False, Weights(words=1.0, meaning=0.0, heading=0.0)),
    "meaning": (True, Weights(words=0.0, meaning=1.0, heading=0.0)),
    "fused": (True, Weights()),
}
"""Whether the question is embedded, and the weights."""
LOOKS: Final = ("sentences", "reader")
"""The second looks that answers take (``second_look``)."""

_NUMBER = re.compile(r"(?:\d+\.)+\s+")
_GOES_ON = re.compile(r"(?:And|But)\b")
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Asked:
    """A question and where its answers stand in the documents as they are read."""

    question: str
    answers: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Corpus:
    name: str
    documents: Mapping[str, tuple[Document, Sequence[Passage]]]
    asked: Sequence[Asked]


# --- corpora --------------------------------------------------------------------------------------------


def make_corpora(read: Mapping[str, Document], roff: Mapping[str, str]) -> Iterator[Corpus]:
    """:param roff: the documents' sources, in which man pages' answers are counted."""
    for name, document, ask in (
        ("faq", read["debian-faq"], ask_questions),
        ("reference", read["debian-reference"], ask_titles),
    ):
        asked, passages = ask(document)
        yield Corpus(name, {document.source: (document, passages)}, asked)
    answered = [one for one in load_questions() if one.half == "development" and one.answers]
    asked = [
        Asked(
            one.question,
            tuple(find_answer(read[a.document], roff[a.document], a) for a in one.answers),
        )
        for one in answered
    ]
    yield Corpus("manuals", {name: (document, split(document)) for name, document in read.items()}, asked)


def ask_questions(document: Document) -> tuple[list[Asked], list[Passage]]:
    """The questions that are titles, and the passages without them."""
    titles = {heading.title for heading in document.headings if "?" in heading.title}
    wanted = {
        heading.title
        for heading in document.headings
        if heading.title in titles and heading.level == 2 and not _GOES_ON.match(_bare(heading.title))
    }
    return _take_out(document, wanted, lambda own: titles, titles)


def ask_titles(document: Document) -> tuple[list[Asked], list[Passage]]:
    """The titles of the lowest sections, and the passages without them."""
    paths = {passage.heading for passage in split(document)}
    above = {title for path in paths for title in path[:-1]}
    lowest = [path[-1] for path in paths if path and path[-1] not in above and _NUMBER.match(path[-1])]
    times = Counter(_bare(title).casefold() for title in lowest)
    wanted = {title for title in lowest if times[_bare(title).casefold()] == 1}
    return _take_out(document, wanted, lambda own: {own} if own else set(), wanted)


def _take_out(
    document: Document,
    wanted: AbstractSet[str],
    out_of_text: Callable[[str | None], AbstractSet[str]],
    out_of_headings: AbstractSet[str],
) -> tuple[list[Asked], list[Passage]]:
    """:param out_of_text: titles to take out of the text of a passage of a section that is asked for."""
    kept: list[Passage] = []
    answers: dict[str, list[Span]] = {}
    for passage in split(document):
        own = next((title for title in reversed(passage.heading) if title in wanted), None)
        text = passage.text
        for title in out_of_text(own):
            text = _without(text, title)
        if not _WORD.search(text):
            continue
        heading = tuple(title for title in passage.heading if title not in out_of_headings)
        kept.append(replace(passage, number=len(kept), heading=heading, text=text))
        if own is not None:
            answers.setdefault(own, []).append(Span(document.source, passage.start, passage.end))
    return [Asked(_bare(title), tuple(spans)) for title, spans in answers.items()], kept


def _bare(title: str) -> str:
    return _NUMBER.sub("", title)


def _without(text: str, title: str) -> str:
    words = _bare(title).split()
    return re.sub(r"\s+".join(map(re.escape, words)), "", text, flags=re.IGNORECASE)


# --- measuring ------------------------------------------------------------------------------------------


def measure_corpus(
    corpus: Corpus,
    embedding: Embedding | None,
    file: Path,
    reader: Encoder | None = None,
    *,
    ways: Mapping[str, tuple[bool, Weights]] = WAYS,
) -> dict[str, Any]:
    """Shares of questions with a right passage among the first, by way and number.

    :param embedding: None if no way embeds the question.
    """
    with Collection(file, writes=True) as collection:
        if embedding is not None:
            collection.use_encoder(EncoderTag(embedding.bundle.digest, str(embedding.bundle.path)))
        for name, (document, passages) in corpus.documents.items():
            collection.put(document, passages, DocumentOrigin(name, 0, 0.0), embed=embedding)
        vectors = {one.question: embedding([one.question])[0] for one in corpus.asked if embedding}
        ranks: dict[str, list[int]] = {way: [] for way in (*ways, *LOOKS)}
        for one in corpus.asked:
            for way, (embeds, weights) in ways.items():
                found = search(
                    collection,
                    one.question,
                    k=max(AT),
                    weights=weights,
                    embed=(lambda texts: [vectors[text] for text in texts]) if embeds else None,
                )
                ranks[way].append(rank(found, one.answers))
            if embedding is None:
                continue
            for way in LOOKS if reader else LOOKS[:1]:
                found = search_twice(
                    collection, one.question, embedding, DEPTH, reader if way == LOOKS[1] else None
                )
                ranks[way].append(rank(found[: max(AT)], one.answers))
    passages_there = sum(len(passages) for _, passages in corpus.documents.values())
    shares = {way: [share_within(places, most) for most in AT] for way, places in ranks.items() if places}
    return {"corpus": corpus.name, "questions": len(corpus.asked), "passages": passages_there, **shares}


def rank(found: Sequence[Found], answers: Sequence[Span]) -> int:
    """From 0, of the first passage that overlaps an answer; beyond all where none does."""
    for place, one in enumerate(found):
        if any(one.source == a.document and one.start < a.end and a.start < one.end for a in answers):
            return place
    return max(AT)


def share_within(places: Sequence[int], most: int) -> float:
    return round(sum(place < most for place in places) / len(places), 3)


def measure(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    texts = documents(args.cache)
    reader = load_encoder(args.reader) if args.reader else None
    rows: list[dict[str, Any]] = []
    hits = "".join(f"{f'hit@{most}':>8}" for most in AT)
    say(f"{'corpus':>10}{'questions':>11}{'passages':>10}{'by':>11}{hits}")
    with (
        tempfile.TemporaryDirectory(prefix="edgeslm-retrieval-") as name,
        Embedding(args.bundle) as embedding,
    ):
        for corpus in make_corpora(read_documents(texts, Path(name)), texts):
            row = measure_corpus(corpus, embedding, Path(name) / f"{corpus.name}.sqlite", reader)
            rows.append(row)
            for way in (*WAYS, *(LOOKS if reader else LOOKS[:1])):
                cells = f"{row['corpus']:>10}{row['questions']:>11}{row['passages']:>10}{way:>11}"
                say(cells + "".join(f"{share:>8.3f}" for share in row[way]))
    return {"retrieval": rows}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=BUNDLE)
    parser.add_argument("--reader", type=Path, help="reads what was found with the question, too")
    parser.add_argument(
        "--cache", type=Path, default=cache_folder() / "documents", help="keeps the documents (%(default)s)"
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    about = {"reader": load_bundle(args.reader).digest} if args.reader else {}
    run_benchmark("retrieval", args, measure, bundle=load_bundle(args.bundle).digest, **about)

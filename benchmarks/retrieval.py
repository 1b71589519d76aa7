"""Retrieval: how often a question's own section is found first, or among the first three or five.

    python benchmarks/retrieval.py [--bundle DIR] [--reader DIR] [--cache DIR]

Three corpora of Debian's documents, all of them for development:

- ``faq``: each question of the Debian FAQ, to its own section and what is below that. Asked is the title of a
  section of a chapter that has a question mark, but not one that goes on with the question before
  ("And ...", "But ..."): 102. All titles with question marks are taken out of all headings and passages,
  others stay.
- ``reference``: the title of each lowest section of the Debian Reference, without its number, to the text
  below it. These titles are taken out of all headings, and each out of its own section's text; a title that
  several sections have is not asked for.
- ``manuals``: the half ``development`` of ``grounded_questions.jsonl`` that has an answer, over mosquitto's
  man pages, the FAQ and the Reference together, with all their titles. A passage is right that overlaps an
  answer.

Each question is asked by words alone, by meaning alone, by both with the defaults, and with the second look
that answers take at what both find: by sentences, and with ``--reader`` by a reader as well. Documents come
from Debian's packages; man pages become HTML by mandoc first. Table first, one JSON line last.
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

from cards import Say, run_benchmark
from edgeslm_export.evaluate.report_card import load_encoder
from edgeslm_export.jobs.optimum_env import cache_folder
from grounded_questions import Span, documents, load_questions
from manual_pages import PAGE, html_of
from second_look import search_twice

from edgeslm.bundle.manifest import load_bundle
from edgeslm.cli.embedding import Embedding
from edgeslm.engine.worker.encoder import Encoder
from edgeslm.knowledge.documents.passages import Document, Passage, split
from edgeslm.knowledge.index.collection import Collection, DocumentOrigin, EncoderTag
from edgeslm.knowledge.index.rerank import DEPTH
from edgeslm.knowledge.index.search import Found, Weights, search
from edgeslm.knowledge.readers.reader import read_document

ROOT: Final = Path(__file__).resolve().parent.parent
BUNDLE: Final = ROOT / ".edgeslm/starter/minilm-l6-int8"
AT: Final = (1, 3, 5)
WAYS: Final[Mapping[str, Weights]] = {
    "words": Weights(words=1.0, meaning=0.0, heading=0.0),
    "meaning": Weights(words=0.0, meaning=1.0, heading=0.0),
    "fused": Weights(),
}
LOOKS: Final = ("sentences", "reader")
"""The second looks that answers take (``second_look``)."""

_NUMBER = re.compile(r"(?:\d+\.)+\s+")
_GOES_ON = re.compile(r"(?:And|But)\b")
_WORD = re.compile(r"\w+")
_MACRO = re.compile(r"^[.'].*$|\\f(?:\[\w*\]|\(..|.)|\\&", re.MULTILINE)
_ESCAPED = re.compile(r"\\h'[^']*'|\\c|\\\*?\(..|\\[-e(|]|\\\[\w+\]")


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


def find_answer(document: Document, source: str, answer: Span) -> Span:
    """An answer's place in the document as it is read: of plain text the same, of a man page where its words
    are, markup aside.

    :raises ValueError: they are nowhere, with what was looked for.
    """
    if document.text == source:
        return answer
    wanted = _words(_plain(source[answer.start : answer.end]))
    words = list(_WORD.finditer(document.text))
    found = [word[0].casefold() for word in words]
    size = len(wanted)
    # The nearest, as some sentences stand there twice.
    near = answer.start / len(source) * len(words)
    places = [at for at in range(len(found) - size + 1) if found[at : at + size] == wanted]
    if places and size:
        at = min(places, key=lambda place: abs(place - near))
        return Span(document.source, words[at].start(), words[at + size - 1].end())
    raise ValueError(f"{document.source} has nowhere: {' '.join(wanted)}")


def _plain(roff: str) -> str:
    return _ESCAPED.sub(lambda m: "-" if m[0] == "\\-" else " ", _MACRO.sub("", roff))


def _words(text: str) -> list[str]:
    return [word.casefold() for word in _WORD.findall(text)]


# --- measuring ------------------------------------------------------------------------------------------


def read_documents(texts: Mapping[str, str], folder: Path) -> dict[str, Document]:
    """As the product reads them, by the names that questions have for them."""
    read: dict[str, Document] = {}
    for name, text in texts.items():
        is_page = PAGE.fullmatch(Path(name).suffix)
        file = folder / f"{name}.{'html' if is_page else 'txt'}"
        file.write_bytes(html_of(text.encode()) if is_page else text.encode())
        read[name] = read_document(file, name)
    return read


def measure_corpus(
    corpus: Corpus, embedding: Embedding, file: Path, reader: Encoder | None = None
) -> dict[str, Any]:
    """Shares of questions with a right passage among the first, by way and number."""
    with Collection(file, writes=True) as collection:
        collection.use_encoder(EncoderTag(embedding.bundle.digest, str(embedding.bundle.path)))
        for name, (document, passages) in corpus.documents.items():
            collection.put(document, passages, DocumentOrigin(name, 0, 0.0), embed=embedding)
        vectors = {one.question: embedding([one.question])[0] for one in corpus.asked}
        ranks: dict[str, list[int]] = {way: [] for way in (*WAYS, *LOOKS)}
        for one in corpus.asked:
            for way, weights in WAYS.items():
                found = search(
                    collection,
                    one.question,
                    k=max(AT),
                    weights=weights,
                    embed=None if way == "words" else lambda texts: [vectors[text] for text in texts],
                )
                ranks[way].append(rank(found, one.answers))
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
    say(f"{'corpus':>10}{'questions':>11}{'passages':>10}{'by':>9}{hits}")
    with (
        tempfile.TemporaryDirectory(prefix="edgeslm-retrieval-") as name,
        Embedding(args.bundle) as embedding,
    ):
        for corpus in make_corpora(read_documents(texts, Path(name)), texts):
            row = measure_corpus(corpus, embedding, Path(name) / f"{corpus.name}.sqlite", reader)
            rows.append(row)
            for way in (*WAYS, *(LOOKS if reader else LOOKS[:1])):
                cells = f"{row['corpus']:>10}{row['questions']:>11}{row['passages']:>10}{way:>9}"
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


if __name__ == "__main__":
    main()

"""Shares of German and Spanish questions whose right section a search finds first, or among the first three.

    python benchmarks/quality/documents.py languages [--half development] [--words] [--cache DIR]

All documents of a language are searched together. A passage is right that overlaps an answer. ``words`` is a
search without an encoder, ``fused`` one with the English encoder, and ``sentences`` the same, reranked.
Documents come from Debian's packages, and mandoc converts man pages to HTML. Choose settings on
``development``; report ``test``. Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final

from edgeslm_export.jobs.optimum_env import cache_folder

from benchmarks.lib.cards import Say, run_benchmark
from benchmarks.lib.grounded_questions import Question, documents
from benchmarks.lib.language_questions import HALVES, MEMBERS, load_halves
from benchmarks.lib.read_documents import find_answer, read_documents
from benchmarks.lib.retrieval import AT, BUNDLE, Asked, Corpus, measure_corpus
from edgeslm.bundle.manifest import load_bundle
from edgeslm.cli.embedding import Embedding
from edgeslm.knowledge.documents.passages import Document, split
from edgeslm.knowledge.index.search import Weights

LANGUAGES: Final = ("de", "es")
WAYS: Final[Mapping[str, tuple[bool, Weights]]] = {"words": (False, Weights()), "fused": (True, Weights())}


def make_corpora(
    questions: Sequence[Question], read: Mapping[str, Document], texts: Mapping[str, str]
) -> Iterator[Corpus]:
    """:param texts: the documents' sources, in which answers are counted."""
    for language in LANGUAGES:
        own = {name: (read[name], split(read[name])) for name in read if MEMBERS[name].collection == language}
        asked = [
            Asked(
                one.question,
                tuple(find_answer(read[a.document], texts[a.document], a) for a in one.answers),
            )
            for one in questions
            if one.document in own
        ]
        yield Corpus(language, own, asked)


def measure(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    texts = documents(args.cache, MEMBERS)
    questions = load_halves(HALVES if args.half == "both" else (args.half,))
    rows: list[dict[str, Any]] = []
    say(
        f"{'language':>10}{'questions':>11}{'passages':>10}{'by':>11}"
        + "".join(f"{f'hit@{n}':>8}" for n in AT)
    )
    ways = {way: what for way, what in WAYS.items() if not (args.words and what[0])}
    with (
        tempfile.TemporaryDirectory(prefix="edgeslm-languages-") as name,
        nullcontext() if args.words else Embedding(args.bundle) as embedding,
    ):
        for corpus in make_corpora(questions, read_documents(texts, Path(name)), texts):
            row = measure_corpus(corpus, embedding, Path(name) / f"{corpus.name}.sqlite", ways=ways)
            rows.append(row)
            for way in ways if args.words else (*ways, "sentences"):
                cells = f"{row['corpus']:>10}{row['questions']:>11}{row['passages']:>10}{way:>11}"
                say(cells + "".join(f"{share:>8.3f}" for share in row[way]))
    return {"languages": rows}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--half", choices=(*HALVES, "both"), default="development")
    parser.add_argument("--words", action="store_true", help="search without an encoder only")
    parser.add_argument("--bundle", type=Path, default=BUNDLE)
    parser.add_argument(
        "--cache", type=Path, default=cache_folder() / "documents", help="keeps the documents (%(default)s)"
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    run_benchmark("languages", args, measure, bundle=load_bundle(args.bundle).digest, half=args.half)

"""How long does a search of a collection take, in what memory, and how fast are pages added?

    python benchmarks/speed/search.py [--passages 10000 100000] [--searches 200] [--pages 1000] [--bundle DIR]

Passages have random words with the frequencies of a natural language (Zipf) and random unit vectors. Half of
a question's words come from a passage. One process builds a collection and another searches it, so that the
memory is that of searching alone; the peak is counted above Python and numpy. Pages are added with the real
encoder where the starter has one. Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

sys.path.append(str(Path(__file__).resolve().parents[2]))

import numpy as np

from benchmarks.lib.cards import Say, run_benchmark
from benchmarks.lib.paths import STARTER
from benchmarks.lib.processes import memory_of
from benchmarks.lib.turns import in_child
from edgeslm.bundle.manifest import load_bundle
from edgeslm.cli.embedding import Embedding
from edgeslm.knowledge.documents.passages import Document, Passage
from edgeslm.knowledge.index.collection import Collection, DocumentOrigin
from edgeslm.knowledge.index.queries import EncoderTag
from edgeslm.knowledge.index.search import search
from edgeslm.knowledge.service.intake import add_files

BUNDLE: Final = STARTER / "minilm-l6-int8"
DIMENSION: Final = 384
WORDS: Final = 60_000
IN_PASSAGE: Final = (110, 180)
IN_PAGE: Final = 450
"""About what a page of a manual has."""
IN_DOCUMENT: Final = 50
"""Passages."""
WANTED_MS: Final = {10_000: 20.0, 100_000: 60.0}
SYLLABLES: Final = (
    "ka",
    "te",
    "mo",
    "ri",
    "sun",
    "ler",
    "pa",
    "ing",
    "ver",
    "tion",
    "do",
    "gra",
    "est",
    "li",
    "nu",
    "ber",
)


def unit_vectors(rng: np.random.Generator, count: int) -> list[list[float]]:
    drawn = rng.standard_normal((count, DIMENSION), np.float32)
    unit: list[list[float]] = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).tolist()
    return unit


class Language:
    """Invented words by their rank, and texts of them."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        dice = random.Random(seed)
        words: dict[str, None] = {}
        while len(words) < WORDS:
            words.setdefault("".join(dice.choices(SYLLABLES, k=dice.randint(1, 4))))
        self._words = list(words)
        shares = 1 / (np.arange(WORDS) + 2.7)  # Zipf and Mandelbrot
        self._up_to = np.cumsum(shares / shares.sum())

    def words(self, count: int) -> list[str]:
        places = np.searchsorted(self._up_to, self._rng.random(count))
        return [self._words[min(place, WORDS - 1)] for place in places.tolist()]

    def passages(self, count: int) -> Iterator[tuple[tuple[str, ...], str]]:
        for _ in range(count):
            text = self.words(int(self._rng.integers(*IN_PASSAGE)))
            yield (" ".join(text[:2]), " ".join(text[2:5])), " ".join(text)


# --- the children's side ------------------------------------------------------------------------------


def build(task: dict[str, Any]) -> dict[str, Any]:
    """Makes a collection; questions to it, and how fast it was."""
    language, rng, dice = Language(task["passages"]), np.random.default_rng(0), random.Random(0)
    questions = []
    started = time.perf_counter()
    with Collection(Path(task["file"]), writes=True) as collection:
        collection.use_encoder(EncoderTag("sha256:random", "random"))
        for number in range(0, task["passages"], IN_DOCUMENT):
            passages: list[Passage] = []
            start = 0
            for heading, text in language.passages(IN_DOCUMENT):
                passages.append(Passage(len(passages), heading, text, start, start + len(text)))
                start += len(text) + 2
            document = Document(f"{number}.txt", f"Document {number}", "\n\n".join(p.text for p in passages))
            origin = DocumentOrigin(str(number), start, 0.0)
            collection.put(document, passages, origin, embed=lambda texts: unit_vectors(rng, len(texts)))
            questions.append(" ".join([*dice.sample(passages[0].text.split(), 4), *language.words(4)]))
    return {
        "passages_s": round(task["passages"] / (time.perf_counter() - started), 1),
        "questions": dice.choices(questions, k=task["searches"]),
        "mb": round(Path(task["file"]).stat().st_size / 2**20, 1),
    }


def time_searches(task: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds of searches, and the most memory above what there was before the collection was opened."""
    vectors = unit_vectors(np.random.default_rng(1), len(task["questions"]))
    at_first = memory_of().peak
    both, alone = Times(), Times()
    with Collection(Path(task["file"])) as collection:
        for question, vector in zip(task["questions"], vectors, strict=True):
            with both.timed():
                search(collection, question, embed=partial(_answer, vector))
            with alone.timed():
                search(collection, question)
    return {
        **both.figures(),
        "words_alone": alone.figures(),
        "peak_mb": round(memory_of().peak - at_first, 1),
    }


def _answer(vector: list[float], texts: Sequence[str]) -> list[list[float]]:
    """What an encoder would, without its time."""
    return [vector]


class Times:
    """Of a search after the other: by the clock, and what they took of the processor."""

    def __init__(self) -> None:
        self._ms: list[float] = []
        self._cpu_ms: list[float] = []

    @contextmanager
    def timed(self) -> Iterator[None]:
        started, cpu = time.perf_counter(), time.process_time()
        yield
        self._ms.append((time.perf_counter() - started) * 1000)
        self._cpu_ms.append((time.process_time() - cpu) * 1000)

    def figures(self) -> dict[str, float]:
        tell = {"": self._ms, "cpu_": self._cpu_ms}
        return {
            f"{name}{which}_ms": round(value, 1)
            for name, ms in tell.items()
            for which, value in (("p50", statistics.median(ms)), ("p95", statistics.quantiles(ms, n=20)[-1]))
        }


CHILDREN: Final = {"build": build, "search": time_searches}


# --- the parent's side ----------------------------------------------------------------------------------


def add_pages(bundle: Path, pages: int, folder: Path) -> dict[str, Any]:
    """Files of ten pages each are added with the encoder, and then once more."""
    words, question, dice = encoder_words(bundle), Times(), random.Random(2)
    before = os.times()
    for number in range(0, pages, 10):
        paragraphs = (" ".join(dice.choices(words, k=IN_PAGE // 5)) + "." for _ in range(50))
        (folder / f"{number:05}.txt").write_text("\n\n".join(paragraphs))
    with Embedding(bundle) as embedding, Collection(folder / "pages", writes=True) as collection:
        collection.use_encoder(EncoderTag(embedding.bundle.digest, str(bundle)))
        embedding(["."])  # is loaded now
        started = time.perf_counter()
        totals = add_files(collection, [folder], embed=embedding)
        added = time.perf_counter()
        add_files(collection, [folder], embed=embedding)
        again = time.perf_counter()
        for _ in range(50):
            with question.timed():
                embedding([" ".join(dice.choices(words, k=8))])
    after = os.times()  # the engine has ended, so that its time is there
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return {
        "pages": pages,
        "passages": totals.passages,
        "passages_s": round(totals.passages / (added - started), 1),
        "engine_cpu_ms": round(1000 * cpu_s / totals.passages, 1),
        "again_s": round(again - added, 2),
        "question_ms": question.figures()["p50_ms"],
    }


def encoder_words(bundle: Path) -> list[str]:
    """Words that the encoder reads as it does English: three of four are one token, the others two. Invented
    ones have three or more."""
    vocabulary = json.loads((bundle / "tokenizer.json").read_text())["model"]["vocab"]
    whole = [word for word in vocabulary if word.isalpha() and word.isascii() and len(word) > 3][:8000]
    return [*whole, *(first + last for first, last in zip(whole[::3], whole[1::3], strict=False))]


def measure(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    columns = ("passages", "p50 ms", "p95 ms", "CPU p95", "words alone", "peak MB", "file MB", "wanted p95")
    say("  ".join(f"{column:>11}" for column in columns))
    rows: list[dict[str, Any]] = []
    figures: dict[str, Any] = {"searches": rows}
    with tempfile.TemporaryDirectory(prefix="edgeslm-knowledge-") as name:
        for passages in args.passages:
            task = {"passages": passages, "file": f"{name}/{passages}.sqlite", "searches": args.searches}
            built = in_child(__file__, "build", task)
            row = in_child(__file__, "search", {**task, "questions": built["questions"]})
            wanted = WANTED_MS.get(passages)
            reached = "-" if wanted is None else "reached" if row["p95_ms"] <= wanted else f"MISSED {wanted}"
            cells = (f"{passages:,}", row["p50_ms"], row["p95_ms"], row["cpu_p95_ms"])
            more = (row["words_alone"]["p95_ms"], row["peak_mb"], built["mb"], reached)
            say("  ".join(f"{cell:>11}" for cell in (*cells, *more)))
            rows.append({"passages": passages, **row, "file_mb": built["mb"], "built_s": built["passages_s"]})
        if args.bundle is not None and args.pages:
            folder = Path(name) / "files"
            folder.mkdir()
            figures["adding"] = add_pages(args.bundle, args.pages, folder)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--passages", type=int, nargs="*", default=sorted(WANTED_MS))
    parser.add_argument("--searches", type=int, default=200)
    parser.add_argument("--pages", type=int, default=1000)
    parser.add_argument("--bundle", type=Path, default=BUNDLE if BUNDLE.exists() else None)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", choices=sorted(CHILDREN), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(CHILDREN[args.child](json.load(sys.stdin))))
        return
    about = {} if args.bundle is None else {"bundle": load_bundle(args.bundle).digest}
    run_benchmark("knowledge", args, measure, **about)


if __name__ == "__main__":
    main()

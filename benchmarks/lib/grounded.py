"""Answers from documents: right section, verbatim quotes, declined questions, and answers without passages.

    python benchmarks/quality/documents.py questions [--set manuals|handbooks|icecast]
        [--half development|test] [--mode quote|compose] [--encoder DIR] [--reader DIR] [--decoder DIR]
        [--plain GGUF] [--chart FILE]

Sends the questions of a set (``question_sets``) through the task itself, with real models, over one
collection of all its documents. Only ``--mode compose`` uses the decoder. The task has threshold 0, so that
every answer is there; its confidence is compared with the default threshold afterwards, which also gives the
curve of risk and coverage.

- right section: the cited passage stands under a heading of an answer, in the same document.
- answer quoted: the quote has a part of the words that answer, of those given with the right section.
- verbatim: the quote is the text of the document at the offsets of the citation.
- right words: the answer has half of the telling words of an answer's span, whatever the section.
- outside: answers with a quote that is not in a passage that was found.
- risk: the share of answers that cite another section, or answer an unanswerable question.
- plain: a model in llama.cpp gets the same passages in its prompt, and no gate decides (``plain_prompt``).
  Both kinds of answers are judged alike; unsupported are sentences that no found passage supports.

Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from edgeslm_export.jobs.optimum_env import cache_folder

from benchmarks.lib.cards import Say, run_benchmark
from benchmarks.lib.grounded_collection import Asked, FoundBefore, Ground, search_all
from benchmarks.lib.paths import STARTER
from benchmarks.lib.plain_prompt import PlainModel, declines
from benchmarks.lib.question_sets import SETS
from edgeslm.bundle.manifest import load_bundle
from edgeslm.config.loader import Task as TaskSection
from edgeslm.engine.calls import Call, Output
from edgeslm.engine.host.process import EngineProcess
from edgeslm.knowledge.documents.sentences import split_sentences
from edgeslm.knowledge.index.queries import Found
from edgeslm.messages import Request
from edgeslm.tasks import Outcome, Task
from edgeslm.tasks.answer import Answer
from edgeslm.tasks.grounding import GATE, READ_GATE, fitting, sources_of
from edgeslm.tasks.support import Evidence, content_words

MOST_TOKENS: Final = 64
SEED: Final = 7
HALF_OF_IT: Final = 0.5

AskTask = Callable[[Task, str], Coroutine[Any, Any, Outcome]]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answered:
    """A question with what the task came to at threshold 0, and what of that is right."""

    asked: Asked
    confidence: float
    text: str
    is_right: bool
    has_answer: bool
    is_verbatim: bool
    conflict: bool
    has_words: bool = False
    """Whether the text has the right words."""
    is_inside: bool = True
    """Whether each quote stands in a passage that was found."""

    def is_given(self, threshold: float) -> bool:
        """Whether the task answers at this threshold."""
        return bool(self.text) and self.confidence >= threshold


def judge(asked: Asked, outcome: Outcome, ground: Ground) -> Answered:
    result = outcome.result
    right = has_answer = verbatim = False
    for citation in result["citations"][:1]:
        right = (citation["source"], citation["heading"]) in asked.sections
        has_answer = any(
            asked.has_answer(one["source"], one["start"], one["end"]) for one in result["citations"]
        )
        verbatim = all(
            ground.documents[one["source"]].text[one["start"] : one["end"]] == one["quote"]
            for one in result["citations"]
        )
    conflict = bool(result.get("conflict"))
    words = says(result["text"], answers_of(asked, ground))
    inside = all(any(_is_in(one, passage) for passage in asked.found) for one in result["citations"])
    return Answered(
        asked, result["confidence"], result["text"], right, has_answer, verbatim, conflict, words, inside
    )


def answers_of(asked: Asked, ground: Ground) -> list[str]:
    """The words of the answers."""
    return [ground.documents[one.document].text[one.start : one.end] for one in asked.answers]


def _is_in(citation: Mapping[str, Any], passage: Found) -> bool:
    start, end = int(citation["start"]), int(citation["end"])
    return citation["source"] == passage.source and passage.start <= start and end <= passage.end


def figures(answered: Sequence[Answered], threshold: float) -> dict[str, Any]:
    """Shares at a threshold."""
    answerable = [one for one in answered if one.asked.is_answerable]
    others = [one for one in answered if not one.asked.is_answerable]
    given = [one for one in answerable if one.is_given(threshold)]
    wrongly = [one for one in others if one.is_given(threshold)]
    return {
        "threshold": threshold,
        "right_section_of_answered": share(one.is_right for one in given),
        "answer_quoted": share(one.has_answer for one in given if one.is_right),
        "right_words_of_answered": share(one.has_words for one in given),
        "outside": sum(not one.is_inside for one in [*given, *wrongly]),
        "verbatim": share(one.is_verbatim for one in [*given, *wrongly]),
        "answerable_declined": round(1 - len(given) / len(answerable), 3),
        "unanswerable_answered": round(len(wrongly) / len(others), 3),
        "conflicts_reported": sum(one.conflict for one in answered),
    }


def share(flags: Any) -> float | None:
    known = list(flags)
    return round(sum(known) / len(known), 3) if known else None


def curve(answered: Sequence[Answered]) -> list[tuple[float, float, float]]:
    """Coverage of all questions, risk and threshold, from the surest answer on."""
    order = sorted((one for one in answered if one.text), key=lambda one: -one.confidence)
    points, wrong = [], 0
    for number, one in enumerate(order, 1):
        wrong += not one.is_right
        points.append((number / len(answered), wrong / number, one.confidence))
    return points


def chart(points: Sequence[tuple[float, float, float]], at: float, title: str) -> str:
    """An SVG picture of risk over coverage, with the place of the threshold ``at``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([x for x, _, _ in points], [y for _, y, _ in points], color="#2a78b8")
    given = [point for point in points if point[2] >= at]
    if given:
        x, y, _ = given[-1]
        axes.plot([x], [y], "o", color="#e0842c")
        axes.annotate(f"threshold {at:g}", (x, y), textcoords="offset points", xytext=(6, -12), fontsize=8)
    axes.set_xlabel("coverage: share of all questions that is answered")
    axes.set_ylabel("risk: share of answers that is wrong")
    axes.set_title(title, fontsize=10)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, None)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#dddddd", linewidth=0.5)
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def says(text: str, spans: Sequence[str]) -> bool:
    """Whether a text has half of the telling words of one of the spans."""
    told = set(content_words(text))
    wanted = [words for span in spans if (words := set(content_words(span)))]
    return any(len(told & words) >= HALF_OF_IT * len(words) for words in wanted)


def compared(texts: Sequence[tuple[Asked, str]], ground: Ground) -> dict[str, Any]:
    """How often texts say an answer, and how much of what they say no found passage supports."""
    accurate = [says(text, answers_of(asked, ground)) for asked, text in texts if asked.is_answerable]
    claims = [
        Evidence(map(sources_of, asked.found)).support(text[start:end])
        for asked, text in texts
        for start, end in split_sentences(text)
    ]
    return {
        "answers": sum(bool(text) for _, text in texts),
        "accurate_of_answerable": share(accurate),
        "sentences": len(claims),
        "unsupported": share(not claim for claim in claims),
    }


# --- asking ---------------------------------------------------------------------------------------------


def answer_task(found: dict[str, Sequence[Found]], **keys: Any) -> Task:
    """The task over what was found already."""
    section = {"kind": "answer", "model": "small", "knowledge": ["all"], **keys}
    validated = TaskSection.model_validate(section, strict=False)
    return Answer("manual", validated, documents=FoundBefore(found))


def with_engine(bundle: Path | None, work: Callable[[AskTask], Coroutine[Any, Any, T]]) -> T:
    """What ``work`` comes to with a loaded bundle, or without a model."""

    async def run() -> T:
        process = None if bundle is None else EngineProcess(bundle)
        if process is not None:
            await process.start()

        async def call(call: Call, on_chunk: Callable[[str], None] | None = None) -> Output:
            if process is None:
                raise RuntimeError("a quote asked a model")
            return await process.call(call, on_chunk)

        async def ask(task: Task, text: str) -> Outcome:
            return await task.run(Request(task.name, text, "1", "r"), call, None)

        try:
            return await work(ask)
        finally:
            if process is not None:
                await process.stop()

    return asyncio.run(run())


def measure(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    ground = search_all(args.half, args.encoder, args.cache, reader=args.reader, questions=args.set)
    say(f"{len(ground.asked)} questions searched")
    task = answer_task(
        {one.question.question: one.found for one in ground.asked},
        mode=args.mode,
        max_tokens=MOST_TOKENS,
        threshold=0.0,
    )

    async def work(ask: AskTask) -> list[Answered]:
        return [judge(one, await ask(task, one.question.question), ground) for one in ground.asked]

    answered = with_engine(args.decoder if args.mode == "compose" else None, work)
    threshold = (READ_GATE if args.reader else GATE).threshold
    found = figures(answered, threshold)
    points = curve(answered)
    if args.chart:
        args.chart.write_text(chart(points, threshold, f"{len(answered)} questions, half {args.half}"))
    if args.rows:
        for one in answered:
            say(
                f"{one.asked.question.id} {one.confidence:.2f} {'right' if one.is_right else 'wrong'} "
                f"{one.asked.question.kind} {one.text[:90]!r}"
            )
    with_them = [(one.asked, one.text if one.is_given(threshold) else "") for one in answered]
    found["with_passages"] = compared(with_them, ground)
    found["plain"] = measure_plain(args, ground, say) if args.plain else None
    found["curve"] = [[round(x, 3), round(y, 3), round(t, 3)] for x, y, t in points]
    return found


def measure_plain(args: argparse.Namespace, ground: Ground, say: Say) -> dict[str, Any]:
    """Figures of a model that has the passages in its prompt."""
    model = PlainModel(args.plain, args.threads)
    asked = random.Random(SEED).sample(list(ground.asked), min(args.most, len(ground.asked)))
    texts = []
    for one in asked:
        text = model.answer(one.question.question, fitting(one.found[: args.passages]))
        texts.append((one, "" if declines(text) else text))
        if args.rows:
            say(f"{one.question.id} {one.question.kind} plain {text[:200]!r}")
    answerable = [(one, text) for one, text in texts if one.is_answerable]
    others = [text for one, text in texts if not one.is_answerable]
    return {
        "questions": len(texts),
        "right_words_of_answered": share(
            says(text, answers_of(one, ground)) for one, text in answerable if text
        ),
        "answerable_declined": share(not text for _, text in answerable),
        "unanswerable_answered": share(bool(text) for text in others),
        "unsupported": compared(texts, ground)["unsupported"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", choices=SETS, default="manuals")
    parser.add_argument("--half", choices=("development", "test"), default="development")
    parser.add_argument("--mode", choices=("quote", "compose"), default="quote")
    parser.add_argument("--decoder", type=Path, default=STARTER / "smollm2-135m-int4")
    parser.add_argument("--encoder", type=Path, default=STARTER / "minilm-l6-int8")
    parser.add_argument("--reader", type=Path, help="reads the passages found with the question")
    parser.add_argument(
        "--cache", type=Path, default=cache_folder() / "documents", help="keeps the documents (%(default)s)"
    )
    parser.add_argument("--chart", type=Path, help="where the curve of risk and coverage goes, as SVG")
    parser.add_argument("--rows", action="store_true", help="also print each answer")
    parser.add_argument("--plain", type=Path, help="a GGUF that also answers, in llama.cpp")
    parser.add_argument("--most", type=int, default=1000, help="questions that it answers (%(default)s)")
    parser.add_argument("--passages", type=int, default=3, help="in its prompt (%(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of llama.cpp")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    names = [
        "encoder",
        *(["reader"] if args.reader else []),
        *(["decoder"] if args.mode == "compose" else []),
    ]
    about = {name: load_bundle(getattr(args, name)).digest for name in names}
    run_benchmark("grounded", args, measure, set=args.set, half=args.half, mode=args.mode, **about)

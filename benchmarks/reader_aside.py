"""A reader on the sources that it didn't learn from: by how long texts are, by single sentences, by place.

    python benchmarks/reader_questions.py QUESTIONS.jsonl
    edgeslm-export reader all-MiniLM-L6-v2 BUNDLE --questions QUESTIONS.jsonl
    python benchmarks/reader_aside.py BUNDLE --questions QUESTIONS.jsonl [--every 2]

``near`` and ``other`` are those of ``edgeslm-export reader``, over all texts and over those of so many words.
``sentence``: what answers, alone, and the sentence of the same text that is nearest to it, alone.
``neighbour``: the text without that sentence, and without what answers. Areas are those under the ROC curve;
``above`` says how many of both are held likelier than not. ``pointed`` is how often the sentence that most of
what is pointed at begins in is one that answers.

Figures first, one JSON line last.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from cards import Say, run_benchmark
from edgeslm_export.data.rows import load_questions
from edgeslm_export.evaluate.report_card import load_encoder
from edgeslm_export.train.cross_encoder_training import Asked, PairText
from edgeslm_export.train.reader import make_training_set

from edgeslm.bundle.spans import Place
from edgeslm.engine.calls import Output, Read
from edgeslm.knowledge.documents.sentences import split_sentences

BORDERS: Final = (0, 60, 100, 10_000)
"""Words, between which areas are told apart."""
LEAST_WORDS: Final = 6
"""Of a sentence that is asked for alone beside the one that answers."""

Told = tuple[bool, float, int]
"""Whether a text answers, how likely the reader says, and its words."""
Asks = Callable[[str, Sequence[str]], Output]


def parts_of(text: PairText) -> tuple[list[Place], list[Place], Place | None]:
    """Sentences below the heading that answer, the others, and of these the nearest that is long enough."""
    body = text.text.find("\n") + 1
    places = [(a + body, b + body) for a, b in split_sentences(text.text[body:])]
    start, end = text.place or (0, 0)
    own = [(a, b) for a, b in places if a < end and start < b]
    others = [place for place in places if place not in own]
    long = [place for place in others if len(text.text[slice(*place)].split()) >= LEAST_WORDS]
    near = min(long, key=lambda place: abs(place[0] - own[0][0])) if own and long else None
    return own, others, near


def joined(text: PairText, places: Sequence[Place]) -> str:
    """These sentences below the text's heading."""
    heading = text.text[: text.text.find("\n") + 1]
    return heading + " ".join(text.text[slice(*place)] for place in places)


def area(told: Sequence[Told]) -> float | None:
    from sklearn.metrics import roc_auc_score

    truth = [answers for answers, _, _ in told]
    if len(set(truth)) < 2:
        return None
    return round(float(roc_auc_score(truth, [likely for _, likely, _ in told])), 3)


def by_length(told: Sequence[Told]) -> dict[str, float | None]:
    parts = {
        f"{least}-{most}": area([one for one in told if least <= one[2] < most])
        for least, most in pairwise(BORDERS)
    }
    return {"all": area(told), **parts}


def points_right(text: PairText, runs: Sequence[tuple[int, int, float]]) -> bool:
    """Whether the sentence that most of the runs begin in is one that answers."""
    own, others, _ = parts_of(text)
    shares = {
        place: sum(share for first, _, share in runs if place[0] <= first < place[1])
        for place in (*own, *others)
    }
    return max(shares, key=shares.__getitem__) in own


def judge(asked: Sequence[Asked], ask: Asks) -> dict[str, Any]:
    near: list[Told] = []
    other: list[Told] = []
    pairs: dict[str, list[tuple[float, ...]]] = {"sentence": [], "neighbour": []}
    pointed: list[bool] = []
    for one in asked:
        output = ask(one.question, [text.text for text in one.texts])
        for text, likely in zip(one.texts, output.probabilities, strict=True):
            told = (text.answers, likely, len(text.text.split()))
            near += [told] if text.is_own else []
            other += [told] if text.answers or not text.is_own else []
        text = one.texts[0]
        if not text.answers:
            continue
        own, others, beside = parts_of(text)
        if own and output.places and output.places[0]:
            pointed.append(points_right(text, output.places[0]))
        if beside is None:
            continue
        rest = [place for place in sorted((*own, *others)) if place != beside]
        for name, texts in (
            ("sentence", (joined(text, own), joined(text, [beside]))),
            ("neighbour", (joined(text, rest), joined(text, others))),
        ):
            pairs[name].append(tuple(ask(one.question, texts).probabilities))
    return {
        "questions": len(asked),
        "near": by_length(near),
        "other": by_length(other),
        **{name: of_pairs(values) for name, values in pairs.items()},
        "pointed": round(float(np.mean(pointed)), 3) if pointed else None,
    }


def of_pairs(values: Sequence[tuple[float, ...]]) -> dict[str, Any]:
    """:param values: what the reader says of a text that answers, and of one that doesn't."""
    told = [(bool(number == 0), value, 0) for pair in values for number, value in enumerate(pair)]
    above = [round(float(np.mean([pair[number] > 0.5 for pair in values])), 3) for number in (0, 1) if values]
    return {"pairs": len(values), "area": area(told), "above": above}


def measure(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    lesson, aside = make_training_set(load_questions(args.questions))
    asked = [lesson[number] for number in aside][:: args.every]
    say(f"{len(asked)} questions")
    encoder = load_encoder(args.bundle)
    return judge(asked, lambda question, texts: encoder.run(Read(question, tuple(texts))))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--questions", type=Path, required=True, help="what it was taught with")
    parser.add_argument("--every", type=int, default=1, help="question (%(default)s)")
    parser.add_argument("--json", action="store_true")
    run_benchmark("reader_aside", parser.parse_args(), measure)


if __name__ == "__main__":
    main()

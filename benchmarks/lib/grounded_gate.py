"""Gate of grounded answers: fits its coefficients on the development half, and prints them.

    python benchmarks/quality/documents.py gate [--encoder DIR] [--reader DIR]

Rows to fit on: each question with what was found, right if the quote of the first passage has a part of an
answer; each answerable question once more without its right passages; and cases of fitz-gov's tier 1, whose
questions are short and whose collections are a few passages. Features are those of
``edgeslm.tasks.grounding``. Printed is its judgement of questions that it was not fitted on (five folds, six
draws): the share of answerable ones declined at 10 % false positives, and the false positives at 20 %
declined. The threshold declines 20 % of the fitted ones.

Prints the coefficients in the form of ``grounding.GATE``, then one JSON line.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from edgeslm_export.evaluate.report_card import load_encoder
from edgeslm_export.jobs.optimum_env import cache_folder
from edgeslm_export.sources.wheel_data import Packages

from benchmarks.lib.cards import Say, run_benchmark
from benchmarks.lib.grounded_cases import Case, draw_cases, search_case
from benchmarks.lib.grounded_collection import Asked, search_all
from benchmarks.lib.paths import STARTER
from edgeslm.bundle.manifest import load_bundle
from edgeslm.cli.embedding import Embedding
from edgeslm.knowledge.index.queries import Found
from edgeslm.tasks.grounding import figures_of

WORDS: Final = ("coverage", "matched", "coverage_margin", "agreement")
FIGURES: Final = ("cosine", "sentence", "margin", *WORDS, "lead")
READ: Final = ("read", "coverage_margin")
PENALTY: Final = 0.1
"""``C`` of scikit-learn's logistic regression, on standardized figures."""
LESS: Final = 0.4
"""Weight of a question without its right passages."""
CASE: Final = 0.05
"""Weight of a case, whose contexts are short and whose answers aren't located: any quote of one counts."""
CASES: Final = 300
"""Of fitz-gov's tier 1 that are learned from."""
FOLDS: Final = 5
DRAWS: Final = 6
DECLINED: Final = 0.2
ANSWERED: Final = 0.1


def rows_of(asked: Sequence[Asked], *, by_words: bool) -> list[dict[str, Any]]:
    """A row for each question, and one without its right passages behind each answerable one."""
    rows = []
    for number, one in enumerate(asked):
        kinds = [(list(one.found), False)]
        if one.is_answerable:
            kinds.append(([passage for passage in one.found if not one.is_right(passage)], True))
        for found, is_without in kinds:
            if not found:
                continue
            seen = [words_alone(passage) for passage in found] if by_words else found
            rows.append(
                {
                    "question": number,
                    "figures": figures_of(one.question.question, seen),
                    "right": one.is_quoted(seen[0]),
                    "answerable": one.is_answerable,
                    "without": is_without,
                }
            )
    return rows


def rows_of_cases(cases: Sequence[tuple[Case, list[Found]]], *, by_words: bool) -> list[dict[str, Any]]:
    """Right is every case but those whose contexts don't answer. No point of the table counts them."""
    return [
        {
            "question": -1 - number,
            "figures": figures_of(case.question, [words_alone(one) for one in found] if by_words else found),
            "right": case.mode != "abstain",
            "answerable": case.mode != "abstain",
            "without": True,
        }
        for number, (case, found) in enumerate(cases)
        if found
    ]


def words_alone(passage: Found) -> Found:
    return replace(passage, cosine=None, sentences=())


def fit(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> tuple[float, list[float]]:
    """Intercept and weights of figures as they are."""
    from sklearn.linear_model import LogisticRegression

    figures = np.array([[row["figures"][name] for name in names] for row in rows])
    mean, spread = figures.mean(axis=0), figures.std(axis=0) + 1e-9
    model = LogisticRegression(C=PENALTY, max_iter=1000)
    weights = [CASE if row["question"] < 0 else LESS if row["without"] else 1.0 for row in rows]
    model.fit((figures - mean) / spread, [row["right"] for row in rows], sample_weight=weights)
    slopes = model.coef_[0] / spread
    return float(model.intercept_[0] - slopes @ mean), [float(slope) for slope in slopes]


def judged(
    rows: Sequence[dict[str, Any]], names: Sequence[str], fitted: tuple[float, list[float]]
) -> list[float]:
    intercept, weights = fitted
    totals = [
        intercept + sum(w * row["figures"][name] for w, name in zip(weights, names, strict=True))
        for row in rows
    ]
    return [1 / (1 + float(np.exp(-total))) for total in totals]


def validate(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> list[tuple[dict[str, Any], float]]:
    """Each real question with the mean confidence of the models that weren't fitted on it."""
    questions = sorted({row["question"] for row in rows if row["question"] >= 0})
    real = [row for row in rows if not row["without"]]
    total = dict.fromkeys(questions, 0.0)
    for draw in range(DRAWS):
        order = np.random.default_rng(draw).permutation(questions)
        for fold in range(FOLDS):
            aside = set(order[fold::FOLDS].tolist())
            fitted = fit([row for row in rows if row["question"] not in aside], names)
            own = [row for row in real if row["question"] in aside]
            for row, value in zip(own, judged(own, names, fitted), strict=True):
                total[row["question"]] += value / DRAWS
    return [(row, total[row["question"]]) for row in real]


def points_of(values: Sequence[tuple[dict[str, Any], float]]) -> list[dict[str, float]]:
    """Shares at each threshold."""
    answerable = [(row, value) for row, value in values if row["answerable"]]
    others = [value for row, value in values if not row["answerable"]]
    points = []
    for threshold in sorted({value for _, value in values}):
        given = [row for row, value in answerable if value >= threshold]
        points.append(
            {
                "threshold": round(threshold, 3),
                "declined": round(1 - len(given) / len(answerable), 3),
                "answered": round(sum(value >= threshold for value in others) / len(others), 3),
                "right": round(sum(row["right"] for row in given) / max(1, len(given)), 3),
            }
        )
    return points


def threshold_for(confidences: Sequence[float], declined: float) -> float:
    """The highest one of two digits that declines at most that share of them."""
    least = sorted(confidences)[int(declined * len(confidences))]
    return math.floor(100 * least + 1e-9) / 100


def measure(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    ground = search_all("development", args.encoder, args.cache, reader=args.reader)
    reader = load_encoder(args.reader) if args.reader else None
    drawn = draw_cases("tier1_core", Packages(say, folder=args.packages), CASES)
    with tempfile.TemporaryDirectory(prefix="gate-") as name, Embedding(args.encoder) as embedding:
        cases = [(case, search_case(case, embedding, Path(name), reader)) for case in drawn]
    found: dict[str, Any] = {}
    gates = {"READ_GATE": READ} if args.reader else {"GATE": FIGURES, "WORDS_GATE": WORDS}
    for gate, names in gates.items():
        by_words = gate == "WORDS_GATE"
        rows = rows_of(ground.asked, by_words=by_words) + rows_of_cases(cases, by_words=by_words)
        points = points_of(validate(rows, names))
        strict = min((p for p in points if p["answered"] <= ANSWERED), key=lambda p: p["declined"])
        wide = min((p for p in points if p["declined"] <= DECLINED), key=lambda p: p["answered"])
        intercept, fitted_weights = fit(rows, names)
        fitted = round(intercept, 2), [round(float(weight), 2) for weight in fitted_weights]  # as it is kept
        own = [row for row in rows if row["answerable"] and not row["without"]]
        threshold = threshold_for(judged(own, names, fitted), DECLINED)
        say(f"{gate}, not fitted on what it judges")
        for name, point in (("10 % answered", strict), ("20 % declined", wide)):
            say(f"{name:>22}  " + ", ".join(f"{key} {value}" for key, value in point.items()))
        weights = dict(zip(names, fitted[1], strict=True))
        say(f"{gate}: Final = Gate({fitted[0]}, {weights}, {threshold})")
        found[gate] = {
            "intercept": fitted[0],
            "weights": weights,
            "threshold": threshold,
            "at_10_answered": strict,
            "at_20_declined": wide,
        }
    return {"gates": found}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", type=Path, default=STARTER / "minilm-l6-int8")
    parser.add_argument("--reader", type=Path, help="reads the passages found: its gate is fitted then")
    parser.add_argument(
        "--cache", type=Path, default=cache_folder() / "documents", help="keeps the documents (%(default)s)"
    )
    parser.add_argument("--from", dest="packages", type=Path, help="take fitz-gov's wheel from this folder")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    about = {"reader": load_bundle(args.reader).digest} if args.reader else {}
    run_benchmark("grounded_gate", args, measure, encoder=load_bundle(args.encoder).digest, **about)

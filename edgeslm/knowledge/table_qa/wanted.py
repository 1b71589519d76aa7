"""Wanted value: what a table question asks for in one reading, once the reading's conditions are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeslm.knowledge.documents.cells import CellKind, Column
from edgeslm.knowledge.index.table_terms import (
    DAYS,
    LABELS,
    NAMING,
    STATE_UNITS,
    STATES,
    Operation,
    alike,
    fold,
    words_of,
)
from edgeslm.knowledge.table_qa.mentions import Meaning, Named, Noun
from edgeslm.knowledge.table_qa.names import ColumnNames
from edgeslm.knowledge.table_qa.query import Condition, Query, Unanswerable

_TIME_WORDS = words_of("date day time when timestamp hour week month quarter year")
_EXTREMES = {
    Operation.LARGEST: "max",
    Operation.SMALLEST: "min",
    Operation.AVERAGE: "avg",
    Operation.TOTAL: "total",
}
"""Words in column names that a question may express as an operation, such as ``max`` as ``highest``."""


@dataclass(frozen=True, slots=True)
class Item:
    """A mention with one of its meanings."""

    what: Meaning
    said: str
    after_and: bool


@dataclass(frozen=True, slots=True)
class Wanted:
    """Finds the value asked for among the items that are not conditions."""

    words: Sequence[str]
    left: Sequence[Item]
    conditions: Sequence[Condition]
    named: Sequence[tuple[int, Named]]
    columns: Sequence[Column]
    names: ColumnNames

    def cells(self) -> Query:
        if len(self.named) > 1:
            raise Unanswerable("it asks for several columns")
        if "when" in self.words and not self.named:
            return Query(None, self._only_date())
        if not self.named and "who" in self.words:
            return Query(None, self._label(LABELS[:1]), many=True)
        if not self.named:
            if not {"which", "what", "who", "list", "show"} & set(self.words):
                raise Unanswerable("it doesn't say what is asked for")
            days, plural = self._noun()
            return Query(None, self._only_date() if days else self._label(), many=plural)
        asked = self.named[0][1]
        column = self.columns[asked.place]
        if "when" in self.words and column.kind is not CellKind.DATE:
            raise Unanswerable(f"{column.name} is not a time")
        self._check_which(column)
        if "much" in self.words and column.kind is not CellKind.NUMBER:
            raise Unanswerable(f"{column.name} is not an amount")
        return Query(None, asked.place, many=asked.plural or "list" in self.words)

    def count(self, operation: Operation) -> Query:
        if len(self.named) > 1:
            raise Unanswerable("it asks for several columns")
        if not self.named:
            nouns = [item.what for item in self.left if isinstance(item.what, Noun)]
            if any(noun.days for noun in nouns):
                return Query(Operation.DISTINCT, self._only_date())
            if operation is Operation.DISTINCT or not (nouns or self.conditions):
                raise Unanswerable("it doesn't say what is counted")
            if any(self.columns[condition.place].unique for condition in self.conditions):
                raise Unanswerable("there is one of it")
            return Query(operation, None)
        asked = self.named[0][1]
        place, kind = asked.place, self.columns[asked.place].kind
        said = self.left[self.named[0][0]].said
        if kind is CellKind.DATE and (asked.row or fold(said) not in DAYS):
            raise Unanswerable(f"{self.columns[place].name} is a date")
        if kind is CellKind.NUMBER and operation is Operation.COUNT and not asked.row:
            if not any(self._names_a_row(condition) for condition in self.conditions):
                raise Unanswerable(f"{self.columns[place].name} is a number itself")
            return Query(None, place)
        return Query(Operation.DISTINCT if kind is CellKind.DATE else operation, place)

    def sum(self, operation: Operation) -> Query:
        named = [each for _, each in self.named if not each.row] or [each for _, each in self.named]
        if len(named) != 1 or not self._is_number(named[0]):
            raise Unanswerable(f"it doesn't say of which column the {operation.value}")
        self._check_amount(named[0])
        self._check_extreme(named[0], operation)
        return Query(operation, named[0].place)

    def extreme(self, operation: Operation, at: int, measured: int | None, *, counting: bool) -> Query:
        """:param measured: the column that a superlative such as ``hottest`` measures; None for other
        words."""
        largest = operation is Operation.LARGEST
        others = list(self.named)
        by = measured
        if by is None:
            after = [each for each in others if each[0] > at and self._is_number(each[1])]
            before = [each for each in others if each[0] < at and self._is_number(each[1])]
            if not after and not before:
                raise Unanswerable(f"it doesn't say of which column the {operation.value}")
            chosen = after[0] if after else before[-1]
            others.remove(chosen)
            by = chosen[1].place
            others = [each for each in others if each[0] < chosen[0] or not each[1].row]
            behind = [item.what for item in self.left[chosen[0] :]]
            if any(isinstance(what, Noun) and what.bare for what in behind):
                # As in "the most temperature readings".
                raise Unanswerable("rows would have to be counted")
            self._check_amount(chosen[1])
            if counting and chosen[1].row:
                raise Unanswerable(f"{self.columns[by].name} would have to be counted")
            self._check_extreme(chosen[1], operation)
        else:
            others = [each for each in others if each[1].place != by]
        others = self._without_row(others, at)
        asked = self._row_asked(others, at)
        if asked is None:
            if measured is not None:
                raise Unanswerable("it doesn't say what is asked for")
            return Query(operation, by)
        # "The building with the highest cost" is ambiguous: in one row or in sum? "The hottest room" isn't.
        summed = counting or (measured is None and bool(others) and not self._is_state(by))
        return Query(None, asked, by=by, largest=largest, many=True, summed=summed)

    def in_time(self, operation: Operation, at: int) -> Query:
        largest = operation is Operation.LATEST
        others = list(self.named)
        times = [each for each in others if self.columns[each[1].place].kind is CellKind.DATE]
        beside = [each for each in times if abs(each[0] - at) == 1]
        if times and not beside:
            raise Unanswerable(f"it doesn't say of which column the {operation.value}")
        if beside:
            others.remove(beside[0])
            by = beside[0][1].place
        else:
            by = self._only_time()
        others = self._without_row(others, at)
        if len(others) == 1:
            self._check_which(self.columns[others[0][1].place])
            return Query(None, others[0][1].place, by=by, largest=largest)
        if "when" in self.words and not others:
            return Query(operation, by)
        asked = self._row_asked(others, at)
        if asked is None:
            raise Unanswerable("it doesn't say what is asked for")
        return Query(None, asked, by=by, largest=largest)

    # --- parts of it --------------------------------------------------------------------------------

    def _row_asked(self, others: Sequence[tuple[int, Named]], at: int) -> int | None:
        """Index of the column whose cell is asked for in the row with the extreme value; None if the question
        asks for the extreme value itself."""
        if len(others) > 1 or any(place > at + 1 for place, _ in others):
            raise Unanswerable("it asks for several columns")
        if others:
            self._check_which(self.columns[others[0][1].place])
            return others[0][1].place
        if "when" in self.words:
            return self._only_date()
        nouns = [
            item.what
            for place, item in enumerate(self.left)
            if isinstance(item.what, Noun) and place <= at + 1
        ]
        if nouns:
            return self._only_date() if nouns[0].days else self._label()
        if "who" in self.words:
            return self._label(LABELS[:1])
        if {"where", "which"} & set(self.words):
            raise Unanswerable("it doesn't say by which column")
        return None

    def _without_row(self, others: list[tuple[int, Named]], at: int) -> list[tuple[int, Named]]:
        """Drops column names that only identify the row, as ``part`` in ``the price of the heaviest
        part``."""
        if len(others) < 2:
            return others
        return [
            each for each in others if each[0] != at + 1 or (self._is_number(each[1]) and not each[1].row)
        ]

    def _noun(self) -> tuple[bool, bool]:
        """Whether the rows asked for are days, and whether the question's noun for these rows is plural."""
        nouns = [item.what for item in self.left if isinstance(item.what, Noun)]
        if not nouns:
            raise Unanswerable("it doesn't say what is asked for")
        return nouns[0].days, nouns[0].plural

    def _only_date(self) -> int:
        dates = [place for place, column in enumerate(self.columns) if column.kind is CellKind.DATE]
        if len(dates) != 1:
            raise Unanswerable(f"the table has {len(dates)} columns of dates")
        return dates[0]

    def _only_time(self) -> int:
        """Index of the only date column; in a table without date columns, of the only year column."""
        years = year_columns(self.columns, self.names)
        if len(years) == 1 and not any(column.kind is CellKind.DATE for column in self.columns):
            return years[0]
        return self._only_date()

    def _label(self, words: Sequence[str] = ()) -> int:
        """Index of the text column whose cells name the rows.

        :param words: allowed names of the column; if empty, the names in ``LABELS`` and then any column with
            unique texts are tried.
        """
        texts = [place for place, column in enumerate(self.columns) if column.kind is CellKind.TEXT]
        for word in words or LABELS:
            for place in texts:
                if self.names.all[place].words == {alike(word)}:
                    return place
        for place in texts:
            if self.columns[place].unique and not words:
                return place
        raise Unanswerable("no column says what its rows are called")

    def _check_which(self, column: Column) -> None:
        """Refuses a column of dates if the question asks for a name, as with ``which release``."""
        words = set(self.words)
        if column.kind is CellKind.DATE and {"which", "who"} & words and not _TIME_WORDS & words:
            raise Unanswerable(f"{column.name} is a date")

    def _is_state(self, place: int) -> bool:
        """Whether a column has momentary values, which are not summed."""
        name = self.names.all[place]
        return name.unit in STATE_UNITS or bool(name.words & STATES)

    def _check_amount(self, named: Named) -> None:
        """Refuses a column of identifiers, which have no sum; the highest order number isn't the largest
        order."""
        column, words = self.columns[named.place], self.names.all[named.place].words
        things = named.row and named.plural and not column.name.casefold().endswith("s")
        if things or words & NAMING:
            raise Unanswerable(f"{column.name} is not an amount")

    def _check_extreme(self, named: Named, operation: Operation) -> None:
        """Refuses a column named after another operation, unless the question has the column's whole name:
        the highest temperature is not in ``temp_min``."""
        others = set(_EXTREMES.values()) - {_EXTREMES[operation]}
        if not named.whole and others & self.names.all[named.place].words:
            raise Unanswerable(f"{self.columns[named.place].name} is something else")

    def _names_a_row(self, condition: Condition) -> bool:
        column = self.columns[condition.place]
        words = self.names.all[condition.place].words
        return column.kind is CellKind.TEXT and (
            column.unique or any(words == {alike(word)} for word in LABELS)
        )

    def _is_number(self, named: Named) -> bool:
        return self.columns[named.place].kind is CellKind.NUMBER


def year_columns(columns: Sequence[Column], names: ColumnNames) -> list[int]:
    """Numeric columns whose name contains ``year``."""
    return [
        place
        for place, column in enumerate(columns)
        if column.kind is CellKind.NUMBER and "year" in names.all[place].words
    ]

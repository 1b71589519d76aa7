"""Readings: combines the mentions of a question into queries on one table.

A reading is one interpretation of the question. In a reading, each mention must have a role: the value asked
for, a condition, or a word for rows. A reading with an unused mention is dropped. The caller chooses between
readings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import product
from math import prod

from edgeslm.knowledge.documents.cells import CellKind, Column
from edgeslm.knowledge.index.table_terms import DEGREES, Comparator, Measure, Operation, alike, words_of
from edgeslm.knowledge.table_qa.mentions import (
    Asks,
    Cells,
    Compares,
    Date,
    Meaning,
    Mention,
    Named,
    Noun,
    Number,
    Or,
    Superlative,
    Token,
    Unit,
)
from edgeslm.knowledge.table_qa.names import ColumnNames
from edgeslm.knowledge.table_qa.query import Condition, Query, Unanswerable, Unclear
from edgeslm.knowledge.table_qa.wanted import Item, Wanted, year_columns

MOST_READINGS = 200
"""Maximum number of readings; a question with more is too vague."""

_AUXILIARIES = words_of(
    "is are was were do does did has have had can could will would should am may might must"
)
_QUESTION_WORDS = words_of("which what who whom when where how tell show give list find count")
_NUMBERS = ("id", alike("number"))
_TIMES = (Comparator.AFTER, Comparator.BEFORE)


@dataclass(slots=True)
class _Parts:
    """The parts of a reading that were found so far; ``left`` has the items that have no role yet."""

    left: list[Item]
    conditions: list[Condition] = field(default_factory=list)
    units: list[str] = field(default_factory=list)


def find_queries(
    tokens: Sequence[Token], mentions: Sequence[Mention], columns: Sequence[Column], names: ColumnNames
) -> tuple[list[Query], str]:
    """All queries that the mentions allow, and the reason to report if there are no queries.

    :raises Unclear: there are more than :data:`MOST_READINGS` readings.
    """
    words = [token.text for token in tokens]
    if words and words[0] in _AUXILIARIES and not _QUESTION_WORDS & set(words):
        return [], "it asks for yes or no"
    dates: list[int | None] = [place for place, column in enumerate(columns) if column.kind is CellKind.DATE]
    if not any(isinstance(each, Date) for mention in mentions for each in mention.meanings):
        dates = []
    if prod([len(dates) or 1, *(len(mention.meanings) for mention in mentions)]) > MOST_READINGS:
        raise Unclear("it can be read in too many ways")
    queries: dict[Query, None] = {}
    reason = "it names nothing of the table"
    for meanings in product(*(mention.meanings for mention in mentions)):
        items = [
            Item(what, mention.said, mention.first > 0 and words[mention.first - 1] == "and")
            for mention, what in zip(mentions, meanings, strict=True)
        ]
        for date in dates or [None]:
            reading = _Reading(words, items, columns, names, date)
            try:
                queries[reading.query()] = None
            except Unanswerable as error:
                reason = str(error)
    return list(queries), reason


class _Reading:
    def __init__(
        self,
        words: Sequence[str],
        items: Sequence[Item],
        columns: Sequence[Column],
        names: ColumnNames,
        date: int | None,
    ) -> None:
        self._words, self._items, self._columns, self._names = words, items, columns, names
        self._date = date
        """Index of the column to which dates refer if the question names no column for them."""
        self._years = year_columns(columns, names)

    def query(self) -> Query:
        """:raises Unanswerable: the reading makes no sense for this table."""
        parts = _Parts(_comparisons_first(self._items))
        self._take_units(parts)
        self._take_comparisons(parts)
        self._take_attached(parts)
        self._take_unattached(parts)
        query = self._decide(parts)
        for unit in parts.units:
            place = query.column if query.by is None else query.by
            there = "" if place is None else self._names.all[place].unit
            if not there or not is_unit(unit, there):
                raise Unanswerable(f"the unit {unit} is another one than the table's")
        return query

    # --- conditions ---------------------------------------------------------------------------------

    def _take_units(self, parts: _Parts) -> None:
        """Collects units that don't follow a number; they belong to the value asked for."""
        kept: list[Item] = []
        for item in parts.left:
            if isinstance(item.what, Unit) and not (kept and isinstance(kept[-1].what, Number | Unit)):
                parts.units.append(item.what.unit)
            else:
                kept.append(item)
        parts.left = kept

    def _take_comparisons(self, parts: _Parts) -> None:
        at = 0
        while at < len(parts.left):
            what = parts.left[at].what
            if not isinstance(what, Compares):
                at += 1
                continue
            count = 2 if what.comparison is Comparator.BETWEEN else 1
            end = at + 1
            values: list[Number | Date] = []
            units: list[str] = []
            while end < len(parts.left):
                follower = parts.left[end].what
                if isinstance(follower, Number | Date) and len(values) < count:
                    values.append(follower)
                elif isinstance(follower, Unit) and values:
                    units.append(follower.unit)
                else:
                    break
                end += 1
            if what.empty and not values:
                del parts.left[at]
                continue
            if len(values) < count or len({type(value) for value in values}) > 1:
                raise Unanswerable("it compares with nothing that is understood")
            before = parts.left[at - 1].what if at else None
            after = parts.left[end].what if end < len(parts.left) else None
            place, start, end = self._compared(what, values[0], before, after, units, at, end)
            said = " ".join(item.said for item in parts.left[at:end])
            self._check_units(units, place)
            parts.conditions.append(self._condition(place, values, what.comparison, said))
            del parts.left[start:end]
            at = start

    def _compared(
        self,
        what: Compares,
        value: Number | Date,
        before: Meaning | None,
        after: Meaning | None,
        units: Sequence[str],
        start: int,
        end: int,
    ) -> tuple[int, int, int]:
        """Index of the compared column, and first and last (exclusive) index of the items that form the
        comparison."""
        kind = CellKind.NUMBER if isinstance(value, Number) else CellKind.DATE
        if kind is CellKind.NUMBER and what.comparison in _TIMES and not self._years:
            raise Unanswerable("a number is not a time")
        if what.measure is not None:
            return self._measured(what.measure), start, end
        if isinstance(before, Named) and self._columns[before.place].kind is kind:
            return before.place, start - 1, end
        if isinstance(after, Named) and self._columns[after.place].kind is kind:
            return after.place, start, end + 1
        if kind is CellKind.DATE and self._date is not None:
            if isinstance(before, Cells) and _tells_what_was_done(before):
                raise Unanswerable("when that was done isn't said")
            return self._date, start, end
        places = [place for place, column in enumerate(self._columns) if column.kind is kind]
        if units:
            places = [
                place
                for place in places
                if self._names.all[place].unit and is_unit(units[0], self._names.all[place].unit)
            ]
        if kind is CellKind.NUMBER and what.comparison in _TIMES:
            places = self._years
        if len(places) != 1:
            raise Unanswerable("it doesn't say what is compared")
        return places[0], start, end

    def _take_attached(self, parts: _Parts) -> None:
        """Turns values next to a column's name into conditions, as in ``press 4`` or ``8 cylinders``."""
        at = 0
        while at + 1 < len(parts.left):
            one, other = parts.left[at], parts.left[at + 1]
            end = at + 2
            said = f"{one.said} {other.said}"
            if (found := self._attached(one.what, other.what)) is None:
                at += 1
                continue
            place, value = found
            values = [value]
            if other.what is value:
                end = self._further_values(parts, end, place, values)
            parts.conditions.append(self._condition(place, values, None, said))
            unit = parts.left[end].what if end < len(parts.left) else None
            if isinstance(unit, Unit):
                self._check_units([unit.unit], place)
                end += 1
            del parts.left[at:end]

    def _attached(self, one: Meaning, other: Meaning) -> tuple[int, Meaning] | None:
        """Column and value of two adjacent items; None if the items aren't such a pair."""
        if isinstance(one, Named) and self._is_value_of(other, one.place):
            return one.place, other
        if isinstance(one, Noun) and isinstance(other, Number) and not (one.days or one.bare):
            place = self._number_column()
            return None if place is None else (place, other)
        # "8 cylinders", "the north hall"; dates never precede their column.
        if isinstance(other, Named) and not isinstance(one, Date) and self._is_value_of(one, other.place):
            return other.place, one
        return None

    def _is_value_of(self, what: Meaning, place: int) -> bool:
        kind = self._columns[place].kind
        return (
            (isinstance(what, Cells) and what.place == place)
            or (isinstance(what, Number) and kind is CellKind.NUMBER)
            or (isinstance(what, Date) and kind is CellKind.DATE)
        )

    def _number_column(self) -> int | None:
        """Index of the column that numbers the rows, for questions such as ``where is order 1002``."""
        for word in _NUMBERS:
            for place, column in enumerate(self._columns):
                if column.kind is CellKind.NUMBER and self._names.all[place].words == {word}:
                    return place
        return None

    def _further_values(self, parts: _Parts, at: int, place: int, values: list[Meaning]) -> int:
        """Adds further values of the same column, as in ``in Norway and Sweden`` or ``press 4 or 5``."""
        while at < len(parts.left):
            said_or = isinstance(parts.left[at].what, Or)
            follower = at + 1 if said_or else at
            again = parts.left[follower].what if follower < len(parts.left) else None
            repeated = isinstance(again, Named) and again.place == place
            follower += repeated
            if follower >= len(parts.left) or not self._is_value_of(parts.left[follower].what, place):
                break
            if not said_or and not parts.left[at].after_and:
                break
            values.append(parts.left[follower].what)
            at = follower + 1
        return at

    def _take_unattached(self, parts: _Parts) -> None:
        """Turns cells and dates that are not next to a column's name into conditions."""
        at = 0
        while at < len(parts.left):
            item = parts.left[at]
            if isinstance(item.what, Cells):
                values: list[Meaning] = [item.what]
                end = self._further_values(parts, at + 1, item.what.place, values)
                said = " ".join(each.said for each in parts.left[at:end])
                parts.conditions.append(self._condition(item.what.place, values, None, said))
            elif isinstance(item.what, Date):
                end = at + 1
                self._check_event(parts, at)
                if self._date is not None:
                    condition = self._condition(self._date, [item.what], None, item.said)
                elif len(item.what.moment) == 4 and len(self._years) == 1:
                    condition = Condition(self._years[0], (Decimal(item.what.moment),))
                else:
                    raise Unanswerable("the table has no such dates")
                parts.conditions.append(condition)
            elif isinstance(item.what, Number | Or | Compares):
                raise Unanswerable(f"what {item.said} is of isn't said")
            else:
                at += 1
                continue
            del parts.left[at:end]
        parts.conditions[:] = dict.fromkeys(parts.conditions)  # a day and its time are one condition
        places = [each.place for each in parts.conditions if each.comparison is None]
        if len(set(places)) < len(places):
            raise Unanswerable("a cell can't be two things")

    def _check_event(self, parts: _Parts, at: int) -> None:
        before = parts.left[at - 1].what if at else None
        if isinstance(before, Cells) and _tells_what_was_done(before):
            raise Unanswerable("when that was done isn't said")

    def _condition(
        self, place: int, values: Sequence[Meaning], comparison: Comparator | None, said: str
    ) -> Condition:
        column = self._columns[place]
        wanted: list[str | bool | Decimal] = []
        for value in values:
            if isinstance(value, Cells):
                wanted.extend(sorted(value.cells))
            elif isinstance(value, Number) and column.kind is CellKind.NUMBER:
                wanted.append(value.value)
            elif isinstance(value, Date) and column.kind is CellKind.DATE:
                wanted.append(_within(value.moment, column, comparison))
            else:
                raise Unanswerable(f"{said} can't be compared with {column.name}")
        return Condition(place, tuple(wanted), comparison)

    def _check_units(self, units: Sequence[str], place: int) -> None:
        own = self._names.all[place].unit
        for unit in units:
            of_others = any(name.unit and is_unit(unit, name.unit) for name in self._names.all)
            if not is_unit(unit, own) or (of_others and not own):
                raise Unanswerable(f"{self._columns[place].name} isn't in {unit}")

    # --- what is wanted -----------------------------------------------------------------------------

    def _decide(self, parts: _Parts) -> Query:
        named = [(at, item.what) for at, item in enumerate(parts.left) if isinstance(item.what, Named)]
        flags = [each for each in named if self._columns[each[1].place].kind is CellKind.BOOLEAN]
        if flags and (len(named) > len(flags) or self._operation(parts)[0] is Operation.COUNT):
            for _, flag in flags:
                parts.conditions.append(Condition(flag.place, (True,)))
            named = [each for each in named if each not in flags]
        wanted = Wanted(self._words, parts.left, parts.conditions, named, self._columns, self._names)
        operation, at, measure = self._operation(parts)
        what = parts.left[at].what if at >= 0 else None
        counting = isinstance(what, Asks) and what.counting
        match operation:
            case None:
                query = wanted.cells()
            case Operation.COUNT | Operation.DISTINCT:
                query = wanted.count(operation)
            case Operation.TOTAL | Operation.AVERAGE:
                query = wanted.sum(operation)
            case Operation.LARGEST | Operation.SMALLEST:
                by = None if measure is None else self._measured(measure)
                query = wanted.extreme(operation, at, by, counting=counting)
            case _:
                query = wanted.in_time(operation, at)
        return replace(query, conditions=tuple(parts.conditions))

    def _operation(self, parts: _Parts) -> tuple[Operation | None, int, Measure | None]:
        """The operation asked for, its position among the items, and, if the operation is a superlative, its
        measure."""
        found: list[tuple[Operation, int, Measure | None]] = []
        for at, item in enumerate(parts.left):
            if isinstance(item.what, Asks):
                found.append((item.what.operation, at, None))
            elif isinstance(item.what, Superlative):
                found.append((item.what.measure.most, at, item.what.measure))
        # "In total how many" has two operations that are one.
        if {operation for operation, _, _ in found} == {Operation.COUNT, Operation.TOTAL}:
            found = [each for each in found if each[0] is Operation.COUNT]
        if len(found) > 1:
            raise Unanswerable("it asks for two things at once")
        return found[0] if found else (None, -1, None)

    def _measured(self, measure: Measure) -> int:
        """Index of the column that an adjective measures. If several columns fit, ``hottest`` means the
        column with ``max`` in its name."""
        places = [
            place
            for place in self._names.of(measure.dimensions)
            if self._columns[place].kind in (CellKind.NUMBER, CellKind.DATE)
        ]
        if len(places) > 1:
            extreme = "max" if measure.most is Operation.LARGEST else "min"
            places = [place for place in places if extreme in self._names.all[place].words]
        if len(places) != 1:
            raise Unanswerable("it doesn't say by which column")
        return places[0]


def _tells_what_was_done(what: Cells) -> bool:
    """Whether cells name an action, such as ``Shipped``: a date next to such a cell may not be the row's
    date."""
    return all(cell.casefold().endswith("ed") for cell in what.cells)


def _comparisons_first(items: Sequence[Item]) -> list[Item]:
    """Moves each comparison before its value, so that ``5 bar or more`` becomes ``at least 5 bar``."""
    turned: list[Item] = []
    for item in items:
        if isinstance(item.what, Compares) and item.what.behind:
            at = len(turned) - (len(turned) > 1 and isinstance(turned[-1].what, Unit)) - 1
            turned.insert(max(at, 0), item)
        else:
            turned.append(item)
    return turned


def is_unit(said: str, unit: str) -> bool:
    """Whether a unit in the question may be the unit of a column. A column without a unit may be in degrees
    or percent."""
    if said == "deg":
        return unit in DEGREES or not unit
    return said == unit or (said == "pct" and not unit)


def _within(said: str, column: Column, comparison: Comparator | None) -> str:
    """Completes a date with the column's year if the question states none, and checks that the date is in the
    column's range.

    :raises Unanswerable: the date is outside of the column's range, or lacks a year while the column covers
        several years.
    """
    if said.startswith("--"):
        if column.first[:4] != column.last[:4]:
            raise Unanswerable("it doesn't say of which year")
        said = column.first[:4] + said[1:]
    first, last = column.first[: len(said)], column.last[: len(said)]
    to_end, to_begin = (Comparator.AFTER, Comparator.AT_LEAST), (Comparator.BEFORE, Comparator.AT_MOST)
    if comparison not in to_begin and (last < said or (comparison is Comparator.AFTER and last == said)):
        raise Unanswerable(f"{column.name} ends with {column.last}")
    if comparison not in to_end and (first > said or (comparison is Comparator.BEFORE and first == said)):
        raise Unanswerable(f"{column.name} begins with {column.first}")
    return said

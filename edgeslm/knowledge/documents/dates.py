"""Date parsing: dates in table cells and questions.

Dates are ISO 8601 strings of different precision, from ``2026`` to ``2026-03-01T14:30``. A less precise date
is a prefix of all dates that it covers. For strings of equal length, alphabetical order is chronological
order. UTC offsets are dropped, since all dates of a column have the same offset.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date, datetime, time

_MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_MONTH_NUMBERS = {
    **{name: number for number, name in enumerate(_MONTHS, 1)},
    **{name[:3]: number for number, name in enumerate(_MONTHS, 1)},
    "sept": 9,
}
_MONTH = "(?P<month>" + "|".join(sorted(_MONTH_NUMBERS, key=len, reverse=True)) + r")\b\.?"
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?\b(?![.:]?\d)"
_YEAR = r"(?P<year>(?:19|20)\d{2})\b(?![-/.:]\d)"
_TIME = r"(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:[.,]\d{1,9})?)?"
_OFFSET = r"\s?(?P<offset>Z|UTC|[+-]\d{2}:?\d{2})?"
_OLDEST_OF_TWO_DIGITS = 69
"""The two-digit years from 69 to 99 mean 19xx, and the years from 00 to 68 mean 20xx, as in POSIX
strptime."""

ISO, DAY_FIRST, MONTH_FIRST = "iso", "dmy", "mdy"
"""Order of day and month in ``03/04/2026``; :data:`ISO` stands for all unambiguous notations."""

_CELLS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(?P<year>\d{4})-(?P<month>\d{2})",
        rf"(?P<year>\d{{4}})([-/.])(?P<month>\d{{1,2}})\2(?P<day>\d{{1,2}})(?:(?:T|\s){_TIME}{_OFFSET})?",
        rf"(?P<day>\d{{1,2}})(?:[- ]|\. )\s?{_MONTH}[-, ]\s?(?P<year>\d{{4}}|\d{{2}})(?: {_TIME}{_OFFSET})?",
        rf"{_MONTH} (?P<day>\d{{1,2}})(?:st|nd|rd|th)?,? (?P<year>\d{{4}})(?: {_TIME}{_OFFSET})?",
        rf"(?P<day>\d{{1,2}})\.(?P<month>\d{{1,2}})\.(?P<year>\d{{4}})(?:,? {_TIME}{_OFFSET})?",
    )
)
_SLASHED = re.compile(
    r"(?P<first>\d{1,2})([/-])(?P<second>\d{1,2})\2(?P<year>\d{4})"
    rf"(?:,? {_TIME.replace('<second>', '<seconds>')})?"
)
_MOST_CELLS = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2})?)?")
"""Pattern for the most frequent notations of dates. This pattern is tried first, since the other patterns are
slower and a large table may have a hundred thousand dates."""
_LONGEST_CELL = 40


def parse_moment(cell: str, form: str = ISO) -> str | None:
    """Date in a cell, as an ISO 8601 string; None if the cell isn't a date.

    :param form: how to read ``03/04/2026``: :data:`DAY_FIRST`, :data:`MONTH_FIRST`, or :data:`ISO` to reject
        it.
    """
    if len(cell) > _LONGEST_CELL:
        return None
    if _MOST_CELLS.fullmatch(cell):
        with suppress(ValueError):
            datetime.fromisoformat(cell)
            return cell.replace(" ", "T")
        return None
    if not any(map(str.isdigit, cell)):
        return None
    for pattern in _CELLS:
        if match := pattern.fullmatch(cell):
            return _put_together(match.groupdict())
    if form != ISO and (match := _SLASHED.fullmatch(cell)):
        parts = match.groupdict()
        day, month = ("first", "second") if form == DAY_FIRST else ("second", "first")
        return _put_together({**parts, "day": parts[day], "month": parts[month], "second": parts["seconds"]})
    return None


def offset_of(cell: str) -> str:
    """UTC offset at the end of a date, such as ``+02:00``; "" if the date has none."""
    found = re.search(r"(?:\d|\s)(Z|UTC|[+-]\d{2}:?\d{2})$", cell) if ":" in cell else None
    return found[1] if found else ""


@dataclass(frozen=True, slots=True)
class DateMention:
    """A date in a question, at characters ``start`` to ``end``."""

    start: int
    end: int
    moment: str
    """The date, as precise as in the question. A date without a year looks like ``--03`` or ``--03-01``."""


_SAID = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(?<![\w.])(?P<year>\d{4})-(?P<month>\d{1,2})(?:-(?P<day>\d{1,2})(?:(?:T|\s+at\s+|\s+)"
        rf"{_TIME})?)?\b(?![-/.]\d)",
        r"(?<![\w.])(?P<year>\d{4})/(?P<month>\d{1,2})/(?P<day>\d{1,2})\b(?![-/.]\d)",
        r"(?<![\w.])(?P<day>\d{1,2})\.(?P<month>\d{1,2})\.(?P<year>\d{4})\b(?![-/.]\d)",
        rf"\b{_DAY}[\s-]*(?:of\s+)?{_MONTH}(?:[,\s-]+(?:of\s+|in\s+)?{_YEAR})?",
        rf"\b{_MONTH}[\s-]+(?:the\s+)?{_DAY}(?:[,\s-]+(?:of\s+|in\s+)?{_YEAR})?",
        rf"\b{_MONTH}[,\s-]+(?:of\s+|in\s+)?{_YEAR}",
        rf"(?<![\w.-]){_YEAR}",
        rf"\b{_MONTH}",
    )
)
_CLOCK = re.compile(
    r"(?<![\w.:])(?P<hour>\d{1,2}):(?P<minute>\d{2})\b(?![:.]?\d)(?!\s*[ap]\.?m\b)", re.IGNORECASE
)
_WORDS_TOO = frozenset({"may", "march", "mar", "sep", "dec", "jan", "jun", "sept"})
"""Month names that are also other words; in lower case, they are months only after a word such as ``in``."""
_MONTH_FOLLOWS = re.compile(r"\b(?:in|of|since|until|during|before|after|and|for|last)\s+$", re.IGNORECASE)


def find_moments(question: str) -> list[DateMention]:
    """Finds the dates in a question; the found dates don't overlap. An ambiguous date such as ``03/04/2026``
    is skipped.

    If a question has only one date and one time of day, the two are merged, even if other words are between
    them.
    """
    taken: list[tuple[int, int]] = []
    found: list[DateMention] = []
    for pattern in _SAID:
        for match in pattern.finditer(question):
            start, end = match.span()
            if _overlaps(taken, start, end):
                continue
            parts = match.groupdict()
            if set(parts) == {"month"} and not _is_month(question, match):
                continue
            taken.append((start, end))
            if (moment := _put_together(parts)) is not None:
                found.append(DateMention(start, end, moment))
    times = [match for match in _CLOCK.finditer(question) if not _overlaps(taken, *match.span())]
    if len(times) == 1 and len(found) == 1 and len(found[0].moment) == len("2026-03-01"):
        clock = f"{int(times[0]['hour']):02}:{times[0]['minute']}"
        merged = f"{found[0].moment}T{clock}"
        if parse_moment(merged) is not None:
            return [replace(found[0], moment=merged), DateMention(*times[0].span(), merged)]
    return found


def _overlaps(taken: Iterable[tuple[int, int]], start: int, end: int) -> bool:
    return any(start < last and first < end for first, last in taken)


def _is_month(question: str, match: re.Match[str]) -> bool:
    word = match["month"]
    return (
        word.lower() not in _WORDS_TOO
        or (word[0].isupper() and match.start() > 0)
        or bool(_MONTH_FOLLOWS.search(question, 0, match.start()))
    )


def _put_together(parts: dict[str, str | None]) -> str | None:
    """Builds an ISO 8601 string from the parts of a date; None if there is no such day or time."""
    year, month = parts.get("year"), parts.get("month")
    if year is not None and len(year) == 2:
        year = f"{'19' if int(year) >= _OLDEST_OF_TWO_DIGITS else '20'}{year}"
    number = None if month is None else _MONTH_NUMBERS.get(month.lower()) or int(month)
    day, hour = parts.get("day"), parts.get("hour")
    try:
        # 2000 stands for a missing year, since it is a leap year.
        clock = time(int(hour or 0), int(parts.get("minute") or 0), int(parts.get("second") or 0))
        moment = datetime.combine(date(int(year or 2000), number or 1, int(day or 1)), clock)
    except ValueError:
        return None
    text = moment.isoformat()
    length = 4 if number is None else 7 if day is None else 10 if hour is None else 16
    if parts.get("second") is not None:
        length = 19
    return text[:length] if year is not None else f"--{text[5:length]}"

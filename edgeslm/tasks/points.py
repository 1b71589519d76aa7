"""Message clusters: messages that say the same, counted, are the points of a digest. No model decides.

What changes from one message to the next (times, addresses, numbers, what stands in quotes) is masked, as
parsers of logs do (Drain, He et al. 2017, section 3.B). Messages of as many words are then parted at the
position with the fewest different words, as IPLoM does (Makanju et al. 2009, section 3.2), until what is left
differs only at positions that hold many words, which are parameters. So the points don't depend on the order
of the messages, and a message belongs to exactly one.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

WORDS: Final = 40
"""Of a message that are compared; what comes behind them is cut off."""
HIDDEN: Final = "*"
"""Stands for what differs between the messages of a point."""
FEWEST_VALUES: Final = 3
"""A position with fewer different words holds no parameter."""
LEAST_ALIKE: Final = 0.5
"""Which part of the words, besides what is masked, all messages of a point share (Drain's ``st``)."""

_TIME = r"\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?"
_STAMP = (
    rf"\[?\d{{4}}[-/]\d{{2}}[-/]\d{{2}}(?:[T ]{_TIME}(?:\s?(?:Z|[+-]\d{{2}}:?\d{{2}}))?)?\]?"
    r"|\[?(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),? )?(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
    rf" [ \d]?\d {_TIME}(?: \d{{4}})?\]?"
    rf"|\[?\d{{1,2}}/[A-Z][a-z]{{2}}/\d{{4}}:{_TIME}(?: [+-]\d{{4}})?\]?"
)
_QUOTED = r"\"[^\"\n]{0,400}\"|(?<!\w)'[^'\n]{0,400}'(?!\w)"
_TOKEN: Final = re.compile(rf"(?:{_STAMP})(?=\s|$|[,;:])[,;:]?|(?:{_QUOTED}|\S)+")
_MASKED: Final = re.compile(
    rf"(?P<name>\"[^\"\n]{{0,400}}\"(?=:))|{_STAMP}|{_QUOTED}"  # the names of JSON stay
    # Addresses of mail. Each run of such characters is looked at once: a word may be a message of a MiB.
    r"|(?<![\w.+-])[\w.+-]++@[\w-]+(?:\.[\w-]+)*"
    r"|[a-z][a-z+.-]{0,30}+://\S+"
    r"|[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"
    r"|(?<![\w:])(?:[0-9a-fA-F]{0,4}:){2,7}(?:[0-9a-fA-F]{1,4}|(?:\d{1,3}\.){3}\d{1,3})?(?![\w:])"
    r"|(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]\w)(?::\d+)?"
    r"|0[xX][0-9a-fA-F]+|\b(?=[a-f]*\d)(?=\d*[a-f])[0-9a-fA-F]{8,}\b"
    r"|[-+]?\d+(?:[.,:]\d+)*"
)


@dataclass(frozen=True, slots=True)
class SummaryPoint:
    """What the messages with these ``numbers`` (from 0, in their order) all say; ``*`` where they differ."""

    text: str
    numbers: tuple[int, ...]

    @property
    def count(self) -> int:
        return len(self.numbers)


def make_points(messages: Sequence[str]) -> list[SummaryPoint]:
    """Every message in exactly one point; what was said most often first, then what was said first."""
    rows = [_read(message) for message in messages]
    by_length: dict[int, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        by_length[len(row)].append(number)
    groups = [group for numbers in by_length.values() for group in _parted(numbers, rows)]
    points = [SummaryPoint(_text([rows[number] for number in group]), tuple(group)) for group in groups]
    return sorted(points, key=lambda point: (-point.count, point.numbers))


def mask(word: str) -> str:
    """A word without what changes from message to message."""
    return _MASKED.sub(lambda match: match["name"] or HIDDEN, word)


_Row = list[tuple[str, str]]
"""The words of a message, each as it stands and masked."""


def _read(message: str) -> _Row:
    row: _Row = []
    for match in _TOKEN.finditer(message):
        if len(row) == WORDS:
            row.append(("…", "…"))
            break
        row.append((match[0], mask(match[0])))
    return row


def _parted(numbers: list[int], rows: Sequence[_Row]) -> list[list[int]]:
    """Groups of messages of as many words that say the same."""
    columns = [
        Counter(rows[number][place][1] for number in numbers) for place in range(len(rows[numbers[0]]))
    ]
    varied = [place for place, column in enumerate(columns) if len(column) > 1]
    if not varied:
        return [numbers]
    words = [place for place, column in enumerate(columns) if set(column) != {HIDDEN}]
    values = min(len(columns[place]) for place in varied)
    are_alike = len(words) - len(varied) >= LEAST_ALIKE * len(words)
    if are_alike and values >= FEWEST_VALUES and values > math.sqrt(len(numbers)):
        return [numbers]
    place = next(place for place in varied if len(columns[place]) == values)
    groups: dict[str, list[int]] = defaultdict(list)
    for number in numbers:
        groups[rows[number][place][1]].append(number)
    return [part for group in groups.values() for part in _parted(group, rows)]


def _text(rows: Sequence[_Row]) -> str:
    """What all of the messages have in common, as much of it as there is."""
    words = []
    for column in zip(*rows, strict=True):
        if len({word for word, _ in column}) == 1:
            words.append(column[0][0])
        elif len({masked for _, masked in column}) == 1:
            words.append(column[0][1])
        else:
            words.append(HIDDEN)
    return " ".join(" ".join(words).split())

"""Message clustering: groups messages with the same word pattern; the groups are the points of a digest.

Variable parts (times, addresses, numbers, quoted text) are masked, as in log parsers (Drain, He et al., 2017,
section 3.B). Messages with equal word counts are then split at the position with the fewest distinct words,
as in IPLoM (Makanju et al., 2009, section 3.2). Splitting ends when messages of a group differ only at
positions with many distinct words, which are parameters. The result doesn't depend on the order of messages,
and each message is in exactly one group.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

WORDS: Final = 40
"""Maximum number of words of a message that are compared; further words are ignored."""
HIDDEN: Final = "*"
"""Mask that replaces variable parts of a message, and words that differ within a group."""
FEWEST_VALUES: Final = 3
"""A position in a group's messages is a parameter only if at least this many distinct words occur there."""
LEAST_ALIKE: Final = 0.5
"""Minimum share of unmasked words that all messages of a group have in common (Drain's ``st``)."""

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
    # Mail addresses. Possessive, so that matching stays linear: one word may be a whole message of a MiB.
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
    """A group of messages.

    ``text``: the words that the messages share, with ``*`` where they differ. ``numbers``: indexes of the
    messages, ascending.
    """

    text: str
    numbers: tuple[int, ...]

    @property
    def count(self) -> int:
        return len(self.numbers)


def make_points(messages: Sequence[str]) -> list[SummaryPoint]:
    """Groups messages with the same word pattern. Each group is a point of the digest, and each message is in
    exactly one group.

    :return: the points, those with the most messages first; points of equal size are in the order of their
        first messages.
    """
    rows = [_read(message) for message in messages]
    by_length: dict[int, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        by_length[len(row)].append(number)
    groups = [group for numbers in by_length.values() for group in _parted(numbers, rows)]
    points = [SummaryPoint(_text([rows[number] for number in group]), tuple(group)) for group in groups]
    return sorted(points, key=lambda point: (-point.count, point.numbers))


def mask(word: str) -> str:
    """A word with its variable parts masked."""
    return _MASKED.sub(lambda match: match["name"] or HIDDEN, word)


_Row = list[tuple[str, str]]
"""The words of a message: for each, the original word and the masked word."""


def _read(message: str) -> _Row:
    row: _Row = []
    for match in _TOKEN.finditer(message):
        if len(row) == WORDS:
            row.append(("…", "…"))
            break
        row.append((match[0], mask(match[0])))
    return row


def _parted(numbers: list[int], rows: Sequence[_Row]) -> list[list[int]]:
    """Splits messages with equal word counts into groups; ``numbers`` are their indexes."""
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
    """The words that messages share, with the mask ``*`` where they differ."""
    words = []
    for column in zip(*rows, strict=True):
        if len({word for word, _ in column}) == 1:
            words.append(column[0][0])
        elif len({masked for _, masked in column}) == 1:
            words.append(column[0][1])
        else:
            words.append(HIDDEN)
    return " ".join(" ".join(words).split())

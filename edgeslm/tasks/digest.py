"""Message digest: groups messages by content and counts the messages of each group, without a model.

A model writes only the summary text; sentences that no group (point) supports are dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from edgeslm.errors import InvalidRequest, plural
from edgeslm.tasks.points import HIDDEN, make_points
from edgeslm.tasks.statements import Statement, join
from edgeslm.tasks.support import Evidence, content_words

MOST_POINTS: Final = 20
"""Maximum number of points in a result; the messages of all further points are counted in ``others``."""
TOLD_POINTS: Final = 3
"""Number of points listed in the summary text if no sentence of the model is usable."""
FEWEST: Final = 3
"""Minimum number of different content words in a model's sentence; sentences with fewer words are dropped."""
POINT_CHARACTERS: Final = 300
"""Maximum length of a point's text, in characters."""
_FIELDS: Final = ("id", "text", "at")


@dataclass(frozen=True, slots=True)
class Messages:
    """Messages to summarise.

    ``at``: time of each message as its sender wrote it; empty if unknown. ``dropped``: number of further
    messages, whose text was not kept.
    """

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    at: tuple[str, ...]
    dropped: int = 0


def read_messages(value: Mapping[str, Any]) -> Messages:
    """The messages of an input object. A message without an id gets its number, counted from 1, as its id.

    :raises InvalidRequest: the object isn't ``{"messages": [{"id", "text", "at"}, ...], "dropped": n}``.
    """
    found = value.get("messages")
    dropped = value.get("dropped", 0)
    if not set(value) <= {"messages", "dropped"} or not isinstance(found, list) or not found:
        raise InvalidRequest('an input object of summarize is {"messages": [{"text", "id", "at"}, ...]}')
    if type(dropped) is not int or dropped < 0:
        raise InvalidRequest("dropped must be the number of messages that are missing")
    for number, message in enumerate(found, 1):
        if not isinstance(message, Mapping) or not {"text"} <= set(message) <= set(_FIELDS):
            raise InvalidRequest(f"message {number} must have a text, and may have an id and at, no more")
        if not all(isinstance(field, str) for field in message.values()):
            raise InvalidRequest(f"message {number}: text, id and at must be texts")
    return Messages(
        tuple(message.get("id", str(number)) for number, message in enumerate(found, 1)),
        tuple(message["text"] for message in found),
        tuple(message.get("at", "") for message in found),
        dropped,
    )


class Digest:
    def __init__(self, messages: Messages) -> None:
        self._messages = messages
        self._points = make_points(messages.texts)
        self._texts = [_short(point.text) for point in self._points]

    @property
    def evidence(self) -> tuple[Evidence, Sequence[str]]:
        """The texts of the result's points, as sources for the support check, and the names of these
        sources."""
        told = self._texts[:MOST_POINTS]
        return Evidence(told), [f"points[{number}]" for number in range(len(told))]

    def shown(self, most: int) -> str:
        """Input for the model, about ``most`` characters: the points, most frequent first, without counts.

        Counts are left out because models mix up numbers; the result has the true counts anyway.
        """
        lines: list[str] = []
        for text in self._texts[:MOST_POINTS]:
            most -= len(text) + 1
            if lines and most < 0:
                break
            lines.append(text)
        return "\n".join(lines)

    def told(self, said: Iterable[Statement]) -> list[Statement]:
        """Drops statements with fewer than :data:`FEWEST` different content words, and statements that
        contain ``*``, the placeholder for variable words."""
        return [one for one in said if HIDDEN not in one.text and len(set(content_words(one.text))) >= FEWEST]

    def result(self, said: Sequence[Statement]) -> dict[str, Any]:
        """The result of the request; ``said`` are the statements of the model that the points support."""
        messages, points = self._messages, self._points
        told = points[:MOST_POINTS]
        total = len(messages.ids)
        head = plural(total, "message")
        if said:
            text = f"{head}. {join(said)}"
            sources = list(dict.fromkeys(name for one in said for name in one.sources))
        else:
            often = [
                f"{point.count} times: {text}" if point.count > 1 else text
                for point, text in zip(points[:TOLD_POINTS], self._texts, strict=False)
            ]
            text = f"{head}. {'; '.join(often)}"
            sources = [f"points[{number}]" for number in range(len(often))]
        times = sorted(at for at in messages.at if at)
        return {
            "text": text,
            "sources": sources,
            "extractive": not said,
            "points": [
                {
                    "text": text,
                    "count": point.count,
                    "ids": [messages.ids[number] for number in point.numbers],
                }
                for point, text in zip(told, self._texts, strict=False)
            ],
            "others": total - sum(point.count for point in told),
            "messages": total,
            "dropped": messages.dropped,
            **({"from": times[0], "to": times[-1]} if times else {}),
        }


def digest_schema() -> dict[str, Any]:
    """JSON Schema of the properties that only digests have."""
    count = {"type": "integer", "minimum": 0}
    return {
        "points": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "text": {"type": "string"},
                    "count": {"type": "integer", "minimum": 1},
                    "ids": {"type": "array", "items": {"type": "string"}},
                },
                "required": ["text", "count", "ids"],
            },
        },
        "others": count,
        "messages": count,
        "dropped": count,
        "from": {"type": "string"},
        "to": {"type": "string"},
    }


def _short(text: str) -> str:
    return text if len(text) <= POINT_CHARACTERS else text[: POINT_CHARACTERS - 1] + "…"

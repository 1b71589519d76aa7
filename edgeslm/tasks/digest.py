"""Message digest: how often what was said, and by which messages.

The points and their counts are made here, without a model; it words only what they are about, and whatever it
says is held to the points. Knows no engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from edgeslm.errors import InvalidRequest
from edgeslm.tasks.points import HIDDEN, make_points
from edgeslm.tasks.statements import Statement, join
from edgeslm.tasks.support import Evidence, content_words

MOST_POINTS: Final = 20
"""Of a result; the messages behind others are counted together."""
TOLD_POINTS: Final = 3
"""Of the text, where the model has nothing to say that holds."""
FEWEST: Final = 3
"""Words of content that a sentence has which tells something."""
POINT_CHARACTERS: Final = 300
"""Of a point that are shown."""
_FIELDS: Final = ("id", "text", "at")


@dataclass(frozen=True, slots=True)
class Messages:
    """``at`` are times as texts, for those who read the result; ``dropped`` more came that nobody kept."""

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    at: tuple[str, ...]
    dropped: int = 0


def read_messages(value: Mapping[str, Any]) -> Messages:
    """The messages of an input object. Those without an id are called by their number, from 1.

    :raises InvalidRequest: it isn't ``{"messages": [{"id", "text", "at"}, ...], "dropped": n}``.
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
        """The points as sources, with their names."""
        told = self._texts[:MOST_POINTS]
        return Evidence(told), [f"points[{number}]" for number in range(len(told))]

    def shown(self, most: int) -> str:
        """What the model is shown, ``most`` characters: the points, the most frequent first, without counts.

        A model that sees numbers mixes them up; the result has them from here.
        """
        lines: list[str] = []
        for text in self._texts[:MOST_POINTS]:
            most -= len(text) + 1
            if lines and most < 0:
                break
            lines.append(text)
        return "\n".join(lines)

    def told(self, said: Iterable[Statement]) -> list[Statement]:
        """What of ``said`` tells something: not what only repeats a pattern, or a word or two of it."""
        return [one for one in said if HIDDEN not in one.text and len(set(content_words(one.text))) >= FEWEST]

    def result(self, said: Sequence[Statement]) -> dict[str, Any]:
        """``said`` is what the model says of the points that they support."""
        messages, points = self._messages, self._points
        told = points[:MOST_POINTS]
        total = len(messages.ids)
        head = f"{total} message{'' if total == 1 else 's'}"
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
    """JSON Schema of what the result of a digest has beside those of other summaries."""
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

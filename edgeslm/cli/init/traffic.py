"""What passes at a broker: groups of topics with the same kind of payload, and the field with the text. Pure.

Topics that differ in one level and have the same kind of payload are one group, with ``+`` in this level.
"""

from __future__ import annotations

import json
import statistics
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

MOST_TOPICS: Final = 2_000
MOST_SAMPLES: Final = 20
"""Payloads that are kept of one topic."""
LARGEST: Final = 8_192
"""Larger payloads are counted but not kept, in bytes."""
DEPTH: Final = 3
WORDS: Final = 2.5
"""Mean number of words from which on a text counts as language."""

Kind = Literal["text", "object", "number", "other", "binary"]
Key = tuple[tuple[str, ...], Kind, str | None]
"""Levels of a topic, kind of payload, and path of the text."""


@dataclass(slots=True)
class _Topic:
    count: int = 0
    retained: int = 0
    kinds: Counter[Kind] = field(default_factory=Counter)
    samples: list[Any] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Group:
    """Topics of one kind. ``fields`` are the paths of a JSON payload's fields, most frequent first;
    ``text`` is the path of the field with language, "" for the whole payload, None if there is no language.
    """

    filter: str
    topics: int
    count: int
    retained: int
    kind: Kind
    fields: Sequence[str]
    text: str | None
    samples: Sequence[Any]

    @property
    def example(self) -> str:
        """A payload, in one line."""
        sample = next((one for one in self.samples if one not in ("", None)), "")
        shown = sample if isinstance(sample, str) else json.dumps(sample, ensure_ascii=False)
        return " ".join(shown.split())

    def texts(self) -> list[str]:
        """The texts of the kept payloads."""
        if self.text is None:
            return []
        found = (_at(sample, self.text) for sample in self.samples)
        return [one for one in found if isinstance(one, str) and one.strip()]


class Traffic:
    """Collects messages; thread-safe while it does. ``own``: prefixes of topics that are left out."""

    def __init__(self, own: Sequence[str] = ("$", "edgeslm/v1/", "homeassistant/")) -> None:
        self._own = tuple(own)
        self._topics: dict[str, _Topic] = {}
        self._lock = threading.Lock()
        self.left_out = 0
        """Number of messages that weren't counted, since there were too many topics."""

    def add(self, topic: str, payload: bytes, retained: bool = False) -> None:
        if topic.startswith(self._own) or "{" in topic or not payload:  # a template in a configuration
            return
        kind, value = _read(payload)
        with self._lock:
            if topic not in self._topics and len(self._topics) >= MOST_TOPICS:
                self.left_out += 1
                return
            seen = self._topics.setdefault(topic, _Topic())
            seen.count += 1
            seen.retained += retained
            seen.kinds[kind] += 1
            if len(payload) <= LARGEST and len(seen.samples) < MOST_SAMPLES and kind != "binary":
                seen.samples.append(value)

    @property
    def count(self) -> int:
        with self._lock:
            return sum(one.count for one in self._topics.values())

    def groups(self) -> list[Group]:
        """The groups, those with language first, then by number of messages."""
        merged: dict[Key, list[str]] = {}
        for topic, seen in self._topics.items():
            kind = seen.kinds.most_common(1)[0][0]
            key = (tuple(topic.split("/")), kind, _text_field(kind, seen.samples))
            merged.setdefault(key, []).append(topic)
        for level in range(max((len(levels) for levels, *_ in merged), default=0) - 1, -1, -1):
            merged = _merged(merged, level)
        groups = [self._group(*key, topics) for key, topics in merged.items()]
        return sorted(groups, key=lambda one: (one.text is None, -one.count, one.filter))

    def _group(self, levels: tuple[str, ...], kind: Kind, text: str | None, topics: Sequence[str]) -> Group:
        seen = [self._topics[topic] for topic in topics]
        samples = [sample for one in seen for sample in one.samples]
        paths = Counter(path for sample in samples for path, _ in _leaves(sample) if path)
        return Group(
            "/".join(levels),
            len(topics),
            sum(one.count for one in seen),
            sum(one.retained for one in seen),
            kind,
            [path for path, _ in paths.most_common()],
            text,
            samples,
        )


def _merged(groups: Mapping[Key, list[str]], level: int) -> dict[Key, list[str]]:
    """The groups, with those that differ only in this level merged."""
    alike: dict[Any, list[tuple[tuple[str, ...], Kind, str | None]]] = {}
    for levels, kind, text in groups:
        rest = (levels[:level], levels[level + 1 :], len(levels), kind, text)
        alike.setdefault(rest if level < len(levels) else (levels, kind, text), []).append(
            (levels, kind, text)
        )
    found = {}
    for keys in alike.values():
        if len(keys) == 1:
            found[keys[0]] = groups[keys[0]]
            continue
        levels, kind, text = keys[0]
        topics = [topic for key in keys for topic in groups[key]]
        found[((*levels[:level], "+", *levels[level + 1 :]), kind, text)] = topics
    return found


def _read(payload: bytes) -> tuple[Kind, Any]:
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return "binary", None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return ("text", text) if text.isprintable() or text.strip() else ("binary", None)
    if isinstance(value, dict):
        return "object", value
    if isinstance(value, str):
        return "text", value
    return ("number", value) if isinstance(value, int | float) else ("other", value)


def _leaves(value: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Paths and values of the fields of a JSON object, ``after.label`` for nested ones."""
    if not isinstance(value, dict):
        yield path, value
        return
    for name, inner in value.items():
        if name.isidentifier():
            if isinstance(inner, dict) and depth < DEPTH - 1:
                yield from _leaves(inner, f"{path}.{name}" if path else name, depth + 1)
            else:
                yield f"{path}.{name}" if path else name, inner


def _at(value: Any, path: str) -> Any:
    for name in path.split(".") if path else ():
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _text_field(kind: Kind, samples: Sequence[Any]) -> str | None:
    """The field with the most words a value, if these are language."""
    if kind not in ("text", "object"):
        return None
    words: dict[str, list[int]] = {}
    for sample in samples:
        for path, value in _leaves(sample):
            if isinstance(value, str):
                letters = [word for word in value.split() if any(map(str.isalpha, word))]
                words.setdefault(path, []).append(len(letters))
    means = {
        path: statistics.fmean(counts) for path, counts in words.items() if 2 * len(counts) >= len(samples)
    }
    best = max(means, key=means.__getitem__, default=None)
    return best if best is not None and means[best] >= WORDS else None

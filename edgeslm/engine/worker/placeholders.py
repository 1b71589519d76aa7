"""Placeholders: what a chat template shows instead of untrusted texts, which are encoded apart."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from edgeslm.engine.calls import Text

HOLE = "\ue000{:06}\ue001"
"""Placeholder for a text, made of private-use characters, which no template contains. Placeholders sort as
their numbers."""
HOLES = re.compile("\ue000(\\d+)\ue001")
_TYPES: Final = frozenset({"object", "array", "string", "number", "integer", "boolean", "null"})
"""Types of a JSON Schema, which templates compare and may write in capitals."""


class Holes:
    """The untrusted texts of a prompt, each with a placeholder. ``once`` are the numbers of the texts that a
    template must show once."""

    def __init__(self) -> None:
        self.texts: list[Text] = []
        self.once: list[int] = []

    def add(self, text: Text) -> str:
        self.texts.append(text)
        return HOLE.format(len(self.texts) - 1)


class JsonObject(dict[str, Any]):
    """A JSON object that a template shows: ``tojson`` writes it as one placeholder. Its texts are
    placeholders too, but for those of ``plain`` and the types of a schema.

    :param names: its keys are names that the request chose, such as those of arguments, and become
        placeholders too, which sort as the names do.
    """

    def __init__(self, real: Mapping[str, Any], holes: Holes, *, names: bool = False, **plain: Any) -> None:
        keys = {name: name for name in real}
        if names:
            keys = {name: holes.add(Text(name)) for name in sorted(real, key=str.lower)}
        super().__init__(
            {
                keys[name]: value
                if name == "type" and not names and _names_types(value)
                else _shown(value, holes, names=name == "properties" and not names)
                for name, value in real.items()
            }
            | plain
        )
        self._real, self._holes = real, holes

    def placeholder(self, **settings: Any) -> str:
        return self._holes.add(Text(json.dumps(self._real, ensure_ascii=False, **settings)))


def _names_types(value: Any) -> bool:
    kinds = value if isinstance(value, list) else [value]
    return all(isinstance(kind, str) and kind in _TYPES for kind in kinds)


class Arguments(JsonObject):
    """The arguments of a call: all keys are names that the request chose."""

    def __init__(self, real: Mapping[str, Any], holes: Holes) -> None:
        super().__init__(real, holes, names=True)
        for key, value in zip(self, real.values(), strict=True):
            self[key] = _argument(value, holes)


def _argument(value: Any, holes: Holes) -> Any:
    if isinstance(value, dict):
        return Arguments(value, holes)
    return [_argument(item, holes) for item in value] if isinstance(value, list) else _shown(value, holes)


def _shown(value: Any, holes: Holes, *, names: bool = False) -> Any:
    if isinstance(value, dict):
        return JsonObject(value, holes, names=names)
    if isinstance(value, list):
        return [_shown(item, holes) for item in value]
    return holes.add(Text(value)) if isinstance(value, str) else value


def to_json(value: Any, **settings: Any) -> str:
    """The filter ``tojson`` of templates."""
    if isinstance(value, JsonObject):
        return value.placeholder(**settings)
    if isinstance(value, list) and any(isinstance(item, JsonObject) for item in value):
        return f"[{', '.join(to_json(item, **settings) for item in value)}]"
    return json.dumps(value, ensure_ascii=False, **settings)

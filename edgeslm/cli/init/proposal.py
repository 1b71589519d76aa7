"""The configuration that ``edgeslm init`` writes: one route, its task, and what they need. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from edgeslm.cli.init.traffic import Group

Purpose = Literal["label", "fields", "digest", "remember"]
PURPOSES: Final[Mapping[Purpose, str]] = {
    "label": "give each message one of your labels",
    "fields": "find fields in each message, such as a machine and a temperature",
    "digest": "summarise the messages of each hour",
    "remember": "keep the messages, to search them and ask questions",
}
TYPES: Final = ("string", "number", "integer", "boolean")


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user wants done with the messages of a group. ``labels`` have their meanings, ``fields`` their
    types."""

    purpose: Purpose
    labels: Mapping[str, str]
    fields: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Place:
    """Where the node runs: its name, broker, folders, and bundles (None if there are none)."""

    node: str
    broker: Mapping[str, str]
    state_dir: str
    decoder: str
    encoder: str | None


def parse_labels(text: str) -> dict[str, str]:
    """``repair=broken, leaking or loose; sales`` -> each label with its meaning.

    ``;`` ends a label. A comma does so too, unless it is within a meaning: after a part with ``=``, a part
    without it continues the meaning.

    :raises ValueError: fewer than two labels, or one twice.
    """
    found: dict[str, str] = {}
    for section in text.split(";"):
        last = None
        for part in filter(None, map(str.strip, section.split(","))):
            name, is_new, meaning = part.partition("=")
            if last is not None and not is_new:
                found[last] = f"{found[last]}, {part}".removeprefix(", ")
                continue
            name = name.strip()
            if not name or name in found:
                raise ValueError(f"the label {name!r} is empty, or named twice")
            found[name] = meaning.strip()
            last = name if is_new else None
    if len(found) < 2:
        if ";" not in text and "=" in text and "," in text:
            raise ValueError("two labels or more are needed: a comma continues a meaning, and ; ends it")
        raise ValueError("two labels or more are needed, such as: normal, warning, critical")
    return found


def parse_fields(text: str) -> dict[str, str]:
    """``machine, temperature_c:number`` -> each field with its JSON type.

    :raises ValueError: no field, one twice, or an unknown type.
    """
    found: dict[str, str] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, _, kind = part.partition(":")
        name, kind = name.strip(), kind.strip() or "string"
        if not re.fullmatch(r"[A-Za-z_]\w{0,63}", name) or name in found:
            raise ValueError(f"the field {name!r} must be a name of letters, digits and _, named once")
        if kind not in TYPES:
            raise ValueError(f"the type of {name} must be one of {', '.join(TYPES)}")
        found[name] = kind
    if not found:
        raise ValueError("a field is needed, such as: machine, temperature_c:number")
    return found


def input_template(group: Group) -> str | None:
    """Template of the text in a message; None for the whole payload."""
    return f"{{{{ payload.{group.text} }}}}" if group.text else None


def output_topic(group: Group, purpose: Purpose) -> str | None:
    """Topic of the result: that of the message with one level more. None for a digest, whose topic would be
    among those that the route reads."""
    if purpose in ("digest", "remember"):
        return None
    levels = [
        f"{{{{ topic[{number}] }}}}" if level == "+" else level
        for number, level in enumerate(group.filter.split("/"))
    ]
    return "/".join([*levels, purpose])


def task_name(purpose: Purpose) -> str:
    return {"label": "label", "fields": "fields", "digest": "digest", "remember": "find"}[purpose]


def write(group: Group, wish: Wish, place: Place) -> str:
    """The configuration file."""
    is_kept = wish.purpose == "remember"
    lines = [
        "# Written by edgeslm init. Check it with: edgeslm check FILE; run it with: edgeslm run FILE",
        f"node: {json.dumps(place.node)}             # unique on the broker",
        "broker:",
        *(f"  {key}: {_text(value)}" for key, value in place.broker.items()),
        f"state_dir: {_text(place.state_dir)}        # data kept across restarts",
    ]
    if not is_kept:
        lines += ["models:", f"  small: {{bundle: {_text(place.decoder)}}}"]
        if wish.purpose == "label":
            lines.append(_encoder(place.encoder))
    elif place.encoder is not None:
        lines += ["models:", f"  encoder: {{bundle: {_text(place.encoder)}}}"]
    if is_kept:
        path = _text(f"{place.state_dir}/messages")
        encoder = "" if place.encoder is None else ", encoder: encoder"
        lines += ["knowledge:", f"  messages: {{path: {path}{encoder}}}"]
    lines += ["tasks:", *_task(wish), "routes:", *_route(group, wish)]
    return "\n".join(lines) + "\n"


def _encoder(bundle: str | None) -> str:
    """The model that heads need; without a bundle, a comment that says how to add it."""
    if bundle is None:
        return "  # encoder: {bundle: FOLDER}  # for console: {teach: {}}; edgeslm-export starter makes one"
    return f"  encoder: {{bundle: {_text(bundle)}}}  # for edgeslm teach and console: {{teach: {{}}}}"


def _task(wish: Wish) -> list[str]:
    name = task_name(wish.purpose)
    if wish.purpose == "label":
        return [
            f"  {name}:",
            "    kind: classify",
            "    model: small           # untrained: train it on your own messages (docs/guides/training.md)",
            "    labels:",
            *(f"      {_text(label)}: {_text(meaning)}" for label, meaning in wish.labels.items()),
        ]
    if wish.purpose == "fields":
        properties = {field: {"type": kind} for field, kind in wish.fields.items()}
        schema = {"type": "object", "properties": properties, "required": list(wish.fields)}
        return [
            f"  {name}:",
            "    kind: extract",
            "    model: small           # untrained: train it on your own messages (docs/guides/training.md)",
            f"    schema: {json.dumps(schema, ensure_ascii=False)}",
        ]
    if wish.purpose == "digest":
        return [f"  {name}: {{kind: summarize, model: small, max_tokens: 60}}"]
    return [
        f"  {name}: {{kind: search, knowledge: [messages]}}",
        "  ask: {kind: answer, knowledge: [messages]}",
    ]


def _route(group: Group, wish: Wish) -> list[str]:
    template, topic = input_template(group), output_topic(group, wish.purpose)
    lines = [f"  - from: {_text(group.filter)}"]
    if template is not None:
        lines.append(f"    input: {_text(template)}")
    if wish.purpose == "remember":
        lines += ["    remember: messages", "    keep_s: 2592000       # 30 days"]
    else:
        lines.append(f"    task: {task_name(wish.purpose)}")
    if topic is not None:
        lines.append(f"    to: {_text(topic)}")
    if wish.purpose == "digest":
        lines.append("    window: {every: 1 h}   # published on edgeslm/v1/NODE/event/digest")
    if group.retained == group.count:
        lines.append("    accept_retained: true  # all messages that were heard were retained")
    return lines


def _text(value: str) -> str:
    """A YAML scalar: plain where that is safe, quoted otherwise."""
    if re.fullmatch(r"[A-Za-z/][\w./-]*", value) and value.lower() not in _WORDS:
        return value
    return json.dumps(value, ensure_ascii=False)


_WORDS: Final = ("true", "false", "yes", "no", "on", "off", "null", "y", "n")

"""MQTT discovery for Home Assistant: builds one retained message per entity of a node.

Topics are ``<prefix>/<component>/<node>/<entity>/config``, which every version of Home Assistant understands;
discovery messages for whole devices need version 2024.11. An empty message removes an entity. Pure.

The fields are documented at https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery, and on the pages
of ``sensor.mqtt`` and ``binary_sensor.mqtt``.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeslm import __version__
from edgeslm.protocol.topic_filters import overlap

if TYPE_CHECKING:
    from edgeslm.config.route_sections import Route
    from edgeslm.config.schema import Config

_TEXT = "r.text | default('', true) | truncate(250, true, '…', 0)"
_VALUES = {
    "classify": "r.label",
    "extract": "value_json.status",
    "answer": f"({_TEXT}) or 'none'",
    "summarize": _TEXT,
    "generate": _TEXT,
    "embed": "value_json.status",
    "search": "r.passages | count",
}
"""Maps a kind of task to the template of an entity's state; in the template, ``r`` is an ``ok`` result.
States have up to 255 characters.
"""
_WHOLE_TEXT = "text=(r.text | default('', true))[:4000]"
_SOURCES = "sources=r.{} | default([]) | map(attribute='source') | list"
_ATTRIBUTES = {
    "classify": "label=r.label | default(none), confidence=r.confidence | default(none), "
    "taught=r.taught | default(true) if r else none",
    "extract": "fields=r.fields | default(none), confidence=r.confidence | default(none)",
    "answer": f"{_WHOLE_TEXT}, {_SOURCES.format('citations')}",
    "summarize": _WHOLE_TEXT,
    "generate": _WHOLE_TEXT,
    "search": "text=(r.passages | default([]) | map(attribute='text') | first | default(''))[:4000], "
    + _SOURCES.format("passages"),
}
_ALL_ATTRIBUTES = (
    "status=value_json.status, id=value_json.id, code=(value_json.error | default({})).code | default(none), "
    "topic=value_json.topic | default(none)"
)
_ICONS = {"classify": "mdi:label", "extract": "mdi:form-textbox", "search": "mdi:magnify"}
MOST_FIELDS = 32
"""Maximum number of a schema's fields that get an entity of their own."""
_UNITS = {
    r"temp(erature)?_c|celsius": ("°C", "temperature"),
    r"temp(erature)?_f|fahrenheit": ("°F", "temperature"),
    r"percent|pct": ("%", None),
    r"voltage_v|volts?": ("V", "voltage"),
    r"current_a|amps?|amperes?": ("A", "current"),
    r"power_w|watts?": ("W", "power"),
    r"kw": ("kW", "power"),
    r"bar": ("bar", "pressure"),
    r"hpa": ("hPa", "pressure"),
    r"kpa": ("kPa", "pressure"),
    r"psi": ("psi", "pressure"),
    r"mm": ("mm", "distance"),
    r"cm": ("cm", "distance"),
    r"km": ("km", "distance"),
    r"kg": ("kg", "weight"),
    r"hz": ("Hz", "frequency"),
    r"rpm": ("rpm", None),
    r"ppm": ("ppm", None),
}
"""Maps the end of a numeric field's name to its unit and its device class in Home Assistant."""
_IS_AVAILABLE = "{{ 'online' if value_json.state in ['online', 'draining'] else 'offline' }}"


def status_topic(prefix: str) -> str:
    """Default topic on which Home Assistant publishes ``online`` when it starts."""
    return f"{prefix}/status"


def entity_filter(prefix: str, base: str) -> str:
    """Topic filter of a node's discovery messages; the node's login must be allowed to publish them."""
    return f"{prefix}/+/{_node_id(base)}/+/config"


def announcements(
    config: Config, kinds: Mapping[str, str], schemas: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """A node's discovery messages by topic; empty without ``discovery.prefix``.

    :param kinds: kind of each task, by name. :param schemas: JSON Schemas of the tasks that extract fields.
    """
    prefix = config.discovery.prefix
    if prefix is None:
        return {}
    node = _node_id(config.base)
    common = {
        "qos": 1,
        "device": {
            "identifiers": [node],
            "name": config.node,
            "manufacturer": "edgeslm",
            "model": "edgeslm node",
            "sw_version": __version__,
        },
        "origin": {"name": "edgeslm", "sw_version": __version__},
    }
    available = {"availability": [{"topic": f"{config.base}/state", "value_template": _IS_AVAILABLE}]}
    found = {}
    for component, name, fields in _entities(config, kinds, schemas):
        unique_id = f"{node}_{name}"
        whole = {"unique_id": unique_id, **fields, **common}
        found[f"{prefix}/{component}/{node}/{name}/config"] = (
            whole if name == "state" else {**whole, **available}  # shows itself that the node is offline
        )
    return found


_Entity = tuple[str, str, dict[str, Any]]
"""An entity: its Home Assistant component, its id within the node, and its discovery fields."""


def _entities(
    config: Config, kinds: Mapping[str, str], schemas: Mapping[str, Mapping[str, Any]]
) -> Iterator[_Entity]:
    for task, kind in kinds.items():
        results = _Results(task, kind, schemas.get(task, {}))
        yield from results.entities("task", task, f"Task {task}", f"{config.base}/res/{task}")
    for route in config.routes:
        name, task = route.name or "", route.task or ""
        if task not in kinds:
            continue
        results = _Results(task, kinds[task], schemas.get(task, {}))
        topic = route_filter(config.base, route)
        if topic[0] not in "+#":  # any topic
            yield from results.entities("route", name, f"Route {name}", topic)
        for wanted in config.discovery.topics:
            if overlap(wanted.split("/"), topic.split("/")):
                title = f"Route {name} {_distinction(wanted, topic)}"
                yield from results.entities("topic", f"{name}/{wanted}\0", title, wanted)
    yield from _diagnostics(config.base)


@dataclass(frozen=True, slots=True)
class _Results:
    """A task's results: the task's name, its kind, and the JSON Schema of its fields."""

    task: str
    kind: str
    schema: Mapping[str, Any]

    def entities(self, place: str, name: str, title: str, topic: str) -> Iterator[_Entity]:
        """Entities that show the results on a topic or topic filter: one for the result, one for each field.
        ``place`` and ``name`` make their ids."""
        yield "sensor", f"{place}_{_slug(name)}", _results(self.task, self.kind, title, topic)
        for field, component, shown in _fields(self.task, self.schema, topic):
            yield component, f"{place}_{_slug(f'{name}/{field}')}", {"name": f"{title} {field}", **shown}


def _distinction(wanted: str, topic: str) -> str:
    """What a topic filter says more than that of the route, such as ``gate`` for ``cameras/gate/label``."""
    levels, pattern = wanted.split("/"), topic.split("/")
    told = [level for level, known in zip(levels, pattern, strict=False) if known == "+" and level != "+"]
    return " ".join(told) if told and "#" not in pattern else wanted


def _results(task: str, kind: str, name: str, topic: str) -> dict[str, Any]:
    """Discovery fields of an entity that shows the results of a task on a topic or topic filter.

    Messages that aren't results of the task leave the state unchanged.
    """
    begin = f"{{% if {_is_mine(task)} %}}{{% set r = value_json.result | default({{}}) %}}"
    state = f"{{{{ ({_VALUES[kind]}) if value_json.status == 'ok' else value_json.status }}}}"
    attributes = ", ".join(part for part in (_ALL_ATTRIBUTES, _ATTRIBUTES.get(kind)) if part)
    return {
        "name": name,
        "icon": _ICONS.get(kind, "mdi:text"),
        "state_topic": topic,
        "value_template": f"{begin}{state}{{% else %}}{{{{ this.state }}}}{{% endif %}}",
        "json_attributes_topic": topic,
        "json_attributes_template": f"{begin}{{{{ dict({attributes}) | to_json }}}}"
        "{% else %}{{ this.attributes | to_json }}{% endif %}",
    }


def _is_mine(task: str) -> str:
    """Condition of a template: whether a message is a result of the task."""
    return f"value_json is defined and value_json is mapping and value_json.task == '{task}'"


def _fields(task: str, schema: Mapping[str, Any], topic: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Name, component and discovery fields of the entities that show single fields: texts, numbers, booleans
    and enumerations. An ``ok`` result without the field makes the state unknown; other messages leave it."""
    begin = (
        f"{{% if {_is_mine(task)} and value_json.status == 'ok' "
        "and (value_json.result | default({})).fields is mapping %}"
    )
    properties = schema.get("properties")
    for name, about in list(properties.items() if isinstance(properties, Mapping) else ())[:MOST_FIELDS]:
        found = _field(name, about) if isinstance(about, Mapping) else None
        if found is None:
            continue
        component, state, otherwise, shown = found
        value = f"{{% set v = value_json.result.fields[{_literal(name)}] | default(none) %}}"
        template = f"{begin}{value}{{{{ {state} }}}}{{% else %}}{{{{ {otherwise} }}}}{{% endif %}}"
        yield name, component, {"state_topic": topic, "value_template": template, **shown}


def _field(name: str, about: Mapping[str, Any]) -> tuple[str, str, str, dict[str, Any]] | None:
    """Component, templates of the state and of an unchanged state, and discovery fields; None for a field
    that can't be a state. In the template ``v`` is the field's value; an empty state is ignored."""
    kinds = about.get("type")
    kind = kinds if isinstance(kinds, str) else next((one for one in kinds or () if one != "null"), None)
    values = [one for one in about.get("enum") or () if one is not None]
    if values and all(isinstance(one, str) and one and len(one) <= 250 for one in values):
        options = _literal(values)
        state = f"v if v in {options} else none"
        return "sensor", state, f"this.state if this.state in {options} else none", _enumeration(values)
    if kind in ("number", "integer"):
        shown = {"icon": "mdi:numeric", "state_class": "measurement", **_unit_of(name)}
        return "sensor", "v if v is number else none", "''", shown
    if kind == "boolean":
        return "binary_sensor", "('ON' if v else 'OFF') if v is boolean else none", "''", {}
    if kind == "string":
        text = "v | truncate(250, true, '…', 0) if v is string and v else none"
        return "sensor", text, "this.state", {"icon": "mdi:form-textbox"}
    return None


def _literal(value: Any) -> str:
    """A text or a list of texts in a template. Without ``\\u``, which Jinja takes for half a character."""
    return json.dumps(value, ensure_ascii=False)


def _enumeration(values: list[str]) -> dict[str, Any]:
    return {"icon": "mdi:form-dropdown", "device_class": "enum", "options": list(dict.fromkeys(values))}


def _unit_of(name: str) -> dict[str, Any]:
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|[^A-Za-z]+", "_", name).lower()
    for end, (unit, device_class) in _UNITS.items():
        if re.search(f"(^|_)({end})$", words):
            return _unit(unit, device_class)
    return {}


def route_filter(base: str, route: Route) -> str:
    """The narrowest topic filter that matches all result topics of a route."""
    if route.to is None:
        return f"{base}/event/{route.name}"
    from edgeslm.config.templates import topic_pattern  # apps that clear discovery messages have no Jinja

    levels = topic_pattern(route.to, route.source)
    return "/".join(levels[: levels.index("#") + 1] if "#" in levels else levels)


def _diagnostics(base: str) -> Iterator[_Entity]:
    """Entities of the node itself, from ``state`` and ``health``."""
    health = {"state_topic": f"{base}/health", "entity_category": "diagnostic"}
    attributes = {"json_attributes_topic": f"{base}/health"}
    number = {**health, "state_class": "measurement"}
    yield (
        *("sensor", "state"),
        {
            "name": "State",
            "icon": "mdi:state-machine",
            "state_topic": f"{base}/state",
            "value_template": "{{ value_json.state }}",
            "entity_category": "diagnostic",
        },
    )
    yield (
        *("binary_sensor", "alerts"),
        {
            "name": "Alerts",
            "device_class": "problem",
            "value_template": "{{ 'ON' if value_json.alerts else 'OFF' }}",
            "json_attributes_template": "{{ {'alerts': value_json.alerts} | to_json }}",
            **health,
            **attributes,
        },
    )
    for name, words, icon, value, fields in (
        ("queue", "Queue", "mdi:tray-full", "value_json.queue", {}),
        ("in_flight", "Running", "mdi:run", "value_json.in_flight", {}),
        ("latency", "Latency (95 %)", "mdi:timer", "value_json.latency_ms.p95 | default(none)", _unit("ms")),
        ("tokens", "Tokens", "mdi:speedometer", "value_json.tokens_per_s", _unit("tokens/s")),
        (
            *("results", "Results", "mdi:counter", "value_json.results.values() | sum"),
            {"state_class": "total_increasing"},
        ),
        (
            *("memory", "Memory", "mdi:memory", "(value_json.memory_bytes.values() | sum / 1048576) | round"),
            {
                "json_attributes_template": "{{ value_json.memory_bytes | to_json }}",
                **attributes,
                **_unit("MiB", "data_size"),
            },
        ),
        (
            *("temperature", "Temperature", "mdi:thermometer", "value_json.temperature_c"),
            _unit("°C", "temperature"),
        ),
    ):
        yield (
            *("sensor", name),
            {**number, "name": words, "icon": icon, "value_template": f"{{{{ {value} }}}}", **fields},
        )


def _unit(unit: str, device_class: str | None = None) -> dict[str, Any]:
    known = {"device_class": device_class} if device_class else {}
    return {"unit_of_measurement": unit, **known}


def _node_id(base: str) -> str:
    """The node's id in Home Assistant; unique per broker, since node names contain no ``_``."""
    prefix, _, node = base.rpartition("/v1/")
    return f"{_slug(prefix)}_{node}"


def _slug(name: str) -> str:
    """``name`` with only letters, digits, ``_`` and ``-``, as Home Assistant's topics require.

    A name whose characters were replaced gets a checksum, so that different names stay different.
    """
    plain = re.sub(r"[^a-zA-Z0-9_-]", "_", name)
    return plain if plain == name else f"{plain}_{zlib.crc32(name.encode()):08x}"

"""Feedback messages on ``<base>/feedback``, with the fields ``{"task", "input" or "id", "label" or
"fields"}``. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeslm.errors import InvalidRequest
from edgeslm.protocol.strict_json import decode_text, encode_json, parse_json


@dataclass(frozen=True, slots=True)
class Feedback:
    """The correct ``label`` or ``fields`` for the text ``input``, or for the request with this ``id``."""

    task: str
    input: str | None = None
    id: str | None = None
    label: str | None = None
    fields: Mapping[str, Any] | None = None


def encode_feedback(feedback: Feedback) -> bytes:
    """:raises InvalidRequest: a node would refuse this feedback."""
    fields = {
        "task": feedback.task,
        "input": feedback.input,
        "id": feedback.id,
        "label": feedback.label,
        "fields": feedback.fields,
    }
    payload = encode_json({name: value for name, value in fields.items() if value is not None})
    parse_feedback(payload)
    return payload


def parse_feedback(payload: bytes) -> Feedback:
    """:raises InvalidRequest: the payload isn't a valid feedback object."""
    value = parse_json(decode_text(payload))
    if not isinstance(value, dict):
        raise InvalidRequest("A feedback message is a JSON object.")
    if unknown := sorted(value.keys() - {"task", "input", "id", "label", "fields"}):
        raise InvalidRequest(f"A feedback message has no field {unknown[0]!r}.")
    for key in ("task", "input", "id", "label"):
        if key in value and (not isinstance(value[key], str) or not value[key].strip()):
            raise InvalidRequest(f"The field {key} of a feedback message must be a text that isn't empty.")
    if "task" not in value:
        raise InvalidRequest("A feedback message names its task.")
    if ("input" in value) == ("id" in value):
        raise InvalidRequest("A feedback message has the input, or the id of the request, and not both.")
    if ("label" in value) == ("fields" in value):
        raise InvalidRequest("A feedback message has a label, or fields, and not both.")
    if "fields" in value and not (isinstance(value["fields"], dict) and value["fields"]):
        raise InvalidRequest("The fields of a feedback message must be a JSON object that isn't empty.")
    return Feedback(**value)

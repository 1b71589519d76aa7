"""Configuration section of a route."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal, get_args

from pydantic import AfterValidator, Field, StringConstraints

from edgeslm.config.fields import MaxRate, Name, TopicFilter, WindowField
from edgeslm.config.remote_stages import Pattern
from edgeslm.config.sections import Section

EXACT_KINDS: Final = frozenset(get_args(Pattern))
"""Kinds of data that have an exact form; all others need a model."""
_KIND: Final = re.compile(r"\w+(?:[ _-]\w+)*")


def _check_kind(kind: str) -> str:
    if not _KIND.fullmatch(kind):
        raise ValueError("no kind of data: use words of letters and digits, such as street address")
    return kind


RedactedKind = Annotated[str, StringConstraints(max_length=64), AfterValidator(_check_kind)]
"""A kind of data in the words that a zero-shot model reads, such as ``street address``."""


class Route(Section):
    """A route: watches a topic, runs a task on each message and publishes the result."""

    name: Name | None = Field(
        default=None,
        description="Name in metrics and `event` topics; default: the task's or collection's, numbered if "
        "taken",
    )
    source: TopicFilter = Field(alias="from", description="MQTT topic filter to watch")
    task: str | None = Field(default=None, description="Task for the messages; optional with `remember`")
    remember: Name | None = Field(
        default=None,
        description="Collection that stores the messages for search",
    )
    keep_s: float | None = Field(
        default=None,
        gt=0,
        le=10 * 365 * 24 * 3600,
        description="Seconds until a remembered message expires; default: never",
    )
    input: str | None = Field(
        default=None,
        max_length=20_000,
        description="Template of the input; default: the whole payload",
    )
    to: str | None = Field(
        default=None,
        max_length=2_000,
        description="Template of the result's topic; default: `<base>/event/<name>`",
    )
    when: str | None = Field(
        default=None,
        max_length=2_000,
        description="Condition, such as `payload.level > 3`; other messages are skipped",
    )
    qos: Literal[0, 1, 2] = Field(default=1, description="QoS of results")
    retain: bool = Field(default=False, description="Retains results, for late subscribers")
    on_change: bool = Field(
        default=False, description="Publishes only results that differ from the topic's last one"
    )
    max_rate: MaxRate | None = Field(
        default=None,
        description="Rate limit: messages per second, or `6/min`, `100/h`; the rest is dropped",
    )
    window: WindowField | None = Field(
        default=None,
        description="Publishes a digest per window: `{last: 50}`, `{every: 15 min}` or `{on: TOPIC}`; "
        "`most` limits the last two",
    )
    redact: tuple[RedactedKind, ...] = Field(
        default=(),
        max_length=32,
        description="What is replaced in messages before the task, the collection and the window get them: "
        "`email`, `phone`, `iban`, `card`, `ip`, `mac`, `url`, `number` (four digits and more); "
        "with `redact_model` also others, such as `person`",
    )
    redact_model: Name | None = Field(
        default=None,
        description="Model that finds the kinds of `redact` without an exact form: a zero-shot encoder of "
        "kind `gliner`",
    )
    redact_threshold: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Lowest probability of what `redact_model` finds; default: the model's own",
    )
    accept_retained: bool = Field(
        default=False, description="Also reads retained messages, which the broker repeats at every start"
    )

    @property
    def exact_kinds(self) -> tuple[str, ...]:
        """The kinds of ``redact`` that have an exact form."""
        return tuple(kind for kind in self.redact if kind in EXACT_KINDS)

    @property
    def named_kinds(self) -> tuple[str, ...]:
        """The kinds of ``redact`` that ``redact_model`` finds."""
        return tuple(dict.fromkeys(kind for kind in self.redact if kind not in EXACT_KINDS))

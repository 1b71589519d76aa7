"""The sections of the configuration file: names, types, defaults and meanings, each in one place.

Frozen values that constructors take. ``edgeslm.config`` makes them from YAML, ``docs/config.md`` is tested
against them. What one key alone can get wrong is checked here; what several keys can, in
``edgeslm.config.validation``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints, ValidationInfo, field_validator

from edgeslm.config.fields import (
    ExampleOutput,
    FilePath,
    Labels,
    MaxRate,
    Name,
    Threads,
    TopicFilter,
    WindowField,
    node_name,
    stage_name,
    topic_prefix,
)
from edgeslm.config.sections import (
    Audit,
    Broker,
    Console,
    Control,
    Discovery,
    Journal,
    Limits,
    Metrics,
    Rollouts,
    Section,
    Signing,
    Tracing,
    Updates,
)
from edgeslm.config.task_kinds import ALLOWED, Kind, Option
from edgeslm.protocol.topic_filters import DEFAULT_PREFIX, base_topic

MAX_ROUTES = 256
"""Each is compared with each when loops are looked for."""

LEARNED = "learned"
"""The stage that what a task was taught is."""
NODE_STAGE = "node:"
"""Before ``NODE/TASK``: the stage that is a task of another node at the same broker."""

Overflow = Literal["error", "head", "tail", "middle"]
Power = Literal["performance", "balanced", "idle"]
Device = Literal["cpu", "cuda"]


class Model(Section):
    """A model to load: one worker process each, or several."""

    bundle: FilePath = Field(description="Folder that `edgeslm-export` wrote")
    threads: Threads = Field(
        default="auto",
        description="CPU threads: a number, or `auto`: what `edgeslm prepare` found fastest, else all",
    )
    workers: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Processes that compute it side by side, each with `threads` (`auto`: its share of the "
        "cores); more answer more requests where many wait, a single one takes longer",
    )
    device: Device = Field(
        default="cpu",
        description="What computes it: the `cpu`, or `cuda` where the installed onnxruntime-genai has it",
    )
    keep_alive_s: float | None = Field(
        default=None,
        ge=1,
        le=7 * 24 * 3600,
        description="Seconds without a request after which the model is unloaded until the next one",
    )


class Example(Section):
    """A message and what a model should make of it."""

    input: str = Field(min_length=1, max_length=20_000, description="A message as it comes in")
    output: ExampleOutput = Field(
        description="What to make of it: a label, an object with the fields, or the text"
    )


class Task(Section):
    """One thing that can be asked for: a kind, the model that does it, and what exactly."""

    kind: Kind | None = Field(
        default=None,
        description="What to do: `classify`, `extract`, `answer`, `summarize`, `generate`, `embed` or "
        "`search`; only a `learned` task may leave it out",
    )
    model: str | None = Field(
        default=None,
        description="Which of `models` does it; only `search` and a `learned` task may leave it out",
    )
    instruction: str | None = Field(
        default=None, min_length=1, max_length=20_000, description="What the model is told"
    )
    labels: Labels | None = Field(
        default=None, description="What `classify` chooses from: label to meaning, or a list; two or more"
    )
    examples: tuple[Example, ...] = Field(
        default=(), max_length=64, description="Worked examples that the decoder is shown"
    )
    checks: tuple[Example, ...] = Field(
        default=(),
        max_length=200,
        description="Messages whose answers are known: a model that is to take over must get as many right "
        "as the one at work",
    )
    output_schema: Mapping[str, Any] | None = Field(
        default=None, alias="schema", description="JSON Schema (2020-12, type object) that `extract` fills in"
    )
    verbatim: bool = Field(
        default=False,
        description="Strings of `extract` are words of the message, or parts of them; a decoder leaves them "
        "empty where none fits",
    )
    learned: FilePath | None = Field(
        default=None,
        description="Folder that `edgeslm-export tune` wrote: brings kind, labels or schema, and calibration",
    )
    adapter: FilePath | None = Field(
        default=None, description="Adapter bundle that `edgeslm-export adapter` made for the model's bundle"
    )
    mode: Literal["quote", "compose"] = Field(
        default="quote", description="How `answer` answers: `quote` the context, or `compose` a sentence"
    )
    knowledge: tuple[Name, ...] = Field(
        default=(), max_length=16, description="Which of `knowledge` `answer` and `search` look in"
    )
    passages: int = Field(
        default=5, ge=1, le=50, description="Passages that `search` finds, and that an `answer` may come from"
    )
    escalate: Annotated[str, AfterValidator(stage_name)] | None = Field(
        default=None,
        description="`node:NODE/TASK`, another node's task that questions go to which aren't answered here",
    )
    threshold: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Confidence below which the result is `abstained`; at 0 only learned fields that the "
        "schema requires and nothing fits are",
    )
    calibration: Literal["none", "contextual"] = Field(
        default="none",
        description="`contextual` takes away what a decoder would say to a message without content; only for "
        "`classify` that was not taught",
    )
    max_error: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Wanted share of wrong answers among those that are given: sets the threshold of a "
        "`learned` task by its calibration",
    )
    stages: tuple[Annotated[str, AfterValidator(stage_name)], ...] = Field(
        default=(),
        max_length=8,
        description="Who answers, each passing on what it isn't sure of: `learned`, names of `models`, "
        "`node:NODE/TASK`",
    )
    overflow: Overflow = Field(
        default="error",
        description="A text too long for the model is an `error`, or its `head`, its `tail` or both ends "
        "without the `middle` are kept; without this key `summarize` reads it in parts",
    )
    grounded: bool = Field(
        default=True, description="Sentences of `summarize` that the text doesn't support are left out"
    )
    allow: tuple[Option, ...] | None = Field(
        default=None, description="Options that senders of requests may set; the default depends on the kind"
    )
    max_tokens: int = Field(default=256, ge=1, le=1_000_000, description="Most new tokens in an output")
    temperature: float = Field(
        default=0.0, ge=0, le=10, description="Randomness; 0 takes the likeliest token"
    )
    top_p: float = Field(
        default=1.0, gt=0, le=1, description="Sample from the likeliest tokens up to this sum"
    )
    repetition_penalty: float = Field(
        default=1.0, ge=0.1, le=10, description="Above 1, tokens already used are made rarer"
    )
    seed: int | None = Field(
        default=None, ge=0, le=2**31 - 1, description="Makes sampling repeatable on one machine"
    )
    stop: tuple[Annotated[str, StringConstraints(min_length=1, max_length=200)], ...] = Field(
        default=(), max_length=16, description="Texts at which an output ends"
    )

    @property
    def allowed(self) -> frozenset[Option]:
        """The options that senders may set. A learned task without a kind counts as ``classify``."""
        return frozenset(self.allow if self.allow is not None else ALLOWED[self.kind or "classify"])


class Knowledge(Section):
    """A collection of documents that tasks look in, as `edgeslm knowledge add` makes one."""

    path: FilePath = Field(description="The collection's file; the suffix `.sqlite` may be left out")
    encoder: Name | None = Field(
        default=None,
        description="Which of `models` its passages are embedded with; without one only words are searched",
    )
    reader: Name | None = Field(
        default=None,
        description="Which of `models` reads the passages found with the question: `answer` then orders and "
        "judges them by it, too, and quotes the sentence that it points at",
    )
    watch: tuple[FilePath, ...] = Field(
        default=(),
        max_length=64,
        description="Files and folders that are added, brought up to date and removed while the node runs",
    )
    tables: bool = Field(
        default=False,
        description="Whether `answer` first tries to compute the answer from the cells of its CSV and JSON "
        "documents",
    )


class Route(Section):
    """Watch a topic, publish what a task makes of each message."""

    name: Name | None = Field(
        default=None,
        description="Name in counters and `event` topics; that of task or collection, numbered if taken",
    )
    source: TopicFilter = Field(alias="from", description="MQTT topic filter to watch")
    task: str | None = Field(
        default=None, description="Which of `tasks` reads the messages; may be left out beside `remember`"
    )
    remember: Name | None = Field(
        default=None,
        description="Which of `knowledge` keeps the messages, so that they are searched with the documents",
    )
    keep_s: float | None = Field(
        default=None,
        gt=0,
        le=10 * 365 * 24 * 3600,
        description="Seconds for which a remembered message is found; without an end if left out",
    )
    input: str | None = Field(
        default=None,
        max_length=20_000,
        description="Template of the text to read; the whole payload if left out",
    )
    to: str | None = Field(
        default=None,
        max_length=2_000,
        description="Template of the topic to publish to, else `<base>/event/<name>`",
    )
    when: str | None = Field(
        default=None,
        max_length=2_000,
        description="Condition, as `payload.level > 3`; other messages are skipped",
    )
    qos: Literal[0, 1, 2] = Field(default=1, description="MQTT quality of service of what is published")
    retain: bool = Field(
        default=False, description="Publish retained, so that late subscribers see the last result"
    )
    on_change: bool = Field(
        default=False, description="Publish only what differs from the last result on the same topic"
    )
    max_rate: MaxRate | None = Field(
        default=None,
        description="Most messages read, a number a second or `6/min`, `100/h`; the rest is dropped",
    )
    window: WindowField | None = Field(
        default=None,
        description="Gather messages and publish a digest of each window: `{last: 50}`, `{every: 15 min}` or "
        "`{on: TOPIC}`; `most` bounds the last two",
    )
    accept_retained: bool = Field(
        default=False, description="Also read retained messages, which the broker repeats at every start"
    )


class Pool(Section):
    """The pool that this node is a member of: nodes that share the requests to one set of topics."""

    name: Annotated[str, AfterValidator(node_name)] = Field(
        description="Name of the pool: `a-z`, `0-9` and `-`; the nodes that name it are its members",
        json_schema_extra={"pattern": "^(?!pool$)[a-z0-9-]{1,64}$"},
    )
    tasks: tuple[Name, ...] = Field(
        min_length=1, max_length=256, description="Which of `tasks` the node does for the pool"
    )
    by: Literal["share", "dispatcher"] = Field(
        default="share",
        description="Who hands requests out: the broker, by a shared subscription (`share`), or a process of "
        "`edgeslm dispatch`",
    )


def _default_replies(data: dict[str, Any]) -> tuple[str, ...]:
    prefix = data.get("prefix", DEFAULT_PREFIX)
    return (f"{prefix}/v1/+/res/#", f"{prefix}/v1/pool/+/res/#")


def default_state_dir() -> Path:
    """``$STATE_DIRECTORY`` (systemd; the first of several), then the XDG state folder."""
    if folder := os.environ.get("STATE_DIRECTORY", "").split(":")[0]:
        return Path(folder)
    if (folder := os.environ.get("XDG_STATE_HOME", "")).startswith("/"):
        return Path(folder) / "edgeslm"
    try:
        return Path.home() / ".local" / "state" / "edgeslm"
    except RuntimeError:
        return Path("/var/lib/edgeslm")


class Config(Section):
    """The whole file."""

    node: Annotated[str, AfterValidator(node_name)] = Field(
        description="Name of this node, unique on the broker: `a-z`, `0-9` and `-`",
        json_schema_extra={"pattern": "^(?!pool$)[a-z0-9-]{1,64}$"},
    )
    prefix: Annotated[str, AfterValidator(topic_prefix)] = Field(
        default=DEFAULT_PREFIX, description="First level (or levels) of the node's topics"
    )
    broker: Broker = Field(description="The MQTT broker and how to log in")
    models: Mapping[Name, Model] = Field(default={}, description="Models to load, by a name of your choice")
    tasks: Mapping[Name, Task] = Field(
        min_length=1, description="What can be asked for, by its name in topics"
    )
    knowledge: Mapping[Name, Knowledge] = Field(
        default={}, description="Collections of documents, by a name of your choice"
    )
    routes: tuple[Route, ...] = Field(
        default=(), max_length=MAX_ROUTES, description="Topics to watch without any client"
    )
    pool: Pool | None = Field(
        default=None, description="The pool of nodes that this one also serves; none if left out"
    )
    replies: tuple[TopicFilter, ...] = Field(
        default_factory=_default_replies,
        description="Topic filters within which a request may choose its reply topic",
        json_schema_extra={"default": list(_default_replies({"prefix": DEFAULT_PREFIX}))},
    )
    limits: Limits = Field(default=Limits(), description="What the node takes at most")
    control: Control = Field(default=Control(), description="Which commands the node takes over the bus")
    updates: Updates = Field(default=Updates(), description="How other bundles come to its models")
    rollouts: Rollouts | None = Field(
        default=None,
        description="The server whose rollouts `edgeslm rollout` takes part in; none if left out",
    )
    signing: Signing = Field(
        default=Signing(), validate_default=True, description="Whose bundles this node trusts"
    )
    journal: Journal = Field(
        default=Journal(), description="What of messages stays on this disk, and whether it is encrypted"
    )
    discovery: Discovery = Field(default=Discovery(), description="What Home Assistant is told of the node")
    audit: Audit = Field(default=Audit(), description="Who asked what when, without texts")
    metrics: Metrics = Field(default=Metrics(), description="Where Prometheus may ask for the node's figures")
    console: Console | None = Field(
        default=None, description="The console in the browser; without this section nothing listens"
    )
    tracing: Tracing = Field(default=Tracing(), description="Where traces of requests are sent")
    power: Power = Field(
        default="balanced",
        description="How threads of the engines wait for work: `performance` and `balanced` spin a while, "
        "`idle` sleeps at once",
    )
    durability: Literal["broker", "spool"] = Field(
        default="broker",
        description="Who keeps a message until it is answered: the `broker`, or the `spool` on this disk",
    )
    prepare: Literal["auto", "never"] = Field(
        default="auto",
        description="When decoders are laid out for this machine: `auto`, while the node has nothing to do, "
        "or `never` but by `edgeslm prepare`",
    )
    state_dir: FilePath = Field(
        default_factory=default_state_dir,
        description="Folder for what must survive a restart",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least important log lines to write; only `debug` may show texts"
    )

    @field_validator("signing")
    @classmethod
    def _settle_signing(cls, signing: Signing, info: ValidationInfo) -> Signing:
        updates = info.data.get("updates")
        is_sent = updates is not None and updates.are_from_afar
        return signing.settled(strangers=is_sent or info.data.get("rollouts") is not None)

    @field_validator("routes")
    @classmethod
    def _name_routes(cls, routes: tuple[Route, ...]) -> tuple[Route, ...]:
        taken = {route.name for route in routes if route.name}
        named: list[Route] = []
        for route in routes:
            own = route.task or route.remember or ""
            name, number = route.name or own, 1
            while route.name is None and name in taken:
                number += 1
                name = f"{own}-{number}"
            if route.window is not None and number > 1:  # it gathers under its name, which must stay its own
                raise ValueError(
                    f"number {len(named) + 1} has a window and no name, and {own} is taken: give it a name"
                )
            taken.add(name)
            named.append(route.model_copy(update={"name": name}))
        return tuple(named)

    @property
    def bundles(self) -> dict[str, Path]:
        """Every bundle that the file names, by what it is there."""
        models = {f"model {name}": model.bundle for name, model in self.models.items()}
        learned = {f"task {name}": task.learned for name, task in self.tasks.items() if task.learned}
        adapters = {
            f"adapter of task {name}": task.adapter for name, task in self.tasks.items() if task.adapter
        }
        return {**models, **learned, **adapters}

    @property
    def base(self) -> str:
        """The topic below which everything of this node lives."""
        return base_topic(self.prefix, self.node)

    @property
    def pool_requests(self) -> list[str]:
        """Levels of the filter of the requests to its pool; none if it has none."""
        return [*base_topic(self.prefix, "pool").split("/"), self.pool.name, "req", "+"] if self.pool else []

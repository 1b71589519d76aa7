"""Configuration schema: name, type, default and description of every key.

``edgeslm.config.loader`` builds these frozen sections from YAML; tests compare
``docs/reference/configuration.md`` with them. This module validates each key on its own;
``edgeslm.config.validation`` checks that the keys fit each other.
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
    LabelBias,
    Labels,
    Name,
    ReplyText,
    Threads,
    TopicFilter,
    node_name,
    topic_prefix,
)
from edgeslm.config.languages import Language
from edgeslm.config.remote_stages import ChatServer, RemoteStage, Stage
from edgeslm.config.route_sections import Route
from edgeslm.config.sections import (
    Audit,
    Broker,
    Control,
    Discovery,
    Feedback,
    Journal,
    Limits,
    Metrics,
    Pool,
    Rollouts,
    Section,
    Signing,
    Tracing,
    Updates,
)
from edgeslm.config.task_kinds import ALLOWED, Kind, Option
from edgeslm.config.web_sections import Api, Console
from edgeslm.protocol.topic_filters import DEFAULT_PREFIX, base_topic

MAX_ROUTES = 256
"""Maximum number of routes, since the search for loops compares every pair of routes."""

LEARNED = "learned"
"""Stage name of the bundle that a task's ``learned`` key names."""
NODE_STAGE = "node:"
"""Prefix of a stage ``node:NODE/TASK``, which is a task of another node."""

Overflow = Literal["error", "head", "tail", "middle"]
Power = Literal["performance", "balanced", "idle"]
Device = Literal["cpu", "cuda"]


class Model(Section):
    """A model to load, in one or more worker processes."""

    bundle: FilePath = Field(description="Folder made by `edgeslm-export`")
    threads: Threads = Field(
        default="auto",
        description="CPU threads; `auto`: as `edgeslm prepare` measured, else all cores",
    )
    workers: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Processes for this model, each with `threads` (`auto`: its share of the cores): more "
        "throughput under load, higher latency alone",
    )
    device: Device = Field(
        default="cpu",
        description="`cpu`, or `cuda` with an onnxruntime-genai that has it",
    )
    keep_alive_s: float | None = Field(
        default=None,
        ge=1,
        le=7 * 24 * 3600,
        description="Idle seconds before the model is unloaded until the next request",
    )


class Example(Section):
    """A message and its correct answer."""

    input: str = Field(min_length=1, max_length=20_000, description="A message")
    output: ExampleOutput = Field(description="Its answer: a label, an object with the fields, or text")


class Task(Section):
    """A task: its kind, its model, and the settings of that kind."""

    kind: Kind | None = Field(
        default=None,
        description="Kind of task; optional with `learned`",
    )
    model: str | None = Field(
        default=None,
        description="One of `models`; optional with `learned`, and for an `answer` that quotes "
        "`knowledge`; not for `search`",
    )
    instruction: str | None = Field(
        default=None, min_length=1, max_length=20_000, description="Instruction to the model"
    )
    labels: Labels | None = Field(
        default=None, description="Labels of `classify`: label to meaning, or a list; at least two"
    )
    examples: tuple[Example, ...] = Field(
        default=(), max_length=64, description="Few-shot examples for a decoder"
    )
    checks: tuple[Example, ...] = Field(
        default=(),
        max_length=200,
        description="Messages with known answers: a new bundle must get as many right as the current one",
    )
    output_schema: Mapping[str, Any] | None = Field(
        default=None, alias="schema", description="JSON Schema (2020-12, type object) of `extract`"
    )
    verbatim: bool = Field(
        default=False,
        description="Strings of `extract` must be words of the message, or parts of them; a decoder "
        "leaves them empty if none fits",
    )
    learned: FilePath | None = Field(
        default=None,
        description="Folder made by `edgeslm-export tune`, with kind, labels or schema, and calibration",
    )
    adapter: FilePath | None = Field(
        default=None, description="Adapter made by `edgeslm-export adapter` for the model's bundle"
    )
    mode: Literal["quote", "compose"] = Field(
        default="quote", description="Whether `answer` quotes (`quote`) or writes sentences (`compose`)"
    )
    knowledge: tuple[Name, ...] = Field(
        default=(), max_length=16, description="Collections that `answer` and `search` use"
    )
    passages: int = Field(
        default=5, ge=1, le=50, description="Passages that `search` returns, and that an `answer` may use"
    )
    reply: ReplyText | None = Field(
        default=None,
        description="What `generate` with `learned` answers to the result of its call, unless that is an "
        "error; by default, a model of `stages` words it",
    )
    error_reply: ReplyText | None = Field(
        default=None, description="What the same task answers if its call failed; default: as `reply`"
    )
    escalate: Stage | None = Field(
        default=None,
        description="`node:NODE/TASK` or `openai`: another node's task, or a server, for questions "
        "without an answer here",
    )
    threshold: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Minimum confidence; below it the result is `abstained`. At 0, only results without a "
        "required learned field are",
    )
    calibration: LabelBias = Field(
        default="feedback",
        description="Removes an untrained model's label bias: `feedback` as the node fits it to corrections, "
        "`contextual`, or the shares that `edgeslm-export calibrate` prints; for `classify`",
    )
    max_error: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Highest share of wrong answers among those given; sets the threshold of a `learned` "
        "task by its calibration",
    )
    stages: tuple[Stage, ...] = Field(
        default=(),
        max_length=8,
        description="Cascade: `learned`, names of `models`, `node:NODE/TASK` or `openai`; each stage passes "
        "on what it isn't sure of",
    )
    overflow: Overflow = Field(
        default="error",
        description="What to do with a text longer than the context: fail (`error`), or keep its `head`, its "
        "`tail`, or both ends (`middle` is cut). Without this key, `summarize` reads it in parts; other "
        "kinds fail",
    )
    grounded: bool = Field(
        default=True, description="Removes sentences of `summarize` that the text doesn't support"
    )
    allow: tuple[Option, ...] | None = Field(
        default=None, description="Options that senders may set; the default depends on the kind"
    )
    max_tokens: int = Field(default=256, ge=1, le=1_000_000, description="Maximum of new tokens")
    temperature: float = Field(
        default=0.0, ge=0, le=10, description="Sampling temperature; 0 takes the likeliest token"
    )
    top_p: float = Field(
        default=1.0, gt=0, le=1, description="Samples from the likeliest tokens with this total probability"
    )
    repetition_penalty: float = Field(
        default=1.0, ge=0.1, le=10, description="Above 1, makes repetition less likely"
    )
    seed: int | None = Field(
        default=None, ge=0, le=2**31 - 1, description="Makes sampling repeatable on one machine"
    )
    stop: tuple[Annotated[str, StringConstraints(min_length=1, max_length=200)], ...] = Field(
        default=(), max_length=16, description="Strings that end an output"
    )

    @property
    def needs_model(self) -> bool:
        """Whether the task needs a model besides those of its collections."""
        return self.kind != "search" and not (
            self.kind == "answer" and self.knowledge and self.mode == "quote"
        )

    @property
    def last_stage(self) -> str | RemoteStage | None:
        """The last stage; of ``answer``, what it escalates to."""
        return self.stages[-1] if self.stages else self.escalate

    @property
    def remote(self) -> ChatServer | None:
        """The server of the last stage, if it has one."""
        return self.last_stage.openai if isinstance(self.last_stage, RemoteStage) else None

    @property
    def allowed(self) -> frozenset[Option]:
        """The options that senders may set. A learned task without a kind counts as ``classify``."""
        return frozenset(self.allow if self.allow is not None else ALLOWED[self.kind or "classify"])


class Knowledge(Section):
    """A document collection that tasks search, created by `edgeslm knowledge add`."""

    path: FilePath = Field(description="The collection's file; the suffix `.sqlite` is optional")
    encoder: Name | None = Field(
        default=None,
        description="One of `models`, which embeds passages; without one, search is by words only",
    )
    reader: Name | None = Field(
        default=None,
        description="One of `models`, a reader or a decoder, that ranks passages for `answer`",
    )
    watch: tuple[FilePath, ...] = Field(
        default=(),
        max_length=64,
        description="Files and folders to keep in sync while the node runs",
    )
    language: Language | None = Field(
        default=None,
        description="Language of the documents as ISO 639-1 code; default: detected for each document",
    )
    tables: bool = Field(
        default=False,
        description="Lets `answer` compute answers from cells of CSV and JSON documents first",
    )


def _default_replies(data: dict[str, Any]) -> tuple[str, ...]:
    prefix = data.get("prefix", DEFAULT_PREFIX)
    return (f"{prefix}/v1/+/res/#", f"{prefix}/v1/pool/+/res/#")


def default_state_dir() -> Path:
    """The first folder in ``$STATE_DIRECTORY``, which systemd sets; if the variable is unset, the XDG state
    folder."""
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
        description="Name of the node, unique on the broker: `a-z`, `0-9` and `-`",
        json_schema_extra={"pattern": "^(?!pool$)[a-z0-9-]{1,64}$"},
    )
    prefix: Annotated[str, AfterValidator(topic_prefix)] = Field(
        default=DEFAULT_PREFIX, description="First level or levels of the node's topics"
    )
    broker: Broker = Field(description="The MQTT broker and the login")
    models: Mapping[Name, Model] = Field(default={}, description="Models, by a name of your choice")
    tasks: Mapping[Name, Task] = Field(min_length=1, description="Tasks, by their name in topics")
    knowledge: Mapping[Name, Knowledge] = Field(
        default={}, description="Document collections, by a name of your choice"
    )
    routes: tuple[Route, ...] = Field(
        default=(), max_length=MAX_ROUTES, description="Topics to watch without a client"
    )
    pool: Pool | None = Field(default=None, description="The pool that this node serves too")
    replies: tuple[TopicFilter, ...] = Field(
        default_factory=_default_replies,
        description="Topic filters that a request's reply topic must match",
        json_schema_extra={"default": list(_default_replies({"prefix": DEFAULT_PREFIX}))},
    )
    limits: Limits = Field(default=Limits(), description="Limits of queue, sizes and times")
    control: Control = Field(default=Control(), description="Commands over MQTT")
    feedback: Feedback = Field(default=Feedback(), description="Corrections over MQTT")
    updates: Updates = Field(default=Updates(), description="Where new bundles for the models come from")
    rollouts: Rollouts | None = Field(
        default=None,
        description="The hawkBit server for `edgeslm rollout`",
    )
    signing: Signing = Field(
        default=Signing(), validate_default=True, description="Trusted signatures of bundles"
    )
    journal: Journal = Field(default=Journal(), description="What is stored of messages, and its encryption")
    discovery: Discovery = Field(default=Discovery(), description="Home Assistant discovery")
    audit: Audit = Field(default=Audit(), description="Audit log, without texts")
    metrics: Metrics = Field(default=Metrics(), description="Metrics for Prometheus")
    console: Console | None = Field(default=None, description="The web console; off without this section")
    api: Api | None = Field(default=None, description="The HTTP API; off without this section")
    tracing: Tracing = Field(default=Tracing(), description="OpenTelemetry traces")
    power: Power = Field(
        default="balanced",
        description="How engine threads wait for work: `performance` and `balanced` spin for a while, "
        "`idle` sleeps at once",
    )
    durability: Literal["broker", "spool"] = Field(
        default="broker",
        description="Who keeps a message until it is answered: the `broker`, or the `spool` on this disk",
    )
    prepare: Literal["auto", "never"] = Field(
        default="auto",
        description="Weight prepacking: `auto` while the node is idle, `never` only by `edgeslm prepare`",
    )
    state_dir: FilePath = Field(
        default_factory=default_state_dir,
        description="Folder for data that survives restarts",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Lowest level to log; only `debug` may show texts"
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
            if route.window is not None and number > 1:  # stored windows are found by the route's name
                raise ValueError(
                    f"number {len(named) + 1} has a window and no name, and {own} is taken: give it a name"
                )
            taken.add(name)
            named.append(route.model_copy(update={"name": name}))
        return tuple(named)

    @property
    def bundles(self) -> dict[str, Path]:
        """Every bundle in the configuration, as a mapping from its use, such as ``model NAME``, to its
        path."""
        models = {f"model {name}": model.bundle for name, model in self.models.items()}
        learned = {f"task {name}": task.learned for name, task in self.tasks.items() if task.learned}
        adapters = {
            f"adapter of task {name}": task.adapter for name, task in self.tasks.items() if task.adapter
        }
        return {**models, **learned, **adapters}

    @property
    def base(self) -> str:
        """The base topic of this node, the prefix of all its topics."""
        return base_topic(self.prefix, self.node)

    @property
    def pool_requests(self) -> list[str]:
        """Levels of the topic filter for requests to the node's pool; an empty list if the node has no
        pool."""
        return [*base_topic(self.prefix, "pool").split("/"), self.pool.name, "req", "+"] if self.pool else []

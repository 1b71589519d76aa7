"""Configuration sections for broker, limits, updates, trust and monitoring. Pure.

Models, tasks, collections and routes are in ``edgeslm.config.schema``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from edgeslm.config.fields import (
    FilePath,
    ListenAddress,
    Name,
    TopicFilter,
    broker_url,
    http_url,
    listen_address,
    node_name,
    topic_prefix,
)


class Section(BaseModel):
    """Base of all sections: frozen, no unknown keys, no implicit conversions."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        hide_input_in_errors=True,
        protected_namespaces=(),
        defer_build=True,  # a validator for each section would take memory
    )


class Broker(Section):
    """Address of the MQTT broker, and the node's login. Passwords and keys are in separate files."""

    url: Annotated[str, AfterValidator(broker_url)] = Field(
        description="`mqtt://HOST[:PORT]`, or `mqtts://HOST[:PORT]` with TLS; default ports 1883 and 8883"
    )
    username: str | None = Field(default=None, min_length=1, description="User name")
    password_file: FilePath | None = Field(
        default=None, description="File with the password in its first line, such as a systemd credential"
    )
    ca_file: FilePath | None = Field(
        default=None, description="Trusted certificates (PEM) for `mqtts`; default: the system's"
    )
    cert_file: FilePath | None = Field(default=None, description="Client certificate (PEM) for mutual TLS")
    key_file: FilePath | None = Field(default=None, description="Key (PEM, no passphrase) of `cert_file`")
    client_id_file: FilePath | None = Field(
        default=None,
        description="File with the client id in its first line, default `PREFIX-NODE`. A login that knows "
        "the id can take over the session",
    )
    keepalive_s: int = Field(default=30, ge=1, le=65535, description="MQTT keep-alive in seconds")

    @property
    def _parts(self) -> SplitResult:
        return urlsplit(self.url)

    @property
    def tls(self) -> bool:
        return self._parts.scheme == "mqtts"

    @property
    def host(self) -> str:
        return self._parts.hostname or ""

    @property
    def port(self) -> int:
        return self._parts.port or (8883 if self.tls else 1883)


class Limits(Section):
    """Limits of queue, sizes, times and rates."""

    queue: int = Field(default=256, ge=1, le=65535, description="Requests held at a time, waiting or running")
    queue_bytes: int = Field(
        default=33_554_432,
        ge=1024,
        le=2**31,
        description="Bytes of the messages held at a time; beyond it `busy`",
    )
    packet_bytes: int = Field(
        default=1_048_576, ge=1024, le=268_435_455, description="Largest MQTT message in bytes"
    )
    request_timeout_s: float = Field(
        default=120.0, gt=0, le=86_400, description="Seconds until a request times out"
    )
    repeat_window_s: float = Field(
        default=3600.0,
        ge=0,
        le=31_536_000,
        description="Seconds for which answered requests are remembered for deduplication",
    )
    journal_bytes: int = Field(
        default=67_108_864,
        ge=65_536,
        le=268_435_455,
        description="Size of the journal in bytes; beyond it the oldest requests are forgotten",
    )

    sender_queue: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="Requests held for one sender while others ask too; default: half of `queue`, without "
        "a limit for senders without a reply topic",
    )
    sender_tokens_per_min: int | None = Field(
        default=None,
        ge=1,
        le=2**31,
        description="Rate limit in tokens per minute for one sender; default: none",
    )

    @property
    def qos0_queue(self) -> int:
        """Maximum number of QoS 0 requests in flight. They have a separate limit, since MQTT's flow control
        applies only to messages with QoS 1 or 2."""
        return max(1, self.queue // 4)


class Control(Section):
    """Commands that the node accepts over MQTT, from everyone who may publish to its `ctl` topics."""

    allow: tuple[Literal["ping", "log_level", "reload", "drain", "models", "feedback"], ...] = Field(
        default=(),
        description="Allowed commands on `<base>/ctl/<command>`: `ping`, `log_level`, `reload`, `drain`, "
        "`models`, `feedback`",
    )


class Feedback(Section):
    """Corrections over MQTT. Training never uses them before somebody accepts them."""

    senders: tuple[Name, ...] | None = Field(
        default=None,
        description="Senders whose corrections are kept, each from its topic `<base>/feedback/<sender>`; "
        "default: any client, from `<base>/feedback`",
    )


class Updates(Section):
    """Settings for replacing this node's models while the node runs."""

    watch: FilePath | None = Field(
        default=None,
        description="Folder whose bundles are activated: a folder or archive with a model's name",
    )
    sources: tuple[str, ...] = Field(
        default=(),
        description="Folders and `https://` addresses from which `models/stage` may take bundles; `mqtt` for "
        "those that `edgeslm models push` sends",
    )
    budget_bytes: int = Field(
        default=8_589_934_592, ge=1, description="Largest bundle in bytes, packed and unpacked"
    )
    ca_file: FilePath | None = Field(
        default=None, description="Trusted certificates (PEM) for `https://`; default: the system's"
    )
    older: bool = Field(
        default=False,
        description="Lets `models/activate` take a lower `release` with `older: true`",
    )
    slowest: float = Field(
        default=2.0,
        ge=1,
        le=100,
        description="Highest time per request of a new bundle, relative to the current one",
    )
    trial_s: float = Field(
        default=300.0,
        ge=0,
        le=7 * 24 * 3600,
        description="Seconds of trial, with rollback if the engine crashes or requests fail",
    )

    @property
    def are_from_afar(self) -> bool:
        """Whether bundles may come over the network."""
        return any(source == "mqtt" or source.startswith("https://") for source in self.sources)


class Rollouts(Section):
    """The rollout server that sends bundles to nodes: hawkBit, or another server that implements hawkBit's
    DDI API."""

    url: Annotated[str, AfterValidator(http_url)] = Field(
        description="Address of the server, such as `https://hawkbit.plant.local`"
    )
    tenant: Name = Field(default="DEFAULT", description="Tenant of the server")
    controller_id: Name | None = Field(
        default=None, description="Name of this node at the server; default: `node`"
    )
    token_file: FilePath | None = Field(default=None, description="File with the token in its first line")
    token: Literal["target", "gateway"] = Field(
        default="target", description="Kind of token: a target's or the gateway's"
    )
    cert_file: FilePath | None = Field(default=None, description="Client certificate (PEM) for mutual TLS")
    key_file: FilePath | None = Field(default=None, description="Key (PEM, no passphrase) of `cert_file`")
    ca_file: FilePath | None = Field(
        default=None, description="Trusted certificates (PEM); default: the system's"
    )
    allow_http: bool = Field(default=False, description="Allows `url` without TLS, which exposes the token")
    downloads: tuple[Annotated[str, AfterValidator(http_url)], ...] = Field(
        default=(),
        description="Addresses besides `url` from which bundles may come; they don't get the token",
    )
    models: Mapping[str, str] = Field(
        default={},
        description="The model of a software module with another name",
    )
    poll_s: float | None = Field(
        default=None,
        ge=1,
        le=86_400,
        description="Polling interval in seconds; default: as the server says",
    )
    timeout_s: float = Field(
        default=86_400.0,
        ge=1,
        le=30 * 86_400,
        description="Seconds until a rollout is abandoned, waiting for the server excluded",
    )
    confirm: bool = Field(
        default=False,
        description="Confirms rollouts that wait for confirmation; otherwise a person does at the server",
    )
    attributes: Mapping[str, str] = Field(default={}, description="Additional target attributes")

    @property
    def is_secure(self) -> bool:
        return self.url.startswith("https://")


class Signing(Section):
    """Trusted signatures of bundles."""

    unsigned: Literal["accept", "refuse"] | None = Field(
        default=None,
        description="`accept` or `refuse` bundles that none of `keys` signed. Default: `refuse` where "
        "`rollouts`, or `https://` or `mqtt` in `updates.sources` bring bundles, else `accept`",
    )
    require_signature: bool = Field(default=False, description="`true` is the same as `unsigned: refuse`")
    keys: tuple[FilePath, ...] = Field(
        default=(), description="Trusted public keys (PEM, P-256, P-384 or P-521)"
    )

    @property
    def refuses(self) -> bool:
        """Whether bundles without a trusted signature are refused."""
        return self.require_signature or self.unsigned == "refuse"

    def settled(self, *, strangers: bool) -> Signing:
        """Returns this section with the default of ``unsigned`` filled in. If ``unsigned`` is missing, and
        ``require_signature`` or ``strangers`` is true, ``unsigned`` becomes ``refuse``. Otherwise, the
        section is unchanged.

        :param strangers: whether the node may get bundles over the network.
        """
        if self.unsigned is not None or not (self.require_signature or strangers):
            return self
        return self.model_copy(update={"unsigned": "refuse"})

    def fault(self, *, strangers: bool) -> tuple[str, str] | None:
        """The key to change, and a message about the problem; None if the section is valid."""
        if self.require_signature and self.unsigned == "accept":
            return "unsigned", "accept contradicts require_signature: true; remove one of them"
        if not self.refuses or self.keys:
            return None
        sentence = "missing: list the public keys of those whose bundles may run here"
        if strangers:
            sentence += ", since whoever sends an unsigned bundle sends a program; or write unsigned: accept"
        return "keys", sentence


class Journal(Section):
    """What the journal stores of a request until it is answered, and what it stores afterwards for
    deduplication."""

    keep: Literal["full", "none"] = Field(
        default="full",
        description="`none` stores no texts: repeats run again, and what the node holds is lost if the "
        "broker is killed with it",
    )
    key_file: FilePath | None = Field(
        default=None,
        description="File with 32 bytes or 64 hexadecimal digits, such as a systemd credential, that "
        "encrypts the journal's texts",
    )


class Discovery(Section):
    """Home Assistant discovery."""

    prefix: Annotated[str, AfterValidator(topic_prefix)] | None = Field(
        default=None,
        description="Home Assistant's discovery prefix, usually `homeassistant`; off by default",
    )
    topics: tuple[TopicFilter, ...] = Field(
        default=(),
        max_length=100,
        description="Result topics of routes, or filters of such topics, that get an entity of their own",
    )


class Audit(Section):
    """Audit log of requests, without texts."""

    file: FilePath | None = Field(default=None, description="JSON lines file to append to; off by default")
    max_bytes: int = Field(
        default=10_000_000,
        ge=4096,
        le=2**31,
        description="Size at which the file is rotated to `.1`, `.2` and so on",
    )
    files: int = Field(default=5, ge=1, le=100, description="Files to keep, the newest included")


class Pool(Section):
    """The pool of this node: its members share the requests to the pool's topics."""

    name: Annotated[str, AfterValidator(node_name)] = Field(
        description="Name of the pool: `a-z`, `0-9` and `-`; its members are the nodes that name it",
        json_schema_extra={"pattern": "^(?!pool$)[a-z0-9-]{1,64}$"},
    )
    tasks: tuple[Name, ...] = Field(
        min_length=1, max_length=256, description="The `tasks` that the node serves for the pool"
    )
    by: Literal["share", "dispatcher"] = Field(
        default="share",
        description="Load balancer: the broker, by a shared subscription (`share`), or `edgeslm dispatch`",
    )


class Tracing(Section):
    """Where traces of requests are sent."""

    endpoint: Annotated[str, AfterValidator(http_url)] | None = Field(
        default=None,
        description="OpenTelemetry collector (OTLP over HTTP); off by default",
    )
    sample: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Share of requests to trace; requests that belong to a trace follow it",
    )


class Metrics(Section):
    """Metrics endpoint for Prometheus."""

    listen: ListenAddress | None = Field(
        default=None,
        description="Port on 127.0.0.1, or `HOST:PORT`, for `GET /metrics`; off by default",
    )

    @property
    def address(self) -> tuple[str, int] | None:
        return listen_address(self.listen) if self.listen is not None else None

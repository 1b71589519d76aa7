"""Configuration sections of a node's surroundings: its broker, its limits, whom it trusts.

What a node does, its models, tasks, collections and routes, is in ``edgeslm.config.schema``. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Annotated, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from edgeslm.config.fields import (
    FilePath,
    ListenAddress,
    Name,
    broker_url,
    host_name,
    http_url,
    listen_address,
    topic_prefix,
)


class Section(BaseModel):
    """Common to all sections: nothing unknown, nothing changed later, no silent conversions."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, hide_input_in_errors=True, protected_namespaces=()
    )


class Broker(Section):
    """The MQTT broker and how to log in. Secrets are in files only."""

    url: Annotated[str, AfterValidator(broker_url)] = Field(
        description="Address: `mqtt://HOST[:PORT]`, or `mqtts://HOST[:PORT]` with TLS; ports 1883 and 8883"
    )
    username: str | None = Field(default=None, min_length=1, description="User name to log in with")
    password_file: FilePath | None = Field(
        default=None, description="File whose first line is the password, such as a systemd credential"
    )
    ca_file: FilePath | None = Field(
        default=None, description="Certificates (PEM) to trust for `mqtts`; the system's if left out"
    )
    cert_file: FilePath | None = Field(default=None, description="Client certificate (PEM) for mutual TLS")
    key_file: FilePath | None = Field(default=None, description="Key (PEM, no passphrase) of `cert_file`")
    client_id_file: FilePath | None = Field(
        default=None,
        description="File whose first line is the name of the node's session at the broker, `PREFIX-NODE` if "
        "left out: who knows it and may log in can take the session over",
    )
    keepalive_s: int = Field(
        default=30, ge=1, le=65535, description="Seconds of silence before the broker is asked for a sign"
    )

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
    """What the node takes at most."""

    queue: int = Field(
        default=256, ge=1, le=65535, description="Requests held at a time, waiting ones included"
    )
    queue_bytes: int = Field(
        default=33_554_432,
        ge=1024,
        le=2**31,
        description="Bytes of the messages held at a time; more are `busy`",
    )
    packet_bytes: int = Field(
        default=1_048_576, ge=1024, le=268_435_455, description="Largest MQTT message that is read, in bytes"
    )
    request_timeout_s: float = Field(
        default=120.0, gt=0, le=86_400, description="Seconds before a request is given up"
    )
    repeat_window_s: float = Field(
        default=3600.0,
        ge=0,
        le=31_536_000,
        description="Seconds for which an answered request is remembered, so that a repeat isn't run again",
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
        description="Requests of one sender held at a time while others ask too; if left out half of "
        "`queue`, and of those that name no reply topic as many as there are",
    )
    sender_tokens_per_min: int | None = Field(
        default=None,
        ge=1,
        le=2**31,
        description="Tokens a minute that are read and written for one sender; without a limit if left out",
    )

    @property
    def qos0_queue(self) -> int:
        """Messages of QoS 0 held at a time, beside ``queue``: nothing holds their senders back."""
        return max(1, self.queue // 4)


Command = Literal["ping", "log_level", "reload", "drain", "models"]


class Control(Section):
    """Which commands the node takes over the bus. Whoever may publish to its `ctl` topics may give them."""

    allow: tuple[Command, ...] = Field(
        default=(),
        description="Commands on `<base>/ctl/<command>`: any of `ping`, `log_level`, `reload`, `drain`, "
        "`models`; none unless named here",
    )


class Updates(Section):
    """How other bundles come to this node's models while it runs."""

    watch: FilePath | None = Field(
        default=None,
        description="Folder in which bundles are taken up by themselves: a folder or archive that is named "
        "like a model",
    )
    sources: tuple[str, ...] = Field(
        default=(),
        description="Folders and `https://` addresses below which `models/stage` may name bundles",
    )
    budget_bytes: int = Field(
        default=8_589_934_592, ge=1, description="Most bytes that a bundle may have, packed and unpacked"
    )
    ca_file: FilePath | None = Field(
        default=None, description="Certificates (PEM) to trust for `https://`; the system's if left out"
    )
    older: bool = Field(
        default=False,
        description="Whether `models/activate` may name a lower `release` than was at work, with "
        "`older: true`",
    )
    slowest: float = Field(
        default=2.0,
        ge=1,
        le=100,
        description="Most time that a new bundle may take for a request, in times of the one at work",
    )
    trial_s: float = Field(
        default=300.0,
        ge=0,
        le=7 * 24 * 3600,
        description="Seconds for which a new bundle is watched, and taken back if its engine ends or its "
        "requests fail",
    )

    @property
    def are_from_afar(self) -> bool:
        """Whether bundles come over the network."""
        return any(source.startswith("https://") for source in self.sources)


class Rollouts(Section):
    """The server that sends bundles to this node and others: hawkBit, or another that speaks its DDI API."""

    url: Annotated[str, AfterValidator(http_url)] = Field(
        description="Address of the server, such as `https://hawkbit.plant.local`"
    )
    tenant: Name = Field(default="DEFAULT", description="Tenant of the server")
    controller_id: Name | None = Field(
        default=None, description="Name of this node there; that of the node if left out"
    )
    token_file: FilePath | None = Field(
        default=None, description="File whose first line is the token to log in with"
    )
    token: Literal["target", "gateway"] = Field(
        default="target", description="Whose token that is: this node's alone, or the gateway's"
    )
    cert_file: FilePath | None = Field(default=None, description="Client certificate (PEM) for mutual TLS")
    key_file: FilePath | None = Field(default=None, description="Key (PEM, no passphrase) of `cert_file`")
    ca_file: FilePath | None = Field(
        default=None, description="Certificates (PEM) to trust; the system's if left out"
    )
    allow_http: bool = Field(
        default=False, description="Whether `url` may be without TLS, which gives the token away"
    )
    downloads: tuple[Annotated[str, AfterValidator(http_url)], ...] = Field(
        default=(),
        description="Addresses below which bundles may lie, beside `url`; they don't get the token",
    )
    models: Mapping[str, str] = Field(
        default={},
        description="Which model a software module of the server is, where it isn't called like the model",
    )
    poll_s: float | None = Field(
        default=None,
        ge=1,
        le=86_400,
        description="Seconds between two questions to the server; as often as it says if left out",
    )
    timeout_s: float = Field(
        default=86_400.0,
        ge=1,
        le=30 * 86_400,
        description="Seconds after which a rollout that isn't over is given up here, those left out for "
        "which the server has it wait",
    )
    confirm: bool = Field(
        default=False, description="Confirm rollouts that wait for that; otherwise a person does it there"
    )
    attributes: Mapping[str, str] = Field(
        default={}, description="What the server is told of this node beside what it is"
    )

    @property
    def is_secure(self) -> bool:
        return self.url.startswith("https://")


class Signing(Section):
    """Whose bundles this node trusts."""

    unsigned: Literal["accept", "refuse"] | None = Field(
        default=None,
        description="What becomes of bundles that none of `keys` has signed: `accept`, or `refuse`. If left "
        "out they are refused where `rollouts` or `https://` in `updates.sources` bring them, else accepted",
    )
    require_signature: bool = Field(
        default=False, description="`true` is another way to write `unsigned: refuse`"
    )
    keys: tuple[FilePath, ...] = Field(
        default=(), description="Public keys (PEM, P-256, P-384 or P-521) whose signatures count"
    )

    @property
    def refuses(self) -> bool:
        """Whether a bundle needs a signature."""
        return self.require_signature or self.unsigned == "refuse"

    def settled(self, *, strangers: bool) -> Signing:
        """Refusing unsigned bundles where the configuration doesn't say otherwise.

        :param strangers: whether others than the owner send bundles.
        """
        if self.unsigned is not None or not (self.require_signature or strangers):
            return self
        return self.model_copy(update={"unsigned": "refuse"})

    def fault(self, *, strangers: bool) -> tuple[str, str] | None:
        """A key and what is wrong with it beside the others."""
        if self.require_signature and self.unsigned == "accept":
            return "unsigned", "accept contradicts require_signature: true; take one of them out"
        if not self.refuses or self.keys:
            return None
        sentence = "missing: list the public keys of those whose bundles may run here"
        if strangers:
            sentence += ", since whoever sends an unsigned bundle sends a program; or write unsigned: accept"
        return "keys", sentence


class Journal(Section):
    """What of messages stays on this disk until they are answered, and while repeats are recognised."""

    keep: Literal["full", "none"] = Field(
        default="full",
        description="`full`, or `none`: no text is written down, a repeat is run again, and what the node "
        "holds is lost when the broker is killed with it",
    )
    key_file: FilePath | None = Field(
        default=None,
        description="File with 32 bytes or 64 hexadecimal digits, such as a systemd credential: texts in the "
        "journal are encrypted with it",
    )


class Discovery(Section):
    """What Home Assistant is told of the node."""

    prefix: Annotated[str, AfterValidator(topic_prefix)] | None = Field(
        default=None,
        description="First levels of the topics on which Home Assistant is told of the node, by default "
        "`homeassistant` there; it is told nothing if left out",
    )


class Audit(Section):
    """Who asked what when, without texts."""

    file: FilePath | None = Field(
        default=None, description="File of JSON lines that is appended to; nothing is written if left out"
    )
    max_bytes: int = Field(
        default=10_000_000,
        ge=4096,
        le=2**31,
        description="Size from which on another file is begun; older ones have `.1`, `.2` and so on behind "
        "their name",
    )
    files: int = Field(default=5, ge=1, le=100, description="How many of them are kept, the newest included")


class Tracing(Section):
    """Where traces of requests are sent."""

    endpoint: Annotated[str, AfterValidator(http_url)] | None = Field(
        default=None,
        description="Address of an OpenTelemetry collector that takes OTLP over HTTP; no traces are sent if "
        "left out",
    )
    sample: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Share of the requests that are traced, but for those that come as part of a trace",
    )


class Metrics(Section):
    """Where Prometheus may ask for the node's figures."""

    listen: ListenAddress | None = Field(
        default=None,
        description="Port on 127.0.0.1, or `HOST:PORT`, where `GET /metrics` is answered; nothing listens "
        "if left out",
    )

    @property
    def address(self) -> tuple[str, int] | None:
        return listen_address(self.listen) if self.listen is not None else None


class Console(Section):
    """The console in the browser, and who gets in."""

    listen: ListenAddress = Field(
        default="127.0.0.1:8480",
        description="Port on 127.0.0.1, or `HOST:PORT`, to listen on; others than this machine reach it with "
        "TLS alone",
    )
    token_file: FilePath | None = Field(
        default=None,
        description="File whose first line is the token to sign in with; if left out, `console-token` in "
        "`state_dir`, made at the first start",
    )
    texts: bool = Field(
        default=False,
        description="Whether who is signed in may see the texts of single requests, which are then kept in "
        "memory",
    )
    hosts: tuple[Annotated[str, AfterValidator(host_name)], ...] = Field(
        default=(),
        max_length=32,
        description="Names by which browsers reach it, beside `localhost` and addresses",
    )
    cert_file: FilePath | None = Field(
        default=None, description="Certificate (PEM) to speak TLS with; without one it doesn't"
    )
    key_file: FilePath | None = Field(default=None, description="Key (PEM, no passphrase) of `cert_file`")
    https: bool = Field(default=False, description="Browsers reach it through a proxy that speaks TLS for it")

    @property
    def address(self) -> tuple[str, int]:
        return listen_address(self.listen)

    @property
    def is_local(self) -> bool:
        """Whether it listens for this machine alone."""
        host, _ = self.address
        try:
            return host == "localhost" or ip_address(host).is_loopback
        except ValueError:
            return False

    @property
    def is_secure(self) -> bool:
        """Whether browsers speak TLS."""
        return self.https or self.cert_file is not None

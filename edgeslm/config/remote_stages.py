"""Stages on an OpenAI-compatible server: the section ``openai``, its checks, and what it sends out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Discriminator, Field, Tag

from edgeslm.config.fields import FilePath, http_url, stage_name
from edgeslm.config.sections import Section
from edgeslm.config.templates import make_condition
from edgeslm.config.yaml_source import Path as KeyPath
from edgeslm.errors import TemplateError

if TYPE_CHECKING:
    from edgeslm.config.schema import Config

Fault = tuple[KeyPath, str]
Pattern = Literal["email", "phone", "iban", "card", "ip", "mac", "url", "number"]
SENDS: Mapping[str, str] = {
    "classify": "the message",
    "extract": "the message",
    "answer": "the question and the passages found for it",
    "generate": "the chat, with its tools and schema",
}
"""Kind of a task with such a stage -> what leaves this node."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class ChatServer(Section):
    """An OpenAI-compatible server and what may be sent to it."""

    url: Annotated[str, AfterValidator(http_url)] = Field(
        description="Address before `/chat/completions`, such as `https://llm.example.org/v1`"
    )
    model: str = Field(min_length=1, max_length=200, description="Name of the model on the server")
    key_file: FilePath | None = Field(
        default=None, description="File with the API key in its first line; read for each request"
    )
    ca_file: FilePath | None = Field(
        default=None, description="Trusted certificates (PEM); default: the system's"
    )
    timeout_s: float = Field(
        default=30.0, gt=0, le=3600, description="Seconds to wait for an answer; then this node's own counts"
    )
    only: str | None = Field(
        default=None,
        max_length=2000,
        description="Condition on `payload.input`, `payload.sender` and `payload.result` (this node's own); "
        "other requests aren't sent",
    )
    redact: tuple[Pattern, ...] = Field(
        default=(),
        description="What is replaced before it is sent, and put back in the answer: `email`, `phone`, "
        "`iban`, `card`, `ip`, `mac`, `url`, `number` (four digits and more)",
    )

    @property
    def host(self) -> str:
        """Host and port of the server."""
        return urlsplit(self.url).netloc

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine."""
        return urlsplit(self.url).hostname in LOOPBACK


class RemoteStage(Section):
    """A stage on a server that isn't a node."""

    openai: ChatServer = Field(description="An OpenAI-compatible server")

    def __str__(self) -> str:
        """The stage's name in results."""
        return f"openai:{self.openai.model}"


def _form(value: object) -> str:
    return "[name]" if isinstance(value, str) else "[server]"


Stage = Annotated[
    Annotated[str, AfterValidator(stage_name), Tag("[name]")] | Annotated[RemoteStage, Tag("[server]")],
    Discriminator(_form),
]
"""A stage: a name, or a server."""


def remote_faults(path: KeyPath, stage: RemoteStage, kind: str | None) -> Iterator[Fault]:
    """Yields every fault, with the path of the key to change."""
    server, where = stage.openai, (*path, "openai")
    if kind is not None and kind not in SENDS:
        yield path, f"openai is for {', '.join(SENDS)} only; remove it"
    if server.url.rstrip("/").endswith("/chat/completions"):
        yield (*where, "url"), "must end before /chat/completions"
    if server.key_file is not None and not (server.url.startswith("https://") or server.is_local):
        yield (*where, "url"), "without TLS the key can be read on the network: write https://"
    if server.ca_file is not None and not server.url.startswith("https://"):
        yield (*where, "ca_file"), "certificates need TLS: let url begin with https://"
    if server.only is not None:
        try:
            make_condition(server.only)
        except TemplateError as error:
            yield (*where, "only"), str(error)


def sending_notes(config: Config) -> list[str]:
    """What ``edgeslm check`` says of tasks that send something to a server."""
    found = []
    for name, task in config.tasks.items():
        if (server := task.remote) is not None:
            hidden = f", without {', '.join(server.redact)}" if server.redact else ""
            which = f", if {server.only}" if server.only else ""
            what = SENDS.get(task.kind or "classify", "the message")
            found.append(
                f"tasks.{name}: if this node isn't sure, it sends {what} to {server.host} "
                f"(model {server.model}){hidden}{which}"
            )
    return found


def read_key(file: Path) -> str:
    """The API key. :raises OSError: the file can't be read. :raises ValueError: its first line is no key."""
    key = file.read_text("utf-8").partition("\n")[0].strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError("its first line is no API key")
    return key

"""Configuration sections of the HTTP servers: the web console, teaching in it, and the HTTP API. Pure."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated

from pydantic import AfterValidator, Field

from edgeslm.config.fields import (
    ExportedTasks,
    FilePath,
    ListenAddress,
    Name,
    host_name,
    listen_address,
    network,
)
from edgeslm.config.sections import Section


class WebServer(Section):
    """An HTTP server of the node, which listens beyond loopback only with TLS, or for ``peers``."""

    listen: ListenAddress
    hosts: tuple[Annotated[str, AfterValidator(host_name)], ...] = Field(
        default=(),
        max_length=32,
        description="Host names that clients may use, besides `localhost` and IP addresses",
    )
    cert_file: FilePath | None = Field(default=None, description="Certificate (PEM) for TLS")
    key_file: FilePath | None = Field(default=None, description="Key (PEM, no passphrase) of `cert_file`")
    https: bool = Field(default=False, description="A TLS proxy stands in front")
    peers: tuple[Annotated[str, AfterValidator(network)], ...] = Field(
        default=(),
        max_length=32,
        description="IP addresses and networks that may connect; all, if there are none. With private ones "
        "of containers on this machine (up to /16, IPv6 /64), an address beyond loopback needs no TLS",
    )

    @property
    def address(self) -> tuple[str, int]:
        return listen_address(self.listen)

    @property
    def is_local(self) -> bool:
        """Whether the server listens on loopback only."""
        host, _ = self.address
        try:
            return host == "localhost" or ip_address(host).is_loopback
        except ValueError:
            return False

    @property
    def is_secure(self) -> bool:
        """Whether clients connect with TLS."""
        return self.https or self.cert_file is not None


class Teach(Section):
    """Teaching in the console: the messages that are kept for it, and the encoder for heads."""

    tasks: tuple[Name, ...] = Field(
        default=(),
        max_length=32,
        description="Tasks that may be taught; default: all of kind `classify` with labels",
    )
    keep_messages: int = Field(
        default=2000,
        ge=10,
        le=20_000,
        description="Messages kept of each task on this disk, the newest; encrypted if the journal is",
    )
    keep_days: float = Field(default=30.0, gt=0, le=3650, description="Days until a kept message is deleted")
    messages: FilePath | None = Field(
        default=None,
        description="Folder with recorded messages to label too: `TASK.jsonl` or `TASK.txt`",
    )
    encoder: Name | None = Field(
        default=None,
        description="One of `models`, an encoder that heads are trained on; default: the only one",
    )


class Console(WebServer):
    """The web console and its access control."""

    listen: ListenAddress = Field(
        default="127.0.0.1:8480",
        description="Port on 127.0.0.1, or `HOST:PORT`; addresses beyond loopback need TLS",
    )
    token_file: FilePath | None = Field(
        default=None,
        description="File with the token in its first line; default: `console-token` in `state_dir`, "
        "created at the first start",
    )
    texts: bool = Field(
        default=False,
        description="Lets signed-in users see texts of single requests, which are then kept in memory",
    )
    ingress: bool = Field(
        default=False,
        description="For Home Assistant's ingress: `peers` is the proxy that signs users in, so the console "
        "asks for no token",
    )
    teach: Teach | None = Field(
        default=None,
        description="Teaching in the console, which keeps messages of its tasks on this disk; off by default",
    )


class Api(WebServer):
    """The HTTP API in the dialects of OpenAI and Ollama, and its access control."""

    listen: ListenAddress = Field(
        default="127.0.0.1:8481",
        description="Port on 127.0.0.1, or `HOST:PORT`; addresses beyond loopback need TLS",
    )
    tokens: FilePath | None = Field(
        default=None,
        description="File with a line `NAME TOKEN` for each client; default: `api-tokens` in `state_dir`, "
        "created with one token at the first start",
    )
    anonymous: bool = Field(default=False, description="Takes requests without a token too; on loopback only")
    models: bool = Field(
        default=True, description="Offers each of `models` as `model:NAME`, besides the tasks"
    )
    mcp: ExportedTasks = Field(
        default=False,
        description="Tasks that are tools of MCP clients at `/mcp`: all (`true`), or those listed; needs the "
        "extra `mcp`",
    )

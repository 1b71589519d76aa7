"""hawkBit's Direct Device Integration API: parses the server's messages and encodes feedback. Pure.

The implementation follows the documentation of Eclipse hawkBit's DDI API v1 (its REST API reference, and the
classes of ``hawkbit-ddi-api``). Messages are untrusted: every field is checked, links must lead back to the
server, and unknown fields are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeVar
from urllib.parse import SplitResult, urlsplit

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from edgeslm.errors import InvalidRequest, RolloutError
from edgeslm.protocol.strict_json import decode_text, encode_json, parse_json

MOST_PARTS: Final = 32
"""Maximum number of software modules in a deployment, and of files in a module."""
MOST_DETAILS: Final = 500
"""Maximum length of a detail in feedback, in characters; hawkBit keeps 512 characters."""
MOST_VALUE: Final = 128
"""Number of characters that hawkBit keeps of an attribute's name or value."""

SET_SINCE_MS: Final = 1_700_000_000_000
"""Earliest plausible time, in milliseconds since 1970. If this board's clock shows an earlier time, the clock
was never set: feedback is then sent without a time, and the server uses its own clock."""

Handling = Literal["skip", "attempt", "forced"]
Execution = Literal[
    "closed", "proceeding", "canceled", "scheduled", "rejected", "resumed", "downloaded", "download"
]
Finished = Literal["success", "failure", "none"]

Text = Annotated[str, StringConstraints(max_length=512)]
Id = Annotated[str, StringConstraints(pattern=r"^-?[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]


class _Said(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True, populate_by_name=True)


class _Link(_Said):
    href: Annotated[str, StringConstraints(max_length=2048)]


class _Polling(_Said):
    sleep: Text = ""


class _Config(_Said):
    polling: _Polling = _Polling()


class _Links(_Said):
    deployment: _Link | None = Field(default=None, alias="deploymentBase")
    cancel: _Link | None = Field(default=None, alias="cancelAction")
    confirmation: _Link | None = Field(default=None, alias="confirmationBase")
    config_data: _Link | None = Field(default=None, alias="configData")
    installed: _Link | None = Field(default=None, alias="installedBase")


class Poll(_Said):
    """The server's answer to a poll, with links to what the node should do, such as a deployment or a
    cancellation."""

    config: _Config = _Config()
    links: _Links = Field(default=_Links(), alias="_links")

    @property
    def sleep_s(self) -> float | None:
        """Seconds until the next poll; None if the server gives no valid time."""
        found = re.fullmatch(r"(\d{1,3}):(\d{2}):(\d{2})", self.config.polling.sleep)
        return None if found is None else int(found[1]) * 3600.0 + int(found[2]) * 60 + int(found[3])


class _Hashes(_Said):
    sha256: Annotated[str, StringConstraints(pattern="^[0-9A-Fa-f]{64}$")] | None = None
    sha1: Annotated[str, StringConstraints(pattern="^[0-9A-Fa-f]{40}$")] | None = None
    md5: Annotated[str, StringConstraints(pattern="^[0-9A-Fa-f]{32}$")] | None = None


class _Downloads(_Said):
    https: _Link | None = Field(default=None, alias="download")
    http: _Link | None = Field(default=None, alias="download-http")


class Artifact(_Said):
    """A file of a software module."""

    filename: Text
    size: Annotated[int, Field(ge=0, lt=2**63)]
    hashes: _Hashes = _Hashes()
    links: _Downloads = Field(default=_Downloads(), alias="_links")

    @property
    def promised(self) -> dict[str, str]:
        """Hashes of the file in hexadecimal, by algorithm."""
        return {name: value for name, value in self.hashes if value}

    def url(self, *, allow_http: bool) -> str | None:
        """The download address, with TLS if the server offers it. Servers may put an ``http`` address into
        the link named ``https``, and the reverse, so both links are examined."""
        offered = [link.href for link in (self.links.https, self.links.http) if link is not None]
        schemes = ("https://", "http://") if allow_http else ("https://",)
        return next((one for scheme in schemes for one in offered if one.startswith(scheme)), None)


class _Metadata(_Said):
    key: Text
    value: Annotated[str, StringConstraints(max_length=4096)] = ""


class SoftwareModule(_Said):
    """A software module, called "chunk" in the API."""

    part: Text = ""
    name: Text
    version: Text = ""
    encrypted: bool | None = None
    artifacts: Annotated[tuple[Artifact, ...], Field(max_length=MOST_PARTS)] = ()
    metadata: Annotated[tuple[_Metadata, ...], Field(max_length=256)] | None = None

    def says(self, key: str) -> str | None:
        """Value of the module's metadata ``key``; None if the server doesn't send it to devices."""
        return next((one.value for one in self.metadata or () if one.key == key), None)


class _Deployment(_Said):
    download: Handling = "attempt"
    update: Handling = "attempt"
    chunks: Annotated[tuple[SoftwareModule, ...], Field(max_length=MOST_PARTS)]
    window: Literal["available", "unavailable"] | None = Field(default=None, alias="maintenanceWindow")


class DeploymentBase(_Said):
    """A hawkBit action: which software modules to download, and whether to install them now."""

    id: Id
    deployment: _Deployment

    @property
    def version(self) -> str:
        """Version of the modules; "1.0+2.0" if they differ."""
        return "+".join(sorted({chunk.version for chunk in self.deployment.chunks} - {""}))

    @property
    def may_download(self) -> bool:
        return self.deployment.download != "skip"

    @property
    def may_update(self) -> bool:
        """Whether modules may be installed now; false outside a maintenance window, and if the server wants
        only a download."""
        return self.deployment.update != "skip" and self.deployment.window != "unavailable"


class _ToStop(_Said):
    stop_id: Id = Field(alias="stopId")


class CancelAction(_Said):
    id: Id
    to_stop: _ToStop = Field(alias="cancelAction")


Said = TypeVar("Said", bound=_Said)


def parse(payload: bytes, what: type[Said]) -> Said:
    """Parses a message of type ``what``. :raises RolloutError: the message is invalid; the error's text names
    the field."""
    try:
        return what.model_validate(parse_json(decode_text(payload)))
    except InvalidRequest as error:
        raise RolloutError(f"The server's answer isn't JSON that can be read: {error}") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "all of it"
        raise RolloutError(
            f"The server's answer isn't what the DDI API says: {where}: {first['msg']}."
        ) from None


def same_server(href: str, base: str) -> bool:
    """Whether a link has the same scheme, host and port as ``base``."""
    try:
        one, other = urlsplit(href), urlsplit(base)
        return _origin(one) == _origin(other) and "@" not in one.netloc
    except ValueError:
        return False


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)


def action_of(href: str) -> str:
    """The action's id, which is the last part of the link's path.

    :raises RolloutError: the link has no valid id.
    """
    try:
        name = urlsplit(href).path.rpartition("/")[2]
    except ValueError:
        name = ""
    if not re.fullmatch(r"-?[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
        raise RolloutError("The server's answer isn't what the DDI API says: a link names no action.")
    return name


def encode_feedback(
    action: str, execution: Execution, finished: Finished, details: tuple[str, ...], at_ms: int
) -> bytes:
    """Feedback on an action. :param at_ms: time of the feedback, in milliseconds since 1970."""
    when = {"timestamp": at_ms} if at_ms >= SET_SINCE_MS else {}
    return encode_json(
        {
            "id": action,
            **when,
            "status": {
                "execution": execution,
                "result": {"finished": finished},
                "details": [detail[:MOST_DETAILS] for detail in details],
            },
        }
    )


def encode_confirmation(details: tuple[str, ...]) -> bytes:
    return encode_json(
        {"confirmation": "confirmed", "details": [detail[:MOST_DETAILS] for detail in details]}
    )


def encode_attributes(data: Mapping[str, Any]) -> bytes:
    """A message with the node's attributes; the server keeps all attributes that aren't in the message."""
    cut = {name[:MOST_VALUE]: str(value)[:MOST_VALUE] for name, value in data.items()}
    return encode_json({"mode": "merge", "data": cut})

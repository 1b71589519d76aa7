"""API tokens: the clients of the HTTP API, from a file with one line for each."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeslm.errors import ConfigError
from edgeslm.web.process import FEWEST_CHARACTERS

if TYPE_CHECKING:
    from edgeslm.config.loader import Config

ANONYMOUS = "anonymous"
"""Name of the clients without a token."""
CLIENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_SHAPE = "NAME TOKEN [tasks=TASK,...]"


@dataclass(frozen=True, slots=True)
class ApiClient:
    """A client: its name, the SHA-256 of its token, and the tasks and models that it may use (None: all)."""

    name: str
    digest: str
    tasks: Sequence[str] | None = None


def digest_of(token: str) -> str:
    """SHA-256 of a token, in hexadecimal digits."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def parse_tokens(text: str, where: str) -> list[ApiClient]:
    """Parses a token file: lines ``NAME TOKEN [tasks=TASK,...]``; empty lines and lines with ``#`` are
    skipped.

    :param where: the file's name in error messages. :raises ConfigError: a line is wrong, or there is none.
    """
    clients: list[ApiClient] = []
    problems: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            clients.append(_parse_line(words, clients))
        except ValueError as error:
            problems.append(f"{where}, line {number}: {error}")
    if not clients and not problems:
        problems.append(f"{where} has no line {_SHAPE}")
    if problems:
        raise ConfigError(problems)
    return clients


def _parse_line(words: Sequence[str], others: Sequence[ApiClient]) -> ApiClient:
    """:raises ValueError: why the line is wrong, without the token."""
    if len(words) not in (2, 3) or (len(words) == 3 and not words[2].startswith("tasks=")):
        raise ValueError(f"must be {_SHAPE}")
    name, token = words[:2]
    if not CLIENT_NAME.fullmatch(name) or name == ANONYMOUS:
        raise ValueError(f"the name must have 1 to 64 letters, digits, _, . or -, and not be {ANONYMOUS}")
    if len(token) < FEWEST_CHARACTERS:
        raise ValueError(
            f"the token needs {FEWEST_CHARACTERS} characters or more, as of `openssl rand -hex 20`"
        )
    client = ApiClient(name, digest_of(token))
    if any(other.name == name or other.digest == client.digest for other in others):
        raise ValueError("its name or its token is that of an earlier line")
    if len(words) == 3:
        tasks = tuple(task for task in words[2].removeprefix("tasks=").split(",") if task)
        client = ApiClient(name, client.digest, tasks)
    return client


def token_notes(config: Config) -> list[str]:
    """What ``edgeslm check`` says of ``api.tokens``, if this user can read the file.

    :raises ConfigError: the file is wrong.
    """
    if config.api is None or config.api.tokens is None:
        return []
    where = f"api.tokens: {config.api.tokens}"
    try:
        clients = parse_tokens(config.api.tokens.read_text("utf-8"), where)
    except (OSError, UnicodeDecodeError) as error:
        return [f"{where} can't be read here: {getattr(error, 'strerror', None) or error}"]
    models = config.models if config.api.models else ()
    known = {*config.tasks, *(f"model:{name}" for name in models)}
    return [
        f"{where}: {client.name} may use {', '.join(unknown)}, which isn't here"
        for client in clients
        if (unknown := sorted(set(client.tasks or ()) - known))
    ]

"""API tokens: adds clients of the HTTP API to a token file. Pure but for random tokens."""

from __future__ import annotations

import difflib
import secrets
from collections.abc import Mapping, Sequence

from edgeslm.api.tokens import ANONYMOUS, CLIENT_NAME, parse_tokens
from edgeslm.config.schema import Config
from edgeslm.errors import ConfigError, ProvisionError


def parse_client(text: str, config: Config) -> tuple[str, Sequence[str] | None]:
    """Name and tasks of ``NAME`` or ``NAME:TASK,...``; tasks are None without a colon.

    :raises ProvisionError: the name is invalid, or the configuration has no such task or model.
    """
    name, has_tasks, rest = text.partition(":")
    if not CLIENT_NAME.fullmatch(name) or name == ANONYMOUS:
        raise ProvisionError(
            f"--client {text}: a client's name may have up to 64 letters, digits, ., _ and -, begins with a "
            f"letter or digit, and isn't {ANONYMOUS}"
        )
    if not has_tasks:
        return name, None
    tasks = list(dict.fromkeys(task.strip() for task in rest.split(",") if task.strip()))
    if not tasks:
        raise ProvisionError(f"--client {text}: names no task; without the colon, all are allowed")
    models = config.models if config.api is not None and config.api.models else ()
    known = [*config.tasks, *(f"model:{model}" for model in models)]
    for task in tasks:
        if task not in known:
            near = ", ".join(difflib.get_close_matches(task, known, 1) or known)
            raise ProvisionError(f"--client {text}: the node has no task {task!r}; there is {near}")
    return name, tasks


def add_clients(
    text: str, clients: Mapping[str, Sequence[str] | None], where: str, *, replace: bool = False
) -> str:
    """The text of a token file with a new line for each client; other lines stay as they are.

    :param where: the file's name in error messages. :param replace: give clients that have a line a new one.
    :raises ProvisionError: the file is wrong, a name is invalid, or has a line and ``replace`` is false.
    """
    lines = []
    for line in text.splitlines():
        name = line.split()[0] if line.strip() else ""
        if name not in clients:
            lines.append(line)
        elif not replace:
            raise ProvisionError(f"{where} has a token of {name} already; --force makes a new one")
    for name, tasks in clients.items():
        suffix = "" if tasks is None else f" tasks={','.join(tasks)}"
        lines.append(f"{name} {secrets.token_urlsafe(24)}{suffix}")
    found = "\n".join(lines) + "\n"
    try:
        parse_tokens(found, where)
    except ConfigError as error:
        raise ProvisionError("; ".join(error.problems)) from None
    return found

"""Node source: a task's description and labels from a node, and the way back of the trained bundle.

The command ``edgeslm``, in a process of its own, reads the node's files or asks the node over MQTT, so a
build machine needs no more rights than any other client. A list that ``edgeslm feedback`` has printed serves,
too. The rows are in a temporary folder while they are used.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from edgeslm.errors import ExportError

BROKER_VARIABLE: Final = "EDGESLM_BROKER"
CONFIG: Final = "edgeslm.yaml"
LOGIN: Final = ("username", "password_file", "ca_file", "cert_file", "key_file", "prefix")
"""Options of ``edgeslm`` for the broker, without the address."""
_NODE = re.compile("[a-z0-9-]{1,64}")


@dataclass(frozen=True, slots=True)
class NodeSource:
    """Where a task comes from: a ``config`` file, a ``node`` at ``broker``, or a saved ``file``."""

    config: Path | None = None
    file: Path | None = None
    node: str | None = None
    broker: str | None = None
    login: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, named: str, broker: str | None, login: Mapping[str, Any]) -> NodeSource:
        """:param named: ``--from``: a folder, a file, a node's name, or ``mqtt://HOST/NODE``.

        :raises ExportError: it is none of these.
        """
        path = Path(named)
        if path.is_dir():
            return cls(config=_config_in(path))
        if path.is_file():
            is_config = path.suffix in (".yaml", ".yml")
            return cls(config=path) if is_config else cls(file=path)
        if "://" in named:
            address = urlsplit(named)
            broker, named = f"{address.scheme}://{address.netloc}", address.path.strip("/")
        broker = broker or os.environ.get(BROKER_VARIABLE)
        if not _NODE.fullmatch(named):
            raise ExportError(f"{named}: no such file, and not a node's name.")
        if broker is None:
            raise ExportError(f"{named} is no file here; if it is a node, name its broker with --broker.")
        return cls(node=named, broker=broker, login=login)

    @property
    def is_saved(self) -> bool:
        return self.file is not None

    def fetch(self, task: str | None, folder: Path) -> NodeTask:
        """Writes the task and its labels into ``folder``.

        :raises ExportError: they can't be read, or there are no labels.
        """
        if self.file is not None:
            lines = _lines_of(self.file)
        else:
            if task is None:
                raise ExportError("Name the task with --task.")
            where = ["--config", str(self.config)] if self.config else ["--node", str(self.node)]
            lines = _edgeslm(["feedback", task, "--json", *where, *self._login]).split("\n")
        return _store(lines, task, str(self.file or self.config or f"node {self.node}"), folder)

    def push(self, task: str, bundle: Path) -> str:
        """Brings a trained bundle to the node, as an update. :return: what became of it, as a sentence.

        :raises ExportError: the node refuses it, or this isn't a node.
        """
        if self.config is not None:
            config = str(self.config)
            staged = json.loads(_edgeslm(["models", "stage", config, str(bundle), "--json"]))
            return _edgeslm(["models", "activate", config, task, staged["digest"]]).strip()
        if self.node is None:
            raise ExportError("A saved list has no node that the result could be brought to; name the node.")
        return _edgeslm(["models", "push", task, str(bundle), "--node", self.node, *self._login]).strip()

    @property
    def _login(self) -> list[str]:
        if self.node is None:
            return []
        given = {name: self.login.get(name) for name in LOGIN}
        options = [(f"--{name.replace('_', '-')}", str(value)) for name, value in given.items() if value]
        return ["--broker", str(self.broker), *(word for option in options for word in option)]


@dataclass(frozen=True, slots=True)
class NodeTask:
    """A task with its labels: ``task`` and ``rows`` are files as ``tune`` takes them. ``models`` are the
    node's models, by name, with ``kind`` and ``digest``."""

    name: str
    task: Path
    rows: Path
    models: Mapping[str, Mapping[str, Any]]
    takes_updates: bool

    @property
    def encoders(self) -> list[str]:
        """Digests of the node's encoders."""
        return [str(one.get("digest")) for one in self.models.values() if one.get("kind") == "encoder"]


def _config_in(folder: Path) -> Path:
    """The configuration in a folder. :raises ExportError: there is none, or there are several."""
    if (folder / CONFIG).is_file():
        return folder / CONFIG
    found = [*folder.glob("*.yaml"), *folder.glob("*.yml")]
    if len(found) != 1:
        raise ExportError(f"{folder} has no file {CONFIG}; name the node's configuration.")
    return found[0]


def _lines_of(file: Path) -> Sequence[str]:
    try:
        return file.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it isn't UTF-8"
        raise ExportError(f"{file} can't be read: {reason}.") from None


def _store(lines: Sequence[str], wanted: str | None, where: str, folder: Path) -> NodeTask:
    try:
        told = json.loads(lines[0])
        task = dict(told["task"])
        name = str(task["name"])
    except (ValueError, LookupError, TypeError, RecursionError):
        saved = "a list that edgeslm feedback TASK --json has printed"
        raise ExportError(f"{where} is neither a node's configuration (.yaml) nor {saved}.") from None
    if wanted not in (None, name):
        raise ExportError(f"{where} has the task {name}, not {wanted}.")
    rows = [line for line in lines[1:] if line.strip()]
    if not rows:
        raise ExportError(f"{where} has no labels of the task {name}; collect some with edgeslm teach.")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
        raise ExportError(f"{where}: {name[:80]!r} is no task's name.")
    files = folder / f"{name}.yaml", folder / f"{name}.jsonl"
    files[0].write_text(json.dumps(task), "utf-8")  # JSON is YAML
    files[1].write_text("\n".join(rows) + "\n", "utf-8")
    models = told.get("models")
    described = models.items() if isinstance(models, dict) else ()
    found = {key: one for key, one in described if isinstance(one, dict)}
    return NodeTask(name, *files, found, told.get("takes_updates") is True)


def _edgeslm(arguments: Sequence[str]) -> str:
    """What the command ``edgeslm`` prints; its warnings and progress are shown.

    :raises ExportError: the command failed.
    """
    command = [sys.executable, "-P", "-m", "edgeslm", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        said, problems = process.communicate()
    lines = problems.strip().split("\n")
    if process.returncode:
        raise ExportError(lines[-1].removeprefix("edgeslm: ") or f"edgeslm {arguments[0]} failed.")
    sys.stderr.write(problems)
    return said

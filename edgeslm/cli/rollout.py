"""``edgeslm rollout``: connects this node to the rollouts of a hawkBit or Mender server."""

from __future__ import annotations

import argparse
import json
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from edgeslm.cli.parts import Act, add_part
from edgeslm.cli.screen import say
from edgeslm.errors import EdgeslmError
from edgeslm.storage.file_ownership import become_owner
from edgeslm.telemetry.log_lines import set_up_logging

if TYPE_CHECKING:
    from edgeslm.config.loader import Config

SUMMARY = "update models from a rollout server: hawkBit, Mender"
EXAMPLE = "edgeslm rollout hawkbit /etc/edgeslm/edgeslm.yaml"

UNDOING = ("ArtifactRollback", "ArtifactFailure", "Cleanup")
"""Update-module states that Mender enters after a failed update."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    parts = command.add_subparsers(title="what to do", metavar="ACTION", required=True)

    def add(name: str, act: Act, about: str, line: str) -> argparse.ArgumentParser:
        part = add_part(parts, name, act, about, line)
        part.add_argument("config", type=Path, metavar="CONFIG", help="the configuration file")
        return part

    add("hawkbit", _hawkbit, "poll the hawkBit server of the section rollouts, until SIGTERM", EXAMPLE)
    part = add(
        "mender",
        _mender,
        "run one state of a Mender update module, for firmware-config/mender/edgeslm-bundle",
        "edgeslm rollout mender config.yaml ArtifactCommit /var/lib/mender/modules/v3/payloads/0000/tree",
    )
    part.add_argument("state", metavar="STATE", help="such as ArtifactInstall")
    part.add_argument("folder", type=Path, metavar="FOLDER", help="with the artifact's header and files")
    part = add("show", _show, "show the state of the last rollout", "edgeslm rollout show config.yaml --json")
    part.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    from edgeslm.config.loader import load_config

    config = load_config(arguments.config)
    try:
        arguments.act(arguments, config)
    except OSError as error:
        raise EdgeslmError(f"{error.filename or config.state_dir}: {error.strerror}") from None
    return 0


def _hawkbit(arguments: argparse.Namespace, config: Config) -> None:
    from edgeslm.update.rollout.distant import book_folder
    from edgeslm.update.rollout.hawkbit import Hawkbit
    from edgeslm.update.rollout.jobs import alone

    set_up_logging("DEBUG" if arguments.debug else config.log_level.upper())
    become_owner(config.state_dir)
    stop = threading.Event()
    with alone(book_folder(config), config.node, "hawkbit"):
        hawkbit = Hawkbit(config)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, frame: stop.set())
        hawkbit.run(stop)


def _mender(arguments: argparse.Namespace, config: Config) -> None:
    from edgeslm.update.rollout.mender import Module, Payload

    set_up_logging(config.log_level.upper(), "%(message)s")
    with Payload(arguments.folder, config.models) as payload:
        if arguments.state == "Download":
            payload.check()
            return
        if arguments.state in UNDOING and not config.state_dir.is_dir():
            return  # there was never a node here
        installed = payload.archive() if arguments.state == "ArtifactInstall" else None
        become_owner(config.state_dir)
        module = Module(config)
        if installed is not None:
            module.install(*installed)
        elif arguments.state == "ArtifactCommit":
            module.commit()
        elif arguments.state in ("ArtifactRollback", "ArtifactFailure"):
            module.roll_back()
        elif arguments.state == "Cleanup":
            module.clean_up()


def _show(arguments: argparse.Namespace, config: Config) -> None:
    from edgeslm.update.exchange import folder_beside
    from edgeslm.update.rollout.distant import book_folder
    from edgeslm.update.rollout.jobs import Book

    own = folder_beside(config.state_dir)
    for folder in (own, config.state_dir):
        if folder.is_dir():
            become_owner(folder)
            break
    job = Book(book_folder(config), config.node, "hawkbit").job
    if arguments.json:
        say(json.dumps(None if job is None else job.model_dump()))
    elif job is None:
        say("no rollout has come to this node")
    else:
        models = ", ".join(part.model for part in job.parts) or "no model"
        say(f"rollout {job.id}, {models}: {job.state}, {job.step}{f': {job.why}' if job.why else ''}")

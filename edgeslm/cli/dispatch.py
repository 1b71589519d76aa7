"""``edgeslm dispatch``: the dispatcher of a pool, in the foreground."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from pathlib import Path

from edgeslm.cli.screen import print_error, say
from edgeslm.telemetry.log_lines import set_up_logging

SUMMARY = "hand the requests of a pool to its nodes by load; SIGTERM drains"
EXAMPLE = "edgeslm dispatch /etc/edgeslm/dispatch.yaml"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("config", type=Path, nargs="?")
    command.add_argument("--check", action="store_true", help="list every error in the file and end")
    command.add_argument("--schema", action="store_true", help="print the JSON Schema of the file and end")


def run(arguments: argparse.Namespace) -> int:
    from edgeslm.dispatcher.settings import load_settings, settings_schema

    if arguments.schema:
        say(json.dumps(settings_schema(), indent=2))
        return 0
    if arguments.config is None:
        print_error("name the configuration file of the dispatcher")
        return 2
    settings = load_settings(arguments.config)
    if arguments.check:
        say(f"{arguments.config}: no errors")
        return 0
    set_up_logging("DEBUG" if arguments.debug else settings.log_level.upper())
    # Until the dispatcher takes over there is nothing to drain.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    # paho loads dnspython where it is installed, for SRV records that nobody here asks for.
    sys.modules.setdefault("dns", None)  # type: ignore[arg-type]
    from edgeslm.dispatcher.process import run as run_dispatcher

    return asyncio.run(run_dispatcher(settings))

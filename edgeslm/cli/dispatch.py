"""``edgeslm dispatch``: runs the dispatcher of a pool in the foreground."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from pathlib import Path

from edgeslm.cli.screen import print_error, say
from edgeslm.telemetry.log_lines import set_up_logging

SUMMARY = "balance the requests of a pool among its nodes; SIGTERM drains"
EXAMPLE = "edgeslm dispatch /etc/edgeslm/dispatch.yaml"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("config", type=Path, nargs="?", help="the configuration file")
    command.add_argument("--check", action="store_true", help="list every error in the file and exit")
    command.add_argument("--schema", action="store_true", help="print the JSON Schema of the file and exit")


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
    # Before the dispatcher runs there is nothing to drain.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    # Keeps paho from importing dnspython, for SRV records that nobody here uses.
    sys.modules.setdefault("dns", None)  # type: ignore[arg-type]
    from edgeslm.dispatcher.process import run as run_dispatcher

    return asyncio.run(run_dispatcher(settings))

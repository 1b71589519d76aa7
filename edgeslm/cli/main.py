"""The command ``edgeslm``: parses arguments and runs a command.

Large modules are imported by the commands that need them.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from edgeslm import __version__
from edgeslm.cli.listening import NODE_VARIABLE, add_broker_arguments
from edgeslm.cli.parts import Act, add_parser, json_object, whole_number
from edgeslm.cli.screen import print_error, say
from edgeslm.config.extras import missing_extra
from edgeslm.errors import ConfigError, EdgeslmError, too_little_memory
from edgeslm.protocol.topic_filters import topic_name_fault
from edgeslm.telemetry.log_lines import COMMAND, printable, set_up_logging

if TYPE_CHECKING:
    from edgeslm.messages import Chunk

EXAMPLES = {
    "run": "edgeslm run /etc/edgeslm/config.yaml",
    "check": "edgeslm check config.yaml --connect",
    "demo": "edgeslm demo",
    "try": "edgeslm try config.yaml triage 'Spindle 3 smells of burnt oil'",
    "request": "edgeslm request triage 'Burnt smell' --broker mqtt://localhost --node press-hall-4",
    "inspect": "edgeslm inspect /var/lib/edgeslm/bundles/smollm2-135m-int4",
    "prepare": "edgeslm prepare /var/lib/edgeslm/bundles/smollm2-135m-int4 --config config.yaml",
    "doctor": "edgeslm doctor --config config.yaml",
}
COMMANDS: Mapping[str, str] = {
    "init": "edgeslm.cli.init.command",
    "teach": "edgeslm.cli.teach.command",
    "dispatch": "edgeslm.cli.dispatch",
    "feedback": "edgeslm.cli.feedback",
    "knowledge": "edgeslm.cli.knowledge",
    "models": "edgeslm.cli.models",
    "provision": "edgeslm.cli.provision.command",
    "purge": "edgeslm.cli.purge",
    "recover": "edgeslm.cli.recover",
    "rollout": "edgeslm.cli.rollout",
    "top": "edgeslm.cli.top",
    "fleet": "edgeslm.cli.fleet",
    "completion": "edgeslm.cli.completion",
}
"""Commands that have their own module, and its name; this module contains the others."""

SERVICES = ("run", "dispatch", "rollout", "try")
"""Commands that set up a log with times, as their child processes do."""

MOST_SECONDS = 7 * 24 * 3600
"""Longest timeout of a request: the time for which brokers keep the request for an offline node."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command. :return: the exit status, which is 1 after a failure; a failure prints one sentence."""
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        # The daemon keeps what is imported, so it doesn't import the other commands (3 MB).
        arguments = _parser(with_others=words[:1] != ["run"]).parse_args(argv)
    except SystemExit as end:
        # argparse exits with 2, which for `request` means a timeout.
        is_request = words[:1] == ["request"]
        raise SystemExit(1 if is_request and end.code == 2 else end.code) from None
    umask = os.umask(0o077)  # files with texts must not be readable by other users
    if threading.current_thread() is threading.main_thread():
        # Removes temporary files, which may have texts; commands that drain have handlers of their own.
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    if arguments.command_name not in SERVICES:
        set_up_logging("DEBUG" if arguments.debug else "WARNING", COMMAND)
    try:
        return int(arguments.command(arguments))
    except EdgeslmError as error:
        if arguments.debug:
            raise
        if isinstance(error, ConfigError):
            print(error, file=sys.stderr)  # noqa: T201  # lines begin with file:line:, for editors
        else:
            print_error(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader is gone, as with `| head`: keep the interpreter from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            return 130  # Condition.wait() raises a RuntimeError if it is interrupted as it releases its lock
        if arguments.debug:
            raise
        lacking = isinstance(error, ImportError) and missing_extra(error, f"edgeslm {arguments.command_name}")
        print_error(
            lacking
            or too_little_memory(error)
            or f"{type(error).__name__}: {error} (--debug shows where it comes from)"
        )
        return 1
    finally:
        os.umask(umask)


def _parser(*, with_others: bool = True) -> argparse.ArgumentParser:
    """The parser. ``with_others``: also of the commands that have their own module."""
    parser = argparse.ArgumentParser(
        prog="edgeslm", description="Small language models on this box, over MQTT.", allow_abbrev=False
    )
    parser.add_argument("-V", "--version", action="version", version=f"edgeslm {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, command: Act, about: str, example: str = "") -> argparse.ArgumentParser:
        sub = add_parser(commands, name, about, example or EXAMPLES[name])
        sub.add_argument("--debug", action="store_true", help="show tracebacks and debug messages")
        sub.set_defaults(command=command, command_name=name, program=parser)
        return sub

    sub = add("run", _run, "run the daemon in the foreground; SIGTERM drains it")
    sub.add_argument("config", type=Path, help="the configuration file")

    sub = add("check", _check, "check a configuration and list every error in it")
    sub.add_argument("config", type=Path, nargs="?", help="the configuration file")
    sub.add_argument("--connect", action="store_true", help="also test the broker")
    sub.add_argument("--schema", action="store_true", help="print the JSON Schema of the file and exit")

    sub = add("demo", _demo, "run a complete demo on this machine, with real messages")
    sub.add_argument("--bundle", type=Path, help="decoder bundle (default: that of the starter folder)")
    about = "starter folder with encoder and data (default: the folder that has the bundle)"
    sub.add_argument("--starter", type=Path, metavar="DIR", help=about)
    sub.add_argument("--short", action="store_true", help="a few messages of each kind, for a slow board")
    sub.add_argument("--stay", action="store_true", help="go on until Ctrl-C, with a console (extra api)")

    sub = add("try", _try, "run one task without a broker")
    sub.add_argument("config", type=Path, help="the configuration file")
    sub.add_argument("task", help="name of the task")
    sub.add_argument(
        "text", nargs="?", default="-", help="the input; - or nothing: one input per line of standard input"
    )
    about = "read the text as a message on this topic, through the first route of the task that watches it"
    sub.add_argument("--topic", help=about)
    _add_result_arguments(sub)

    about = "send one request over MQTT and print its result (status 1: an error, 2: a timeout)"
    _add_request_arguments(add("request", _request, about))

    sub = add("inspect", _inspect, "describe a bundle: manifest, report card and memory need")
    sub.add_argument("bundle", type=Path, help="the bundle's folder")
    sub.add_argument(
        "--key", type=Path, action="append", default=[], help="fail unless signed with this public key"
    )
    sub.add_argument("--json", action="store_true", help="print JSON")

    sub = add("prepare", _prepare, "prepack a bundle's weights for this machine, which saves memory")
    sub.add_argument("bundle", type=Path, help="the bundle's folder")
    sub.add_argument("--config", type=Path, help="configuration whose state_dir stores the result")
    sub.add_argument("--adapters", action="store_true", help="for a model whose tasks have adapters")
    sub.add_argument("--json", action="store_true", help="print JSON")

    sub = add("doctor", _doctor, "check this board: hardware, software, which models fit, what is wrong")
    sub.add_argument("bundles", type=Path, nargs="*", metavar="BUNDLE", help="estimate its memory and speed")
    sub.add_argument("--config", type=Path, help="also check this configuration")
    sub.add_argument(
        "--context",
        type=whole_number,
        help="context length in tokens for the estimates (default: 2048; with --use 8192)",
    )
    sub.add_argument(
        "--use",
        choices=("labels", "answers", "text"),
        help="only propose a model for this use, with a table of models",
    )
    sub.add_argument("--json", action="store_true", help="print JSON")

    for name, path in COMMANDS.items() if with_others else ():
        module = importlib.import_module(path)
        module.add_arguments(add(name, module.run, module.SUMMARY, module.EXAMPLE))
    return parser


def _add_request_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("task", help="name of the task")
    sub.add_argument("text", help="the input; - reads standard input")
    add_broker_arguments(sub)
    whom = sub.add_mutually_exclusive_group(required=NODE_VARIABLE not in os.environ)
    whom.add_argument("--node", help=f"the node to ask; ${NODE_VARIABLE} if left out")
    whom.add_argument("--pool", help="a pool; one of its members answers")
    sub.add_argument(
        "--name", type=_one_level, help="client name, part of the reply topic that the broker lets it read"
    )
    sub.add_argument(
        "--timeout",
        type=_seconds,
        default=60.0,
        metavar="S",
        help="seconds to wait for the result (default: 60); the request is resent if it may be lost",
    )
    sub.add_argument("--stream", action="store_true", help="print the text on standard error as it comes")
    _add_result_arguments(sub)


def _add_result_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--options", type=json_object, default={}, metavar="JSON", help="options of the request")
    sub.add_argument("--json", action="store_true", help="print JSON on a terminal too, as to a pipe or file")


def _one_level(text: str) -> str:
    if "/" in text or topic_name_fault(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a single topic level")
    return text


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"not a number of seconds above 0, at most {MOST_SECONDS}")
    return value


def _run(arguments: argparse.Namespace) -> int:
    # Before the daemon runs there is nothing to drain.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    _import_paho()
    from edgeslm.config.loader import empty_sections, load_config
    from edgeslm.config.yaml_source import read_document
    from edgeslm.node.daemon import run

    config = load_config(arguments.config)
    set_up_logging("DEBUG" if arguments.debug else config.log_level.upper())
    for note in empty_sections(read_document(arguments.config.read_text("utf-8-sig"))):
        logging.getLogger("edgeslm").warning("%s", note)
    return asyncio.run(run(config, arguments.config))


def _import_paho() -> None:
    """Keeps paho from importing what no node uses: dnspython for SRV records, and urllib.request for SOCKS
    proxies (3 MB each)."""
    for name in ("dns", "socks"):
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
    if "urllib.request" not in sys.modules:
        sys.modules["urllib.request"] = ModuleType("urllib.request")
        try:
            importlib.import_module("paho.mqtt.client")
        finally:
            del sys.modules["urllib.request"]  # others may import it


def _check(arguments: argparse.Namespace) -> int:
    from edgeslm.cli.check import check

    return check(arguments)


def _demo(arguments: argparse.Namespace) -> int:
    from edgeslm.cli.demo import demo

    return demo(arguments.bundle, arguments.starter, short=arguments.short, stay=arguments.stay)


def _try(arguments: argparse.Namespace) -> int:
    from edgeslm.cli.trying import run_try

    set_up_logging("DEBUG" if arguments.debug else "WARNING")
    return run_try(arguments)


def _request(arguments: argparse.Namespace) -> int:
    from edgeslm.cli.listening import address_of
    from edgeslm.cli.results import print_result
    from edgeslm.client import Client
    from edgeslm.errors import InvalidRequest, TimedOut

    text = arguments.text
    if text == "-":
        try:
            text = sys.stdin.buffer.read().decode()
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"The input isn't UTF-8 (byte {error.start} is wrong).") from None
    on_chunk = None
    options = arguments.options
    if arguments.stream:
        options = {**options, "stream": True}

        def on_chunk(chunk: Chunk) -> None:
            text = chunk.text if chunk.done is None else f"part {chunk.done} of {chunk.of}\n"
            print(printable(text), end="", file=sys.stderr, flush=True)  # noqa: T201

    with Client(
        address_of(arguments),
        arguments.node or (None if arguments.pool else os.environ.get(NODE_VARIABLE)),
        pool=arguments.pool,
        prefix=arguments.prefix,
        name=arguments.name,
    ) as client:
        try:
            try:
                result = client.request(
                    arguments.task, text, options=options, timeout=arguments.timeout, on_chunk=on_chunk
                )
            finally:
                if arguments.stream:
                    print(file=sys.stderr)  # noqa: T201
        except TimedOut as error:
            print_error(str(error))
            return 2
    print_result(result, as_json=arguments.json)
    return int(result.status == "error")


def _inspect(arguments: argparse.Namespace) -> int:
    from edgeslm.bundle.inspection import describe, render
    from edgeslm.bundle.manifest import load_bundle, verify_bundle

    bundle = load_bundle(arguments.bundle)
    verify_bundle(bundle)
    description = describe(bundle, _signature(arguments.bundle, arguments.key))
    say(json.dumps(description, indent=2) if arguments.json else render(description))
    return 0


def _signature(bundle: Path, keys: Sequence[Path]) -> str:
    """Describes a bundle's signature. :raises BundleError: it isn't signed with one of ``keys``."""
    from edgeslm.bundle.trust import check_bundles, describe_signature
    from edgeslm.errors import BundleError

    if not keys:
        return describe_signature(bundle)
    (verdict,) = check_bundles([bundle], keys)
    if verdict.status != "signed":
        raise BundleError(verdict.sentence)
    return f"by {verdict.key}"


def _prepare(arguments: argparse.Namespace) -> int:
    from edgeslm.bundle.manifest import load_bundle
    from edgeslm.bundle.trust import Trust
    from edgeslm.config.loader import load_config
    from edgeslm.config.schema import default_state_dir
    from edgeslm.engine.prepack.prepare import graph_of, prepare
    from edgeslm.engine.worker.prepared import CACHE, folder_of

    if arguments.config is None:
        bundle, state_dir = load_bundle(arguments.bundle), default_state_dir()
    else:
        config = load_config(arguments.config)
        state_dir = config.state_dir
        trust = Trust(config.signing, state_dir)
        bundle = trust.load(arguments.bundle)
        asyncio.run(trust.check())  # prepare() runs the bundle
    graph = graph_of(bundle, adapters=arguments.adapters)
    made, folder = asyncio.run(prepare(bundle, graph, state_dir)), folder_of(bundle, graph, state_dir / CACHE)
    say(made.model_dump_json() if arguments.json else f"{folder}: {made.render()}")
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from edgeslm.cli.doctor import TOKENS, examine, render
    from edgeslm.config.loader import load_config

    if arguments.use is not None:
        from edgeslm.cli.doctor.proposal import render_proposal

        text, found = render_proposal(arguments.use, arguments.context, is_json=arguments.json)
        say(text)
        return int(not found)
    config = load_config(arguments.config) if arguments.config else None
    findings = examine(config, arguments.bundles, context=arguments.context or TOKENS, file=arguments.config)
    if arguments.json:
        say(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        say(render(findings))
    return int(any(finding.level == "bad" for finding in findings))

"""``edgeslm init``: asks for broker, topic and purpose, or takes options, and writes a configuration."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from edgeslm.cli.init.proposal import (
    PURPOSES,
    Place,
    Purpose,
    Wish,
    output_topic,
    parse_fields,
    parse_labels,
    task_name,
    write,
)
from edgeslm.cli.init.traffic import Group, Traffic
from edgeslm.cli.listening import PATIENCE_S, add_broker_arguments, address_of, with_scheme
from edgeslm.cli.screen import ProgressLine, print_error, say
from edgeslm.cli.starter import nearest_starter_dir
from edgeslm.errors import BrokerError, EdgeslmError, plural
from edgeslm.protocol.topic_filters import filter_fault
from edgeslm.telemetry.log_lines import printable

SUMMARY = "listen to a broker, show what passes, and write a first configuration"
EXAMPLE = "edgeslm init --broker localhost --labels 'repair=broken, leaking or loose; other'"
LISTEN_S = 60.0
MOST_SHOWN = 20
DECODER, ENCODER = "smollm2-135m-int4", "minilm-l6-int8"
"""Bundles of the starter folder."""
_Parsed = TypeVar("_Parsed")


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "config", type=Path, nargs="?", default=Path("edgeslm.yaml"), help="the file to write (edgeslm.yaml)"
    )
    add_broker_arguments(command, required=False)
    command.add_argument("--topic", metavar="FILTER", default="#", help="topics to listen to (default: all)")
    command.add_argument(
        "--listen", type=float, metavar="S", default=LISTEN_S, help="seconds to listen (default: 60)"
    )
    command.add_argument(
        "--from",
        dest="recorded",
        type=Path,
        metavar="FILE",
        help="instead of listening: lines `TOPIC PAYLOAD`, as mosquitto_sub -v prints them",
    )
    command.add_argument("--do", choices=tuple(PURPOSES), help="what to do with the messages")
    command.add_argument(
        "--labels", metavar="LABEL[=MEANING];...", help="labels for --do label; a meaning may have commas"
    )
    command.add_argument("--fields", metavar="NAME[:TYPE],...", help="fields for --do fields")
    command.add_argument("--bundle", type=Path, help="decoder bundle (default: that of the starter folder)")
    command.add_argument("--force", action="store_true", help="overwrite the file")


def run(arguments: argparse.Namespace) -> int:
    """:raises EdgeslmError: nothing was heard, an option is wrong, or the file exists."""
    from edgeslm.config.loader import parse_config

    file: Path = arguments.config
    if file.exists() and not arguments.force:
        raise EdgeslmError(f"{file} exists; name another file, or add --force.")
    if fault := filter_fault(arguments.topic):
        raise EdgeslmError(f"--topic {printable(arguments.topic)} {fault}.")
    labels, fields = _parsed(arguments)  # before a minute of listening
    _choose_broker(arguments)
    traffic, seconds = (_recorded(arguments.recorded), None) if arguments.recorded else _heard(arguments)
    groups = traffic.groups()
    show(groups, traffic, seconds)
    group = _of_filter(_choose_group(groups), arguments.topic)
    wish = _choose_wish(arguments.do, labels, fields)
    text = write(group, wish, _place(arguments, file))
    parse_config(text, folder=file.resolve().parent)  # a mistake here is this command's
    file.write_text(text, "utf-8")
    say(f"\n{text}")
    say(f"Written: {file}. To undo this, delete the file. Next:")
    say(f"  edgeslm check {file} --connect\n  edgeslm run {file}")
    if wish.purpose == "label":
        say(f"  edgeslm teach {task_name(wish.purpose)} --config {file} --listen 60")
    if topic := output_topic(group, wish.purpose):
        say(f"The node publishes results on {re.sub(r'{{.*?}}', '+', topic)}")
    if sys.stdin.isatty() and _ask("Run it now", "yes", _yes):
        os.execv(sys.executable, [sys.executable, "-P", "-m", "edgeslm", "run", str(file)])
    return 0


def _yes(text: str) -> bool:
    if text.lower() not in ("y", "yes", "n", "no"):
        raise ValueError("yes or no")
    return text.lower().startswith("y")


def _choose_broker(arguments: argparse.Namespace) -> None:
    if arguments.broker is None:
        arguments.broker = _ask("Address of the broker", "localhost", with_scheme)
    host = urlsplit(arguments.broker).hostname
    if arguments.recorded is None and host in ("localhost", "127.0.0.1") and not _listens(arguments.broker):
        where = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        advice = (
            "mosquitto is installed; start it with: sudo systemctl start mosquitto"
            if where
            else "install one with: sudo apt-get install mosquitto mosquitto-clients"
        )
        raise BrokerError(f"No broker listens at {arguments.broker}: {advice}")


def _listens(url: str) -> bool:
    parts = urlsplit(url)
    try:
        port = parts.port or (8883 if parts.scheme == "mqtts" else 1883)
        with socket.create_connection((parts.hostname or "localhost", port), 3):
            return True
    except (OSError, ValueError):
        return False


def _heard(arguments: argparse.Namespace) -> tuple[Traffic, float]:
    """What passes while listening, until Ctrl-C if messages were heard, and for how many seconds.

    :raises BrokerError: the broker can't be used, or is silent.
    """
    from edgeslm.client.listening import Listening

    traffic = Traffic(("$", f"{arguments.prefix}/v1/", "homeassistant/"))
    with (
        Listening(address_of(arguments), [arguments.topic], traffic.add) as listening,
        ProgressLine() as line,
    ):
        listening.retained(PATIENCE_S)
        started = time.monotonic()
        try:
            while (passed := time.monotonic() - started) < arguments.listen:
                what = f"listening: {plural(traffic.count, 'message')}"
                line.show(
                    round(passed),
                    round(arguments.listen),
                    f"{what}; Ctrl-C: enough" if traffic.count else what,
                )
                time.sleep(min(0.5, arguments.listen - passed))
        except KeyboardInterrupt:
            if not traffic.count:
                raise
        passed = time.monotonic() - started
    if not traffic.count:
        raise BrokerError(
            f"Nothing passed on {arguments.topic} in {arguments.listen:g} s; listen longer with --listen, or "
            "send a message."
        )
    return traffic, passed


def _recorded(file: Path) -> Traffic:
    """Messages of a file. :raises EdgeslmError: it can't be read, or has no messages."""
    if file.suffix.lower() == ".csv":
        raise EdgeslmError(
            f"{file} is a CSV file, which has no topics; edgeslm-export tune trains a task on it, and "
            "edgeslm teach TASK --from takes its texts."
        )
    traffic = Traffic()
    try:
        with file.open("rb") as lines:
            for line in lines:
                topic, _, payload = line.rstrip(b"\r\n").partition(b" ")
                traffic.add(topic.decode("utf-8", "replace"), payload)
    except OSError as error:
        raise EdgeslmError(f"{file} can't be read: {error.strerror}.") from None
    if not traffic.count:
        raise EdgeslmError(f"{file} has no lines `TOPIC PAYLOAD`.")
    return traffic


def show(groups: Sequence[Group], traffic: Traffic, seconds: float | None) -> None:
    """Prints a table of what passed."""
    during = "" if seconds is None else f" in {seconds:.3g} s"
    say(f"{plural(traffic.count, 'message')}{during}, {plural(len(groups), 'kind')} of topics:")
    width = min(40, max(len(one.filter) for one in groups))
    columns = shutil.get_terminal_size((120, 24)).columns
    for number, one in enumerate(groups[:MOST_SHOWN], 1):
        rate = "" if not seconds else f"{60 * (one.count - one.retained) / seconds:.3g}/min"
        kept = f", {one.retained} retained" if one.retained else ""
        say(
            printable(
                f"{number:>3}  {one.filter:<{width}}  {plural(one.count, 'message')}{kept}  {rate}".rstrip()
            )
        )
        say(printable(f"     {_about(one)}: {one.example}"[: columns - 1]))
    if len(groups) > MOST_SHOWN:
        say(f"     and {len(groups) - MOST_SHOWN} more; narrow them with --topic")
    if traffic.left_out:
        say(f"     {plural(traffic.left_out, 'message')} of further topics weren't counted")


def _about(group: Group) -> str:
    if group.kind == "object":
        text = f"JSON with the text in {group.text}" if group.text else "JSON without text"
        others = [path for path in group.fields if path != group.text][:6]
        return text + (f", also {', '.join(others)}" if others else "")
    words = {"text": "text" if group.text is not None else "short text", "number": "a number"}
    return words.get(group.kind, "JSON" if group.kind == "other" else "bytes")


def _choose_group(groups: Sequence[Group]) -> Group:
    """:raises EdgeslmError: no group has text."""
    if groups[0].text is None:
        raise EdgeslmError("None of these messages has text that a language model could read.")
    count = sum(one.text is not None for one in groups)
    if count == 1 or not sys.stdin.isatty():
        return groups[0]

    def number(text: str) -> int:
        if not text.isdecimal() or not 1 <= int(text) <= count:
            raise ValueError(f"a number from 1 to {count}; the others have no text")
        return int(text)

    return groups[_ask("Which of them", "1", number) - 1]


def _parsed(arguments: argparse.Namespace) -> tuple[Mapping[str, str] | None, Mapping[str, str] | None]:
    """The labels and fields that the options name. :raises EdgeslmError: they are wrong."""
    try:
        labels = None if arguments.labels is None else parse_labels(arguments.labels)
    except ValueError as error:
        raise EdgeslmError(f"--labels: {error}.") from None
    try:
        return labels, None if arguments.fields is None else parse_fields(arguments.fields)
    except ValueError as error:
        raise EdgeslmError(f"--fields: {error}.") from None


def _of_filter(group: Group, wanted: str) -> Group:
    """The group with the filter that the user listened to, if that names the levels: other topics of it may
    be silent just now."""
    is_same = "#" not in wanted and wanted.count("/") == group.filter.count("/")
    return replace(group, filter=wanted) if is_same else group


def _choose_wish(
    purpose: Purpose | None, labels: Mapping[str, str] | None, fields: Mapping[str, str] | None
) -> Wish:
    meant: Purpose | None = "label" if labels is not None else "fields" if fields is not None else None
    purpose = purpose or meant or _choose_purpose()
    if purpose == "label":
        labels = _choose_labels() if labels is None else _shown(labels)
    if purpose == "fields" and fields is None:
        question = "Fields, such as: machine, temperature_c:number"
        fields = _ask(question, "", parse_fields, option="--fields")
    return Wish(purpose, labels or {}, fields or {})


def _choose_labels() -> Mapping[str, str]:
    """Asks until the user agrees to the labels as they were understood."""
    while True:
        question = (
            "Labels with their meanings, ; between them, such as: repair=broken, leaking or loose; other"
        )
        labels = _shown(_ask(question, "", parse_labels, option="--labels"))
        if not sys.stdin.isatty() or _ask("Are these right", "yes", _yes):
            return labels


def _shown(labels: Mapping[str, str]) -> Mapping[str, str]:
    """Prints the labels, each with its meaning."""
    say(f"{len(labels)} labels:")
    width = min(20, max(map(len, labels)))
    for label, meaning in labels.items():
        say(printable(f"  {label:<{width}}  {meaning or '(no meaning)'}"))
    return labels


def _choose_purpose() -> Purpose:
    names: list[Purpose] = list(PURPOSES)
    for number, name in enumerate(names, 1):
        say(f"  {number}  {PURPOSES[name]}")

    def chosen(text: str) -> Purpose:
        if not text.isdecimal() or not 1 <= int(text) <= len(names):
            raise ValueError(f"a number from 1 to {len(names)}")
        return names[int(text) - 1]

    return _ask("What should be done with the messages", "1", chosen)


def _ask(question: str, default: str, parse: Callable[[str], _Parsed], option: str = "") -> _Parsed:
    """Asks until the answer is valid. Without a terminal the default counts.

    :raises EdgeslmError: there is no terminal and no default, or the user types Ctrl-D.
    """
    if not sys.stdin.isatty():
        if not default:
            raise EdgeslmError(f"Nobody can be asked here: add {option}.")
        return parse(default)
    while True:
        sys.stderr.write(f"{question} [{default}]: " if default else f"{question}: ")
        sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:
            raise EdgeslmError("Nothing was written.")
        try:
            return parse(line.strip() or default)
        except ValueError as error:
            print_error(str(error))


def _place(arguments: argparse.Namespace, file: Path) -> Place:
    """Where the node runs. A bundle that isn't here yet is named by its usual path."""
    name = re.sub(r"[^a-z0-9-]+", "-", socket.gethostname().lower()).strip("-")[:64] or "node"
    starter = nearest_starter_dir()
    decoder = (arguments.bundle or starter / DECODER).resolve()
    encoder = starter / ENCODER
    if not decoder.is_dir():
        print_error(
            f"{decoder} isn't there yet: make it with edgeslm-export starter, or name one with --bundle"
        )
    logins = ("username", "password_file", "ca_file", "cert_file", "key_file")
    login = {name: str(value) for name in logins if (value := getattr(arguments, name)) is not None}
    return Place(
        name,
        {"url": arguments.broker, **login},
        str(file.resolve().parent / "edgeslm-state"),
        str(decoder),
        str(encoder) if encoder.is_dir() else None,
    )

"""``edgeslm demo``: trains two tasks, starts broker and daemon, and sends real messages to the tasks.

The demo shows messages on topics, and the labels and fields that the node returns. All figures are measured
during the run.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from edgeslm.cli.demo.broker import DemoBroker, start_broker
from edgeslm.cli.demo.material import (
    LOGIN_EXAMPLES,
    NOTES_TAUGHT,
    QUESTIONS,
    SENSORS,
    SHORT,
    Extent,
    LabelledMessage,
    Question,
    load_logins,
    load_sms,
)
from edgeslm.cli.demo.screen import Screen
from edgeslm.cli.demo.teaching import TrainedTask, teach
from edgeslm.cli.demo.traffic import IN_FLIGHT, Traffic
from edgeslm.cli.starter import starter_dir
from edgeslm.errors import EdgeslmError

NODE = "demo"
DECODER = "smollm2-135m-int4"
ENCODER = "minilm-l6-int8"

SHOWN = 10
"""Number of SMS that are shown one by one; the remaining SMS are only counted."""


def demo(bundle: Path | None, starter: Path | None = None, *, short: bool = False) -> int:
    """Runs the demo.

    :param bundle: the decoder; by default the starter folder's.
    :param starter: the folder with the encoder and the data; by default the folder that contains ``bundle``,
        or without ``bundle`` the user's starter folder.
    :param short: sends only a few messages of each kind.
    :return: the exit status.
    :raises EdgeslmError: a bundle is missing, or a step failed.
    """
    if starter is None:
        starter = bundle.absolute().parent if bundle else starter_dir()
    decoder = bundle.absolute() if bundle else starter / DECODER
    for folder in (decoder, starter / ENCODER):
        if not (folder / "manifest.json").exists():
            raise EdgeslmError(
                f"there is no bundle at {folder}; this command makes it: edgeslm-export starter {starter}"
            )
    screen = Screen()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="edgeslm-demo-") as name:
        folder = Path(name)
        extent = SHORT if short else Extent()
        _play(screen, folder, decoder, starter / ENCODER, starter / "data", extent)
    screen.line(f"\nDone in {time.monotonic() - started:.0f} s.")
    return 0


def _play(screen: Screen, folder: Path, decoder: Path, encoder: Path, data: Path, extent: Extent) -> None:
    taught, aside = load_sms(data)
    logins = load_logins(data, extent.logins)
    screen.title("Training")
    spam = teach(
        folder, "spam", {"ham": "an ordinary message", "spam": "advertising or fraud"}, taught, encoder
    )
    notes = teach(folder, "triage", {"normal": "", "warning": "", "critical": ""}, NOTES_TAUGHT, encoder)
    for trained in (spam, notes):
        screen.line(
            f"  {trained.task}: learned from {trained.rows} labelled messages in {trained.seconds:.1f} s "
            f"(cross-validated accuracy {trained.accuracy:.2f})"
        )
    screen.title("Starting")
    bundles = {"small": {"bundle": str(decoder)}, "encoder": {"bundle": str(encoder.absolute())}}
    with (
        start_broker(folder) as broker,
        _daemon(
            folder,
            broker,
            {
                **_tasks(spam, notes),
                "models": bundles,
                "limits": {"request_timeout_s": extent.request_timeout_s},
            },
        ) as seconds,
    ):
        screen.line(f"  broker {broker.name} at {broker.url}; node {NODE} online in {seconds:.1f} s")
        if not broker.keeps_messages:
            screen.line(
                "  Note: amqtt gives no guarantee; what it acknowledged can be lost. Install mosquitto."
            )
        with Traffic(broker.url, NODE, patience_s=extent.request_timeout_s) as traffic:
            rows = [
                _spam(screen, traffic, aside[: extent.sms], extent.untaught, decoder.name),
                _sensors(screen, traffic, SENSORS[: extent.reports]),
                _logins(screen, traffic, logins),
                _questions(screen, traffic, QUESTIONS[: extent.questions]),
            ]
    screen.summary([row for row in rows if row is not None])


def _tasks(spam: TrainedTask, notes: TrainedTask) -> dict[str, Any]:
    """Sections ``tasks`` and ``routes`` of the node's configuration."""
    return {
        "tasks": {
            "spam": {"learned": str(spam.folder), "overflow": "head"},
            "triage": {"learned": str(notes.folder)},
            "spam-untrained": {
                "kind": "classify",
                "model": "small",
                "instruction": "Is this text message spam?",
                "labels": {"ham": "an ordinary message", "spam": "advertising or fraud"},
            },
            "login": {
                "kind": "extract",
                "model": "small",
                "instruction": "Read the log line and write the client's address as JSON.",
                "schema": {
                    "type": "object",
                    "properties": {"host": {"type": "string"}},
                    "required": ["host"],
                },
                "verbatim": True,
                "max_tokens": 64,
                "examples": [{"input": line, "output": {"host": host}} for line, host in LOGIN_EXAMPLES],
            },
            "manual": {"kind": "answer", "model": "small", "stop": [". "], "max_tokens": 48},
        },
        "routes": [
            {"from": "demo/sms/+", "task": "spam", "to": "demo/sms/{{ topic[2] }}/label"},
            {
                "from": "demo/plant/+/report",
                "task": "triage",
                "when": "payload.note",
                "input": "{{ payload.note }}",
                "to": "demo/plant/{{ payload.machine }}/urgency",
            },
            {"from": "demo/gate/+", "task": "login", "to": "demo/gate/{{ topic[2] }}/host"},
        ],
    }


@contextmanager
def _daemon(folder: Path, broker: DemoBroker, sections: Mapping[str, Any]) -> Iterator[float]:
    """Runs the daemon as a child process; yields how long the daemon took to go online, in seconds."""
    file = folder / "config.yaml"
    own = {"node": NODE, "broker": {"url": broker.url}, "state_dir": str(folder)}
    configuration = {**own, **sections, "prepare": "never", "log_level": "warning"}
    file.write_text(yaml.safe_dump(configuration, sort_keys=False))
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "edgeslm", "run", str(file)], stdin=subprocess.DEVNULL
    )
    try:
        Traffic.wait_online(broker.url, NODE, process)
        yield time.monotonic() - started
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _spam(
    screen: Screen, traffic: Traffic, aside: Sequence[LabelledMessage], most_untaught: int, decoder: str
) -> tuple[str, str, str]:
    screen.title(f"SMS through the route demo/sms/+ -> spam, {len(aside)} that it has not seen")
    screen.header()
    topics = [(f"demo/sms/{number}", row.text) for number, row in enumerate(aside)]
    right = 0
    for row, answer in zip(aside, traffic.through_route(topics[:SHOWN], "{}/label"), strict=False):
        right += answer.label == row.label
        screen.message(row.text, answer, row.label)
    began = time.monotonic()
    rest = traffic.through_route(topics[SHOWN:], "{}/label", IN_FLIGHT)
    for row, answer in zip(aside[SHOWN:], rest, strict=True):
        right += answer.label == row.label
        screen.progress(f"{SHOWN + answer.number + 1} messages")
    rate = (len(aside) - SHOWN) / (time.monotonic() - began)
    screen.clear()
    screen.line(
        f"  {right} of {len(aside)} right ({right / len(aside):.3f}) at {rate:.0f} messages/s over MQTT"
    )
    untaught = aside[:most_untaught]
    guessed = 0
    answers = traffic.requests("spam-untrained", [row.text for row in untaught], in_flight=IN_FLIGHT)
    for row, answer in zip(untaught, answers, strict=True):
        guessed += answer.label == row.label
        screen.progress(f"the decoder alone, untrained: {answer.number + 1} of {len(untaught)}")
    screen.clear()
    common = sum(row.label == "ham" for row in untaught)
    screen.line(
        f"  the decoder alone ({decoder}), untrained: {guessed} of {len(untaught)} right; "
        f"always saying ham gets {common}"
    )
    return (
        "spam (learned head)",
        f"{right} of {len(aside)} right",
        f"untrained decoder {guessed} of {len(untaught)}",
    )


def _sensors(
    screen: Screen, traffic: Traffic, reports: Sequence[tuple[dict[str, object], str]]
) -> tuple[str, str, str]:
    screen.title("Machine reports (JSON) through a route whose template reads the note")
    screen.header()
    sent = [(number, payload, label) for number, (payload, label) in enumerate(reports) if label]
    silent = [payload for payload, label in reports if not label]
    right = 0
    half = len(sent) // 2
    messages = [(f"demo/plant/{number}/report", payload) for number, payload, _ in sent[:half]]
    for payload in silent:  # `when` skips these
        traffic.publish("demo/plant/0/report", payload)
    routed = traffic.through_route(messages, "demo/plant/{machine}/urgency")
    asked = traffic.requests("triage", [str(payload["note"]) for _, payload, _ in sent[half:]])
    for (_, payload, label), answer in zip(sent, [*routed, *asked], strict=True):
        right += answer.label == label
        screen.message(f"{payload['machine']}: {payload['note']}", answer, label)
    screen.line(
        f"  {right} of {len(sent)} right; {len(silent)} without a note was skipped by the route's `when`"
    )
    return (
        "triage (learned head)",
        f"{right} of {len(sent)} right",
        f"{half} by route, {len(sent) - half} by request",
    )


def _logins(
    screen: Screen, traffic: Traffic, logins: Sequence[LabelledMessage]
) -> tuple[str, str, str] | None:
    if not logins:
        screen.line("\n  There are no sshd lines in the starter folder, so the log part is left out.")
        return None
    screen.title("sshd lines: the decoder extracts the client's address, bound to words of the line")
    screen.header("expected")
    half = len(logins) // 2
    routed = traffic.through_route(
        [(f"demo/gate/{number}", row.text) for number, row in enumerate(logins[:half])], "{}/host"
    )
    asked = traffic.requests("login", [row.text for row in logins[half:]])
    right = verbatim = 0
    for row, answer in zip(logins, chain(routed, asked), strict=True):
        right += answer.label == row.label
        verbatim += answer.label in row.text
        screen.message(row.text.partition(": ")[2], answer, row.label)
    screen.line(f"  {right} of {len(logins)} addresses exact, {verbatim} are words of their line")
    return "login (decoder, grammar)", f"{right} of {len(logins)} exact", f"{verbatim} words of their line"


def _questions(screen: Screen, traffic: Traffic, questions: Sequence[Question]) -> tuple[str, str, str]:
    screen.title("Questions about a text that comes along: the answer is a quote of it")
    screen.header("expected")
    options = [{"context": question.context} for question in questions]
    answers = traffic.requests("manual", [question.text for question in questions], options)
    right = verbatim = 0
    for question, answer in zip(questions, answers, strict=True):
        right += question.gold in answer.label
        verbatim += answer.label in question.context
        screen.message(question.text, answer, question.gold)
    screen.line(
        f"  {right} of {len(questions)} contain the expected words, {verbatim} are verbatim; "
        "small models make many mistakes here"
    )
    return "manual (decoder, quote)", f"{right} of {len(questions)} right", f"{verbatim} verbatim"

"""``edgeslm demo``: messages arrive, a few labels teach a task, and documents answer questions.

The demo starts a broker and a node of its own. All figures are counted and measured during the run.
"""

from __future__ import annotations

import importlib.util
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import yaml

from edgeslm.cli.demo.broker import DemoBroker, free_port, is_free, start_broker
from edgeslm.cli.demo.material import (
    LOGIN_EXAMPLES,
    MANUAL,
    QUESTIONS,
    SHORT,
    Extent,
    LabelledMessage,
    Question,
    a_few_of_each,
    load_logins,
    load_sms,
)
from edgeslm.cli.demo.screen import LONG, Screen
from edgeslm.cli.demo.teaching import TrainedTask, teach
from edgeslm.cli.demo.traffic import IN_FLIGHT, Traffic
from edgeslm.cli.starter import starter_dir
from edgeslm.config.extras import install_line
from edgeslm.errors import EdgeslmError

NODE = "demo"
DECODER = "smollm2-135m-int4"
ENCODER = "minilm-l6-int8"
CONSOLE_PORT = 8480
LABELS = {"ham": "an ordinary message", "spam": "advertising or fraud"}

SHOWN = 5
"""Number of SMS that are shown one by one; the remaining SMS are only counted."""
PACE_S = 2.0
"""Seconds between two messages while the demo stays."""

Row = tuple[str, str, str]
"""A line of the summary: what was done, what was counted, and what to compare it with."""


def demo(bundle: Path | None, starter: Path | None = None, *, short: bool = False, stay: bool = False) -> int:
    """Runs the demo.

    :param bundle: the decoder; by default the starter folder's.
    :param starter: the folder with the encoder and the data; by default the folder that contains ``bundle``,
        or without ``bundle`` the user's starter folder.
    :param short: sends only a few messages of each kind.
    :param stay: keeps broker, node and messages running until Ctrl-C, with a console.
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
    if stay and importlib.util.find_spec("uvicorn") is None:
        raise EdgeslmError(f"the console needs the extra api, which isn't installed: {install_line('api')}")
    signal.signal(signal.SIGTERM, _interrupt)
    with tempfile.TemporaryDirectory(prefix="edgeslm-demo-") as name:
        Demo(Path(name), decoder, starter, SHORT if short else Extent(), stay=stay).run()
    return 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


class Demo:
    """One run of the demo, with its files in ``folder``."""

    def __init__(self, folder: Path, decoder: Path, starter: Path, extent: Extent, *, stay: bool) -> None:
        self._folder = folder
        self._decoder = decoder
        self._encoder = (starter / ENCODER).absolute()
        self._data = starter / "data"
        self._extent = extent
        self._stay = stay
        self._screen = Screen()
        self._file = folder / "config.yaml"
        self._console: dict[str, Any] = {}

    def run(self) -> None:
        """:raises EdgeslmError: a step failed."""
        screen, extent, started = self._screen, self._extent, time.monotonic()
        labelled, messages = load_sms(self._data)
        logins = load_logins(self._data, extent.logins)
        screen.title("1. A broker and a node start on this machine; no text leaves it")
        self._add_documents()
        with start_broker(self._folder) as broker:
            self._configure(broker, None)
            with self._node(broker) as (node, seconds):
                screen.line(f"  broker {broker.name} at {broker.url}")
                screen.line(
                    f"  node {NODE!r} is online after {seconds:.1f} s, with the model {self._decoder.name}"
                )
                if not broker.keeps_messages:
                    screen.line(
                        "  Note: amqtt can lose what it acknowledged; install mosquitto for real use."
                    )
                with Traffic(broker.url, NODE, patience_s=extent.request_timeout_s) as traffic:
                    rows = [
                        *self._teaching(traffic, broker, node, labelled, messages),
                        *self._logins(traffic, logins),
                        *self._questions(traffic, QUESTIONS[: extent.questions]),
                    ]
                    screen.summary(rows)
                    screen.line(f"\nDone in {time.monotonic() - started:.0f} s.")
                    if self._stay:
                        self._go_on(traffic, broker, messages)
        if not self._stay:
            screen.line(
                "To watch it in a browser, with messages that go on arriving: edgeslm demo --stay, or in a "
                "clone make demo ARGS=--stay"
            )

    def _add_documents(self) -> None:
        """Makes a collection, as a user would."""
        documents = self._folder / "documents"
        documents.mkdir()
        for name, text in MANUAL.items():
            (documents / name).write_text(text, "utf-8")
        collection = str(self._folder / "manuals")
        command = ["knowledge", "add", collection, str(documents), "--encoder", str(self._encoder)]
        done = subprocess.run(
            [sys.executable, "-P", "-m", "edgeslm", *command], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise EdgeslmError(f"the documents can't be added: {done.stderr.strip()}")

    def _configure(self, broker: DemoBroker, taught: TrainedTask | None) -> None:
        """Writes the node's configuration, with the task ``spam`` untaught or taught."""
        if self._stay and not self._console:
            port = CONSOLE_PORT if is_free(CONSOLE_PORT) else free_port()
            token = self._folder / "token"
            token.write_text(secrets.token_urlsafe(16))
            self._console = {"listen": f"127.0.0.1:{port}", "token_file": str(token), "texts": True}
        configuration = {
            "node": NODE,
            "broker": {"url": broker.url},
            "state_dir": str(self._folder),
            "models": {
                "small": {"bundle": str(self._decoder)},
                "encoder": {"bundle": str(self._encoder)},
            },
            "knowledge": {"manuals": {"path": str(self._folder / "manuals"), "encoder": "encoder"}},
            **sections(taught),
            "limits": {"request_timeout_s": self._extent.request_timeout_s},
            "prepare": "never",
            "log_level": "warning",
            **({"console": self._console} if self._stay else {}),
        }
        self._file.write_text(yaml.safe_dump(configuration, sort_keys=False))

    @contextmanager
    def _node(self, broker: DemoBroker) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
        """Runs the node as a child process; yields it, and how long it took to go online, in seconds."""
        started = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "edgeslm", "run", str(self._file)],
            stdin=subprocess.DEVNULL,
            process_group=0,  # Ctrl-C ends the demo, which ends the node before the broker
        )
        try:
            Traffic.wait_online(broker.url, NODE, process)
            yield process, time.monotonic() - started
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _teaching(
        self,
        traffic: Traffic,
        broker: DemoBroker,
        node: subprocess.Popen[bytes],
        labelled: Sequence[LabelledMessage],
        messages: Sequence[LabelledMessage],
    ) -> Iterator[Row]:
        """Labels messages before and after the task is taught."""
        screen, extent = self._screen, self._extent
        messages = messages[: extent.sms]
        first = messages[: extent.untaught]
        screen.title("2. SMS arrive on demo/sms/...; the model labels them, but nobody has taught it how")
        screen.line("  labels: " + ", ".join(f"{label} ({meaning})" for label, meaning in LABELS.items()))
        before = self._label(traffic, first)
        common = sum(row.label == "ham" for row in first)
        screen.line(f"  before: {before} of {len(first)} right (always saying ham: {common})")
        rows = a_few_of_each(labelled)
        screen.title(
            f"3. {len(rows)} other messages get labels (edgeslm teach: a key each); the task learns from them"
        )
        for row in (rows[0], rows[-1]):
            screen.line(f"  {row.label:<5} {screen.cut(row.text, 6)}")
        screen.progress("learning ...")
        taught = teach(self._folder, "spam", LABELS, rows, self._encoder)
        screen.clear()
        screen.line(f"  learned from {taught.rows} labels in {taught.seconds:.1f} s, on this machine's CPU")
        started = time.monotonic()
        self._configure(broker, taught)
        node.send_signal(signal.SIGHUP)
        Traffic.wait_taught(broker.url, NODE, "spam", node)
        ms = 1000 * (time.monotonic() - started)
        screen.line(f"  the running node uses it after {ms:.0f} ms, without a restart")
        screen.title("4. The same SMS again, then more that it has never seen")
        after = self._label(traffic, first)
        screen.line(f"  after: {after} of {len(first)} right; before: {before}")
        more = messages[len(first) :]
        started = time.monotonic()
        right = after + self._label(traffic, more, shown=0)
        rate = len(more) / (time.monotonic() - started)
        screen.line(f"  all: {right} of {len(messages)} right, {rate:.0f} messages/s through the broker")
        yield "spam, before teaching", f"{before} of {len(first)} right", f"always saying ham: {common}"
        yield f"spam, after {taught.rows} labels", f"{after} of {len(first)} right", "the same messages"
        common = sum(row.label == "ham" for row in messages)
        yield "spam, more messages", f"{right} of {len(messages)} right", f"always saying ham: {common}"

    def _label(self, traffic: Traffic, messages: Sequence[LabelledMessage], shown: int = SHOWN) -> int:
        """Publishes messages for the route, and shows the first. :return: how many labels are right."""
        topics = [(f"demo/sms/{number}", row.text) for number, row in enumerate(messages)]
        right = 0
        if shown:
            self._screen.header()
        for row, answer in zip(messages, traffic.through_route(topics[:shown], "{}/label"), strict=False):
            right += answer.label == row.label
            self._screen.message(row.text, answer, row.label)
        rest = traffic.through_route(topics[shown:], "{}/label", IN_FLIGHT)
        for row, answer in zip(messages[shown:], rest, strict=True):
            right += answer.label == row.label
            self._screen.progress(f"{shown + answer.number + 1} of {len(messages)} messages")
        self._screen.clear()
        return right

    def _logins(self, traffic: Traffic, logins: Sequence[LabelledMessage]) -> Iterator[Row]:
        screen = self._screen
        if not logins:
            screen.line("\nThe starter folder has no sshd lines, so the part about log lines is left out.")
            return
        screen.title("5. Log lines arrive on demo/gate/...; the model copies the client's address, untaught")
        screen.header("expected", LONG)
        topics = [(f"demo/gate/{number}", row.text) for number, row in enumerate(logins)]
        right = 0
        for row, answer in zip(logins, traffic.through_route(topics, "{}/host"), strict=True):
            right += answer.label == row.label
            screen.message(row.text.partition(": ")[2], answer, row.label)
        screen.line(f"  {right} of {len(logins)} addresses right")
        yield "addresses in log lines", f"{right} of {len(logins)} right", "untaught"

    def _questions(self, traffic: Traffic, questions: Sequence[Question]) -> Iterator[Row]:
        screen = self._screen
        screen.title(
            f"6. Questions about {len(MANUAL)} documents; the answer is a sentence of one, with its source"
        )
        right = 0
        for question, answer in zip(
            questions, traffic.requests("manual", [one.text for one in questions]), strict=True
        ):
            is_right = question.gold in answer.label
            right += is_right
            screen.line(f"  {question.text}")
            screen.answer(answer, is_right=is_right)
        screen.line(f"  {right} of {len(questions)} answers right")
        yield "questions on documents", f"{right} of {len(questions)} right", "each with its source"

    def _go_on(self, traffic: Traffic, broker: DemoBroker, messages: Sequence[LabelledMessage]) -> None:
        """Publishes messages until Ctrl-C."""
        screen = self._screen
        token = Path(self._console["token_file"]).read_text()
        screen.title("It goes on: an SMS every two seconds, until you press Ctrl-C")
        screen.line(f"  console   http://{self._console['listen']}   token {token}")
        screen.line(
            f"  ask       edgeslm request manual '{QUESTIONS[0].text}' --broker {broker.url} --node {NODE}"
        )
        screen.line(f"  watch     edgeslm top --broker {broker.url}")
        try:
            for number, row in enumerate(cycle(messages)):
                traffic.publish(f"demo/sms/{number % 10}", row.text)
                time.sleep(PACE_S)
        except KeyboardInterrupt:
            screen.line("\nThe node and the broker end.")


def sections(taught: TrainedTask | None) -> dict[str, Any]:
    """Sections ``tasks`` and ``routes`` of the node's configuration."""
    spam: dict[str, Any] = {
        "kind": "classify",
        "model": "small",
        "instruction": "Is this text message spam?",
        "labels": LABELS,
    }
    return {
        "tasks": {
            "spam": {"learned": str(taught.folder), "overflow": "head"} if taught else spam,
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
            "manual": {"kind": "answer", "knowledge": ["manuals"]},
        },
        "routes": [
            {"from": "demo/sms/+", "task": "spam", "to": "demo/sms/{{ topic[2] }}/label"},
            {"from": "demo/gate/+", "task": "login", "to": "demo/gate/{{ topic[2] }}/host"},
        ],
    }

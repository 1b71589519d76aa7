"""``edgeslm teach``: shows messages, takes labels by single keys, trains, and says how to use the result."""

from __future__ import annotations

import argparse
import difflib
import fcntl
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeslm.cli.listening import PATIENCE_S
from edgeslm.cli.parts import HERE, SERVICE, configuration
from edgeslm.cli.screen import ProgressLine, say
from edgeslm.cli.starter import nearest_starter_dir
from edgeslm.cli.teach.labelling import keys, label_messages
from edgeslm.cli.teach.proposals import Proposer
from edgeslm.errors import EdgeslmError, InvalidRequest, UnknownTask, plural
from edgeslm.teaching.lesson import Lesson
from edgeslm.teaching.rows import FEWEST, Labels, earlier_rows, read_messages
from edgeslm.teaching.session import KEYS, Row, Session

if TYPE_CHECKING:
    from edgeslm.config.loader import Config, Task
    from edgeslm.node.routes.route import RouteReader

SUMMARY = "label messages in the terminal and train a task on them, on this device"
EXAMPLE = "edgeslm teach triage --listen 60"
ENCODER = "minilm-l6-int8"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("task", help="name of the task, of kind classify or extract")
    command.add_argument(
        "--config", type=Path, help=f"the node's configuration (default: {HERE}, then {SERVICE})"
    )
    whence = command.add_mutually_exclusive_group()
    whence.add_argument(
        "--from",
        dest="file",
        type=Path,
        metavar="FILE",
        help='messages: JSON lines {"text"}, CSV with this column, texts, or lines `TOPIC PAYLOAD` of the '
        "routes (default: those labelled before)",
    )
    whence.add_argument(
        "--listen", type=float, metavar="S", help="take messages of the task's routes for S seconds"
    )
    command.add_argument("--encoder", type=Path, help="encoder bundle (default: the starter's)")
    command.add_argument(
        "--out", type=Path, metavar="DIR", help="the folder to make (default: learned/TASK in state_dir)"
    )
    command.add_argument(
        "--use", action="store_true", help="without asking, change the configuration so that the task uses it"
    )


def run(arguments: argparse.Namespace) -> int:
    """:raises EdgeslmError: the task can't be taught here, there are no messages, or training failed."""
    from edgeslm.config.loader import load_config
    from edgeslm.storage.feedback_store import FeedbackStore

    file = configuration(arguments.config)
    config = load_config(file)
    if (schema := _schema(config, arguments.task, file)) is not None:
        return _mark(arguments, config, file, schema)
    section = _section(config, arguments.task)
    labels = dict(section.labels or {})
    with tempfile.TemporaryDirectory(prefix="edgeslm-teach-") as work:
        lesson = Lesson(arguments.task, labels, _encoder(arguments.encoder), Path(work))
        lesson.check()
        out = (arguments.out or config.state_dir / "learned" / arguments.task).absolute()
        if out.exists() and not (out / "manifest.json").is_file():
            raise EdgeslmError(f"{out} exists and is no trained task; name another folder with --out.")
        _decide(config, arguments.task)
        given = Labels(FeedbackStore(config.state_dir), arguments.task)
        rows = earlier_rows(given, labels)
        texts = list(dict.fromkeys([*_messages(arguments, config), *(row["text"] for row in rows)]))
        if not texts:
            raise EdgeslmError("There are no messages: name some with --from, or listen with --listen.")
        session = Session(lesson, texts, rows, given)
        with Proposer(config, arguments.task) as proposer:
            label_messages(session, list(labels), proposer)
        with _turn(out):  # labels of other sessions, which end or train meanwhile, count too
            if not _train(lesson, earlier_rows(given, labels), out):
                return 1
        _tell_use(lesson, out, config, file.resolve(), is_wanted=arguments.use)
        return 0


def _section(config: Config, name: str) -> Task:
    section = config.tasks.get(name)
    if section is None:
        raise UnknownTask(f"there is no task {name!r}; there are: {', '.join(sorted(config.tasks))}")
    if section.kind not in (None, "classify") or not section.labels:
        raise EdgeslmError(f"{name} can't be taught here: only tasks of kind classify with labels can.")
    if len(section.labels) > len(KEYS):
        raise EdgeslmError(f"{name} has more than {len(KEYS)} labels, the number of keys.")
    return section


def _encoder(named: Path | None) -> Path:
    found = named or nearest_starter_dir() / ENCODER
    if not (found / "manifest.json").is_file():
        advice = "make it with edgeslm-export starter, or name one with --encoder"
        raise EdgeslmError(f"{found} is no bundle; {advice}.")
    return found


def _decide(config: Config, task: str) -> None:
    """Asks about corrections that came over MQTT."""
    from edgeslm.cli.teach.decisions import decide
    from edgeslm.storage.feedback_store import FeedbackStore

    with keys() as read:
        decide(FeedbackStore(config.state_dir), task, read)


def _schema(config: Config, name: str, file: Path) -> Mapping[str, Any] | None:
    """The schema of a task of kind extract; None for any other task."""
    section = config.tasks.get(name)
    if section is None or section.kind not in (None, "extract") or (section.kind is None and section.labels):
        return None
    if section.output_schema is not None:
        return section.output_schema
    from edgeslm.cli.feedback import task_of

    return task_of(config, name, file).section.output_schema


def _mark(arguments: argparse.Namespace, config: Config, file: Path, schema: Mapping[str, Any]) -> int:
    """Marks the fields of messages; they are trained on a build machine."""
    from edgeslm.cli.teach.marking import mark, marked
    from edgeslm.storage.feedback_store import Correction, FeedbackStore, is_used

    store, name = FeedbackStore(config.state_dir), arguments.task
    _decide(config, name)
    known = {row["text"] for row in store.rows(name) if is_used(row)}
    texts = [text for text in dict.fromkeys(_messages(arguments, config)) if text not in known]
    if not texts and not known:
        raise EdgeslmError("There are no messages: name some with --from, or listen with --listen.")

    def keep(text: str, fields: Mapping[str, Any]) -> None:
        store.keep(Correction(name, text, fields=fields))

    count = mark(texts, schema, keep)
    say(marked(count, config.node, file, name))
    return 0


def _messages(arguments: argparse.Namespace, config: Config) -> list[str]:
    if arguments.file is not None:
        return _read(arguments.file, config, arguments.task)
    return _heard(config, arguments.task, arguments.listen) if arguments.listen is not None else []


def _read(file: Path, config: Config, task: str) -> list[str]:
    """Texts of a file's lines. Of a line `TOPIC PAYLOAD`, as mosquitto_sub -v prints it, the text that a
    route of the task would read."""
    from edgeslm.node.routes.route import RouteReader

    routes = [RouteReader(route, config.base) for route in config.routes if route.task == task]

    def texts_of(line: str) -> list[str] | None:
        topic, _, payload = line.partition(" ")
        route = next((one for one in routes if "/" in topic and one.matches(topic)), None)
        if route is None:
            return None
        return _text_for(route, topic, payload.encode(), retained=False)

    return read_messages(file, texts_of=texts_of)


def _text_for(route: RouteReader, topic: str, payload: bytes, *, retained: bool) -> list[str]:
    """The text that the route's task would read of a message, redacted if the route says so; none if the
    route skips the message. :raises EdgeslmError: only the node can redact it."""
    from edgeslm.node.routes.redactor import read_payload
    from edgeslm.node.routes.route import RouteWork, Unredacted

    _check_redaction(route)
    work = route.consider(topic, payload, retained, time.monotonic())
    if isinstance(work, Unredacted):
        try:
            work = route.read_redacted(topic, read_payload(work.text).redact(route.route.exact_kinds))
        except InvalidRequest:
            return []
    return [_sound(work.input)] if isinstance(work, RouteWork) else []


def _check_redaction(route: RouteReader) -> None:
    """:raises EdgeslmError: the route's messages are redacted by a model, which runs on the node."""
    if route.route.redact_model is not None:
        raise EdgeslmError(
            f"The route {route.name} redacts with the model {route.route.redact_model}, which runs on the "
            "node: teach in its web console, or name a file of texts with --from."
        )


def _heard(config: Config, task: str, seconds: float) -> list[str]:
    """Texts of the messages that the task's routes would read.

    :raises EdgeslmError: no route has the task, or the broker can't be used.
    """
    from edgeslm.client.listening import Listening
    from edgeslm.mqtt.broker_address import BrokerAddress
    from edgeslm.node.routes.route import RouteReader

    routes = [RouteReader(route, config.base) for route in config.routes if route.task == task]
    if not routes:
        raise EdgeslmError(f"No route has the task {task}: name messages with --from.")
    for route in routes:
        _check_redaction(route)
    texts: list[str] = []

    def take(topic: str, payload: bytes, retained: bool) -> None:
        for route in routes:
            if route.matches(topic):
                texts.extend(_text_for(route, topic, payload, retained=retained))

    filters = list(dict.fromkeys(route.route.source for route in routes))
    with Listening(BrokerAddress.of(config.broker), filters, take) as listening, ProgressLine() as line:
        listening.retained(PATIENCE_S)
        started = time.monotonic()
        while (passed := time.monotonic() - started) < seconds:
            line.show(round(passed), round(seconds), f"listening: {plural(len(texts), 'message')}")
            time.sleep(min(0.5, seconds - passed))
    return texts


def _sound(text: str) -> str:
    """The text, with a mark instead of half a character."""
    return text.encode("utf-8", "replace").decode()


@contextmanager
def _turn(out: Path) -> Iterator[None]:
    """Waits while another session trains into the same folder. :raises EdgeslmError: it can't be used."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(out.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise EdgeslmError(f"{out.parent} can't be used: {error.strerror}.") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("\nAnother session is training; waiting for it ...")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _train(lesson: Lesson, rows: Sequence[Row], out: Path) -> bool:
    """:return: whether there were enough labels."""
    counts = Counter(row["label"] for row in rows)
    few = [label for label in lesson.labels if counts[label] < FEWEST]
    if few:
        say(f"\nNot trained: each label needs {FEWEST} messages; there are fewer of: {', '.join(few)}.")
        if rows:
            say("The labels are kept; go on with the same command.")
        return False
    say(f"\nTraining on {plural(len(rows), 'message')} ...")
    report = lesson.train(rows, out)
    low, high = report["interval"]
    say(f"{report['accuracy']:.2f} of messages like these are right ({low:.2f} to {high:.2f})")
    say(f"Written: {out}")
    return True


def _tell_use(lesson: Lesson, out: Path, config: Config, file: Path, *, is_wanted: bool) -> None:
    """Changes the configuration so that the task uses the head, if the user wants it; else says what to do.

    :raises EdgeslmError: the configuration can't be written.
    """
    from edgeslm.cli.teach.usage import with_learned
    from edgeslm.storage.atomic_json import rewrite_text

    if config.tasks[lesson.task].learned == out:
        say("Use it: restart the node, such as with sudo systemctl restart edgeslm")
        return
    known = {model.bundle.resolve() for model in config.models.values()}
    encoder = None if lesson.encoder.resolve() in known else lesson.encoder.absolute()
    old = file.read_text("utf-8")
    new = with_learned(old, file.parent, lesson.task, out, encoder)
    if new is not None and (is_wanted or (sys.stdin.isatty() and _is_yes(f"Change {file} to use it"))):
        try:
            rewrite_text(file, new)
        except OSError as error:
            raise EdgeslmError(f"{file} can't be written: {error.strerror}.") from None
        say(f"Changed: {file}")
        for line in difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=0):
            if line[:1] in "+-" and line[:3] not in ("+++", "---"):
                say(f"  {line}")
        say("Restart the node, or reload it, such as with sudo systemctl reload edgeslm")
    else:
        say(f"Use it: add to the task {lesson.task}, instead of model, and restart the node:")
        say(f"    learned: {out}")
        if encoder is not None:
            say(f"and to models, since the task needs this encoder:\n    encoder: {{bundle: {encoder}}}")
        if is_wanted:
            raise EdgeslmError(
                f"{file} isn't changed: --use needs models, the task {lesson.task} and its model in lines of "
                "their own, without braces."
            )


def _is_yes(question: str) -> bool:
    sys.stderr.write(f"{question} [yes]: ")
    sys.stderr.flush()
    line = sys.stdin.readline()
    return line.strip().lower() in ("", "y", "yes") and bool(line)

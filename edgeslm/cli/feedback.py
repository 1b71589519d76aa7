"""``edgeslm feedback``: stores a correction on this device, or lists the corrections of a task."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeslm.cli.listening import NODE_VARIABLE, PATIENCE_S, add_broker_arguments, address_of
from edgeslm.cli.parts import configuration
from edgeslm.cli.screen import ProgressLine, print_error, say
from edgeslm.errors import EdgeslmError, InvalidRequest, plural
from edgeslm.protocol.topic_filters import topic_name_fault
from edgeslm.telemetry.log_lines import printable

if TYPE_CHECKING:
    from edgeslm.bundle.manifest import Bundle
    from edgeslm.config.loader import Config
    from edgeslm.storage.feedback_store import Row
    from edgeslm.tasks import Task

SUMMARY = "store a correction on this device for the next tuning, or list a task's corrections"
EXAMPLE = "edgeslm feedback triage 'Spindle 3 smells of burnt oil' critical --config config.yaml"
LONGEST = 100
"""Characters of a text that a list shows."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("task", help="name of the task")
    command.add_argument("text", nargs="?", help="the message; without it, the task's corrections are listed")
    command.add_argument("label", nargs="?", help="the right answer: a label, or the fields as JSON")
    command.add_argument(
        "--config", type=Path, help="configuration with the task; its state_dir stores the correction"
    )
    command.add_argument(
        "--node",
        default=os.environ.get(NODE_VARIABLE),
        help="list the corrections of this node, which must allow it (control: {allow: [feedback]}); "
        f"${NODE_VARIABLE} if left out and without --config",
    )
    add_broker_arguments(command, required=False)
    command.add_argument(
        "--json",
        action="store_true",
        help="print JSON; of a list, a line with the task and a line for each row, for edgeslm-export tune",
    )


def run(arguments: argparse.Namespace) -> int:
    if arguments.text is None:
        return _list(arguments)
    if arguments.label is None:
        raise InvalidRequest("The right answer is missing: a label, or the fields as JSON.")
    return _store(arguments)


def _store(arguments: argparse.Namespace) -> int:
    from edgeslm.config.loader import load_config
    from edgeslm.config.schema import default_state_dir
    from edgeslm.node.feedback import check_correction
    from edgeslm.protocol.feedback import parse_feedback
    from edgeslm.storage.feedback_store import Correction, FeedbackStore

    answer: dict[str, Any] = {"label": arguments.label}
    with contextlib.suppress(ValueError):
        if isinstance(fields := json.loads(arguments.label), dict):
            answer = {"fields": fields}
    said = {"task": arguments.task, "input": arguments.text, **answer}
    feedback = parse_feedback(json.dumps(said).encode())
    if "/" in feedback.task or topic_name_fault(feedback.task):
        raise EdgeslmError(f"{feedback.task!r} is not a task's name")
    correction = Correction(feedback.task, feedback.input or "", feedback.label, feedback.fields)
    state_dir = default_state_dir()
    if arguments.config is not None:
        config = load_config(arguments.config)
        check_correction(task_of(config, correction.task, arguments.config), correction)
        state_dir = config.state_dir
    file = FeedbackStore(state_dir).keep(correction)
    say(json.dumps({"file": str(file)}) if arguments.json else f"kept in {file}")
    return 0


def task_of(config: Config, name: str, file: Path) -> Task:
    """The task without its bundles' models. :raises UnknownTask: there is no such task."""
    from edgeslm.bundle.manifest import load_bundle
    from edgeslm.errors import UnknownTask
    from edgeslm.tasks import make_task

    section = config.tasks.get(name)
    if section is None:
        names = ", ".join(sorted(config.tasks))
        raise UnknownTask(f"there is no task {name!r} in {file}; there are: {names}")
    trained = section.learned or section.adapter
    bundle = load_bundle(trained) if trained else None
    # As in the daemon: examples and instruction are for the other stages.
    alone = section.model_copy(update={"stages": (), "examples": (), "instruction": None})
    return make_task(name, alone, bundle)


# Lists


def _list(arguments: argparse.Namespace) -> int:
    """Prints the corrections that training uses, and how many wait for a decision."""
    if arguments.node is not None and arguments.config is None:
        told, rows, waiting = _fetch(arguments)
        bias = None
    else:
        told, rows, waiting, bias = _read(arguments.config, arguments.task)
    if arguments.json:
        say("\n".join(json.dumps(one, ensure_ascii=False) for one in [{**told, "waiting": waiting}, *rows]))
    else:
        for row in rows:
            by = f"  (by {sender_name(row['by'])})" if "by" in row else ""
            text = " ".join(row["text"].split())[:LONGEST]
            say(printable(f"{row.get('at', '')}  {answer_of(row)}  {text}{by}"))
        say(plural(len(rows), "correction"))
    if bias is not None:
        print_error(f"{arguments.task}: {bias}")
    for sender, count in waiting.items():
        print_error(
            f"{plural(count, 'correction')} by {sender_name(sender)} wait for a decision; "
            f"edgeslm teach {arguments.task} asks for it"
        )
    return 0


def answer_of(row: Row) -> str:
    """The right answer of a row in words."""
    return str(row["label"]) if "label" in row else json.dumps(row["fields"], ensure_ascii=False)


def sender_name(by: object) -> str:
    """A sender in words."""
    return str(by) or "a sender without a name"


def _read(file: Path | None, name: str) -> tuple[dict[str, Any], list[Row], Mapping[str, int], str | None]:
    """Description, rows, number of waiting rows by sender, and what the node's label bias says, from this
    device."""
    from edgeslm.bundle.manifest import load_bundle
    from edgeslm.config.loader import load_config
    from edgeslm.node.feedback import describe_task, waiting
    from edgeslm.storage.feedback_store import FeedbackStore, is_used
    from edgeslm.update.store import Store

    file = configuration(file)
    config = load_config(file)
    config = Store(config.state_dir, config.node).settled(config)
    task = task_of(config, name, file)
    bundles = {one: load_bundle(model.bundle) for one, model in config.models.items()}
    models = {one: {"kind": of.manifest.kind, "digest": of.digest} for one, of in bundles.items()}
    rows = FeedbackStore(config.state_dir).rows(name)
    described = describe_task(task, config.tasks[name])
    told = {"task": described, "node": config.node, "models": models, "takes_updates": True}
    bias = _bias(config, name, bundles)
    return told, [row for row in rows if is_used(row)], waiting(rows), bias


def _bias(config: Config, name: str, bundles: Mapping[str, Bundle]) -> str | None:
    """The label bias that the node has fitted to the corrections, in words; None if it has none."""
    from edgeslm.serving.fitted_bias import FEEDBACK, bias_key, describe_bias, load_biases

    section, found = config.tasks[name], load_biases(config).get(name)
    models = [one for one in section.stages or (section.model,) if isinstance(one, str) and one in bundles]
    if found is None or section.learned or section.calibration != FEEDBACK or len(models) != 1:
        return None
    return describe_bias(found.bias) if found.key == bias_key(section, bundles[models[0]].digest) else None


def _fetch(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[Row], Mapping[str, int]]:
    """As :func:`_read` without the bias, from a running node.

    :raises EdgeslmError: the broker can't be used, or the node doesn't allow it.
    """
    from edgeslm.client.control import ControlClient

    if arguments.broker is None:
        raise InvalidRequest("Name the broker with --broker.")
    rows: list[Row] = []
    counts: Counter[str] = Counter()
    told: dict[str, Any] = {}
    after: Any = 0
    commands = ["feedback/list"]
    client = ControlClient.of(address_of(arguments), arguments.node, arguments.prefix, commands, PATIENCE_S)
    with client as node, ProgressLine() as line:
        while after is not None:
            page = dict(node.ask("feedback/list", {"task": arguments.task, "after": after}))
            rows += page.pop("rows", [])
            counts.update(page.pop("waiting", {}))
            after = page.pop("after", None)
            told |= page
            line.show(len(rows), max(1, len(rows)), plural(len(rows), "correction"))
    return told, rows, dict(counts)

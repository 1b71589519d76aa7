"""``edgeslm feedback``: stores a correction on this device, as training data for the next tuning."""

from __future__ import annotations

import argparse
import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeslm.cli.screen import say
from edgeslm.errors import EdgeslmError
from edgeslm.protocol.topic_filters import topic_name_fault

if TYPE_CHECKING:
    from edgeslm.storage.feedback_store import Correction

SUMMARY = "store a correction on this device, for the next tuning"
EXAMPLE = "edgeslm feedback triage 'Spindle 3 smells of burnt oil' critical --config config.yaml"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("task", help="name of the task")
    command.add_argument("text", help="the message")
    command.add_argument("label", help="the right answer: a label, or the fields as JSON")
    command.add_argument(
        "--config", type=Path, help="configuration with the task; its state_dir stores the correction"
    )
    command.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    from edgeslm.config.schema import default_state_dir
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
        state_dir = _check_correction(arguments.config, correction)
    file = FeedbackStore(state_dir).keep(correction)
    say(json.dumps({"file": str(file)}) if arguments.json else f"kept in {file}")
    return 0


def _check_correction(config_file: Path, correction: Correction) -> Path:
    """Checks a correction.

    :return: the state folder.
    :raises EdgeslmError: the correction doesn't fit the task.
    """
    from edgeslm.bundle.manifest import load_bundle
    from edgeslm.config.loader import load_config
    from edgeslm.errors import UnknownTask
    from edgeslm.node.feedback import check_correction
    from edgeslm.tasks import make_task

    config = load_config(config_file)
    section = config.tasks.get(correction.task)
    if section is None:
        names = ", ".join(sorted(config.tasks))
        raise UnknownTask(f"there is no task {correction.task!r} in {config_file}; there are: {names}")
    trained = section.learned or section.adapter
    bundle = load_bundle(trained) if trained else None
    # As in the daemon: examples and instruction are for the other stages.
    alone = section.model_copy(update={"stages": (), "examples": (), "instruction": None})
    check_correction(make_task(correction.task, alone, bundle), correction)
    return config.state_dir

"""Label biases that a node fitted to corrections: which tasks have them, and the file that keeps them.

A bias belongs to one model, and to the labels and the prompt: with another model, or after a change of the
task, it isn't used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from edgeslm.bundle.calibration import LabelledBias
from edgeslm.config.loader import Config
from edgeslm.config.loader import Task as TaskSection
from edgeslm.storage.atomic_json import read_record, write_record
from edgeslm.tasks.classify import Classify

if TYPE_CHECKING:
    from edgeslm.serving.deployment import StageBinding

FEEDBACK = "feedback"
"""The ``calibration`` of a task whose bias is fitted to corrections."""


@dataclass(frozen=True, slots=True)
class FittedBias:
    """A bias with the ``key`` of what it belongs to, and the ``mark`` of the corrections."""

    key: str
    mark: str
    bias: LabelledBias

    @classmethod
    def read(cls, entry: Any) -> Self | None:
        """The bias of an entry of the file; None if it is damaged."""
        try:
            bias = LabelledBias(**entry["bias"])
            sound = bias.biases is None or all(0 < float(share) <= 1 for share in bias.biases.values())
            return cls(str(entry["key"]), str(entry["mark"]), bias) if sound else None
        except (TypeError, ValueError, KeyError, AttributeError):
            return None


def bias_file(config: Config) -> Path:
    return config.state_dir / f"label-bias-{config.node}.json"


def load_biases(config: Config) -> dict[str, FittedBias]:
    """The biases by task; none of a file that is missing or damaged."""
    found = {task: FittedBias.read(entry) for task, entry in read_record(bias_file(config)).items()}
    return {task: one for task, one in found.items() if one is not None}


def save_biases(config: Config, biases: Mapping[str, FittedBias]) -> None:
    """:raises OSError: the file can't be written."""
    write_record(bias_file(config), {task: asdict(one) for task, one in biases.items()})


def bias_key(section: TaskSection, digest: str) -> str:
    """What a bias belongs to. :param digest: of the model's bundle."""
    parts = [digest, section.instruction, section.overflow]
    examples = [one.model_dump(mode="json") for one in section.examples]
    shown = json.dumps([*parts, list((section.labels or {}).items()), examples], ensure_ascii=False)
    return hashlib.sha256(shown.encode("utf-8", "replace")).hexdigest()


def use_bias(task: Classify, found: FittedBias | None, key: str) -> None:
    """Sets the task's bias to the one that was found, if that belongs to the ``key`` and the labels."""
    task.fitted = None
    if found is not None and found.key == key:
        biases = found.bias.biases
        if biases is None or biases.keys() == (task.section.labels or {}).keys():
            task.fitted = found.bias


def fitted_task(bindings: Sequence[StageBinding]) -> Classify | None:
    """The task whose bias is fitted to corrections, of the stages of one; None if it isn't an untaught
    ``classify`` with a single model of this node, or its ``calibration`` says otherwise."""
    task = bindings[0].task if len(bindings) == 1 else None
    if not isinstance(task, Classify) or not task.is_untaught or not task.section.labels:
        return None
    return task if task.section.calibration == FEEDBACK else None


def describe_bias(bias: LabelledBias) -> str:
    """A fitted bias in words, for people."""
    said = f"label bias fitted to {bias.rows} messages (those without a correction count as right)"
    if bias.biases is None:
        return f"{said}: none helps"
    return f"{said}: {bias.right_with} are right, {bias.right} without it"

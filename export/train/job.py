"""Training jobs: describe the training of a checkpoint and run it in a child process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgeslm_export.jobs.device import CPU, open_device
from edgeslm_export.jobs.subprocess_job import OnProgress, Reporter, run_module
from edgeslm_export.train.loop import Schedule


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """Trains the checkpoint folder ``source`` and writes the result to ``out``.

    :param aside: indices of rows for validation. :param state: file from which an interrupted run resumes.
    :param debug: whether the libraries may print to standard error.
    :param device: torch's name of the device to train on.
    """

    source: Path
    out: Path
    schedule: Schedule
    aside: Sequence[int] = ()
    state: Path | None = None
    on_progress: OnProgress | None = None
    debug: bool = False
    device: str = CPU

    def run(self, module: str, what: str, data: Mapping[str, Any]) -> dict[str, Any]:
        """Trains in a child process of ``edgeslm_export.train.MODULE``, with ``data`` in its task.

        :param what: the step, as the subject of a sentence.
        :raises ExportError: as ``run_module``.
        """
        task = {
            "source": str(self.source),
            "out": str(self.out),
            "schedule": asdict(self.schedule),
            "aside": list(self.aside),
            "state": None if self.state is None else str(self.state),
            "device": self.device,
            **data,
        }
        return run_module(f"train.{module}", task, what, on_progress=self.on_progress, debug=self.debug)


def open_job(task: Mapping[str, Any], reporter: Reporter) -> TrainingJob:
    """Rebuilds the job in the child process and sets torch's seed from the schedule, for all devices."""
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    reporter.progress(0, 1, "loading libraries")
    job = TrainingJob(
        Path(task["source"]),
        Path(task["out"]),
        Schedule(**task["schedule"]),
        task["aside"],
        None if task["state"] is None else Path(task["state"]),
        device=str(open_device(task["device"])),
    )
    torch.manual_seed(job.schedule.seed)
    return job

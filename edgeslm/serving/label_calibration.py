"""Label calibration: fits the label bias of untaught tasks to stored corrections, while they serve.

People correct what is wrong: corrections alone would say that a model is never right. So the bias is fitted
to a random sample of the newer messages that the task labelled, in which those that nobody corrected count as
right. Corrections count as in training: those over MQTT once somebody has accepted them. A label that was
only accepted together with others says nothing but what the model said, as if nobody had corrected it. With
ten or more corrections in the sample a job fits the biases, which are kept only if they help on messages left
out (``engine.worker.label_bias``). A failure leaves the task as it is.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from edgeslm.bundle.calibration import FEWEST_LABELLED, LabelledBias
from edgeslm.errors import EdgeslmError
from edgeslm.ipc.job import Job, JobError
from edgeslm.serving.fitted_bias import (
    FittedBias,
    bias_key,
    describe_bias,
    fitted_task,
    load_biases,
    save_biases,
    use_bias,
)
from edgeslm.storage.feedback_store import PROPOSED, FeedbackStore
from edgeslm.tasks.classify import Classify, LabelSample, mark_of
from edgeslm.telemetry.extension import Extension

if TYPE_CHECKING:
    from edgeslm.serving.service import Service

log = logging.getLogger("edgeslm.serving")

JOB: Final = "edgeslm.engine.worker.label_bias"
SAMPLE: Final = 300
"""Size of a task's sample of messages."""
SPAN: Final = 3000
"""About how many messages it is of, the last ones: people correct what came lately."""
FEWEST_SEEN: Final = 30
"""Fewest messages of a sample that a bias is fitted to."""
JOB_S: Final = 600.0
JOB_BYTES: Final = 500_000_000
LOOK_S = 30.0
"""Seconds between two looks at the files of corrections."""
AGAIN_S = 600.0
"""Seconds between two fits of a task."""
LAST_BYTES: Final = 500_000
"""How much of the corrections of a file is used, the newest: the daemon's memory stays bounded."""


class LabelCalibration(Extension):
    """Calibrates the tasks of ``service`` whose ``calibration`` is ``feedback``."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._seen: dict[str, Any] = {}
        """Task -> what the last look saw: the task's object, the key, and the files' times and sizes."""
        self._opened: tuple[Any, list[FeedbackStore]] = (None, [])
        self._next_at: dict[str, float] = {}
        self._samples: dict[str, tuple[str, LabelSample]] = {}

    async def start(self) -> None:
        self._work = asyncio.create_task(self._run())

    def close(self) -> None:
        self._end_work()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            for name in list(self._service.tasks):
                try:
                    await self._look(name)
                except (EdgeslmError, JobError, OSError) as error:
                    self._fail(name, str(error) or type(error).__name__)
                except Exception as error:
                    self._fail(name, type(error).__name__)
                    log.debug("calibration", exc_info=True)

    def _fail(self, name: str, why: str) -> None:
        self._next_at[name] = time.monotonic() + AGAIN_S
        log.warning("task %s could not be calibrated: %s", name, why)

    async def _look(self, name: str) -> None:
        """Fits the bias of a task if its corrections, or what the bias belongs to, have changed."""
        deployment = self._service.deployment
        task = fitted_task(deployment.bindings.get(name, ()))
        if task is None or task.section.model is None or time.monotonic() < self._next_at.get(name, 0.0):
            return
        key = bias_key(task.section, deployment.models.bundle(task.section.model).digest)
        sample = self._sample(task, key)
        stores = await asyncio.to_thread(self._stores)
        seen = (task, key, [_stamp(store, name) for store in stores])
        if self._seen.get(name) == seen:
            return
        right = await asyncio.to_thread(_read, stores, name, task.section.labels or {})
        found = (await asyncio.to_thread(load_biases, deployment.config)).get(name)
        met = sorted((mark.hex(), right[mark]) for mark in sample.kept.keys() & right.keys())
        mark = hashlib.sha256(json.dumps(met).encode()).hexdigest()
        if len(right) < FEWEST_LABELLED:
            if found is not None:
                await self._keep(task, None, key)
        elif len(met) < FEWEST_LABELLED or len(sample.kept) < _fewest(found, key):
            use_bias(task, found, key)
            self._next_at[name] = time.monotonic() + AGAIN_S
            return  # messages that were corrected may come again
        elif found is not None and (found.key, found.mark) == (key, mark):
            use_bias(task, found, key)  # a reload may have begun before the fit ended
        else:
            bias = await self._fit(task, right, sample)
            self._next_at[name] = time.monotonic() + AGAIN_S
            await self._keep(task, FittedBias(key, mark, bias), key)
        self._seen[name] = seen

    def _sample(self, task: Classify, key: str) -> LabelSample:
        """The sample of the task's messages; another one after a change of what its bias belongs to."""
        known = self._samples.get(task.name)
        if known is None or known[0] != key:
            known = self._samples[task.name] = (key, LabelSample(SAMPLE, SPAN))
        task.seen = known[1]
        return known[1]

    def _stores(self) -> list[FeedbackStore]:
        """The stores of corrections: with an encrypted journal, those of the console are encrypted, too."""
        config = self._service.deployment.config
        where, key_file = config.state_dir, config.journal.key_file
        if self._opened[0] != (where, key_file):
            stores = [FeedbackStore(where)]
            if key_file is not None:
                from edgeslm.storage.encryption import load_seal

                stores.append(FeedbackStore(where, load_seal(key_file)))
            self._opened = (where, key_file), stores
        return self._opened[1]

    async def _fit(self, task: Classify, right: Mapping[bytes, str], sample: LabelSample) -> LabelledBias:
        """:raises JobError: the fit fails."""
        rows = sample.kept.items()
        order = {
            "scores": [scores for _, (scores, _) in rows],
            "truth": [right.get(mark, given) for mark, (_, given) in rows],
            "labels": list(task.section.labels or {}),
        }
        with Job(JOB) as job:
            answer = await job.in_thread(job.ask, order, timeout_s=JOB_S, memory_bytes=JOB_BYTES)
        return LabelledBias(**answer)

    async def _keep(self, task: Classify, found: FittedBias | None, key: str) -> None:
        """Stores a bias, and uses it from now on; None removes it."""
        config = self._service.deployment.config
        kept = {name: one for name, one in load_biases(config).items() if name != task.name}
        await asyncio.to_thread(
            save_biases, config, {**kept, **({} if found is None else {task.name: found})}
        )
        if fitted_task(self._service.deployment.bindings.get(task.name, ())) is task:
            use_bias(task, found, key)
        if found is None:
            log.info("task %s: its label bias is dropped, since corrections were removed", task.name)
        else:
            log.info("task %s: %s", task.name, describe_bias(found.bias))


def _stamp(store: FeedbackStore, task: str) -> tuple[int, int] | None:
    try:
        status = store.file(task).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _fewest(found: FittedBias | None, key: str) -> int:
    """Fewest messages of a sample that a bias is fitted to: as many as the present one, which may be from
    before a restart, was fitted to."""
    if found is None or found.key != key or found.bias.biases is None:
        return FEWEST_SEEN
    return max(FEWEST_SEEN, min(found.bias.rows, SAMPLE))


def _read(stores: Sequence[FeedbackStore], task: str, labels: Mapping[str, str]) -> dict[bytes, str]:
    """The right labels by the mark of the text: of the newest corrections that training uses, the last of
    each text."""
    found: dict[bytes, str] = {}
    for store in stores:
        for row in store.used(task, LAST_BYTES):
            found.pop(mark := mark_of(row["text"]), None)
            if row.get("label") in labels and PROPOSED not in row:
                found[mark] = row["label"]
    return found

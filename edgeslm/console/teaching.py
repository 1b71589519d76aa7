"""Teaching in the console, in the daemon: keeps messages of tasks, takes labels, trains heads and switches to
them.

Labels are in the feedback store as soon as they are given. Choosing messages and training run as processes of
their own (``edgeslm.teaching``), one at a time, on idle processors; files in between are in memory. One task
is taught at a time, so that the daemon's memory stays bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from edgeslm.bundle.manifest import REPORT, Bundle
from edgeslm.bundle.trust import Trust
from edgeslm.config.loader import Config
from edgeslm.config.schema import LEARNED
from edgeslm.config.web_sections import Teach
from edgeslm.console.taught_task import TaughtTask
from edgeslm.console.untaught import UntaughtModel
from edgeslm.errors import ConfigError, EdgeslmError, InvalidRequest, without_paths
from edgeslm.messages import Request
from edgeslm.serving.model_pool import ModelPool
from edgeslm.serving.service import Service
from edgeslm.storage.atomic_json import read_record, write_record
from edgeslm.storage.feedback_store import Correction, FeedbackStore
from edgeslm.storage.sample_store import LONGEST, Sample, samples_of
from edgeslm.teaching.lesson import ExportRunner, Lesson, remove_leftovers, work_folder
from edgeslm.teaching.rows import FEWEST, Labels, earlier_rows, read_messages, waiting_rows
from edgeslm.teaching.session import KEYS, Row, Session
from edgeslm.web.process import check_installed

log = logging.getLogger("edgeslm.console")

MEMORY_BYTES: Final = 1_000_000_000
"""Limit of a training process; training on 1,000 messages takes 300 MB."""
LIMIT_S: Final = 1800.0
MOST_UNKEPT: Final = 200
"""Maximum number of messages that wait to be written; further ones are lost."""
POOL_BYTES: Final = 1_000_000
"""Maximum size of the messages of one session, the newest."""
FILE_BYTES: Final = 4_000_000
TIDY_S: Final = 3600.0
IDLE_S: Final = 1800.0
"""Time without a browser after which a session's messages leave the daemon's memory."""
AHEAD: Final = 6
"""Number of messages that wait for a label below which the next ones are chosen."""
AGAIN_S: Final = 10.0
"""Pause after a job failed, until the page's next look repeats the choice."""
SUGGESTED: Final = 100


class HeadSwitch(Protocol):
    """The node's updates. The slot ``learned/TASK`` is what a task has learned."""

    async def bring(self, source: str) -> Bundle:
        """Copies a bundle. :raises BundleError: it can't be read, or there is no space."""

    async def update(self, model: str, bundle: Bundle) -> object:
        """Switches a slot to a bundle, on trial. :raises EdgeslmError: it is refused; nothing has changed."""

    async def roll_back(self, model: str) -> object:
        """:raises EdgeslmError: there is nothing to go back to."""

    def entry(self, model: str) -> Any:
        """An object with ``tries``, which is None unless the bundle is on trial, and ``previous``, which is
        None if there is nothing to go back to; None if the slot has the configured bundle."""


class Teaching:
    """The console's teaching of one node.

    :raises ConfigError: the extra ``heads`` isn't installed, or the node has no encoder.
    """

    def __init__(self, section: Teach, config: Config, service: Service, switch: HeadSwitch) -> None:
        check_installed("console.teach", "heads")
        find_encoder(section, service.models)
        self._section = section
        self._config = config
        self._service = service
        self._switch = switch
        self._samples = samples_of(config)
        self._is_sealed = self._samples.seal is not None
        self._feedback = FeedbackStore(config.state_dir, self._samples.seal)
        self._others = FeedbackStore(config.state_dir) if self._is_sealed else None
        self._folder = config.state_dir / "teaching" / config.node
        remove_leftovers(config.node, self._folder)
        self._unkept: dict[tuple[str, str], str] = {}
        self._ids: dict[str, str] = {}
        self._tidied = -TIDY_S
        self._disk = asyncio.Lock()
        self._alone = asyncio.Lock()
        self._jobs: set[asyncio.Task[None]] = set()
        self._comparing: asyncio.Task[None] | None = None
        self._untaught = UntaughtModel(service)
        self._open: TaughtTask | None = None
        self._work: Path | None = None
        self._runner: ExportRunner | None = None

    @property
    def problem(self) -> str | None:
        return self._samples.problem

    @property
    def pids(self) -> Mapping[str, int]:
        pid = self._runner.pid if self._runner is not None else None
        return {} if pid is None else {"teaching": pid}

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks that may be taught."""
        named = self._section.tasks
        return [
            name
            for name, task in self._service.tasks.items()
            if task.kind == "classify"
            and task.section.labels
            and len(task.section.labels) <= len(KEYS)
            and (not named or name in named)
        ]

    @property
    def _first(self) -> str | None:
        """The task that is shown if none is named: the one that is taught, or the first."""
        one = self._open
        return one.task if one is not None and one.task in self.tasks else next(iter(self.tasks), None)

    def see(self, request: Request) -> None:
        """Keeps the message of a request, unless it is kept already; writes nothing yet."""
        text, task = request.input, request.task
        if not isinstance(text, str) or len(text) > LONGEST or not text.strip():
            return
        if len(self._unkept) >= MOST_UNKEPT or self._samples.knows(task, text) or task not in self.tasks:
            return
        self._unkept.setdefault((task, text), request.id)

    def suggest(self, correction: Correction) -> None:
        """Shows a correction that came over MQTT next, if its task is open and few others wait."""
        one, text, label = self._open, correction.text, correction.label
        if one is None or one.task != correction.task or label not in one.session.lesson.labels:
            return
        if one.session.waiting < SUGGESTED and len(text) <= LONGEST:
            one.session.suggest([{"text": text, "label": str(label), "by": correction.by or ""}])

    async def tick(self) -> None:
        """Writes the messages seen, and forgets what is old; called every two seconds."""
        now = time.monotonic()
        if (one := self._open) is not None and not one.doing and now - one.used_at > IDLE_S:
            self._open = None
        if not self._unkept and now - self._tidied < TIDY_S:
            return
        self._tidied = now
        seen, self._unkept = self._unkept, {}
        samples = [Sample(task, text, id) for (task, text), id in seen.items()]
        async with self._disk:
            await asyncio.to_thread(self._samples.add, samples)

    async def answer(self, action: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Does what the page asks. :return: the state, or an ``error`` as a sentence."""
        actions: Mapping[str, Callable[[TaughtTask, Mapping[str, Any]], Awaitable[None]]] = {
            "open": self._reopen,
            "state": self._tell,
            "label": self._label,
            "accept": self._accept,
            "skip": self._skip,
            "undo": self._undo,
            "keep": self._keep,
            "train": self._train,
            "use": self._use,
            "back": self._back,
        }
        try:
            if action not in actions:
                raise InvalidRequest("there is no such action")
            task = arguments.get("task") or self._first
            if task not in self.tasks:
                raise InvalidRequest("this task can't be taught here")
            one = await self._taught(str(task))
            one.used_at = time.monotonic()
            await actions[action](one, arguments)
            head, entry = self._head_at_work(one.task), self._switch.entry(_slot(one.task))
            return {
                "tasks": self.tasks,
                **one.state(),
                "is_used": head is not None and head.digest == one.report.get("digest"),
                "is_taught": head is not None,
                "bias": self._untaught.bias(one.task),
                "is_on_trial": entry is not None and entry.tries is not None,
                "can_go_back": entry is not None and entry.previous is not None,
            }
        except (EdgeslmError, OSError) as error:
            said = error.strerror if isinstance(error, OSError) else without_paths(str(error))
            return {"error": f"{str(said)[:1].upper()}{str(said)[1:].rstrip('.')}."}

    async def stop(self) -> None:
        """Ends the jobs, and removes the files in between."""
        if self._runner is not None:
            self._runner.stop()
        for job in self._jobs:
            job.cancel()
        if self._jobs:
            await asyncio.wait(self._jobs)
        if self._unkept:
            self._tidied = -TIDY_S
            await self.tick()
        async with self._disk:
            self._samples.close()
        if self._work is not None:
            shutil.rmtree(self._work, ignore_errors=True)

    # Actions

    async def _tell(self, one: TaughtTask, arguments: Mapping[str, Any]) -> None:
        if one.problem and time.monotonic() - one.failed_at <= AGAIN_S:
            return
        if one.session.waiting < AHEAD and one.read_at != self._samples.added:
            await self._add_new(one)
        self._look_ahead(one)

    async def _reopen(self, one: TaughtTask, arguments: Mapping[str, Any]) -> None:
        one.problem = ""
        await self._add_new(one)
        self._look_ahead(one)

    async def _label(self, one: TaughtTask, arguments: Mapping[str, Any]) -> None:
        label, text = arguments.get("label"), one.text_of(arguments.get("message"))
        if label not in one.session.lesson.labels:
            raise InvalidRequest("the task has no such label")
        async with self._disk:
            before = one.session.label_of(text)
            was = arguments.get("was")  # the label on the page; empty if there is none
            if was is not None and was != (before or "") and label != before:
                now = f"already labelled {before}" if before is not None else "no longer labelled"
                raise InvalidRequest(f"this message is {now}; somebody else has changed it")
            if label != before:
                await asyncio.to_thread(one.session.label, text, str(label))
        if before is not None:
            one.confirmed.add(text)
        self._look_ahead(one)

    async def _accept(self, one: TaughtTask, arguments: Mapping[str, Any]) -> None:
        async with self._disk:
            await asyncio.to_thread(one.accept, str(arguments.get("message")))
        self._look_ahead(one)

    async def _skip(self, one: TaughtTask, arguments: Mapping[str, Any]) -> None:
        one.session.skip(one.text_of(arguments.get("message")))
        self._look_ahead(one)

    async def _keep(self, one: TaughtTask, arguments: Mapping[str, Any]) -> None:
        one.confirmed.add(one.text_of(arguments.get("message")))

    async def _undo(self, one: TaughtTask, arguments: Mapping[str, Any]) -> None:
        async with self._disk:
            await asyncio.to_thread(one.session.undo)

    async def _train(self, one: TaughtTask, arguments: Mapping[str, Any]) -> None:
        if few := one.few:
            raise InvalidRequest(f"each label needs {FEWEST} messages; there are fewer of {', '.join(few)}")
        if one.doing == "training":
            raise InvalidRequest("it is being taught already")
        self._start(one, "training", self._teach(one))

    async def _use(self, one: TaughtTask, arguments: Mapping[str, Any]) -> None:
        if one.doing == "training":
            raise InvalidRequest("it is being taught; wait until that is done")
        bundle = await self._switch.bring(str(self._draft(one.task)))
        await self._switch.update(_slot(one.task), bundle)

    async def _back(self, one: TaughtTask, arguments: Mapping[str, Any]) -> None:
        await self._switch.roll_back(_slot(one.task))

    # Sessions and jobs

    async def _taught(self, task: str) -> TaughtTask:
        """The task, which is taught from now on instead of another one."""
        labels = dict(self._service.tasks[task].section.labels or {})
        one = self._open
        if one is not None and one.task == task and dict(one.session.lesson.labels) == labels:
            return one
        if one is not None and one.doing == "training":
            raise InvalidRequest(f"{one.task} is being taught; wait until that is done")
        encoder = self._service.models.bundle(find_encoder(self._section, self._service.models)).path
        if self._runner is None:
            self._work = work_folder(self._config.node, None if self._is_sealed else self._folder)
            self._runner = ExportRunner(memory_bytes=MEMORY_BYTES, cache=self._work, limit_s=LIMIT_S)
        assert self._work is not None  # noqa: S101  made with the runner
        lesson = Lesson(task, labels, encoder, self._work, self._runner)
        self._ids = {}
        given = Labels(self._feedback, task, self._others, self._ids)
        rows = await asyncio.to_thread(earlier_rows, given, labels)
        texts = dict.fromkeys([*await self._messages(task), *(row["text"] for row in rows)])
        session = Session(lesson, list(texts), rows, given)
        waiting = await asyncio.to_thread(waiting_rows, given, labels)
        session.suggest(waiting[-SUGGESTED:])
        record = await asyncio.to_thread(read_record, self._record(task))
        self._open = one = TaughtTask(session, record, self._service.tasks[task].section.threshold)
        self._look_ahead(one)
        return one

    async def _add_new(self, one: TaughtTask) -> None:
        """Adds the messages that have come, unless a job runs."""
        added = self._samples.added
        texts = [] if one.doing else await self._messages(one.task)
        if not one.doing:
            one.session.add(texts)
            one.read_at = added

    async def _messages(self, task: str) -> list[str]:
        """Messages of the task, the newest first, as far as they fit into memory."""
        async with self._disk:
            kept = await asyncio.to_thread(self._samples.texts, task)
        texts = list(kept)
        if (folder := self._section.messages) is not None:
            for file in (folder / f"{task}.jsonl", folder / f"{task}.txt"):
                if file.exists():
                    texts += reversed(await asyncio.to_thread(read_messages, file, FILE_BYTES))
        found, size = dict[str, None](), 0
        for text in texts:
            size += len(text)
            if size > POOL_BYTES:
                break
            if len(text) <= LONGEST:
                found[text] = None
                if text in kept:
                    self._ids[text] = kept[text]
        return list(found)

    def _look_ahead(self, one: TaughtTask) -> None:
        """Chooses the next messages if few are left, and more may be found."""
        is_done = one.session.is_over or one.standing == one.chosen_at
        if one.session.waiting < AHEAD and not is_done and not one.doing:
            self._start(one, "choosing", self._choose(one))
        self._propose(one)

    def _propose(self, one: TaughtTask) -> None:
        if self._untaught.is_wanted(one) and not one.is_proposing:
            one.is_proposing = True
            self._run(self._untaught.propose(one))

    def _start(self, one: TaughtTask, doing: str, work: Any) -> None:
        one.doing, one.problem = doing, ""

        async def run() -> None:
            try:
                async with self._alone:
                    one.doing = doing
                    await work
            except (EdgeslmError, OSError) as error:
                why = error.strerror if isinstance(error, OSError) else without_paths(str(error))
                one.problem = f"{str(why).rstrip('.')}."
                log.warning("%s of task %s: %s", doing, one.task, error)
            except Exception as error:
                one.problem = f"The node failed on it ({type(error).__name__})."
                log.error("%s of task %s failed: %s", doing, one.task, type(error).__name__)
                log.debug("teaching", exc_info=True)
            finally:
                work.close()
                one.failed_at = time.monotonic()
                if one.doing == doing:
                    one.doing = ""

        self._run(run())

    def _run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        job = asyncio.create_task(work)
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)
        return job

    async def _choose(self, one: TaughtTask) -> None:
        count = len(one.session.rows)
        one.session.take(await asyncio.to_thread(one.session.choose))
        one.chosen_at = one.standing
        self._propose(one)
        if one.note_accuracy(count):
            await self._write(one)

    async def _teach(self, one: TaughtTask) -> None:
        rows, lesson, out = one.session.rows, one.session.lesson, self._draft(one.task)
        report = await asyncio.to_thread(lesson.train, rows, out)
        bundle = Trust(self._config.signing, self._config.state_dir).load(out)
        learned = bundle.manifest.learned
        one.note_report(report, bundle.digest, learned.calibration if learned is not None else None)
        one.record["compared"] = None
        await self._write(one)
        given = Labels(self._feedback, one.task, self._others)
        await asyncio.to_thread(given.settle, rows)
        if self._comparing is not None:
            self._comparing.cancel()
        self._comparing = self._run(self._compare(one, rows))

    async def _compare(self, one: TaughtTask, rows: list[Row]) -> None:
        """Notes how right what is at work is: a head by its own report, an untrained model on ``rows``."""
        bundle = self._head_at_work(one.task)
        if bundle is not None:
            found = await asyncio.to_thread(read_record, bundle.path / REPORT)
            figures = {key: found.get(key) for key in ("accuracy", "interval")}
            one.record["compared"] = {**figures, "is_head": True}
            await self._write(one)
            return
        await self._untaught.compare(one, rows, self._write)

    async def _write(self, one: TaughtTask) -> None:
        with contextlib.suppress(OSError):  # a full disk: the next time
            await asyncio.to_thread(write_record, self._record(one.task), one.record)

    def _draft(self, task: str) -> Path:
        return self._folder / "heads" / task

    def _record(self, task: str) -> Path:
        return self._folder / "records" / f"{task}.json"

    def _head_at_work(self, task: str) -> Bundle | None:
        bindings = self._service.deployment.bindings.get(task, ())
        return next((one.task.bundle for one in bindings if one.name == LEARNED), None)


def find_encoder(section: Teach, models: ModelPool) -> str:
    """Name of the encoder that heads are trained on. :raises ConfigError: there is none, or several."""
    where = "console.teach.encoder"

    def is_encoder(name: str) -> bool:
        manifest = models.bundle(name).manifest
        return manifest.embeds and "/" not in name

    if section.encoder is not None:
        if section.encoder in models.names and is_encoder(section.encoder):
            return section.encoder
        raise ConfigError([f"{where}: {section.encoder} is no encoder"])
    found = [name for name in models.names if is_encoder(name)]
    if not found:
        how = "add to models: encoder: {bundle: .edgeslm/starter/minilm-l6-int8}"
        raise ConfigError([f"{where}: no encoder is in models; heads are trained on its vectors; {how}"])
    if len(found) > 1:
        raise ConfigError([f"{where}: missing; name one of {', '.join(found)}"])
    return found[0]


def _slot(task: str) -> str:
    return f"{LEARNED}/{task}"

"""Proposals: the labels that the task's untaught model gives the first messages.

The model of the configuration runs beside this command, as ``edgeslm try`` runs it. It never stops the
labelling: a message whose proposal isn't there in time is shown without one.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Sequence
from concurrent.futures import Future, wait
from concurrent.futures import TimeoutError as FutureTimeout
from typing import TYPE_CHECKING, Any, Final, Self

from edgeslm.cli.screen import say
from edgeslm.errors import EdgeslmError
from edgeslm.messages import Request

if TYPE_CHECKING:
    from edgeslm.config.loader import Config, Task
    from edgeslm.serving.service import Service
    from edgeslm.teaching.session import Session

WAIT_S: Final = 3.0
"""Longest wait for the proposal of a message, before the message is shown without one."""
MOST_LATE: Final = 2
"""Number of late proposals after which messages no longer wait for one."""
STOP_S: Final = 20.0


class Proposer:
    """Proposes labels, if the task of the configuration is untaught and has too few labels for guesses. The
    model is loaded when the first message is shown."""

    def __init__(self, config: Config, task: str) -> None:
        self._task = task
        self._needed = _needed(config, task)
        self._answers: dict[str, Future[dict[str, Any]]] = {}
        self._late = 0
        self._problem = ""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opened: Future[None] | None = None
        self._service: Service | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._loop is None or self._opened is None:
            return
        self._opened.cancel()
        for answer in self._answers.values():
            answer.cancel()
        with contextlib.suppress(FutureTimeout, EdgeslmError, OSError):  # its processes end with this one
            asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(STOP_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def propose(self, session: Session) -> dict[str, Any] | None:
        """Asks for proposals of the chosen messages, and waits for that of the one that is shown.

        :return: the message that is shown.
        """
        texts = session.unproposed if session.accuracy is None else []  # a head's guesses are better
        if not texts or self._needed is None or self._problem:
            return session.present
        self._start()
        for text in texts:
            if text not in self._answers and self._loop is not None:
                work = self._ask(text, len(self._answers))
                self._answers[text] = asyncio.run_coroutine_threadsafe(work, self._loop)
        if session.present is not None and session.present["text"] == texts[0]:
            self._wait(self._answers[texts[0]])
        self._take(session, texts)
        return session.present

    def finish(self, session: Session) -> None:
        """Waits for the proposals that are asked for, for the longest wait of a message."""
        texts = [text for text in session.unproposed if text in self._answers]
        wait([self._answers[text] for text in texts], WAIT_S)
        self._take(session, texts)

    def _wait(self, answer: Future[dict[str, Any]]) -> None:
        if self._late < MOST_LATE:
            try:
                answer.exception(WAIT_S)
            except FutureTimeout:
                self._late += 1

    def _take(self, session: Session, texts: Sequence[str]) -> None:
        for text in texts:
            answer = self._answers.get(text)
            if answer is None or not answer.done() or answer.cancelled():
                continue
            if (error := answer.exception()) is not None:
                self._problem = self._problem or str(error).rstrip(".")
            elif answer.result().get("label") in session.lesson.labels:
                found = answer.result()
                session.propose(text, found["label"], found.get("confidence"), found["stage"])
        if self._problem:
            say(f"(no proposals: {self._problem})")

    def _start(self) -> None:
        if self._loop is None:
            self._loop = loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=loop.run_forever, name="proposals", daemon=True)
            self._thread.start()
            self._opened = asyncio.run_coroutine_threadsafe(self._open(), loop)
            say("(loading the model, which proposes the first labels)")

    async def _open(self) -> None:
        from edgeslm.serving.service import Service

        assert self._needed is not None  # noqa: S101  checked before it starts
        self._service = Service(self._needed)
        await self._service.start()

    async def _ask(self, text: str, number: int) -> dict[str, Any]:
        assert self._opened is not None  # noqa: S101  made before the first text
        await asyncio.shield(asyncio.wrap_future(self._opened))
        assert self._service is not None  # noqa: S101  made by _open
        result = await self._service.submit(Request(self._task, text, f"teach-{number}", ""))
        if result.error is not None and result.error.code in _OF_THE_TEXT:
            return {}
        return dict(result.unwrap())

    async def _stop(self) -> None:
        if self._service is not None:
            await self._service.stop()


_OF_THE_TEXT: Final = frozenset({"too_long", "invalid_request", "timeout", "poisoned"})
"""Errors that say nothing about other texts."""


def _needed(config: Config, task: str) -> Config | None:
    """The configuration with the task and its untaught model alone; None if the task has none."""
    from edgeslm.update.store import Store

    config = Store(config.state_dir, config.node).settled(config)
    section = config.tasks[task]
    name = None if section.learned is not None else _model_of(section)
    if name is None or name not in config.models:
        return None
    alone = section.model_copy(update={"stages": (), "model": name, "escalate": None})
    parts = {"tasks": {task: alone}, "models": {name: config.models[name]}}
    return config.model_copy(update={**parts, "knowledge": {}, "routes": (), "api": None})


def _model_of(section: Task) -> str | None:
    from edgeslm.config.schema import NODE_STAGE

    own = [stage for stage in section.stages if isinstance(stage, str) and not stage.startswith(NODE_STAGE)]
    return next(iter(own), None) if section.stages else section.model

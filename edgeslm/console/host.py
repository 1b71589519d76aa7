"""Console host, in the daemon: sends the node's data to the console, and runs requests from the console's
form.

Figures for the charts are sent every two seconds, other data only while a browser is connected. Requests from
the form have the lowest priority and pass the same checks as other requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgeslm.bundle.inspection import card_rows, describe
from edgeslm.config.loader import Config
from edgeslm.config.web_sections import Console
from edgeslm.console.feed import Feed
from edgeslm.console.wire import FROM_CONSOLE, INPUT_BYTES, Ask, Look, Teach, Viewers
from edgeslm.errors import BundleError, Busy, ConfigError, InternalError, KnowledgeError
from edgeslm.knowledge.index.database import find_collection, open_database
from edgeslm.messages import Turn
from edgeslm.protocol.codec import (
    Rejected,
    Topics,
    encode_request,
    encode_result,
    error_result,
    parse_request,
)
from edgeslm.protocol.delivery import Delivery
from edgeslm.serving.service import Service
from edgeslm.telemetry.audit import AuditLog
from edgeslm.telemetry.extension import Documented, Extension
from edgeslm.web.process import (
    FEWEST_CHARACTERS,
    WebProcess,
    check_installed,
    make_token,
    server_settings,
)

if TYPE_CHECKING:
    from edgeslm.console.teaching import HeadSwitch, Teaching

log = logging.getLogger("edgeslm.console")

TICK_S = 2.0
EVERY = {"health": 2, "info": 5, "routes": 2, "models": 5, "collections": 15}
"""Maps each part of the node's data to the number of ticks between two updates of this part, while a browser
is connected. A tick is two seconds."""
MOST_ASKS = 4
AUDITED = ("train", "use", "back")
"""Actions of teaching that the audit log has."""
SAID_ABOVE = ("kind", "recipe", "weights", "weight_bytes")
"""Keys that are left out of a model's report card, since the console already shows their values with the
bundle."""
LOWEST_PRIORITY = 0


class ShownNode(Documented, Protocol):
    """The node that the console shows."""

    def routes(self) -> list[dict[str, Any]]:
        """The routes with the messages since the node's start."""
        ...


class ConsoleHost(Extension):
    """``node`` provides health and info, which are read only while a browser is connected.

    :raises ConfigError: the console's packages or its token are missing.
    """

    def __init__(
        self,
        section: Console,
        config: Config,
        service: Service,
        node: ShownNode,
        audit: AuditLog,
        switch: HeadSwitch | None = None,
    ) -> None:
        check_installed("console")
        self._teaching: Teaching | None = None
        if section.teach is not None and switch is not None:
            from edgeslm.console.teaching import Teaching

            self._teaching = Teaching(section.teach, config, service, switch)
        self.feed = Feed(
            keep_texts=section.texts,
            on_request=self._teaching.see if self._teaching is not None else None,
            on_correction=self._teaching.suggest if self._teaching is not None else None,
        )
        self._config = config
        self._service = service
        self._audit = audit
        self._topics = Topics(config.node, config.prefix)
        self._documents = {
            "health": node.health,
            "info": node.info,
            "routes": node.routes,
            "models": self._models,
        }
        self._sent: dict[str, str] = {}
        self._asks: set[asyncio.Task[None]] = set()
        self._teachings: set[asyncio.Task[None]] = set()
        self._ticks = 0
        self._has_come = asyncio.Event()
        self._viewers = 0
        self._process = WebProcess(
            "console",
            "edgeslm.console.worker",
            FROM_CONSOLE,
            {
                **server_settings(section),
                "token": None if section.ingress else read_token(section, config.state_dir),
                "texts": section.texts,
                "teaches": self._teaching is not None,
                "timeout_s": config.limits.request_timeout_s,
            },
            self,
            log_level=config.log_level.upper(),
        )

    @property
    def pids(self) -> Mapping[str, int]:
        own = {} if self._process.pid is None else {"console": self._process.pid}
        return own if self._teaching is None else {**own, **self._teaching.pids}

    @property
    def alerts(self) -> Sequence[str]:
        taught = self._teaching.problem if self._teaching is not None else None
        return [sentence for sentence in (self._process.problem, taught) if sentence]

    @property
    def url(self) -> str | None:
        """URL of the console while it listens, else None."""
        return self._process.url

    async def start(self) -> None:
        self._work = asyncio.create_task(self._run())

    async def _run(self) -> None:
        """Keeps the console running, and sends it updates, until cancelled."""
        keeping = asyncio.create_task(self._process.run())
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(TICK_S):
                        await self._has_come.wait()
                try:
                    await self._tick()
                except Exception as error:  # a failed update must not end the console
                    log.error("the console could not be told all: %s", type(error).__name__)
                    log.debug("telling the console", exc_info=True)
        finally:
            keeping.cancel()
            for task in (*self._asks, *self._teachings):
                task.cancel()
            await self._process.stop()
            if self._teaching is not None:
                await self._teaching.stop()

    def begun(self) -> None:
        self._sent.clear()
        self.feed.take_changed()
        self._process.send("rows", rows=self.feed.rows())

    async def _tick(self) -> None:
        """Sends the chart data since the last tick, or all data if a browser has just connected. Called every
        two seconds."""
        if self._teaching is not None:
            await self._teaching.tick()
        scheduler, process = self._service.scheduler, self._process
        has_come = self._has_come.is_set()
        self._has_come.clear()
        if not has_come:
            moment = {
                "at": round(time.time(), 1),
                "queue": scheduler.waiting,
                "running": scheduler.in_flight,
                **self.feed.take_moment(),
            }
            if not process.send("tick", moment=moment):
                return  # the console is behind: skip this tick
        if not self._viewers:
            return
        if rows := self.feed.take_changed():
            process.send("rows", rows=rows)
        for part, every in EVERY.items():
            if has_come or self._ticks % every == 0:
                if part == "collections":
                    self._tell(part, await asyncio.to_thread(self._collections))
                else:
                    self._tell(part, self._documents[part]())
        self._ticks += 1

    def _tell(self, part: str, value: Any) -> None:
        encoded = json.dumps(value, default=str)
        if self._sent.get(part) != encoded and self._process.send(
            "told", part=part, value=json.loads(encoded)
        ):
            self._sent[part] = encoded

    def _models(self) -> dict[str, Any]:
        """Bundles and report cards of the models, without paths."""
        models, found = self._service.models, {}
        for name in models.names:
            bundle = models.bundle(name)
            manifest = bundle.manifest
            card: list[tuple[str, str]] = []
            with contextlib.suppress(BundleError):
                report = describe(bundle)["report"] or {}
                card = card_rows({key: value for key, value in report.items() if key not in SAID_ABOVE})
            found[name] = {
                "bundle": manifest.name,
                "kind": manifest.kind,
                "architecture": manifest.architecture,
                "source": manifest.source.id,
                "licence": manifest.source.licence,
                "digest": bundle.digest,
                "bytes": bundle.weight_bytes,
                "context_length": manifest.context_length,
                "recipe": manifest.quantization.recipe if manifest.quantization else None,
                "loaded": models.is_loaded(name),
                "prepared": models.is_prepared(name) if models.graph(name) else None,
                "card": card,
            }
        return found

    def _collections(self) -> dict[str, Any]:
        """Collections with their sizes. Must run in a thread, since it reads files."""
        config, found = self._service.deployment.config, {}
        for name, section in config.knowledge.items():
            documents = passages = None
            with contextlib.suppress(KnowledgeError, OSError):
                documents, passages = _count(section.path)
            found[name] = {
                "documents": documents,
                "passages": passages,
                "encoder": section.encoder,
                "reader": section.reader,
                "watched": len(section.watch),
                "remembers": [route.source for route in config.routes if route.remember == name],
                "tasks": [task for task, one in config.tasks.items() if name in one.knowledge],
            }
        return found

    def heard(self, said: Ask | Look | Teach | Viewers) -> None:
        if isinstance(said, Ask):
            self._begin(self._ask(said.number, said.task, said.input, said.options), self._asks)
        elif isinstance(said, Look):
            read, wrote = self.feed.text(said.row)
            self._process.send("text", number=said.number, input=read, output=wrote)
        elif isinstance(said, Teach):
            self._begin(self._teach(said), self._teachings)
        else:
            self._viewers = said.count
            if said.count:
                self._has_come.set()

    def lost(self) -> None:
        self._viewers = 0

    async def _teach(self, said: Teach) -> None:
        state: Mapping[str, Any] = {"error": "Teaching is off: add teach to console in the configuration."}
        if self._teaching is not None:
            try:
                state = await self._teaching.answer(said.action, said.arguments)
                if said.action in AUDITED:
                    status = "error" if "error" in state else "ok"
                    self._audit.note("taught", task=state.get("task"), action=said.action, status=status)
            except Exception as error:
                log.error("teaching failed: %s", type(error).__name__)
                log.debug("teaching failed", exc_info=True)
                state = {"error": f"The node failed on it ({type(error).__name__})."}
        self._process.send("taught", number=said.number, state=state)

    @staticmethod
    def _begin(work: Coroutine[Any, Any, None], running: set[asyncio.Task[None]]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        running.add(task)
        task.add_done_callback(running.discard)

    async def _ask(self, number: int, task: str, text: str, options: dict[str, Any]) -> None:
        request = parse_request(
            Delivery.local(encode_request(text, options=options)),
            task=task,
            topics=self._topics,
            allowed_replies=(),
            packet_limit=min(4 * INPUT_BYTES, self._config.limits.packet_bytes),
        )
        if isinstance(request, Rejected):
            result = error_result(request.id, request.task, request.error)
        elif len(self._asks) > MOST_ASKS:
            busy = Busy("the console's form has requests running already", retry_after_ms=2000)
            result = error_result(request.id, request.task, busy)
        else:
            request = replace(request, priority=LOWEST_PRIORITY, reply_to="console")
            seen = self.feed.watch(request)
            try:
                result = await self._service.submit(request, attempt=Turn(seen.begun))
            except asyncio.CancelledError:
                seen.ended(None)
                raise
            except Exception as error:
                log.error("a request of the console failed: %s", type(error).__name__)
                why = InternalError(f"the node failed on it ({type(error).__name__})")
                result = error_result(request.id, request.task, why)
            seen.ended(result)
        self._audit.note(
            "console",
            task=request.task,
            id=request.id,
            bytes=len(text.encode("utf-8", "replace")),
            status=result.status,
            code=result.error.code if result.error is not None else None,
        )
        self._process.send("answer", number=number, result=json.loads(encode_result(result)))


def read_token(section: Console, state_dir: Path) -> str:
    """The sign-in token; without ``console.token_file``, a token is created at the first start.

    :raises ConfigError: the file can't be read, or the token is too short.
    """
    file = section.token_file or state_dir / "console-token"
    where = f"console.token_file: {file}"
    try:
        if section.token_file is None and make_token(file):
            log.info("the token to sign in to the console with is in %s", file)
        token = file.read_text("utf-8").split("\n", 1)[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{where} can't be read: {getattr(error, 'strerror', None) or error}"]) from None
    if len(token) < FEWEST_CHARACTERS:
        how = "in its first line, which `openssl rand -hex 20` makes"
        raise ConfigError([f"{where} needs a token of {FEWEST_CHARACTERS} characters or more {how}"])
    return token


def _count(path: Path) -> tuple[int, int]:
    """Number of documents and passages in a collection. :raises KnowledgeError: it can't be read."""
    db = open_database(find_collection(path), writes=False)
    with contextlib.closing(db):
        documents, passages = (
            db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("documents", "passages")
        )
        return documents, passages

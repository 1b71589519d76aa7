"""API host, in the daemon: takes requests from the API process, and sends back results.

Requests pass the same checks, queue, quotas, journal and audit log as those over MQTT. The client's name
stands for the reply topic.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from edgeslm.api.tokens import ANONYMOUS, ApiClient, parse_tokens
from edgeslm.api.tools import describe_tool
from edgeslm.api.wire import BODY_BYTES, FROM_API, Browse, Leave, Submit
from edgeslm.config.loader import Config
from edgeslm.config.web_sections import Api
from edgeslm.errors import Busy, ConfigError, InternalError, InvalidRequest, ModelUnavailable
from edgeslm.messages import DIRECT, Request
from edgeslm.protocol.codec import Rejected, Topics, encode_result, error_result, parse_request
from edgeslm.protocol.delivery import Delivery
from edgeslm.serving.scheduler import OnChunk
from edgeslm.serving.service import Service
from edgeslm.tasks import Task
from edgeslm.telemetry.extension import Extension
from edgeslm.web.process import WebProcess, check_installed, make_token, server_settings

log = logging.getLogger("edgeslm.api")

MOST_REQUESTS = 64
"""Maximum number of requests of all clients that wait or run."""
LOCAL = "local"
"""Name of the client in a token file that the node made."""


class Answers(Protocol):
    """Computes answers to requests (``node.direct_requests``)."""

    def reject(self, rejected: Rejected, size: int) -> bytes: ...
    async def answer(self, request: Request, payload: bytes, on_chunk: OnChunk | None) -> bytes: ...
    async def browse(self, client: str, collection: str, source: str | None) -> bytes: ...


class ApiHost(Extension):
    """:raises ConfigError: the API's packages or its tokens are missing."""

    def __init__(self, section: Api, config: Config, service: Service, answers: Answers) -> None:
        check_installed("api")
        if section.mcp:
            check_installed("api.mcp", "mcp")
        self._section = section
        self._config = config
        self._service = service
        self._answers = answers
        self._topics = Topics(config.node, config.prefix)
        self._clients = read_clients(section, config)
        self._names = self._known()
        """Names of clients that requests may have; those of removed tokens stay until the next start, since
        their requests may be on the way."""
        self._running: dict[int, asyncio.Task[None]] = {}
        self._is_closed = False
        self._process_number = 0
        """Counts the API processes, so that no answer reaches the client of a later one."""
        self._process = WebProcess(
            "API",
            "edgeslm.api.worker",
            FROM_API,
            {
                **server_settings(section),
                "node": config.node,
                "anonymous": section.anonymous,
                "mcp": section.mcp is not False,
                "body_bytes": min(BODY_BYTES, config.limits.packet_bytes),
                "timeout_s": config.limits.request_timeout_s,
            },
            self,
            log_level=config.log_level.upper(),
        )

    @property
    def pids(self) -> Mapping[str, int]:
        return {} if self._process.pid is None else {"api": self._process.pid}

    @property
    def alerts(self) -> Sequence[str]:
        return [sentence for sentence in (self._process.problem, self.problem) if sentence]

    @property
    def url(self) -> str | None:
        """URL of the API while it listens, else None."""
        return self._process.url

    async def start(self) -> None:
        self._work = asyncio.create_task(self._run())

    async def _run(self) -> None:
        keeping = asyncio.create_task(self._process.run())
        try:
            await keeping
        finally:
            keeping.cancel()
            for number, task in list(self._running.items()):
                self._send(number, encode_result(error_result("", "", _stopping())))
                task.cancel()
            await self._process.stop()

    async def drain(self) -> None:
        while self._running:
            await asyncio.wait(set(self._running.values()))

    def close(self) -> None:
        self._is_closed = True

    def take_up(self, config: Config) -> None:
        self._config = config
        self._offer()

    def reloaded(self) -> None:
        try:
            self._clients = read_clients(self._section, self._config)
        except ConfigError as error:
            self.problem = f"The API keeps its former tokens: {error.problems[0]}."
            log.error("the API keeps its former tokens: %s", error.problems[0])
            return
        self.problem = None
        self._names |= self._known()
        self._offer()

    def _known(self) -> set[str]:
        anonymous = {ANONYMOUS} if self._section.anonymous else set()
        return {one.name for one in self._clients} | anonymous

    def begun(self) -> None:
        self._offer()

    def lost(self) -> None:
        self._process_number += 1
        for task in self._running.values():
            task.cancel()
        self._running.clear()

    def heard(self, said: Submit | Browse | Leave) -> None:
        if isinstance(said, Leave):
            if (task := self._running.get(said.number)) is not None:
                task.cancel()
            return
        if said.client not in self._names or said.number in self._running:
            # The pipe closes: only a compromised process sends this.
            raise ValueError("a request of an unknown client, or with the number of another one")
        task = asyncio.get_running_loop().create_task(self._answer(said, self._process_number))
        self._running[said.number] = task
        task.add_done_callback(lambda done: self._forget(said.number, done))

    def _forget(self, number: int, task: asyncio.Task[None]) -> None:
        if self._running.get(number) is task:
            del self._running[number]

    async def _answer(self, said: Submit | Browse, process_number: int) -> None:
        """Sends a result, unless the API process that asked has ended: the next one counts from 1 again."""

        def stream(text: str) -> None:
            if text and process_number == self._process_number:  # progress has no text
                self._process.send("chunk", number=said.number, text=str(text))

        try:
            if isinstance(said, Browse):
                result = await self._documents(said)
            else:
                result = await self._result_of(said, stream)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            result = encode_result(error_result("", "", _stopping()))  # its flight was cancelled
        except Exception as error:  # a bug; the client still needs an answer
            log.error("a request of the API failed: %s", type(error).__name__)
            log.debug("a request of the API failed", exc_info=error)
            why = InternalError(f"the node failed on it ({type(error).__name__})")
            result = encode_result(error_result("", "", why))
        if process_number == self._process_number:
            self._send(said.number, result)

    async def _result_of(self, said: Submit, stream: OnChunk) -> bytes:
        payload = said.payload.encode("utf-8", "surrogatepass")
        request = parse_request(
            Delivery.local(payload),
            task=said.task,
            topics=self._topics,
            allowed_replies=(),
            packet_limit=self._config.limits.packet_bytes,
        )
        if isinstance(request, Rejected):
            return self._answers.reject(request, len(payload))
        if (refusal := self._refusal()) is not None:
            return encode_result(error_result(request.id, request.task, refusal))
        topic = DIRECT + said.client
        request = replace(request, reply_to=topic, sender=topic, named=said.is_named)
        return await self._answers.answer(request, payload, stream)

    async def _documents(self, said: Browse) -> bytes:
        """The documents of a collection of one of the tools."""
        if all(said.collection not in tool["collections"] for tool in self._tools()):
            unknown = InvalidRequest("no tool searches such a collection")
            return encode_result(error_result("", "", unknown))
        if (refusal := self._refusal()) is not None:
            return encode_result(error_result("", "", refusal))
        return await self._answers.browse(said.client, said.collection, said.source)

    def _refusal(self) -> Busy | ModelUnavailable | None:
        if self._is_closed:
            return _stopping()
        if len(self._running) > MOST_REQUESTS:
            wait_ms = math.ceil(self._service.scheduler.wait_s * 1000)
            return Busy(f"{MOST_REQUESTS} requests are waiting, which is the limit", retry_after_ms=wait_ms)
        return None

    def _send(self, number: int, result: bytes) -> None:
        """Sends a result, which is never dropped; their number is limited."""
        self._process.send("result", number=number, result=json.loads(result), is_kept=True)

    def _offer(self) -> None:
        deployment = self._service.deployment
        known = {*deployment.tasks, *deployment.direct_tasks}
        for client in self._clients:
            if unknown := ", ".join(sorted(set(client.tasks or ()) - known)):
                log.warning("api.tokens: %s may use %s, which isn't here", client.name, unknown)
        self._process.send(
            "offer",
            tasks=list(self._tasks()),
            tools=list(self._tools()),
            clients=[[one.name, one.digest, one.tasks] for one in self._clients],
            is_kept=True,
        )

    def _tasks(self) -> Iterator[dict[str, Any]]:
        deployment = self._service.deployment
        for name, task in {**deployment.tasks, **deployment.direct_tasks}.items():
            yield {
                "name": name,
                "kind": task.kind,
                "options": sorted(task.section.allowed),
                "reranker": deployment.reranker_of(name),
                **self._model(
                    deployment.model_of(name) if name in deployment.tasks else task.section.model, task
                ),
            }

    def _tools(self) -> Iterator[dict[str, Any]]:
        exported = self._section.mcp
        deployment = self._service.deployment
        for name, task in deployment.tasks.items():
            if exported is True or (exported and name in exported):
                is_open = deployment.config.tasks[name].remote is not None
                yield describe_tool(name, task, deployment.result_schema(name), is_open=is_open)

    def _model(self, name: str | None, task: Task) -> dict[str, Any]:
        """What clients are told of a task's model."""
        if name is None:
            return {}
        bundle = self._service.models.bundle(name)
        manifest = bundle.manifest
        return {
            "model": manifest.name,
            "digest": bundle.digest,
            "bytes": bundle.weight_bytes,
            "family": manifest.architecture,
            "context_length": manifest.context_length,
            "recipe": manifest.quantization.recipe if manifest.quantization else None,
        }


def _stopping() -> ModelUnavailable:
    return ModelUnavailable("the node is stopping; try again")


def read_clients(section: Api, config: Config) -> list[ApiClient]:
    """The clients of ``api.tokens``; without this key, a file with one client is created at the first start.

    :raises ConfigError: the file can't be read, or is wrong.
    """
    file = section.tokens or config.state_dir / "api-tokens"
    where = f"api.tokens: {file}"
    try:
        if section.tokens is None and make_token(file, f"{LOCAL} "):
            log.info("the token of the API's client %s is in %s", LOCAL, file)
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{where} can't be read: {getattr(error, 'strerror', None) or error}"]) from None
    return parse_tokens(text, where)

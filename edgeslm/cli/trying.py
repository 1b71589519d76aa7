"""``edgeslm try``: runs a task on texts without a broker, as a request or as messages of a route."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

from edgeslm.cli.results import print_result
from edgeslm.config.loader import Config, load_config
from edgeslm.errors import EdgeslmError, RequestError
from edgeslm.messages import Request, Result, Turn
from edgeslm.node.routes.redactor import Redactor
from edgeslm.node.routes.route import RouteReader, RouteWork, Skip, Unredacted
from edgeslm.protocol.codec import Rejected, Topics, encode_request, error_result, parse_request
from edgeslm.protocol.delivery import Delivery
from edgeslm.serving.service import Service
from edgeslm.telemetry.log_lines import printable
from edgeslm.update.store import Store


def run_try(arguments: argparse.Namespace) -> int:
    """:return: the exit status, which is 1 if any result is an error. :raises EdgeslmError: the configuration
    is wrong, a model can't be loaded, or no route of the task watches the topic."""
    config = load_config(arguments.config)
    if arguments.text == "-":
        inputs: Iterator[bytes] = (line for raw in sys.stdin.buffer if (line := raw.rstrip(b"\r\n")))
    else:
        inputs = iter([os.fsencode(arguments.text)])
    return asyncio.run(_try_all(config, arguments, inputs))


async def _try_all(config: Config, arguments: argparse.Namespace, inputs: Iterator[bytes]) -> int:
    """Prints the result of each input as the daemon would publish it."""
    task = arguments.task
    config = Store(config.state_dir, config.node).settled(config)
    reader = None if arguments.topic is None else _reader(config, task, arguments.topic)
    needed = config.model_copy(update={"tasks": {task: config.tasks[task]}} if task in config.tasks else {})
    service = Service(needed)
    await service.start()
    try:
        failed = False
        for number, text in enumerate(inputs, 1):
            if reader is None:
                result = await _answer(service, config, task, text, arguments.options, number)
            elif (work := await _read(service, reader, arguments.topic, text)) is None:
                continue
            else:
                read, to = work.input, work.topic
                result = await service.submit(
                    Request(task, read, str(number), to, options=arguments.options, source=arguments.topic)
                )
            failed |= result.status == "error"
            print_result(result, as_json=arguments.json)
        return int(failed)
    finally:
        await service.stop()


async def _answer(
    service: Service, config: Config, task: str, text: bytes, options: dict[str, Any], number: int
) -> Result:
    """The result of a request as it comes over MQTT; ``number`` becomes its id."""
    with contextlib.suppress(UnicodeDecodeError):  # parse_request refuses it
        text = encode_request(text.decode(), options=options)
    request = parse_request(
        Delivery.local(text, correlation=str(number).encode()),
        task=task,
        topics=Topics(config.node, config.prefix),
        allowed_replies=(),
        packet_limit=config.limits.packet_bytes,
    )
    if isinstance(request, Rejected):
        return error_result(request.id, request.task, request.error)
    return await service.submit(request)


def _reader(config: Config, task: str, topic: str) -> RouteReader:
    """:raises EdgeslmError: no route of the task watches the topic, or its windows do."""
    routes = (RouteReader(route, config.base) for route in config.routes if route.task == task)
    reader = next((one for one in routes if one.matches(topic)), None)
    if reader is None:
        raise EdgeslmError(f"No route of the task {task} watches {topic}.")
    if reader.route.window is not None:
        raise EdgeslmError(f"The route {reader.name} reads windows: try its task without --topic.")
    return reader


async def _read(service: Service, reader: RouteReader, topic: str, payload: bytes) -> RouteWork | None:
    """What the route's task reads of a message, told on standard error; None if the route skips it."""
    work: RouteWork | Unredacted | Skip = reader.consider(topic, payload, False, time.monotonic())
    if isinstance(work, Unredacted):
        try:
            text = await Redactor(service).redact(reader.route, work.text, Turn())
            work = reader.read_redacted(topic, text)
        except RequestError as error:
            work = Skip("unredacted", f"it can't be redacted: {error}")
    if isinstance(work, Skip):
        _tell(f"route {reader.name} skips it: {work.sentence}")
        return None
    _tell(f"route {reader.name} reads: {work.input}")
    _tell(f"route {reader.name} publishes to: {work.topic}")
    return work


def _tell(line: str) -> None:
    print(printable(line), file=sys.stderr)  # noqa: T201

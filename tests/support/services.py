"""Services on fake engines for tests, by default with two models and two tasks."""

from __future__ import annotations

import asyncio
import textwrap
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from edgeslm.bundle.manifest import Bundle
from edgeslm.config.loader import parse_config
from edgeslm.engine.calls import Adapters, Call, Hardware, Output
from edgeslm.messages import Request
from edgeslm.serving.service import Service
from tests.support.fakes import FakeProcess
from tests.support.nodes import write_bundle

CONFIG = """
node: hall
broker: {{url: mqtt://localhost}}
models:
  small: {{bundle: {folder}/small, threads: 3}}
  encoder: {{bundle: {folder}/encoder}}
tasks:
  triage: {{kind: classify, model: small, labels: [normal, critical]}}
  vector: {{kind: embed, model: encoder}}
"""

WITH_BASE = CONFIG.replace("  encoder:", "  ready: {{bundle: {folder}/ready}}\n  encoder:")
"""With another model, which takes adapters, made by ``tests.support.taught.write_base``."""


def make_service(
    folder: Path,
    more: str = "",
    on_call: Callable[[Call], Output] = lambda call: Output(),
    sections: str = "",
    config: str = CONFIG,
    adapters: dict[str, Adapters] | None = None,
    processes: dict[str, FakeProcess] | None = None,
) -> Service:
    """:param more: further tasks. :param adapters: filled with each engine's adapters, by bundle folder.
    :param processes: filled with the engines."""
    write_bundle(folder / "small")
    write_bundle(folder / "encoder", "encoder")
    text = config.format(folder=folder) + textwrap.indent(textwrap.dedent(more), "  ") + sections

    def make_process(bundle: Bundle, hardware: Hardware, added: Adapters) -> FakeProcess:
        if adapters is not None:
            adapters[bundle.path.name] = added
        process = FakeProcess(bundle.path, on_call=on_call)
        if processes is not None:
            processes[bundle.path.name] = process
        return process

    return Service(parse_config(text), make_process=make_process)


def request(task: str, text: Any = "x", **fields: Any) -> Request:
    return Request(task, text, "7", "r", received_at=time.monotonic(), **fields)


def play(scene: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(scene())  # type: ignore[arg-type]

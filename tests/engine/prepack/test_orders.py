"""A child that is given one thing to do."""

from __future__ import annotations

import asyncio
import os
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from edgeslm.engine.prepack.orders import carry_out
from edgeslm.errors import BundleError

ECHO = """
    from edgeslm.engine.prepack.orders import serve_one
    serve_one(lambda order: {"said": order.strip()})
"""
STAY = """
    import sys, time, pathlib
    from edgeslm.engine.prepack.orders import serve_one
    def answer(order):
        pathlib.Path(order.strip()).write_text(str(__import__("os").getpid()))
        time.sleep(600)
    serve_one(answer)
"""


def command(script: str) -> tuple[str, ...]:
    return (sys.executable, "-c", textwrap.dedent(script))


def test_an_order_is_answered() -> None:
    assert asyncio.run(carry_out("do it", command(ECHO), "it can't be done")) == {"said": "do it"}


def test_what_cannot_be_started_is_told() -> None:
    with pytest.raises(BundleError, match="it can't be done: No such file or directory"):
        asyncio.run(carry_out("do it", ("/nowhere/python",), "it can't be done"))


def test_cancelled_it_ends(tmp_path: Path) -> None:
    file = tmp_path / "pid"

    async def cancel() -> None:
        doing: asyncio.Task[Any] = asyncio.create_task(carry_out(str(file), command(STAY), "it"))
        while not (file.exists() and file.read_text()):
            await asyncio.sleep(0.01)
        doing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await doing

    asyncio.run(cancel())
    with pytest.raises(ProcessLookupError):
        os.kill(int(file.read_text()), 0)

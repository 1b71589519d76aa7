"""Two real models on a board with memory for one of them."""

from __future__ import annotations

import asyncio
import os
import shutil
from functools import partial
from pathlib import Path

import pytest

from edgeslm.bundle.manifest import load_bundle
from edgeslm.engine.calls import Embed
from edgeslm.engine.host.team import make_engine
from edgeslm.engine.worker.room import RESERVE_BYTES
from edgeslm.serving.memory_room import load_bytes
from edgeslm.serving.model_pool import ModelPool
from tests.support.boards import put

pytestmark = pytest.mark.e2e


def test_real_models_change_places_without_failing_a_call(starter: Path, tmp_path: Path) -> None:
    """The board's free memory is what its file says: room for one and a half models less what is resident."""
    first, second = starter / "minilm-l6-int8", tmp_path / "second"
    shutil.copytree(first, second)
    bundles = {"first": load_bundle(first), "second": load_bundle(second)}
    need = load_bytes(bundles["first"])

    async def scene() -> None:
        models = ModelPool(
            bundles,
            {},
            keep_alive_s=dict.fromkeys(bundles, 3600.0),
            make_process=partial(make_engine, power="idle", cache=tmp_path, log_level="WARNING"),
            root=tmp_path,
        )
        most = 0

        def tell_memory() -> None:
            nonlocal most
            most = max(most, len(models.pids))
            free = need * 3 // 2 + RESERVE_BYTES - sum(map(_resident_bytes, models.pids.values()))
            put(tmp_path, "proc/meminfo", f"MemTotal: 4000000 kB\nMemAvailable: {max(0, free) // 1024} kB\n")

        async def keep_telling() -> None:
            while True:
                tell_memory()
                await asyncio.sleep(0.01)

        tell_memory()
        telling = asyncio.create_task(keep_telling())
        try:
            await models.start()
            assert list(models.pids) == ["first"]
            asks = [models.ask(name, Embed((f"message {n}",))) for n in range(3) for name in bundles]
            outputs = await asyncio.gather(*asks)
        finally:
            await models.stop()
            telling.cancel()
        assert [len(output.vectors) for output in outputs] == [1] * 6
        assert most == 1

    asyncio.run(scene())


def _resident_bytes(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")

"""``edgeslm run`` with an engine that answers at once, for ``throughput.py``: the bus path alone.

    python benchmarks/lib/fake_node.py CONFIG parent|pipe [PROFILE]

With ``parent`` the engine is a function in this process; with ``pipe`` a worker process behind the real pipe.
With PROFILE each thread runs under cProfile, by its own CPU time, and leaves ``PROFILE.<thread>`` at the end.
"""

from __future__ import annotations

import asyncio
import cProfile
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from edgeslm.config.loader import Config, load_config
from edgeslm.engine.calls import Call, Cost, EngineInfo, Output, Score
from edgeslm.engine.host.process import EngineProcess
from edgeslm.messages import NORMAL_PRIORITY
from edgeslm.node.daemon import Daemon, make_service
from edgeslm.serving.model_pool import MakeProcess

FAKE_WORKER = Path(__file__).parents[2] / "tests/support/fake_worker.py"
COST = Cost(prefill_ms=2.0, decode_ms=1.0, prompt_tokens=7, completion_tokens=3)


class TimedEngine(EngineProcess):
    """No process: the first label has it, always, after ``service_s`` seconds, one call at a time."""

    def __init__(self, bundle: Path, service_s: float = 0.0) -> None:
        super().__init__(bundle)
        self.service_s = service_s
        self._alone = asyncio.Lock()

    @property
    def alive(self) -> bool:
        return self.info is not None

    async def start(self) -> EngineInfo:
        self.info = EngineInfo("decoder", 2048, 1, 0.0)
        return self.info

    async def call(
        self,
        call: Call,
        on_chunk: Callable[[str], None] | None = None,
        priority: int = NORMAL_PRIORITY,
        on_hang: Callable[[], None] | None = None,
    ) -> Output:
        assert isinstance(call, Score)  # noqa: S101  (the benchmark's only task is a classify)
        if self.service_s:
            async with self._alone:
                await asyncio.sleep(self.service_s)
        rest = 0.1 / (len(call.labels) - 1)
        cost = replace(COST, prefill_ms=self.service_s * 1000) if self.service_s else COST
        return Output(cost, probabilities=(0.9,) + (rest,) * (len(call.labels) - 1))

    async def stop(self) -> None:
        self.info = None


class PipedEngine(EngineProcess):
    command = (sys.executable, str(FAKE_WORKER))


ENGINES: dict[str, MakeProcess] = {
    "parent": lambda bundle, hardware, adapters: TimedEngine(bundle.path),
    "pipe": lambda bundle, hardware, adapters: PipedEngine(bundle.path),
}


class Profiles:
    """A profile of every thread by its own CPU time: on the wall clock, waiting for the lock would count."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._profiles: dict[str, cProfile.Profile] = {}
        if sys.version_info < (3, 12):  # from then on, one profile sees all threads
            threading.setprofile(self._begin)
        self._begin()

    def save(self) -> None:
        threading.setprofile(None)
        self._profiles[threading.current_thread().name].disable()
        for name, profile in self._profiles.items():
            profile.dump_stats(f"{self._file}.{name}")

    def _begin(self, frame: FrameType | None = None, event: str = "", argument: Any = None) -> None:
        """Called by a thread's first event; the profile takes its place."""
        profile = cProfile.Profile(time.thread_time)
        self._profiles[threading.current_thread().name] = profile
        profile.enable()


async def serve(config: Config, make_process: MakeProcess) -> None:
    node = Daemon(config, make_service(config, make_process))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, node.request_stop)
    await node.run()


def main(argv: list[str]) -> None:
    file, engine, *profile_to = argv
    config = load_config(Path(file))
    logging.basicConfig(level=config.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    profiles = Profiles(Path(profile_to[0])) if profile_to else None
    asyncio.run(serve(config, ENGINES[engine]))
    if profiles is not None:
        profiles.save()


if __name__ == "__main__":
    main(sys.argv[1:])

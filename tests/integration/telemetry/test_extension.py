"""What all extensions have in common, and that a node loads only those that it is told to."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from edgeslm.telemetry.extension import Extension
from tests.support.nodes import fake_configuration, write_configuration

LOADED = """
import sys
from pathlib import Path
from edgeslm.config.loader import load_config
from edgeslm.node.daemon import Daemon, make_service
config = load_config(Path(sys.argv[1]))
Daemon(config, make_service(config))
print(*sys.modules, sep="\\n")
"""
OPTIONAL = {
    "edgeslm.console.host",
    "edgeslm.telemetry.scrape",
    "edgeslm.telemetry.metrics",
    "edgeslm.telemetry.home_assistant",
    "edgeslm.telemetry.discovery",
}
TEACHING = {"edgeslm.console.teaching", "edgeslm.teaching", "edgeslm.storage.sample_store"}
WHEN_USED = {"edgeslm.client", "opentelemetry", "prometheus_client", "starlette"}


def loaded(folder: Path, **sections: object) -> set[str]:
    file = write_configuration(folder, fake_configuration("mqtt://localhost", folder, **sections))
    command = [sys.executable, "-c", LOADED, str(file)]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


def test_the_modules_of_what_the_configuration_does_not_name_are_not_loaded(tmp_path: Path) -> None:
    assert loaded(tmp_path).isdisjoint(OPTIONAL | WHEN_USED)


def test_the_modules_of_what_the_configuration_names_are_loaded(tmp_path: Path) -> None:
    named = loaded(
        tmp_path,
        console={"listen": "127.0.0.1:1"},
        metrics={"listen": "127.0.0.1:2"},
        discovery={"prefix": "homeassistant"},
    )
    assert named >= OPTIONAL
    assert named.isdisjoint(WHEN_USED | TEACHING)


def test_teaching_is_loaded_where_it_is_on(tmp_path: Path) -> None:
    named = loaded(tmp_path, console={"listen": "127.0.0.1:1", "teach": {}})
    assert named >= TEACHING
    assert named.isdisjoint(WHEN_USED | {"sklearn", "numpy", "edgeslm_export"})


def test_what_was_announced_before_is_taken_back_without_the_section(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state/discovery-hall.json").write_text('["homeassistant/sensor/x/y/config"]')
    assert "edgeslm.telemetry.home_assistant" in loaded(tmp_path)


class Waiting(Extension):
    async def start(self) -> None:
        self._work = asyncio.create_task(asyncio.Event().wait())


def test_a_stop_ends_what_it_does_and_harms_nothing_that_was_never_started() -> None:
    async def work() -> None:
        await Extension().stop()
        extension = Waiting()
        await extension.start()
        await extension.stop()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(work())


def test_a_stop_waits_for_how_its_work_ends() -> None:
    """What is closed before it is stopped isn't cancelled again: engines that it ends would be left."""
    ended = []

    class Ending(Extension):
        async def start(self) -> None:
            self._work = asyncio.create_task(self.work())

        def close(self) -> None:
            self._end_work()

        async def work(self) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.05)
                ended.append("at its end")

    async def work() -> None:
        extension = Ending()
        await extension.start()
        await asyncio.sleep(0)
        extension.close()
        await asyncio.sleep(0)
        await extension.stop()

    asyncio.run(work())
    assert ended == ["at its end"]


def test_a_problem_is_an_alert() -> None:
    extension = Extension()
    assert list(extension.alerts) == []
    extension.problem = "The disk is full."
    assert list(extension.alerts) == ["The disk is full."]

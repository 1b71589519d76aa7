"""hawkBit client of a node for tests: runs against a server with its API until a condition holds."""

from __future__ import annotations

import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeslm.config.loader import Config, load_config
from edgeslm.update.rollout.hawkbit import Hawkbit
from edgeslm.update.rollout.jobs import Book, Record
from tests.support.apps import WAIT_S
from tests.support.benchmarks.scripts import load_scripts
from tests.support.nodes import fake_configuration, write_bundle, write_configuration

FakeHawkbit: Any = load_scripts("fake_hawkbit")["fake_hawkbit"].FakeHawkbit
CHECKS = [{"input": "all is normal", "output": "normal"}, {"input": "critical noise", "output": "critical"}]


def pack(folder: Path, name: str, weights: bytes) -> Path:
    """An archive of a bundle with these weights."""
    bundle = write_bundle(folder / name, weights=weights)
    archive = folder / f"{name}.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(bundle, arcname=name)
    return archive


def configured(folder: Path, url: str, broker: str = "mqtt://broker", **rollouts: Any) -> dict[str, Any]:
    configuration = fake_configuration(
        broker,
        folder,
        updates={"trial_s": 1},
        rollouts={"url": url, "allow_http": True, "poll_s": 1, **rollouts},
        signing={"unsigned": "accept"},
    )
    tasks = configuration["tasks"]
    configuration["tasks"] = {**tasks, "triage": {**tasks["triage"], "checks": CHECKS}}
    return configuration


def load(folder: Path, configuration: dict[str, Any]) -> Config:
    (folder / "state").mkdir(exist_ok=True)
    return load_config(write_configuration(folder, configuration))


def client(config: Config) -> Hawkbit:
    return Hawkbit(config)


def drive(hawkbit: Hawkbit, until: Callable[[], bool], what: str) -> None:
    """Runs the client until the condition holds."""
    give_up_at = time.monotonic() + WAIT_S
    while not until():
        assert time.monotonic() < give_up_at, f"not so: {what}; the job: {hawkbit.book.job}"
        time.sleep(min(0.05, hawkbit.turn()))


def over(hawkbit: Hawkbit) -> Callable[[], bool]:
    """Whether its job is finished and fully reported."""
    return lambda: (
        hawkbit.book.job is not None and hawkbit.book.job.is_over and not hawkbit.book.record.reports
    )


def of(hawkbit: Hawkbit) -> Any:
    assert hawkbit.book.job is not None
    return hawkbit.book.job


def die_at(book: Book, write: int, *, before: bool) -> None:
    """Has the process end before or after so many writes of the book."""
    really, left = book.write, [write]

    def count(record: Record) -> None:
        left[0] -= 1
        if before and not left[0]:
            raise KeyboardInterrupt
        really(record)
        if not left[0]:
            raise KeyboardInterrupt

    book.write = count  # type: ignore[method-assign]

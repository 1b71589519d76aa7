"""Fixtures for all tests."""

from __future__ import annotations

import gc
import importlib.util
import os
import signal
import sysconfig
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import hypothesis.internal.conjecture.providers as hypothesis_providers
import pytest

from edgeslm.storage.database import Database
from tests.support.fakes import FakeClock
from tests.support.paths import ROOT, python_path

TESTS = ROOT / "tests"

# The threads of torch spin while they wait: three trainings at once on two processors took four times as
# long as with sleeping ones. A training alone takes a third longer so.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A run that a shell has put into the background ignores Ctrl-C, and so would the programs that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A board or a busy machine may take its time with any example.
hypothesis.settings.register_profile(
    "random",
    deadline=None,
    # Machines stall for seconds. A test's folder serves all of its examples.
    suppress_health_check=[
        hypothesis.HealthCheck.too_slow,
        hypothesis.HealthCheck.function_scoped_fixture,
    ],
)
# The same examples in each run, so that a failure is of the change at hand; ``make fuzz`` looks for others,
# and so does ``--hypothesis-profile random``.
hypothesis.settings.register_profile("same", hypothesis.settings.get_profile("random"), derandomize=True)
hypothesis.settings.load_profile("same")


def pytest_sessionstart() -> None:
    """Keeps Hypothesis, in the profile ``same``, from drawing constants of the checkout's modules: which of
    them are loaded differs by worker, and so would the examples."""
    if hypothesis.settings.get_current_profile_name() == "same":
        constants = hypothesis_providers._local_constants
        hypothesis_providers._get_local_constants = lambda: constants


def pytest_configure(config: pytest.Config) -> None:
    """Children import what this process does: the checkout, or without a ``pythonpath`` the wheel."""
    if checkout := [str(path) for path in config.getini("pythonpath")]:
        os.environ["PYTHONPATH"] = python_path(*checkout)
        return
    packages = Path(sysconfig.get_path("purelib")).resolve()
    for name in ("edgeslm", "edgeslm_export"):
        found = importlib.util.find_spec(name)
        if found is None or not Path(found.origin or "").resolve().is_relative_to(packages):
            raise pytest.UsageError(f"{name} isn't the installed wheel's: {found}; start it by scripts/test")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Without the garbage collector: of thousands of tests nothing is garbage, and looking for it again and
    again took a third of the time. Later it leaves them alone."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In a run of several processes, files of ``export``, which compute, come between the others, many of
    which wait: by name, all would compute at a time and wait at another. None of them comes last."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    files = list(dict.fromkeys(item.path for item in items))
    computing = [file for file in files if is_of_export(file)]
    waiting = [file for file in files if file not in computing]
    places = {file: 0.9 * number / len(computing) for number, file in enumerate(computing)}
    places |= {file: number / len(waiting) for number, file in enumerate(waiting)}
    items.sort(key=lambda item: places[item.path])


def is_of_export(file: Path) -> bool:
    return "export" in file.relative_to(TESTS).parts


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Children of tests of ``export`` keep freed memory: a tiny model with a vocabulary of 256,000 has logits
    of hundreds of MB, and taking these from the kernel again and again costs a third of its time."""
    with pytest.MonkeyPatch.context() as patch:
        if is_of_export(item.path):
            patch.setenv("MALLOC_MMAP_MAX_", "0")
            patch.setenv("MALLOC_TRIM_THRESHOLD_", str(2**33))
        return (yield)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes are named by their parameter: packed ones may hold the time, and workers must agree on names."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="session", autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests run in an empty folder: a child with ``-m`` or ``-c`` would import from the current one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        yield


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def monotonic(monkeypatch: pytest.MonkeyPatch, clock: FakeClock) -> FakeClock:
    """``time.monotonic`` of the whole process, for tests without an event loop."""
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


@pytest.fixture
def database(tmp_path: Path, clock: FakeClock) -> Iterator[Database]:
    """What journal, spool and windows are kept in, by ``clock``."""
    database = Database(tmp_path / "journal-hall.sqlite", clock=clock)
    database.open()
    yield database
    database.close()

"""Fixtures for all tests."""

from __future__ import annotations

import gc
import importlib.util
import os
import signal
import sysconfig
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

from edgeslm.storage.database import Database
from tests.brokers import Mosquitto
from tests.fakes import FakeClock
from tests.nodes import NodeProcess, python_path
from tests.sandboxed import Sandbox

HERE = Path(__file__).parent

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
    computing = [file for file in files if file.is_relative_to(HERE / "export")]
    waiting = [file for file in files if file not in computing]
    places = {file: 0.9 * number / len(computing) for number, file in enumerate(computing)}
    places |= {file: number / len(waiting) for number, file in enumerate(waiting)}
    items.sort(key=lambda item: places[item.path])


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes are named by their parameter: packed ones may hold the time, and workers must agree on names."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="session", autouse=True)
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """With EDGESLM_TEST_SANDBOX (``scripts/test --sandbox``) nodes are services of the shipped unit."""
    if not os.environ.get("EDGESLM_TEST_SANDBOX"):
        yield
        return
    with Sandbox(tmp_path_factory.mktemp("sandbox"), tmp_path_factory.getbasetemp()) as sandbox:
        NodeProcess.launch = staticmethod(sandbox.launch)
        yield


@pytest.fixture(scope="session", autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests run in an empty folder: a child with ``-m`` or ``-c`` would import from the current one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        yield


@pytest.fixture
def make_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Mosquitto]]:
    """Starts real brokers: ``make_broker(lines, anonymous=True, folder=None)``; they end with the test."""
    brokers: list[Mosquitto] = []

    def make(lines: str = "", *, anonymous: bool = True, folder: Path | None = None) -> Mosquitto:
        broker = Mosquitto(folder or tmp_path_factory.mktemp("broker"), lines, anonymous=anonymous)
        brokers.append(broker)
        broker.start()
        return broker

    yield make
    for broker in brokers:
        broker.stop()


@pytest.fixture
def broker(make_broker: Callable[..., Mosquitto]) -> Mosquitto:
    """A real broker without any limit that would get in the way."""
    return make_broker()


@pytest.fixture(scope="session")
def starter() -> Path:
    """The starter models: ``smollm2-135m-int4`` and ``minilm-l6-int8``."""
    root = Path(__file__).resolve().parent.parent
    folder = Path(os.environ.get("EDGESLM_STARTER", root / ".edgeslm" / "starter")).absolute()
    for name in ("smollm2-135m-int4", "minilm-l6-int8"):
        if not (folder / name / "manifest.json").exists():
            pytest.fail(f"{folder / name} is missing: make it with `edgeslm-export starter .edgeslm/starter`")
    return folder


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def database(tmp_path: Path, clock: FakeClock) -> Iterator[Database]:
    """What journal, spool and windows are kept in, by ``clock``."""
    database = Database(tmp_path / "journal-hall.sqlite", clock=clock)
    database.open()
    yield database
    database.close()

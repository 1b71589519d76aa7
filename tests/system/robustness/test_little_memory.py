"""Too little memory: a node ends with a sentence, or goes on, and nothing acknowledged is lost."""

from __future__ import annotations

import re
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.apps import App
from tests.support.brokers import Mosquitto
from tests.support.nodes import BASE, FAKE_RUN, NodeProcess, fake_configuration

pytestmark = pytest.mark.e2e

TRIAGE = f"{BASE}/req/triage"
REPLY = f"{BASE}/res/triage/desk"
MIB = 1 << 20
SAY_SIZE = "print(open('/proc/self/statm').read().split()[0])"
SENTENCE = re.compile(r"^(\S+ \S+ ERROR )?edgeslm: .*memory.*$", re.IGNORECASE | re.MULTILINE)


def address_space(pid: int | str = "self") -> int:
    (pages, *_) = Path(f"/proc/{pid}/statm").read_text().split()
    return int(pages) * resource.getpagesize()


def limited(size: int) -> Sequence[str]:
    """A Python with so much address space."""
    return ["prlimit", f"--as={size}", sys.executable]


@pytest.fixture(scope="module")
def least(tmp_path_factory: pytest.TempPathFactory) -> int:
    """The address space of a node before it does anything: less, and Python itself fails to begin."""
    code = FAKE_RUN.replace('sys.exit(cli.main(["run", sys.argv[1]]))', SAY_SIZE)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path_factory.mktemp("empty"),
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout) * resource.getpagesize()


@pytest.mark.parametrize("more", [1, 4, 8, 12, 16, 24])
def test_a_node_started_with_too_little_memory_ends_with_a_sentence_or_serves(
    broker: Mosquitto, tmp_path: Path, least: int, more: int
) -> None:
    configuration = fake_configuration(broker.url, tmp_path)
    with (
        App(broker.port, REPLY, f"{BASE}/state") as app,
        NodeProcess(tmp_path, configuration, fake=True, python=limited(least + more * MIB)) as node,
    ):
        app.wait_until(
            lambda: (
                node.has_ended
                or any(heard.json["state"] == "online" for heard in app.untaken(f"{BASE}/state"))
            ),
            "the node serves or has ended",
        )
        status = node.wait() if node.has_ended else node.terminate()
        assert status in (0, 1), node.words
        assert status == 0 or SENTENCE.search(node.words), node.words
        assert "Traceback" not in node.words


@pytest.mark.parametrize("durability", ["broker", "spool"])
@pytest.mark.parametrize("more", [0, 2])
def test_memory_that_runs_out_under_load_loses_nothing_acknowledged(
    broker: Mosquitto, tmp_path: Path, durability: str, more: int
) -> None:
    configuration = fake_configuration(broker.url, tmp_path, durability=durability)
    names = [b"%d" % number for number in range(80)]
    with (
        App(broker.port, f"{BASE}/res/#", f"{BASE}/state") as app,
        NodeProcess(tmp_path, configuration, fake=True) as node,
    ):
        node.wait_online(app)
        for number, name in enumerate(names):
            if number == 10:
                limit = address_space(node.pid) + more * MIB
                resource.prlimit(node.pid, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
            text = "hold your horses " * (1 + number % 8 * 6000)
            app.publish(TRIAGE, "all " + text, reply_to=REPLY, correlation=name)
        # What the node could not even take note of, the broker has kept.
        status = node.wait() if node.has_ended else node.terminate()
        # Where CPython has no memory for the MemoryError it aborts, and where the stack can't grow it faults.
        assert status in (0, 1, -signal.SIGABRT, -signal.SIGSEGV), node.words
        assert status != 1 or SENTENCE.search(node.words), node.words
        node.start()
        missing = {*names}
        while missing:
            # What the node failed on is answered where results go whose sender is not known.
            missing.discard(app.take(f"{BASE}/res/#").correlation)
        assert node.terminate() == 0

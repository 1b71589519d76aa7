"""From one version to the next, and back: a state folder of version 0.1.0 loses nothing, nor one of 0.2.0.

``tests/support/old_state/0.1.0`` was made by the code of that version (``tests/support/old_state/make.py``).
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edgeslm.errors import JournalError
from edgeslm.storage.database import Database
from edgeslm.storage.journal import Journal, JournalEntry
from edgeslm.storage.spool import Spool, Spooled
from edgeslm.storage.window_store import Gathered, Windows
from tests.support.apps import App
from tests.support.benchmarks.scripts import load_scripts
from tests.support.brokers import Mosquitto
from tests.support.fakes import make_delivery
from tests.support.nodes import BASE, NodeProcess, fake_configuration
from tests.support.paths import ROOT

OLD = ROOT / "tests/support/old_state/0.1.0"
REPLY = f"{BASE}/res/triage/old"
HALL = ("digest", "hall/digest")
ReadWithOldCode = Callable[[Path], subprocess.CompletedProcess[str]]

READ = """
import json, sys
from pathlib import Path
try:  # version 0.2.0
    from edgeslm.storage.database import Database
    from edgeslm.storage.spool import Spool
    from edgeslm.storage.window_store import Windows
except ModuleNotFoundError:
    from edgeslm.bus.database import Database
    from edgeslm.bus.spool import Spool
    from edgeslm.bus.windows import Windows
database = Database(Path(sys.argv[1]))
database.open()
spool, last, found = Spool(database, limit_bytes=10**7), 0, {"spool": [], "windows": []}
while (one := spool.next(last)) is not None:
    last = one.id
    found["spool"].append(one.delivery.payload.decode())
windows = Windows(database)
for window in windows.stored():
    found["windows"] += [one.text for one in windows.read(window.window, window.batch)]
if "queued 0" in found["spool"]:
    spool.remove(spool.next(0).id)
    with database.writing() as db:
        # Its number is used again.
        db.execute("DELETE FROM requests WHERE id = (SELECT max(id) FROM requests)")
        db.execute("INSERT INTO requests (key, at, attempts, result) VALUES (?, 1.0, 1, x'01')", (b"o" * 16,))
database.close()
print(json.dumps(found))
"""


@pytest.fixture
def state(tmp_path: Path) -> Path:
    shutil.copytree(OLD, tmp_path / "state")
    return tmp_path / "state"


@pytest.fixture(params=["FIRST", "SECOND"])
def read_with_old_code(tmp_path: Path, request: pytest.FixtureRequest) -> ReadWithOldCode:
    """Reads a journal with the code of version 0.1.0 or 0.2.0, where git has it; then writes to it."""
    versions = load_scripts("versions")["versions"]
    try:
        old = versions.version_in(versions.unpack(tmp_path / "old", getattr(versions, request.param)))
    except versions.NoHistory as error:
        pytest.skip(str(error))

    def read(file: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [old.python, "-c", READ, str(file)],
            cwd=old.tree,
            env={**os.environ, **old.environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return read


def test_a_node_takes_over_a_state_folder_of_0_1_0_under_load(
    broker: Mosquitto, state: Path, tmp_path: Path
) -> None:
    window = {"last": 5}  # four of them are there
    routes = [
        {"name": "digest", "from": "hall/+/log", "task": "brief", "to": "hall/digest", "window": window}
    ]
    configuration = fake_configuration(broker.url, tmp_path, routes=routes)
    filters = (f"{BASE}/res/#", f"{BASE}/state", "hall/digest")
    wanted = {b"queued %d" % number for number in range(6)}
    with App(broker.port, *filters) as app, NodeProcess(tmp_path, configuration, fake=True) as node:
        node.wait_online(app)
        for number in range(40):
            name = b"answered %d" % number if number < 4 else b"new %d" % number
            app.publish(f"{BASE}/req/triage", name.decode(), reply_to=REPLY, correlation=name)
            wanted.add(name)
        app.publish("hall/1/log", "one more")
        answers: dict[bytes | None, Any] = {}
        while wanted - answers.keys():
            heard = app.take(REPLY)
            answers[heard.correlation] = heard.json
        for number in range(4):
            assert answers[b"answered %d" % number]["result"] == {"label": "of old"}, "not run again"
        for _ in range(2):
            assert app.take("hall/digest").json["task"] == "brief"
        assert node.terminate() == 0
    with closing(Database(state / "journal-hall.sqlite")) as database:
        database.open()
        assert len(Spool(database, limit_bytes=10**7)) == 0
        assert Windows(database).stored() == []


def open_journal(database: Database) -> Journal:
    journal = Journal(database, window_s=10**6, limit_bytes=10**7)
    journal.open()
    return journal


def test_what_the_new_version_wrote_the_old_one_reads(
    state: Path, read_with_old_code: ReadWithOldCode
) -> None:
    file = state / "journal-hall.sqlite"
    with closing(Database(file)) as database:
        database.open()
        Spool(database, limit_bytes=10**7).add([(make_delivery(b"of the new version"), None)])
        Windows(database).add([Gathered(HALL, "new", "of the new version", 1.0)])
        journal = open_journal(database)
        for key in (b"n" * 16, b"l" * 16):
            journal.finish(key, 0, b"of the new version")
        journal.close()
    done = read_with_old_code(file)
    assert done.returncode == 0, done.stderr
    assert "damage" not in done.stderr and sorted(state.glob("*damaged*")) == []
    found = json.loads(done.stdout)
    assert found["spool"] == [*(f"queued {number}" for number in range(6)), "of the new version"]
    assert {*found["windows"]} >= {"of the new version", *(f"gathered {number}" for number in range(4))}
    with closing(Database(file)) as database:
        database.open()
        spooled = Spool(database, limit_bytes=10**7).next(1)
        assert isinstance(spooled, Spooled) and spooled.delivery.payload == b"queued 1"
        journal = open_journal(database)
        kept = [journal.find(key) for key in (b"n" * 16, b"l" * 16, b"o" * 16)]
        assert kept == [JournalEntry(0, b"of the new version"), None, JournalEntry(1, b"\1")]
        assert Windows(database).read(HALL, 0)[-1].text == "of the new version"
        journal.close()
        assert database.damage is None


def test_what_the_new_version_salvaged_the_old_one_reads(
    state: Path, read_with_old_code: ReadWithOldCode
) -> None:
    file = state / "journal-hall.sqlite"
    Path(f"{file}-wal").unlink()  # what is in the main file alone
    with file.open("r+b") as stream:
        stream.write(b"no header")
    with closing(Database(file)) as database:
        database.open()
        assert database.damage is not None
    done = read_with_old_code(file)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["spool"] == [f"queued {number}" for number in range(6)]


def refuse_a_later_format(file: Path) -> None:
    before = {one.name: one.read_bytes() for one in file.parent.iterdir()}
    database = Database(file)
    with pytest.raises(JournalError, match="a later version of edgeslm"):
        database.open()
    assert {one.name: one.read_bytes() for one in file.parent.iterdir()} == before


def test_of_a_version_yet_to_come_nothing_is_touched(state: Path) -> None:
    file = state / "journal-hall.sqlite"
    content = bytearray(file.read_bytes())
    content[60:64] = (3).to_bytes(4, "big")
    file.write_bytes(content)
    refuse_a_later_format(file)


def test_of_a_version_yet_to_come_that_was_killed_nothing_is_touched(state: Path, tmp_path: Path) -> None:
    """Its format stands in the write-ahead log alone."""
    file = state / "journal-hall.sqlite"
    with closing(sqlite3.connect(file, isolation_level=None)) as later:
        later.execute("PRAGMA locking_mode = EXCLUSIVE")
        later.execute("PRAGMA user_version = 3")
        shutil.copytree(state, tmp_path / "killed")
    assert (tmp_path / "killed" / file.name).read_bytes()[60:64] == (1).to_bytes(4, "big")
    refuse_a_later_format(tmp_path / "killed" / file.name)


@pytest.mark.parametrize("cut", [0, 1, 31, 32, 50, 56, 200])
def test_a_log_that_ends_anywhere_has_no_later_format(state: Path, cut: int) -> None:
    log = state / "journal-hall.sqlite-wal"
    log.write_bytes(log.read_bytes()[:cut])
    with closing(Database(state / "journal-hall.sqlite")) as database:
        database.open()
        assert database.damage is None

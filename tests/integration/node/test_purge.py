"""purge.py and edgeslm purge: what is erased is in no byte of any file."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edgeslm.cli import main
from edgeslm.config.loader import Config, load_config
from edgeslm.knowledge.documents.passages import Document, split
from edgeslm.knowledge.index.collection import Collection, DocumentOrigin
from edgeslm.knowledge.index.queries import Memory
from edgeslm.knowledge.service.memory import remember
from edgeslm.storage.database import Database, journal_of
from edgeslm.storage.feedback_store import Correction, FeedbackStore
from edgeslm.storage.journal import Journal
from edgeslm.storage.sample_store import Sample, samples_of
from edgeslm.storage.spool import Spool
from edgeslm.storage.window_store import Gathered, Windows
from tests.support.fakes import make_delivery
from tests.support.nodes import fake_configuration, write_configuration

DAY_S = 86_400
ANNA, BOB = "annaqqwz", "bobvvxj"
"""A word of each one's messages, with letters that nothing else begins with."""

PEOPLE = (("anna", ANNA), ("bob", BOB))
Run = Callable[..., dict[str, int]]


@pytest.fixture(params=["plain", "encrypted"])
def config(tmp_path: Path, request: pytest.FixtureRequest) -> Config:
    changes: dict[str, Any] = {"knowledge": {"log": {"path": str(tmp_path / "log")}}}
    if request.param == "encrypted":
        (tmp_path / "key").write_bytes(b"k" * 32)
        changes["journal"] = {"key_file": str(tmp_path / "key")}
    return load_config(
        write_configuration(tmp_path, fake_configuration("mqtt://localhost", tmp_path, **changes))
    )


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def purge(*arguments: str) -> dict[str, int]:
        assert main.main(["purge", str(tmp_path / "config.yaml"), "--json", *arguments]) == 0
        erased: dict[str, int] = json.loads(capsys.readouterr().out)["erased"]
        return {place: count for place, count in erased.items() if count}

    return purge


def fill(config: Config, tmp_path: Path) -> None:
    """Messages of two people everywhere: Anna's ids are ``anna-1`` and so on, and hers are forty days old."""
    now = time.time()
    database = journal_of(config)
    database.open()
    journal = Journal(database, window_s=10**9, limit_bytes=10**9)
    journal.open()
    spool, windows = Spool(database, limit_bytes=10**9), Windows(database)
    store, memories = FeedbackStore(config.state_dir), []
    for name, word, at in (("anna", ANNA, now - 40 * DAY_S), ("bob", BOB, now)):
        text = f"{word} said so " * 300
        journal.finish(name.encode().ljust(16), 1, json.dumps({"id": f"{name}-1", "text": text}).encode())
        spool.add([(make_delivery(json.dumps({"id": f"{name}-2", "input": text}).encode()), None)])
        spool.add([(make_delivery(text.encode(), correlation=f"{name}-3".encode(), mid=9), None)])
        windows.add([Gathered(("digest", "out"), f"{name}-4", text, at)])
        store.keep(Correction("triage", text, "normal", id=f"{name}-5"))
        memories.append(Memory("hall/log of 3", f"{name}-6 0123456789ab", text, at))
        memories.append(Memory("hall/log", f"{len(name):012x}", f"{word} without an id", at))
    samples = samples_of(config)
    samples.open()
    samples.add([Sample("triage", f"{word} said so", f"{name}-7") for name, word in PEOPLE])
    samples.close()
    with closing(sqlite3.connect(samples.file)) as db, db:
        db.execute("UPDATE samples SET at = at - ? WHERE id = 1", (40 * DAY_S,))
    journal.close()
    for table in ("requests", "spool"):  # hers were written first
        database.write(f"UPDATE {table} SET at = at - ? WHERE id <= ?", 40 * DAY_S, 1 + (table == "spool"))
    database.close()
    rows = (config.state_dir / "feedback/triage.jsonl").read_text().splitlines()
    hers = {**json.loads(rows[0]), "at": "2020-01-01T00:00:00+00:00"}
    (config.state_dir / "feedback/triage.jsonl").write_text(f"{json.dumps(hers)}\n{rows[1]}\n")
    with Collection(tmp_path / "log", writes=True) as collection:
        remember(collection, memories)
        manual = Document("manual", "Manual", f"{ANNA}manual is a machine of 1990.")
        collection.put(manual, split(manual), DocumentOrigin("d", 1, 0.0, str(tmp_path / "manual.md")))


def bytes_of(tmp_path: Path) -> bytes:
    files = [file for file in tmp_path.rglob("*") if file.is_file() and file.suffix != ".yaml"]
    return b"".join(file.read_bytes() for file in files)


EVERYTHING = {"answers": 1, "waiting": 2, "windows": 1, "remembered": 2, "corrections": 1, "samples": 1}


def test_what_is_older_is_in_no_byte_of_any_file_and_the_rest_is_there(
    config: Config, tmp_path: Path, run: Run
) -> None:
    fill(config, tmp_path)
    assert run("--older-than", "30d", "--dry-run") == EVERYTHING
    assert run("--older-than", "30d", "--dry-run") == EVERYTHING, "nothing was erased"
    assert ANNA.encode() in bytes_of(tmp_path)
    assert run("--older-than", "30d") == EVERYTHING
    left = bytes_of(tmp_path).replace(f"{ANNA}manual".encode(), b"").replace(b"annaqqwzmanu", b"")
    assert ANNA.encode() not in left
    assert run("--older-than", "30d") == {}
    assert run("--older-than", "0s", "--dry-run") == EVERYTHING, "what is Bob's"


def test_by_id_whatever_the_age(config: Config, tmp_path: Path, run: Run) -> None:
    fill(config, tmp_path)
    assert run("--id", "bob-1") == {"answers": 1}
    assert run("--id", "bob-2") == {"waiting": 1}
    assert run("--id", "anna-*") == {**EVERYTHING, "remembered": 1}
    left = {"waiting": 1, "windows": 1, "remembered": 1, "corrections": 1, "samples": 1}
    assert run("--id", "bob-*") == left
    assert b"bob-" not in bytes_of(tmp_path)


def test_documents_stay(config: Config, tmp_path: Path, run: Run) -> None:
    fill(config, tmp_path)
    run("--older-than", "0s")
    with Collection(tmp_path / "log") as collection:
        assert [entry.source for entry in collection.documents()] == ["manual"]


def test_a_journal_that_was_set_aside_goes_as_a_whole(config: Config, tmp_path: Path, run: Run) -> None:
    config.state_dir.mkdir()
    for name in ("journal-hall.damaged", "journal-hall.damaged-2-wal", "journal-hall.damaged-2.taken"):
        (config.state_dir / name).write_text(ANNA)
    assert run("--id", "nobody") == {"damaged_files": 1}
    assert ANNA.encode() not in bytes_of(tmp_path)


def test_beside_a_running_node_it_refuses_and_erases_nothing(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(config, tmp_path)
    running = journal_of(config)
    running.open()
    try:
        assert main.main(["purge", str(tmp_path / "config.yaml"), "--older-than", "30d"]) == 1
        assert "is in use: the node runs" in capsys.readouterr().err
        assert ANNA in (config.state_dir / "feedback/triage.jsonl").read_text()
    finally:
        running.close()


def test_a_state_folder_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (state := tmp_path / "state").mkdir()
    for node in ("hall", "yard"):
        database = Database(state / f"journal-{node}.sqlite")
        database.open()
        Windows(database).add([Gathered(("digest", "out"), "1", "text", 0.0)])
        database.close()
    assert main.main(["purge", "--state-dir", str(state), "--older-than", "1d"]) == 0
    assert "      2 messages of windows" in capsys.readouterr().out


def test_a_correction_that_comes_meanwhile_is_not_lost(tmp_path: Path) -> None:
    """Its writer has the old file open, which is no longer the one of that name."""
    store = FeedbackStore(tmp_path)
    file = store.keep(Correction("triage", "one", "a"))
    beside = file.with_suffix(".other")
    beside.write_bytes(b"")
    beside.replace(file)
    store.keep(Correction("triage", "two", "a"))
    assert "two" in file.read_text()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--older-than", "30"], "is not an age"),
        (["--older-than", "1d", "--id", "x"], "not allowed with"),
        ([], "one of the arguments --older-than --id is required"),
    ],
)
def test_what_is_asked_wrongly(arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.main(["purge", "config.yaml", *arguments])
    assert why in capsys.readouterr().err


def test_a_place_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["purge", "--id", "x"]) == 1
    assert "name the node's configuration, or its --state-dir" in capsys.readouterr().err

"""edgeslm recover: what a damaged journal had goes back to the node, once."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edgeslm.cli import main
from edgeslm.config.loader import Config, load_config
from edgeslm.storage.database import Database
from edgeslm.storage.encryption import Seal
from edgeslm.storage.spool import Spool, Spooled
from edgeslm.storage.window_store import Gathered, Windows
from tests.support.fakes import FakeClock, make_delivery, make_key
from tests.support.nodes import fake_configuration, write_configuration

KEY, OTHER = b"k" * 32, b"o" * 32
HALL = ("digest", "hall/digest")

Run = Callable[..., dict[str, Any]]


@pytest.fixture(params=["plain", "encrypted"])
def config(tmp_path: Path, request: pytest.FixtureRequest) -> Config:
    changes: dict[str, Any] = {}
    if request.param == "encrypted":
        (tmp_path / "key").write_bytes(KEY)
        changes["journal"] = {"key_file": str(tmp_path / "key")}
    return load_config(
        write_configuration(tmp_path, fake_configuration("mqtt://localhost", tmp_path, **changes))
    )


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def recover(*arguments: str) -> dict[str, Any]:
        assert main.main(["recover", str(tmp_path / "config.yaml"), "--json", *arguments]) == 0
        files: dict[str, Any] = json.loads(capsys.readouterr().out)["files"]
        return files

    return recover


def journal_file(config: Config) -> Path:
    return config.state_dir / f"journal-{config.node}.sqlite"


def opened(config: Config, file: Path | None = None, key: bytes | None = None) -> Database:
    key = key or (KEY if config.journal.key_file else None)
    database = Database(
        file or journal_file(config), seal=Seal(key) if key is not None else None, clock=FakeClock()
    )
    database.open()
    return database


def set_aside(config: Config, key: bytes | None = None) -> Path:
    """A journal as version 0.1.0 set it aside, with two messages and one of a window."""
    file = config.state_dir / "journal-old.sqlite"
    with closing(opened(config, file, key)) as database:
        spool = Spool(database, limit_bytes=1_000_000)
        spool.add([(make_delivery(b"first", expiry_s=600), make_key(1))])
        assert isinstance(database.clock, FakeClock)
        database.clock.now += 60
        spool.add([(make_delivery(b"second " + b"long " * 200, mid=8), None)])
        Windows(database).add([Gathered(HALL, "m1", "gathered", 1.0, make_key(2))])
    copy = journal_file(config).with_suffix(".damaged")
    with file.open("r+b") as stream:  # its header is gone: SQLite reads nothing of it
        stream.write(b"no header")
    file.replace(copy)
    return copy


def waiting(config: Config) -> list[tuple[bytes, int | None]]:
    with closing(opened(config)) as database:
        spool, last, found = Spool(database, limit_bytes=1_000_000), 0, []
        while (spooled := spool.next(last)) is not None:
            last = spooled.id
            assert isinstance(spooled, Spooled)
            found.append((spooled.delivery.payload.split()[0], spooled.delivery.expiry_s))
        return found


def test_messages_of_a_damaged_journal_are_fed_back_once(config: Config, run: Run) -> None:
    copy = set_aside(config)
    fed = {"fed": {"waiting": 2, "windows": 1}, "known": 0, "unreadable": 0, "other_key": 0}
    assert run("--dry-run") == {str(copy): fed}
    assert waiting(config) == []
    assert run() == {str(copy): fed}
    (first, left_s), second = waiting(config)
    assert (first, second) == (b"first", (b"second", None))
    assert left_s is not None and 530 <= left_s <= 540, "its age counts on"
    assert run() == {
        str(copy): {"fed": {"waiting": 0, "windows": 0}, "known": 3, "unreadable": 0, "other_key": 0}
    }
    assert len(waiting(config)) == 2
    with closing(opened(config)) as database:
        windows = Windows(database)
        assert [one.text for one in windows.read(HALL, windows.complete(HALL))] == ["gathered"]


def test_what_the_node_took_when_it_set_the_file_aside_is_not_fed_back(config: Config, run: Run) -> None:
    set_aside(config).replace(journal_file(config))
    assert len(waiting(config)) == 2
    with closing(opened(config)) as database:  # it answers them
        database.write("DELETE FROM spool")
    (copy,) = run().items()
    assert copy[0].endswith(".damaged-1")
    assert copy[1]["fed"] == {"waiting": 0, "windows": 0}
    assert waiting(config) == []


def test_a_node_that_runs_is_left_alone(
    config: Config, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    set_aside(config)
    with closing(opened(config)):
        assert main.main(["recover", str(tmp_path / "config.yaml")]) == 1
    assert "the node runs. Stop it" in capsys.readouterr().err


def test_its_own_journal_is_no_file_to_recover(
    config: Config, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    opened(config).close()
    assert main.main(["recover", str(tmp_path / "config.yaml"), str(journal_file(config))]) == 1
    assert "is the node's own journal" in capsys.readouterr().err
    assert main.main(["recover", str(tmp_path / "config.yaml"), str(tmp_path / "none")]) == 1
    assert "can't be read" in capsys.readouterr().err


def test_messages_under_another_key_are_told_and_not_taken(config: Config, run: Run) -> None:
    copy = set_aside(config, OTHER)
    assert run() == {
        str(copy): {"fed": {"waiting": 0, "windows": 0}, "known": 0, "unreadable": 0, "other_key": 3}
    }


def test_a_plain_copy_is_encrypted_by_a_node_that_has_a_key(config: Config, run: Run) -> None:
    file = config.state_dir / "journal-old.sqlite"
    with closing(Database(file)) as database:
        database.open()
        Spool(database, limit_bytes=1_000_000).add([(make_delivery(b"in plain words"), None)])
    file.replace(journal_file(config).with_suffix(".damaged"))
    run()
    assert waiting(config) == [(b"in", None)]
    with closing(opened(config)) as database:
        assert database.read("SELECT count(*) FROM checksums") == (1,)
    kept = b"".join(file.read_bytes() for file in config.state_dir.glob("*.sqlite*"))
    assert (b"in plain words" in kept) == (config.journal.key_file is None)

"""What a node writes into its collections: folders, messages and vectors, and what it says of trouble."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import astuple, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

from edgeslm.knowledge.documents.passages import Document, split
from edgeslm.knowledge.index.collection import Collection, DocumentOrigin
from edgeslm.knowledge.index.queries import CollectionSpec, Memory
from edgeslm.knowledge.index.search import search
from edgeslm.knowledge.service.frames import Embed, Failed, Remembered, Trouble, Vectors, WorkerMessage
from edgeslm.knowledge.service.indexer import TOGETHER, Indexer, pause_s
from edgeslm.knowledge.service.intake import add_files
from edgeslm.knowledge.service.memory import remember
from tests.support.knowledge.collection_samples import TAG, hash_embed, refusing
from tests.support.knowledge.readers import bad_reader
from tests.support.knowledge.readers.bad_reader import ReadWith
from tests.support.knowledge.readers.bad_reader import read_with as read_with
from tests.support.knowledge.sheets import take_languages

LIMIT_S = 250.0
_Said = TypeVar("_Said", Embed, Failed, Remembered, Trouble)
MESSAGE = Memory("press/4/log", "a1", "bearing 7 runs hot", time.time())


class Parent:
    """The other end: keeps what is sent, and embeds."""

    def __init__(self) -> None:
        self.messages: list[WorkerMessage] = []
        self.embeds = True
        self.indexer: Indexer | None = None

    def send(self, message: WorkerMessage) -> None:
        self.messages.append(message)
        if isinstance(message, Embed) and self.indexer is not None:
            vectors = tuple(hash_embed(message.texts)) if self.embeds else None
            self.indexer.take_vectors(Vectors(message.number, vectors))

    def until(self, true: Callable[[], Any]) -> Any:
        give_up = time.monotonic() + LIMIT_S
        while time.monotonic() < give_up:
            if found := true():
                return found
            time.sleep(0.01)
        raise AssertionError(f"it never happened; there was {self.messages}")

    def said(self, kind: type[WorkerMessage], *values: Any) -> bool:
        return any(type(one) is kind and astuple(one)[: len(values)] == values for one in self.messages)

    def all(self, kind: type[_Said]) -> list[_Said]:
        return [one for one in self.messages if isinstance(one, kind)]

    @property
    def trouble(self) -> str | None:
        told = self.all(Trouble)
        return told[-1].sentence if told else None


@pytest.fixture
def parent() -> Parent:
    return Parent()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One that is watched."""
    folder = tmp_path / "manuals"
    folder.mkdir()
    return folder


@pytest.fixture
def slow_writer(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowWriter]:
    """Each document of a folder takes until it is let go on to be written."""
    writer = SlowWriter()
    monkeypatch.setattr("edgeslm.knowledge.index.collection.put_table", writer)
    yield writer
    writer.may_go_on.set()


class SlowWriter:
    def __init__(self) -> None:
        self.is_written, self.may_go_on = threading.Event(), threading.Event()

    def __call__(self, *arguments: Any) -> None:
        if threading.current_thread().name == "sweep_all":
            self.is_written.set()
            self.may_go_on.wait(LIMIT_S)


def start(parent: Parent, *specs: CollectionSpec, embeds: bool = True, settled_s: float = -60.0) -> Indexer:
    """:param embeds: else what is to be embedded gets no answer."""
    indexer = Indexer(specs, parent, sweep_every_s=0.05, settled_s=settled_s)
    parent.indexer = indexer if embeds else None
    indexer.make()
    indexer.start()
    return indexer


def found(spec: CollectionSpec, question: str, *, embed: bool = False) -> list[str]:
    with Collection(spec.path) as collection:
        return [one.source for one in search(collection, question, embed=hash_embed if embed else None)]


def test_a_folder_is_kept_up_to_date(tmp_path: Path, folder: Path, parent: Parent) -> None:
    (folder / "press.md").write_text("# Press\n\nOil it each week.\n")
    spec = CollectionSpec("manuals", tmp_path / "kb", watch=(folder,))
    start(parent, spec)
    parent.until(lambda: found(spec, "oil") == ["press.md"])
    (folder / "lathe.txt").write_text("Oil the lathe each month.\n")
    parent.until(lambda: set(found(spec, "oil")) == {"press.md", "lathe.txt"})
    (folder / "press.md").write_text("# Press\n\nGrease it each week.\n")
    parent.until(lambda: found(spec, "grease") == ["press.md"])
    (folder / "lathe.txt").unlink()
    parent.until(lambda: found(spec, "oil") == [])
    assert parent.trouble is None


def test_documents_of_an_earlier_version_are_indexed_by_their_language(
    tmp_path: Path, folder: Path, parent: Parent
) -> None:
    (folder / "pumpe.txt").write_text("Das ist die Wartung der Pumpe.\n")
    with Collection(tmp_path / "kb", writes=True, language="en") as collection:
        add_files(collection, [folder])
        file = collection.file
    with closing(sqlite3.connect(file)) as db:
        take_languages(db)
    spec = CollectionSpec("manuals", tmp_path / "kb", watch=(folder,))
    assert found(spec, "Wartungen") == []
    start(parent, spec)
    parent.until(lambda: found(spec, "Wartungen") == ["pumpe.txt"])


def test_a_configured_language_is_that_of_all_documents(tmp_path: Path, folder: Path, parent: Parent) -> None:
    (folder / "note.txt").write_text("Wartung")
    spec = CollectionSpec("manuals", tmp_path / "kb", watch=(folder,), language="de")
    start(parent, spec)
    parent.until(lambda: found(spec, "Wartungen") == ["note.txt"])


def _finds(spec: CollectionSpec, question: str, source: str) -> bool:
    return source in found(spec, question)


def test_kinds_that_are_not_read_are_told_once_and_what_is_there_of_them_stays(
    tmp_path: Path, folder: Path, parent: Parent, caplog: pytest.LogCaptureFixture
) -> None:
    """A version before read manual pages."""
    (folder / "press.8").write_text(".TH PRESS 8\n.SH NAME\nOil it.\n")
    spec = CollectionSpec("manuals", tmp_path / "kb", watch=(folder,))
    with Collection(spec.path, writes=True) as collection:
        document = Document("press.8", "press(8)", "Oil it.")
        origin = DocumentOrigin("0" * 64, 36, 0.0, str(folder / "press.8"))
        collection.put(document, split(document), origin)
    caplog.set_level(logging.INFO, "edgeslm.knowledge")
    start(parent, spec)
    for name in ("lathe.txt", "mill.txt"):
        (folder / name).write_text("Grease it.\n")
        parent.until(partial(_finds, spec, "grease", name))
    assert found(spec, "oil") == ["press.8"]
    told = [line for line in caplog.messages if "skipped" in line]
    assert told == ["manuals: skipped files of unsupported types: 1 .8"]
    (folder / "photo.png").write_bytes(b"")
    parent.until(lambda: caplog.messages[-1] == "manuals: skipped files of unsupported types: 1 .png")
    assert parent.trouble is None


def test_a_file_on_its_way_is_left_alone_until_it_has_settled(
    tmp_path: Path, folder: Path, parent: Parent
) -> None:
    (folder / "half.txt").write_text("Oil the pr")
    (folder / "whole.txt").write_text("Oil the lathe.")
    os.utime(folder / "whole.txt", (5, 5))
    spec = CollectionSpec("manuals", tmp_path / "kb", watch=(folder,))
    start(parent, spec, settled_s=3600.0)
    parent.until(lambda: found(spec, "oil") == ["whole.txt"])


def test_a_file_of_a_time_to_come_is_read(tmp_path: Path, folder: Path, parent: Parent) -> None:
    (folder / "camera.txt").write_text("Oil the lathe.")
    os.utime(folder / "camera.txt", (time.time() + 7200, time.time() + 7200))
    spec = CollectionSpec("manuals", tmp_path / "kb", watch=(folder,))
    start(parent, spec, settled_s=2.0)
    parent.until(lambda: found(spec, "oil") == ["camera.txt"])


def test_another_file_of_the_same_size_and_time_is_another_one(
    tmp_path: Path, folder: Path, parent: Parent
) -> None:
    for name, text in (("manuals/press.txt", "Oil it."), ("press.txt", "Wax it.")):
        (tmp_path / name).write_text(text)
        os.utime(tmp_path / name, (5, 5))
    spec = CollectionSpec("manuals", tmp_path / "kb", watch=(folder,))
    start(parent, spec)
    parent.until(lambda: found(spec, "oil"))
    (tmp_path / "press.txt").rename(folder / "press.txt")
    parent.until(lambda: found(spec, "wax"))


def test_a_folder_that_is_gone_is_told_and_its_documents_stay(
    tmp_path: Path, folder: Path, parent: Parent
) -> None:
    (folder / "press.md").write_text("Oil it each week.\n")
    spec = CollectionSpec("manuals", tmp_path / "kb", watch=(folder,))
    start(parent, spec)
    parent.until(lambda: found(spec, "oil"))
    folder.rename(tmp_path / "unplugged")
    parent.until(lambda: parent.trouble == f"the watched path {folder} is missing")
    assert found(spec, "oil") == ["press.md"]
    (tmp_path / "unplugged").rename(folder)
    parent.until(lambda: parent.trouble is None)


def test_a_folder_that_is_empty_now_may_be_a_disk_that_was_unmounted(
    tmp_path: Path, folder: Path, parent: Parent
) -> None:
    (folder / "press.md").write_text("Oil it each week.\n")
    spec = CollectionSpec("manuals", tmp_path / "kb", watch=(folder,))
    start(parent, spec)
    parent.until(lambda: found(spec, "oil"))
    (folder / "press.md").unlink()
    parent.until(lambda: parent.trouble and "is empty; its documents are kept" in parent.trouble)
    assert found(spec, "oil") == ["press.md"]
    (folder / "lathe.md").write_text("Grease it.\n")
    parent.until(lambda: found(spec, "grease") and not found(spec, "oil"))
    parent.until(lambda: parent.trouble is None)


def test_a_broken_file_is_told_for_as_long_as_it_is_broken(
    tmp_path: Path, folder: Path, parent: Parent
) -> None:
    (folder / "a.pdf").write_bytes(b"no pdf")
    (folder / "b.txt").write_text("Oil it.")
    spec = CollectionSpec("manuals", tmp_path / "kb", watch=(folder,))
    start(parent, spec)
    parent.until(lambda: found(spec, "oil"))
    parent.until(lambda: parent.trouble and "a.pdf" in parent.trouble)
    (folder / "c.txt").write_text("Grease it.")
    parent.until(lambda: found(spec, "grease"))
    assert parent.trouble and "a.pdf" in parent.trouble
    (folder / "a.pdf").unlink()
    parent.until(lambda: parent.trouble is None)


def test_a_message_is_acknowledged_when_it_is_kept(tmp_path: Path, parent: Parent) -> None:
    spec = CollectionSpec("log", tmp_path / "kb", writes=True)
    indexer = start(parent, spec)
    indexer.remember(7, "log", MESSAGE)
    parent.until(lambda: parent.said(Remembered, 7))
    assert found(spec, "bearing") == ["press/4/log a1"]


def test_a_message_that_cannot_be_kept_is_told(tmp_path: Path, parent: Parent) -> None:
    spec = CollectionSpec("log", tmp_path / "kb", writes=True)
    indexer = start(parent, spec)
    with refusing(tmp_path / "kb.sqlite", "documents"):
        indexer.remember(7, "log", MESSAGE)
        sentence = f"{tmp_path / 'kb.sqlite'} can't be used: it is refused"
        parent.until(lambda: parent.said(Failed, 7, sentence))
    indexer.remember(8, "log", MESSAGE)
    parent.until(lambda: parent.said(Remembered, 8))


def test_what_is_added_is_embedded_later_and_found_by_its_words_before(
    tmp_path: Path, folder: Path, parent: Parent
) -> None:
    for number in range(100):
        (folder / f"{number}.txt").write_text(f"Oil the press {number}.")
    parent.embeds = False
    spec = CollectionSpec("manuals", tmp_path / "kb", TAG, (folder,), writes=True)
    indexer = start(parent, spec)
    parent.until(lambda: parent.said(Embed))
    assert found(spec, "oil")
    indexer.remember(7, "manuals", MESSAGE)
    parent.until(lambda: parent.said(Remembered, 7))
    parent.embeds = True

    def all_embedded() -> bool:
        with Collection(spec.path) as collection:
            return len(collection.documents()) == 101 and collection.unembedded == 0

    parent.until(all_embedded)
    assert found(spec, "Oil the press 42.", embed=True)[0] == "42.txt"


def test_messages_do_not_wait_for_an_encoder_that_is_busy(tmp_path: Path, parent: Parent) -> None:
    spec = CollectionSpec("log", tmp_path / "kb", TAG, writes=True)
    indexer = start(parent, spec, embeds=False)
    indexer.remember(1, "log", MESSAGE)
    parent.until(lambda: parent.said(Embed))
    indexer.remember(2, "log", replace(MESSAGE, name="a2", text="bearing 8 runs hot"))
    parent.until(lambda: parent.said(Remembered, 2))
    parent.indexer = indexer
    asked = parent.all(Embed)[0]
    indexer.take_vectors(Vectors(asked.number, tuple(hash_embed(asked.texts))))
    parent.until(lambda: len(found(spec, "hot", embed=True)) == 2)
    with Collection(spec.path) as collection:
        parent.until(lambda: collection.unembedded == 0)


def test_messages_do_not_wait_for_a_file_that_takes_long_to_read(
    tmp_path: Path, folder: Path, parent: Parent, read_with: ReadWith
) -> None:
    read_with(bad_reader.command(bad_reader.FREEZE))
    (folder / "bomb.txt").write_text("Oil it.")
    spec = CollectionSpec("manuals", tmp_path / "kb", TAG, (folder,), writes=True)
    indexer = start(parent, spec)
    parent.until((tmp_path / "tries").exists)
    indexer.remember(7, "manuals", MESSAGE)
    parent.until(lambda: parent.said(Remembered, 7))
    parent.until(lambda: found(spec, "bearing", embed=True))
    assert not found(spec, "oil")
    child = next(one for one in psutil.Process().children() if "read_worker" in " ".join(one.cmdline()))
    (tmp_path / "mended").touch()
    child.kill()
    parent.until(lambda: found(spec, "oil"))


def test_folders_are_looked_at_while_the_encoder_is_busy(
    tmp_path: Path, folder: Path, parent: Parent
) -> None:
    (folder / "press.md").write_text("Oil it each week.\n")
    spec = CollectionSpec("manuals", tmp_path / "kb", TAG, (folder,))
    start(parent, spec, embeds=False)
    parent.until(lambda: parent.said(Embed))
    (folder / "lathe.txt").write_text("Grease the lathe.\n")
    (folder / "press.md").unlink()
    parent.until(lambda: found(spec, "grease") and not found(spec, "oil"))
    assert len(parent.all(Embed)) == 1, "it is asked one thing at a time"


def test_after_a_long_look_the_next_one_is_not_hours_away() -> None:
    assert pause_s(0.1, 10.0) == 10.0
    assert pause_s(4.0, 10.0) == 80.0
    assert pause_s(7200.0, 10.0) == 300.0


def test_trouble_of_two_works_is_told_together(tmp_path: Path, folder: Path, parent: Parent) -> None:
    """None takes away what another has told."""
    (folder / "a.pdf").write_bytes(b"no pdf")
    (folder / "b.txt").write_text("Oil it.")
    spec = CollectionSpec("manuals", tmp_path / "kb", TAG, (folder,))
    indexer = start(parent, spec, embeds=False)
    parent.until(lambda: parent.said(Embed))
    asked = parent.all(Embed)[0]
    with Collection(spec.path, writes=True) as collection:
        collection.use_encoder(replace(TAG, digest="another"), replace=True)
    indexer.take_vectors(Vectors(asked.number, tuple(hash_embed(asked.texts))))
    parent.until(lambda: parent.trouble and parent.trouble.endswith("(and 1 more)"))


def test_messages_wait_for_one_document_at_most_and_for_no_longer_than_it_takes(
    tmp_path: Path,
    folder: Path,
    parent: Parent,
    slow_writer: SlowWriter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Longer than SQLite has a writer wait for another."""
    monkeypatch.setattr("edgeslm.knowledge.index.database.WAIT_S", 0.05)
    (folder / "large.txt").write_text("Oil it.")
    spec = CollectionSpec("manuals", tmp_path / "kb", watch=(folder,), writes=True)
    indexer = start(parent, spec)
    assert slow_writer.is_written.wait(LIMIT_S)
    indexer.remember(7, "manuals", MESSAGE)
    time.sleep(0.5)
    assert not parent.said(Failed) and not parent.said(Remembered)
    slow_writer.may_go_on.set()
    parent.until(lambda: parent.said(Remembered, 7))
    parent.until(lambda: found(spec, "oil") and found(spec, "bearing"))
    assert parent.trouble is None


def test_a_message_that_comes_anew_while_it_expires_stays(tmp_path: Path) -> None:
    """As a retained one does with each connection."""
    old = replace(MESSAGE, at=5.0, keep_s=5.0)
    with Collection(tmp_path / "kb", writes=True) as collection:
        remember(collection, [old])
        reading = collection.reading

        @contextmanager
        def interrupted() -> Iterator[sqlite3.Connection]:
            with reading() as db:
                yield db
            collection.reading = reading  # type: ignore[method-assign]
            remember(collection, [replace(old, at=time.time(), keep_s=3600.0)])

        collection.reading = interrupted  # type: ignore[method-assign]
        assert collection.remove_expired() == 0
        assert [one.source for one in collection.documents()] == [MESSAGE.source]


def test_a_file_that_is_left_out_is_told_and_read_when_it_has_changed(
    tmp_path: Path, folder: Path, parent: Parent, read_with: ReadWith
) -> None:
    read_with(bad_reader.command(bad_reader.CRASH))
    for name in ("bomb.txt", "lathe.txt"):
        (folder / name).write_text(f"Oil {name}.")
    spec = CollectionSpec("manuals", tmp_path / "kb", watch=(folder,))
    start(parent, spec)
    parent.until(lambda: parent.trouble and "bomb.txt ended the process" in parent.trouble)
    assert found(spec, "oil") == ["lathe.txt"]
    (tmp_path / "mended").touch()
    (folder / "bomb.txt").write_text("Oil it each week.")
    parent.until(lambda: len(found(spec, "oil")) == 2)
    parent.until(lambda: parent.trouble is None)


def test_a_file_that_was_left_out_is_no_trouble_once_a_command_has_read_it(
    tmp_path: Path, folder: Path, parent: Parent, read_with: ReadWith
) -> None:
    read_with(bad_reader.command(bad_reader.CRASH))
    (folder / "bomb.txt").write_text("Oil it.")
    spec = CollectionSpec("manuals", tmp_path / "kb", watch=(folder,))
    start(parent, spec)
    parent.until(lambda: parent.trouble)
    (tmp_path / "mended").touch()
    with Collection(spec.path, writes=True) as collection:
        assert add_files(collection, [folder], again=True).added == 1
    parent.until(lambda: parent.trouble is None)


def test_messages_of_one_collection_do_not_wait_for_another(
    tmp_path: Path, folder: Path, parent: Parent, slow_writer: SlowWriter
) -> None:
    """In which a large document is being written."""
    (folder / "large.txt").write_text("Oil it.")
    specs = [CollectionSpec("manuals", tmp_path / "kb", watch=(folder,), writes=True)]
    specs.append(CollectionSpec("log", tmp_path / "log", writes=True))
    indexer = start(parent, *specs)
    assert slow_writer.is_written.wait(LIMIT_S)
    indexer.remember(1, "manuals", MESSAGE)
    indexer.remember(2, "log", MESSAGE)
    parent.until(lambda: parent.said(Remembered, 2))
    assert not parent.said(Remembered, 1)
    slow_writer.may_go_on.set()
    parent.until(lambda: parent.said(Remembered, 1))


def test_a_message_for_a_collection_without_any_is_refused(tmp_path: Path, parent: Parent) -> None:
    Indexer([CollectionSpec("manuals", tmp_path / "kb")], parent).remember(1, "manuals", MESSAGE)
    assert parent.messages == [Failed(1, "messages are not remembered in manuals")]


def test_what_has_expired_is_removed(tmp_path: Path, parent: Parent) -> None:
    spec = CollectionSpec("log", tmp_path / "kb", writes=True)
    indexer = start(parent, spec)
    indexer.remember(7, "log", Memory("a", "1", "short lived", time.time(), keep_s=0.2))
    parent.until(lambda: parent.said(Remembered, 7))

    def is_gone() -> bool:
        with Collection(spec.path) as collection:
            return collection.documents() == []

    parent.until(is_gone)


def test_many_that_expired_are_removed_some_at_a_time(tmp_path: Path, parent: Parent) -> None:
    spec = CollectionSpec("log", tmp_path / "kb", writes=True)
    old = [replace(MESSAGE, name=f"n{number}", at=5.0, keep_s=5.0) for number in range(2 * TOGETHER + 3)]
    with Collection(spec.path, writes=True) as collection:
        remember(collection, old)
    indexer = Indexer([spec], parent, sweep_every_s=0.05)
    indexer.remember(1, "log", MESSAGE)
    indexer.make()
    indexer.start()
    with Collection(spec.path) as collection:
        parent.until(lambda: [one.source for one in collection.documents()] == [MESSAGE.source])


def test_a_collection_that_was_removed_is_made_anew(tmp_path: Path, parent: Parent) -> None:
    """Removed by hand while the node runs: the next error or sweep opens another one."""
    spec = CollectionSpec("log", tmp_path / "kb", writes=True)
    indexer = start(parent, spec)
    indexer.remember(7, "log", MESSAGE)
    parent.until(lambda: parent.said(Remembered, 7))
    for file in tmp_path.glob("kb*"):
        file.unlink()
    indexer.remember(8, "log", MESSAGE)
    parent.until(lambda: parent.said(Remembered, 8))
    parent.until(lambda: (tmp_path / "kb.sqlite").exists() and found(spec, "bearing"))

"""Messages that a collection remembers: found as documents are, once, and until their time is over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgeslm.errors import KnowledgeError
from edgeslm.knowledge.index.collection import Collection
from edgeslm.knowledge.index.queries import Filter, Memory
from edgeslm.knowledge.index.search import search
from edgeslm.knowledge.service.memory import remember
from tests.support.knowledge.collection_samples import faults, refusing

MESSAGE = Memory("press/4/log", "a1", "bearing 7 runs hot", 1000.0, keep_s=60.0)


@pytest.fixture
def collection(tmp_path: Path) -> Iterator[Collection]:
    with Collection(tmp_path / "kb", writes=True) as made:
        yield made
        assert faults(made.file) == []


def test_a_message_is_found_under_its_topic(collection: Collection) -> None:
    assert remember(collection, [MESSAGE]) == 1
    (found,) = search(collection, "which bearing is hot?", now=1001.0)
    assert (found.source, found.text) == ("press/4/log a1", "bearing 7 runs hot")
    assert search(collection, "bearing", only=Filter(sources="press/*", since=999.0), now=1001.0)
    assert not search(collection, "bearing", only=Filter(since=1001.0), now=1001.0)


def test_a_message_that_comes_again_is_kept_once(collection: Collection) -> None:
    for _ in range(3):
        remember(collection, [MESSAGE, replace(MESSAGE, name="a2", text="bearing 8 runs hot")])
    assert [entry.source for entry in collection.documents()] == ["press/4/log a1", "press/4/log a2"]


def test_a_message_is_found_until_its_time_is_over(collection: Collection) -> None:
    remember(collection, [MESSAGE, replace(MESSAGE, name="a2", keep_s=None)])
    assert [one.source for one in search(collection, "bearing", now=1061.0)] == ["press/4/log a2"]
    assert collection.remove_expired(1061.0) == 1


def test_what_is_no_text_is_told_and_stops_nothing(
    collection: Collection, caplog: pytest.LogCaptureFixture
) -> None:
    blank = replace(MESSAGE, name="a0", text=" \n")
    half = replace(MESSAGE, name="a2", text="half a pair \ud800 of it")
    assert remember(collection, [blank, half, MESSAGE]) == 2
    assert caplog.messages == ["a message can't be remembered: press/4/log a0 has no text in it."]


def test_all_messages_of_a_turn_are_there_or_none(collection: Collection) -> None:
    with (
        refusing(collection.file, "documents", "NEW.source LIKE '%a2'"),
        pytest.raises(KnowledgeError, match="it is refused"),
    ):
        remember(collection, [MESSAGE, replace(MESSAGE, name="a2")])
    assert collection.documents() == []

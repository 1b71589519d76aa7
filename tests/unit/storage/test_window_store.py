from __future__ import annotations

from dataclasses import replace

import pytest

from edgeslm.errors import JournalError
from edgeslm.storage.database import Database
from edgeslm.storage.journal import reader_key
from edgeslm.storage.spool import Spool
from edgeslm.storage.window_store import LOST_ACK_S, Gathered, StoredMessage, Windows
from tests.support.disks import flip
from tests.support.fakes import FakeClock, make_delivery, make_key

HALL = ("digest", "hall/digest")
YARD = ("digest", "yard/digest")


def make_message(number: int, **fields: object) -> Gathered:
    message = Gathered(HALL, f"m{number}", f"text {number}", 1000.0 + number, make_key(number))
    return replace(message, **fields)  # type: ignore[arg-type]


@pytest.fixture
def windows(database: Database) -> Windows:
    return Windows(database)


def test_a_window_outlives_a_restart_and_has_its_messages_in_order(
    windows: Windows, database: Database, clock: FakeClock
) -> None:
    assert windows.add([make_message(1), make_message(2)]) == [True, True]
    clock.now += 60
    windows.add([make_message(3), make_message(4, window=YARD)])
    database.close()
    database.open()
    assert windows.stored() == [StoredMessage(HALL, 0, 3, 18, 60.0), StoredMessage(YARD, 0, 1, 6, 0.0)]
    batch = windows.complete(HALL)
    assert [one.id for one in windows.read(HALL, batch)] == ["m1", "m2", "m3"]
    assert windows.read(HALL, batch)[0] == make_message(1, key=None)
    assert windows.complete(HALL) == 0, "it is empty now"


def test_a_complete_window_stays_until_its_digest_is_published(windows: Windows) -> None:
    windows.add([make_message(1)])
    batch = windows.complete(HALL)
    windows.add([make_message(2)])
    assert [(one.batch, one.count) for one in windows.stored()] == [(batch, 1), (0, 1)]
    windows.forget(HALL, batch)
    assert [(one.batch, one.count) for one in windows.stored()] == [(0, 1)]
    assert windows.read(HALL, batch) == []


@pytest.mark.parametrize("damage", ["text = 'text 9'", "name = 'm9'", "received = 9"])
def test_a_message_that_the_disk_changed_is_left_out(
    windows: Windows, database: Database, damage: str
) -> None:
    windows.add([make_message(number) for number in range(1, 4)])
    flip(database, f"UPDATE windows SET {damage} WHERE name = 'm2'")
    batch = windows.complete(HALL)
    assert [one.text for one in windows.read(HALL, batch)] == ["text 1", "text 3"]
    assert windows.count(HALL, batch) == 3
    assert database.damage == "The disk changed 1 window message in the journal; look at this node's disk."


def test_a_redelivery_is_gathered_once_also_after_its_digest(windows: Windows) -> None:
    windows.add([make_message(1)])
    assert windows.add([make_message(1, is_again=True)]) == [False]
    windows.forget(HALL, windows.complete(HALL))
    assert windows.add([make_message(1, is_again=True)]) == [False]
    assert windows.stored() == []


def publish_twice(windows: Windows, *in_flight: bytes) -> None:
    """Publishes the open window, and one after it."""
    windows.forget(HALL, windows.complete(HALL), in_flight)
    windows.add([make_message(9)])
    windows.forget(HALL, windows.complete(HALL), in_flight)


def test_a_message_whose_acknowledgement_may_be_lost_is_known_after_several_digests(
    windows: Windows, clock: FakeClock
) -> None:
    windows.add([make_message(1)])
    publish_twice(windows)
    assert windows.add([make_message(1, is_again=True)]) == [False]
    clock.now += LOST_ACK_S + 1
    publish_twice(windows)
    assert windows.add([make_message(1, is_again=True)]) == [True]


def test_a_message_that_another_route_still_works_on_is_known_after_several_digests(
    windows: Windows, database: Database, clock: FakeClock
) -> None:
    spool = Spool(database, limit_bytes=1 << 20)
    spooled = spool.add([(make_delivery(), make_key(2))])[0]
    again = [
        make_message(number, key=reader_key(make_key(number), HALL[0]), is_again=True) for number in (1, 2)
    ]
    assert windows.add(again) == [True, True]
    clock.now += LOST_ACK_S + 1
    publish_twice(windows, make_key(1))
    assert windows.add(again) == [False, False], "the first is in flight, the second is in the spool"
    spool.remove(spooled)
    publish_twice(windows)
    assert windows.add(again) == [True, True], "nobody sends them again, so their keys are forgotten"


def test_another_message_with_a_packet_identifier_that_is_in_use_again_counts(windows: Windows) -> None:
    windows.add([make_message(1)])
    assert windows.add([make_message(1)]) == [True]
    assert windows.add([make_message(1, is_again=True)]) == [False]
    assert windows.stored()[0].count == 2


def test_a_message_whose_key_was_dropped_makes_no_redelivery(windows: Windows) -> None:
    windows.add([make_message(1)])
    windows.forget_key(make_key(1))
    assert windows.add([make_message(1, is_again=True)]) == [True]


def test_messages_without_a_key_all_count(windows: Windows) -> None:
    assert windows.add([make_message(1, key=None), make_message(1, key=None)]) == [True, True]


def test_what_is_forgotten_makes_room(windows: Windows, database: Database, clock: FakeClock) -> None:
    used = []
    for number in range(12):
        clock.now += LOST_ACK_S
        windows.add([make_message(10 * number + one, text="x" * 900) for one in range(10)])
        windows.forget(HALL, windows.complete(HALL))
        used.append(database.used_bytes)
    assert max(used[4:]) <= max(used[:4])


def test_a_route_can_be_forgotten(windows: Windows) -> None:
    windows.add([make_message(1), make_message(2, window=("other", "x"))])
    windows.forget_route("digest")
    assert [one.window for one in windows.stored()] == [("other", "x")]


def test_a_disk_that_refuses_says_so_and_nothing_is_half_there(windows: Windows, database: Database) -> None:
    windows.add([make_message(1)])
    database.opened.execute("PRAGMA query_only = ON")
    with pytest.raises(JournalError):
        windows.add([make_message(2), make_message(3)])
    with pytest.raises(JournalError):
        windows.add([make_message(2)])  # at once: it is left alone for a moment
    with pytest.raises(JournalError):
        windows.complete(HALL)
    database.opened.execute("PRAGMA query_only = OFF")
    assert [one.count for one in windows.stored()] == [1]

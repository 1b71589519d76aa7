from __future__ import annotations

from dataclasses import replace

import pytest

from edgeslm.errors import JournalError
from edgeslm.storage.database import Database
from edgeslm.storage.spool import Damaged, Spool, Spooled
from tests.support.disks import flip
from tests.support.fakes import FakeClock, make_delivery

KEY = b"k" * 16


@pytest.fixture
def spool(database: Database) -> Spool:
    return Spool(database, limit_bytes=1_000_000)


def test_the_spool_keeps_messages_in_order_until_they_are_answered(
    spool: Spool, database: Database, clock: FakeClock
) -> None:
    first = make_delivery(b"one", response_topic="r", correlation=b"c", identifiers=(3, 4))
    second = make_delivery(b"two", mid=8, retain=True)
    assert spool.add([(first, KEY), (second, None)]) == [1, 2]
    database.close()
    database.open()
    assert len(spool) == 2
    found = spool.next(0)
    assert isinstance(found, Spooled) and (found.id, found.key) == (1, KEY)
    assert found.delivery == replace(first, qos=0, dup=True, generation=0, mid=1, received_at=clock.now)
    found = spool.next(1)
    assert isinstance(found, Spooled) and (found.key, found.delivery.payload, found.delivery.retain) == (
        None,
        b"two",
        True,
    )
    assert spool.next(2) is None
    spool.remove(1)
    found = spool.next(0)
    assert found is not None and found.id == 2


def test_a_number_of_the_spool_is_never_used_again(spool: Spool) -> None:
    spool.add([(make_delivery(), KEY)])
    spool.remove(1)
    assert spool.add([(make_delivery(), KEY)]) == [2]


def test_a_redelivery_is_spooled_once_and_another_message_is_not_taken_for_one(spool: Spool) -> None:
    assert spool.add([(make_delivery(), KEY)]) == [1]
    assert spool.add([(make_delivery(dup=True), KEY)]) == [1]
    assert spool.add([(make_delivery(), KEY)]) == [2], "the packet identifier was in use again"
    assert len(spool) == 2


def test_what_is_left_of_a_message_s_life_counts_in_the_spool(spool: Spool, clock: FakeClock) -> None:
    spool.add([(make_delivery(expiry_s=30), KEY), (make_delivery(expiry_s=5), None)])
    clock.now += 20
    lives = [found.delivery.expiry_s for number in (0, 1) if isinstance(found := spool.next(number), Spooled)]
    assert lives == [10, 0]


def test_a_full_spool_leaves_messages_to_the_broker(database: Database) -> None:
    spool = Spool(database, limit_bytes=100_000)
    with pytest.raises(JournalError, match="limit"):
        for _ in range(20):
            spool.add([(make_delivery(b"x" * 10_000), None)])


@pytest.mark.parametrize(
    "damage",
    [
        "topic = CAST(x'ff' AS TEXT)",
        "identifiers = '['",
        "expiry_s = 'x'",
        "correlation = x'00'",
        "response_topic = 'another'",
        "payload = x'00'",
        "retain = 1",
    ],
)
def test_a_message_that_the_disk_changed_is_damaged_and_the_others_are_not(
    spool: Spool, database: Database, damage: str
) -> None:
    spool.add([(make_delivery(text, expiry_s=9), None) for text in (b"one", b"two", b"three")])
    flip(database, f"UPDATE spool SET {damage} WHERE id < 3")
    found = [spool.next(number) for number in range(3)]
    assert [type(one) for one in found] == [Damaged, Damaged, Spooled]
    assert isinstance(found[2], Spooled) and found[2].delivery.payload == b"three"
    assert database.damage == "The disk changed 2 waiting messages in the journal; look at this node's disk."
    assert spool.next(3) is None


@pytest.mark.parametrize("damage", ["topic = CAST(x'ff' AS TEXT), identifiers = '['", "expiry_s = 'x'"])
def test_a_message_of_an_earlier_version_has_no_checksum(
    spool: Spool, database: Database, damage: str
) -> None:
    spool.add([(make_delivery(text, expiry_s=9), None) for text in (b"one", b"two")])
    database.write("DELETE FROM checksums")
    database.write("UPDATE spool SET payload = x'00'")
    database.write(f"UPDATE spool SET {damage} WHERE id = 1")
    assert isinstance(spool.next(0), Damaged)
    found = spool.next(1)
    assert isinstance(found, Spooled) and found.delivery.payload == b"\0"


def test_a_damaged_message_is_named_by_what_is_left_of_it(spool: Spool, database: Database) -> None:
    deliveries = [
        make_delivery(b'{"id": "7", "input": "a"}', response_topic="to"),
        make_delivery(b"plain", correlation=b"\x01\x02"),
    ]
    spool.add([(one, None) for one in deliveries])
    flip(database, "UPDATE spool SET size = size + 1")
    topic = deliveries[0].topic
    assert [spool.next(number) for number in range(2)] == [
        Damaged(1, "7", topic, "to"),
        Damaged(2, "0102", topic, ""),
    ]


def test_an_answered_message_that_could_not_be_removed_is_removed_later(
    spool: Spool, database: Database, clock: FakeClock
) -> None:
    spool.add([(make_delivery(), KEY), (make_delivery(b"two", mid=8), None)])
    database.opened.execute("PRAGMA query_only = ON")
    spool.remove(1)
    database.opened.execute("PRAGMA query_only = OFF")
    assert len(spool) == 2
    spool.retry()
    assert len(spool) == 2, "the disk rests after a failure"
    clock.now += 10
    spool.retry()
    assert [found.id for found in [spool.next(0)] if found] == [2]

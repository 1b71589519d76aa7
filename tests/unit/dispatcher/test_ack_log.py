from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from edgeslm.dispatcher.ack_log import Answered, encode_keys, name_of, parse_keys
from tests.support.fakes import make_delivery, make_key


def test_what_is_answered_outlives_the_process_and_the_oldest_make_room(tmp_path: Path) -> None:
    file = tmp_path / "answered"
    answered = Answered(file, 4)
    answered.add(make_key(number) for number in range(6))
    answered.add([make_key(5)])
    assert [make_key(number) in answered for number in range(6)] == [False, False, True, True, True, True]
    answered.discard(make_key(3))
    # not closed: it is killed
    again = Answered(file, 4)
    assert set(again) == {make_key(2), make_key(4), make_key(5)}
    again.clear()
    assert not set(again) and not set(Answered(file, 4)), "in the file too"
    again.close()


def test_without_a_file_it_is_in_memory_alone(tmp_path: Path) -> None:
    answered = Answered(tmp_path / "none" / "answered", 2)
    answered.add(make_key(number) for number in range(3))
    assert set(answered) == {make_key(1), make_key(2)}
    answered.close()


def test_a_message_has_the_same_name_whoever_gets_it() -> None:
    first = make_delivery(b"x", mid=7)
    assert name_of(first) == name_of(make_delivery(b"x", mid=7, dup=True, generation=9))
    assert name_of(first) != name_of(make_delivery(b"x", mid=8))
    assert name_of(first) != name_of(make_delivery(b"x", mid=7, correlation=b"1")), "the text came again"


@given(st.binary(max_size=100))
def test_a_list_of_keys_is_read_as_it_was_written(payload: bytes) -> None:
    keys = parse_keys(payload)
    assert all(len(key) == 16 for key in keys)
    assert parse_keys(encode_keys(keys)) == keys

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.tasks.points import make_points, mask

FAILED = "Jan  5 10:20:0{} host sshd[12{}]: Failed password for {} from 10.0.0.{} port 22 ssh2"


def said(messages: list[str]) -> dict[str, int]:
    return {point.text: point.count for point in make_points(messages)}


def test_what_changes_from_message_to_message_is_hidden() -> None:
    users = ("root", "admin", "bob", "al")
    messages = [FAILED.format(number, number, user, number) for number, user in enumerate(users)]
    assert said([*messages, "Server listening"]) == {
        "* host sshd[*]: Failed password for * from * port 22 ssh2": 4,
        "Server listening": 1,
    }


def test_a_few_different_words_make_different_points() -> None:
    messages = [f"Spindle {number % 4} is {state}" for number, state in enumerate(["hot", "cold", "hot"] * 4)]
    assert said(messages) == {"Spindle * is hot": 8, "Spindle * is cold": 4}


def test_messages_that_only_have_as_many_words_are_not_alike() -> None:
    assert said(["alpha beta gamma", "delta eta theta", "one two three"]) == {
        "alpha beta gamma": 1,
        "delta eta theta": 1,
        "one two three": 1,
    }


def test_what_all_messages_share_is_shown() -> None:
    assert said(["Line 4 stopped at 10:15", "Line 4 stopped at 11:20"]) == {"Line 4 stopped at *": 2}
    assert said(["Line 4 stopped"]) == {"Line 4 stopped": 1}


@pytest.mark.parametrize(
    ("word", "masked"),
    [
        ("sshd[123]:", "sshd[*]:"),
        ("10.0.0.1:22", "*"),
        ("fe80::1", "*"),
        ("00:1a:2b:3c:4d:5e", "*"),
        ("2026-11-26T10:00:00.5Z", "*"),
        ("me@box.example", "*"),
        ("[Fri Feb 28 10:20:01 2014]", "*"),
        ("https://a.b/c?d", "*"),
        ("550e8400-e29b-41d4-a716-446655440000", "*"),
        ("0xdeadBEEF", "*"),
        ("3f2a9c01d4", "*"),
        ('{"temp":92.5,"unit":"C"}', '{"temp":*,"unit":*}'),
        ("user='bob'", "user=*"),
        ("can't", "can't"),
        ("-7.5", "*"),
        ("feedback", "feedback"),
    ],
)
def test_masks(word: str, masked: str) -> None:
    assert mask(word) == masked


def test_a_quoted_text_is_one_word() -> None:
    messages = ['user "bob smith" left', 'user "al" left', 'user "c d e" left']
    assert said(messages) == {"user * left": 3}


def test_the_tail_of_a_long_message_does_not_count() -> None:
    assert len(make_points(["a " * 50 + end for end in ("x", "y", "z z z")])) == 1


def test_an_empty_message_is_a_message() -> None:
    assert sum(point.count for point in make_points(["", " ", "a"])) == 3


@pytest.mark.parametrize("part", ["a", "a-", "a.@", "a+", "aB3=", "ab:", '"a'])
def test_a_word_of_a_hundred_thousand_characters_is_a_word(part: str) -> None:
    """It took minutes, in the process that holds the connection to the broker."""
    assert make_points([part * (100_000 // len(part))] * 2)[0].count == 2


lines = st.lists(
    st.builds(
        " ".join,
        st.lists(
            st.sampled_from(["press", "hot", "cold", "7", "8", "10.0.0.1", "'a b'", "is", "in"]), max_size=6
        ),
    ),
    max_size=40,
)


@given(lines, st.randoms(use_true_random=False))
def test_every_message_is_in_one_point_that_fits_it_in_any_order(
    messages: list[str], chance: random.Random
) -> None:
    points = make_points(messages)
    assert sorted(number for point in points for number in point.numbers) == list(range(len(messages)))
    for point in points:
        pattern = re.compile(re.escape(point.text).replace(r"\*", ".+?"))
        assert all(pattern.fullmatch(" ".join(messages[number].split())) for number in point.numbers)
    shuffled = chance.sample(messages, len(messages))
    assert sorted((point.text, point.count) for point in make_points(shuffled)) == sorted(
        (point.text, point.count) for point in points
    )


@given(st.lists(st.text(max_size=80), max_size=8))
def test_any_text_is_a_message(messages: list[str]) -> None:
    assert sum(point.count for point in make_points(messages)) == len(messages)

"""Regular expressions of schemas: what they match, what is refused, and that no text takes long."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeslm.config.patterns import PatternError, compiled_size, make_matcher

EVIL = ["^(a|a)*$", r"^(\w+\s?)*$", "^(a*)*$", "(.*a){25}$", "(a?){30}a{30}", "(x+x+)+y", "^((ab)*)*c$"]


@pytest.mark.parametrize("pattern", EVIL)
def test_no_text_takes_long(pattern: str) -> None:
    matches = make_matcher(pattern)
    began = time.thread_time()
    for text in ("a" * 100_000 + "!", "x" * 100_000, "ab" * 50_000, "a b" * 30_000 + "\n!"):
        matches(text)
    assert time.thread_time() - began < 10


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("(?!x)a", "look-around"),
        (r"(a)\1", "backreferences"),
        ("(", "unclosed group"),
        ("a{1000}{1000}", "too large"),
        (r"\w{10000}", "too large"),
        (r"\Z", "unrecognized escape"),
        ("a" * 1_000_000 + "(", "unclosed group"),
    ],
)
def test_what_cant_be_matched_is_refused_with_a_reason(pattern: str, why: str) -> None:
    with pytest.raises(PatternError, match=why) as caught:
        make_matcher(pattern)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


PIECES = st.recursive(
    st.sampled_from(["a", "b", "[ab]", "[^a]", ".", r"\d", r"\.", "é", "[]a]", r"[\]b-d]"]),
    lambda inner: (
        st.builds("({}|{})".format, inner, inner)
        | st.builds("(?:{}{}){{1,3}}".format, inner, inner)
        | st.builds("{}{}".format, inner, inner)
        | st.builds("(?:{}){}".format, inner, st.sampled_from(["*", "+", "?", "{2}", "{0,2}"]))
    ),
    max_leaves=6,
)


@settings(deadline=None)
@given(PIECES, st.booleans(), st.text("abcé1.]", max_size=8))
def test_it_matches_what_python_matches(pattern: str, is_whole: bool, text: str) -> None:
    pattern = f"^(?:{pattern})$" if is_whole else pattern
    assert make_matcher(pattern)(text) == (re.search(pattern, text) is not None)


@pytest.mark.parametrize(
    ("pattern", "size"),
    [
        ("abc", 3),
        ("^a{10}$", 10),
        ("(ab){10}", 20),
        ("((ab){10}c){1,10}", 210),
        ("(?:ab|c)*{", 4),
        (r"\p{L}{3}", 1500),
        (r"[\w.-]{2}", 1026),
        (r"[]a[b]]{2}", 30),
        (r"\x{61}\{a{2,}", 4),
        ("", 0),
        ("a{0}", 1),
        (")(", 1),
    ],
)
def test_repetitions_count_as_if_they_were_written_out(pattern: str, size: int) -> None:
    assert compiled_size(pattern) == size


@settings(deadline=None)
@given(st.text() | st.text(r"ab(){}[]\wp,19^?|*-", max_size=40))
def test_any_text_has_a_size_and_is_a_pattern_or_none(pattern: str) -> None:
    assert compiled_size(pattern) >= 0
    try:
        make_matcher(pattern)("a")
    except PatternError as error:
        assert str(error)

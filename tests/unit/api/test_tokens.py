from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.api.tokens import ApiClient, digest_of, parse_tokens
from edgeslm.errors import ConfigError

TOKEN = "0123456789abcdef"


def test_a_line_for_each_client() -> None:
    text = f"# clients\n\nnode-red {TOKEN}\nha  {TOKEN}2 tasks=assist,model:small\n"
    assert parse_tokens(text, "f") == [
        ApiClient("node-red", digest_of(TOKEN)),
        ApiClient("ha", digest_of(TOKEN + "2"), ("assist", "model:small")),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "f has no line NAME TOKEN"),
        ("# nothing\n", "f has no line"),
        (TOKEN, "line 1: must be NAME TOKEN"),
        (f"a {TOKEN} b", "line 1: must be NAME TOKEN"),
        (f"a {TOKEN} tasks=b c", "line 1: must be"),
        ("a short", "line 1: the token needs 16 characters"),
        (f"anonymous {TOKEN}", "line 1: the name must have"),
        (f"-a {TOKEN}", "line 1: the name must have"),
        (f"a {TOKEN}\na {TOKEN}2", "line 2: its name or its token"),
        (f"a {TOKEN}\nb {TOKEN}", "line 2: its name or its token"),
    ],
)
def test_what_is_no_file_of_tokens(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_tokens(text, "f")
    assert words in raised.value.problems[0]
    assert TOKEN not in str(raised.value)


@given(st.text(max_size=200))
def test_any_text_is_clients_or_an_error(text: str) -> None:
    try:
        assert parse_tokens(text, "f")
    except ConfigError as error:
        assert error.problems

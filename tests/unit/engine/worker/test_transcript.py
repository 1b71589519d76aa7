from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from edgeslm.engine.worker.transcript import Transcript
from tests.support.fakes import write_chat_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Each byte is a token."""
    folder = write_chat_tokenizer(tmp_path_factory.mktemp("bytes"))
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def play(tokenizer: Tokenizer, said: str, stop: list[str]) -> tuple[str, list[str], bool]:
    """The text, the pieces that were sent, and whether a stop string ended it."""
    pieces: list[str] = []
    transcript = Transcript(tokenizer, stop, pieces.append)
    stopped = any(transcript.add(token) for token in tokenizer.encode(said).ids)
    if not stopped:
        transcript.finish()
    return transcript.text, pieces, stopped


@pytest.mark.parametrize(
    ("said", "stop", "text", "stopped"),
    [
        ("one two", [], "one two", False),
        ("one\ntwo", ["\n"], "one", True),
        ("one END two", ["END"], "one ", True),
        ("END", ["END"], "", True),
        ("EEND", ["END"], "E", True),
        ("one EN", ["END"], "one EN", False),
        ("abX", ["abc", "bX"], "a", True),
        ("abc", ["c", "bc"], "a", True),
        ("aab", ["ab", "aab"], "", True),
        ("läuft über", ["ü"], "läuft ", True),
        ("x", [""], "x", False),
    ],
)
def test_ends_before_the_first_stop_string(
    tokenizer: Tokenizer, said: str, stop: list[str], text: str, stopped: bool
) -> None:
    found, pieces, ended = play(tokenizer, said, stop)
    assert (found, ended) == (text, stopped)
    assert "".join(pieces) == text


def test_what_may_become_a_stop_string_is_held_back(tokenizer: Tokenizer) -> None:
    pieces: list[str] = []
    transcript = Transcript(tokenizer, ["END"], pieces.append)
    for token in tokenizer.encode("aENxE").ids:
        transcript.add(token)
    assert pieces == ["a", "ENx"]
    transcript.finish()
    assert pieces == ["a", "ENx", "E"]


def test_half_a_character_is_held_back(tokenizer: Tokenizer) -> None:
    pieces: list[str] = []
    transcript = Transcript(tokenizer, [], pieces.append)
    for token in tokenizer.encode("aé😀").ids[:-1]:
        transcript.add(token)
    transcript.finish()
    assert pieces == ["a", "é"]
    assert transcript.count == 6


@given(
    said=st.text("abé😀\n", max_size=30),
    stop=st.lists(st.text("abé\n", min_size=1, max_size=4), max_size=3),
)
def test_pieces_join_to_the_text_and_the_stop_string_is_not_in_it(
    tokenizer: Tokenizer, said: str, stop: list[str]
) -> None:
    text, pieces, stopped = play(tokenizer, said, stop)
    assert "".join(pieces) == text
    assert said.startswith(text)
    assert not any(one in text for one in stop)
    assert stopped == any(one in said for one in stop)


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        ("one two", "one two"),
        ("Sure. <tool_call>{}", "Sure. "),
        ("<tool_call>{END}", ""),
        ("one <tool", "one <tool"),
        ('{"name": "a"}', ""),
        ('so {"name": "a"}', 'so {"name": "a"}'),
        ("one <|im_end|>", "one <|im_end|>"),
    ],
)
def test_nothing_is_sent_from_the_beginning_of_a_call_on(tokenizer: Tokenizer, said: str, sent: str) -> None:
    pieces: list[str] = []
    transcript = Transcript(tokenizer, ["END"], pieces.append, ("<tool_call>",), ('{"name": "',))
    assert not any(transcript.add(token) for token in tokenizer.encode(said).ids)
    transcript.finish()
    assert (transcript.text, "".join(pieces)) == (said, sent)


def test_words_of_a_call_within_a_text_dont_hide_a_stop_string(tokenizer: Tokenizer) -> None:
    transcript = Transcript(tokenizer, ["END"], None, ("<tool_call>",), ('{"name": "',))
    assert any(transcript.add(token) for token in tokenizer.encode('so {"name": "END"}').ids)
    assert transcript.text == 'so {"name": "'

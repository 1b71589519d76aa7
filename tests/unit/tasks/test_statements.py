from __future__ import annotations

import pytest

from edgeslm.tasks.statements import Check, SentenceStream, Statement, extract, join, name_of, without_rest
from edgeslm.tasks.support import Evidence

TEXT = "Spindle 3 overheated. Belt 2 tore."


def make_check(**fields: object) -> Check:
    return Check(Evidence(["Spindle 3 overheated.", "Belt 2 tore."]), ["one", "two"], **fields)  # type: ignore[arg-type]


def test_only_what_a_source_says_passes_and_names_it() -> None:
    said = list(make_check().statements("Belt 2 tore. Belt 9 tore. Spindle 3 has overheated."))
    assert said == [Statement("Belt 2 tore.", ("two",)), Statement("Spindle 3 has overheated.", ("one",))]
    assert join(said) == "Belt 2 tore. Spindle 3 has overheated."


def test_a_sentence_counts_once() -> None:
    assert len(list(make_check().statements("Belt 2 tore. BELT 2 tore. Belt 2  tore."))) == 1


def test_several_sources_may_say_it_in_common() -> None:
    sentence = "Belt 2 tore and Spindle 3 overheated."
    assert not list(make_check().statements(sentence))
    (said,) = make_check(together=2).statements(sentence)
    assert said.sources == ("one", "two")
    assert not list(make_check(together=2, among=(1,)).statements(sentence))


def test_everything_passes_where_nobody_asks() -> None:
    (said,) = make_check(is_strict=False).statements("Tout va bien.")
    assert said.sources == ("one", "two")


def test_lists_stay_lists() -> None:
    assert join(list(make_check().statements("- Belt 2 tore\n- Spindle 3 overheated"))) == (
        "- Belt 2 tore\n- Spindle 3 overheated"
    )


def test_an_extract_is_its_own_source() -> None:
    (said,) = extract("Oh. The  press\noverheated today.", most=1, offset=100)
    assert said == Statement("The press overheated today.", (name_of(104, 132),), is_extract=True)
    assert name_of(104, 132) == "input[104:132]"


def test_extracts_are_no_longer_than_wanted() -> None:
    text = "The old press in hall 3 overheated today. The old press was then stopped."
    assert [one.text for one in extract(text, limit=60)] == ["The old press in hall 3 overheated today."]
    (cut,) = extract(text, limit=25)
    assert cut.text == "The old press in hall 3" and cut.sources == ("input[0:23]",)


@pytest.mark.parametrize(
    ("text", "reason", "kept"),
    [
        ("One is here. Two is", "length", "One is here."),
        ("One is here. Two is", "stop", "One is here. Two is"),
        ("One is here. Two is.", "length", "One is here. Two is."),
        ("One is", "length", "One is"),
    ],
)
def test_a_sentence_that_was_cut_off_goes(text: str, reason: str, kept: str) -> None:
    assert without_rest(text, reason) == kept


def test_a_stream_says_what_the_result_says() -> None:
    pieces: list[str] = []
    stream = SentenceStream(make_check(), pieces.append)
    text = " Belt 2 tore. Belt 9 tore.\nSpindle 3 overheated. Belt"
    for char in text:
        stream.feed(char)
    assert pieces == ["Belt 2 tore.", "\nSpindle 3 overheated."]
    stream.finish("".join(pieces))
    assert len(pieces) == 2

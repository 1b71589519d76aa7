from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgeslm.knowledge.documents.sentences import split_sentences
from edgeslm.tasks.support import Evidence, Support, content_words

PRESS = (
    "The press in hall 3 has to be oiled every 200 hours. Spindle 3 overheated at 92.5 degrees; Maria Keller "
    "stopped it. Do not use water. It comes with 10GB of memory, command-line tools and sources.list."
)


def supported(sentence: str, sources: Sequence[str]) -> Support:
    return Evidence(sources).support(sentence)


@pytest.mark.parametrize(
    "sentence",
    [
        "The press must be oiled every 200 hours.",
        "Oiling presses: every 200 hours",
        "Spindle 3 overheated.",
        "Maria Keller stopped the spindle at 92.5 degrees.",
        "Water must not be used.",
        "Don't use water!",
        "It has 10 GB of memory.",
        "It has a command line tool.",
        "See sources.list in Hall 3.",
    ],
)
def test_what_the_source_says_in_other_words_is_supported(sentence: str) -> None:
    support = supported(sentence, [PRESS])
    assert support and support.sources == (0,)


@pytest.mark.parametrize(
    ("sentence", "missing"),
    [
        ("Oil the press every 300 hours.", "300"),
        ("The press must be oiled every two hours.", "two"),
        ("So Spindle 4 overheated.", "4"),
        ("The spindle was stopped by Peter Keller.", "Peter"),
        ("Spindle X3b overheated.", "X3b"),
        ("See sources.conf in hall 3.", "sources.conf"),
        ("The press must not be oiled every day.", "day"),
        ("Belts and rollers of a lathe are worn.", "Belts"),
    ],
)
def test_a_name_a_number_or_most_words_that_the_source_lacks(sentence: str, missing: str) -> None:
    support = supported(sentence, [PRESS])
    assert not support
    assert missing in support.missing


def test_a_number_must_stand_near_what_it_counts() -> None:
    filler = "This manual explains many things about machines and their care in plain and simple language. "
    source = "There are 12 presses. " + filler * 3 + "The hall has lathes."
    assert supported("There are 12 presses.", [source])
    assert not supported("The hall has 12 lathes.", [source])


def test_what_the_source_denies_is_not_supported() -> None:
    assert not supported("Water should be used.", ["Oil it. Do not use water."])
    assert not supported("The press is hot.", ["The press isn't hot."])
    assert supported("Oil it daily.", ["Oil it daily. Do not use water."])


def test_numbers_are_alike_however_they_are_written() -> None:
    assert supported("Three of 1000 presses failed.", ["3 of 1,000 presses failed."])
    assert not supported("The version is 3.1.", ["The version is 3.13."])


def test_names_are_compared_whole() -> None:
    assert not supported("The SmolLM2 model runs.", ["The SmolLM3 model runs."])
    assert supported("The GPUs run.", ["A GPU runs."])
    assert supported("It runs Debian's kernel.", ["Debian has a kernel that it runs."])


def test_one_source_must_say_it_all_unless_several_may() -> None:
    evidence = Evidence(["Spindle 3 overheated.", "Belt 2 tore.", "Nothing else happened."])
    sentence = "Spindle 3 overheated and Belt 2 tore."
    assert not evidence.support(sentence)
    both = evidence.support(sentence, together=3)
    assert both and sorted(both.sources) == [0, 1] and both.share == 1.0
    assert not evidence.support("Belt 2 tore.", among=(0, 2))


def test_the_best_source_is_named() -> None:
    sources = ["The press is old.", "The press is oiled by hand every week.", "The press is oiled by hand."]
    assert supported("The press is oiled by hand every week.", sources).sources == (1,)


@pytest.mark.parametrize("sentence", ["", "...", "It is what it is.", "a", "92.5", "200 3.", "Not 10!"])
def test_a_sentence_without_content_is_not_supported(sentence: str) -> None:
    assert not supported(sentence, [PRESS])
    assert not supported(sentence, [])


def test_scripts_without_blanks_are_compared_by_character() -> None:
    assert supported("机器过热", ["三号机器今天过热了。"])
    assert not supported("机器正常", ["三号机器今天过热了。"])


@given(st.text(max_size=300))
@example("A/0.0")
def test_every_text_with_content_supports_itself(text: str) -> None:
    sentences = [text[start:end] for start, end in split_sentences(text)]
    for sentence in sentences:
        support = supported(sentence, [sentence])
        assert support.share == (1.0 if content_words(sentence) else 0.0)
        assert not support.missing


VALVES = (
    "Die Sicherheitsventile der Presse werden jedes Jahr geprüft. Das Gehäuse darf nicht geöffnet werden, "
    "solange die Pumpe läuft."
)
BOMBA = (
    "Las válvulas de la bomba se comprueban cada año. No abra la carcasa mientras la bomba está en marcha."
)


@pytest.mark.parametrize(
    ("sentence", "source"),
    [
        ("Das Sicherheitsventil einer Presse wird jedes Jahr geprüft.", VALVES),
        ("Die Gehäuse dürfen nicht geöffnet werden, wenn die Pumpen laufen.", VALVES),
        ("Se comprueba la válvula de la bomba cada año.", BOMBA),
        ("No se debe abrir la carcasa de una bomba en marcha.", BOMBA),
    ],
)
def test_a_sentence_in_another_language_is_supported_in_other_forms(sentence: str, source: str) -> None:
    assert supported(sentence, [source])


@pytest.mark.parametrize(
    ("sentence", "source"),
    [
        ("Die Filter der Presse werden jede Woche getauscht.", VALVES),
        ("Das Gehäuse darf geöffnet werden, solange die Pumpe läuft.", VALVES),
        ("Los filtros del motor se cambian cada semana.", BOMBA),
        ("Abra la carcasa mientras la bomba está en marcha.", BOMBA),
    ],
)
def test_a_sentence_in_another_language_that_says_something_else_is_not(sentence: str, source: str) -> None:
    assert not supported(sentence, [source])


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("Wie oft werden die Ventile der Presse geprüft?", ["oft", "ventil", "press", "gepruf"]),
        ("¿Cuándo se comprueban las válvulas?", ["compru", "valvul"]),
        ("How often are the valves checked?", ["often", "valv", "check"]),
        ("Ventile prüfen", ["ventil", "prüfen"]),  # too short to tell
    ],
)
def test_content_words_are_those_of_the_texts_language(question: str, words: list[str]) -> None:
    assert content_words(question) == words

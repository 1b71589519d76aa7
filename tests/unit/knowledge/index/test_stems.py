"""Stems by language, and the parts of compounds."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.knowledge.documents.languages import STEMMERS
from edgeslm.knowledge.index import stems
from edgeslm.knowledge.index.stems import CompoundSplitter, count_stems, stem, stem_text


def parts(text: str, known: str, language: str = "de") -> list[str]:
    return CompoundSplitter(language, count_stems([known], language).__getitem__).parts(text)


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("de", ("Ventile", "ventilen", "Ventils")),
        ("de", ("prüfen", "prüfe", "PRÜFEN")),
        ("es", ("válvula", "válvulas", "Válvulas")),
        ("es", ("instalado", "instalar", "instalan")),
        ("fr", ("vanne", "vannes")),
    ],
)
def test_forms_of_a_word_have_one_stem(language: str, words: tuple[str, ...]) -> None:
    assert len({stem(word, language) for word in words}) == 1


def test_only_words_are_replaced() -> None:
    assert stem_text("Die Ventile: V-12, mosquitto_pub!", "de") == "die ventil: v-12, mosquitto_pub!"


def test_a_compound_has_the_parts_that_are_words_of_the_collection() -> None:
    assert parts("Festplattenspeicher", "Festplatten und Speicher") == ["festplatt", "speich"]
    assert parts("Sicherheitsventil", "Sicherheit, Ventile") == ["sich", "ventil"]
    assert parts("Sicherheitsventil", "Sicherheit, Pumpen") == []


def test_the_parts_of_parts_are_found() -> None:
    known = "die Festplatte, eine Platte, fest, im Speicher"
    assert parts("Festplattenspeicher", known) == ["festplatt", "fest", "platt", "speich"]


def test_the_more_frequent_parts_are_chosen() -> None:
    assert parts("Druckerzeugnis", "Drucker Zeugnis Druck Erzeugnis Druck Erzeugnis") == [
        "druck",
        "erzeugnis",
    ]


@pytest.mark.parametrize("word", ["Ventil", "wodurch", "x" * 1000, "Hausboot" * 20])
def test_a_short_word_a_function_word_and_a_run_of_letters_are_not_split(word: str) -> None:
    assert parts(word, "Ventil Haus Boot hausboot durch x") == []


def test_a_document_of_random_words_takes_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """128 kB of words of 60 letters took 18 s within a transaction."""
    monkeypatch.setattr(stems, "MOST_SPLITS", 50)
    asked: list[str] = []

    def frequency(found: str) -> int:
        asked.append(found)
        return 0

    splitter = CompoundSplitter("de", frequency)
    assert splitter.parts(" ".join(f"{letter * 30}" for letter in "abcdefgh")) == []
    assert len(asked) < 50 + 30


def test_words_of_a_language_without_compounds_are_not_split() -> None:
    assert parts("telecomunicaciones", "tele comunicaciones telecomunicacion", "es") == []


@pytest.mark.parametrize("language", STEMMERS)
@given(text=st.text(max_size=60))
def test_any_text_can_be_stemmed_and_split(language: str, text: str) -> None:
    stemmed = stem_text(text, language)
    assert stemmed == stem_text(text, language)
    found = CompoundSplitter(language, Counter({stem(text[:8], language): 1}).__getitem__).parts(text)
    assert all(found)

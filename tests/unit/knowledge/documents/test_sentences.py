from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.knowledge.documents.sentences import split_sentences


def test_sentences_have_their_places() -> None:
    text = "E.g. this is v1.2 of it. Next one!\n\n- item one\n- item two\n\n  A wrapped\nline"
    assert [text[start:end] for start, end in split_sentences(text)] == [
        "E.g. this is v1.2 of it.",
        "Next one!",
        "- item one",
        "- item two",
        "A wrapped\nline",
    ]


@pytest.mark.parametrize(
    "sentences",
    [
        ("Пресс смазывают раз в неделю.", "Это важно!"),
        ("Öl wechseln.", "Über 90 °C abschalten."),
        ("Z. B. Pumpen, d.h. Motoren bzw. Ventile, ca. Ende 2024.", "Vgl. Abb. C und Nr. A4."),
        ("Die Wartung war am 3. Oktober 2023.", "Sie dauerte bis zum 15. März."),
        ("»Öffnen!«", "„Gut.“", "Er ging."),
        ("¿Qué hago?", "¡Pare la bomba!", "¿Y luego?", "«Nada.»"),
        ("La Sra. Gómez, p. ej. María, lee la pág. A3.", "Uds. Esperan."),
        ("机器每周加油。", "温度不得超过九十度。"),
        ("真的吗？！", "他说：“停机。”", "「每周加油。」"),
        ("Пресс см. разд. 3 и стр. 4.", "Жёлтый провод ca. über 90 °C."),
    ],
)
def test_sentences_of_other_scripts(sentences: tuple[str, ...]) -> None:
    for between in (" ", "\n"):
        text = between.join(sentences)
        assert tuple(text[start:end] for start, end in split_sentences(text)) == sentences


def test_items_have_their_marks() -> None:
    text = "Do these:\n1. Switch it off. Pull the plug.\n 2) Wait.\n\n3. Open it. At 5. Then"
    assert [text[start:end] for start, end in split_sentences(text)] == [
        "Do these:",
        "1. Switch it off.",
        "Pull the plug.",
        "2) Wait.",
        "3. Open it.",
        "At 5.",
        "Then",
    ]
    assert split_sentences("So many:\n\n12.") == [(0, 8), (10, 13)]


@given(st.text(alphabet="aBж1. \n-!?“”'。」", max_size=200))
def test_sentences_are_all_of_a_text_but_blanks(text: str) -> None:
    spans = split_sentences(text)
    assert "".join("".join(text[start:end].split()) for start, end in spans) == "".join(text.split())
    assert all(start < end and text[start:end] == text[start:end].strip() for start, end in spans)
    assert spans == sorted(spans)

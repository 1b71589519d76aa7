"""The language of a document by its function words."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.config.languages import Language
from edgeslm.knowledge.documents.function_words import FUNCTION_WORDS
from edgeslm.knowledge.documents.languages import ENGLISH, STEMMERS, detect_language

TEXTS = {
    "en": "Close the valve before you open the housing, and wait until the pump has stopped.",
    "de": "Schließen Sie das Ventil, bevor Sie das Gehäuse öffnen, und warten Sie, bis die Pumpe steht.",
    "es": "Cierre la válvula antes de abrir la carcasa y espere hasta que la bomba se haya parado.",
    "fr": "Fermez la vanne avant d'ouvrir le boîtier et attendez que la pompe se soit arrêtée.",
    "it": "Chiudere la valvola prima di aprire la custodia e attendere che la pompa si sia fermata.",
    "pt": "Feche a válvula antes de abrir a caixa e espere até que a bomba não se mova mais.",
    "nl": "Sluit de klep voordat u de behuizing opent en wacht tot de pomp niet meer draait.",
    "sv": "Stäng ventilen innan du öppnar höljet och vänta till dess att pumpen inte går.",
}


@pytest.mark.parametrize(("language", "text"), TEXTS.items())
def test_a_sentence_tells_its_language(language: str, text: str) -> None:
    assert detect_language(text) == language


@pytest.mark.parametrize("text", ["", "4711;12,5;ok", "Pumpe 3 ausgefallen", "x y z " * 9])
def test_a_text_with_few_function_words_has_none(text: str) -> None:
    assert detect_language(text) is None


def test_a_long_document_is_judged_by_its_start_its_middle_and_its_end() -> None:
    assert detect_language(TEXTS["en"] * 250 + TEXTS["de"] * 2000) == "de"


def test_a_german_text_about_english_programs_is_german() -> None:
    text = "Mit »GNU Image Manipulation Program« öffnen Sie auch Dateien, die zu groß für das Fenster sind."
    assert detect_language(text) == "de"


def test_what_is_detected_can_be_stemmed() -> None:
    assert set(FUNCTION_WORDS) <= set(get_args(Language)) == {ENGLISH, *STEMMERS}


@given(st.text())
def test_any_text_has_a_known_language_or_none(text: str) -> None:
    assert detect_language(text) in (None, *FUNCTION_WORDS)

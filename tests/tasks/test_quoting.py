from __future__ import annotations

import json

from edgeslm.tasks.quoting import find_quote, quote_guide


def test_one_alternative_a_text() -> None:
    guide = quote_guide("Oil it.\nDaily.", 'Say "no".')
    first, *rules = guide.source.split("\n")
    assert guide.kind == "lark_grammar"
    assert first == "start: QUOTE_0 | QUOTE_1"
    assert rules == [
        "QUOTE_0: %regex " + json.dumps({"substring_words": "Oil it.\nDaily."}),
        "QUOTE_1: %regex " + json.dumps({"substring_words": 'Say "no".'}),
    ], "no line of a text can become one of the grammar"


def test_finds_where_a_quote_stands() -> None:
    texts = ["Oil it.", "Grease it\ndaily, then oil it."]
    assert find_quote(" it\ndaily ", texts) == (1, 7, 15)
    assert find_quote("it.", texts) == (0, 4, 7)
    assert find_quote("grease", texts) is None
    assert find_quote(" \n", texts) is None

from __future__ import annotations

import json

from edgeslm.tasks.quoting import find_quote, quote_guide


def test_no_line_of_a_text_can_become_one_of_the_grammar() -> None:
    guide = quote_guide('Oil it.\nSay "no".')
    assert guide.kind == "lark_grammar"
    assert guide.source.split("\n") == [
        "start: QUOTE",
        "QUOTE: %regex " + json.dumps({"substring_words": 'Oil it.\nSay "no".'}),
    ]


def test_finds_where_a_quote_stands() -> None:
    text = "Grease it\ndaily, then oil it."
    assert find_quote(" it\ndaily ", text) == (7, 15)
    assert find_quote("it.", text) == (26, 29)
    assert find_quote("grease", text) is None
    assert find_quote(" \n", text) is None

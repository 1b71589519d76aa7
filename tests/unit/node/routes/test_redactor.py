from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgeslm.node.routes.redactor import spread
from edgeslm.redaction.patterns import Span


def test_spans_of_joined_texts_are_spans_of_each() -> None:
    texts = ["Max", "", "to Eva"]  # Max..<>..to Eva, with two line breaks between them
    assert spread([Span(0, 3, "person"), Span(10, 13, "person")], texts) == [
        [Span(0, 3, "person")],
        [],
        [Span(3, 6, "person")],
    ]
    assert spread([Span(0, 13, "x")], texts) == [[Span(0, 3, "x")], [], [Span(0, 6, "x")]]
    assert spread([Span(3, 7, "x")], texts) == [[], [], []]


@given(st.lists(st.text("ab", max_size=5), max_size=6), st.data())
def test_each_span_covers_the_same_characters(texts: list[str], data: st.DataObject) -> None:
    joined = "\n\n".join(texts)
    start = data.draw(st.integers(0, len(joined)))
    end = data.draw(st.integers(start, len(joined)))
    found = spread([Span(start, end, "x")], texts)
    parts = (text[one.start : one.end] for text, spans in zip(texts, found, strict=True) for one in spans)
    assert "".join(parts) == joined[start:end].replace("\n", "")

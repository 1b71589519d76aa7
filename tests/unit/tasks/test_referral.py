"""Questions that go to another node with their passages, and what comes back of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edgeslm.tasks.referral import bring_back, refer

PROOF = {"id": "a1", "heading": "Care"}
"""What a citation has of its passage beside the place."""
FOUND = [
    {**PROOF, "source": "press.md", "text": "Oil it each week.", "start": 100, "end": 117},
    {**PROOF, "source": "lathe.md", "text": "Grease it each month.", "start": 7, "end": 28},
]


def answer(quote: str, start: int, source: str = "context") -> dict[str, Any]:
    cited = {"source": source, "quote": quote, "start": start, "end": start + len(quote)}
    return {"text": quote, "citations": [cited]}


def test_the_passages_are_the_context() -> None:
    assert refer(FOUND) == {"context": "Oil it each week.\n\nGrease it each month."}
    assert refer([]) == {}


def test_what_is_quoted_is_cited_where_it_stands() -> None:
    context = refer(FOUND)["context"]
    brought = bring_back(FOUND, answer("each month", context.index("each month")))
    assert brought == {
        "text": "each month",
        "citations": [{**PROOF, "source": "lathe.md", "quote": "each month", "start": 17, "end": 27}],
    }


def test_documents_of_the_other_node_stay_as_they_are() -> None:
    assert bring_back(FOUND, answer("each day", 5, "hall.md")) == answer("each day", 5, "hall.md")


def test_a_word_that_is_quoted_proves_no_sentence() -> None:
    said = answer("Oil", 0) | {"text": "Oil must never be used. Oil it each week."}
    brought = bring_back(FOUND, said)
    assert brought is not None
    assert brought["text"] == "Oil it each week."
    assert bring_back(FOUND, answer("Oil", 0) | {"text": "Oil must never be used."}) is None


@pytest.mark.parametrize(
    "given_back",
    [
        {},
        {"text": " ", "citations": []},
        {"text": "Paint it each day.", "citations": []},
        {"text": "each day", "citations": "x"},
        {"text": "each day", "citations": [None, {"source": "context"}, {"quote": 5, "start": 0}]},
        answer("each day", 7),
        answer("week.\n\nGrease", 12),  # over the end of a passage
        answer("each week", 400),
        answer("each week", -3),
    ],
)
def test_an_answer_without_proof_is_none(given_back: dict[str, Any]) -> None:
    assert bring_back(FOUND, given_back) is None


def test_own_words_are_kept_as_far_as_a_passage_supports_them() -> None:
    said = "The oil is to be changed each week. It lasts for 40 years."
    brought = bring_back(FOUND, {"text": "Oil it each week. Paint it in 1999.", "citations": []})
    assert brought == {
        "text": "Oil it each week.",
        "citations": [
            {**PROOF, "source": "press.md", "quote": "Oil it each week.", "start": 100, "end": 117}
        ],
    }
    assert bring_back(FOUND, {"text": said.replace("oil", "paint"), "citations": []}) is None


@given(st.lists(st.text(min_size=1), min_size=1, max_size=4), st.data())
def test_every_quote_of_a_passage_is_found_again(texts: list[str], data: st.DataObject) -> None:
    passages = [
        {
            "id": "",
            "heading": "",
            "source": str(number),
            "text": text,
            "start": 10 * number,
            "end": 10 * number + len(text),
        }
        for number, text in enumerate(texts)
    ]
    number = data.draw(st.integers(0, len(texts) - 1))
    begin = data.draw(st.integers(0, len(texts[number]) - 1))
    end = data.draw(st.integers(begin + 1, len(texts[number])))
    before = sum(len(text) + 2 for text in texts[:number])
    quote = texts[number][begin:end]
    assume(quote.strip())  # a text of blanks is none
    brought = bring_back(passages, answer(quote, before + begin))
    assert brought is not None
    (cited,) = brought["citations"]
    assert (cited["source"], cited["start"] - 10 * number) == (str(number), begin)

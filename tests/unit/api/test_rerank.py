from __future__ import annotations

from typing import Any

import pytest

from edgeslm.api.node import Offered
from edgeslm.api.rerank import DOCUMENT_TOKENS, read
from edgeslm.messages import NORMAL_PRIORITY

READER = Offered("model:reader", "rerank", frozenset(), {}, "model:reader")


@pytest.mark.parametrize(
    ("body", "most", "cuts", "priority"),
    [
        ({}, DOCUMENT_TOKENS, True, NORMAL_PRIORITY - 1),
        ({"max_tokens_per_doc": 4096, "truncate": None}, 4096, True, NORMAL_PRIORITY - 1),
        ({"truncate": False, "options": {"priority": 9}}, DOCUMENT_TOKENS, False, 9),
    ],
)
def test_limits_and_priority(body: dict[str, Any], most: int, cuts: bool, priority: int) -> None:
    """Chats, of normal priority, don't wait for a ranking."""
    question = read({"query": "hot?", "documents": ["a", {"text": "b"}], **body}, READER).question
    limits = {"max_tokens_per_doc": most, "truncate": cuts}
    assert question.input == {"query": "hot?", "documents": ["a", "b"], **limits}
    assert question.options == {"priority": priority}

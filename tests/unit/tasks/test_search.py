"""``search``: what a request may ask for, and what passages look like in its result."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import jsonschema
import pytest

from edgeslm.config.loader import Task as TaskSection
from edgeslm.errors import InvalidRequest
from edgeslm.knowledge.index.queries import Filter, Found
from edgeslm.messages import Request
from edgeslm.tasks import Task, make_task
from tests.support.fakes import FakeEngine
from tests.support.passages import FakeDocuments

FOUND = Found("a1", "press.md", "Press > Oil", "Oil it.", 10, 17, 0.81234, 3.2, 0.5, 1.0, 0.3, "manuals")


def make(documents: FakeDocuments, **fields: Any) -> Task:
    section = {"kind": "search", "knowledge": ["manuals", "log"], "passages": 3, **fields}
    return make_task("find", TaskSection.model_validate_json(json.dumps(section)), documents=documents)


def run(task: Task, **fields: Any) -> dict[str, Any]:
    sent = Request("find", "how often is it oiled?", "1", "r", **fields)
    task.check(sent)
    outcome = asyncio.run(task.run(sent, FakeEngine(), None))
    jsonschema.validate(outcome.result, task.result_schema())
    assert outcome.status == "ok"
    return dict(outcome.result)


def test_passages_with_all_that_the_contract_has() -> None:
    documents = FakeDocuments(FOUND)
    assert run(make(documents), priority=7) == {
        "passages": [
            {
                "id": "a1",
                "source": "press.md",
                "heading": "Press > Oil",
                "text": "Oil it.",
                "score": 0.8123,
                "start": 10,
                "end": 17,
            }
        ]
    }
    assert documents.asked == [("how often is it oiled?", ("manuals", "log"), 3, 7, False)]


def test_a_sender_says_which_documents_it_asks_about() -> None:
    documents = FakeDocuments(FOUND)
    run(make(documents), options={"sources": "press/*", "since": 5.0})
    assert documents.only == Filter("press/*", 5.0, None)


def test_nothing_found_is_an_answer() -> None:
    assert run(make(FakeDocuments())) == {"passages": []}


def test_senders_choose_among_the_task_s_collections_if_they_may() -> None:
    documents = FakeDocuments()
    run(make(documents, allow=["knowledge"]), options={"knowledge": ["log"]})
    assert documents.asked[0][1] == ("log",)
    with pytest.raises(InvalidRequest, match="does not let senders set the option 'knowledge'"):
        make(documents).check(Request("find", "x", "1", "r", options={"knowledge": ["log"]}))
    with pytest.raises(InvalidRequest, match="doesn't look in 'secret'; its collections are: manuals, log"):
        make(documents, allow=["knowledge"]).check(
            Request("find", "x", "1", "r", options={"knowledge": ["secret"]})
        )

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jsonschema
import pytest

from edgeslm.errors import InvalidRequest
from edgeslm.tasks.digest import MOST_POINTS, Digest, digest_schema, read_messages
from edgeslm.tasks.statements import Check


def make_input(*texts: str) -> dict[str, Any]:
    return {
        "messages": [
            {"id": f"m{number}", "text": text, "at": f"2026-11-26T10:00:{number:02}Z"}
            for number, text in enumerate(texts)
        ]
    }


THREE = make_input("Belt 2 tore", "Spindle is at 90", "Spindle is at 95")


def test_points_have_counts_and_ids() -> None:
    result = Digest(read_messages({**THREE, "dropped": 4})).result([])
    jsonschema.validate(result, {"type": "object", "properties": digest_schema()})
    assert result["points"] == [
        {"text": "Spindle is at *", "count": 2, "ids": ["m1", "m2"]},
        {"text": "Belt 2 tore", "count": 1, "ids": ["m0"]},
    ]
    assert (result["messages"], result["others"], result["dropped"]) == (3, 0, 4)
    assert (result["from"], result["to"]) == ("2026-11-26T10:00:00Z", "2026-11-26T10:00:02Z")
    assert result["text"] == "3 messages. 2 times: Spindle is at *; Belt 2 tore"
    assert result["sources"] == ["points[0]", "points[1]"]
    assert result["extractive"] is True


def test_what_the_points_support_is_told() -> None:
    digest = Digest(read_messages(THREE))
    said = list(Check(*digest.evidence).statements("Belt 2 tore. Belt 2 tore 5 times. The press burnt."))
    result = digest.result(said)
    assert result["text"] == "3 messages. Belt 2 tore."
    assert result["sources"] == ["points[1]"]
    assert result["extractive"] is False


def test_the_model_is_shown_no_counts() -> None:
    assert Digest(read_messages(THREE)).shown(1000) == "Spindle is at *\nBelt 2 tore"
    assert Digest(read_messages(THREE)).shown(5) == "Spindle is at *"


def test_many_points_are_cut_and_the_rest_counted() -> None:
    words = [f"{first}{second}" for first in "abcdef" for second in "ghijkl"]
    result = Digest(read_messages(make_input(*words))).result([])
    assert len(result["points"]) == MOST_POINTS
    assert sum(point["count"] for point in result["points"]) + result["others"] == len(words)


def test_messages_without_ids_have_numbers() -> None:
    result = Digest(read_messages({"messages": [{"text": "a b"}, {"text": "a b"}]})).result([])
    assert result["points"] == [{"text": "a b", "count": 2, "ids": ["1", "2"]}]
    assert "from" not in result


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"messages": []},
        {"messages": "a"},
        {"messages": [{"text": "a"}], "more": 1},
        {"messages": [{"text": "a"}], "dropped": -1},
        {"messages": [{"text": "a"}], "dropped": True},
        {"messages": ["a"]},
        {"messages": [{"id": "1"}]},
        {"messages": [{"text": 5}]},
        {"messages": [{"text": "a", "role": "user"}]},
    ],
)
def test_other_objects_are_refused(value: Mapping[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        read_messages(value)

"""api/dialect.py: schemas that tasks need, take or refuse."""

from __future__ import annotations

import pytest

from edgeslm.api.dialect import ANY_OBJECT, schema_of
from edgeslm.api.node import Offered
from edgeslm.web.server import Refusal

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}


def offered(kind: str, *options: str) -> Offered:
    return Offered("t", kind, frozenset(options), {})


def test_a_schema_goes_to_who_takes_it() -> None:
    for kind in ("generate", "extract"):
        assert schema_of(offered(kind, "schema"), SCHEMA, "format") == SCHEMA
        assert schema_of(offered(kind), None, "format") is None


def test_who_answers_with_json_is_asked_for_json_in_vain() -> None:
    for one in (offered("extract"), offered("extract", "schema"), offered("search")):
        assert schema_of(one, ANY_OBJECT, "format") is None
    assert schema_of(offered("generate", "schema"), ANY_OBJECT, "format") == ANY_OBJECT


@pytest.mark.parametrize(
    ("kind", "schema", "what"),
    [
        ("classify", ANY_OBJECT, "takes no JSON Schema"),
        ("answer", SCHEMA, "takes no JSON Schema"),
        ("extract", SCHEMA, "answers with its own fields"),
    ],
)
def test_others_refuse_in_the_client_s_word(kind: str, schema: dict[str, object], what: str) -> None:
    with pytest.raises(Refusal) as raised:
        schema_of(offered(kind), schema, "response_format")
    assert str(raised.value) == f"t is of kind {kind} and {what}; leave out response_format."

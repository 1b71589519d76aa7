from __future__ import annotations

import json

from edgeslm.dispatcher.backend import as_the_pools
from edgeslm.messages import Request
from edgeslm.protocol.codec import parse_result

REQUEST = Request("label", "x", "7", "a/res", received_at=100.0)


def as_seen(**changes: object) -> dict[str, object]:
    known = {
        "id": "theirs",
        "task": "label",
        "status": "ok",
        "result": {"label": "a"},
        "timings_ms": {"queue": 1.0, "prefill": 9.0, "total": 10.0},
    }
    payload = json.dumps({**known, **changes}).encode()
    result, encoded = as_the_pools(REQUEST, parse_result(payload), payload, 100.25)
    assert parse_result(encoded) == result
    document = json.loads(encoded)
    assert isinstance(document, dict)
    return document


def test_the_time_in_the_pool_is_time_in_the_queue() -> None:
    seen = as_seen()
    assert seen["id"] == "7"
    assert seen["timings_ms"] == {"queue": 241.0, "prefill": 9.0, "total": 250.0}


def test_what_a_node_says_more_stays_and_what_it_does_not_say_is_not_made_up() -> None:
    assert as_seen(newer={"a": 1})["newer"] == {"a": 1}
    assert as_seen(timings_ms={})["timings_ms"] == {}


def test_a_node_whose_clock_runs_fast_takes_no_less_than_it_says() -> None:
    assert as_seen(timings_ms={"total": 900.0})["timings_ms"] == {"total": 900.0, "queue": 0.0}

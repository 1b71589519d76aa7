"""Mutated requests to a real node with fake engines: each gets a result, or an error of its dialect.

``EDGESLM_HTTP_CASES=100000`` runs the long form (three minutes).
"""

from __future__ import annotations

import copy
import http.client
import json
import os
import random
from collections import Counter
from typing import Any

import pytest

from tests.integration.fuzz.targets import seeds_of
from tests.support.apis import ApiClient
from tests.support.apps import WAIT_S

CASES = int(os.environ.get("EDGESLM_HTTP_CASES", "2000"))
PATHS = (
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/rerank",
    "/api/chat",
    "/api/generate",
    "/api/embed",
)
MODELS = ("say", "triage", "fields", "vector", "model:small", "model:encoder", "nothing", "say:latest")
VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2,
        10**30,
        1e308,
        0.5,
        "",
        "x",
        "none",
        "auto",
        "json",
        "\ud800",
        "ü" * 300,
    ),
    *([], {}, [[]], [None], ["a", "a"], {"type": "object"}, {"type": "json_object"}, {"$ref": "http://x"}),
    *([{"role": "user", "content": "Hi"}], [{"type": "text", "text": "Hi"}], {"properties": {"a": True}}),
)
BYTES = (b"{", b"}", b'"', b"\xff", b"\x00", b"[" * 40, b"1e999", b"NaN", b"\\ud800", b",")


def places(value: Any) -> list[tuple[Any, Any]]:
    """Each container in a value, with each of its keys."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [*((value, key) for key in keys), *(place for key in keys for place in places(value[key]))]


def mutated(seeds: list[dict[str, Any]], choice: random.Random) -> bytes:
    body = copy.deepcopy(choice.choice(seeds))
    body["model"] = choice.choice(MODELS)
    for _ in range(choice.randrange(4)):
        container, key = choice.choice(places(body))
        if choice.random() < 0.2:
            del container[key]
        else:
            container[key] = copy.deepcopy(choice.choice(VALUES))
        if not places(body):
            break
    data = json.dumps(body).encode()
    if choice.random() < 0.2:
        at = choice.randrange(len(data) + 1)
        data = data[:at] + choice.choice(BYTES) + data[at + choice.randrange(3) :]
    return data


@pytest.mark.timeout(1200)
def test_every_request_is_answered(api: ApiClient) -> None:
    seeds = [json.loads(seed) for seed in seeds_of("bodies of the API")]
    choice, seen = random.Random(1), Counter[int]()
    connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=WAIT_S)
    for number in range(CASES):
        path, data = choice.choice(PATHS), mutated(seeds, choice)
        connection.request("POST", path, data, {"Authorization": f"Bearer {api.token}"})
        response = connection.getresponse()
        body = response.read()
        seen[response.status] += 1
        assert response.status in (200, 400, 404, 413, 429), (number, path, data, body)
        if response.status == 200:
            continue
        error = json.loads(body)["error"]
        if path.startswith("/api/"):
            assert isinstance(error, str) and error, (number, data, body)
        else:
            assert set(error) == {"message", "type", "param", "code"}, (number, data, body)
    connection.close()
    print(dict(seen))
    assert seen[200] > CASES / 50 and seen[400] > CASES / 5
    assert api.chat("triage", "critical").json["choices"][0]["message"]["content"] == "critical"

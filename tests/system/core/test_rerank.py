"""``/v1/rerank`` by the starter decoder: the scores are those of its "yes" and "no" in the worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeslm.engine.calls import Read
from edgeslm.engine.worker import yes_no
from edgeslm.engine.worker.decoder import Decoder
from tests.support.apis import TOKENS, ApiClient
from tests.support.apps import App
from tests.support.brokers import Mosquitto, free_port
from tests.support.nodes import BASE, NodeProcess, real_configuration

pytestmark = pytest.mark.e2e

QUERY = "What temperature does the oven of line 3 have?"
DOCUMENTS = [
    "Trains leave at noon.",
    "The oven of line 3 is at 210 degrees.",
    "Oil the press each week.",
    "The oven of line 4 is off.",
    "Line 3 makes bread.",
]


def test_a_decoder_ranks_by_yes_and_no(starter: Path, tmp_path: Path) -> None:
    api = ApiClient(free_port())
    tokens = tmp_path / "tokens"
    tokens.write_text(f"app {TOKENS['app']}\n")
    section = {"listen": f"127.0.0.1:{api.port}", "tokens": str(tokens)}
    (tmp_path / "broker").mkdir()
    broker = Mosquitto(tmp_path / "broker")
    broker.start()
    try:
        configuration = real_configuration(broker.url, starter, tmp_path, api=section)
        with (
            App(broker.port, f"{BASE}/state") as app,
            NodeProcess(tmp_path, configuration) as process,
        ):
            process.wait_online(app)
            body = {"model": "model:small", "query": QUERY, "documents": DOCUMENTS}
            reply = api.ask("/v1/rerank", body)
            cut = api.ask("/v1/rerank", {**body, "documents": [DOCUMENTS[1] * 300, DOCUMENTS[0]]})
            too_long = api.ask("/v1/rerank", {**body, "query": "word " * 20_000})
            chat = api.chat("model:small", "Hi", max_tokens=4)
    finally:
        broker.stop()
    assert reply.status == 200, reply.json
    found = {one["index"]: one["relevance_score"] for one in reply.json["results"]}
    assert list(found.values()) == sorted(found.values(), reverse=True)
    decoder = Decoder(starter / "smollm2-135m-int4", 2)
    try:
        wanted = yes_no.read(decoder, Read(QUERY, tuple(DOCUMENTS)), lambda: False)
    finally:
        decoder.close()
    assert [found[index] for index in range(5)] == pytest.approx(list(wanted.probabilities), abs=0.03)
    assert reply.json["usage"]["prompt_tokens"] == wanted.cost.prompt_tokens
    assert "index 0." in cut.json["meta"]["warnings"][0]
    assert 1024 < cut.json["usage"]["prompt_tokens"] < 1400
    assert (too_long.status, too_long.json["error"]["code"]) == (400, "context_length_exceeded")
    assert chat.status == 200

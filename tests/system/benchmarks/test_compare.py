"""benchmarks/speed/compare.py and the bridge to llama.cpp: prompts, figures, and answers of a fake server."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgeslm.client import Client
from edgeslm.engine.calls import Prompt, Text
from edgeslm.engine.worker.prompt import ChatTokenizer, load_tokenizer
from edgeslm.messages import Chunk, Result
from tests.support.benchmarks.scripts import BENCHMARKS, load_scripts
from tests.support.brokers import Mosquitto

SCRIPTS = ("compare", "compare_figures", "llama_bridge", "load", "mixes", "processes")


@pytest.fixture(scope="module")
def scripts() -> dict[str, ModuleType]:
    return load_scripts(*SCRIPTS)


class FakeServer(BaseHTTPRequestHandler):
    """Says what was asked of it; a prompt with ``broken`` in it is refused."""

    asked: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body)
        figures = {"tokens_evaluated": 7, "tokens_predicted": 2}
        if "broken" in body["prompt"]:
            self.send_error(500)
            return
        if body["stream"]:
            pieces = [{"content": "Oil "}, {"content": "leaks."}, {"content": "", **figures}]
            sent = "".join(f"data: {json.dumps(piece)}\n\n" for piece in pieces).encode()
        else:
            sent = json.dumps({"content": "adv", **figures}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def fake_server() -> Iterator[tuple[int, list[dict[str, Any]]]]:
    asked: list[dict[str, Any]] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Server", (FakeServer,), {"asked": asked}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port, asked
    finally:
        server.shutdown()
        server.server_close()


def test_the_bridge_answers_as_a_node_does(
    scripts: dict[str, ModuleType], broker: Mosquitto, tmp_path: Path
) -> None:
    bridge = scripts["llama_bridge"]
    task = {"prompt": f"Sort: {bridge.INPUT}", "body": {"n_predict": 1}}
    told = {"sort": {**task, "labels": ["private", "advertising"]}, "say": task}
    with fake_server() as (port, asked):
        job = {"url": broker.url, "node": "baseline", "port": port, "slots": 2, "tasks": told}
        (tmp_path / "job.json").write_text(json.dumps(job))
        process = subprocess.Popen(
            [sys.executable, BENCHMARKS / "lib/llama_bridge.py", tmp_path / "job.json"]
        )
        try:
            with Client(broker.url, "baseline") as client:
                asyncio.run(scripts["load"].until_online(client))
                sorted_ = client.request("sort", "Buy now")
                pieces: list[Chunk] = []
                said = client.request("say", "What leaks?", on_chunk=pieces.append)
                refused = client.request("say", "broken")
        finally:
            process.terminate()
            process.wait(30)
    assert sorted_.result == {"label": "advertising"}
    assert sorted_.usage == {"prompt_tokens": 7, "completion_tokens": 2}
    assert (said.result, "".join(piece.text for piece in pieces)) == ({"text": "Oil leaks."}, "Oil leaks.")
    assert refused.error is not None
    assert asked[0] == {"prompt": "Sort: Buy now", "stream": False, "n_predict": 1}


def test_fields_that_were_cut_off_stay_text(scripts: dict[str, ModuleType]) -> None:
    result_of = scripts["llama_bridge"].result_of
    assert result_of({"fields": True}, '{"host": "a"}') == {"fields": {"host": "a"}}
    assert result_of({"fields": True}, '{"host": "a') == {"text": '{"host": "a'}


@pytest.mark.parametrize(
    ("labels", "count"), [([[1], [2]], 1), ([[1, 2], [1, 3], [4]], 2), ([[1], [1, 2]], 2), ([[1, 2, 3]], 1)]
)
def test_no_more_tokens_than_tell_the_labels_apart(
    scripts: dict[str, ModuleType], labels: list[list[int]], count: int
) -> None:
    assert scripts["compare"].tokens_to_tell(labels) == count


def test_both_sides_read_the_same_prompts(scripts: dict[str, ModuleType], starter: Path) -> None:
    compare, bridge = scripts["compare"], scripts["llama_bridge"]
    bundle = starter / "smollm2-135m-int4"
    chat, whole = ChatTokenizer(bundle), load_tokenizer(bundle)
    for name, section in scripts["mixes"].tasks().items():
        task = compare.baseline_task(name, section, chat)
        prompt = task["prompt"].replace(bridge.CONTEXT, "The pump leaks.").replace(bridge.INPUT, "Where?")
        assert prompt.count("Where?") == 1
        asked = ask_of(compare, name, section)
        mine, theirs = chat.encode(asked, 2000)[0], whole.encode(prompt, add_special_tokens=False).ids
        # Ours never joins what a sender wrote with what stands beside it.
        assert chat.tokenizer.decode(mine, False) == whole.decode(theirs, False)
        assert abs(len(mine) - len(theirs)) <= 2


def ask_of(compare: ModuleType, name: str, section: dict[str, Any]) -> Prompt:
    """What the task asks its engine of the same texts."""

    class Stop(Exception):
        pass

    found: list[Any] = []

    async def ask(call: Any, on_chunk: Any = None) -> Any:
        found.append(call)
        raise Stop

    task = compare.make_task(name, compare.TaskSection.model_validate_json(json.dumps(section)))
    options = {"context": "The pump leaks."} if name == "answer" else {}
    request = compare.Request(name, "Where?", id="", reply_to="", options=options)
    with pytest.raises(Stop):
        asyncio.run(task.run(request, ask, None))
    prompt: Prompt = found[0].prompt
    assert any(isinstance(part, Text) for turn in prompt.turns for part in turn.parts)
    return prompt


def test_messages_are_drawn_alike_each_time(scripts: dict[str, ModuleType], starter: Path) -> None:
    mixes = scripts["mixes"]
    article = "word " * 3000

    def draw() -> list[Any]:
        messages = mixes.Messages(starter / "data", article, str.split)
        return [(mix.name, [next(mix.asks) for _ in range(12)]) for mix in mixes.make_mixes(messages)]

    first = draw()
    assert first == draw()
    mixed = dict(first)["all together"]
    assert {ask.task for ask in mixed[:11]} == set(mixes.tasks())
    assert all(ask.options["deadline_ms"] == ask.deadline_s * 1000 for ask in mixed)


def turn(scripts: dict[str, ModuleType], seconds: float, *each: tuple[float, str]) -> Any:
    load, figures = scripts["load"], scripts["compare_figures"]
    ask = load.Ask("few", "x", deadline_s=1.0)
    usage = {"prompt_tokens": 10, "completion_tokens": 2}
    answers = [
        load.Answered(ask, Result("", "few", "ok", result={"label": label}, usage=usage), took, took / 2)
        for took, label in each
    ]
    return figures.Turn(answers, seconds, cpu_s=seconds, joules=None)


def test_ratios_are_of_neighbouring_turns(scripts: dict[str, ModuleType]) -> None:
    figures = scripts["compare_figures"]
    turns = {
        "edgeslm": [turn(scripts, 1.0, (0.5, "a"), (0.5, "b")), turn(scripts, 2.0, (1.2, "a"), (0.8, "a"))],
        "llama.cpp": [turn(scripts, 2.0, (1.0, "a"), (1.5, "a")), turn(scripts, 6.0, (0.9, "a"), (2.0, "a"))],
    }
    row = figures.summarize(turns)
    assert row["times_the_rate"] == {"median": 2.5, "lowest": 2.0, "highest": 3.0}
    assert row["edgeslm"]["requests_per_s"] == 1.33
    assert row["p99_share"] == 0.6
    assert (row["late_where_theirs_is_not"], row["late_where_ours_is_not"]) == (1, 2)
    assert row["same_answer"] == 0.75
    assert turns["edgeslm"][0].first_ms == 250.0
    shown = figures.table([{"mix": "classify", "clients": 4, **row}])
    assert "2.50 times the requests/s" in shown


def test_memory_is_added_up_and_compared(scripts: dict[str, ModuleType]) -> None:
    memory, figures = scripts["processes"].Memory, scripts["compare_figures"]
    mine = memory(60, 30, 70) + memory(140, 70, 150)
    found = figures.memory_ratios({"edgeslm": mine, "llama.cpp": memory(400, 200, 500)}, 4)
    assert (found["anonymous_share"], found["pss_share"]) == (0.5, 0.5)
    assert found["edgeslm"] == {"anonymous_mb": 100, "pss_mb": 200, "peak_mb": 220}

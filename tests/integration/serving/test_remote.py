"""A server as the last stage: what leaves this node, and what happens if the server fails."""

from __future__ import annotations

import asyncio
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeslm.config.loader import parse_config
from edgeslm.config.remote_stages import ChatServer
from edgeslm.engine.calls import Call, Output
from edgeslm.errors import NoMemory
from edgeslm.messages import Request, Result
from edgeslm.serving.service import Service
from tests.support.chat_servers import FakeChatServer, said_by_user
from tests.support.fakes import FakeProcess
from tests.support.nodes import write_bundle
from tests.support.services import play, request

CONFIG = """
node: hall
broker: {{url: mqtt://localhost}}
models:
  small: {{bundle: {folder}/small}}
tasks:
  triage:
    kind: classify
    labels: [normal, critical]
    threshold: 0.9
    stages:
      - small
      - openai: {{url: "{url}", model: big, {more}}}
"""


def unsure(call: Call) -> Output:
    return Output(probabilities=(0.6, 0.4))


class Scene:
    """A service whose own model is unsure, and what it sent."""

    def __init__(self, folder: Path, url: str, more: str = "", on_call: Callable[[Call], Output] = unsure):
        write_bundle(folder / "small")
        text = textwrap.dedent(CONFIG).format(folder=folder, url=url, more=more)
        self.config = parse_config(text)
        self.service = Service(
            self.config, make_process=lambda bundle, *_: FakeProcess(bundle.path, on_call=on_call)
        )
        self.sent: list[tuple[str, str, int]] = []
        self.service.escalation.servers.on_sent = self._note

    def _note(self, request: Request, server: ChatServer, size: int) -> None:
        self.sent.append((request.task, server.host, size))

    def ask(self, *texts: str, **fields: Any) -> list[Result]:
        """The results of requests, one after another."""

        async def all() -> list[Result]:
            await self.service.start()
            try:
                return [await self.service.submit(request("triage", text, **fields)) for text in texts]
            finally:
                await self.service.stop()

        return asyncio.run(all())


def test_an_unsure_message_is_asked_of_the_server(tmp_path: Path) -> None:
    with FakeChatServer(lambda body: '{"label": "critical"}').running() as server:
        scene = Scene(tmp_path, server.url)
        (result,) = scene.ask("press 4 smells")
    assert result.status == "ok"
    assert result.result == {"label": "critical", "stage": "openai:big"}
    assert result.model == f"big@{server.url.removeprefix('http://').removesuffix('/v1')}"
    assert result.usage == {"prompt_tokens": 7, "completion_tokens": 2}
    assert scene.sent == [("triage", result.model.removeprefix("big@"), server.received)]


def test_a_sure_message_stays_here(tmp_path: Path) -> None:
    with FakeChatServer(lambda body: "critical").running() as server:
        scene = Scene(tmp_path, server.url, on_call=lambda call: Output(probabilities=(0.97, 0.03)))
        (result,) = scene.ask("all is well")
    assert result.result is not None and result.result["stage"] == "small"
    assert not server.asked and not scene.sent


def test_what_the_engine_cant_answer_is_asked_of_the_server(tmp_path: Path) -> None:
    def full(call: Call) -> Output:
        raise NoMemory("there is no memory")

    with FakeChatServer(lambda body: "critical").running() as server:
        (result,) = Scene(tmp_path, server.url, on_call=full).ask("press 4 smells")
    assert result.status == "ok" and result.result == {"label": "critical", "stage": "openai:big"}


def test_names_and_numbers_are_redacted(tmp_path: Path) -> None:
    def answer(body: dict[str, Any]) -> str:
        text = said_by_user(body)
        return "critical" if "[EMAIL_1]" in text and "0711" not in text else "normal"

    with FakeChatServer(answer).running() as server:
        scene = Scene(tmp_path, server.url, "redact: [email, phone]")
        (result,) = scene.ask("Call 0711 123456 or write to max@example.org")
    assert result.result is not None and result.result["label"] == "critical"
    assert "max@example.org" not in str(server.asked) and "0711" not in str(server.asked)


@pytest.mark.parametrize(
    ("only", "leaves"),
    [
        ("'internal' not in payload.input", False),
        ("'secret' not in payload.input", True),
        ("payload.result.label == 'normal'", True),
        ("payload.sender == 'erp'", True),
        ("payload.sender == 'mes'", False),
        ("payload.input.nothing.at.all > 3", False),
    ],
)
def test_only_what_fulfils_the_condition_leaves(tmp_path: Path, only: str, leaves: bool) -> None:
    with FakeChatServer(lambda body: "critical").running() as server:
        scene = Scene(tmp_path, server.url, f'only: "{only}"')
        (result,) = scene.ask("an internal note", sender="erp")
    assert bool(server.asked) == leaves
    assert result.status == ("ok" if leaves else "abstained")


@pytest.mark.parametrize("answer", ["what?", b"<html>", 500, 429, 401, None])
def test_without_a_usable_answer_the_own_result_counts(tmp_path: Path, answer: Any) -> None:
    with FakeChatServer(lambda body: answer).running() as server:
        scene = Scene(tmp_path, server.url)
        (result,) = scene.ask("press 4 smells")
    assert (result.status, result.result and result.result["stage"]) == ("abstained", "small")
    assert sum(size for *_, size in scene.sent) == server.received > 0


def test_a_server_that_fails_is_left_alone_for_a_while(tmp_path: Path) -> None:
    with FakeChatServer(lambda body: 500).running() as server:
        results = Scene(tmp_path, server.url).ask(*["press 4 smells"] * 20)
    assert {result.status for result in results} == {"abstained"}
    assert len(server.asked) == 1


def test_a_refused_text_doesnt_keep_others_from_the_server(tmp_path: Path) -> None:
    def answer(body: dict[str, Any]) -> Any:
        return 413 if "long" in said_by_user(body) else "critical"

    with FakeChatServer(answer).running() as server:
        long, short = Scene(tmp_path, server.url).ask("long", "short")
    assert (long.status, short.status) == ("abstained", "ok")


def test_a_stalling_server_costs_its_timeout(tmp_path: Path) -> None:
    server = FakeChatServer(lambda body: "critical")
    server.is_stalling.set()
    with server.running():
        first, second = Scene(tmp_path, server.url, "timeout_s: 0.3").ask("press 4 smells", "press 5 smells")
    assert (first.status, second.status) == ("abstained", "abstained")
    assert len(server.asked) == 1


def test_a_request_that_waits_for_a_server_can_be_cancelled(tmp_path: Path) -> None:
    server = FakeChatServer(lambda body: "critical")
    server.is_stalling.set()
    scene = Scene(tmp_path, server.url)

    async def cancel() -> None:
        await scene.service.start()
        asking = asyncio.create_task(scene.service.submit(request("triage", "press 4 smells")))
        while not server.asked:
            await asyncio.sleep(0.01)
        assert scene.service.cancel(lambda request: True) == 1
        result = await asking
        assert result.error is not None and result.error.code == "cancelled"
        await scene.service.stop()

    with server.running():
        play(cancel)


def test_a_reload_changes_the_server(tmp_path: Path) -> None:
    with (
        FakeChatServer(lambda body: "critical").running() as old,
        FakeChatServer(lambda body: "normal").running() as new,
    ):
        scene = Scene(tmp_path, old.url)

        async def reload() -> None:
            await scene.service.start()
            first = await scene.service.submit(request("triage", "press 4 smells"))
            text = textwrap.dedent(CONFIG).format(folder=tmp_path, url=new.url, more="")
            await scene.service.replace(parse_config(text))
            second = await scene.service.submit(request("triage", "press 4 smells"))
            assert [one.result and one.result["label"] for one in (first, second)] == ["critical", "normal"]
            await scene.service.stop()

        play(reload)
    assert len(old.asked) == len(new.asked) == 1

"""A server as the last stage: what leaves this node, and what happens if the server fails."""

from __future__ import annotations

import asyncio
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeslm.config.loader import parse_config
from edgeslm.config.remote_stages import ChatServer
from edgeslm.engine.calls import Call, Output
from edgeslm.errors import NoMemory
from edgeslm.messages import Request, Result
from edgeslm.serving.remote import RemoteTarget, Servers, _may_leave
from edgeslm.serving.service import Service
from tests.support.chat_servers import FakeChatServer, completion, said_by_user
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
{limits}
"""


def unsure(call: Call) -> Output:
    return Output(probabilities=(0.6, 0.4))


class Scene:
    """A service whose own model is unsure, and what it sent."""

    def __init__(
        self,
        folder: Path,
        url: str,
        more: str = "",
        on_call: Callable[[Call], Output] = unsure,
        limits: str = "",
    ) -> None:
        write_bundle(folder / "small")
        text = textwrap.dedent(CONFIG).format(folder=folder, url=url, more=more, limits=limits)
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


@pytest.mark.parametrize("answer", ['{"label": "critical"}', "no label at all"])
def test_the_server_s_tokens_count_for_the_sender(tmp_path: Path, answer: str) -> None:
    with FakeChatServer(lambda body: answer).running() as server:
        scene = Scene(tmp_path, server.url, limits="limits: {sender_tokens_per_min: 30}")
        results = scene.ask(*["press 4 smells"] * 6, sender="app")
        assert [result.error and result.error.code for result in results] == [None] * 4 + ["busy"] * 2
        assert len(server.asked) == 4, "nine tokens each"


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


@pytest.mark.parametrize(
    "answer",
    [
        completion('{"label": "critical"}', logprobs={"content": [{"logprob": -(10**400)}]}),
        completion("", [{"name": "f", "arguments": {"a": "[EMAIL_1]" * 10}}]),
        b"[" * 200_000,
    ],
)
def test_a_hostile_answer_costs_no_result(tmp_path: Path, answer: bytes) -> None:
    with FakeChatServer(lambda body: answer).running() as server:
        (result,) = Scene(tmp_path, server.url, "redact: [email]").ask("max@example.org smells")
    assert result.status in ("ok", "abstained") and result.result is not None


def test_a_proxy_that_cant_be_used_costs_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    (result,) = Scene(tmp_path, "https://llm.invalid/v1").ask("press 4 smells")
    assert result.status == "abstained"


def test_a_proxy_of_the_environment_reads_nothing_without_tls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeChatServer(lambda body: "critical").running() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1"))
        Scene(tmp_path, "http://llm.invalid/v1").ask("press 4 smells")
    assert not proxy.asked


def test_a_client_of_the_api_is_named_as_one_of_mqtt(tmp_path: Path) -> None:
    with FakeChatServer(lambda body: "critical").running() as server:
        scene = Scene(tmp_path, server.url, "only: \"payload.sender == 'desk'\"")
        (named,) = scene.ask("a", sender="#api/desk")
        (other,) = Scene(tmp_path, server.url, "only: \"payload.sender != 'desk'\"").ask(
            "a", sender="#api/desk"
        )
    assert (named.status, other.status) == ("ok", "abstained")


def test_an_impatient_request_says_nothing_of_the_server(tmp_path: Path) -> None:
    server = FakeChatServer(lambda body: "critical")
    server.is_stalling.set()
    scene = Scene(tmp_path, server.url)

    async def ask() -> None:
        await scene.service.start()
        hasty = [request("triage", "a", expires_at=time.monotonic() + 0.2) for _ in range(4)]
        for result in await asyncio.gather(*map(scene.service.submit, hasty)):
            assert result.status == "abstained"
        server.is_stalling.clear()
        server.goes_on.set()
        assert (await scene.service.submit(request("triage", "b"))).status == "ok"
        await scene.service.stop()

    with server.running():
        play(ask)


def test_tasks_with_other_settings_share_the_turns_of_a_server(tmp_path: Path) -> None:
    first, second = (
        ChatServer(url="http://localhost/v1" + end, model="big", timeout_s=seconds)
        for end, seconds in (("", 5.0), ("/", 9.0))
    )
    servers = Servers()
    assert servers._link(first) is servers._link(second)
    assert servers._link(ChatServer(url="http://localhost/v1", model="other")) is not servers._link(first)
    asyncio.run(servers.close())


def test_a_reload_waits_for_requests_and_forgets_the_server(tmp_path: Path) -> None:
    with FakeChatServer(lambda body: "critical").running() as server:
        server.is_stalling.set()
        scene = Scene(tmp_path, server.url)

        async def reload() -> None:
            await scene.service.start()
            asking = asyncio.create_task(scene.service.submit(request("triage", "a")))
            while not server.asked:
                await asyncio.sleep(0.01)
            target = scene.service.deployment.targets["triage"]
            assert isinstance(target, RemoteTarget)
            scene.service.escalation.servers.use_only(())
            server.is_stalling.clear()
            server.goes_on.set()
            assert (await asking).status == "ok"
            late = await scene.service.escalation.servers.ask(target, request("triage", "b"), {}, 5.0)
            assert late is None and len(server.asked) == 1
            await scene.service.stop()

        play(reload)


def test_only_reads_all_texts_of_a_chat(tmp_path: Path) -> None:
    server = ChatServer(url="http://localhost/v1", model="m", only="'confidential' not in payload.input")
    texts = ("this is confidential", "?")
    first, last = ({"role": "user", "content": text} for text in texts)
    assert not _may_leave(server, request("say", {"messages": [first, last]}), {})
    assert _may_leave(server, request("say", {"messages": [last]}), {})


def test_a_reload_changes_the_server(tmp_path: Path) -> None:
    with (
        FakeChatServer(lambda body: "critical").running() as old,
        FakeChatServer(lambda body: "normal").running() as new,
    ):
        scene = Scene(tmp_path, old.url)

        async def reload() -> None:
            await scene.service.start()
            first = await scene.service.submit(request("triage", "press 4 smells"))
            text = textwrap.dedent(CONFIG).format(limits="", folder=tmp_path, url=new.url, more="")
            await scene.service.replace(parse_config(text))
            second = await scene.service.submit(request("triage", "press 4 smells"))
            assert [one.result and one.result["label"] for one in (first, second)] == ["critical", "normal"]
            await scene.service.stop()

        play(reload)
    assert len(old.asked) == len(new.asked) == 1

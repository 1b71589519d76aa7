"""Tasks over documents in a whole service: fake engines and collections, real tasks and escalation."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import jsonschema

from edgeslm.bundle.manifest import Bundle
from edgeslm.config.loader import parse_config
from edgeslm.engine.calls import Call, Embed, Hardware, Output
from edgeslm.knowledge.index.queries import CollectionSpec, Found, Query
from edgeslm.messages import Request, Result
from edgeslm.serving.deployment import Deployment
from edgeslm.serving.service import Service
from tests.support.fakes import FakeProcess
from tests.support.nodes import write_bundle
from tests.support.passages import make_found
from tests.support.services import play, request

CONFIG = """
node: hall
broker: {{url: mqtt://localhost}}
models:
  small: {{bundle: {folder}/small}}
  minilm: {{bundle: {folder}/minilm}}
knowledge:
  manuals: {{path: {folder}/kb, encoder: minilm}}
tasks:
  find: {{kind: search, knowledge: [manuals]}}
  manual: {{kind: answer, model: small, knowledge: [manuals], escalate: node:server/manual}}
"""
OIL = make_found("Oil the pump every 40 hours.", start=100, end=128, heading="Care")
OTHER = make_found("It is blue.", start=7, end=18, source="colour.md", cosine=0.1, bm25=0.1, score=0.2)


class FakeKnowledge:
    """Collections in which everything finds ``found``, and tables that have no answer."""

    def __init__(self, found: Sequence[Found]) -> None:
        self.found = found
        self.pid, self.problems = 5, list[str]()

    def __call__(self, specs: Sequence[CollectionSpec], **fields: Any) -> Any:
        return self

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def search(self, query: Query) -> list[Found]:
        return list(self.found[: query.k])

    async def compute(self, query: Query) -> None:
        pass


def make_service(
    folder: Path, *found: Found, text: str = "every 40 hours", node: OtherNode | None = None
) -> Service:
    write_bundle(folder / "small")
    write_bundle(folder / "minilm", "encoder")

    def on_call(call: Call) -> Output:
        if isinstance(call, Embed):
            return Output(vectors=tuple((0.6, 0.8) for _ in call.texts))
        return Output(text=text, finish_reason="stop")

    def make_process(bundle: Bundle, hardware: Hardware, added: object) -> FakeProcess:
        return FakeProcess(bundle.path, on_call=on_call)

    config = parse_config(CONFIG.format(folder=folder))
    with mock.patch("edgeslm.serving.collections.KnowledgeProcess", FakeKnowledge(found)):
        return Service(config, nodes=node, make_process=make_process)


def ask(service: Service, task: str, question: str = "How often is the pump oiled?") -> Result:
    results: list[Result] = []

    async def scene() -> None:
        await service.start()
        results.append(await service.submit(request(task, question)))
        await service.stop()

    play(scene)
    (result,) = results
    jsonschema.validate(result.result, service.tasks[task].result_schema())
    return result


class OtherNode:
    def __init__(self, answer: Mapping[str, Any]) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self._answer = answer

    async def ask(
        self, node: str, task: str, input: Any, timeout_s: float, options: Mapping[str, Any]
    ) -> Result:
        self.asked.append((node, task, input, dict(options)))
        return Result("1", task, "ok", self._answer, model="large@sha256:1")

    async def close(self) -> None:
        pass


def test_a_search_names_the_encoder_as_its_model(tmp_path: Path) -> None:
    service = make_service(tmp_path, OIL)
    result = ask(service, "find")
    assert result.status == "ok" and result.model is not None and result.model.startswith("minilm@")
    assert [one["source"] for one in (result.result or {})["passages"]] == ["manual.md"]
    assert service.deployment.model_of("find") == "minilm"
    assert service.deployment.pids["knowledge"] == 5


def test_a_search_that_comes_before_the_models_are_loaded_waits_for_them(tmp_path: Path) -> None:
    """As one of the spool does after a crash."""

    async def scene() -> None:
        service = make_service(tmp_path, OIL)
        early = asyncio.create_task(service.submit(request("find", "How often is the pump oiled?")))
        await asyncio.sleep(0)
        await service.start()
        assert (await early).status == "ok"
        await service.stop()

    play(scene)


def test_another_encoder_can_be_checked_by_a_search_before_it_takes_over(tmp_path: Path) -> None:
    checked = []

    async def check(old: Deployment, new: Deployment) -> None:
        result = await new.run(request("find", "How often is the pump oiled?"), None, None)
        checked.append((new.library is old.library, result.status))

    async def scene() -> None:
        service = make_service(tmp_path, OIL)
        await service.start()
        write_bundle(tmp_path / "other", "encoder", weights=b"others")
        changed = CONFIG.replace("{folder}/minilm", "{folder}/other").format(folder=tmp_path)
        with mock.patch("edgeslm.serving.collections.KnowledgeProcess", FakeKnowledge([OIL])):
            await service.replace(parse_config(changed), check=check)
        await service.stop()

    play(scene)
    assert checked == [(False, "ok")]


def test_an_answer_cites_the_document(tmp_path: Path) -> None:
    result = ask(make_service(tmp_path, OIL, OTHER), "manual")
    assert result.status == "ok"
    (cited,) = (result.result or {})["citations"]
    assert (cited["source"], cited["start"], cited["end"]) == ("manual.md", 100, 128)


def test_a_question_that_is_declined_goes_to_another_node_with_its_passages(tmp_path: Path) -> None:
    node = OtherNode(
        {"text": "blue", "citations": [{"source": "context", "quote": "blue", "start": 6, "end": 10}]}
    )
    service = make_service(tmp_path, OTHER, node=node)
    result = ask(service, "manual", "Which colour has the pump?")
    assert node.asked == [("server", "manual", "Which colour has the pump?", {"context": "It is blue."})]
    assert (result.status, result.model) == ("ok", "large@sha256:1")
    assert result.result is not None and result.result["stage"] == "node:server/manual"
    (cited,) = result.result["citations"]
    assert (cited["source"], cited["quote"], cited["start"], cited["end"]) == ("colour.md", "blue", 13, 17)


def test_an_answer_of_another_node_without_proof_is_not_taken_over(tmp_path: Path) -> None:
    service = make_service(tmp_path, OTHER, node=OtherNode({"text": "green", "citations": []}))
    result = ask(service, "manual", "Which colour has the pump?")
    assert result.status == "abstained"
    assert result.result is not None and result.result["passages"]
    assert service.deployment.stages_of("manual") == ("small", "node:server/manual")


def test_a_request_may_bring_its_own_text(tmp_path: Path) -> None:
    service = make_service(tmp_path, OTHER)
    asked: list[Result] = []

    async def scene() -> None:
        await service.start()
        sent: Request = request("manual", "How often?", options={"context": "Clean it every day."})
        asked.append(await service.submit(sent))
        await service.stop()

    play(scene)
    assert asked[0].result == {
        "text": "Clean it every day.",
        "citations": [{"source": "context", "quote": "Clean it every day.", "start": 0, "end": 19}],
    }

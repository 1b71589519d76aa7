from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest

from edgeslm.bundle.manifest import Bundle, load_bundle
from edgeslm.bundle.trust import Trust
from edgeslm.config.loader import parse_config
from edgeslm.engine.calls import Adapters, Call, Cost, Embed, Generate, Hardware, Output, Score
from edgeslm.errors import BundleError, ConfigError, ModelUnavailable, TooLong
from edgeslm.messages import Request, Truncated
from edgeslm.serving.service import Service
from edgeslm.serving.warmup import warm
from tests.support.fakes import FakeProcess
from tests.support.nodes import write_bundle
from tests.support.services import CONFIG, WITH_BASE, make_service, play, request
from tests.support.signers import Signer
from tests.support.taught import write_adapter, write_base, write_head

COST = Cost(20.0, 3.0, 61, 2)


def test_a_request_becomes_a_result(tmp_path: Path) -> None:
    calls: list[Call] = []

    def answer(call: Call) -> Output:
        calls.append(call)
        return Output(COST, probabilities=(0.25, 0.75), truncated=Truncated(3, 9))

    async def scene() -> None:
        service = make_service(tmp_path, on_call=answer)
        await service.start()
        result = await service.submit(request("triage"))
        await service.stop()
        assert (result.id, result.task, result.status) == ("7", "triage", "ok")
        assert result.result == {
            "label": "critical",
            "confidence": 0.75,
            "scores": {"normal": 0.25, "critical": 0.75},
            "stage": "small",
            "taught": False,
        }
        assert result.model == service.models.label("small")
        assert result.usage == {"prompt_tokens": 61, "completion_tokens": 2}
        assert result.truncated == Truncated(3, 9)
        assert list(result.timings_ms) == ["queue", "prefill", "decode", "total"]
        assert (result.timings_ms["prefill"], result.timings_ms["decode"]) == (20.0, 3.0)
        assert 0 <= result.timings_ms["queue"] <= result.timings_ms["total"]
        assert isinstance(calls[0], Score)

    play(scene)


def test_what_prompts_begin_with_is_read_in_advance(tmp_path: Path) -> None:
    """Each decoder's task once, less urgent than any request; what the engine says to it is nobody's."""
    calls: list[Call] = []
    processes: dict[str, FakeProcess] = {}

    def answer(call: Call) -> Output:
        calls.append(call)
        return Output()

    more = """
    brief: {kind: summarize, model: small, max_tokens: 90}
    manual: {kind: answer, model: small, mode: compose}
    quote: {kind: answer, model: small, mode: quote}
    story: {kind: generate, model: small, temperature: 1}
    """

    async def scene() -> None:
        service = make_service(tmp_path, more, on_call=answer, processes=processes)
        await service.start()
        await warm(service.deployment)
        await service.stop()
        assert [type(call) for call in calls] == [Score, Generate, Generate]
        assert all(call.only_read for call in calls if isinstance(call, Generate | Score))
        assert processes["small"].priorities == [-1] * 3

    play(scene)


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """The bundles of a service's own processes, and the options of each."""
    told: list[tuple[str, dict[str, Any]]] = []

    def make_process(bundle: Path, **options: Any) -> FakeProcess:
        told.append((bundle.name, options))
        return FakeProcess(bundle)

    for name, kind in (("small", "decoder"), ("encoder", "encoder")):
        write_bundle(tmp_path / name, kind)
    monkeypatch.setattr("edgeslm.engine.host.team.EngineProcess", make_process)
    return told


def test_engines_are_told_what_computes_and_how_it_waits(
    tmp_path: Path, told: list[tuple[str, dict[str, Any]]]
) -> None:
    text = CONFIG.format(folder=tmp_path).replace("threads: 3", "threads: 3, device: cuda")
    Service(parse_config(text + "power: idle\n"))
    seen = {name: (options["threads"], options["device"], options["power"]) for name, options in told}
    assert seen == {"small": (3, "cuda", "idle"), "encoder": (0, "cpu", "idle")}


@pytest.mark.parametrize(("workers", "threads"), [(1, 3), (4, 3)])
def test_as_many_requests_run_as_a_model_has_workers(
    tmp_path: Path, told: list[tuple[str, dict[str, Any]]], workers: int, threads: int
) -> None:
    text = CONFIG.format(folder=tmp_path).replace("threads: 3", f"threads: 3, workers: {workers}")
    service = Service(parse_config(text))
    assert service.scheduler.slots == workers
    assert [options["threads"] for _, options in told].count(threads) == workers


def test_threads_that_are_not_named_are_a_share_of_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeslm.serving.builder.usable_cores", lambda: 8)
    seen: list[Hardware] = []

    def make_process(bundle: Bundle, hardware: Hardware, adapters: Adapters) -> FakeProcess:
        seen.append(hardware)
        return FakeProcess(bundle.path)

    for name, kind in (("small", "decoder"), ("encoder", "encoder")):
        write_bundle(tmp_path / name, kind)
    text = CONFIG.format(folder=tmp_path).replace("threads: 3", "workers: 3")
    Service(parse_config(text), make_process=make_process)
    assert {(one.threads, one.workers) for one in seen} == {(2, 3), (0, 1)}


def test_a_request_without_a_time_of_receipt_has_sound_timings(tmp_path: Path) -> None:
    async def scene() -> None:
        service = make_service(tmp_path, on_call=lambda call: Output(vectors=((1.0,),)))
        result = await service.submit(Request("vector", "x", "7", "r"))
        assert result.timings_ms["queue"] == 0
        assert result.timings_ms["total"] < 60_000

    play(scene)


@pytest.mark.parametrize(
    ("sent", "code", "words"),
    [
        (request("nothing"), "unknown_task", "there is no task 'nothing' here; there are: triage, vector"),
        (request("triage", {"a": 1}), "invalid_request", "takes a text"),
        (request("triage", options={"max_tokens": 3}), "invalid_request", "'max_tokens'"),
    ],
)
def test_what_needs_no_engine_is_refused_before_the_queue(
    tmp_path: Path, sent: Request, code: str, words: str
) -> None:
    async def scene() -> None:
        service = make_service(tmp_path)
        result = await service.submit(sent)
        assert result.error is not None
        assert result.error.code == code
        assert words in result.error.message
        assert service.models.pids == {}, "no engine was started for it"

    play(scene)


def test_an_error_of_the_engine_is_the_result(tmp_path: Path) -> None:
    def answer(call: Call) -> Output:
        raise TooLong("9 tokens and room for 3")

    async def scene() -> None:
        result = await make_service(tmp_path, on_call=answer).submit(request("triage"))
        assert result.error is not None
        assert (result.error.code, result.error.message) == ("too_long", "9 tokens and room for 3")

    play(scene)


def test_messages_are_counted_where_no_model_can_say_what_they_are_about(tmp_path: Path) -> None:
    """Nobody sends again what a window has gathered; a text that can't be summarised stays an error."""
    ids = [f"m{number}" for number in range(5)]
    messages = {"messages": [{"id": id, "text": "spindle 3 runs hot"} for id in ids]}

    def fail(call: Call) -> Output:
        raise ModelUnavailable("its process ended")

    async def scene() -> None:
        service = make_service(tmp_path, "brief: {kind: summarize, model: small}", on_call=fail)
        await service.start()
        counted = await service.submit(request("brief", messages))
        text = await service.submit(request("brief", "Spindle 1 runs hot."))
        await service.stop()
        assert (counted.status, counted.error) == ("ok", None)
        assert counted.result is not None
        assert (counted.result["messages"], counted.result["extractive"]) == (5, True)
        assert [point["ids"] for point in counted.result["points"]] == [ids]
        assert text.error is not None and text.error.code == "model_unavailable"

    play(scene)


def test_where_signatures_are_required_every_bundle_needs_one(tmp_path: Path) -> None:
    """Models, learned heads and adapters; no engine runs before all are found good."""
    signer = Signer(tmp_path)
    encoder = make_service(tmp_path).models.bundle("encoder").digest
    adapter = write_adapter(tmp_path / "adapter", write_base(tmp_path / "ready"))
    models = [tmp_path / name for name in ("small", "ready", "encoder")]
    folders = [*models, write_head(tmp_path / "learned", encoder), adapter]
    more = (
        f"topic: {{learned: {tmp_path}/learned}}\nsay: {{kind: generate, model: ready, adapter: {adapter}}}\n"
    )
    sections = f"state_dir: {tmp_path}/state\nsigning: {{require_signature: true, keys: [{signer.public}]}}\n"

    async def scene() -> None:
        for folder in folders:
            service = make_service(tmp_path, more, sections=sections, config=WITH_BASE)
            with pytest.raises(
                BundleError, match=f"{folder}/model.sig: missing, so the bundle is not signed"
            ):
                await service.start()
            assert service.models.pids == {}
            signer.sign(folder)
        service = make_service(tmp_path, more, sections=sections, config=WITH_BASE)
        await service.start()
        assert set(service.models.pids) == {"small", "ready", "encoder"}
        await service.stop()

    play(scene)


def test_all_bundles_of_a_configuration_are_those_that_a_service_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that doctor speaks of the same ones."""
    loaded: list[Path] = []

    class Spy(Trust):
        def load(self, path: Path) -> Bundle:
            loaded.append(path)
            return super().load(path)

    write_head(tmp_path / "learned", make_service(tmp_path).models.bundle("encoder").digest)
    monkeypatch.setattr("edgeslm.serving.builder.Trust", Spy)
    adapter = write_adapter(tmp_path / "adapter", write_base(tmp_path / "ready"))
    more = (
        f"topic: {{learned: {tmp_path}/learned}}\nsay: {{kind: generate, model: ready, adapter: {adapter}}}\n"
    )
    make_service(tmp_path, more, config=WITH_BASE)
    text = WITH_BASE.format(folder=tmp_path) + textwrap.indent(more, "  ")
    assert sorted(loaded) == sorted(parse_config(text).bundles.values())


def test_everything_that_doesnt_fit_is_said_at_once(tmp_path: Path) -> None:
    write_head(tmp_path / "learned", "sha256:0")
    write_bundle(tmp_path / "plain")
    more = f"""
    topic: {{learned: {tmp_path}/learned}}
    odd: {{learned: {tmp_path}/plain}}
    swapped: {{kind: embed, model: small}}
    other: {{kind: generate, model: encoder}}
    """
    with pytest.raises(ConfigError) as caught:
        make_service(tmp_path, more)
    assert [problem.split(": ")[0] for problem in caught.value.problems] == [
        "tasks.topic.learned",
        "tasks.odd.learned",
        "tasks.swapped.model",
        "tasks.other.model",
    ]
    assert caught.value.problems[2].endswith("small is of kind decoder; this task needs kind encoder")


@pytest.mark.parametrize("missing", ["learned", "model"])
def test_a_bundle_that_is_missing(tmp_path: Path, missing: str) -> None:
    config = CONFIG.replace("{folder}/small", "{folder}/none") if missing == "model" else CONFIG
    more = f"topic: {{learned: {tmp_path}/none}}\n" if missing == "learned" else ""
    with pytest.raises(ConfigError, match="none: there is no such folder"):
        make_service(tmp_path, more, config=config)


def test_each_task_kind_is_served(tmp_path: Path) -> None:
    """One of each through the whole service: its result fits the schema that ``info`` publishes."""
    import jsonschema

    more = """
    fields: {kind: extract, model: small, schema: {type: object, properties: {a: {type: string}}}}
    manual: {kind: answer, model: small}
    brief: {kind: summarize, model: small}
    say: {kind: generate, model: small}
    """

    def answer(call: Call) -> Output:
        if isinstance(call, Score):
            return Output(COST, probabilities=(0.5, 0.5))
        if isinstance(call, Embed):
            return Output(COST, vectors=((0.0, 1.0),))
        guided = getattr(call, "guide", None) is not None and call.guide.kind == "json_schema"  # type: ignore[union-attr]
        return Output(COST, text='{"a":"x"}' if guided else "oil", finish_reason="stop")

    async def scene() -> None:
        service = make_service(tmp_path, more, answer)
        for name, task in service.tasks.items():
            options = {"context": "the oil level"} if name == "manual" else {}
            result = await service.submit(request(name, "the oil level", options=options))
            assert result.status == "ok", (name, result.error)
            jsonschema.validate(result.result, task.result_schema())

    play(scene)


def test_each_call_of_a_task_names_its_adapter_and_results_too(tmp_path: Path) -> None:
    seen = []

    def answer(call: Call) -> Output:
        assert isinstance(call, Generate | Score)
        seen.append(call.adapter)
        return Output(text="here", finish_reason="stop", probabilities=(0.9, 0.1))

    async def scene() -> None:
        adapter = write_adapter(tmp_path / "adapter", write_base(tmp_path / "ready"))
        more = f"""
        say: {{kind: generate, model: ready, adapter: {adapter}}}
        plain: {{kind: generate, model: ready}}
        label: {{kind: classify, model: ready, labels: [a, b], adapter: {adapter}}}
        """
        service = make_service(tmp_path, more, answer, config=WITH_BASE)
        results = [await service.submit(request(task)) for task in ("say", "plain", "label")]
        assert seen == [str(adapter), None, str(adapter)]
        base = service.models.label("ready")
        digest = load_bundle(adapter).digest[:19]
        assert [result.model for result in results] == [f"{base}+{digest}", base, f"{base}+{digest}"]

    play(scene)


def test_adapters_that_dont_fit_are_said_at_once(tmp_path: Path) -> None:
    digest = write_base(tmp_path / "ready")
    more = f"""
    none: {{kind: generate, model: ready, adapter: {tmp_path}/nothing}}
    base: {{kind: generate, model: ready, adapter: {tmp_path}/ready}}
    other: {{kind: generate, model: ready, adapter: {write_adapter(tmp_path / "other", "sha256:0")}}}
    old: {{kind: generate, model: small, adapter: {write_adapter(tmp_path / "good", digest)}}}
    """
    with pytest.raises(ConfigError) as caught:
        make_service(tmp_path, more, config=WITH_BASE)
    sentences = (
        "there is no such folder",
        "where an adapter is needed",
        "made for the base",
        "export it again",
    )
    assert len(caught.value.problems) == 4
    for problem, task, sentence in zip(
        caught.value.problems, ("none", "base", "other", "old"), sentences, strict=True
    ):
        assert problem.startswith(f"tasks.{task}.adapter: ")
        assert sentence in problem

"""The service: tasks that were taught, and tasks of several stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgeslm.bundle.manifest import load_bundle, short_digest
from edgeslm.engine.calls import Adapters, Call, Classify, Cost, Generate, Output, Score
from edgeslm.engine.host.process import EngineCrashed
from edgeslm.errors import ConfigError, ModelUnavailable, TooLong
from edgeslm.messages import Turn
from tests.support.nodes import write_bundle
from tests.support.services import WITH_BASE, make_service, play, request
from tests.support.taught import (
    CLASSIFY,
    EXTRACT,
    RISK,
    calibration,
    write_adapter,
    write_base,
    write_head,
)

SURE = Output(Cost(1.0, 2.0, 3, 4), probabilities=(0.95, 0.05))
UNSURE = Output(Cost(10.0, 20.0, 30, 40), probabilities=(0.45, 0.55))


def encoder_digest(folder: Path) -> str:
    return load_bundle(write_bundle(folder / "encoder", "encoder")).digest


class Engines:
    """Answers as the head (Classify) and as the decoder (Score), and keeps the calls."""

    def __init__(self, head: Output | Exception, decoder: Output | Exception = SURE) -> None:
        self.calls: list[Call] = []
        self._answers = {Classify: head, Score: decoder}

    def __call__(self, call: Call) -> Output:
        self.calls.append(call)
        answer = self._answers[type(call)]
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def asked(self) -> list[str]:
        return ["head" if isinstance(call, Classify) else "decoder" for call in self.calls]


# -- heads -----------------------------------------------------------------------------------------


def test_a_learned_task_finds_its_encoder(tmp_path: Path) -> None:
    learned = write_head(tmp_path / "learned", encoder_digest(tmp_path))
    engines = Engines(SURE)

    async def scene() -> None:
        service = make_service(tmp_path, f"topic: {{learned: {learned}}}\n", engines)
        assert service.deployment.model_of("topic") == "encoder"
        assert service.deployment.stages_of("topic") == ("learned",)
        assert service.tasks["topic"].kind == "classify"
        result = await service.submit(request("topic"))
        assert result.result is not None
        assert (result.result["label"], result.result["stage"]) == ("spam", "learned")
        assert engines.calls == [Classify("x", str(learned), digest=load_bundle(learned).digest)]

    play(scene)


def test_a_learned_folder_may_bring_its_encoder(tmp_path: Path) -> None:
    """It is a model of its own then, for which the configuration needs no entry."""

    async def scene() -> None:
        learned = write_head(tmp_path / "learned", None)
        service = make_service(tmp_path, f"topic: {{learned: {learned}}}\n", Engines(SURE))
        assert service.deployment.model_of("topic") == "learned/topic"
        assert service.models.bundle("learned/topic").path == learned
        result = await service.submit(request("topic"))
        assert result.model == service.models.label("learned/topic")

    play(scene)


def test_tasks_with_one_learned_folder_share_one_engine(tmp_path: Path) -> None:
    learned = write_head(tmp_path / "learned", None)
    more = f"topic: {{learned: {learned}}}\nstrict: {{learned: {learned}, threshold: 0.9}}\n"
    service = make_service(tmp_path, more)
    assert service.deployment.model_of("strict") == service.deployment.model_of("topic") == "learned/topic"
    config = WITH_BASE.replace("{folder}/ready", "{folder}/learned")
    service = make_service(tmp_path, more, config=config)
    assert service.deployment.model_of("topic") == "ready", "what has a name already gets no second one"
    assert set(service.models.names) == {"small", "ready", "encoder"}


# -- adapters --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("learned", "call"), [(CLASSIFY, Score), (EXTRACT, Generate)])
def test_a_learned_adapter_finds_its_base(tmp_path: Path, learned: dict[str, Any], call: type[Call]) -> None:
    """By the digest, whatever the model's name is; each call names the adapter, and results do too."""
    base = write_base(tmp_path / "ready")
    folder = write_adapter(tmp_path / "learned", base, learned)
    digest = load_bundle(folder).digest
    seen: list[Call] = []
    added: dict[str, Adapters] = {}

    def answer(call: Call) -> Output:
        seen.append(call)
        return Output(text='{"machine":"x"}', probabilities=(0.9, 0.1))

    async def scene() -> None:
        more = f"topic: {{learned: {folder}}}\n"
        service = make_service(tmp_path, more, answer, config=WITH_BASE, adapters=added)
        assert service.deployment.model_of("topic") == "ready"
        adapter = service.deployment.adapter_of("topic")
        assert adapter is not None
        assert adapter.path == folder
        assert service.tasks["topic"].kind == learned["kind"]
        result = await service.submit(request("topic"))
        assert result.status == "ok"
        assert result.model == f"{service.models.label('ready')}+{short_digest(digest)}"

    play(scene)
    assert added == {"small": {}, "ready": {folder: digest}, "encoder": {}}
    (only,) = seen
    assert isinstance(only, call)
    assert isinstance(only, Score | Generate)
    assert only.adapter == str(folder)


def test_learned_adapters_and_named_ones_share_their_base(tmp_path: Path) -> None:
    base = write_base(tmp_path / "ready")
    folders = [write_adapter(tmp_path / name, base, CLASSIFY) for name in ("one", "two")]
    named = write_adapter(tmp_path / "named", base)
    more = f"""
    one: {{learned: {folders[0]}}}
    two: {{learned: {folders[1]}, model: ready}}
    say: {{kind: generate, model: ready, adapter: {named}}}
    """
    added: dict[str, Adapters] = {}
    make_service(tmp_path, more, config=WITH_BASE, adapters=added)
    assert set(added["ready"]) == {*folders, named}


def test_a_learned_adapter_whose_base_is_no_model_here(tmp_path: Path) -> None:
    base = write_base(tmp_path / "ready")
    folder = write_adapter(tmp_path / "learned", base, CLASSIFY)
    with pytest.raises(ConfigError) as caught:
        make_service(tmp_path, f"topic: {{learned: {folder}}}\n")
    assert caught.value.problems == [
        f"tasks.topic.learned: name the decoder bundle {short_digest(base)} that it adds to in models"
    ]


def test_learned_adapters_that_dont_fit_are_said_at_once(tmp_path: Path) -> None:
    base = write_base(tmp_path / "ready")
    plain = load_bundle(write_bundle(tmp_path / "small")).digest
    risk = {**CLASSIFY, "calibration": calibration(risk=RISK)}
    more = f"""
    untaught: {{learned: {write_adapter(tmp_path / "untaught", base)}}}
    old: {{learned: {write_adapter(tmp_path / "old", plain, CLASSIFY)}}}
    other: {{learned: {write_adapter(tmp_path / "other", plain, CLASSIFY)}, model: ready}}
    encoder: {{learned: {write_adapter(tmp_path / "encoder-s", base, CLASSIFY)}, model: encoder}}
    strict: {{learned: {write_adapter(tmp_path / "strict", base, risk)}, max_error: 0.001}}
    """
    with pytest.raises(ConfigError) as caught:
        make_service(tmp_path, more, config=WITH_BASE)
    expected = (
        ("untaught.learned", "holds no task that was learned"),
        ("old.learned", "has no graph that takes adapters"),
        ("other.learned", "made for the base"),
        ("encoder.model", "encoder is of kind encoder; this task needs kind decoder"),
        ("strict.max_error", "0.001 is not reachable"),
    )
    for problem, (key, sentence) in zip(caught.value.problems, expected, strict=True):
        assert problem.startswith(f"tasks.{key}: ")
        assert sentence in problem


def test_fields_to_find_must_come_from_somewhere(tmp_path: Path) -> None:
    """An adapter may bring its schema; one that doesn't say what it was taught has none."""
    base = write_base(tmp_path / "ready")
    taught = write_adapter(tmp_path / "taught", base, EXTRACT)
    untaught = write_adapter(tmp_path / "untaught", base)
    more = "fields: {{kind: extract, model: ready, adapter: {}}}\n"
    service = make_service(tmp_path, more.format(taught), config=WITH_BASE)
    assert service.tasks["fields"].section.output_schema == EXTRACT["output_schema"]
    with pytest.raises(ConfigError, match=r"tasks\.fields\.schema: missing"):
        make_service(tmp_path, more.format(untaught), config=WITH_BASE)


# -- stages ----------------------------------------------------------------------------------------


def in_stages(folder: Path, **changes: Any) -> str:
    """A task that a head answers, and the model small where the head isn't sure."""
    learned = write_head(folder / "learned", encoder_digest(folder), calibration=calibration(risk=RISK))
    fields = {
        "kind": "classify",
        "learned": learned,
        "stages": "[learned, small]",
        "max_error": 0.1,
        **changes,
    }
    return (
        f"topic: {{{', '.join(f'{key}: {value}' for key, value in fields.items() if value is not None)}}}\n"
    )


def test_a_head_that_is_sure_answers_alone(tmp_path: Path) -> None:
    engines = Engines(SURE)

    async def scene() -> None:
        service = make_service(tmp_path, in_stages(tmp_path), engines)
        assert service.deployment.stages_of("topic") == ("learned", "small")
        assert service.deployment.model_of("topic") == "encoder"
        assert service.deployment.adapter_of("topic") is None
        result = await service.submit(request("topic"))
        assert result.result is not None
        assert (result.status, result.result["stage"]) == ("ok", "learned")
        assert result.model == service.models.label("encoder")
        assert engines.asked == ["head"]

    play(scene)


def test_what_the_head_isnt_sure_of_the_model_is_asked(tmp_path: Path) -> None:
    engines = Engines(UNSURE, SURE)

    async def scene() -> None:
        service = make_service(tmp_path, in_stages(tmp_path, labels="{spam: unwanted, ham: fine}"), engines)
        result = await service.submit(request("topic"))
        assert result.result is not None
        assert (result.status, result.result["stage"], result.result["label"]) == ("ok", "small", "spam")
        assert result.model == service.models.label("small")
        assert result.usage == {"prompt_tokens": 33, "completion_tokens": 44}
        assert (result.timings_ms["prefill"], result.timings_ms["decode"]) == (11.0, 22.0)
        assert engines.asked == ["head", "decoder"]
        call = engines.calls[1]
        assert isinstance(call, Score)
        assert call.adapter is None
        assert "- spam: unwanted\n- ham: fine" in call.prompt.turns[0].parts

    play(scene)


def test_only_the_first_stage_is_watched(tmp_path: Path) -> None:
    """What a later one sees is never like what it was taught with."""
    reference = {"distances": [], "confidences": [0.6, 0.8, 1.0], "labels": [0.5, 0.5]}
    for number, (stages, watched) in enumerate((("[learned, small]", True), ("[small, learned]", False))):
        folder = tmp_path / str(number)
        more = in_stages(folder, stages=stages)
        write_head(
            folder / "learned",
            encoder_digest(folder),
            calibration=calibration(risk=RISK),
            reference=reference,
        )

        async def scene(folder: Path = folder, more: str = more, watched: bool = watched) -> None:
            service = make_service(folder, more, Engines(UNSURE, UNSURE))
            await service.submit(request("topic"))
            assert ("topic" in service.deployment.watches) == watched

        play(scene)


def test_the_labels_of_a_head_are_those_that_the_model_is_asked_for(tmp_path: Path) -> None:
    engines = Engines(UNSURE)

    async def scene() -> None:
        result = await make_service(tmp_path, in_stages(tmp_path), engines).submit(request("topic"))
        assert result.status == "ok"
        call = engines.calls[1]
        assert isinstance(call, Score)
        assert call.labels == ("spam", "ham")

    play(scene)


def test_the_kind_of_what_was_learned_is_that_of_all_stages(tmp_path: Path) -> None:
    service = make_service(tmp_path, in_stages(tmp_path, kind=None))
    assert service.deployment.stages_of("topic") == ("learned", "small")


def test_what_no_stage_is_sure_of_is_abstained(tmp_path: Path) -> None:
    async def scene() -> None:
        result = await make_service(tmp_path, in_stages(tmp_path), Engines(UNSURE, UNSURE)).submit(
            request("topic")
        )
        assert result.result is not None
        assert (result.status, result.result["stage"]) == ("abstained", "small")

    play(scene)


@pytest.mark.parametrize("error", [TooLong("x"), ModelUnavailable("x")])
def test_a_stage_that_cant_answer_passes_on(tmp_path: Path, error: Exception) -> None:
    async def scene() -> None:
        service = make_service(tmp_path, in_stages(tmp_path), Engines(error, SURE))
        result = await service.submit(request("topic"))
        assert result.result is not None
        assert (result.status, result.result["stage"]) == ("ok", "small")

    play(scene)


def test_a_request_that_crashes_a_stage_is_put_to_no_other(tmp_path: Path) -> None:
    engines = Engines(EngineCrashed("gone"), SURE)

    async def scene() -> None:
        result = await make_service(tmp_path, in_stages(tmp_path), engines).submit(request("topic"))
        assert result.error is not None
        assert result.error.code == "poisoned"
        assert engines.asked == ["head", "head"]

    play(scene)


def test_a_request_starts_once_however_many_stages_are_asked(tmp_path: Path) -> None:
    starts: list[None] = []

    async def scene() -> None:
        service = make_service(tmp_path, in_stages(tmp_path), Engines(UNSURE, SURE))
        await service.submit(request("topic"), attempt=Turn(lambda: starts.append(None)))

    play(scene)
    assert len(starts) == 1


def test_stages_of_models_alone(tmp_path: Path) -> None:
    """The adapter of a task is for its models: each must take it."""
    base = write_base(tmp_path / "ready")
    write_base(tmp_path / "large")
    config = WITH_BASE.replace("  encoder:", "  large: {{bundle: {folder}/large}}\n  encoder:")
    asked = "kind: classify, labels: [a, b], threshold: 0.5"
    service = make_service(tmp_path, f"topic: {{{asked}, stages: [small, ready]}}\n", config=config)
    assert service.deployment.stages_of("topic") == ("small", "ready")
    adapter = write_adapter(tmp_path / "adapter", base)
    with pytest.raises(ConfigError, match=r"tasks\.topic\.adapter: .*small: it has no graph that takes"):
        make_service(
            tmp_path, f"topic: {{{asked}, stages: [ready, small], adapter: {adapter}}}\n", config=config
        )


def test_an_adapter_is_for_the_models_and_a_head_for_itself(tmp_path: Path) -> None:
    base = write_base(tmp_path / "ready")
    adapter = write_adapter(tmp_path / "adapter", base, CLASSIFY)
    engines = Engines(UNSURE, SURE)

    async def scene() -> None:
        more = in_stages(tmp_path, stages="[learned, ready]", adapter=adapter)
        service = make_service(tmp_path, more, engines, config=WITH_BASE)
        result = await service.submit(request("topic"))
        assert result.model == f"{service.models.label('ready')}+{short_digest(load_bundle(adapter).digest)}"
        call = engines.calls[1]
        assert isinstance(call, Score)
        assert call.adapter == str(adapter)

    play(scene)


@pytest.mark.parametrize("stages", ["[learned, small]", "[small, learned]"])
def test_a_stage_that_never_passes_on_is_refused(tmp_path: Path, stages: str) -> None:
    """The stages behind it would never be asked."""
    with pytest.raises(
        ConfigError, match=r"tasks\.topic\.stages: no stage passes requests on: set a threshold"
    ):
        make_service(tmp_path, in_stages(tmp_path, stages=stages, max_error=None))


def test_a_single_stage_needs_no_threshold(tmp_path: Path) -> None:
    service = make_service(tmp_path, in_stages(tmp_path, stages="[learned]", max_error=None))
    assert service.deployment.stages_of("topic") == ("learned",)

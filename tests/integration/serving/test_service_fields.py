"""The service: fields that a head learned to point at, and what is watched without labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from edgeslm.bundle.manifest import load_bundle
from edgeslm.engine.calls import Call, Classify, Cost, Output, Point, Pointed
from edgeslm.errors import ConfigError
from edgeslm.telemetry.drift import FEWEST
from tests.support.nodes import write_bundle
from tests.support.pointers import POINTED, RISK, at, fitted
from tests.support.services import make_service, play, request
from tests.support.taught import write_head

MESSAGE = "Press 4 runs at 40 degrees"
REFERENCE = {"confidences": [0.6, 0.8, 1.0], "labels": []}
LABELS = Output(probabilities=(0.95, 0.05))


def points(share: float) -> Output:
    """What a head says of a machine at 40 degrees, so sure."""
    machine = Pointed((1.0,), (at(MESSAGE, "Press 4", share),))
    celsius = Pointed((0.0, 1.0), (at(MESSAGE, "40"),))
    return Output(Cost(1.0, 2.0, 3, 4), fields=(machine, celsius, Pointed((0.0, 1.0, 0.0))), distance=0.5)


def always(share: float) -> Callable[[Call], Output]:
    return lambda call: points(share)


def points_or_writes(share: float) -> Callable[[Call], Output]:
    """An encoder beside a decoder."""
    written = Output(text='{"machine":"Press 4"}', finish_reason="stop")
    return lambda call: points(share) if isinstance(call, Point) else written


def encoder_digest(folder: Path) -> str:
    return load_bundle(write_bundle(folder / "encoder", "encoder")).digest


def in_fields(folder: Path, **learned: Any) -> str:
    head = write_head(folder / "fields", encoder_digest(folder), **{**POINTED, **learned})
    return f"fields: {{learned: {head}}}\n"


def test_a_learned_head_finds_fields(tmp_path: Path) -> None:
    seen: list[Call] = []

    def answer(call: Call) -> Output:
        seen.append(call)
        return points(0.75)

    async def scene() -> None:
        service = make_service(tmp_path, in_fields(tmp_path), answer)
        assert service.deployment.model_of("fields") == "encoder"
        assert service.deployment.adapter_of("fields") is None
        assert service.tasks["fields"].kind == "extract"
        assert service.deployment.watches == {}, "it doesn't say what it was tested with"
        result = await service.submit(request("fields", MESSAGE))
        assert result.status == "ok"
        assert result.result == {
            "fields": {"machine": "Press 4", "celsius": 40, "state": "on"},
            "spans": {"machine": {"start": 0, "end": 7}, "celsius": {"start": 16, "end": 18}},
            "confidence": 0.75,
            "stage": "learned",
        }
        assert result.model == service.models.label("encoder")
        assert result.usage == {"prompt_tokens": 3, "completion_tokens": 4}

    play(scene)
    folder = tmp_path / "fields"
    assert seen == [Point(MESSAGE, str(folder), digest=load_bundle(folder).digest)]


def test_fields_that_the_head_isnt_sure_of_are_abstained(tmp_path: Path) -> None:
    risk = fitted(margins=[], confidences=[], risk=RISK)
    more = in_fields(tmp_path, calibration=risk).replace("}\n", ", max_error: 0.05}\n")

    async def scene() -> None:
        for share, status in ((0.75, "ok"), (0.5, "abstained")):
            service = make_service(tmp_path, more, always(share))
            assert (await service.submit(request("fields", MESSAGE))).status == status

    play(scene)


def test_fields_that_the_head_isnt_sure_of_are_written_by_the_next_stage(tmp_path: Path) -> None:
    more = in_fields(tmp_path).replace("}\n", ", stages: [learned, small], threshold: 0.5}\n")

    async def scene() -> None:
        for share, stage in ((0.75, "learned"), (0.25, "small")):
            service = make_service(tmp_path, more, points_or_writes(share))
            result = await service.submit(request("fields", MESSAGE))
            assert result.status == "ok"
            assert result.result is not None
            assert result.result["stage"] == stage
            assert ("confidence" in result.result) == (stage == "learned")
            schema = service.tasks["fields"].result_schema()
            Draft202012Validator({**schema, "properties": {}}).validate(result.result)

    play(scene)


def test_nothing_comes_behind_what_writes_fields(tmp_path: Path) -> None:
    more = in_fields(tmp_path).replace("}\n", ", stages: [small, learned], threshold: 0.5}\n")
    sentence = r"tasks\.fields\.stages: small writes fields and never passes on, so learned is never asked"
    with pytest.raises(ConfigError, match=sentence):
        make_service(tmp_path, more)


def test_messages_whose_fields_it_is_less_sure_of_have_moved_away(tmp_path: Path) -> None:
    """There are no labels that could move."""

    async def scene() -> None:
        for share, moved in ((1.0, False), (0.25, True)):
            more = in_fields(tmp_path, reference={**REFERENCE, "distances": [0.5, 0.6, 0.7]})
            service = make_service(tmp_path, more, always(share))
            for _ in range(FEWEST):
                await service.submit(request("fields", MESSAGE))
            watch = service.deployment.watches["fields"]
            assert (watch.moved, watch.figures()["messages"]) == (moved, FEWEST)
            assert (watch.figures()["labels"], "distance" in watch.figures()) == (0, True)
            assert watch.reasons == (["the confidence is lower"] if moved else [])

    play(scene)


def test_a_task_that_is_watched_says_which_model_answered(tmp_path: Path) -> None:
    """Not which label it gave."""
    labels = write_head(
        tmp_path / "topic", encoder_digest(tmp_path), reference={**REFERENCE, "labels": [0.5, 0.5]}
    )
    more = f"topic: {{learned: {labels}}}\n" + in_fields(tmp_path, reference=REFERENCE)

    async def scene() -> None:
        service = make_service(
            tmp_path, more, lambda call: LABELS if isinstance(call, Classify) else points(0.75)
        )
        assert set(service.deployment.watches) == {"topic", "fields"}
        for task in ("topic", "fields"):
            result = await service.submit(request(task, MESSAGE))
            assert result.model == service.models.label("encoder")

    play(scene)

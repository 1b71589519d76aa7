"""Training on another device than the CPU: nothing is left on the CPU, and the results are the CPU's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from edgeslm_export.models.encoder import read_pooling
from edgeslm_export.sources.checkpoint import examine_local
from edgeslm_export.train import job as jobs
from edgeslm_export.train.contrastive import PAIRS, train_contrastive
from edgeslm_export.train.cross_encoder_training import Asked, PairText, train_reader
from edgeslm_export.train.encoder_finetune import train_encoder
from edgeslm_export.train.field_spec import aim_at, plan_fields
from edgeslm_export.train.job import TrainingJob
from edgeslm_export.train.loop import Schedule
from edgeslm_export.train.lora_training import AdapterShape, TokenRow, train_decoder
from edgeslm_export.train.retriever_training import Sought, train_retriever
from edgeslm_export.train.span_training import train_spans
from safetensors.numpy import load_file

from edgeslm.errors import ExportError
from tests.support.export.second_device import run_on_second
from tests.support.export.tiny_tasks import FOUND, findings, make_field_spec, sayings

pytestmark = [pytest.mark.export, pytest.mark.usefixtures("one_thread")]
SCHEDULE = Schedule(epochs=2, batch=8, rate=1e-3)
TEXTS, TRUTH = sayings(16)
Train = Callable[[TrainingJob], dict[str, Any]]


def labels(job: TrainingJob) -> dict[str, Any]:
    section, _ = read_pooling(job.source)
    return train_encoder(replace(job, aside=[0, 1]), section, 64, TEXTS, TRUTH, 2)


def pairs(job: TrainingJob) -> dict[str, Any]:
    section, _ = read_pooling(job.source)
    return train_contrastive(replace(job, schedule=PAIRS), section, 64, TEXTS[:6], TRUTH[:6])


def fields(job: TrainingJob) -> dict[str, Any]:
    spec = make_field_spec(findings(24), FOUND, required=["state"])
    plans = plan_fields(spec)
    aims = [
        [aim_at(field, FOUND[field.name], text, of_row.get(field.name)) for field in plans]
        for text, of_row in zip(spec.texts, spec.fields, strict=True)
    ]
    section, _ = read_pooling(job.source)
    return train_spans(job, section, 64, spec.texts, [field.options for field in plans], aims)


def answers(job: TrainingJob) -> dict[str, Any]:
    hot, loud = "the pump is hot", "the valve is loud"
    asked = [
        Asked("pump", (PairText(hot, True, (12, 15)), PairText(loud, False))),
        Asked("valve", (PairText(loud, True, (13, 17)), PairText(hot, False))),
    ] * 4
    return train_reader(replace(job, aside=[0, 1]), 64, asked)


def search(job: TrainingJob) -> dict[str, Any]:
    section, _ = read_pooling(job.source)
    own = [Sought("the pump is hot", ("alarm pump",), 0), Sought("the valve is loud", ("oil",), 1)]
    return train_retriever(job, section, 32, [own, [Sought("the press is loud", ("machine",), 2)]] * 4)


def arrays_of(folder: Path) -> dict[str, Any]:
    [file] = folder.glob("*.safetensors")
    arrays: dict[str, Any] = load_file(file)
    return arrays


@pytest.mark.parametrize("train", [labels, pairs, fields, answers, search])
def test_an_encoder_is_trained_on_the_device(
    train: Train, tmp_path: Path, encoders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = TrainingJob(encoders / "bge", tmp_path / "cpu", SCHEDULE)
    figures = train(job)
    monkeypatch.setattr(jobs, "run_module", run_on_second)
    others = train(replace(job, out=tmp_path / "second"))
    # Of a step of Adam, signs of gradients near 0 are chance; and the CPU may compute halves.
    assert others["loss"] == pytest.approx(figures["loss"], rel=0.05, abs=0.02)
    cpu, second = arrays_of(tmp_path / "cpu"), arrays_of(tmp_path / "second")
    assert cpu.keys() == second.keys()
    for name in cpu:
        assert second[name] == pytest.approx(cpu[name], abs=0.05)


@pytest.mark.parametrize("steps", [[([60, 61], [1.0, 0.0])], None])
def test_a_decoder_is_trained_on_the_device(
    steps: Any, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [TokenRow([1, 40, *range(70, 75 + number)], [60], steps) for number in range(4)]
    origin = examine_local(tiny / "plain", "decoder")
    job = TrainingJob(origin.path, tmp_path / "cpu", SCHEDULE)
    train_decoder(job, origin.architecture, tiny, rows, AdapterShape(4, "float"))
    monkeypatch.setattr(jobs, "run_module", run_on_second)
    train_decoder(
        replace(job, out=tmp_path / "second"), origin.architecture, tiny, rows, AdapterShape(4, "float")
    )
    cpu, second = arrays_of(tmp_path / "cpu"), arrays_of(tmp_path / "second")
    for name in cpu:
        assert second[name] == pytest.approx(cpu[name], abs=1e-3)


def test_a_run_goes_on_on_another_device(
    tmp_path: Path, encoders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    job = TrainingJob(encoders / "bge", tmp_path / "out", SCHEDULE, state=state)
    longer = replace(job, schedule=replace(SCHEDULE, epochs=4))
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "run_module", run_on_second)
        labels(job)
    assert labels(longer)["epochs"] == 4
    monkeypatch.setattr(jobs, "run_module", run_on_second)
    assert labels(replace(longer, schedule=replace(SCHEDULE, epochs=6)))["epochs"] == 6


def test_a_full_gpu_is_one_sentence(tmp_path: Path, encoders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECOND_DEVICE_BYTES", "1000")
    monkeypatch.setattr(jobs, "run_module", run_on_second)
    with pytest.raises(ExportError, match=r"GPU has too little memory for this; .* --device cpu"):
        labels(TrainingJob(encoders / "bge", tmp_path / "out", SCHEDULE))

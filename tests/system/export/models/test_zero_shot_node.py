"""Tiny zero-shot checkpoints of three kinds: export, 8 bits, a node, and requests and routes over MQTT."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from edgeslm_export.evaluate.report_card import load_encoder
from edgeslm_export.models.zero_shot import export_zero_shot, read_zero_shot
from edgeslm_export.sources.checkpoint import examine_local

from edgeslm.config.loader import load_config
from edgeslm.engine.calls import FindSpans, LabelText
from edgeslm.messages import Request
from edgeslm.serving.label_calibration import LabelCalibration
from edgeslm.serving.service import Service
from edgeslm.storage.feedback_store import Correction, FeedbackStore
from edgeslm.tasks.classify import Classify
from tests.support.apps import WAIT_S, App
from tests.support.brokers import Mosquitto
from tests.support.export import tiny_zero_shot
from tests.support.nodes import BASE, NodeProcess

pytestmark = [pytest.mark.export, pytest.mark.e2e]

TEXT = "the pump of press 4 is hot"
LABELS = {"all_is_well": "", "hot": "too warm"}
PHRASES = ("all is well", "hot: too warm")
FIELDS = {"machine": {"type": "string"}, "words": {"type": "array", "items": {"type": "string"}}}
SURE = 0.01
"""Lowest probability of a span in the GLiNER's manifest: random weights are sure of nothing."""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("zero-shot")
    tiny_zero_shot.gliclass("bert", folder / "gliclass")
    tiny_zero_shot.gliner("bert", folder / "gliner")
    tiny_zero_shot.nli("modernbert", folder / "nli")
    found: dict[str, Path] = {}
    for kind in ("gliclass", "gliner", "nli"):
        origin = examine_local(folder / kind, "encoder")
        source = read_zero_shot(origin)
        assert source is not None and source.section.kind == kind
        found[kind] = folder / f"{kind}-int8"
        export_zero_shot(origin, source, found[kind], lambda said: None, "int8")
    _lower_threshold(found["gliner"])
    return found


def _lower_threshold(bundle: Path) -> None:
    file = bundle / "manifest.json"
    manifest = json.loads(file.read_bytes())
    manifest["zero_shot"]["least"] = SURE
    file.write_text(json.dumps(manifest))


@pytest.fixture(scope="module")
def app(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    broker = Mosquitto(tmp_path_factory.mktemp("broker"))
    broker.start()
    folder = tmp_path_factory.mktemp("node")
    configuration = {
        "node": "hall",
        "broker": {"url": broker.url},
        "models": {kind: {"bundle": str(path)} for kind, path in bundles.items()},
        "tasks": {
            "gliclass": {"kind": "classify", "model": "gliclass", "labels": LABELS},
            "nli": {"kind": "classify", "model": "nli", "labels": LABELS, "allow": ["labels"]},
            "gliner": {
                "kind": "extract",
                "model": "gliner",
                "schema": {"type": "object", "properties": FIELDS},
            },
        },
        "routes": [
            {
                "from": "plant/+/note",
                "task": task,
                "input": "{{ payload.note }}",
                "to": f"plant/{{{{ topic[1] }}}}/{task}",
            }
            for task in ("gliclass", "gliner")
        ],
        "prepare": "never",
        "state_dir": str(folder / "state"),
    }
    try:
        with (
            App(broker.port, f"{BASE}/res/#", f"{BASE}/state", f"{BASE}/info", "plant/#") as app,
            NodeProcess(folder, configuration) as process,
        ):
            process.wait_online(app)
            yield app
            assert process.terminate() == 0
    finally:
        broker.stop()


@pytest.fixture(scope="module")
def schemas(app: App) -> dict[str, Any]:
    """Schemas of the tasks' results, as the node publishes them."""
    tasks = app.take(f"{BASE}/info").json["tasks"]
    return {name: task["result_schema"] for name, task in tasks.items()}


def ask(app: App, task: str, **options: Any) -> dict[str, Any]:
    app.publish(f"{BASE}/req/{task}", {"input": TEXT, "id": "1", "options": options})
    return app.take(f"{BASE}/res/{task}").json


@pytest.mark.parametrize("task", ["gliclass", "nli"])
def test_labels_are_those_of_the_engine(
    app: App, bundles: dict[str, Path], schemas: dict[str, Any], task: str
) -> None:
    found = ask(app, task)
    assert found["status"] == "ok"
    assert found["model"].startswith(f"{task}@sha256:")
    result = found["result"]
    jsonschema.validate(result, schemas[task])
    wanted = load_encoder(bundles[task], 1).run(LabelText(TEXT, PHRASES))
    assert list(result["scores"]) == list(LABELS)
    assert list(result["scores"].values()) == pytest.approx(wanted.probabilities, abs=1e-4)
    assert result["label"] == max(result["scores"], key=result["scores"].get)
    assert result["confidence"] == max(result["scores"].values())
    assert (result["stage"], result["taught"]) == (task, False)
    assert found["usage"]["prompt_tokens"] == wanted.cost.prompt_tokens > 0


def test_a_request_brings_labels(app: App) -> None:
    found = ask(app, "nli", labels=["oil", "pump", "weather"])["result"]
    assert list(found["scores"]) == ["oil", "pump", "weather"]
    assert sum(found["scores"].values()) == pytest.approx(1, abs=1e-5)


def test_fields_have_their_places_and_scores(
    app: App, bundles: dict[str, Path], schemas: dict[str, Any]
) -> None:
    result = ask(app, "gliner")["result"]
    jsonschema.validate(result, schemas["gliner"])
    found = load_encoder(bundles["gliner"], 1).run(FindSpans(TEXT, tuple(FIELDS)))
    machine, words = found.places
    assert machine or words, "this model's weights find nothing; take another seed"
    values: dict[str, Any] = {}
    shares: dict[str, float] = {}
    if machine:
        start, end, shares["machine"] = machine[0]
        assert result["spans"]["machine"] == {"start": start, "end": end}
        values["machine"] = TEXT[start:end]
    if words:
        values["words"] = [TEXT[start:end] for start, end, _ in sorted(words)]
        shares["words"] = min(share for _, _, share in words)
        assert result["spans"]["words.0"] == dict(zip(("start", "end"), sorted(words)[0][:2], strict=True))
    assert result["fields"] == values
    assert result["scores"] == pytest.approx(shares, abs=1e-4)
    assert (result["stage"], result["taught"]) == ("gliner", False)


def test_a_route_labels_messages_and_reads_their_fields(app: App) -> None:
    labelled, fields = ask(app, "gliclass")["result"], ask(app, "gliner")["result"]
    app.publish("plant/press-4/note", {"note": TEXT})
    label = app.take("plant/press-4/gliclass").json
    assert (label["status"], label["topic"], label["result"]) == ("ok", "plant/press-4/note", labelled)
    assert app.take("plant/press-4/gliner").json["result"] == fields


def test_what_doesnt_fit_is_refused_and_the_node_goes_on(app: App) -> None:
    app.publish(f"{BASE}/req/nli", {"input": "pump " * 2000, "id": "2"})
    assert app.take(f"{BASE}/res/nli").code == "too_long"
    app.publish(f"{BASE}/req/gliner", {"input": "pump " * 60, "id": "3"})
    assert app.take(f"{BASE}/res/gliner").code == "too_long"
    assert ask(app, "gliner")["status"] in ("ok", "abstained")


@pytest.mark.parametrize("kind", ["gliclass", "nli"])
def test_corrections_calibrate_a_task(
    bundles: dict[str, Path], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random weights lean to some labels; corrections of all messages to another one put that right."""
    monkeypatch.setattr("edgeslm.serving.label_calibration.LOOK_S", 0.05)
    made = {
        "node": "hall",
        "broker": {"url": "mqtt://localhost"},
        "models": {kind: {"bundle": str(bundles[kind])}},
        "tasks": {"mood": {"kind": "classify", "model": kind, "labels": LABELS}},
        "prepare": "never",
        "state_dir": str(tmp_path / "state"),
    }
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps(made))
    config = load_config(file)

    async def label(service: Service, text: str = TEXT) -> str:
        result = await service.submit(Request("mood", text, "1", ""))
        return str(result.unwrap()["label"])

    async def calibrate() -> str:
        service = Service(config)
        await service.start()
        extension = LabelCalibration(service)
        try:
            task = service.tasks["mood"]
            assert isinstance(task, Classify)
            await extension.start()
            async with asyncio.timeout(WAIT_S):
                while task.seen is None:
                    await asyncio.sleep(0.05)
            texts = [f"{TEXT}, note {number}" for number in range(36)]
            before = [await label(service, text) for text in texts]
            other = min(LABELS, key=before.count)
            assert before.count(other) < 20
            for text in texts[:34]:
                FeedbackStore(config.state_dir).keep(Correction("mood", text, other))
            async with asyncio.timeout(WAIT_S):
                while task.fitted is None:
                    await asyncio.sleep(0.05)
            assert await label(service) == other
            return other
        finally:
            await extension.stop()
            await service.stop()

    async def again() -> str:
        service = Service(config)
        await service.start()
        try:
            return await label(service)
        finally:
            await service.stop()

    other = asyncio.run(calibrate())
    assert asyncio.run(again()) == other, "after a restart, too"

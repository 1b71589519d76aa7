"""Sequence classifiers of transformers as learned tasks: probabilities, labels, and a task that uses one."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from edgeslm_export.cli.main import main as export
from edgeslm_export.evaluate.report_card import classify_texts, load_encoder
from edgeslm_export.models.classifier import read_labels

from edgeslm.bundle.manifest import load_bundle
from edgeslm.cli.main import main
from edgeslm.errors import ExportError
from tests.support.export import tiny_encoders

pytestmark = [pytest.mark.export, pytest.mark.usefixtures("one_thread")]

FAMILIES = (
    *("bge", "e5", "deberta", "modernbert"),
    *("Albert", "Camembert", "DistilBert", "Electra", "MPNet", "Roberta"),
)
LABELS = ("calm", "warm", "hot")
TEXTS = ("the pump is hot", "the valve is loud", "the compressor stopped and the oil is hot")


@pytest.fixture(scope="module")
def classifier_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A classifier with random weights, by the family of its encoder."""

    @cache
    def made(name: str) -> Path:
        labels = {"id2label": dict(enumerate(LABELS)), "label2id": {}}
        return tiny_encoders.make_classifier(name, tmp_path_factory.mktemp(name), **labels)

    return made


def expected_of(source: Path) -> list[list[float]]:
    """Probabilities that transformers computes."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    whole = transformers.AutoModelForSequenceClassification.from_pretrained(source).eval()
    found = []
    for text in TEXTS:
        encoded: Any = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        with torch.no_grad():
            found.append(torch.softmax(whole(**encoded).logits[0], 0).tolist())
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_its_probabilities_are_those_of_transformers(
    classifier_of: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    source, out = classifier_of(name), tmp_path / "out"
    assert export(["encoder", str(source), str(out), "--recipe", "float"]) == 0
    learned = load_bundle(out).manifest.learned
    assert learned is not None and tuple(learned.labels) == LABELS
    said = classify_texts(load_encoder(out), TEXTS)
    apart = float(np.abs(np.array(said) - np.array(expected_of(source))).max())
    print(f"{name}: largest difference of a probability {apart:.2e}")
    assert apart < 2e-6


def test_a_task_uses_one(
    classifier_of: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In int8, with other names for its labels, as a node does it."""
    source, out, file = classifier_of("bge"), tmp_path / "out", tmp_path / "node.yaml"
    assert export(["encoder", str(source), str(out), "--labels", "A", "B", "C"]) == 0
    assert json.loads((out / "report.json").read_text())["probabilities"]["mean_apart"] <= 0.03
    file.write_text(
        f"node: n\nbroker: {{url: mqtt://localhost}}\nstate_dir: {tmp_path / 'state'}\n"
        f"tasks: {{heat: {{learned: {out}}}}}\n"
    )
    capsys.readouterr()
    assert main(["try", str(file), "heat", TEXTS[0], "--json"]) == 0
    result = json.loads(capsys.readouterr().out)["result"]
    assert result["label"] in "ABC" and "taught" not in result
    assert result["confidence"] == pytest.approx(max(expected_of(source)[0]), abs=0.1)


@pytest.mark.parametrize(
    ("config", "names", "reason"),
    [
        ({"id2label": {"0": "LABEL_0"}}, (), "reader` exports cross-encoders"),
        ({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, (), "doesn't name its 2 labels"),
        ({"id2label": {"0": "a", "1": "b"}}, ("a",), "has 2 labels, and --labels names 1"),
        ({"id2label": {"0": "a", "1": "b"}}, ("a", "a"), "Labels must differ"),
        ({"id2label": {"0": "a", "2": "b"}}, (), "numbers its labels in an unknown way"),
        (
            {"id2label": {"0": "a", "1": "b"}, "problem_type": "multi_label_classification"},
            (),
            "several labels at once",
        ),
    ],
)
def test_labels_that_cant_be_used(
    config: dict[str, Any], names: tuple[str, ...], reason: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ExportError, match=reason):
        read_labels(tmp_path, names)

"""Tasks for tiny models, whose labels depend on one word, and fakes for encoders and training."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from edgeslm_export.bundle.writer import UNDATED, write_manifest
from edgeslm_export.jobs.subprocess_job import OnProgress
from edgeslm_export.models.lora import CONFIG, WEIGHTS
from edgeslm_export.sources.checkpoint import Origin
from edgeslm_export.train.encoder_finetune import LAYER
from edgeslm_export.train.field_spec import Aim, FieldSpec
from edgeslm_export.train.logistic_head import split_folds
from edgeslm_export.train.loop import Schedule
from edgeslm_export.train.lora_training import AdapterShape, TokenRow
from edgeslm_export.train.spec import TaskSpec
from edgeslm_export.train.tune import split_rows

from edgeslm.bundle.manifest import load_bundle
from edgeslm.config.loader import Task as TaskSection
from tests.support.export.tiny_models import SHAPE

LABELS = ("heat", "noise")
DIMENSION = 16


def sayings(rows: int, seed: int = 5) -> tuple[list[str], list[int]]:
    """Different texts, and the index of each text's label: ``hot`` means heat, ``loud`` means noise."""
    chance = random.Random(seed)
    truth = [number % 2 for number in range(rows)]
    things = ("pump", "press", "valve", "oil")
    texts = [
        f"the {chance.choice(things)} is {('hot', 'loud')[label]} {seed * 1000 + number}"
        for number, label in enumerate(truth)
    ]
    return texts, truth


def make_spec(rows: int, *, one_fold: bool = False) -> TaskSpec:
    """:param one_fold: evaluate on one fold only, which takes a fifth of the time."""
    texts, labels = sayings(rows)
    truth = np.array(labels, np.int64)
    test = np.arange(0, rows, 5)
    folds = [(np.setdiff1d(np.arange(rows), test), test)] if one_fold else split_folds(truth, 2, texts)
    return TaskSpec("noise", texts, truth, LABELS, folds, instruction="Heat or noise?")


Row = tuple[str, Mapping[str, Any]]
"""A text and its fields."""


def make_field_spec(
    rows: Sequence[Row],
    properties: Mapping[str, Any],
    *,
    required: Sequence[str] = (),
    verbatim: bool = False,
    one_fold: bool = False,
) -> FieldSpec:
    """:param one_fold: evaluate on the first fold only."""
    schema = {"type": "object", "properties": dict(properties), "required": list(required)}
    section = TaskSection().model_copy(
        update={"kind": "extract", "output_schema": schema, "verbatim": verbatim, "model": "model"}
    )
    texts, fields = [text for text, _ in rows], [of_row for _, of_row in rows]
    folds = split_rows(texts)[: 1 if one_fold else None]
    return FieldSpec("machine", section, texts, fields, folds, "Which machine?")


FOUND: Mapping[str, Any] = {"machine": {"type": "string"}, "state": {"enum": list(LABELS)}}
"""Schema of ``findings``: the machine, if any, is in the text; the state never is."""


def findings(rows: int, seed: int = 5) -> list[Row]:
    """Different texts with their fields (``FOUND``); every fourth has no machine."""
    chance = random.Random(seed)
    found: list[Row] = []
    for number in range(rows):
        thing = chance.choice(("pump", "press", "valve", "compressor"))
        label = chance.randrange(2)
        rest = f"is {('hot', 'loud')[label]} {seed * 1000 + number}"
        if number % 4:
            found.append((f"the {thing} {rest}", {"machine": thing, "state": LABELS[label]}))
        else:
            found.append((f"oil {rest}", {"state": LABELS[label]}))
    return found


def write_rows(file: Path, rows: Sequence[object]) -> Path:
    """Writes JSON Lines."""
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def fake_vectors(encoder: object, texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """Replaces ``embed_texts``: a vector for the text's first letter, and noise."""
    chance = np.random.default_rng(len(texts))
    vectors = chance.standard_normal((len(texts), DIMENSION)).astype(np.float32) * 0.3
    for row, text in enumerate(texts):
        vectors[row, ord(text[0]) % DIMENSION] += 1
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def write_encoder(folder: Path) -> Path:
    """An encoder's bundle for ``fake_vectors``, which no engine can load."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(b"x")
    write_manifest(folder, dict(ENCODER))
    return folder


def write_tokenizer(folder: Path) -> None:
    """Adds a tokenizer of words to an encoder's bundle of ``write_encoder``."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(folder / "tokenizer.json"))
    write_encoder(folder)


ENCODER: Mapping[str, Any] = {
    "name": "tiny",
    "kind": "encoder",
    "architecture": "BertModel",
    "source": {"id": "tiny", "licence": "mit"},
    "graphs": {"encode": "model.onnx"},
    "context_length": 64,
    "encoder": {"dimension": DIMENSION},
    "quantization": None,
    "created": UNDATED,
}


class FakeEncoder:
    """Replaces the engine's ``Encoder``: its vectors are ``fake_vectors``."""

    def __init__(self, path: Path, *_: object) -> None:
        self.bundle = load_bundle(path)

    def embed(
        self, texts: Sequence[str], overflow: str
    ) -> tuple[npt.NDArray[np.float32], list[int], list[bool]]:
        return fake_vectors(self, texts), [len(text) for text in texts], [False] * len(texts)


@dataclass
class FakeExport:
    """Replaces ``fill_encoder``: copies ``files``, or writes a bundle that no engine can load."""

    files: Path | None = None
    fields: Mapping[str, Any] = field(default_factory=lambda: ENCODER)

    def __call__(
        self, origin: Origin, folder: Path, *_: object, **__: object
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        if self.files is None:
            write_encoder(folder)
        else:
            shutil.copytree(self.files, folder, dirs_exist_ok=True)
        fields = {**self.fields, "architecture": origin.architecture}
        return fields, {"cosine_to_float": {"mean": 1.0}}


def make_lora(folder: Path, *, rank: int = 2) -> Path:
    """A LoRA folder for ``plain`` as PEFT saves it, which adds a little noise to the queries."""
    from safetensors.numpy import save_file

    chance, width = np.random.default_rng(3), SHAPE["hidden_size"]
    tensors = {
        f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{letter}.weight": chance.normal(
            0, 0.01, shape
        ).astype(np.float32)
        for layer in range(SHAPE["num_hidden_layers"])
        for letter, shape in (("A", (rank, width)), ("B", (width, rank)))
    }
    folder.mkdir(parents=True)
    save_file(tensors, folder / WEIGHTS)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "bias": "none"}
    (folder / CONFIG).write_text(json.dumps(config))
    return folder


@dataclass
class FakeTeacher:
    """Replaces the child of ``lora_training``: records its task and writes a LoRA of noise. The call
    ``interrupted_at`` is interrupted instead."""

    best_epoch: int = 3
    interrupted_at: int | None = None
    rows: list[Sequence[TokenRow]] = field(default_factory=list)
    schedules: list[Schedule] = field(default_factory=list)
    aside: list[list[int]] = field(default_factory=list)
    shapes: list[AdapterShape] = field(default_factory=list)

    def __call__(self, task: dict[str, Any], on_progress: OnProgress | None) -> dict[str, Any]:
        if len(self.rows) == self.interrupted_at:
            self.interrupted_at = None
            raise KeyboardInterrupt
        self.rows.append([TokenRow(**row) for row in task["rows"]])
        self.schedules.append(Schedule(**task["schedule"]))
        self.aside.append(task["aside"])
        self.shapes.append(AdapterShape(**task["shape"]))
        make_lora(Path(task["out"]))
        return {"epochs": 4.0, "best_epoch": self.best_epoch, "loss": 0.1, "peak_rss": 1}


@dataclass
class FakePointerTeacher:
    """Replaces the child of ``span_training``: records its task and doesn't train, so that all classes are
    equally likely and the first one is chosen. The call ``interrupted_at`` is interrupted instead."""

    best_epoch: int = 4
    interrupted_at: int | None = None
    unreadable: Sequence[int] = (0, 0)
    texts: list[Sequence[str]] = field(default_factory=list)
    aims: list[Sequence[Sequence[Aim]]] = field(default_factory=list)
    schedules: list[Schedule] = field(default_factory=list)
    aside: list[Sequence[int]] = field(default_factory=list)
    states: list[Path] = field(default_factory=list)

    def __call__(self, task: dict[str, Any], on_progress: OnProgress | None) -> dict[str, Any]:
        if len(self.texts) == self.interrupted_at:
            self.interrupted_at = None
            raise KeyboardInterrupt
        self.texts.append(task["texts"])
        self.aims.append([[Aim(*aim) for aim in row] for row in task["aims"]])
        self.schedules.append(Schedule(**task["schedule"]))
        self.aside.append(task["aside"])
        self.states.append(Path(task["state"]))
        shutil.copytree(task["source"], task["out"])
        options, width = task["options"], json.loads((Path(task["source"]) / "config.json").read_text())
        total, fields, size = sum(options), len(options), width["hidden_size"]
        shapes = {"weight": (total, size), "bias": (total,)}
        shapes |= {"place_weight": (fields, 3, size), "place_bias": (fields, 3)}
        arrays: dict[str, Any] = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        np.savez(Path(task["out"]) / LAYER, **arrays)
        said = {"epochs": 6.0, "best_epoch": self.best_epoch, "loss": 0.1, "peak_rss": 1}
        return {**said, "unreadable": self.unreadable}

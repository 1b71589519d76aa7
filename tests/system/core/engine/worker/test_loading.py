"""How onnxruntime-genai is told to load a model, and what it does of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnxruntime_genai as og
import pytest

from edgeslm.engine.calls import Generate, Power, Prompt, Text, Turn
from edgeslm.engine.worker import loading
from edgeslm.engine.worker.decoder import Decoder
from edgeslm.engine.worker.loading import Loader
from edgeslm.engine.worker.waiting import WAITING
from edgeslm.errors import BundleError

CALL = Generate(Prompt((Turn("user", (Text("What is a valve?"),)),)), max_tokens=3)
HAS_GPU = og.is_cuda_available() and any(Path("/dev").glob("nvidia*"))


class FakeConfig:
    """What was asked of the library."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.asked: dict[str, Any] = {}
        self.providers = ["of the bundle"]

    def overlay(self, text: str) -> None:
        self.asked = json.loads(text)

    def clear_providers(self) -> None:
        self.providers.clear()

    def append_provider(self, name: str) -> None:
        self.providers.append(name)


class FakeLibrary:
    """A model is what was asked for it."""

    Config = FakeConfig

    @staticmethod
    def Model(config: FakeConfig) -> FakeConfig:  # noqa: N802
        return config

    @staticmethod
    def is_cuda_available() -> bool:
        return True


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has CUDA and loads nothing."""
    monkeypatch.setattr(loading, "og", FakeLibrary)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("power", WAITING)
def test_how_threads_wait_is_told_in_texts(power: Power) -> None:
    model = Loader(power).load(Path("/b"), "model.onnx", 3)
    decoder = model.asked["model"]["decoder"]
    assert decoder["filename"] == "model.onnx"
    options = decoder["session_options"]
    assert options.pop("intra_op_num_threads") == 3
    assert options == WAITING[power]
    assert all(isinstance(value, str) for value in options.values()), "others are refused"
    assert model.providers == ["of the bundle"]


@pytest.mark.usefixtures("library")
def test_cuda_is_the_only_provider_where_it_is_wanted() -> None:
    model = Loader(device="cuda").load(Path("/b"), "", 2)
    assert model.providers == ["cuda"]
    assert "filename" not in model.asked["model"]["decoder"]


@pytest.mark.parametrize("power", WAITING)
def test_the_library_takes_each_way_of_waiting(starter: Path, power: Power) -> None:
    decoder = Decoder(starter / "smollm2-135m-int4", 1, loader=Loader(power))
    assert decoder.generate(CALL).cost.completion_tokens
    decoder.close()


@pytest.mark.skipif(og.is_cuda_available(), reason="the installed library has CUDA")
def test_cuda_is_refused_in_a_sentence_where_the_library_has_none(starter: Path) -> None:
    sentence = r"device: cuda, but .* on the CPU alone; install onnxruntime-genai-cuda in its place"
    with pytest.raises(BundleError, match=sentence):
        Decoder(starter / "smollm2-135m-int4", 1, loader=Loader(device="cuda"))


@pytest.mark.skipif(not HAS_GPU, reason="needs onnxruntime-genai-cuda and a GPU of NVIDIA")
def test_cuda_writes_and_scores_where_there_is_one(starter: Path) -> None:
    decoder = Decoder(starter / "smollm2-135m-int4", 1, loader=Loader(device="cuda"))
    assert decoder.generate(CALL).cost.completion_tokens
    decoder.close()

"""llama.cpp beside a bundle: the library is faked at its own functions; what is asked of it is real."""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from edgeslm_export.cli.screen import print_fidelity
from edgeslm_export.evaluate import llama_cpp, reference
from edgeslm_export.jobs.subprocess_job import OnProgress
from edgeslm_export.sources.checkpoint import examine_local
from edgeslm_export.sources.corpus import Corpus

from edgeslm.bundle.manifest import Bundle, Quantization, WeightGroup
from edgeslm.errors import ExportError
from tests.support.export.children import FakeChildren

VOCABULARY = 7


class FakeLlama:
    """The functions of ``llama_cpp`` that are called. A position's logits are its token, its place in the
    sequence and how often the cache was emptied."""

    def __init__(self, loads: bool = True, decodes: bool = True) -> None:
        self._loads, self._decodes = loads, decodes
        self.cleared, self.freed = 0, 0
        self._logits = (ctypes.c_float * 0)()

    def llama_backend_init(self) -> None:
        pass

    def llama_model_default_params(self) -> SimpleNamespace:
        return SimpleNamespace()

    def llama_context_default_params(self) -> SimpleNamespace:
        return SimpleNamespace()

    def llama_model_load_from_file(self, path: bytes, settings: Any) -> str | None:
        return path.decode() if self._loads else None

    def llama_init_from_model(self, model: str, settings: SimpleNamespace) -> SimpleNamespace:
        return settings

    def llama_model_get_vocab(self, model: str) -> None:
        return None

    def llama_vocab_n_tokens(self, vocabulary: None) -> int:
        return VOCABULARY

    def llama_get_memory(self, context: Any) -> None:
        return None

    def llama_memory_clear(self, memory: None, data: bool) -> None:
        self.cleared += 1

    def llama_batch_init(self, tokens: int, embeddings: int, sequences: int) -> SimpleNamespace:
        def zeros() -> list[int]:
            return [0] * tokens

        return SimpleNamespace(
            token=zeros(), pos=zeros(), n_seq_id=zeros(), logits=zeros(), seq_id=[[0] for _ in range(tokens)]
        )

    def llama_batch_free(self, batch: Any) -> None:
        pass

    def llama_decode(self, context: Any, batch: SimpleNamespace) -> int:
        assert batch.n_tokens <= context.n_batch and all(batch.logits)
        assert max(batch.pos) < context.n_ctx
        rows = np.zeros((batch.n_tokens, VOCABULARY), np.float32)
        rows[:, 0], rows[:, 1], rows[:, 2] = batch.token, batch.pos, self.cleared
        self._logits = (ctypes.c_float * rows.size)(*rows.ravel())
        return 0 if self._decodes else 1

    def llama_get_logits(self, context: Any) -> Any:
        return ctypes.cast(self._logits, ctypes.POINTER(ctypes.c_float))

    def llama_free(self, context: Any) -> None:
        self.freed += 1

    def llama_model_free(self, model: str) -> None:
        self.freed += 1


def test_every_position_of_each_sequence_from_an_empty_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeLlama()
    monkeypatch.setitem(sys.modules, "llama_cpp", fake)
    sequences = [list(range(1300)), [5, 6, 7]]
    first, second = llama_cpp.gguf_logits(Path("m.gguf"), sequences, 2)
    assert first.shape == (1300, VOCABULARY) and second.shape == (3, VOCABULARY)
    assert first[:, 0].tolist() == first[:, 1].tolist() == list(range(1300))
    assert second[:, :3].tolist() == [[5, 0, 2], [6, 1, 2], [7, 2, 2]]
    assert (fake.cleared, fake.freed) == (2, 2)


@pytest.mark.parametrize(
    ("fake", "sentence"),
    [
        (FakeLlama(loads=False), r"llama\.cpp can't load m\.gguf"),
        (FakeLlama(decodes=False), "could not decode"),
    ],
)
def test_what_it_can_not_do_is_said(fake: FakeLlama, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", fake)
    with pytest.raises(ExportError, match=sentence):
        list(llama_cpp.gguf_logits(Path("m.gguf"), [[1, 2]], 1))


Compared = Callable[[Path, Quantization | None], tuple[list[dict[str, Any]], list[dict[str, Any]]]]


@pytest.fixture
def compared(children: FakeChildren, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compared:
    """``compared(source, quantization)``: rows of a bundle made of it, and the tasks of what measures."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    bundle = tmp_path / "bundle"
    sizes = {"decoder": {"num_hidden_layers": 2, "hidden_size": 8}, "vocab_size": 3}
    vocabulary = json.dumps({"model": {"vocab": {"a": 0}}})

    def write_tokenizer(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.json").write_text(vocabulary)

    def study(task: dict[str, Any], on_progress: OnProgress | None) -> dict[str, Any]:
        write_tokenizer(Path(task["work"]) / "checkpoint")
        return {"matrices": {"lm_head": [3, 8]}, "layers": 2}

    def compare(source: Path, quantization: Quantization | None) -> Any:
        write_tokenizer(bundle)
        (bundle / "genai_config.json").write_text(json.dumps({"model": sizes}))
        origin = examine_local(source, "decoder")
        manifest: Any = SimpleNamespace(architecture=origin.architecture, quantization=quantization)
        corpora = [Corpus("a book", "a book", (("a",),), (), ("b",))]
        rows = reference.compare(Bundle(bundle, manifest, "sha256:0"), origin, corpora)
        return rows, [task for module, task in children.asked if module == "evaluate.fidelity"]

    children.steps["quantize.worker"] = study
    children.steps["evaluate.fidelity"] = lambda task, on_progress: {"kl_mean": 0.1}
    return compare


@pytest.mark.parametrize(
    ("source", "installed", "engines"),
    [("plain.gguf", True, 2), ("plain.gguf", False, 1), ("plain", True, 1)],
)
def test_a_row_more_where_the_source_is_a_gguf_and_it_is_installed(
    source: str,
    installed: bool,
    engines: int,
    tiny: Path,
    compared: Compared,
    packages_there: dict[str, bool],
    capsys: pytest.CaptureFixture[str],
) -> None:
    packages_there["llama_cpp"] = installed
    rows, tasks = compared(tiny / source, None)
    assert len(rows) == engines
    assert [task.get("gguf") for task in tasks[1:]] == [str(tiny / source)] * (engines - 1)
    print_fidelity(rows, None)
    assert ("a book, llama.cpp with plain.gguf" in capsys.readouterr().out) == (engines == 2)


def test_what_computes_single_tokens_apart_is_a_row_of_its_own(tiny: Path, compared: Compared) -> None:
    written = Quantization(recipe="w8a8-w4", written=(WeightGroup(group="*", bits=4, group_size=64),))
    rows, tasks = compared(tiny / "plain", written)
    assert [task.get("part") for task in tasks] == [None, "writes"]
    assert [row.get("engine") for row in rows] == [None, "single tokens"]

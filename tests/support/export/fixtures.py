"""Fixtures for export tests: tiny models, each made once in a run by a child process."""

from __future__ import annotations

import fcntl
import importlib.util
import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from edgeslm_export.jobs import resources, subprocess_job
from edgeslm_export.jobs.checkpoint_notes import Notes
from edgeslm_export.models.decoder import ExportOrder, export_model
from edgeslm_export.models.encoder import fill_encoder
from edgeslm_export.quantize.recipe import find_recipe
from edgeslm_export.sources.checkpoint import examine_local
from edgeslm_export.sources.corpus import Corpus, as_conversation
from edgeslm_export.train import encoder_methods, tune
from edgeslm_export.train.distill import Teacher

from tests.support.export.children import FakeChildren
from tests.support.export.fake_teachers import Answered, FakeSchool, answer_with, make_decoder, make_head
from tests.support.export.ready_models import READY
from tests.support.export.tiny_encoders import ENCODERS
from tests.support.export.tiny_models import FAMILIES
from tests.support.export.tiny_tasks import (
    FakeEncoder,
    FakeExport,
    FakePointerTeacher,
    FakeTeacher,
    write_encoder,
)


class Shared:
    """Folders that the processes of a test run share: the first that needs one makes it, others wait."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def get(self, name: str, make: Callable[[Path], object]) -> Path:
        folder, made = self._root / name, self._root / f"{name}.made"
        with (self._root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not made.exists():
                shutil.rmtree(folder, ignore_errors=True)
                make(folder)
                made.touch()
        return folder

    def run(self, name: str, module: str, *arguments: str) -> Path:
        """The folder that ``python -m module FOLDER`` fills."""

        def make(folder: Path) -> None:
            command = [sys.executable, "-m", module, str(folder), *arguments]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-2000:]

        return self.get(name, make)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    own = tmp_path_factory.getbasetemp()
    root = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"
    root.mkdir(exist_ok=True)
    return Shared(root)


class Cases:
    """Folders of ``tiny_adapters``, each made on first use."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    def __truediv__(self, name: str) -> Path:
        return self._shared.run(f"case-{name}", "tests.support.export.tiny_adapters", name) / name


@pytest.fixture(scope="session")
def cases(shared: Shared) -> Cases:
    return Cases(shared)


@pytest.fixture(scope="session")
def tiny(shared: Shared) -> Path:
    """A folder with ``plain``, ``plain.gguf`` and ``bert``; see ``tiny_models``."""
    return shared.run("tiny", "tests.support.export.tiny_models", "plain", "plain.gguf", "bert")


@pytest.fixture(scope="session")
def families(shared: Shared) -> Path:
    """A folder with a tiny model of each family, with its real tokenizer and chat template."""
    return shared.run("families", "tests.support.export.tiny_models", *FAMILIES)


@pytest.fixture(scope="session")
def ready(shared: Shared) -> Path:
    """A folder with a ready onnxruntime-genai folder of each family of ``ready_models``."""
    return shared.run("ready", "tests.support.export.ready_models", *READY)


@pytest.fixture(scope="session")
def encoders(shared: Shared) -> Path:
    """A folder with the encoders of ``tiny_encoders``."""
    return shared.run("encoders", "tests.support.export.tiny_models", *ENCODERS)


@pytest.fixture(scope="session")
def int4_base(tiny: Path, shared: Shared) -> Path:
    """``plain`` by the recipe int4. Its graph has fused ``qkv_proj`` and ``gate_up_proj``."""
    origin, order = examine_local(tiny / "plain", "decoder"), ExportOrder(find_recipe("int4"))
    return shared.get("plain-int4", lambda out: export_model(origin, out, order))


@pytest.fixture(scope="session")
def by_row_base(tiny: Path, shared: Shared) -> Path:
    """``plain`` by the recipe w8a8: integer products in its layers."""
    return shared.get("plain-w8a8", lambda out: export_calibrated(tiny / "plain", out, "w8a8"))


@pytest.fixture(scope="session")
def apart_base(tiny: Path, shared: Shared) -> Path:
    """``plain`` by the recipe w8a8-w4: like w8a8, with a branch for single tokens."""
    return shared.get("plain-w8a8-w4", lambda out: export_calibrated(tiny / "plain", out, "w8a8-w4"))


def export_calibrated(source: Path, out: Path, recipe: str) -> Path:
    text = tuple(f"Step {number}. Loosen screw {number}, then lift the cover." for number in range(90))
    whole = "\n".join(text)
    corpus = Corpus("steps", "steps", ((whole,),), (as_conversation(whole),), ("\n".join(text[:20]),))
    export_model(examine_local(source, "decoder"), out, ExportOrder(find_recipe(recipe), corpus=corpus))
    return out


@pytest.fixture(scope="session")
def int8_encoder(encoders: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The files of ``bge`` in int8, and their manifest's fields."""
    out = tmp_path_factory.mktemp("int8") / "bge"
    out.mkdir()
    fields, _ = fill_encoder(examine_local(encoders / "bge", "encoder"), out, lambda said: None)
    return out, fields


@pytest.fixture
def own_process() -> Iterator[None]:
    """Restores the environment and the signal handlers, which ``main`` sets for the whole process."""
    variables = dict(os.environ)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    os.environ.clear()
    os.environ.update(variables)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> FakeChildren:
    """Replaces the child processes of the modules in its ``steps``."""
    fake = FakeChildren(subprocess_job.run_child)
    monkeypatch.setattr(subprocess_job, "run_child", fake)
    return fake


class FakeTerminal(io.StringIO):
    """Standard input of a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def type_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """``type_in(text)``: the terminal's input from then on, up to its end."""

    def set_input(text: str) -> None:
        monkeypatch.setattr(sys, "stdin", FakeTerminal(text))

    return set_input


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """``memory(bytes)`` sets the available memory."""

    def set_up(available: int) -> None:
        monkeypatch.setattr(resources, "available_memory", lambda: available)

    return set_up


@pytest.fixture
def packages_there(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """Packages that seem to be installed (True) or missing (False), by name."""
    there: dict[str, bool] = {}
    find = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> object:
        if name in there:
            return object() if there[name] else None
        return find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    return there


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> FakeExport:
    """Replaces the export of a fine-tuned encoder."""
    fake = FakeExport()
    monkeypatch.setattr(encoder_methods, "fill_encoder", fake)
    return fake


@pytest.fixture
def teacher(children: FakeChildren) -> FakeTeacher:
    """Replaces the training of adapters."""
    fake = FakeTeacher()
    children.steps["train.lora_training"] = fake
    return fake


@pytest.fixture
def pointer_teacher(
    int8_encoder: tuple[Path, dict[str, Any]], children: FakeChildren, exported: FakeExport
) -> FakePointerTeacher:
    """Replaces training; the exported encoder is ``bge``, unchanged."""
    exported.files, exported.fields = int8_encoder
    fake = FakePointerTeacher()
    children.steps["train.span_training"] = fake
    return fake


@pytest.fixture
def school(monkeypatch: pytest.MonkeyPatch) -> FakeSchool:
    """Replaces the training of students."""
    fake = FakeSchool()
    monkeypatch.setattr(tune, "learn_labels", fake)
    return fake


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Makes children use one thread: on a busy machine two that wait for each other make a tiny model ten
    times slower."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture
def fake_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An encoder's bundle whose vectors are ``fake_vectors``."""
    engine: Any = ModuleType("edgeslm.engine.worker.encoder")
    engine.Encoder = FakeEncoder
    monkeypatch.setitem(sys.modules, engine.__name__, engine)
    return write_encoder(tmp_path / "encoder")


def run_export(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs ``edgeslm-export ...`` in a child process; ``environment`` adds variables."""
    command = [sys.executable, "-m", "edgeslm_export", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


@pytest.fixture
def run() -> Callable[..., subprocess.CompletedProcess[str]]:
    """``run("model", ...)``: the command (``run_export``)."""
    return run_export


@pytest.fixture
def head(tmp_path: Path) -> Teacher:
    """A teacher with a learned task: spam or ham."""
    return make_head(tmp_path)


@pytest.fixture
def decoder(tmp_path: Path) -> Teacher:
    """A teacher without a learned task."""
    return make_decoder(tmp_path)


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    """Empty notes of a new command."""
    return Notes(tmp_path / "notes")


@pytest.fixture
def answered(children: FakeChildren) -> Answered:
    """Replaces the answers of all bundles."""
    return answer_with(children)

"""Which distribution brought an inference library, and the child process that loads it."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from edgeslm.engine import libraries
from edgeslm.ipc.job import JobError
from tests.support.missing import FakePackages
from tests.support.missing import packages as packages


@pytest.mark.parametrize(
    ("there", "found"),
    [
        ({"onnxruntime-genai"}, "onnxruntime-genai 1.0"),
        ({"onnxruntime-genai-cuda"}, "onnxruntime-genai-cuda 1.0"),
        ({"onnxruntime-genai", "onnxruntime-genai-cuda"}, "onnxruntime-genai 1.0"),
    ],
)
def test_one_distribution_stands_in_for_another(packages: FakePackages, there: set[str], found: str) -> None:
    packages.versions = dict.fromkeys(there, "1.0")
    assert libraries.installed(libraries.GENAI) == found
    with pytest.raises(PackageNotFoundError):
        libraries.installed("onnxruntime")


def test_the_child_that_imports_has_telemetry_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "fake_engine.py").write_text(
        "import os, sys\nsys.stderr.write(os.environ['ORT_DISABLE_TELEMETRY'])\n"
        "sys.stderr.flush()  # from Python 3.13 on, an abort loses what was not\nos.abort()\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    with pytest.raises(JobError) as caught:
        libraries.import_in_child("fake_engine")
    assert (caught.value.status, caught.value.words) == (-6, "1")


def test_a_library_says_whether_it_can_cuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "onnxruntime_genai.py").write_text("is_cuda_available = lambda: True\n")
    assert not libraries.import_in_child("onnxruntime")
    assert not libraries.import_in_child(libraries.GENAI)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    assert libraries.import_in_child(libraries.GENAI)

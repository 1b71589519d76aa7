"""Which distribution brought an inference library, and the child process that loads it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from edgeslm.engine import libraries


@pytest.mark.parametrize(
    ("there", "found"),
    [
        ({"onnxruntime-genai"}, "onnxruntime-genai 1.0"),
        ({"onnxruntime-genai-cuda"}, "onnxruntime-genai-cuda 1.0"),
        ({"onnxruntime-genai", "onnxruntime-genai-cuda"}, "onnxruntime-genai 1.0"),
    ],
)
def test_one_distribution_stands_in_for_another(
    monkeypatch: pytest.MonkeyPatch, there: set[str], found: str
) -> None:
    def version(name: str) -> str:
        if name not in there:
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(libraries, "version", version)
    assert libraries.installed(libraries.GENAI) == found
    with pytest.raises(PackageNotFoundError):
        libraries.installed("onnxruntime")


def test_the_child_that_imports_has_telemetry_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "fake_engine.py").write_text(
        "import os, sys\nsys.stderr.write(os.environ['ORT_DISABLE_TELEMETRY'])\n"
        "sys.stderr.flush()  # from Python 3.13 on, an abort loses what was not\nos.abort()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = libraries.import_in_child("fake_engine")
    assert (done.returncode, done.stderr) == (-6, "1")


def test_this_machine_s_library_says_whether_it_can_cuda() -> None:
    assert libraries.import_in_child(libraries.GENAI).stdout.strip() in ("True", "False")

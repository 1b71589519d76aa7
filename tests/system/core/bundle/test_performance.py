"""What to expect of real bundles on this board."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeslm.bundle import performance
from edgeslm.bundle.manifest import load_bundle
from edgeslm.bundle.model_shape import read_shape
from edgeslm.bundle.performance import bundle_footprint, expect, measure_board
from edgeslm.bundle.size_estimate import footprint
from edgeslm.errors import BoardError
from edgeslm.hardware.board_profiles import Board
from tests.support.published_configs import PUBLISHED

BOARD = Board("b", "a board", 4, 8 * 10**9, 15.0, 200.0, 220.0)


def test_the_shape_of_a_bundle_is_found_out(starter: Path) -> None:
    found = bundle_footprint(load_bundle(starter / "smollm2-135m-int4"))
    assert found is not None
    published = footprint(read_shape(PUBLISHED["SmolLM2-135M"][0]), found.formats)
    assert found.shape.inner == 1536
    assert found.shape.tied
    assert found.token_bytes == published.token_bytes
    data = (starter / "smollm2-135m-int4" / "model.onnx.data").stat().st_size
    assert found.weight_bytes == pytest.approx(data, rel=0.03)
    expected = expect(found, BOARD, 512)
    assert expected.memory_bytes > found.weight_bytes
    assert expected.prefill_tps > expected.decode_tps > 0


def test_a_bundle_that_says_too_little_has_no_footprint(starter: Path) -> None:
    assert bundle_footprint(load_bundle(starter / "minilm-l6-int8")) is None


@pytest.fixture
def gauge(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Puts another module in the place of the one that measures."""

    def put(script: str) -> None:
        (tmp_path / "gauge_of_a_test.py").write_text(script)

    monkeypatch.setattr(performance, "GAUGE", "gauge_of_a_test")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    return put


def test_this_machine_is_measured_in_a_child(gauge: Callable[[str], None]) -> None:
    figures = {"read_gbs": 12.5, "int4_gflops": 100.0, "int8_gflops": 120.0, "busy": True}
    gauge(
        "from edgeslm.ipc.job import serve\n"
        f"serve(lambda threads, progress: {{**{figures}, 'read_gbs': 10.5 + threads}})"
    )
    board = measure_board(2)
    assert (board.name, board.cores, board.busy) == ("this", 2, True)
    assert (board.read_gbs, board.int4_gflops, board.int8_gflops) == (12.5, 100.0, 120.0)
    assert board.memory_bytes > 0


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("import os; os.kill(os.getpid(), 4)", "ended by SIGILL"),
        ("raise ImportError('no engine')", "ImportError: no engine"),
        ("raise SystemExit(3)", "exit status 3"),
    ],
)
def test_a_failed_measurement_is_a_sentence(script: str, sentence: str, gauge: Callable[[str], None]) -> None:
    gauge(script)
    with pytest.raises(BoardError, match=sentence):
        measure_board(1)


def test_a_measurement_that_hangs_is_a_sentence(gauge: Callable[[str], None]) -> None:
    gauge("import time; time.sleep(600)")
    with pytest.raises(BoardError, match="no answer in 1 s"):
        measure_board(1, timeout_s=1)


@pytest.mark.parametrize(
    "groups",
    [[], [{"group": "*", "bits": 4, "group_size": 0}], [{"group": "x", "bits": 4, "group_size": 32}]],
)
def test_a_bundle_that_makes_no_sense_has_no_footprint(
    groups: list[dict[str, object]], starter: Path, tmp_path: Path
) -> None:
    """It ended doctor with a ZeroDivisionError."""
    folder = tmp_path / "bundle"
    shutil.copytree(starter / "smollm2-135m-int4", folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["quantization"]["groups"] = groups
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert bundle_footprint(load_bundle(folder)) is None

"""The gauge: its hand-written graph is a real product, and its figures are positive and whole."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

from edgeslm.bundle.performance import GAUGE
from edgeslm.engine.prepack import gauge
from edgeslm.ipc.job import run_job


@pytest.mark.parametrize("bits", [4, 8])
def test_the_graph_computes_products(bits: int) -> None:
    model = gauge.encode_product(128, 64, bits, 2)
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["y0", "y1"]
    x = np.random.default_rng(1).standard_normal((3, 128), np.float32)
    found = session.run(None, {"x": x})
    random = np.random.default_rng(7)
    for y in found:
        stored = random.integers(0, 256, (64, 128 // 64, 64 * bits // 8), np.uint8).reshape(64, -1)
        if bits == 4:  # the lower half of a byte comes first
            stored = np.stack([stored & 15, stored >> 4], axis=2).reshape(64, 128)
        weights = (stored.astype(np.float32) - (1 << bits - 1)) * np.float32(0.01)
        expected = x @ weights.T
        assert np.abs(y - expected).max() < 0.02 * np.abs(expected).max()


def test_figures_of_one_thread() -> None:
    figures = gauge.measure(1, budget_s=0.01)
    assert not figures["busy"]
    assert all(figures[name] > 0 for name in ("read_gbs", "int4_gflops", "int8_gflops"))


def test_a_job_measures_with_so_many_threads() -> None:
    assert run_job(GAUGE, 2, timeout_s=60, memory_bytes=None, threads=2)["threads"] == 2


def test_what_disturbs_only_makes_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    took = iter([9.0, 2.0, 1.0, 5.0])  # the first run warms up

    def run() -> None:
        nonlocal now
        now += next(took)

    monkeypatch.setattr("edgeslm.engine.prepack.gauge.time.perf_counter", lambda: now)
    assert gauge.best_seconds(run, 2, 0.0) == 1.0

"""Cost of a decoder export: shares of its steps, expected time, disk space."""

from __future__ import annotations

from edgeslm_export.evaluate.reference import REFERENCE_BYTES
from edgeslm_export.jobs.resources import matmul_gflops
from edgeslm_export.quantize.recipe import Recipe
from edgeslm_export.sources.checkpoint import Origin

STUDY, QUANTIZE, BUILD, CHECK = "study", "quantize", "build", "check"
"""Names of the steps."""
SHARES = {
    "measured": {STUDY: 0.24, QUANTIZE: 0.60, BUILD: 0.12, CHECK: 0.04},
    "calibrated": {STUDY: 0.15, QUANTIZE: 0.65, BUILD: 0.15, CHECK: 0.05},
    "rounded": {STUDY: 0.3, QUANTIZE: 0.2, BUILD: 0.4, CHECK: 0.1},
}
"""Expected share of each step in the time of an export: of a recipe that measures sensitivity (as ``auto``
took for Qwen2.5-Coder-0.5B), of another recipe with calibration, and of a recipe that rounds."""
_OPERATIONS = {"measured": 300_000, "calibrated": 200_000, "rounded": 60_000}
"""Time of an export for each weight, as the number of float operations that a matrix product computes in that
time. Measured with SmolLM2-135M (304,000; 212,000; 93,000, of which much is start-up) and Qwen2.5-Coder
(0.5 B 284,000; 1.5 B rounded 47,000)."""


def kind_of(recipe: Recipe) -> str:
    if recipe.placing == "measured":
        return "measured"
    return "calibrated" if recipe.calibrated else "rounded"


def expected_seconds(origin: Origin, recipe: Recipe) -> float:
    """Rough estimate of the time of an export on this machine."""
    return origin.weights * _OPERATIONS[kind_of(recipe)] / (matmul_gflops() * 1e9)


def disk_need(origin: Origin, recipe: Recipe) -> int:
    """Approximate disk space of an export in bytes: a GGUF's weights in float32, a byte for each weight in
    each format, the graph, and the float model's logits."""
    checkpoint = origin.weights * 4 if origin.is_gguf else 0
    written = recipe.written.bits if recipe.written else 0
    by_group = [form for form in recipe.choices if form.bits < 8]  # and one with 8 bits
    codes = origin.weights * (1 + len(by_group) + bool(written))
    return checkpoint + origin.weights * (1 + recipe.bits + 2 * written) // 8 + codes + REFERENCE_BYTES

"""The test of a bundle before it may serve. With the real models in tests/system/rollouts/test_updates.py."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from edgeslm.bundle.manifest import Bundle, load_bundle
from edgeslm.engine.prepack.smoke import Smoke, smoke_test
from edgeslm.errors import BundleError
from tests.support.nodes import write_bundle

GOOD = {"divergences": [0.01, 0.02], "request_s": 1.1, "beside_s": 1.0, "peak_bytes": 5}


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return load_bundle(write_bundle(tmp_path / "v2"))


def smoke(bundle: Bundle, script: str, **how: Any) -> Smoke:
    command = (sys.executable, "-c", script)
    return asyncio.run(smoke_test(bundle, beside=None, slowest=2.0, command=command, **how))


def says(**answer: Any) -> str:
    return f"print({json.dumps({'answer': {**GOOD, **answer}})!r})"


def test_a_sound_bundle_passes(bundle: Bundle) -> None:
    assert smoke(bundle, says()) == Smoke.model_validate(GOOD)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (says(divergences=[0.01, 0.3]), "1 of 2 golden answers differ from those of the build machine"),
        (says(divergences=[float("nan")]).replace("NaN", "NaN"), "golden answers"),
        (says(request_s=2.5), "too slow: a request takes 2.5 times as long as now, and 2 times are allowed"),
        ('print(\'{"answer": {"error": "v2: can\\\'t be loaded"}}\')', "can't be loaded"),
        ("import os; os.abort()", "ended unexpectedly (signal 6)"),
        ("print('', end='')", "ended unexpectedly (exit status 0)"),
        ("raise SystemExit(3)", "ended unexpectedly (exit status 3)"),
    ],
)
def test_a_bad_one_is_refused_with_a_sentence(bundle: Bundle, script: str, words: str) -> None:
    with pytest.raises(BundleError) as error:
        smoke(bundle, script)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_one_that_hangs_is_ended(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="it hangs"):
        smoke(bundle, "import time; time.sleep(600)", timeout_s=0.5)


def test_one_for_which_there_is_no_memory_is_not_even_begun(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 2000000 kB\nMemAvailable: 60000 kB\n")
    with pytest.raises(BundleError, match=r"too large for this device: it takes .* MB of memory"):
        smoke(bundle, "raise SystemExit('begun')", root=tmp_path)

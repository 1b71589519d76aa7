"""Models of one process that take turns, step by step, so that a busy moment hits all of them.

A step is 128 prompt tokens or one new token, in an order drawn anew each time. One process is not enough: the
place of a model's weights in memory changes its speed by some percent. So callers repeat it in fresh
processes (``in_child``) and take the medians (``spread``).
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from edgeslm.engine.calls import BALANCED
from edgeslm.engine.worker.waiting import WAITING

PROMPT_TOKENS: Final = 512
CHUNK: Final = 128
NEW_TOKENS: Final = 64
KINDS: Final = {"prefill": PROMPT_TOKENS // CHUNK, "decode": NEW_TOKENS - 1}
"""What is timed, and its steps a turn."""

Times = dict[str, list[float]]
"""Seconds of every step, by kind."""


def load_graph(bundle: str, graph: str, threads: int, **options: str) -> Any:
    """An inference library's model, with a device's settings.

    :param options: more of the session.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime_genai as og

    config = og.Config(bundle)
    session = {"intra_op_num_threads": threads, **WAITING[BALANCED], **options}
    decoder = {"session_options": session, "filename": graph}
    config.overlay(json.dumps({"model": {"decoder": decoder}, "search": {"chunk_size": CHUNK}}))
    return og.Model(config)


def make_generator(model: Any, length: int = PROMPT_TOKENS + NEW_TOKENS) -> Any:
    """A generator that has room for ``length`` tokens and ends at none before: ``take_turns`` can run it."""
    import onnxruntime_genai as og

    params = og.GeneratorParams(model)
    params.set_search_options(max_length=length, min_length=length)
    return og.Generator(model, params)


def take_turns(generators: Mapping[str, Any], turns: int) -> dict[str, Times]:
    """:return: by name; one turn more than counted warms up."""
    ids = np.random.default_rng(1).integers(100, 10_000, PROMPT_TOKENS).astype(np.int32)
    spent: dict[str, Times] = {name: {kind: [] for kind in KINDS} for name in generators}
    order = list(generators)
    for turn in range(turns + 1):
        for generator in generators.values():
            generator.rewind_to(0)
        for kind, steps in KINDS.items():
            for step in range(steps):
                random.shuffle(order)
                for name in order:
                    started = time.perf_counter()
                    if kind == "prefill":
                        generators[name].append_tokens(ids[step * CHUNK : (step + 1) * CHUNK])
                    else:
                        generators[name].generate_next_token()
                    if turn:
                        spent[name][kind].append(time.perf_counter() - started)
    return spent


def ratios_to(base: str, spent: Mapping[str, Times]) -> dict[str, dict[str, float]]:
    """The median ratio of each one's times to those of ``base`` in the same step."""
    return {
        name: {
            kind: statistics.median(a / b for a, b in zip(own, spent[base][kind], strict=True))
            for kind, own in times.items()
        }
        for name, times in spent.items()
    }


def fastest_ms(times: Times) -> dict[str, float]:
    """Milliseconds of a step that a tenth of them beat: what other work takes is hardly in it."""
    return {kind: float(np.quantile(own, 0.1)) * 1000 for kind, own in times.items()}


def in_child(script: str, what: str, task: dict[str, Any]) -> dict[str, Any]:
    """What ``script`` answers, run anew with ``--child what`` and the task on standard input."""
    command = [sys.executable, str(Path(script).resolve()), "--child", what]
    done = subprocess.run(command, input=json.dumps(task), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def spread(values: Sequence[float]) -> dict[str, float]:
    """Of figures of several processes."""
    return {
        "median": round(statistics.median(values), 4),
        "lowest": round(min(values), 4),
        "highest": round(max(values), 4),
    }

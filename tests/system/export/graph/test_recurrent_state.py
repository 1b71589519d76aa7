"""Models with a recurrent state behind the engine and a node: kept prompts and labels."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime_genai as og
import pytest

from edgeslm.engine.calls import Generate, Guide, Prompt, Score, Text, Turn
from edgeslm.engine.worker.decoder import Decoder, _last_logits
from tests.support.export.text_models import write_case

pytestmark = pytest.mark.export

LABELS = ("urgent", "urgent, stop", "not urgent", "not known")
TASK = "Say how urgent this message of a machine is, in one of the words that are listed here."
CONFIG = """
node: tiny
broker: {url: "mqtt://localhost"}
models: {small: {bundle: out}}
state_dir: edgeslm
tasks:
  triage: {kind: classify, model: small, instruction: How urgent, labels: [urgent, urgent stop, known]}
  say: {kind: generate, model: small, instruction: Say it., max_tokens: 4}
"""


def prompt_of(text: str) -> Prompt:
    return Prompt((Turn("user", (TASK, Text(text, cut=True))),))


def one_after_another(decoder: Decoder, prompt: Prompt) -> list[float]:
    """The labels' probabilities by a fresh generator for each label and token."""
    ids = decoder._chat.encode(prompt, 400).ids
    tokens = [[*decoder._chat.encode_text(label), *sorted(decoder._end_ids)[:1]] for label in LABELS]

    def logits(more: list[int]) -> np.ndarray:
        params = og.GeneratorParams(decoder._model)
        params.set_search_options(max_length=512)
        generator = og.Generator(decoder._model, params)
        generator.append_tokens(np.array([*ids, *more], np.int32))
        return _last_logits(generator)

    scores = []
    for own in tokens:
        score = 0.0
        for at, token in enumerate(own):
            rivals = sorted({other[at] for other in tokens if other[:at] == own[:at]})
            if len(rivals) > 1:
                found = logits(own[:at])
                score += found[token] - np.logaddexp.reduce(found[rivals])
        scores.append(float(np.exp(score)))
    return scores


@pytest.mark.parametrize("name", ["Lfm2", "Qwen3_5"])
def test_kept_states_change_no_answer(
    name: str,
    tmp_path: Path,
    run: Callable[..., subprocess.CompletedProcess[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_case(name, tmp_path / "source")
    done = run("model", tmp_path / "source", tmp_path / "out", "--recipe", "int4")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "out/model_lora.onnx").exists()
    reused, fresh = Decoder(tmp_path / "out", 1), Decoder(tmp_path / "out", 1)
    guide = Guide("regex", "(hot|loud|new){2,5}")
    try:
        for number in range(12):
            prompt = prompt_of(f"Pump {number} is {'hot and loud' * (number % 3)}.")
            fresh.forget()
            for call in (Generate(prompt, 6), Generate(prompt, 6, guide=guide)):
                assert reused.generate(call).text == fresh.generate(call).text
            found = reused.score(Score(prompt, LABELS)).probabilities
            assert found == pytest.approx(one_after_another(fresh, prompt), abs=0.02)
        kept = [slot.kept for slot in reused._slots._slots]
        assert all(length > 80 for length in kept)
        assert len(kept) == 2  # all calls without a grammar share one
    finally:
        reused.close()
        fresh.close()

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (tmp_path / "edgeslm").mkdir()
    (tmp_path / "node.yaml").write_text(CONFIG)
    for command in (
        ("prepare", "out"),
        ("try", "node.yaml", "triage", "Hot."),
        ("try", "node.yaml", "say", "Hot"),
    ):
        tried = subprocess.run(
            [sys.executable, "-m", "edgeslm", *command],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert tried.returncode == 0, tried.stderr
        if command[0] == "try":
            assert json.loads(tried.stdout)["status"] == "ok"

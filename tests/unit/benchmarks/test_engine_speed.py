"""benchmarks/lib/engine_speed.py without an engine: its arguments, its prompts, its figures."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.benchmarks.scripts import load_scripts


@pytest.fixture(scope="module")
def engine() -> ModuleType:
    return load_scripts("engine_speed")["engine_speed"]


def measured(engine: ModuleType, name: str, prefill: list[float], pss: float) -> object:
    result = engine.Measured(name, engine.Memory(pss=pss, anonymous=pss / 2, peak=pss + 1))
    for value in prefill:
        result.add(
            {
                "prefill_tokens": 512,
                "prefill_ms": 512 / value * 1000,
                "decode_tokens": 63,
                "decode_ms": 630.0,
                "first_ms": 1000.0,
            }
        )
    return result


def test_prompts_have_exactly_the_asked_length_and_no_common_beginning(engine: ModuleType) -> None:
    def encode(system: str, text: str) -> list[int]:
        return [hash(word) for word in f"{system} {text}".split()]

    jobs = engine.make_jobs(encode, 100, 5)
    assert {len(job.ids) for job in jobs} == {100}
    assert all(engine.shared(a.ids, b.ids) == 0 for a, b in itertools.pairwise(jobs))


def test_memory_comes_from_both_files(engine: ModuleType) -> None:
    rollup = (
        "55d0-7ffe ---p 00000000 00:00 0  [rollup]\nRss:   4096 kB\nPss:   2048 kB\nAnonymous:  1024 kB\n"
    )
    status = "Name:\tpython\nVmHWM:\t    8192 kB\nThreads:\t4\n"
    parse_memory = load_scripts("processes")["processes"].parse_memory
    assert parse_memory(rollup, status) == engine.Memory(pss=2.0, anonymous=1.0, peak=8.0)


def test_each_figure_is_held_against_the_better_baseline(engine: ModuleType) -> None:
    mine = measured(engine, "edgeslm", [400.0, 300.0, 500.0], 240.0)
    slow = measured(engine, "slow", [100.0, 100.0, 100.0], 200.0)
    fast = measured(engine, "fast", [200.0, 150.0, 250.0], 300.0)
    ratios = engine.compare(mine, [slow, fast])
    assert (ratios["prefill"].baseline, ratios["prefill"].value) == ("fast", pytest.approx(2.0))
    assert (ratios["pss"].baseline, ratios["pss"].value) == ("slow", pytest.approx(1.2))
    text = engine.table([mine, slow, fast], ratios)
    assert "prefill: 2.00 times fast" in text
    assert "wanted at most 1.1: MISSED" in text
    line = json.loads(json.dumps(engine.report([mine, slow, fast], ratios)))
    assert line["engines"]["edgeslm"]["prefill_tok_s"] == pytest.approx(400.0)
    assert line["ratios"]["pss"]["reached"] is False


def test_one_engine_alone_makes_a_table_too(engine: ModuleType) -> None:
    alone = measured(engine, "edgeslm", [400.0], 240.0)
    assert "edgeslm" in engine.table([alone], {})
    assert engine.report([alone], {})["ratios"] == {}


@pytest.mark.parametrize("arguments", [["--threads", "0"], ["--repeat", "0"], ["--prompt-tokens", "8"]])
def test_impossible_arguments_are_refused(
    engine: ModuleType, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        engine.parse_arguments(["--bundle", "there", *arguments])
    assert ended.value.code == 2
    assert "must be" in capsys.readouterr().err


def test_without_the_baseline_it_says_so(
    engine: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said: list[str] = []
    monkeypatch.setattr(engine.llama, "installed_version", lambda: None)
    args = engine.parse_arguments(["--bundle", str(tmp_path / "starter" / "model")])
    assert engine.baseline_makers(args, 768, {0}, said.append) == {}
    assert "not installed" in said[0]
    monkeypatch.setattr(engine.llama, "installed_version", lambda: "1")
    assert engine.baseline_makers(args, 768, {0}, said.append) == {}
    assert "--gguf" in said[1]
    assert engine.baseline_file(args) == tmp_path / "bench" / "model.q4_0.gguf"

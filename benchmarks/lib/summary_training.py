"""Adapter that writes a synopsis, for ``summaries.py measure --adapter``, trained on the other packages.

    python benchmarks/quality/summaries.py train --source GGUF --model BUNDLE --out ADAPTER [--rows 1200]

Rows are package descriptions of the development half whose synopsis the text supports. LoRA on the bundle's
own weights, as ``edgeslm-export tune`` does for its kinds; the folder then becomes an adapter bundle.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from edgeslm_export.jobs.optimum_env import cache_folder
from edgeslm_export.models.adapter import export_adapter
from edgeslm_export.sources.checkpoint import examine_local
from edgeslm_export.train.job import TrainingJob
from edgeslm_export.train.loop import Schedule
from edgeslm_export.train.lora_training import AdapterShape, train_decoder
from edgeslm_export.train.sft_rows import RowEncoder

from benchmarks.lib.descriptions import load_descriptions
from benchmarks.lib.summary_quality import SYNOPSIS, flat
from edgeslm.config.loader import Task
from edgeslm.errors import EdgeslmError
from edgeslm.tasks import make_task
from edgeslm.tasks.support import Evidence

RANK = 16
BATCH = 8
RATE = 5e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--source", type=Path, required=True, help="the checkpoint that the bundle was made of"
    )
    parser.add_argument("--model", type=Path, required=True, help="decoder bundle")
    parser.add_argument("--out", type=Path, required=True, help="folder of the adapter bundle")
    parser.add_argument("--rows", type=int, default=1200)
    parser.add_argument("--words", type=int, default=400, help="of a text, at most (%(default)s)")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument(
        "--seconds", type=float, default=600, help="within which it has learned (%(default)s)"
    )
    parser.add_argument("--cache", type=Path, default=cache_folder() / "descriptions")
    args = parser.parse_args()
    found = load_descriptions(args.cache, is_test=False)[100:]  # the first are for looking at answers
    short = [one for one in found if len(one.text.split()) <= args.words]
    rows = [one for one in short[: 4 * args.rows] if Evidence([one.text]).support(one.synopsis)][: args.rows]
    task = make_task("synopsis", Task.model_validate({**SYNOPSIS, "model": "small"}, strict=False))
    encoder = RowEncoder(args.model, task)
    encoded = encoder.text_rows([flat(one.text) for one in rows], [one.synopsis for one in rows])
    kept = [row for row in encoded if row is not None]
    print(f"{len(kept)} rows, {sum(len(row.prompt) + len(row.answer) for row in kept)} tokens", flush=True)
    try:
        with tempfile.TemporaryDirectory(prefix="teaching-") as work:
            lora = Path(work) / "lora"
            schedule = Schedule(args.epochs, BATCH, RATE, args.seconds)
            origin = examine_local(args.source, "decoder")
            job = TrainingJob(origin.path.resolve(), lora, schedule)
            said = train_decoder(job, origin.architecture, args.model, kept, AdapterShape(RANK))
            export_adapter(lora, args.out, args.model)
    except EdgeslmError as error:
        sys.exit(str(error))
    print(json.dumps({"benchmark": "summary_teaching", "rows": len(kept), **said}))

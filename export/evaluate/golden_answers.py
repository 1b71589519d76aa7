"""Golden answers: records a finished decoder's answers to eight prompts and stores them in its bundle.

A device that prepacks the bundle compares its own answers with the golden answers, to see whether its
processor computes the same answers (``edgeslm.engine.prepack.golden``).

The prompts were written for this project, so every bundle may include them. The prompts don't use the chat
template, since some templates insert the date and exports must be reproducible. Runs in a child process.
"""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

from edgeslm_export.jobs.subprocess_job import Reporter

from edgeslm.errors import ExportError

TEXTS = (
    "What is the capital of France?",
    "Spindle 3 smells of burnt oil and the lights flicker when it starts. What should I look at first?",
    "Failed password for invalid user admin from 192.0.2.7 port 51022 ssh2. Which user was it?",
    '{"sensor": "flow-3", "value": 0.02, "note": "the valve was closed for cleaning"}',
    "The bearing of pump 7 was greased on Monday and ran hot on Wednesday. When was it greased?",
    "Die Pumpe in Halle 4 ist laut und wird heiß. Bitte vor der Schicht ansehen.",
    "In few words: the night shift changed a filter, the morning shift found the valve leaking again.",
    "Write one sentence that tells an operator to switch a machine off before its cover is opened.",
)


def record_answers(task: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Runs in the child process: writes ``golden.json`` into the otherwise complete folder ``bundle``.

    :raises ExportError: the bundle computes values that aren't finite.
    :raises BundleError: its tokenizer can't be read.
    """
    from edgeslm.engine.prepack.golden import FILE, record
    from edgeslm.engine.worker.loading import PLAIN
    from edgeslm.engine.worker.prompt import load_tokenizer

    folder = Path(task["bundle"])
    reporter.progress(0, 1, "recording golden answers")
    tokenizer = load_tokenizer(folder)
    room = json.loads((folder / "genai_config.json").read_bytes())["model"]["context_length"] - 1
    prompts = [tokenizer.encode(text).ids[:room] for text in TEXTS]
    golden = record(PLAIN.load(folder, "", len(os.sched_getaffinity(0))), prompts)
    if not all(math.isfinite(one) for answer in golden.answers for one in answer.log_probs):
        raise ExportError(
            "The bundle computes numbers that aren't finite; the source's weights may be damaged."
        )
    (folder / FILE).write_text(golden.model_dump_json() + "\n")
    return {"answers": len(golden.answers)}


if __name__ == "__main__":
    sys.exit(Reporter().run(record_answers))

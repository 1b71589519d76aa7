"""Golden answers: records a finished decoder's answers to a few prompts and stores them in its bundle.

A device that prepacks the bundle compares its own answers with the golden answers, to see whether its
processor computes the same answers (``edgeslm.engine.prepack.golden``). Runs in a child process.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from edgeslm_export.jobs.subprocess_job import Reporter


def record(task: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Runs in the child process: writes ``golden.json`` into the otherwise complete folder ``bundle``.

    :raises BundleError: the bundle computes values that aren't finite, or its tokenizer can't be read.
    """
    from edgeslm.engine.prepack.golden import record_answers

    reporter.progress(0, 1, "recording golden answers")
    return {"answers": record_answers(Path(task["bundle"]))}


if __name__ == "__main__":
    sys.exit(Reporter().run(record))

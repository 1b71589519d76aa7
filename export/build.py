"""The child process of a conversion: clean checkpoint, then onnxruntime-genai's builder.

``python -m edgeslm_export.build`` with a task on standard input (see ``child``): ``source``,
``architecture``, ``recipe``, ``work`` (a scratch folder) and ``out`` (where the graph goes). Only here
are torch and the builder imported.
"""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from edgeslm_export import golden
from edgeslm_export.checkpoint import read_config
from edgeslm_export.child import Reporter
from edgeslm_export.cleaning import make_checkpoint
from edgeslm_export.recipe import find_recipe

_LAYER = re.compile(r"Reading layer (\d+)")


class _Watcher(io.TextIOBase):
    """Stands in for standard output: the builder says which layer it reads, and that is the progress."""

    def __init__(self, reporter: Reporter, layers: int) -> None:
        self._reporter, self._layers = reporter, layers

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        sys.stderr.write(text)
        if match := _LAYER.search(text):
            self._reporter.progress(2 + int(match[1]), self._layers + 5, "reading layers")
        elif text.startswith("Saving ONNX model"):
            self._reporter.progress(self._layers + 2, self._layers + 5, "quantizing and saving")
        return len(text)


def build(task: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """:return: nothing but the number of layers; the files are in ``out``."""
    source, work, out = Path(task["source"]), Path(task["work"]), Path(task["out"])
    recipe = find_recipe(task["recipe"])
    reporter.progress(0, 10, "loading libraries")
    from onnxruntime_genai.models.builder import create_model, parse_extra_options

    reporter.progress(1, 10, "reading the checkpoint")
    folder = work / "checkpoint"
    tokenizer = make_checkpoint(source, task["architecture"], folder)
    golden.write_record(tokenizer, source, work)
    config = read_config(folder / "config.json")
    options = recipe.builder_options(tied=bool(config.get("tie_word_embeddings", True)))
    layers = int(config["num_hidden_layers"])
    pairs = ["hf_token=false", *(f"{key}={value}" for key, value in options.items())]
    cache = str(work / "cache")
    with contextlib.redirect_stdout(_Watcher(reporter, layers)):
        parsed = parse_extra_options(None, str(folder), str(out), recipe.precision, "cpu", cache, pairs)
        create_model(None, str(folder), str(out), recipe.precision, "cpu", cache, **parsed)
    shutil.copyfile(folder / "tokenizer.json", out / "tokenizer.json")  # the builder's may be made anew
    return {"layers": layers}


if __name__ == "__main__":
    sys.exit(Reporter().run(build))

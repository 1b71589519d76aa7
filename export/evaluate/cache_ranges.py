"""Cache ranges: how large the keys and values of a decoder become, as the scales of an int8 cache need it.

Runs in a child process (``measure``). The texts are those that check the tokenizer, in many scripts, and the
calibration text if there is one. Two channels of a key that are rotated together (RoPE) share the length of
their vector, which is the same at every position.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # must be set before the inference library is imported

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from edgeslm_export.graph.int8_cache import RANGES, layers_of
from edgeslm_export.jobs.subprocess_job import Reporter
from edgeslm_export.sources.golden_tokens import TEXTS

PIECE: Final = 512
CALIBRATION_PIECES: Final = 16
MARGIN: Final = 1.1
"""By how much keys and values of other texts may be larger without being cut off. Rare tokens exceed it in
some channels: the largest keys of SmolLM2 in two texts of 4,096 tokens differ by 1.0 in the median channel,
and by 1.28 in one of a hundred."""

Floats = npt.NDArray[np.float32]


def measure(task: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Writes the file ``RANGES`` for the model folder ``bundle`` into the folder ``work``."""
    import tokenizers

    folder, work = Path(task["bundle"]), Path(task["work"])
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = tokenizer.encode("\n".join(TEXTS)).ids
    limit = json.loads((folder / "genai_config.json").read_bytes())["model"]["context_length"]
    piece = min(PIECE, int(limit))
    sequences = [ids[start : start + piece] for start in range(0, len(ids), piece)]
    if (work / "calibration.npy").exists():
        sequences += np.load(work / "calibration.npy")[:CALIBRATION_PIECES, :piece].tolist()

    def reported() -> Iterator[list[int]]:
        for number, tokens in enumerate(sequences):
            reporter.progress(number, len(sequences), "measuring keys and values")
            yield tokens

    ranges: dict[str, Any] = {**find_ranges(folder, reported())}
    np.savez(work / RANGES, **ranges)
    return {}


def find_ranges(folder: Path, sequences: Iterable[Sequence[int]]) -> dict[str, Floats]:
    """The largest keys and values in the given sequences, times ``MARGIN``; by the names of the graph's
    inputs. Empty if the graph can't have an int8 cache."""
    import onnx

    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    decoder = json.loads((folder / "genai_config.json").read_bytes())["model"]["decoder"]
    heads, size = int(decoder["num_key_value_heads"]), int(decoder["head_size"])
    if not (layers := layers_of(graph, size)):
        return {}
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    session = ort.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    names = [name for layer in layers for name in layer.node.input[3:5]]
    outputs = [name for layer in layers for name in layer.node.output[1:3]]
    empty = np.zeros((1, heads, 0, size), np.float32)
    found = {name: np.zeros((heads, size), np.float32) for name in names}
    for tokens in sequences:
        feeds: dict[str, Any] = dict.fromkeys(names, empty)
        feeds["input_ids"] = np.array([tokens], np.int64)
        feeds["attention_mask"] = np.ones((1, len(tokens)), np.int64)
        made = dict(zip(names, session.run(outputs, feeds), strict=True))
        for layer in layers:
            keys, values = layer.node.input[3:5]
            found[keys] = np.maximum(found[keys], layer.largest_keys(made[keys][0]))
            found[values] = np.maximum(found[values], np.abs(made[values][0]).max(axis=1))
    return {name: largest * np.float32(MARGIN) for name, largest in found.items()}


if __name__ == "__main__":
    sys.exit(Reporter().run(measure))

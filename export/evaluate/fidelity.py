"""Fidelity: compares a quantized decoder's token distributions with the float model's, on the same tokens.

The figures are those of llama.cpp's ``llama-perplexity --kl-divergence``, which are the Kullback-Leibler
divergence of each position's next-token distribution (natural logarithm), how often both models have the same
most likely token, and the ratio of perplexities. ``bundle_logits`` passes tokens to onnxruntime-genai in
pieces that are as long as the engine's prefill pieces.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # must be set before the inference library is imported

import numpy as np
import numpy.typing as npt
from edgeslm_export.evaluate.llama_cpp import gguf_logits
from edgeslm_export.graph.decode_graph import READS, keep_part
from edgeslm_export.graph.last_logits import compute_every_token
from edgeslm_export.jobs.subprocess_job import Reporter

Logits = npt.NDArray[np.floating[Any]]

_PIECE = 128
"""Number of tokens in a forward pass, the same as in the engine's prefill. Passes with a single token would
use other kernels."""

_ROWS = 16
"""Number of positions that one core compares at a time. With a large vocabulary, the logits of one position
take 1 MB in float64, and more positions wouldn't fit in the CPU cache."""


@dataclass(slots=True)
class Comparison:
    """Comparison of two models' logits: call ``add`` for each sequence, then ``figures``."""

    divergences: list[npt.NDArray[np.float64]] = field(default_factory=list)
    excess: list[npt.NDArray[np.float64]] = field(default_factory=list)
    """For each predicted token, the bundle's negative log-likelihood minus the reference's."""
    reference_nll: float = 0.0
    same: int = 0

    def add(self, reference: Logits, logits: Logits, tokens: Sequence[int]) -> None:
        """Adds one sequence: logits [tokens, vocabulary] of both models, and its tokens.

        A position's logits predict the next token. The last position has no next token, so it counts for the
        divergence only.
        """
        blocks = [slice(start, start + _ROWS) for start in range(0, len(tokens), _ROWS)]
        following = [np.asarray(tokens[rows.start + 1 : rows.stop + 1], np.int64) for rows in blocks]
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            found = pool.map(
                _compare,
                [reference[rows] for rows in blocks],
                [logits[rows] for rows in blocks],
                following,
            )
            for divergences, excess, nll, same in found:
                self.divergences.append(divergences)
                self.excess.append(excess)
                self.reference_nll += nll
                self.same += same

    def figures(self) -> dict[str, Any]:
        """A dict with ``tokens`` (number of positions), ``kl_mean`` and ``kl_p999`` (mean and 99.9 % quantile
        of the divergence), ``same_top1`` (share of positions with the same most likely token), ``perplexity``
        (of the bundle), ``perplexity_ratio`` (bundle to float model), and ``perplexity_ratio_se`` (the
        ratio's standard error by the delta method on paired differences)."""
        divergences, excess = np.concatenate(self.divergences), np.concatenate(self.excess)
        mean = float(excess.mean())
        ratio = math.exp(mean)
        error = float(excess.std(ddof=1)) / math.sqrt(len(excess)) if len(excess) > 1 else math.inf
        return {
            "tokens": len(divergences),
            "kl_mean": round(float(divergences.mean()), 5),
            "kl_p999": round(float(np.quantile(divergences, 0.999)), 4),
            "same_top1": round(self.same / len(divergences), 4),
            "perplexity": round(math.exp(self.reference_nll / len(excess) + mean), 3),
            "perplexity_ratio": round(ratio, 4),
            "perplexity_ratio_se": round(ratio * error, 4),
        }


def _compare(
    reference: Logits, logits: Logits, following: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], float, int]:
    """Compares some positions. :return: the divergence of each position, the excess of each following token,
    the sum of the reference's negative log-likelihoods, and the number of equal top tokens."""
    p, q = reference.astype(np.float64), logits.astype(np.float64)
    same = int((p.argmax(axis=1) == q.argmax(axis=1)).sum())
    p -= p.max(axis=1, keepdims=True)
    q -= q.max(axis=1, keepdims=True)
    weights = np.exp(p)
    total = weights.sum(axis=1)
    log_p, log_q = np.log(total), np.log(np.exp(q).sum(axis=1))
    at = np.arange(len(following))
    likely_p = p[at, following] - log_p[at]
    excess = likely_p - (q[at, following] - log_q[at])
    p -= q
    divergences = np.einsum("ij,ij->i", weights, p) / total - log_p + log_q
    return divergences, excess, -float(likely_p.sum()), same


def bundle_logits(
    folder: Path,
    sequences: Sequence[Sequence[int]],
    threads: int,
    scratch: Path | None = None,
    part: str = READS,
) -> Iterator[Logits]:
    """Logits [tokens, vocabulary] float32 of each sequence, computed with an empty cache.

    A bundle's graph computes the logits of the last positions only, so a copy of the graph that computes all
    positions is used (``every_position``).

    :param scratch: a folder to work in; by default the bundle's parent.
    :param part: the branch to use if the graph has two (``decode_graph``).
    """
    import onnxruntime_genai as og

    with every_position(folder, scratch or folder.parent, part) as whole:
        config = og.Config(str(whole))
        options = {"intra_op_num_threads": threads}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        model = og.Model(config)
        longest = max(len(tokens) for tokens in sequences)
        for tokens in sequences:
            params = og.GeneratorParams(model)
            params.set_search_options(max_length=longest, do_sample=False)
            generator = og.Generator(model, params)
            pieces = []
            for start in range(0, len(tokens), _PIECE):
                generator.append_tokens(np.asarray(tokens[start : start + _PIECE], np.int32))
                pieces.append(np.array(generator.get_output("logits"), np.float32)[0])
            del generator  # before the model, or the runtime reports a leak at exit
            yield np.concatenate(pieces)
        del model


@contextlib.contextmanager
def every_position(folder: Path, scratch: Path, part: str = READS) -> Iterator[Path]:
    """A copy of a model folder in ``scratch`` whose graph computes the logits of all positions; the weights
    are linked.

    :param part: the branch to use if the graph has two (``decode_graph``).
    """
    import onnx

    with tempfile.TemporaryDirectory(prefix=".logits-", dir=scratch) as name:
        copy = Path(name)
        for file in folder.iterdir():
            if file.is_file() and file.name != "model.onnx":
                try:
                    os.link(file, copy / file.name)
                except OSError:  # a file system without hard links
                    shutil.copyfile(file, copy / file.name)
        model = onnx.load(str(folder / "model.onnx"), load_external_data=False)
        keep_part(model.graph, part)
        compute_every_token(model.graph)
        onnx.save(model, str(copy / "model.onnx"))
        yield copy


def measure(task: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Runs in the child process: computes logits for the tokens in ``evaluation.npy`` and compares them with
    ``reference.npy``; both files are in the folder ``work``. The logits are those of ``bundle`` (of its
    branch ``part``), or those that llama.cpp computes from the file ``gguf``. :return: the figures of
    ``Comparison``."""
    work = Path(task["work"])
    sequences = np.load(work / "evaluation.npy")
    reference = np.load(work / "reference.npy", mmap_mode="r")
    threads = int(task.get("threads") or len(os.sched_getaffinity(0)))
    comparison = Comparison()
    length = sequences.shape[1]
    rows = [row.tolist() for row in sequences]
    if "gguf" in task:
        computed: Iterator[Logits] = gguf_logits(Path(task["gguf"]), rows, threads)
    else:
        computed = bundle_logits(Path(task["bundle"]), rows, threads, work, task.get("part", READS))
    for number, (tokens, logits) in enumerate(zip(rows, computed, strict=True)):
        reporter.progress(number, len(rows), "comparing with the float model")
        comparison.add(reference[number * length : (number + 1) * length], logits, tokens)
    return comparison.figures()


if __name__ == "__main__":
    sys.exit(Reporter().run(measure))

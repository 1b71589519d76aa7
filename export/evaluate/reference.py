"""Reference comparison: compares a decoder bundle with its float model, by the metrics of ``fidelity``.

The step ``study`` of ``quantize.worker`` computes the float model's logits; ``study_task`` makes the task of
this step. This module checks after the step whether the bundle was made from the source, since the matrix
shapes of a GGUF source are unknown before the step.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeslm_export.evaluate import llama_cpp
from edgeslm_export.graph.decode_graph import WRITES
from edgeslm_export.jobs.optimum_env import cache_folder
from edgeslm_export.jobs.resources import bytes_a_weight, check_resources
from edgeslm_export.jobs.subprocess_job import OnProgress, run_module
from edgeslm_export.quantize.formats import Format
from edgeslm_export.sources.checkpoint import Origin
from edgeslm_export.sources.corpus import Corpus
from edgeslm_export.sources.gguf import read_gguf_header

from edgeslm.bundle.manifest import Bundle
from edgeslm.errors import ExportError

EVALUATION_TOKENS = 4_096
REFERENCE_BYTES = 1_000_000_000
"""Maximum size on disk of the float model's logits; with a large vocabulary, fewer tokens are measured."""
UNQUANTIZED = {"F32", "F16", "BF16"}


def gguf_types(origin: Origin) -> dict[str, int]:
    """Number of tensors of each type in a GGUF file, the most frequent type first; empty for a checkpoint
    folder."""
    if not origin.is_gguf:
        return {}
    return dict(Counter(tensor.kind for tensor in read_gguf_header(origin.path).tensors).most_common())


def study_task(
    origin: Origin,
    corpus: Corpus | None,
    *,
    calibration_tokens: int = 0,
    formats: Sequence[Format] = (),
    find_exact: bool = False,
) -> dict[str, Any]:
    """The task for the ``study`` step of ``quantize.worker``.

    :param formats: formats in which the step measures the loss of embedding and head. For all other matrices
        the step computes gradients. If ``formats`` is empty, it computes neither losses nor gradients.
    :param find_exact: whether to find the matrices that are already quantized in the source.
    """
    return {
        "step": "study",
        "source": str(origin.path.resolve()),
        "architecture": origin.architecture,
        "quantized_source": find_exact,
        "texts": {
            "calibration": corpus.calibration if corpus and calibration_tokens else (),
            "conversations": corpus.conversations if corpus and calibration_tokens else (),
            "evaluation": corpus.evaluation if corpus else (),
        },
        "tokens": {
            "calibration": calibration_tokens if corpus else 0,
            "evaluation": EVALUATION_TOKENS if corpus else 0,
        },
        "reference_bytes": REFERENCE_BYTES,
        "formats": [[form.bits, form.group_size] for form in formats],
    }


def compare(
    bundle: Bundle,
    origin: Origin,
    corpora: Sequence[Corpus],
    *,
    threads: int | None = None,
    on_progress: OnProgress | None = None,
    debug: bool = False,
) -> list[dict[str, Any]]:
    """Compares a bundle with its float model on each corpus, and also a GGUF source in llama.cpp if llama.cpp
    is installed.

    :return: a dict for each comparison, with ``text`` (the corpus's name) and the figures of
        ``fidelity.Comparison``. If llama.cpp or the graph's branch for single tokens was measured, the dict
        also has ``engine``, the name of what was measured.
    :raises ExportError: the bundle was made from another model, or a step failed.
    """
    _check_architecture(bundle, origin)
    place = cache_folder()
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="evaluate-", dir=place) as name:
        work = Path(name)
        checkpoint = origin.weights * 4 if origin.is_gguf else 0
        check_resources(
            origin.weights, checkpoint + REFERENCE_BYTES, work, bytes_a_weight(gguf=origin.is_gguf)
        )

        def run(module: str, what: str, task: Mapping[str, Any]) -> dict[str, Any]:
            return run_module(module, {"work": name, **task}, what, on_progress=on_progress, debug=debug)

        rows = []
        quantization = bundle.manifest.quantization
        for corpus in corpora:
            found = run("quantize.worker", "reading the float model", study_task(origin, corpus))
            _check_shapes(bundle, origin, found, work / "checkpoint")
            task = {"bundle": str(bundle.path.resolve()), "threads": threads}
            rows.append({"text": corpus.name, **run("evaluate.fidelity", "measuring the bundle", task)})
            if quantization is not None and quantization.written:
                own = {"text": corpus.name, "engine": "single tokens"}
                rows.append(
                    {**own, **run("evaluate.fidelity", "measuring the bundle", {**task, "part": WRITES})}
                )
            if origin.is_gguf and llama_cpp.is_installed():
                task = {"gguf": str(origin.path.resolve()), "threads": threads}
                other = {"text": corpus.name, "engine": f"{llama_cpp.NAME} with {origin.path.name}"}
                rows.append({**other, **run("evaluate.fidelity", f"measuring {llama_cpp.NAME}", task)})
        return rows


def _check_architecture(bundle: Bundle, origin: Origin) -> None:
    made_of = bundle.manifest.architecture
    if made_of != origin.architecture:
        raise ExportError(
            f"{bundle.path} is a {made_of} and {origin.path} a {origin.architecture}; "
            "name the float model that the bundle was made of."
        )


def _check_shapes(bundle: Bundle, origin: Origin, found: Mapping[str, Any], checkpoint: Path) -> None:
    """Compares the number of layers, the width and the vocabulary of bundle and source. :param found: the
    result of ``study``."""
    model = json.loads((bundle.path / "genai_config.json").read_bytes())["model"]
    rows, width = found["matrices"]["lm_head"]
    shapes = (
        ("layers", model["decoder"]["num_hidden_layers"], found["layers"]),
        ("values a token", model["decoder"]["hidden_size"], width),
        ("tokens in its vocabulary", model["vocab_size"], rows),
    )
    for what, own, other in shapes:
        if own != other:
            raise ExportError(
                f"{bundle.path} has {own:,} {what} and {origin.path} has {other:,}; "
                "name the float model that the bundle was made of."
            )
    if _vocabulary(bundle.path) != _vocabulary(checkpoint):
        raise ExportError(
            f"{bundle.path} and {origin.path} have different vocabularies of the same size; "
            "name the float model that the bundle was made of."
        )


def _vocabulary(folder: Path) -> Any:
    """The vocabulary of ``tokenizer.json``: a mapping for BPE and WordPiece, a list for Unigram."""
    return json.loads((folder / "tokenizer.json").read_bytes())["model"].get("vocab")

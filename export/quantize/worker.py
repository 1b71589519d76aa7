"""Quantization worker: child process that studies a source, or quantizes it into codes and scales.

Runs as ``python -m edgeslm_export.quantize.worker`` with a task on standard input (see ``subprocess_job``);
the task's ``step`` is ``study`` or ``quantize``. For a recipe that measures sensitivity, the worker quantizes
each matrix in every format that the recipe allows; ``decoder`` then allocates bits by the measured losses.
All files are in a work folder, which has ``checkpoint/`` (``normalize``), ``calibration.npy`` and
``evaluation.npy`` (token ids), ``reference.npy`` (the float model's logits, float16), ``gradients.npz``
(``sensitivity``), ``codes/`` (a file for each layer). A file in ``codes/`` has ``codes`` int8 and ``scales``
float16 of each matrix and format; a matrix with a scale for each row may also have ``smoothing`` float32 and
``reach`` (see ``packing.Quantized``).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from edgeslm_export.jobs.checkpoint_notes import Notes
from edgeslm_export.jobs.device import CPU, open_device
from edgeslm_export.jobs.subprocess_job import Reporter
from edgeslm_export.quantize.calibration_stream import MEASURED_EVERY, CalibrationStream
from edgeslm_export.quantize.formats import Format
from edgeslm_export.quantize.packing import Made, Quantized, recover, write_codes
from edgeslm_export.quantize.recipe import ATTENDED, EMBEDDING, HEAD
from edgeslm_export.sources.corpus import BATCH

from edgeslm.errors import ExportError

if TYPE_CHECKING:
    import torch
    from edgeslm_export.sources.layer_reader import LayeredModel

TOP = "top"
"""Name of the file in ``codes/`` that has the embedding and the head."""
_LAYER_BYTES = 36_000
"""Bytes that one layer's nodes and names take in the plain, the scoring and the adapter graph together."""
_REPORT_BYTES = 40_000
"""Maximum bytes of manifest, report card and golden answers."""
_EXACT = (Format(4, 32), Format(8, 32))
"""Source formats whose codes can be recovered from the float weights: ggml's Q4_0 and Q8_0."""
_GRADIENTS = "gradients.npz"
_CHECKPOINT, _REFERENCE, _TASK, _LAYERS = "checkpoint", "reference", "task", "layers"
"""Names of notes on finished steps."""


# --- study -------------------------------------------------------------------------------------------


def study(task: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Writes checkpoint, tokens and reference logits. A checkpoint and logits of the same tokens that an
    earlier run finished are reused.

    :return: a dict with ``matrices`` (rows and columns by name), ``layers`` (number of layers), ``exact``
        (formats by name, of the matrices that the source stores in one of ``_EXACT``), ``calibration_tokens``
        (number of tokens), ``report_bytes`` (``_REPORT_BYTES``), and the result of ``_other_bytes``. If the
        task has ``formats``, the dict also has ``losses`` of embedding and head (by name, a list of [bits,
        group size, nats a token]), and the model has to fit in memory.
    """
    from edgeslm_export.sources import golden_tokens
    from edgeslm_export.sources.normalize import make_checkpoint

    work = Path(task["work"])
    folder = work / "checkpoint"
    notes = Notes(work)
    reporter.progress(0, 100, "reading the checkpoint")
    if notes.load(_CHECKPOINT) is None:
        shutil.rmtree(folder, ignore_errors=True)
        tokenizer = make_checkpoint(Path(task["source"]), task["architecture"], folder)
        golden_tokens.write_record(tokenizer, Path(task["source"]), work)
        notes.save(_CHECKPOINT, {})
    _set_threads()
    with _on_device(task):
        return _examine(task, folder, work, notes, reporter)


def _examine(
    task: Mapping[str, Any], folder: Path, work: Path, notes: Notes, reporter: Reporter
) -> dict[str, Any]:
    """The result of ``study`` for the checkpoint in ``folder``."""
    from edgeslm_export.sources.layer_reader import LayeredModel

    model = LayeredModel(folder)
    matrices = {name: list(module.weight.shape) for name, module in model.matrices().items()}
    if not model.tied:
        matrices[EMBEDDING] = list(model.model.model.embed_tokens.weight.shape)
    tokens = _tokenize(folder, task, work, model.config)
    if task["tokens"]["evaluation"]:
        _write_reference(model, work, task["reference_bytes"], notes, reporter)
    result: dict[str, Any] = {
        "matrices": matrices,
        "layers": len(model.layers),
        "exact": {},
        "calibration_tokens": tokens["calibration"],
        **_other_bytes(model, folder),
        "report_bytes": _REPORT_BYTES,
    }
    if task["quantized_source"]:
        result["exact"] = _find_exact(model)
    formats = [Format(*pair) for pair in task["formats"]]
    if formats:
        result["losses"] = _measure_losses(model, work, formats, reporter)
    return result


def _calibration_ids(model: LayeredModel, work: Path) -> torch.Tensor:
    """The calibration tokens [sequences, tokens] on the model's device."""
    import torch

    return torch.from_numpy(np.load(work / "calibration.npy")).long().to(model.device)


def _tokenize(folder: Path, task: Mapping[str, Any], work: Path, config: Any) -> dict[str, int]:
    """Writes ``calibration.npy`` and ``evaluation.npy``, int32 [sequences, tokens].

    :return: the number of tokens in each file, by the file's name without ``.npy``.
    """
    from edgeslm_export.sources.corpus import SEQUENCE, calibration_rows, token_rows
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    longest = min(SEQUENCE, config.max_position_embeddings)
    counts = {}
    texts = task["texts"]
    for part, tokens in task["tokens"].items():
        if part == "calibration":
            talks = texts["conversations"]
            rows = calibration_rows(tokenizer, texts[part], talks, tokens, length=longest)
        else:
            rows = token_rows(tokenizer, texts[part], tokens, length=longest)
        length = len(rows[0]) if rows else 0
        if tokens and length < 2:  # perplexity needs a token and the next one
            raise ExportError(
                f"The text for {part} has {length} tokens; take a longer text, some pages of what the model "
                "will read."
            )
        np.save(work / f"{part}.npy", np.asarray(rows, np.int32).reshape(len(rows), length))
        counts[part] = len(rows) * length
    return counts


def _other_bytes(model: Any, folder: Path) -> dict[str, int]:
    """Size of everything in a bundle except its matrices: small parameters and positions in float32, graph,
    tokenizer.

    :return: a dict with ``other_bytes``, an estimate that is a few percent too high (the first build gives
        the exact number), and ``other_bytes_least``, a lower bound.
    """
    large = {id(module.weight) for module in model.matrices().values()}
    large.add(id(model.model.model.embed_tokens.weight))
    small = sum(int(p.numel()) for p in model.model.parameters() if id(p) not in large)
    head = getattr(model.config, "head_dim", None) or (
        model.config.hidden_size // model.config.num_attention_heads
    )
    positions = int(model.config.max_position_embeddings) * int(head)
    weights = _weights_of(folder)
    files = sum(file.stat().st_size for file in folder.iterdir() if file.name not in weights)
    graph: int = _LAYER_BYTES * len(model.layers)
    return {
        "other_bytes": 4 * (small + positions) + files + graph + _REPORT_BYTES,
        "other_bytes_least": 4 * small + (folder / "tokenizer.json").stat().st_size,
    }


def _weights_of(folder: Path) -> set[str]:
    from edgeslm_export.sources.checkpoint import weight_files

    return {file.name for file in weight_files(folder)}


def _write_reference(model: Any, work: Path, most_bytes: int, notes: Notes, reporter: Reporter) -> None:
    """Writes the float model's logits [sequences * length, vocabulary], computed layer by layer.

    The file has as many sequences as fit in ``most_bytes`` bytes, at least one; all others are removed from
    ``evaluation.npy``.
    """
    import torch

    evaluation = np.load(work / "evaluation.npy")
    row_bytes = 2 * evaluation.shape[1] * model.model.lm_head.weight.shape[0]
    evaluation = evaluation[: max(1, most_bytes // row_bytes)]
    np.save(work / "evaluation.npy", evaluation)
    note = {"tokens": hashlib.sha256(evaluation.tobytes()).hexdigest()}
    if notes.load(_REFERENCE) == note:
        return
    ids = torch.from_numpy(evaluation).long().to(model.device)
    with torch.inference_mode():
        hidden, calls = model.embed(ids), model.calls(ids[:BATCH])
        for number in range(len(model.layers)):
            reporter.progress(1 + 20 * number // len(model.layers), 100, "reading with the float model")
            with model.borrowed(number):
                hidden = model.run(number, hidden, calls)
        vocabulary = model.model.lm_head.weight.shape[0]
        shape = (ids.numel(), vocabulary)
        out = np.lib.format.open_memmap(work / "reference.npy", "w+", np.float16, shape)
        for row, sequence in enumerate(hidden):
            length = ids.shape[1]
            logits = model.logits(sequence[None])[0].to(torch.float16)
            out[row * length : (row + 1) * length] = logits.cpu().numpy()
        out.flush()
    notes.save(_REFERENCE, note)


def _find_exact(model: Any) -> dict[str, list[int]]:
    """The format of each matrix whose weights a format of ``_EXACT`` represents exactly, by the matrix's
    name."""
    found = {}
    for name, weight in _weights(model):
        for form in _EXACT:
            if recover(weight.cpu().numpy(), form) is not None:
                found[name] = [form.bits, form.group_size]
                break
    return found


def _weights(model: Any) -> Iterator[tuple[str, Any]]:
    """Name and float weights of every matrix, layer by layer."""
    names = model.matrices()
    for number in range(len(model.layers)):
        with model.borrowed(number):
            for name in names:
                if name.startswith(f"model.layers.{number}."):
                    yield name, model.model.get_submodule(name).weight.detach()
    yield HEAD, model.model.lm_head.weight.detach()
    if not model.tied:
        yield EMBEDDING, model.model.model.embed_tokens.weight.detach()


def _measure_losses(
    model: Any, work: Path, formats: Sequence[Format], reporter: Reporter
) -> dict[str, list[list[float]]]:
    from edgeslm_export.quantize.sensitivity import measure_sensitivity

    ids = _calibration_ids(model, work)[::MEASURED_EVERY]

    def on_progress(done: int, total: int, what: str) -> None:
        reporter.progress(22 + 75 * done // total, 100, what)

    found = measure_sensitivity(model, ids, formats, on_progress)
    np.savez(work / _GRADIENTS, **{name: lengths.cpu().numpy() for name, lengths in found.gradients.items()})
    losses = found.losses
    if model.tied:  # one matrix, used twice
        for form, loss in losses.pop(EMBEDDING).items():
            losses[HEAD][form] += loss
    return {
        name: [[form.bits, form.group_size, loss] for form, loss in by_format.items()]
        for name, by_format in losses.items()
    }


# --- quantize ----------------------------------------------------------------------------------------


def quantize(task: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Writes ``codes/``: each matrix in each of its ``formats``. With ``compensate``, GPTQ quantizes each
    layer; its calibration inputs are the outputs of the layers before, whose matrices are quantized in the
    first of their formats. A matrix is only rounded to its ``spare`` format. An interrupted run of the same
    task goes on after its last finished layer.

    :return: a dict with ``losses`` of the layers' matrices (by name, a list of [bits, group size, nats a
        token]); ``losses`` is empty unless gradients were measured.
    """
    import torch
    from edgeslm_export.quantize.gptq import round_to_nearest
    from edgeslm_export.sources.layer_reader import LayeredModel

    _set_threads()
    work = Path(task["work"])
    formats = {name: [Format(*pair) for pair in pairs] for name, pairs in task["formats"].items()}
    exact = {name: Format(*pair) for name, pair in task["exact"].items()}
    spare = {name: Format(*pair) for name, pair in task.get("spare", {}).items()}
    codes = work / "codes"
    notes = _notes_of_codes(codes, task)
    state = notes.load(_LAYERS) or {"done": 0, "losses": {}}

    def rounded(name: str, weight: Any) -> Made:
        return {
            (name, form): _source_codes(weight, form, exact.get(name)) or round_to_nearest(weight, form)
            for form in formats[name]
        }

    with _on_device(task), torch.inference_mode():
        model = LayeredModel(work / "checkpoint")
        top = {HEAD: model.model.lm_head, EMBEDDING: model.model.model.embed_tokens}
        made: Made = {}
        if not state["done"]:
            for name in sorted(top.keys() & formats.keys()):
                made |= rounded(name, top[name].weight)
            write_codes(codes / TOP, made)
        if task["compensate"]:
            if state["done"]:
                hidden = torch.from_numpy(np.load(_hidden_file(codes, state["done"]))).to(model.device)
            else:
                read = EMBEDDING if EMBEDDING in formats else HEAD if model.tied else None
                if read is not None:
                    model.model.model.embed_tokens.weight.copy_(_first(made, read, formats))
                hidden = None
            stream = CalibrationStream(model, _calibration_ids(model, work), hidden)
            gradients = dict(np.load(work / _GRADIENTS)) if (work / _GRADIENTS).is_file() else None
        for number in range(state["done"], len(model.layers)):
            reporter.progress(number, len(model.layers), "quantizing")
            with model.borrowed(number) as layer:
                prefix = f"model.layers.{number}."
                own = {
                    name: layer.get_submodule(name.removeprefix(prefix))
                    for name in formats
                    if name.startswith(prefix)
                }
                made = {}
                if task["compensate"]:
                    for stage in stream.stages(number, own):
                        made |= compensate_layer(
                            stream, number, stage, formats, exact, gradients, state["losses"], spare
                        )
                    stream.advance(number)
                    np.save(_hidden_file(codes, number + 1), stream.hidden.cpu().numpy())
                else:
                    for name, matrix in own.items():
                        made |= rounded(name, matrix.weight)
                write_codes(codes / str(number), made)
            state["done"] = number + 1
            notes.save(_LAYERS, state)
            _hidden_file(codes, number).unlink(missing_ok=True)
    return {"losses": state["losses"]}


def _notes_of_codes(folder: Path, task: Mapping[str, Any]) -> Notes:
    """The notes of an interrupted quantization of the same task, or of none."""
    task = {key: task.get(key) for key in ("formats", "exact", "spare", "compensate")}
    notes = Notes(folder)
    if notes.load(_TASK) != task:
        notes.remove()
        notes = Notes(folder)
        notes.save(_TASK, task)
    return notes


def _hidden_file(codes: Path, layers: int) -> Path:
    """Hidden states of the calibration tokens after a number of layers."""
    return codes / f"hidden-{layers}.npy"


def _source_codes(weight: Any, form: Format, exact: Format | None) -> Quantized | None:
    """The source's own codes of a matrix, if the source stores it in the format ``form``; else None."""
    return recover(weight.detach().cpu().numpy(), form) if form == exact else None


def _first(made: Made, name: str, formats: Mapping[str, Sequence[Format]]) -> Any:
    """The matrix dequantized from the first of its formats; later layers are calibrated with these
    weights."""
    import torch

    return torch.from_numpy(made[name, formats[name][0]].weights())


def compensate_layer(
    stream: CalibrationStream,
    number: int,
    stage: Mapping[str, Any],
    formats: Mapping[str, Sequence[Format]],
    exact: Mapping[str, Format],
    gradients: Mapping[str, Any] | None,
    losses: dict[str, list[list[float]]],
    spare: Mapping[str, Format] = MappingProxyType({}),
) -> Made:
    """Quantizes the matrices of a stage (matrices that read the same input) by GPTQ, in their ``spare``
    formats by rounding, and adds the loss of each format to ``losses``. Replaces each matrix in the model by
    its dequantized weights in the first of its formats."""
    import torch
    from edgeslm_export.quantize.gptq import InputStatistics, Smoothing, find_reach, round_to_nearest
    from edgeslm_export.quantize.sensitivity import ErrorMeter

    wanted = [(name, form) for name in stage for form in formats[name]]
    made: Made = {}
    for name, form in wanted:
        if taken := _source_codes(stage[name].weight, form, exact.get(name)):
            made[name, form] = taken
    if missing := [pair for pair in wanted if pair not in made]:  # a Q4_0 file may have all of them
        moments = stream.moments(number, stage, keep=gradients is not None)
        read = moments.inputs
        by_row = [name for name, form in missing if form.by_row]
        weights = [stage[name].weight for name in by_row]
        smoothing = reach = None
        if by_row and not any(name.endswith(ATTENDED) for name in by_row):
            smoothing = Smoothing(moments.largest, weights)
        if by_row:
            reach = find_reach(moments.tokens, weights, smoothing)
        calibrations = {
            rows: InputStatistics(moments.products, smoothing if rows else None)
            for rows in {form.by_row for name, form in missing if form != spare.get(name)}
        }
        del moments  # the calibrations have their own
        for name, form in missing:
            if form == spare.get(name):
                made[name, form] = round_to_nearest(stage[name].weight, form)
                continue
            matrix = calibrations[form.by_row].compensate(stage[name].weight, form)
            made[name, form] = replace(matrix, reach=reach) if form.by_row else matrix
        if gradients is not None:
            for name, matrix in stage.items():
                device = matrix.weight.device
                gradient = torch.from_numpy(gradients[name]).flatten().to(device)
                meter = ErrorMeter(read, gradient, len(matrix.weight), len(formats[name]))
                for form in formats[name]:
                    error = torch.from_numpy(made[name, form].weights()).to(device) - matrix.weight
                    loss = meter.divergence(error)
                    losses.setdefault(name, []).append([form.bits, form.group_size, loss])
    for name, matrix in stage.items():
        matrix.weight.copy_(_first(made, name, formats))
    return made


def _set_threads() -> None:
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))


def _on_device(task: Mapping[str, Any]) -> contextlib.AbstractContextManager[Any]:
    """A context in which torch's default device is the task's; the CPU if the task names none."""
    name = task.get("device", CPU)
    return contextlib.nullcontext() if name == CPU else open_device(name)


def run(task: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    return {"study": study, "quantize": quantize}[task["step"]](task, reporter)


if __name__ == "__main__":
    sys.exit(Reporter().run(run))

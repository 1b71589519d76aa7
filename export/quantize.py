"""The child processes that see float weights: ``study`` a source, then ``quantize`` it into codes and scales.

``python -m edgeslm_export.quantize`` with a task on standard input (see ``child``); ``step`` names which.
Between the two, ``convert`` decides with what was found which matrix gets how many bits. Everything goes
through a work folder: ``checkpoint/`` (``cleaning``), ``calibration.npy`` and ``evaluation.npy`` (token
ids), ``reference.npy`` (the float model's logits, float16), ``codes/`` (a file a layer: ``codes`` int8,
``scales`` float16).
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from edgeslm_export.child import Reporter
from edgeslm_export.corpus import BATCH
from edgeslm_export.formats import Format
from edgeslm_export.matrices import Quantized, recover
from edgeslm_export.recipe import EMBEDDING, HEAD

from edgeslm.errors import ExportError

TOP = "top"
"""The file in ``codes/`` with what is in no layer: embedding and head."""
_LAYER_BYTES = 24_000
"""Of the nodes and names of both graphs, a layer."""
_REPORT_BYTES = 40_000
"""Of manifest and report card, at most."""
_EXACT = (Format(4, 32), Format(8, 32))
"""Formats that are looked for in the weights: ggml's Q4_0 and Q8_0."""


# --- study -------------------------------------------------------------------------------------------


def study(task: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Makes the clean checkpoint, tokens and reference logits; a checkpoint that is there is used again.

    :return: ``matrices`` (name: rows, columns), ``tied``, ``exact`` (names whose weights lie on a 4- or
        8-bit grid already, with the format), ``losses`` (name: a list of [bits, group size, nats a token])
        if ``formats`` are given in the task and the model fits memory.
    """
    from edgeslm_export import golden
    from edgeslm_export.cleaning import make_checkpoint

    work = Path(task["work"])
    folder = work / "checkpoint"
    reporter.progress(0, 100, "reading the checkpoint")
    if not folder.is_dir():
        tokenizer = make_checkpoint(Path(task["source"]), task["architecture"], folder)
        golden.write_record(tokenizer, Path(task["source"]), work)
    _set_threads()
    from edgeslm_export.layers import LayeredModel

    model = LayeredModel(folder)
    matrices = {name: list(module.weight.shape) for name, module in model.matrices().items()}
    if not model.tied:
        matrices[EMBEDDING] = list(model.model.model.embed_tokens.weight.shape)
    _tokenize(folder, task, work, model.config)
    if task["tokens"]["evaluation"]:
        _write_reference(model, work, task["reference_bytes"], reporter)
    result: dict[str, Any] = {
        "matrices": matrices,
        "layers": len(model.layers),
        "exact": {},
        "other_bytes": _other_bytes(model, folder),
        "report_bytes": _REPORT_BYTES,
    }
    if task["quantized_source"]:
        result["exact"] = _find_exact(model)
    formats = [Format(*pair) for pair in task["formats"]]
    if formats:
        result["losses"] = _measure_losses(model, work, formats, reporter)
    return result


def _tokenize(folder: Path, task: Mapping[str, Any], work: Path, config: Any) -> None:
    """Writes ``calibration.npy`` and ``evaluation.npy``, int32 [sequences, tokens]."""
    from edgeslm_export.corpus import SEQUENCE, token_rows
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    longest = min(SEQUENCE, config.max_position_embeddings)
    for part in ("calibration", "evaluation"):
        chats = part == "calibration"
        texts, tokens = task["texts"][part], task["tokens"][part]
        rows = token_rows(tokenizer, texts, tokens, length=longest, chats=chats)
        length = len(rows[0]) if rows else 0
        if tokens and length < 2:  # a divergence needs a token, a perplexity one that follows
            raise ExportError(
                f"The text for {part} has {length} tokens; take a longer text, some pages of what the model "
                "will read."
            )
        np.save(work / f"{part}.npy", np.asarray(rows, np.int32).reshape(len(rows), length))


def _other_bytes(model: Any, folder: Path) -> int:
    """What a bundle has beside its matrices: small parameters and positions in float32, the graph, the
    tokenizer.

    An estimate from above by some percent; the first build tells exactly.
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
    return 4 * (small + positions) + files + graph + _REPORT_BYTES


def _weights_of(folder: Path) -> set[str]:
    from edgeslm_export.checkpoint import weight_files

    return {file.name for file in weight_files(folder)}


def _write_reference(model: Any, work: Path, most_bytes: int, reporter: Reporter) -> None:
    """Logits [sequences * length, vocabulary] of the float model, computed a layer at a time.

    As many of the sequences as fit ``most_bytes``, one at least; ``evaluation.npy`` is cut to them.
    """
    import torch

    evaluation = np.load(work / "evaluation.npy")
    row_bytes = 2 * evaluation.shape[1] * model.model.lm_head.weight.shape[0]
    evaluation = evaluation[: max(1, most_bytes // row_bytes)]
    np.save(work / "evaluation.npy", evaluation)
    ids = torch.from_numpy(evaluation).long()
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
            out[row * length : (row + 1) * length] = model.logits(sequence[None])[0].to(torch.float16).numpy()
        out.flush()


def _find_exact(model: Any) -> dict[str, list[int]]:
    """Matrices that are on a grid of ``_EXACT`` to the last bit, by name."""
    found = {}
    for name, weight in _weights(model):
        for form in _EXACT:
            if recover(weight.numpy(), form) is not None:
                found[name] = [form.bits, form.group_size]
                break
    return found


def _weights(model: Any) -> Iterator[tuple[str, Any]]:
    """Name and float weight of every matrix, a layer at a time."""
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
    import torch
    from edgeslm_export.sensitivity import fisher

    ids = torch.from_numpy(np.load(work / "calibration.npy")).long()
    ids = ids[::2]  # a mean needs fewer tokens than a Hessian
    losses = fisher(
        model,
        ids,
        formats,
        lambda done, of: reporter.progress(22 + 75 * done // of, 100, "measuring sensitivity"),
    )
    if model.tied:  # one matrix, read in two places
        for form, loss in losses.pop(EMBEDDING).items():
            losses[HEAD][form] += loss
    return {
        name: [[form.bits, form.group_size, loss] for form, loss in by_format.items()]
        for name, by_format in losses.items()
    }


# --- quantize ----------------------------------------------------------------------------------------


def quantize(task: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Writes ``codes/``. With ``compensate`` each layer is calibrated on what the quantized layers before
    give.

    :return: ``exact``: how many matrices were taken over without loss.
    """
    import torch
    from edgeslm_export.gptq import round_to_nearest
    from edgeslm_export.layers import LayeredModel

    _set_threads()
    work = Path(task["work"])
    formats = {name: Format(*pair) for name, pair in task["formats"].items()}
    writer = _Writer(work / "codes", frozenset(task["exact"]))
    model = LayeredModel(work / "checkpoint")
    with torch.inference_mode():
        top = {HEAD: model.model.lm_head, EMBEDDING: model.model.model.embed_tokens}
        made = {}
        for name in top.keys() & formats.keys():
            weight = top[name].weight
            made[name] = writer.exact(name, weight, formats[name]) or round_to_nearest(weight, formats[name])
        writer.write(TOP, made)
        read = made.get(EMBEDDING, made[HEAD] if model.tied else None)
        if task["compensate"]:
            if read is not None:
                model.model.model.embed_tokens.weight.copy_(torch.from_numpy(read.weights()))
            ids = torch.from_numpy(np.load(work / "calibration.npy")).long()
            stream = _Stream(model, ids)
        for number in range(len(model.layers)):
            reporter.progress(number, len(model.layers), "quantizing")
            with model.borrowed(number) as layer:
                prefix = f"model.layers.{number}."
                if task["compensate"]:
                    made = _compensated(stream, number, layer, prefix, formats, writer)
                    stream.advance(number)
                else:
                    made = {
                        name: writer.exact(name, weight, formats[name])
                        or round_to_nearest(weight, formats[name])
                        for name in formats
                        if name.startswith(prefix)
                        for weight in [layer.get_submodule(name.removeprefix(prefix)).weight]
                    }
                writer.write(str(number), made)
    return {"exact": writer.taken_over}


class _Writer:
    """Puts quantized matrices into ``codes/``."""

    def __init__(self, folder: Path, exact: frozenset[str]) -> None:
        self._folder, self._exact = folder, exact
        self.taken_over = 0
        folder.mkdir(exist_ok=True)

    def exact(self, name: str, weight: Any, form: Format) -> Quantized | None:
        """The codes that the source has, if it was found to have them in this format."""
        found = recover(weight.detach().numpy(), form) if name in self._exact else None
        self.taken_over += found is not None
        return found

    def write(self, file: str, made: Mapping[str, Quantized]) -> None:
        arrays: dict[str, Any] = {}
        for name, matrix in made.items():
            arrays[f"{name}.codes"], arrays[f"{name}.scales"] = matrix.codes, matrix.scales
        np.savez(self._folder / f"{file}.npz", **arrays)


class _Stream:
    """The calibration tokens on their way through the layers."""

    def __init__(self, model: Any, ids: Any) -> None:
        self.model = model
        self.hidden = model.embed(ids)
        self._calls = model.calls(ids[:BATCH])

    def advance(self, number: int) -> None:
        self.hidden = self.model.run(number, self.hidden, self._calls)

    def stages(self, number: int, layer: Any) -> list[list[str]]:
        """The layer's matrices in the order they are used, those that read the same input together."""
        import torch

        order: list[tuple[str, int]] = []
        keep = []  # or a freed input's address is given to another

        def note(name: str) -> Any:
            def hook(_: Any, inputs: tuple[Any, ...]) -> None:
                keep.append(inputs[0])
                order.append((name, inputs[0].data_ptr()))

            return hook

        linear = [(name, part) for name, part in layer.named_modules() if isinstance(part, torch.nn.Linear)]
        with _hooked([part.register_forward_pre_hook(note(name)) for name, part in linear]):
            self.model.run(number, self.hidden[:1], self._calls)
        stages: dict[int, list[str]] = {}
        for name, address in order:
            stages.setdefault(address, []).append(name)
        return list(stages.values())

    def hessian(self, number: int, matrix: Any) -> Any:
        """Sum of ``x x^T`` over the inputs of ``matrix``, a linear layer of this layer."""
        import torch

        columns = matrix.weight.shape[1]
        total = torch.zeros(columns, columns)

        def hook(_: Any, inputs: tuple[Any, ...]) -> None:
            read = inputs[0].reshape(-1, columns)
            total.addmm_(read.T, read)
            raise _Seen

        with _hooked([matrix.register_forward_pre_hook(hook)]):
            for batch in self.hidden.split(BATCH):
                with contextlib.suppress(_Seen):
                    self.model.run(number, batch, self._calls)
        return total


class _Seen(Exception):
    """What was wanted of a layer was seen; the rest of it needn't run."""


@contextlib.contextmanager
def _hooked(handles: list[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _compensated(
    stream: _Stream, number: int, layer: Any, prefix: str, formats: Mapping[str, Format], writer: _Writer
) -> dict[str, Quantized]:
    """The layer's matrices, each calibrated after those before it were replaced; the layer computes with
    them."""
    import torch
    from edgeslm_export.gptq import compensate, round_to_nearest

    made = {}
    for stage in stream.stages(number, layer):
        hessian = None
        for name in stage:
            matrix, form = layer.get_submodule(name), formats[prefix + name]
            quantized = writer.exact(prefix + name, matrix.weight, form)
            if quantized is None and form.bits >= 8:  # nothing left to compensate
                quantized = round_to_nearest(matrix.weight, form)
            if quantized is None:
                if hessian is None:
                    hessian = stream.hessian(number, matrix)
                quantized = compensate(matrix.weight, hessian, form)
            made[prefix + name] = quantized
        for name in stage:
            layer.get_submodule(name).weight.copy_(torch.from_numpy(made[prefix + name].weights()))
    return made


def load_codes(folder: Path, formats: Mapping[str, Format]) -> Iterator[tuple[str, Quantized]]:
    """Everything in ``codes/``."""
    for file in sorted(folder.glob("*.npz")):
        with np.load(file, allow_pickle=False) as arrays:
            for key in arrays.files:
                if key.endswith(".codes"):
                    name = key.removesuffix(".codes")
                    yield name, Quantized(arrays[key], arrays[f"{name}.scales"], formats[name])


def _set_threads() -> None:
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))


if __name__ == "__main__":
    STEPS = {"study": study, "quantize": quantize}
    sys.exit(Reporter().run(lambda task, reporter: STEPS[task["step"]](task, reporter)))

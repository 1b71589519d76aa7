"""Adapter export: converts a PEFT LoRA into a bundle of kind ``adapter`` for one base bundle.

The weights stay float32, in the shapes of the base's LoRA graph (``lora_graph``). The bundle names its base
bundle by digest and works with no other base. ``lora`` reads the LoRA folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeslm_export.bundle.writer import created_at, runtime_versions, staged, write_manifest, write_report
from edgeslm_export.evaluate.report_card import measure_adapter
from edgeslm_export.graph.lora_graph import Branch, load_branches
from edgeslm_export.jobs.subprocess_job import OnProgress
from edgeslm_export.models.lora import WEIGHTS, Lora, Pair, load_lora

from edgeslm.bundle.manifest import Bundle, Manifest, Source, file_digest, load_bundle, verify_bundle
from edgeslm.errors import ExportError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

FILE = "adapter.onnx_adapter"

PACKED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
"""Packed matrices, which graphs and some checkpoints have: the name of each, with the names of its parts in
the order of their outputs."""

_BLOCKS = {"self_attn": "attn", "mlp": "mlp"}


def export_adapter(
    folder: Path, out: Path, base: Path, *, on_progress: OnProgress | None = None, debug: bool = False
) -> tuple[Manifest, dict[str, Any]]:
    """Makes the bundle ``out`` from the LoRA in ``folder`` for the decoder bundle ``base``.

    :return: the bundle's manifest, and measurements of base and adapter together.
    :raises ExportError: the folder can't be used, or doesn't fit the base; nothing is left behind.
    :raises BundleError: the base isn't a bundle or is damaged.
    """
    bundle = load_bundle(base)
    verify_bundle(bundle)
    branches = load_base(bundle)
    lora = load_lora(folder)
    check_base(lora, bundle, branches)
    values = arrange(lora, branches, head_sizes(bundle))
    with staged(out) as stage:
        manifest = write_bundle(stage, lora, bundle, values)
        measured = measure_adapter(base, stage, on_progress=on_progress, debug=debug)
    return manifest, measured


def write_bundle(
    folder: Path, lora: Lora, base: Bundle, values: Mapping[str, Floats], **fields: Any
) -> Manifest:
    """Writes the files of an adapter bundle into an empty folder.

    :param fields: override or extend the manifest's fields.
    """
    made, report = write_files(folder, lora, base, values)
    name, revision = lora.path.resolve().name, f"sha256:{file_digest(lora.path / WEIGHTS)}"
    own = {"name": name, "source": Source(id=name, revision=revision), "created": created_at("")}
    write_report(folder, report)
    return write_manifest(folder, {**own, **made, **fields})


def write_files(
    folder: Path, lora: Lora, base: Bundle, values: Mapping[str, Floats]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Writes the matrices. :return: the manifest's fields for the matrices, and the report."""
    write_adapter(values, folder / FILE)
    return {
        "kind": "adapter",
        "architecture": base.manifest.architecture,
        "adapter": {"base": base.digest, "weights": FILE, "rank": lora.rank, "targets": lora.targets},
        "runtime": runtime_versions("onnxruntime", "onnxruntime-genai"),
    }, _report(lora, folder / FILE)


def check_base(lora: Lora, base: Bundle, branches: Sequence[Branch]) -> None:
    """:raises ExportError: the LoRA was trained on layers that the base doesn't have, or on another
    architecture."""
    manifest = base.manifest
    if lora.architecture and lora.architecture != manifest.architecture:
        raise ExportError(
            f"{lora.path} was trained on a {lora.architecture}, {base.path} is a {manifest.architecture}."
        )
    layers = {branch.layer for branch in branches}
    known = {(branch.layer, branch.block, part) for branch in branches for part in _parts(branch.matrix)}
    for layer, block, matrix in lora.pairs:
        if layer not in layers:
            raise ExportError(
                f"{lora.path} adds to layer {layer}, {base.path} has {len(layers)} layers (counted from 0); "
                "name the base that it was trained on."
            )
        if any((layer, _BLOCKS[block], part) not in known for part in _parts(matrix)):
            there = ", ".join(sorted({part for _, _, part in known}))
            raise ExportError(
                f"{lora.path} adds to {block}.{matrix}; {base.path} takes additions to {there}."
            )


def arrange(lora: Lora, branches: Sequence[Branch], head_sizes: Mapping[str, int]) -> dict[str, Floats]:
    """The adapter's matrices, by the names of the graph inputs that take them.

    Modules packed into one product share a branch: their matrices A are concatenated, and the branch's B [sum
    of ranks, all outputs] is block-diagonal. If a pair A, B was trained for a packed module, the pair isn't
    split.

    :param head_sizes: number of outputs of ``q_proj``, ``k_proj`` and ``v_proj``.
    :raises ExportError: shapes differ from the base's.
    """
    import numpy as np

    values = {}
    for branch in branches:
        blocks = _blocks(lora, branch, head_sizes)
        if not blocks:
            continue
        pairs = list(dict.fromkeys(pair for pair, _, _ in blocks))
        rows = dict(zip(pairs, np.cumsum([0, *(pair.rank for pair in pairs)]).tolist(), strict=False))
        rank = sum(pair.rank for pair in pairs)
        b = np.zeros((rank, branch.outputs), np.float32)
        for pair, of_pair, of_branch in blocks:
            row = rows[pair]
            b[row : row + pair.rank, of_branch] = pair.b[of_pair].T * np.float32(pair.scale)
        values[branch.a] = np.ascontiguousarray(np.concatenate([pair.a for pair in pairs]).T)
        values[branch.b] = b
    return values


def _blocks(lora: Lora, branch: Branch, head_sizes: Mapping[str, int]) -> list[tuple[Pair, slice, slice]]:
    """The LoRA pairs (A, B) that add to a branch. Each pair comes with two slices: a range of outputs of the
    pair's B, and the branch's outputs to which this range adds."""
    parts = _parts(branch.matrix)
    widths = {
        part: head_sizes.get(part, branch.outputs // len(parts)) if len(parts) > 1 else branch.outputs
        for part in parts
    }
    offsets = _offsets(parts, widths)
    block = next(name for name, short in _BLOCKS.items() if short == branch.block)
    blocks = []
    for matrix in dict.fromkeys((branch.matrix, *parts, *PACKED)):
        pair = lora.pairs.get((branch.layer, block, matrix))
        own = _parts(matrix)
        if pair is None or not set(own) & set(parts):
            continue
        # A packed pair whose parts are separate products takes its widths from their branches.
        inner = _offsets(
            own, {part: widths.get(part) or head_sizes.get(part, branch.outputs) for part in own}
        )
        outputs = inner[own[-1]].stop
        if pair.a.shape[1] != branch.inputs or pair.b.shape[0] != outputs:
            raise ExportError(
                f"{lora.path} adds to {block}.{matrix} of layer {branch.layer} with {pair.a.shape[1]} inputs "
                f"and {pair.b.shape[0]} outputs, the base has {branch.inputs} and {outputs}; "
                "name the base that it was trained on."
            )
        blocks += [(pair, inner[part], offsets[part]) for part in own if part in offsets]
    return blocks


def _parts(matrix: str) -> tuple[str, ...]:
    return PACKED.get(matrix, (matrix,))


def _offsets(parts: Sequence[str], widths: Mapping[str, int]) -> dict[str, slice]:
    offsets, start = {}, 0
    for part in parts:
        offsets[part] = slice(start, start + widths[part])
        start += widths[part]
    return offsets


def write_adapter(values: Mapping[str, Floats], file: Path) -> None:
    """Writes the matrices in onnxruntime's adapter format, which devices memory-map."""
    import onnxruntime

    # The format holds pointers only: the values must live until the file is written.
    held = {name: onnxruntime.OrtValue.ortvalue_from_numpy(value) for name, value in values.items()}
    adapter = onnxruntime.AdapterFormat()
    adapter.set_adapter_version(1)
    adapter.set_model_version(1)
    adapter.set_parameters(held)
    adapter.export_adapter(str(file))


def load_base(base: Bundle) -> list[Branch]:
    """The low-rank branches of a base bundle's graph for adapters.

    :raises ExportError: the base isn't a decoder, or has no graph for adapters.
    """
    manifest = base.manifest
    if manifest.kind != "decoder":
        raise ExportError(f"{base.path} is a bundle of kind {manifest.kind}; an adapter adds to a decoder.")
    if manifest.graphs.adapters is None:
        raise ExportError(f"{base.path} has no graph that takes adapters; export it again with this version.")
    return load_branches(base.path / manifest.graphs.adapters)


def head_sizes(base: Bundle) -> dict[str, int]:
    """Number of outputs of ``q_proj``, ``k_proj`` and ``v_proj``, all heads together."""
    decoder = json.loads((base.path / "genai_config.json").read_bytes())["model"]["decoder"]
    size = int(decoder["head_size"])
    queries, keys = int(decoder["num_attention_heads"]) * size, int(decoder["num_key_value_heads"]) * size
    return {"q_proj": queries, "k_proj": keys, "v_proj": keys}


def _report(lora: Lora, file: Path) -> dict[str, Any]:
    return {
        "kind": "adapter",
        "rank": lora.rank,
        "weights": sum(pair.a.size + pair.b.size for pair in lora.pairs.values()),
        "weight_bytes": file.stat().st_size,
    }

"""LoRA folders: reads the matrices and scales that PEFT saved.

Files: ``adapter_config.json`` and ``adapter_model.safetensors``. Anything beyond low-rank additions to linear
layers of a decoder is refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeslm.errors import ExportError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

_KEY = re.compile(
    r"base_model\.model\.(?P<module>(?:model\.)?layers\.(?P<layer>\d+)\.(?P<block>self_attn|mlp)"
    r"\.(?P<matrix>\w+))\.lora_(?P<letter>[AB])\.weight"
)

_REFUSED: dict[str, tuple[Any, str]] = {
    # key: (value that means "not used", the feature that other values mean)
    "use_dora": (False, "DoRA magnitudes"),
    "bias": ("none", "trained biases"),
    "lora_bias": (False, "biases of its own"),
    "modules_to_save": (None, "whole trained modules (modules_to_save)"),
    "trainable_token_indices": (None, "trained embeddings of tokens"),
    "target_parameters": (None, "additions to bare parameters (target_parameters)"),
    "layer_replication": (None, "replicated layers"),
    "use_qalora": (False, "QA-LoRA's pooled inputs"),
    "alora_invocation_tokens": (None, "an invocation sequence (aLoRA)"),
    "use_bdlora": (None, "block-diagonal matrices (BD-LoRA)"),
    "arrow_config": (None, "a router of experts (Arrow)"),
    "kasa_config": (None, "singular values of the base (KaSA)"),
    "monteclora_config": (None, "sampled matrices (MonteCLoRA)"),
    "megatron_config": (None, "layers of Megatron"),
}
"""Features of adapters that a pair of low-rank matrices can't express."""

_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initializations of LoRA that change the base model's weights."""


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """The low-rank matrices of one module, to whose output ``scale * B A x`` is added. ``a`` is float32
    [rank, inputs], ``b`` float32 [outputs, rank]."""

    a: Floats
    b: Floats
    scale: float

    @property
    def rank(self) -> int:
        return int(self.a.shape[0])


@dataclass(frozen=True, slots=True)
class Lora:
    """Contents of a LoRA folder."""

    path: Path
    pairs: Mapping[tuple[int, str, str], Pair]
    """Pairs by layer, block (``self_attn`` or ``mlp``) and matrix (such as ``q_proj``)."""
    base: str
    """The base model's name at training time."""
    architecture: str
    """The base model's class, if PEFT stored it; else ""."""

    @property
    def rank(self) -> int:
        """The largest rank."""
        return max(pair.rank for pair in self.pairs.values())

    @property
    def targets(self) -> list[str]:
        return sorted({matrix for _, _, matrix in self.pairs})


def load_lora(path: Path) -> Lora:
    """Reads a LoRA folder.

    :raises ExportError: a file is missing or damaged, or the adapter isn't plain LoRA.
    """
    config = _load_config(path)
    for key, (unused, what) in _REFUSED.items():
        if config.get(key, unused) not in (unused, None, False, [], {}):
            raise ExportError(
                f"{path / CONFIG}: the adapter has {what}; train it as plain LoRA without {key}."
            )
    start = str(config.get("init_lora_weights", "")).lower()
    if start.startswith(_CHANGES_BASE):
        raise ExportError(
            f"{path / CONFIG}: init_lora_weights {start!r} changed the base's own weights; convert it "
            "with PEFT's path_initial_model_for_weight_conversion first."
        )
    halves = _load_halves(path / WEIGHTS)
    pairs = {}
    for (layer, block, matrix), (module, found) in halves.items():
        if found.keys() != {"A", "B"}:
            raise ExportError(f"{path / WEIGHTS}: {module} has only lora_{next(iter(found))} of its two.")
        a, b = found["A"], found["B"]
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1] or not a.shape[0]:
            raise ExportError(
                f"{path / WEIGHTS}: {module} has A {list(a.shape)} and B {list(b.shape)}, which don't fit."
            )
        pairs[layer, block, matrix] = Pair(a, b, _scale(config, module, a.shape[0], path))
    if not pairs:
        raise ExportError(f"{path / WEIGHTS}: it holds no matrices.")
    mapping = config.get("auto_mapping") or {}
    return Lora(
        path,
        pairs,
        base=str(config.get("base_model_name_or_path") or ""),
        architecture=str(mapping.get("base_model_class") or ""),
    )


def _load_config(path: Path) -> dict[str, Any]:
    file = path / CONFIG
    if not path.is_dir():
        raise ExportError(f"{path}: there is no such folder.")
    try:
        config = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise ExportError(f"{file}: missing, so PEFT did not save this folder.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ExportError(f"{file}: not JSON ({error}).") from None
    if not isinstance(config, dict):
        raise ExportError(f"{file}: not a JSON object.")
    if config.get("peft_type") != "LORA":
        raise ExportError(
            f"{file}: peft_type is {config.get('peft_type')!r}; only LORA adapters can be swapped."
        )
    return config


def _load_halves(file: Path) -> dict[tuple[int, str, str], tuple[str, dict[str, Floats]]]:
    """For each layer, block and matrix: the module's name and its matrices A and B."""
    halves: dict[tuple[int, str, str], tuple[str, dict[str, Floats]]] = {}
    for name, values in _tensors(file):
        match = _KEY.fullmatch(name)
        if match is None:
            raise ExportError(
                f"{file}: {name} adds to something else than a linear layer of the decoder's layers; "
                "leave it out of target_modules."
            )
        key = (int(match["layer"]), match["block"], match["matrix"])
        halves.setdefault(key, (match["module"], {}))[1][match["letter"]] = values
    return halves


def _tensors(file: Path) -> Iterator[tuple[str, Floats]]:
    """Names and float32 values of a file's tensors. Converts bfloat16, which numpy lacks, without importing
    torch, which is slow."""
    import numpy as np
    from safetensors import SafetensorError, deserialize

    if not file.is_file():
        raise ExportError(f"{file}: missing; save the adapter with PEFT's save_pretrained, as safetensors.")
    try:
        tensors = deserialize(file.read_bytes())
    except (OSError, SafetensorError) as error:
        raise ExportError(f"{file}: it can't be read ({error}); the file is damaged.") from None
    for name, tensor in sorted(tensors, key=lambda item: str(item[0])):
        kind, data = tensor["dtype"], bytes(tensor["data"])
        if kind == "BF16":
            values = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
        elif kind in ("F16", "F32", "F64"):
            values = np.frombuffer(data, f"<f{int(kind[1:]) // 8}").astype("<f4")
        else:
            raise ExportError(f"{file}: {name} is of type {kind}; save the adapter in float32 or bfloat16.")
        if not np.isfinite(values).all():
            raise ExportError(f"{file}: {name} holds numbers that aren't finite; the training went wrong.")
        yield name, values.reshape(tensor["shape"])


def _scale(config: Mapping[str, Any], module: str, rank: int, path: Path) -> float:
    """A pair's scale: ``alpha / r``, or ``alpha / sqrt(r)`` for rank-stabilized LoRA (arXiv:2312.03732), as
    in PEFT."""
    wanted = _pattern_value(config.get("rank_pattern") or {}, module, config.get("r"))
    alpha = _pattern_value(config.get("alpha_pattern") or {}, module, config.get("lora_alpha"))
    if wanted != rank or not isinstance(alpha, int | float):
        raise ExportError(
            f"{path / CONFIG}: says rank {wanted}, alpha {alpha} for {module}; its matrices have rank {rank}."
        )
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _pattern_value(pattern: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value that ``pattern`` (PEFT's ``rank_pattern`` or ``alpha_pattern``) has for a module: that of the
    first key that matches the end of the module's name, as in PEFT's ``get_pattern_key``. If no key matches,
    the value is ``default``."""
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default

"""Performance estimate of a bundle on this board, from a measurement of the board and the bundle's shape.

On a device, this module collects the inputs of ``size_estimate``; the build machine uses the same functions
of ``size_estimate``.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeslm.bundle.manifest import REPORT, Bundle, WeightGroup
from edgeslm.bundle.model_shape import EMBEDDING, FLOAT_BYTES, HEAD, Shape
from edgeslm.bundle.size_estimate import (
    FLOAT,
    REST,
    Footprint,
    Formats,
    WeightFormat,
    decode_tps,
    footprint,
    memory_bytes,
    prefill_tps,
)
from edgeslm.errors import BoardError
from edgeslm.hardware import board as hardware
from edgeslm.hardware.board_profiles import THIS, Board
from edgeslm.ipc.job import JobError, run_job

GAUGE = "edgeslm.engine.prepack.gauge"
MEASURE_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Expectation:
    """Expected performance with a context of ``context`` tokens: the memory of the engine process in bytes,
    and the prefill and decode speeds in tokens/s."""

    context: int
    memory_bytes: int
    prefill_tps: float
    decode_tps: float


def expect(foot: Footprint, board: Board, context: int) -> Expectation:
    return Expectation(
        context,
        memory_bytes(foot, context),
        prefill_tps(foot, board, context),
        decode_tps(foot, board, context),
    )


def measure_board(
    threads: int | None = None, root: Path = Path("/"), *, timeout_s: float = MEASURE_TIMEOUT_S
) -> Board:
    """Measures this machine in a child process; takes 2 to 3 seconds.

    :param threads: number of threads; the default is one per core that this process may use.
    :raises BoardError: the measurement failed.
    """
    threads = threads or hardware.usable_cores()
    failed = "The speed of this machine can't be measured"
    try:
        figures = run_job(GAUGE, threads, timeout_s=timeout_s, memory_bytes=None, threads=max(1, threads))
    except JobError as error:
        if error.reason == "time":
            raise BoardError(f"{failed}: no answer in {timeout_s:.0f} s.") from None
        raise BoardError(f"{failed}: {error.words[:200] or _how_it_ended(error.status)}.") from None
    except OSError as error:
        raise BoardError(f"{failed}: {error.strerror}.") from None
    memory = hardware.read_memory(root)
    return Board(
        name=THIS,
        title=hardware.board_name(root) or hardware.read_cpu(root).name,
        cores=threads,
        memory_bytes=(memory.limit or memory.total) if memory else 0,
        read_gbs=figures["read_gbs"],
        int4_gflops=figures["int4_gflops"],
        int8_gflops=figures["int8_gflops"],
        busy=bool(figures["busy"]),
    )


def _how_it_ended(status: int) -> str:
    return f"ended by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def bundle_footprint(bundle: Bundle) -> Footprint | None:
    """The footprint of a bundle, from its manifest, ``genai_config.json`` and report card; None if a value is
    missing, or if the model has layers with a recurrent state, which a :class:`Shape` doesn't describe.

    The width of the MLP, which none of these files has, is computed from the number of weights.
    """
    if bundle.manifest.state_bytes:
        return None
    try:
        settings = json.loads((bundle.path / "genai_config.json").read_text("utf-8"))["model"]
        card = json.loads((bundle.path / REPORT).read_text("utf-8"))
        layers = int(settings["decoder"]["num_hidden_layers"])
        quantization = bundle.manifest.quantization
        formats = _formats(quantization.groups if quantization else (), layers)
        written = _formats(quantization.written, layers) if quantization and quantization.written else None
        size = sum(file.bytes for file in bundle.manifest.files if file.path.endswith(".data"))
        shape = _shape(settings, int(card["weights"]), bool(card["tied_embedding"]), bundle)
        found = footprint(shape, formats, written) if shape else None
        return found if found and 0.8 < found.weight_bytes / size < 1.25 else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError):
        return None


_GROUPS = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj", "qkv_proj"), "attention_qkv"),
    **dict.fromkeys(("o_proj", "dense"), "attention_output"),
    **dict.fromkeys(("gate_proj", "up_proj", "gate_up_proj", "fc1"), "mlp_gate_up"),
    **dict.fromkeys(("down_proj", "fc2"), "mlp_down"),
    "lm_head": HEAD,
    "embed_tokens": EMBEDDING,
}
"""Maps the last part of a matrix's name in a manifest to the weight group of the matrix."""


def _formats(groups: Sequence[WeightGroup], layers: int) -> Formats:
    """Returns the storage format of each weight group. The number of bits is the average over the layers of
    the group; a layer that the manifest doesn't list has the format of ``*``."""
    rest = next((WeightFormat(g.bits, g.group_size) for g in groups if g.group == REST), FLOAT)
    listed: dict[str, dict[str, float]] = {}
    for group in groups:
        owner, _, own = group.group.rpartition(".")
        if name := _GROUPS.get(own):
            listed.setdefault(name, {})[owner] = group.bits
    formats = {REST: rest}
    for name, bits in listed.items():
        count = 1 if name in (HEAD, EMBEDDING) else max(layers, len(bits))
        average = (sum(bits.values()) + (count - len(bits)) * rest.bits) / count
        formats[name] = WeightFormat(average, rest.group_size)
    return formats


def _shape(settings: Mapping[str, Any], weights: int, tied: bool, bundle: Bundle) -> Shape | None:
    decoder = settings["decoder"]
    hidden, vocab, layers = decoder["hidden_size"], settings["vocab_size"], decoder["num_hidden_layers"]
    heads, kv_heads, head_dim = (
        decoder["num_attention_heads"],
        decoder["num_key_value_heads"],
        decoder["head_size"],
    )
    attention = 2 * (heads + kv_heads) * head_dim * hidden
    window = decoder.get("sliding_window") or {}
    inner = ((weights - vocab * hidden * (2 - tied)) // layers - attention) // (3 * hidden)
    if inner < 1:
        return None
    cached = 2 * layers * kv_heads * head_dim
    return Shape(
        architecture=bundle.manifest.architecture,
        layers=layers,
        hidden=hidden,
        inner=max(1, inner // 8 * 8),  # the count includes norms and biases, which add one or two
        vocab=vocab,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        tied=tied,
        context_length=bundle.manifest.context_length,
        window=window.get("window_size") or 0,
        windowed_layers=len(window.get("layers", ())),
        cache_item_bytes=bundle.manifest.kv_bytes_per_token // cached or FLOAT_BYTES,
    )

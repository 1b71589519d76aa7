"""Export plan: estimates a model's size, memory and speed on a board before anything large is downloaded.

Reads only ``config.json`` (which is downloaded for a hub id), or a GGUF file's header and some rows.
``bundle.size_estimate`` does the arithmetic; this module finds the config, translates recipes and writes the
advice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeslm_export.quantize.recipe import DEFAULT_RECIPE, RECIPES, Recipe, find_recipe
from edgeslm_export.sources import gguf
from edgeslm_export.sources.checkpoint import GGUF_ARCHITECTURES, read_config
from edgeslm_export.sources.gguf import GgufHeader, read_gguf_header, tied_copy
from edgeslm_export.sources.hub import fetch_config

from edgeslm.bundle import catalog
from edgeslm.bundle.model_shape import EMBEDDING, HEAD, Shape, read_shape
from edgeslm.bundle.performance import Expectation, expect
from edgeslm.bundle.size_estimate import REST, Footprint, Formats, WeightFormat, footprint
from edgeslm.errors import ExportError
from edgeslm.hardware.board_profiles import Board

DEFAULT_CONTEXT = 2048
SLOW_TPS = 3
"""Speed, in tokens/s, below which the plan calls a model too slow for text that somebody waits for."""
SYSTEM_BYTES = catalog.SYSTEM_BYTES + catalog.DAEMON_BYTES
"""Memory of a board that the system and the daemon use."""


@dataclass(frozen=True, slots=True)
class PlanRow:
    """Estimates for one recipe on the board."""

    recipe: str
    file_bytes: int
    weight_bytes: int
    expectation: Expectation
    fits: bool


@dataclass(frozen=True, slots=True)
class Plan:
    source: str
    shape: Shape
    board: Board
    context: int
    rows: tuple[PlanRow, ...]
    advice: str


def read_source(src: str) -> Shape:
    """The model shape of a command's SRC: a hub id, a checkpoint folder, its config.json or a ``.gguf`` file.

    :raises ExportError: there is no such source. :raises ShapeError: the config lacks a value.
    """
    path = Path(src).expanduser()
    if path.is_dir():
        return read_shape(_float_only(read_config(path / "config.json"), src), str(path / "config.json"))
    if path.suffix.lower() == ".gguf" and path.is_file():
        header = read_gguf_header(path)
        config = gguf_config(header, src)
        config["tie_word_embeddings"] |= tied_copy(path, header) is not None
        return read_shape(config, src)
    if path.suffix.lower() == ".json" and path.is_file():
        return read_shape(_float_only(read_config(path), src), src)
    return read_shape(_float_only(fetch_config(src), src), f"config.json of {src}")


def _float_only(config: dict[str, Any], where: str) -> dict[str, Any]:
    if isinstance(config.get("quantization_config"), dict):
        raise ExportError(f"{where} is already quantized; plan with the float checkpoint it was made from.")
    return config


def gguf_config(header: GgufHeader, where: str) -> dict[str, Any]:
    """Keys of a ``config.json``, from a GGUF's metadata (``docs/gguf.md`` of ggml) and tensor list.

    :raises ExportError: the architecture can't be exported.
    """
    meta = header.metadata
    name = meta.get("general.architecture")
    if name not in GGUF_ARCHITECTURES:
        known = ", ".join(GGUF_ARCHITECTURES)
        raise ExportError(
            f"{where} has the architecture {name!r}, which can't be exported; those that can: {known}."
        )
    shapes = {tensor.name: tensor.shape for tensor in header.tensors}
    embedding = shapes.get(gguf.EMBEDDING, ())
    config = {
        "architectures": [GGUF_ARCHITECTURES[name]],
        "hidden_size": meta.get(f"{name}.embedding_length"),
        "intermediate_size": meta.get(f"{name}.feed_forward_length"),
        "num_hidden_layers": meta.get(f"{name}.block_count"),
        "num_attention_heads": meta.get(f"{name}.attention.head_count"),
        "num_key_value_heads": meta.get(f"{name}.attention.head_count_kv"),
        "head_dim": meta.get(f"{name}.attention.key_length"),
        "max_position_embeddings": meta.get(f"{name}.context_length"),
        "sliding_window": meta.get(f"{name}.attention.sliding_window"),
        "vocab_size": embedding[1] if len(embedding) == 2 else meta.get("tokenizer.ggml.tokens"),
        "tie_word_embeddings": gguf.HEAD not in shapes,
    }
    return {key: value for key, value in config.items() if value is not None}


def formats_of(recipe: Recipe) -> tuple[Formats, Formats | None]:
    """A recipe's formats by weight group; and the formats of the separate weights for decoding single tokens,
    None if the recipe has no such weights."""
    head = WeightFormat(recipe.head.bits, recipe.head.group_size)
    top = {HEAD: head, EMBEDDING: head}
    formats = {REST: WeightFormat(recipe.average_bits, recipe.group_size), **top}
    if recipe.written is None:
        return formats, None
    return formats, {REST: WeightFormat(recipe.written.bits, recipe.written.group_size), **top}


def make_plan(
    src: str, shape: Shape, board: Board, recipes: Sequence[str], context: int | None = None
) -> Plan:
    """Estimates each recipe on a board.

    :param recipes: names of recipes; if empty, all.
    :param context: context length in tokens; by default 2048 or the model's limit.
    :raises ExportError: an unknown recipe, or a context above the model's limit.
    """
    if context is not None and context > shape.context_length:
        raise ExportError(
            f"{src} has a context of {shape.context_length} tokens and {context} were asked for; "
            f"take --context {shape.context_length} or less."
        )
    tokens = context or min(DEFAULT_CONTEXT, shape.context_length)
    found = [find_recipe(name) for name in dict.fromkeys(recipes)] or list(RECIPES.values())
    rows = tuple(_row(recipe, footprint(shape, *formats_of(recipe)), board, tokens) for recipe in found)
    return Plan(src, shape, board, tokens, rows, _advice(rows, board, shape, tokens))


def _row(recipe: Recipe, foot: Footprint, board: Board, tokens: int) -> PlanRow:
    expected = expect(foot, board, tokens)
    fits = expected.memory_bytes <= board.memory_bytes - SYSTEM_BYTES
    return PlanRow(recipe.name, foot.file_bytes, foot.weight_bytes, expected, fits)


def _advice(rows: tuple[PlanRow, ...], board: Board, shape: Shape, tokens: int) -> str:
    fitting = [row for row in rows if row.fits]
    room = board.memory_bytes - SYSTEM_BYTES
    if not fitting:
        row = min(rows, key=lambda row: row.expectation.memory_bytes)
        over = row.expectation.memory_bytes - room
        cache = shape.kv_bytes_per_token * tokens
        if cache > over and (left := (cache - over) // shape.kv_bytes_per_token) >= 256:
            return f"Doesn't fit: {_gb(over)} too much even as {row.recipe}; --context {left} would fit."
        return (
            f"Doesn't fit: even as {row.recipe} it needs {_gb(row.expectation.memory_bytes)} and the board "
            f"has {_gb(room)} besides the system; take a smaller model or a board with more memory."
        )
    fast = max(fitting, key=lambda row: row.expectation.decode_tps)
    speed = fast.expectation.decode_tps
    if round(speed, 1) < SLOW_TPS:
        return (
            f"It fits as {fast.recipe}, but {speed:.1f} tokens/s suit labels and fields, not text that "
            "somebody waits for."
        )
    quick = [row for row in fitting if row.expectation.decode_tps >= min(speed, max(SLOW_TPS, speed / 2))]
    # More bytes mean better answers, unless a recipe stores the same weights twice.
    good = max(quick, key=lambda row: (find_recipe(row.recipe).written is None, row.file_bytes))
    take = next((row for row in quick if row.recipe == DEFAULT_RECIPE), good)
    memory, tps = take.expectation.memory_bytes, take.expectation.decode_tps
    text = f"Take {take.recipe}: {_gb(memory)} of {_gb(room)}, {tps:.0f} tokens/s"
    if good is take:
        return f"{text}."
    share = good.expectation.decode_tps / tps
    return f"{text}; {good.recipe} where answers matter most: it fits too, at {share:.0%} of that speed."


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def plan_json(plan: Plan) -> dict[str, Any]:
    """The plan as plain data."""
    shape, board = plan.shape, plan.board
    return {
        "source": plan.source,
        "architecture": shape.architecture,
        "weights": shape.weights,
        "context": plan.context,
        "kv_bytes_per_token": shape.kv_bytes_per_token,
        "board": {
            "name": board.name,
            "memory_bytes": board.memory_bytes,
            "read_gbs": board.read_gbs,
            "int4_gflops": board.int4_gflops,
            "int8_gflops": board.int8_gflops,
            "estimated": list(board.estimated),
            "busy": board.busy,
        },
        "recipes": [
            {
                "recipe": row.recipe,
                "file_bytes": row.file_bytes,
                "weight_bytes": row.weight_bytes,
                "memory_bytes": row.expectation.memory_bytes,
                "fits": row.fits,
                "prefill_tps": round(row.expectation.prefill_tps, 1),
                "decode_tps": round(row.expectation.decode_tps, 1),
            }
            for row in plan.rows
        ],
        "advice": plan.advice,
    }


def plan_lines(plan: Plan) -> list[str]:
    """The plan as a table for a person."""
    shape, board = plan.shape, plan.board
    room = board.memory_bytes - SYSTEM_BYTES
    words = {"read_gbs": "reading", "int4_gflops": "4 bits", "int8_gflops": "8 bits"}
    notes = [f"{words[figure]} estimated" for figure in board.estimated]
    notes += ["other programs were running: real speed is higher"] if board.busy else []
    guessed = f" ({', '.join(notes)})" if notes else ""
    lines = [
        f"{plan.source}: {shape.architecture}, {shape.weights / 1e6:,.0f} million weights, "
        f"{shape.kv_bytes_per_token / 1024:.0f} KiB of cache a token",
        f"{board.name}: {board.title}",
        f"  reads {board.read_gbs:.1f} GB/s, computes {board.int4_gflops:.0f} (4 bits) and "
        f"{board.int8_gflops:.0f} (8 bits) GFLOPS{guessed}; {_gb(room)} of memory besides the system",
        "",
        f"{'recipe':12} {'file MB':>8} {'memory MB':>10} {'fits':>5} {'prefill tok/s':>14} "
        f"{'decode tok/s':>13}",
    ]
    for row in plan.rows:
        expected = row.expectation
        lines.append(
            f"{row.recipe:12} {row.file_bytes / 1e6:8,.0f} {expected.memory_bytes / 1e6:10,.0f} "
            f"{'yes' if row.fits else 'NO':>5} {expected.prefill_tps:14,.0f} {expected.decode_tps:13,.1f}"
        )
    cache = shape.kv_bytes_per_token * plan.context
    note = (
        f"Memory and speeds with {plan.context} tokens in the cache, which take {cache / 1e6:,.0f} MB; a "
        f"small encoder takes {catalog.ENCODER_BYTES / 1e6:.0f} MB more."
    )
    return [*lines, "", note, plan.advice]

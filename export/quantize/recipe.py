"""Quantization recipes: which formats a decoder's matrices may have, and how they are assigned."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from edgeslm_export.quantize.formats import ROW, Format

from edgeslm.errors import ExportError

Placing = Literal["same", "rule", "measured"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the matrices of a decoder are stored.

    ``smallest`` is the format of the layers' matrices, ``head`` the format of output head and embedding (one
    matrix if they are tied). ``placing`` says how the layers' matrices get their formats: all get
    ``smallest`` (``same``), a fixed rule gives some of them ``better`` (``rule``), or bit allocation picks
    each matrix's format from ``choices`` (``measured``). ``calibrated`` recipes use GPTQ, the others round to
    the nearest code. ``written`` is the format of the layers' matrices in the separate graph for single
    tokens, if the recipe has such a graph (``decode_graph``).
    """

    name: str
    summary: str
    smallest: Format
    head: Format
    average_bits: float
    placing: Placing = "same"
    better: Format | None = None
    choices: tuple[Format, ...] = ()
    calibrated: bool = False
    written: Format | None = None

    @property
    def bits(self) -> int:
        """Number of bits of most weights; used for estimates before the model is known."""
        return self.smallest.bits

    @property
    def group_size(self) -> int:
        return self.smallest.group_size


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="int4",
            summary="4 bits, rounded: made fast, the smallest, loses most",
            smallest=Format(4, 64),
            head=Format(4, 64),
            average_bits=4,
        ),
        Recipe(
            name="int4-mixed",
            summary="4 bits by GPTQ, 8 bits for the head and, by a rule, where it usually matters",
            smallest=Format(4, 32),
            head=Format(8, 64),
            average_bits=4.8,
            placing="rule",
            better=Format(8, 64),
            calibrated=True,
        ),
        Recipe(
            name="int8",
            summary="8 bits: near the original at twice the size",
            smallest=Format(8, 64),
            head=Format(8, 64),
            average_bits=8,
        ),
        Recipe(
            name="w8a8",
            summary="8 bits by GPTQ, computed in 8 bits too: reads prompts fastest, near the original",
            smallest=Format(8, ROW),
            head=Format(8, 64),
            average_bits=8,
            calibrated=True,
        ),
        Recipe(
            name="w8a8-w4",
            summary="w8a8, and 4 bits of their own for tokens that are written: fast at both, the largest",
            smallest=Format(8, ROW),
            head=Format(8, 64),
            average_bits=8,
            calibrated=True,
            written=Format(4, 64),
        ),
        Recipe(
            name="auto",
            summary="4 bits by GPTQ, 8 bits where that buys most by measurement; as small as --max-kl allows",
            smallest=Format(4, 32),
            head=Format(8, 64),
            average_bits=4.8,
            placing="measured",
            choices=(Format(4, 32), Format(4, 64), Format(4, 128), Format(8, 64)),
            calibrated=True,
        ),
    )
}

DEFAULT_RECIPE = "auto"
DEFAULT_MAX_KL = 0.05
"""Default for the maximum divergence of the recipe ``auto``, in nats a token. On SmolLM2, llama.cpp's Q4_K_M
diverges more."""

HEAD, EMBEDDING = "lm_head", "model.embed_tokens"
"""Names of the output head and of an embedding that isn't tied to it."""
FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("w1", "w3"))
"""Matrices that read the same input and are fused in the graph: they share a format."""

VALUES = ("v_proj", "qkv_proj")
"""Matrices that compute attention's values, alone or packed with queries and keys."""

ATTENDED = ("o_proj", "dense")
"""Matrices that read attention's output. Attention's output isn't smoothed: because of the KV cache, no
earlier weights can absorb the smoothing factors, and a separate node would cost more than smoothing gains."""

_LEFT_BY_GPTQ = ((("q_proj", "k_proj", *VALUES), 0.15), (ATTENDED, 0.27), (("lm_head", "embed_tokens"), 1.0))
_LEFT_OF_OTHERS = 0.43

_GATE = re.compile(r"gate|\.w3$")
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")


def find_recipe(name: str) -> Recipe:
    """:raises ExportError: there is no recipe with this name."""
    try:
        return RECIPES[name]
    except KeyError:
        raise ExportError(f"There is no recipe {name!r}; choose one of {', '.join(RECIPES)}.") from None


def builder_options(recipe: Recipe, names: Iterable[str]) -> dict[str, str]:
    """The ``extra_options`` of onnxruntime-genai's builder for a model with the matrices ``names``.

    With ``prune_lm_head`` the graph computes the logits of the last position only, which makes prefill a
    third faster and halves the peak memory. ``fuse_mlp_gate_up`` fuses two matrices that read the same input,
    if the MLP has a gate (the builder fails on Nemotron, which has none). ``windowed_kv_cache`` is off:
    onnxruntime-genai 0.18 makes the cache of a windowed layer no longer than the request, and the kernel
    refuses a cache that is shorter than the window. A windowed cache also couldn't be rewound to any token.
    ``builder_worker`` sets ``block_size`` and ``accuracy_level`` for each product; the values here matter
    only for other settings that the builder derives from them.
    """
    return {
        "accuracy_level": "4",
        "block_size": str(recipe.group_size or recipe.head.group_size),
        "prune_lm_head": "true",
        "fuse_mlp_gate_up": "true" if any(_GATE.search(name) for name in names) else "false",
        "windowed_kv_cache": "false",
    }


def left_by_gptq(name: str) -> float:
    """The share of a matrix's loss by rounding that remains after GPTQ, the median of SmolLM2-135M's matrices
    of the same kind; 1 for head and embedding, which are rounded."""
    own = name.rpartition(".")[2]
    return next((share for names, share in _LEFT_BY_GPTQ if own in names), _LEFT_OF_OTHERS)


def units_of(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Names of matrices in groups; the matrices of a group share a format."""
    units: dict[str, list[str]] = {}
    for name in names:
        owner, _, own = name.rpartition(".")
        fused = next((parts[0] for parts in FUSED if own in parts), own)
        units.setdefault(f"{owner}.{fused}", []).append(name)
    return [tuple(parts) for parts in units.values()]


def formats_by_rule(recipe: Recipe, names: Iterable[str], layers: int) -> dict[str, Format]:
    """The formats of a recipe that doesn't measure sensitivity.

    The rule is llama.cpp's for Q4_K_M (``use_more_bits`` in llama-quant.cpp): more bits for the MLP's
    down-projection and the value projection, in the first and last eighth of the layers and every third layer
    between.
    """
    formats = {}
    for unit in units_of(names):
        formats.update(dict.fromkeys(unit, _format_by_rule(recipe, unit, layers)))
    return formats


def written_formats(recipe: Recipe, formats: Mapping[str, Format]) -> dict[str, Format]:
    """The formats for decoding single tokens: those in ``formats``, except that the layers' matrices have the
    recipe's format ``written``, if there is one."""
    own = recipe.written
    return {name: form if own is None or not _LAYER.match(name) else own for name, form in formats.items()}


def _format_by_rule(recipe: Recipe, unit: tuple[str, ...], layers: int) -> Format:
    match = _LAYER.fullmatch(unit[0])
    if match is None:
        return recipe.head
    if recipe.placing != "rule" or recipe.better is None:
        return recipe.smallest
    number, own = int(match[1]), {name.rpartition(".")[2] for name in unit}
    matters = number < layers // 8 or number >= 7 * layers // 8 or (number - layers // 8) % 3 == 2
    return recipe.better if matters and own & {*VALUES, "down_proj"} else recipe.smallest


def shared_format(unit: Iterable[str], formats: Mapping[str, Format]) -> Format | None:
    """The format of all matrices of a unit; None if their formats differ or one has none."""
    own = {formats.get(name) for name in unit}
    return own.pop() if len(own) == 1 else None


def add_source_formats(choices: Mapping[str, list[Format]], exact: Mapping[str, Format]) -> None:
    """Adds the source's format to the choices of each unit whose matrices all have it in the source.

    :param exact: formats of the matrices that the source stores quantized.
    """
    for unit in units_of(choices):
        form = shared_format(unit, exact)
        for name in unit:
            if form is not None and form not in choices[name]:
                choices[name].append(form)


def add_spare_formats(
    likely: Mapping[str, list[Format]], choices: Mapping[str, Sequence[Format]]
) -> dict[str, Format]:
    """Adds the largest of the ``choices`` to the likely formats of each matrix that lacks its bits.

    :return: the added formats.
    """
    added = {}
    for name, formats in likely.items():
        largest = max(choices[name], key=lambda form: form.bits)
        if all(form.bits < largest.bits for form in formats):
            formats.append(largest)
            added[name] = largest
    return added


def choices_of(recipe: Recipe, name: str, columns: int) -> list[Format]:
    """The formats that a measured recipe may choose for a matrix with ``columns`` columns. In the calibration
    of later layers, the matrix has the first of these formats. Formats with larger groups are left out if
    they save no bytes."""
    useful: list[Format] = []
    for form in sorted(recipe.choices, key=lambda form: (form.bits, form.group_size)):
        finer = [other for other in useful if other.bits == form.bits]
        if all(form.bytes(1, columns) < other.bytes(1, columns) for other in finer):
            useful.append(form)
    first = recipe.head if name in (HEAD, EMBEDDING) else recipe.smallest
    return sorted(useful, key=lambda form: form != first)

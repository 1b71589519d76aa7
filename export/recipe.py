"""Quantization recipes as data: what each does to a decoder's weights.

Knows the options of onnxruntime-genai's builder, not how a build is run. onnxruntime calls the group
size of a quantized matrix ``block_size``; this is the place where the word is translated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgeslm.errors import ExportError


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the matrices of a decoder are stored.

    ``bits`` and ``group_size`` hold for every matrix product, ``embedding_bits`` for the token embedding.
    An embedding that is tied to the output head and equally quantized is stored once.
    """

    name: str
    summary: str
    precision: Literal["int4", "int8"]
    bits: int
    group_size: int
    embedding_bits: int

    def builder_options(self, *, tied: bool) -> dict[str, str]:
        """The builder's ``extra_options``; ``tied`` says that head and embedding are one matrix.

        ``accuracy_level`` 4 computes with int8 activations, the fast path of CPUs. ``prune_lm_head``
        computes the logits of the last position only: a third more prefill speed at half the peak memory.
        ``fuse_mlp_gate_up`` makes one matrix of two that read the same input.
        Weights stay symmetric: shared embeddings with zero points build a graph that doesn't load.
        """
        shared = tied and self.embedding_bits == self.bits
        return {
            "accuracy_level": "4",
            "block_size": str(self.group_size),
            "prune_lm_head": "true",
            "fuse_mlp_gate_up": "true",
            "shared_embeddings": "true" if shared else "false",
        }


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="int4",
            summary="4 bits in groups of 64, rounded: the smallest and fastest",
            precision="int4",
            bits=4,
            group_size=64,
            embedding_bits=4,
        ),
        Recipe(
            name="int8",
            summary="8 bits in groups of 32, embedding in float: near the original at three times the size",
            precision="int8",
            bits=8,
            group_size=32,
            embedding_bits=32,
        ),
    )
}

DEFAULT_RECIPE = "int4"


def find_recipe(name: str) -> Recipe:
    """:raises ExportError: an unknown name."""
    try:
        return RECIPES[name]
    except KeyError:
        raise ExportError(f"There is no recipe {name!r}; choose one of {', '.join(RECIPES)}.") from None

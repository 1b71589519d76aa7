"""Encoder recipes, as data: how an encoder's weights can be stored. Knows no library."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EncoderRecipe:
    """``stored`` is the manifest's word for it, ``bits`` those of a weight.

    An export whose worst text has a cosine to the float model below ``lowest_cosine`` is a failure.
    """

    summary: str
    stored: str
    bits: int
    lowest_cosine: float


RECIPES = {
    "int8": EncoderRecipe(
        summary="a quarter of the size and about twice as fast",
        stored="int8-rows",
        bits=8,
        lowest_cosine=0.9,
    ),
    "float": EncoderRecipe(
        summary="the model as it is, in 32 bits", stored="float32", bits=32, lowest_cosine=0.9999
    ),
}

DEFAULT_RECIPE = "int8"

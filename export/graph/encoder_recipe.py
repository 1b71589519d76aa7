"""Encoder recipes: how an encoder's weights can be stored."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EncoderRecipe:
    """``stored`` is the recipe's name in manifests, ``bits`` the size of a weight.

    An export fails if the cosine between a text's vector and the float model's vector is below
    ``lowest_cosine``.
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

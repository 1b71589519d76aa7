"""The catalog of common models."""

from __future__ import annotations

import re

from edgeslm_export.models.plan import formats_of
from edgeslm_export.quantize.recipe import DEFAULT_RECIPE, find_recipe

from edgeslm.bundle.catalog import FORMATS, MODELS, RECIPE, USES, USUAL, choose, rate
from edgeslm.hardware.board_profiles import load_board


def test_models_are_ordered_by_size_and_have_as_many_weights_as_published() -> None:
    assert [model.shape.weights for model in MODELS] == [model.weights for model in MODELS]
    assert sorted(MODELS, key=lambda one: one.weights) == list(MODELS)


def test_each_model_has_a_hub_id_and_a_name_of_its_own() -> None:
    assert all(re.fullmatch(r"[\w-]+/[\w.-]+", model.source) for model in MODELS)
    assert len({model.name for model in MODELS}) == len({model.source for model in MODELS}) == len(MODELS)


def test_the_formats_are_those_of_the_default_recipe() -> None:
    assert RECIPE == DEFAULT_RECIPE
    assert formats_of(find_recipe(RECIPE)) == (FORMATS, None)


def test_a_model_with_a_short_context_is_rated_for_its_own_and_not_chosen() -> None:
    candidates = rate(load_board("generic-x86"), 64 * 10**9, USES[USUAL])
    phi = next(one for one in candidates if one.model.name == "Phi-3-mini-4k")
    assert phi.context == 4096
    assert choose([phi]) is None and choose([phi], 4096) is (phi if phi.is_fast else None)

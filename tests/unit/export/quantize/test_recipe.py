"""Recipes: what shares a format, the fixed rule, and what a measured recipe may choose."""

from __future__ import annotations

import pytest
from edgeslm_export.quantize.formats import ROW, Format
from edgeslm_export.quantize.recipe import (
    DEFAULT_RECIPE,
    EMBEDDING,
    HEAD,
    RECIPES,
    add_source_formats,
    add_spare_formats,
    builder_options,
    choices_of,
    find_recipe,
    formats_by_rule,
    left_by_gptq,
    units_of,
)

from edgeslm.errors import ExportError

MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
LLAMA = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", *MLP)
PHI3 = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")


def _names(own: tuple[str, ...], layers: int) -> list[str]:
    return [*(f"model.layers.{layer}.{name}" for layer in range(layers) for name in own), "lm_head"]


def test_an_unknown_recipe_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        ExportError, match="no recipe 'int3'; choose one of int4, int4-mixed, int8, w8a8, w8a8-w4, auto"
    ):
        find_recipe("int3")
    assert find_recipe(DEFAULT_RECIPE) is RECIPES[DEFAULT_RECIPE]


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_recipe_is_what_the_kernels_take_fast(recipe: object) -> None:
    for value in (getattr(recipe, field) for field in ("smallest", "head", "better", "written")):
        in_groups = value is None or (value.bits in (4, 8) and value.group_size in (32, 64, 128))
        assert in_groups or value == Format(8, ROW)


def test_the_builder_is_told_the_group_size_and_what_to_fuse() -> None:
    options = builder_options(RECIPES["int4"], _names(LLAMA, 2))
    assert options["block_size"] == "64"
    assert options["prune_lm_head"] == options["fuse_mlp_gate_up"] == "true"
    without = builder_options(RECIPES["int4"], ["model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj"])
    assert without["fuse_mlp_gate_up"] == "false"


def test_matrices_that_become_one_share_a_unit() -> None:
    units = units_of(_names(LLAMA, 2))
    assert len(units) == 2 * 4 + 1
    assert units[0] == tuple(f"model.layers.0.self_attn.{part}_proj" for part in "qkv")
    assert ("model.layers.1.mlp.gate_proj", "model.layers.1.mlp.up_proj") in units
    assert ("model.layers.1.mlp.down_proj",) in units
    assert ("lm_head",) in units
    assert sorted(name for unit in units for name in unit) == sorted(_names(LLAMA, 2))
    assert all(len(unit) == 1 for unit in units_of(_names(PHI3, 2)))


def test_eight_bits_go_by_the_rule_of_llama_cpp() -> None:
    recipe = RECIPES["int4-mixed"]
    formats = formats_by_rule(recipe, _names(LLAMA, 24), 24)
    better = {
        int(name.split(".")[2])
        for name, form in formats.items()
        if name.endswith("down_proj") and form == recipe.better
    }
    # llama-quant.cpp: i < n/8 || i >= 7*n/8 || (i - n/8) % 3 == 2
    assert better == {0, 1, 2, 5, 8, 11, 14, 17, 20, 21, 22, 23}
    assert formats["model.layers.0.self_attn.q_proj"] == recipe.better  # shares its format with v_proj
    assert formats["model.layers.0.self_attn.o_proj"] == recipe.smallest
    assert formats["model.layers.0.mlp.gate_proj"] == recipe.smallest
    assert formats["lm_head"] == recipe.head


def test_the_rule_knows_a_family_that_stores_fused_matrices() -> None:
    recipe = RECIPES["int4-mixed"]
    formats = formats_by_rule(recipe, _names(PHI3, 8), 8)
    assert formats["model.layers.0.self_attn.qkv_proj"] == recipe.better
    assert formats["model.layers.1.self_attn.qkv_proj"] == recipe.smallest


@pytest.mark.parametrize("name", ["int4", "int8"])
def test_recipes_without_a_rule_store_all_alike(name: str) -> None:
    recipe = RECIPES[name]
    names = [*_names(LLAMA, 8), "model.embed_tokens"]
    assert set(formats_by_rule(recipe, names, 8).values()) == {recipe.smallest, recipe.head}


def test_a_measured_recipe_chooses_among_all_that_save_something() -> None:
    four, eight = [Format(4, size) for size in (32, 64, 128)], Format(8, 64)
    assert choices_of(RECIPES["auto"], "model.layers.0.mlp.down_proj", 1536) == [*four, eight]
    assert choices_of(RECIPES["auto"], "model.layers.0.mlp.up_proj", 576) == [
        *four[:2],
        eight,
    ]  # 5 * 128 > 576
    assert choices_of(RECIPES["auto"], "model.layers.0.mlp.up_proj", 32) == [four[0], eight]


@pytest.mark.parametrize("name", ["lm_head", "model.embed_tokens"])
def test_layers_are_calibrated_behind_an_embedding_of_eight_bits(name: str) -> None:
    assert choices_of(RECIPES["auto"], name, 576)[0] == RECIPES["auto"].head


def test_gptq_leaves_a_share_by_kind_of_matrix_and_rounds_head_and_embedding() -> None:
    layer = "model.layers.3."
    shares = [left_by_gptq(layer + name) for name in ("self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj")]
    assert 0 < shares[0] < shares[1] < shares[2] < 1
    assert left_by_gptq(layer + "self_attn.qkv_proj") == shares[0]
    assert left_by_gptq(HEAD) == left_by_gptq(EMBEDDING) == 1


def test_a_source_format_is_a_choice_if_all_matrices_of_a_unit_have_it() -> None:
    """A unit's matrices share a format, and only the query's was added."""
    four, eight = Format(4, 32), Format(8, 64)
    qkv = [f"model.layers.0.self_attn.{name}_proj" for name in "qkv"]
    choices = {name: [eight] for name in qkv}
    add_source_formats(choices, {qkv[0]: four})
    assert choices == {name: [eight] for name in qkv}
    add_source_formats(choices, dict.fromkeys(qkv, four))
    add_source_formats(choices, dict.fromkeys(qkv, four))
    assert choices == {name: [eight, four] for name in qkv}


def test_a_matrix_without_eight_bits_gets_them_in_reserve() -> None:
    four, eight = Format(4, 32), Format(8, 128)
    likely = {"a": [four], "b": [eight, four], "c": [four, Format(8, 32)]}
    choices = {name: [four, Format(4, 64), eight] for name in likely}
    assert add_spare_formats(likely, choices) == {"a": eight}
    assert likely == {"a": [four, eight], "b": [eight, four], "c": [four, Format(8, 32)]}

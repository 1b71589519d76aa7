"""Fixes of onnxruntime-genai's builder: faults of version 0.18 in rotary positions, patched while it runs.

Each fix is held to transformers by a test (``tests/system/export/graph/test_builder_fixes.py``).
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any
from unittest import mock


@contextlib.contextmanager
def mended_builder() -> Iterator[None]:
    """Patches the builder's classes within the block. The builder must have been imported."""
    # The builder adds its own folder to sys.path; its modules have no package prefix.
    Model = importlib.import_module("builders.base").Model  # noqa: N806
    Gemma3Model = importlib.import_module("builders.gemma").Gemma3Model  # noqa: N806
    make_config_init = Model.make_config_init

    def make_config(self: Any, config: Any) -> None:
        _rename_rope(config)
        make_config_init(self, config)
        self.yarn = _yarn(config)

    with (
        mock.patch.object(Model, "make_config_init", make_config),
        mock.patch.object(Model, "make_inv_freq_rescaled_with_ntk", _yarn_frequencies),
        mock.patch.object(Gemma3Model, "make_rotary_embedding_multi_cache", _two_caches),
    ):
        yield


def _rename_rope(config: Any) -> None:
    """Gives RoPE parameters the names of transformers 4, which the builder expects.

    transformers 5 has a set of parameters for each type of layer of Gemma 3; transformers 4 has one set, and
    ``rope_local_base_freq`` for windowed layers. Of LongRoPE's two names for its type it writes the newer.
    """
    ropes = getattr(config, "rope_parameters", None) or {}
    if config.architectures[0] == "Gemma3ForCausalLM" and "full_attention" in ropes:
        config.rope_local_base_freq = ropes["sliding_attention"]["rope_theta"]
        config.rope_parameters = ropes["full_attention"]
    elif ropes.get("rope_type") == "longrope":
        ropes.setdefault("type", "longrope")


def _yarn(config: Any) -> Any:
    """YaRN's frequencies and scale as transformers computes them; None for other models. The builder doesn't
    round the range of dimensions between which YaRN interpolates."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    ropes = getattr(config, "rope_parameters", None)
    if not isinstance(ropes, dict) or ropes.get("rope_type") != "yarn":
        return None
    return ROPE_INIT_FUNCTIONS["yarn"](config, "cpu")


def _yarn_frequencies(self: Any, inv_freq: Any) -> Any:
    frequencies, self.rope_attrs["mscale"] = self.yarn
    return frequencies


def _two_caches(self: Any) -> None:
    """Gemma 3's tables of positions: that of windowed layers isn't stretched by the factor of the others."""
    self.cos_cache_global_name, self.sin_cache_global_name = "cos_cache_global", "sin_cache_global"
    self.cos_cache_local_name, self.sin_cache_local_name = "cos_cache_local", "sin_cache_local"
    for part, changes in (
        ("global", {}),
        ("local", {"create_caches": True, "theta": self.rope_local_theta, "rescale_factors": 1}),
    ):
        self.rope_attrs.update(changes)
        self.make_rotary_embedding_caches(
            cos_cache_name=f"cos_cache_{part}", sin_cache_name=f"sin_cache_{part}"
        )

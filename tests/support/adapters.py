"""Random adapters for the starter model, and a copy of it with a LoRA graph; without torch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from edgeslm.bundle.manifest import load_bundle

MODULES = (("self_attn", "q_proj"), ("self_attn", "v_proj"), ("mlp", "down_proj"))


def make_base(plain: Path, folder: Path) -> Path:
    """A copy of a decoder bundle with a LoRA graph, which bundles of older versions lack."""
    from edgeslm_export.bundle.writer import write_manifest
    from edgeslm_export.graph.lora_graph import GRAPH, write_lora_graph

    shutil.copytree(plain, folder)
    fields = load_bundle(plain).manifest.model_dump(mode="json", exclude_none=True)
    del fields["files"]
    assert write_lora_graph(folder)
    write_manifest(folder, {**fields, "graphs": {**fields["graphs"], "adapters": GRAPH}})
    return folder


def make_lora(folder: Path, seed: int, rank: int = 4, strength: float = 0.3) -> Path:
    """A LoRA folder for SmolLM2-135M as PEFT saves it, with random values that change its output."""
    import numpy as np
    from safetensors.numpy import save_file

    random = np.random.default_rng(seed)
    sizes = {"q_proj": (576, 576), "v_proj": (576, 192), "down_proj": (1536, 576)}
    tensors = {}
    for layer in range(30):
        for block, matrix in MODULES:
            inputs, outputs = sizes[matrix]
            key = f"base_model.model.model.layers.{layer}.{block}.{matrix}.lora_"
            for letter, shape in (("A", (rank, inputs)), ("B", (outputs, rank))):
                values = (
                    random.standard_normal(shape, np.float32) * strength / np.sqrt(shape[1], dtype=np.float32)
                )
                tensors[f"{key}{letter}.weight"] = values
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def make_adapter(folder: Path, base: Path, seed: int, rank: int = 4) -> Path:
    """An adapter bundle, made without the measurement of ``export_adapter``, which loads the base."""
    from edgeslm_export.models import adapter
    from edgeslm_export.models.lora import load_lora

    lora = load_lora(make_lora(folder.with_name(f"{folder.name}.lora"), seed, rank))
    bundle = load_bundle(base)
    values = adapter.arrange(lora, adapter.load_base(bundle), adapter.head_sizes(bundle))
    folder.mkdir()
    adapter.write_bundle(folder, lora, bundle, values)
    return folder

"""Layer-wise checkpoint reader: runs a model that is larger than memory, one layer at a time.

The model's transformers classes do the computation. A layer's parameters stay on torch's meta device until
the layer is ``borrowed``. Layers take arguments in addition to the hidden states: positions and masks, which
differ between Gemma's layers. These arguments are recorded once from the model's forward pass.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from edgeslm_export.sources.checkpoint import weight_files
from edgeslm_export.sources.corpus import BATCH

from edgeslm.errors import ExportError


class LayeredModel:
    """A causal language model of the checkpoint ``folder`` (written by ``normalize``), loaded layer by layer.

    ``model`` is the transformers model: norms, embedding and head in float32, its decoder ``layers`` on the
    meta device. Weights are loaded to torch's default device. If ``matrices`` is false, the weights of
    linear layers and embeddings are never loaded.

    :raises ExportError: weights are missing or not finite; also raised whenever a layer is loaded.
    """

    def __init__(self, folder: Path, *, matrices: bool = True) -> None:
        import transformers
        from accelerate import init_empty_weights

        self.device = torch.get_default_device()
        self.config = transformers.AutoConfig.from_pretrained(folder)
        self.config.use_cache = False
        self.config._attn_implementation = "sdpa" if self.config.model_type != "gemma2" else "eager"  # noqa: SLF001  transformers has no public way
        with torch.device("cpu"), init_empty_weights(include_buffers=False):
            self.model = transformers.AutoModelForCausalLM.from_config(self.config, dtype=torch.float32)
        for module in self.model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(self.device))
        self.model.eval().requires_grad_(False)
        self.layers = self.model.model.layers
        self._files = _Tensors(folder)
        self._skipped = () if matrices else (torch.nn.Linear, torch.nn.Embedding)
        self.tied = bool(self.config.tie_word_embeddings)
        for name, module in self.model.named_modules():
            if not name.startswith("model.layers.") and name not in ("", "model"):
                self._fill(module, name)
        if self.tied:
            self.model.lm_head.weight = self.model.model.embed_tokens.weight

    def _fill(self, module: torch.nn.Module, prefix: str) -> None:
        for name, parameter in module.named_parameters(recurse=False):
            if name == "weight" and isinstance(module, self._skipped):
                continue
            if (prefix, name) == ("lm_head", "weight") and self.tied:
                continue
            if parameter.is_meta:
                value = self._files.load(f"{prefix}.{name}").to(self.device)
                setattr(module, name, torch.nn.Parameter(value, requires_grad=False))

    @contextlib.contextmanager
    def borrowed(self, number: int) -> Iterator[torch.nn.Module]:
        """The layer with its weights in float32, freed at the end of the block."""
        layer = self.layers[number]
        self.load_layer(number)
        try:
            yield layer
        finally:
            layer.to("meta")

    def load_layer(self, number: int) -> None:
        """Loads the layer's parameters and keeps them."""
        for name, module in self.layers[number].named_modules():
            self._fill(module, f"model.layers.{number}.{name}".rstrip("."))

    def matrices(self) -> dict[str, torch.nn.Linear]:
        """Every linear layer, the head included, by its name in the checkpoint without ``.weight``."""
        return {
            name: module for name, module in self.model.named_modules() if isinstance(module, torch.nn.Linear)
        }

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """The first layer's input, [sequences, tokens, width], computed by the model's forward pass, since
        Gemma scales the embeddings."""
        with torch.no_grad():  # inference tensors can't be used in a backward pass
            return self._until_layers(input_ids=ids)[0]

    def calls(self, ids: torch.Tensor) -> list[dict[str, Any]]:
        """The keyword arguments with which the model calls each layer, for a batch that has the shape of
        ``ids``."""
        with torch.no_grad():
            return self._until_layers(input_ids=ids)[1]

    def first_hidden(self, embedded: torch.Tensor) -> torch.Tensor:
        """The first layer's input for embeddings [sequences, tokens, width], with its gradient's graph."""
        return self._until_layers(inputs_embeds=embedded)[0]

    def _until_layers(self, **inputs: torch.Tensor) -> tuple[torch.Tensor, list[dict[str, Any]]]:
        first: list[torch.Tensor] = []
        recorded: list[dict[str, Any]] = []

        def passing(hidden: torch.Tensor, *_: Any, **arguments: Any) -> torch.Tensor:
            first.append(hidden)
            recorded.append(arguments)
            return hidden

        with self._replaced(passing):
            self.model.model(**inputs, use_cache=False)
        return first[0], recorded

    @contextlib.contextmanager
    def _replaced(self, forward: Callable[..., torch.Tensor]) -> Iterator[None]:
        """Makes all layers compute ``forward`` within the block."""
        originals = [layer.forward for layer in self.layers]
        for layer in self.layers:
            layer.forward = forward
        try:
            yield
        finally:
            for layer, original in zip(self.layers, originals, strict=True):
                layer.forward = original

    def run(self, number: int, hidden: torch.Tensor, calls: list[dict[str, Any]]) -> torch.Tensor:
        """Runs a borrowed layer over hidden states [sequences, tokens, width], in batches."""
        outputs = []
        for batch in hidden.split(BATCH):
            arguments = _cut(calls[number], len(batch))
            output = self.layers[number](batch, **arguments)
            outputs.append(output[0] if isinstance(output, tuple) else output)
        return torch.cat(outputs)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of the last layer's output: final norm, head, and the family's own steps (Gemma's cap).

        The model's own forward pass computes the logits, with its layers replaced by a function that returns
        ``hidden``. So this method needn't know the final norm's name, which differs between model families.
        """
        ids = torch.zeros(hidden.shape[:2], dtype=torch.long)
        with self._replaced(lambda *_, **__: hidden):
            logits: torch.Tensor = self.model(input_ids=ids, use_cache=False).logits
        return logits


def _cut(arguments: dict[str, Any], sequences: int) -> dict[str, Any]:
    """Truncates arguments with a batch dimension to ``sequences``, since the last batch may be smaller than
    the others."""

    def cut(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(cut(part) for part in value)
        if isinstance(value, torch.Tensor) and value.dim() > 1 and value.shape[0] > sequences:
            return value[:sequences]
        return value

    return {key: cut(value) for key, value in arguments.items()}


class _Tensors:
    """The tensors of a checkpoint folder by name, read on demand."""

    def __init__(self, folder: Path) -> None:
        self._where: dict[str, Any] = {}
        for file in weight_files(folder):
            if file.suffix == ".safetensors":
                from safetensors import safe_open

                opened = safe_open(file, framework="pt")
                self._where.update(dict.fromkeys(opened.keys(), opened))
            else:
                self._where.update(torch.load(file, map_location="cpu", weights_only=True, mmap=True))

    def _find(self, name: str) -> tuple[str, int | None]:
        """The name under which the checkpoint has a tensor, and which half of its rows, if it is a half.

        Multimodal checkpoints have a prefix, which differs between transformers 4 and 5. Granite 4 has gate
        and up in one matrix.
        """
        stem = name.removeprefix("model.")
        for alias in (name, f"model.language_model.{stem}", f"language_model.{name}"):
            if alias in self._where:
                return alias, None
        for half, own in enumerate(("gate_proj", "up_proj")):
            if (fused := name.replace(f"mlp.{own}", "shared_mlp.input_linear")) in self._where:
                return fused, half
        return name.replace("mlp.down_proj", "shared_mlp.output_linear"), None

    def load(self, name: str) -> torch.Tensor:
        """A copy of the tensor in float32."""
        stored, half = self._find(name)
        if stored not in self._where:
            raise ExportError(f"The checkpoint has no weights {name}; download it again.")
        where = self._where[stored]
        tensor = where if isinstance(where, torch.Tensor) else where.get_tensor(stored)
        if half is not None:
            tensor = tensor.chunk(2)[half]
        if not torch.isfinite(tensor).all():
            raise ExportError(
                f"The checkpoint is damaged: {name} holds numbers that aren't finite; download it again."
            )
        return tensor.to(torch.float32, copy=True).contiguous()

"""Float reference of ``divergence.py``: logits by transformers in float32 at all positions.

One reference for both engines and both copies of the weights. It also measures llama.cpp's importance matrix,
which the baseline may use.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

ARCHITECTURE: Final = "LlamaForCausalLM"
_IN_GGUF: Final = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
}


class FloatModel:
    """A GGUF or checkpoint folder, cleaned into ``folder`` as an export does it, loaded in float32."""

    def __init__(self, source: Path, folder: Path, threads: int, architecture: str = ARCHITECTURE) -> None:
        os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported
        import torch
        import transformers
        from edgeslm_export.sources.corpus import text_start
        from edgeslm_export.sources.normalize import make_checkpoint
        from tokenizers import Tokenizer

        torch.set_num_threads(threads)
        transformers.utils.logging.disable_progress_bar()
        self.tokenizer = make_checkpoint(source, architecture, folder)
        """transformers' tokenizer of the source."""
        self.start = text_start(self.tokenizer)
        """The tokens that a text begins with."""
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._torch = torch
        self._model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True
        ).eval()

    @property
    def vocabulary(self) -> int:
        return int(self._model.config.vocab_size)

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, without those that it begins with."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def logits(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """[tokens, vocabulary] of one sequence, read from an empty cache."""
        with self._torch.inference_mode():
            logits: npt.NDArray[np.float32] = (
                self._model(self._torch.tensor([list(tokens)])).logits[0].numpy()
            )
        return logits

    def importance(self, sequences: Sequence[Sequence[int]]) -> dict[str, npt.NDArray[np.float32]]:
        """Mean square of each input of each matrix of the blocks, by the matrix's name in a GGUF.

        What ``llama-imatrix`` collects (``tools/imatrix/README.md`` of llama.cpp).
        """
        sums: dict[str, Any] = {}
        hooks = []
        for path, module in self._model.named_modules():
            kind = path.rpartition(".")[2]
            if kind in _IN_GGUF:
                name = f"blk.{path.split('.')[2]}.{_IN_GGUF[kind]}.weight"
                hooks.append(module.register_forward_pre_hook(self._adder(sums, name)))
        with self._torch.inference_mode():
            for tokens in sequences:
                self._model.model(self._torch.tensor([list(tokens)]))
        for hook in hooks:
            hook.remove()
        count = sum(map(len, sequences))
        return {name: (total / count).float().numpy() for name, total in sums.items()}

    def _adder(self, sums: dict[str, Any], name: str) -> Any:
        def add(module: Any, inputs: tuple[Any, ...]) -> None:
            squares = inputs[0].double().square().sum(dim=(0, 1))
            sums[name] = sums.get(name, 0) + squares

        return add

"""LoRA training: trains low-rank matrices for a decoder on prompts and answers, with PEFT (Hu et al., 2021).

The base's weights are frozen. There are three kinds of base weights: the checkpoint's float32 weights
(``float``); the bundle's dequantized weights (``stored``), so that the adapter learns to compensate for
quantization errors; and four-bit weights of bitsandbytes (``nf4``; QLoRA, Dettmers et al., 2023), which take
an eighth of the memory. The loss is that of the device's task: at each token of an answer the cross-entropy
among the tokens allowed there, which are those of the label tree for ``classify`` and the whole vocabulary
for generated text.

Runs in a child process (``edgeslm_export.train.lora_training``).
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgeslm_export.jobs.subprocess_job import Reporter
from edgeslm_export.train.job import TrainingJob, open_job
from edgeslm_export.train.loop import Training, padded, run_training

from edgeslm.config.extras import install_line
from edgeslm.errors import ExportError
from edgeslm.hardware.board import peak_rss_bytes

if TYPE_CHECKING:
    import torch

_PASS_TOKENS = 2048
"""Maximum number of tokens in a pass: with 135 M parameters activations take about 2.2 MB a token, and a pass
of 32 long messages took 18 GB."""
Base = Literal["float", "stored", "nf4"]

MISSING = f"Training a decoder needs the package peft: {install_line('teach')}."
MISSING_4_BITS = f"A base in four bits needs the package bitsandbytes: {install_line('qlora')}."
_WHAT = "training the decoder"
_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj")
"""Names of attention's matrices in all model families. The adapter adds to these matrices only."""


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A training row: ``prompt`` and ``answer`` as token ids.

    ``steps`` has, for each token of the answer, the allowed tokens and their target probabilities. If
    ``steps`` is None, all tokens of the vocabulary are allowed and the target is the answer's token.
    """

    prompt: Sequence[int]
    answer: Sequence[int]
    steps: Sequence[tuple[Sequence[int], Sequence[float]]] | None = None


@dataclass(frozen=True, slots=True)
class AdapterShape:
    """The adapter's rank, and ``base``, the kind of base weights to train with."""

    rank: int
    base: Base = "stored"


def can_train_adapters() -> bool:
    """Whether the library PEFT (extra ``teach``) is installed."""
    return importlib.util.find_spec("peft") is not None


def check_installed(base: Base) -> None:
    """:raises ExportError: a library that the training needs is missing."""
    if not can_train_adapters():
        raise ExportError(MISSING)
    if base == "nf4" and importlib.util.find_spec("bitsandbytes") is None:
        raise ExportError(MISSING_4_BITS)


def train_decoder(
    job: TrainingJob, architecture: str, bundle: Path, rows: Sequence[TokenRow], shape: AdapterShape
) -> dict[str, Any]:
    """Trains an adapter on the checkpoint and writes a LoRA folder, as PEFT saves it.

    :param architecture: the checkpoint's transformers class. :param bundle: the base bundle, whose weights
        are used if ``shape.base`` is ``stored``.
    :return: the figures of ``run_training``, and ``peak_rss``, the peak memory in bytes.
    :raises ExportError: a library is missing, or the checkpoint can't be loaded or trained.
    """
    check_installed(shape.base)
    data = {
        "architecture": architecture,
        "bundle": str(bundle.resolve()),
        "rows": [asdict(row) for row in rows],
        "shape": asdict(shape),
    }
    return job.run("lora_training", _WHAT, data)


# --- in the child ----------------------------------------------------------------------------------


def run(task: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Runs in the child process, with the task of ``train_decoder``."""
    from edgeslm_export.sources.normalize import make_checkpoint
    from peft import LoraConfig, get_peft_model

    job, shape = open_job(task, reporter), AdapterShape(**task["shape"])
    with tempfile.TemporaryDirectory(dir=job.out.parent) as name:
        checkpoint = Path(name) / "checkpoint"
        make_checkpoint(job.source, task["architecture"], checkpoint)
        model = _load_base(checkpoint, Path(task["bundle"]), shape.base, job.device)
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    config = LoraConfig(
        r=shape.rank,
        lora_alpha=2 * shape.rank,
        target_modules=[name for name in _TARGETS if name in names],
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(model, config)
    if shape.base != "nf4":  # which is on the device, where bitsandbytes has packed it
        model = model.to(job.device)
    rows = [TokenRow(**row) for row in task["rows"]]
    training = Training(
        model,
        [([weight for weight in model.parameters() if weight.requires_grad], job.schedule.rate)],
        [len(row.prompt) + len(row.answer) for row in rows],
        lambda batch: answer_loss(model, [rows[number] for number in batch]),
        job.aside,
        _WHAT,
        job.state,
        most_tokens=_PASS_TOKENS,
    )
    figures = run_training(training, job.schedule, reporter)
    model.save_pretrained(job.out)
    return {**figures, "peak_rss": peak_rss_bytes()}


def _load_base(checkpoint: Path, bundle: Path, base: Base, device: str) -> Any:
    import torch
    import transformers

    if base == "nf4":
        four_bits = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        )
        return transformers.AutoModelForCausalLM.from_pretrained(
            checkpoint, dtype=torch.float32, quantization_config=four_bits, device_map=device
        )
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    if base == "stored":
        from edgeslm_export.train.dequantized_model import fill_stored

        fill_stored(model, bundle)
    return model


def answer_loss(model: Any, rows: Sequence[TokenRow]) -> torch.Tensor:
    """Cross-entropy of the answers, averaged over the rows.

    Rows are padded on the left, so the last positions predict the answers and logits are computed only there.
    """
    import torch

    device = model.device
    sequences = [[*row.prompt, *row.answer[:-1]] for row in rows]
    tokens, mask = (part.flip(1) for part in padded([ids[::-1] for ids in sequences], 0, device))
    most = max(len(row.answer) for row in rows)
    logits = model(
        input_ids=tokens,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        use_cache=False,
        logits_to_keep=most,
    ).logits
    total = torch.zeros((), device=device)
    for row, of_row in zip(rows, logits, strict=True):
        at = of_row[most - len(row.answer) :]
        if row.steps is None:
            wanted = torch.tensor(row.answer, device=device)
            total = total + torch.nn.functional.cross_entropy(at, wanted)
            continue
        for position, (choices, target) in zip(at, row.steps, strict=True):
            if len(choices) > 1:
                log_share = torch.log_softmax(position[torch.tensor(choices, device=device)], 0)
                total = total - (torch.tensor(target, device=device) * log_share).sum()
    return total / len(rows)


if __name__ == "__main__":
    sys.exit(Reporter().run(run))

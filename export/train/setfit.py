"""A small encoder taught from few labelled texts, by pairs: SetFit, through its library.

Texts of one label are drawn together and those of two apart, so that a few rows make many pairs (Tunstall et
al. 2022, "Efficient few-shot learning without prompts"). What comes out is an encoder; a classifier on its
embeddings is learned afterwards, on what the device computes. With more rows ``encoder_finetune`` teaches by
the labels themselves.

The work runs in a child process (``python -m edgeslm_export.train.setfit``). Knows no bundle.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeslm_export.jobs.subprocess_job import OnProgress, Reporter, run_module
from edgeslm_export.train.encoder_finetune import NOT_FINITE, save_beside

from edgeslm.bundle.manifest import EncoderSection
from edgeslm.errors import ExportError

MOST_STEPS = 200
"""Batches of pairs, for the time that they take. 50 rows of six labels have some 130; whether more rows would
gain by more batches was not measured."""
MISSING = "Teaching an encoder from few rows needs the package setfit: pip install 'edgeslm[teach]'."
_BATCH = 16
_RATE = 2e-5


def is_installed() -> bool:
    """Whether the library is there; it comes with an extra of its own."""
    return importlib.util.find_spec("setfit") is not None


def contrast_encoder(
    source: Path,
    out: Path,
    section: EncoderSection,
    length: int,
    texts: Sequence[str],
    truth: Sequence[int],
    *,
    seconds: float = 0.0,
    on_progress: OnProgress | None = None,
    debug: bool = False,
) -> None:
    """Teaches the checkpoint folder ``source`` by pairs and writes the taught one to ``out``.

    :param section: how a device pools; ``length``: the tokens of a text that are learned from.
    :param truth: [texts], the number of each text's label.
    :param seconds: after so many no further batch is begun; 0 for no limit.
    :raises ExportError: the library is missing, or the checkpoint can't be loaded.
    """
    if not is_installed():
        raise ExportError(MISSING)
    task = {
        "source": str(source),
        "out": str(out),
        "dimension": section.dimension,
        "pooling": section.pooling,
        "normalize": section.normalize,
        "length": length,
        "texts": list(texts),
        "truth": list(truth),
        "seconds": seconds,
    }
    run_module("train.setfit", task, "teaching the encoder", on_progress=on_progress, debug=debug)


# --- in the child ----------------------------------------------------------------------------------


def run(task: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """What the child does; the task is that of ``contrast_encoder``."""
    reporter.progress(0, 1, "loading libraries")
    import torch
    from datasets import Dataset
    from setfit import Trainer, TrainingArguments

    source, out = Path(task["source"]), Path(task["out"])
    model = _load(source, task)
    with tempfile.TemporaryDirectory(prefix="work-", dir=out.parent) as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            batch_size=_BATCH,
            num_epochs=1,
            max_steps=min(MOST_STEPS, _steps(task["truth"])),
            body_learning_rate=_RATE,
            seed=0,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            show_progress_bar=False,
        )
        rows = Dataset.from_dict({"text": task["texts"], "label": task["truth"]})
        callbacks = [_progress(reporter, task["seconds"])]
        Trainer(model=model, args=arguments, train_dataset=rows, callbacks=callbacks).train()
    encoder = model.model_body[0].auto_model
    if not all(bool(torch.isfinite(weights).all()) for weights in encoder.parameters()):
        raise ExportError(NOT_FINITE)
    save_beside(encoder, source, out)
    return {}


def _load(source: Path, task: dict[str, Any]) -> Any:
    """The encoder as SetFit wants it, made of its parts: SetFit's own loader unpickles a classifier that it
    finds in the folder. In float32, whatever the checkpoint is stored in: small steps vanish in 16 bits."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from setfit import SetFitModel
    from sklearn.linear_model import LogisticRegression

    encoder = Transformer(str(source), max_seq_length=task["length"], model_kwargs={"dtype": torch.float32})
    pooling = Pooling(task["dimension"], task["pooling"])
    parts = [encoder, pooling, *([Normalize()] if task["normalize"] else [])]
    return SetFitModel(
        model_body=SentenceTransformer(modules=parts, device="cpu"), model_head=LogisticRegression()
    )


def _steps(truth: Sequence[int]) -> int:
    """Batches that an epoch has: SetFit takes as many pairs that match as that don't, the more of both."""
    counts = [truth.count(label) for label in set(truth)]
    alike = sum(count * (count + 1) // 2 for count in counts)  # a row makes a pair with itself too
    apart = len(truth) * (len(truth) + 1) // 2 - alike
    return max(1, -(-2 * max(alike, apart) // _BATCH))


def _progress(reporter: Reporter, seconds: float) -> Any:
    """A callback of the trainer: tells how far it is, and ends it when its time is over."""
    import time

    from transformers import TrainerCallback

    started = time.monotonic()

    class Progress(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
            reporter.progress(state.global_step, state.max_steps, "teaching the encoder by pairs")
            if seconds and time.monotonic() - started > seconds:
                control.should_training_stop = True
            return control

    return Progress()


if __name__ == "__main__":
    sys.exit(Reporter().run(run))

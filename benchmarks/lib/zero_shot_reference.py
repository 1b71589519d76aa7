"""Do zero-shot bundles compute what their libraries do?

    python benchmarks/quality/zero_shot.py reference CHECKPOINT... [--recipe float] [--json]

Exports each checkpoint folder of GLiClass, GLiNER or a classifier for natural-language inference, and
compares its probabilities with those of the library gliclass or gliner, or of transformers' pipeline, on
those texts of ``edgeslm_export.evaluate.similarity`` that fit into the context. The libraries aren't among
the project's packages; install them without their dependencies and put them on PYTHONPATH: ``pip install
--no-deps --target DIR gliclass==0.1.21 gliner==0.2.29``. Prints a row for each checkpoint, then one JSON
line.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from edgeslm_export.evaluate.report_card import label_texts, load_encoder
from edgeslm_export.evaluate.similarity import TEXTS
from edgeslm_export.models.zero_shot import LABELS, export_zero_shot, read_zero_shot
from edgeslm_export.sources.checkpoint import examine_local

from benchmarks.lib.cards import Say, run_benchmark
from edgeslm.engine.calls import FindSpans, LabelText

_WORD: Final = re.compile(r"\w+(?:[-_]\w+)*|\S")
_LEAST: Final = 0.3
"""Lowest probability of the spans that are compared."""


def gliclass_rows(folder: Path, texts: Sequence[str]) -> list[list[float]]:
    """Probabilities of the labels for each text, by the library."""
    from gliclass import GLiClassModel, ZeroShotClassificationPipeline
    from transformers import AutoTokenizer

    model = GLiClassModel.from_pretrained(folder)
    pipeline = ZeroShotClassificationPipeline(
        model,
        AutoTokenizer.from_pretrained(folder),
        classification_type="multi-label",
        device="cpu",
        progress_bar=False,
    )
    rows = []
    for text in texts:
        prepared = pipeline.pipe.prepare_inputs([text], list(LABELS), same_labels=True)
        logits = model(**prepared, max_num_classes=len(LABELS)).logits[0, : len(LABELS)]
        rows.append(logits.softmax(-1).tolist())
    return rows


def gliner_rows(
    folder: Path, texts: Sequence[str]
) -> tuple[list[list[float]], list[list[tuple[int, int, str]]]]:
    """For each text the highest probability of a span for each label, and the spans above ``_LEAST``, by the
    library."""
    import torch
    from gliner import GLiNER
    from gliner.data_processing.collator import UniEncoderSpanDataCollator

    model = GLiNER.from_pretrained(str(folder), local_files_only=True).eval()
    collator = UniEncoderSpanDataCollator(
        model.config, data_processor=model.data_processor, prepare_labels=False
    )
    rows, spans = [], []
    for text in texts:
        words = [match[0] for match in _WORD.finditer(text)]
        batch = collator([{"tokenized_text": words, "ner": []}], entity_types=list(LABELS))
        with torch.inference_mode():
            shares = model.model(**batch).logits[0].sigmoid()
        allowed = batch["span_mask"][0].view(*shares.shape[:2], 1).float()
        rows.append((shares * allowed).amax(dim=(0, 1)).tolist())
        found = model.predict_entities(text, list(LABELS), threshold=_LEAST)
        spans.append(sorted((one["start"], one["end"], one["label"]) for one in found))
    return rows, spans


def nli_rows(folder: Path, texts: Sequence[str], hypothesis: str) -> list[list[float]]:
    """Probabilities of the labels for each text, by transformers' pipeline."""
    from transformers import pipeline

    asked = pipeline("zero-shot-classification", model=str(folder), device="cpu")
    rows = []
    for text in texts:
        found = asked(text, candidate_labels=list(LABELS), hypothesis_template=hypothesis)
        shares = dict(zip(found["labels"], found["scores"], strict=True))
        rows.append([shares[label] for label in LABELS])
    return rows


def compare(folder: Path, recipe: str, work: Path, say: Say) -> dict[str, Any]:
    """Differences of one checkpoint's probabilities to the library's."""
    origin = examine_local(folder, "encoder")
    source = read_zero_shot(origin)
    if source is None:
        raise ValueError(f"{folder} is no zero-shot model.")
    export_zero_shot(origin, source, work / "bundle", say, recipe)
    encoder = load_encoder(work / "bundle", 1)
    texts = [text for text in TEXTS if _fits(encoder, text)]
    found = label_texts(encoder, texts, LABELS)
    same: float | None = None
    if source.section.kind == "gliclass":
        wanted = gliclass_rows(folder, texts)
    elif source.section.kind == "gliner":
        wanted, spans = gliner_rows(folder, texts)
        own = [_spans(encoder, text) for text in texts]
        same = sum(one == other for one, other in zip(own, spans, strict=True)) / len(texts)
    else:
        wanted = nli_rows(folder, texts, source.section.hypothesis)
    told = {"kind": source.section.kind, "texts": len(texts)}
    return {**told, **differences(found, wanted), "same_spans": same}


def differences(found: Sequence[Sequence[float]], wanted: Sequence[Sequence[float]]) -> dict[str, float]:
    """Largest and mean difference of probabilities, and the share of texts with the same best label."""
    apart = [
        abs(one - other)
        for row, beside in zip(found, wanted, strict=True)
        for one, other in zip(row, beside, strict=True)
    ]
    best = [
        row.index(max(row)) == beside.index(max(beside)) for row, beside in zip(found, wanted, strict=True)
    ]
    return {"most": max(apart), "mean": sum(apart) / len(apart), "same_label": sum(best) / len(best)}


def _fits(encoder: Any, text: str) -> bool:
    """Whether the text isn't truncated, for which the libraries have other rules."""
    section = encoder.bundle.manifest.zero_shot
    kind = FindSpans if section.kind == "gliner" else LabelText
    return encoder.run(kind(text, LABELS, "head")).truncated is None


def _spans(encoder: Any, text: str) -> list[tuple[int, int, str]]:
    places = encoder.run(FindSpans(text, LABELS, "head", _LEAST)).places
    return sorted(
        (start, end, label) for label, runs in zip(LABELS, places, strict=True) for start, end, _ in runs
    )


def measure(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    rows = []
    for folder in args.checkpoints:
        with tempfile.TemporaryDirectory() as work:
            row = {"checkpoint": folder.name, **compare(folder, args.recipe, Path(work), say)}
        rows.append(row)
        spans = "" if row["same_spans"] is None else f", same spans in {row['same_spans']:.3f}"
        say(f"{row['checkpoint']:>24}  {row['most']:.2e} at most, {row['mean']:.2e} on average{spans}")
    return {"rows": rows, "most": max(row["most"] for row in rows)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoints", type=Path, nargs="+", metavar="CHECKPOINT")
    parser.add_argument("--recipe", default="float", choices=("float", "int8"))
    parser.add_argument("--json", action="store_true", help="print the JSON line alone")
    args = parser.parse_args()
    run_benchmark("zero-shot-reference", args, measure, texts=len(TEXTS), recipe=args.recipe)

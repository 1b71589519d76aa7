"""What the commands print: tables for people, one JSON line for machines."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any

from edgeslm.bundle import Manifest, load_bundle


def print_line(line: str) -> None:
    sys.stdout.write(line + "\n")


def print_json(value: Mapping[str, Any]) -> None:
    print_line(json.dumps(value, ensure_ascii=False))


def print_bundle(options: argparse.Namespace, manifest: Manifest, measured: Mapping[str, Any]) -> None:
    bundle = load_bundle(options.out)
    card = {"name": manifest.name, "digest": bundle.digest, "bytes": bundle.weight_bytes, **measured}
    if options.json:
        print_json({"bundle": str(options.out), **card})
    else:
        print_line(f"{options.out}: done, loaded again and used once")
        print_table(card)


_ROWS = (
    ("name", "name", "{}"),
    ("kind", "kind", "{}"),
    ("digest", "digest", "{:.19}"),
    ("bytes", "size", "{:,} bytes"),
    ("kl_mean", "divergence", "{:.4f} nats a token from the float model"),
    ("kl_p999", "its worst 0.1 %", "over {:.2f} nats"),
    ("same_top1", "same likeliest token", "{:.1%}"),
    ("perplexity_ratio", "perplexity", "{:.4f} times the float model's"),
    ("golden", "golden set", "{0[differing]} of {0[texts]} texts and {0[chats]} chats differ"),
    ("cosine_to_float", "cosine to float", "{0[mean]:.4f} on average, {0[lowest]:.4f} the lowest"),
    (
        "rank_agreement",
        "same ranking",
        "{0[spearman]:.4f}, nearest {0[nearest]:.3f}, five {0[nearest_5]:.3f}",
    ),
    ("load_ms", "load", "{:.0f} ms"),
    ("prefill_tps", "prefill", "{:.0f} tokens/s"),
    ("decode_tps", "decode", "{:.0f} tokens/s"),
    ("ms_per_text", "a text", "{:.2f} ms"),
    ("peak_rss_bytes", "peak memory", "{:,} bytes"),
    ("threads", "threads", "{}"),
    ("rows", "rows", "{}"),
    ("accuracy", "accuracy", "{:.3f}"),
    ("interval", "95 % interval", "{0[0]:.3f} to {0[1]:.3f}"),
    ("majority", "commonest label", "{:.3f}"),
    ("calibration_error", "calibration error", "{:.3f}"),
)


def print_table(card: Mapping[str, Any]) -> None:
    for key, name, form in _ROWS:
        if card.get(key) is not None:
            print_line(f"{name:20} {form.format(card[key])}")
    if sample := card.get("sample"):
        print_line(f"{'asked':20} {sample['prompt']}")
        print_line(f"{'said':20} {' '.join(sample['text'].split())}")
    if labels := card.get("labels"):
        print_labels(labels)


def print_labels(labels: Mapping[str, Mapping[str, Any]]) -> None:
    width = max(5, *(len(label) for label in labels))
    print_line(f"{'label':{width}}  rows  precision  recall")
    for label, figures in labels.items():
        precision, recall = (_share(figures[key]) for key in ("precision", "recall"))
        print_line(f"{label:{width}}  {figures['rows']:4}  {precision:>9}  {recall:>6}")


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"

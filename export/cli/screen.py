"""Terminal output of the commands: tables, or one JSON line."""

from __future__ import annotations

import argparse
import json
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from edgeslm.bundle.manifest import Manifest, load_bundle


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


_HITS = "{0[hit_1]:.3f} first, {0[hit_3]:.3f} among three, of {0[questions]} held-out questions"
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
    ("near", "ROC area", "{:.3f}: texts with their answer against the same texts without it"),
    ("other", "ROC area, others", "{:.3f}: texts with the answer against other texts"),
    ("before", "found before", _HITS),
    ("after", "found now", _HITS),
    ("questions_aside", "held out", "{} questions"),
    ("load_ms", "load", "{:.0f} ms"),
    ("prefill_tps", "prefill", "{:.0f} tokens/s"),
    ("decode_tps", "decode", "{:.0f} tokens/s"),
    ("ms_per_text", "a text", "{:.2f} ms"),
    ("peak_rss_bytes", "peak memory", "{:,} bytes"),
    ("threads", "threads", "{}"),
    ("task", "task", "{0[name]} ({0[kind]})"),
    ("rows", "rows", "{}"),
    ("accuracy", "accuracy", "{:.3f}"),
    ("interval", "95 % interval", "{0[0]:.3f} to {0[1]:.3f}"),
    ("majority", "majority baseline", "{:.3f}"),
    ("calibration_error", "calibration error", "{:.3f}"),
    ("answered", "not abstained", "{:.3f}"),
    ("accuracy_answered", "accuracy of these", "{:.3f}"),
    ("valid", "valid JSON", "{:.3f}"),
    ("valid_interval", "95 % interval", "{0[0]:.3f} to {0[1]:.3f}"),
    ("exact", "all fields right", "{:.3f}"),
    ("exact_interval", "95 % interval", "{0[0]:.3f} to {0[1]:.3f}"),
    ("ms_per_row", "a row", "{:.1f} ms"),
)


def print_table(card: Mapping[str, Any]) -> None:
    for key, name, form in _ROWS:
        if card.get(key) is not None:
            print_line(f"{name:20} {form.format(card[key])}")
    if sample := card.get("sample"):
        print_line(f"{'asked':20} {sample['prompt']}")
        print_line(f"{'said':20} {' '.join(sample['text'].split())}")
    if card.get("fidelity") or card.get("stated"):
        print_fidelity(card.get("fidelity") or (), card.get("stated"))
    if labels := card.get("labels"):
        print_labels(labels)
    if fields := card.get("fields"):
        print_fields(fields)


def print_labels(labels: Mapping[str, Mapping[str, Any]]) -> None:
    print_columns(
        ("label", "rows", "precision", "recall"),
        [
            (label, str(of["rows"]), _share(of["precision"]), _share(of["recall"]))
            for label, of in labels.items()
        ],
    )


def print_fields(fields: Mapping[str, Mapping[str, Any]]) -> None:
    print_columns(
        ("field", "rows with it", "right", "95 % interval", "precision", "recall", "F1"),
        [
            (
                name,
                str(of["rows"]),
                _share(of["accuracy"]),
                "{:.3f} to {:.3f}".format(*of["interval"]),
                *(_share(of[key]) for key in ("precision", "recall", "f1")),
            )
            for name, of in fields.items()
        ],
    )


def print_fidelity(measured: Sequence[Mapping[str, Any]], stated: Mapping[str, Any] | None) -> None:
    """Prints a decoder's divergence from its float model: a row for each text, then the figures in the
    bundle's ``report.json``."""
    rows = [_fidelity_row(", ".join(filter(None, (row["text"], row.get("engine")))), row) for row in measured]
    if stated is not None:
        rows.append(_fidelity_row(f"{stated.get('text', 'a text')}, as its report.json says", stated))
    print_columns(
        (
            "against the float model, on",
            "tokens",
            "nats a token",
            "worst 0.1 %",
            "same top-1",
            "perplexity ratio",
        ),
        rows,
    )


def _fidelity_row(text: str, of: Mapping[str, Any]) -> tuple[str, ...]:
    def shown(key: str, form: str) -> str:
        return "-" if of.get(key) is None else form.format(of[key])

    error = shown("perplexity_ratio_se", " ± {:.4f}")
    return (
        text,
        shown("tokens", "{:,}"),
        shown("kl_mean", "{:.4f}"),
        shown("kl_p999", "over {:.2f}"),
        shown("same_top1", "{:.1%}"),
        shown("perplexity_ratio", "{:.4f}") + error.removeprefix("-"),
    )


def print_columns(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints an empty line and a table: the first column left-aligned, the others right-aligned."""
    table = [[_on_one_line(cell) for cell in row] for row in [heads, *rows]]
    widths = [max(len(row[place]) for row in table) for place in range(len(heads))]
    print_line("")
    for row in table:
        first, *rest = (
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print_line("  ".join([first, *rest]))


_BREAKING = ("Cc", "Cs", "Zl", "Zp")
"""Unicode categories of characters that end a line, move the cursor or can't be printed."""


def _on_one_line(cell: str) -> str:
    """Escapes line breaks and terminal control characters, which a label may contain."""
    return "".join(repr(char)[1:-1] if unicodedata.category(char) in _BREAKING else char for char in cell)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"

"""Report of ``divergence.py``: rows, ratios to llama.cpp, the table and the JSON line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

BASELINE: Final = "llama.cpp Q4_K_M"
"""What people on small boards take when they can't take more."""
_BASELINES: Final = "llama.cpp "
"""How the names of baselines begin; a row without it is a bundle."""


@dataclass(frozen=True, slots=True)
class Row:
    """One file or bundle. ``figures`` are those of ``fidelity.Comparison`` by the name of the text."""

    copy: str
    name: str
    bytes: int
    types: dict[str, int]
    figures: dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Ratio:
    """A bundle's divergence and bytes, over those of the baseline with the same weights."""

    copy: str
    name: str
    text: str
    divergence: float
    bytes: float


def by_frequency(names: Iterable[str]) -> dict[str, int]:
    """How often each name occurs, the commonest first."""
    return dict(sorted(Counter(names).items(), key=lambda item: (-item[1], item[0])))


def compare(rows: Sequence[Row]) -> list[Ratio]:
    """Each bundle with ``BASELINE``; empty without it."""
    baselines = {row.copy: row for row in rows if row.name == BASELINE}
    return [
        Ratio(
            row.copy,
            row.name,
            text,
            figures["kl_mean"] / baselines[row.copy].figures[text]["kl_mean"],
            row.bytes / baselines[row.copy].bytes,
        )
        for row in rows
        if not row.name.startswith(_BASELINES) and row.copy in baselines
        for text, figures in row.figures.items()
    ]


def table(rows: Sequence[Row], ratios: Sequence[Ratio]) -> str:
    """Lines for people: a block of rows for each text, then the ratios."""
    head = ("weights", "", "MB", "KL", "KL 99.9 %", "same top-1", "perplexity", "matrices")
    lines = []
    for text in rows[0].figures if rows else ():
        cells = [head, *(_cells(row, text) for row in rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
        lines.append(f"{text}, {rows[0].figures[text]['tokens']} tokens")
        for row in cells:
            line = "  ".join(
                cell.rjust(w) if 1 < i < len(head) - 1 else cell.ljust(w)
                for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            lines.append(line.rstrip())
        lines.append("")
    lines += [
        f"{r.copy}, {r.name}, {r.text}: "
        f"{r.divergence:.2f} times the divergence of {BASELINE} at {r.bytes:.2f} times its bytes"
        for r in ratios
    ]
    return "\n".join(lines)


def _cells(row: Row, text: str) -> tuple[str, ...]:
    figures = row.figures[text]
    return (
        row.copy,
        row.name,
        f"{row.bytes / 1e6:.1f}",
        f"{figures['kl_mean']:.4f}",
        f"{figures['kl_p999']:.2f}",
        f"{figures['same_top1']:.1%}",
        f"{figures['perplexity_ratio']:.3f} ±{figures['perplexity_ratio_se']:.3f}",
        ", ".join(f"{count} {kind}" for kind, count in row.types.items()),
    )


def report(rows: Sequence[Row], ratios: Sequence[Ratio]) -> dict[str, Any]:
    """What the JSON line says of rows and ratios."""
    return {
        "rows": [
            {"weights": row.copy, "name": row.name, "bytes": row.bytes, "types": row.types, **row.figures}
            for row in rows
        ],
        "ratios": [
            {
                "weights": r.copy,
                "name": r.name,
                "text": r.text,
                "baseline": BASELINE,
                "kl_mean": round(r.divergence, 3),
                "bytes": round(r.bytes, 3),
            }
            for r in ratios
        ],
    }

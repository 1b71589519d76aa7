"""Report of ``engine.py scaling``: exponents, tables and the chart."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

ATTENTION: Final = "attention"
LINEAR: Final = 1.1
"""The largest exponent that counts as linear: figures of one run are some percent off."""
_COLOURS: Final = ("#2a78b8", "#e0842c", "#888888")


@dataclass(frozen=True, slots=True)
class Curve:
    """Milliseconds ``ms`` of ``name`` at each ``x``, in growing order; ``of`` says what grows."""

    of: str
    name: str
    x: Sequence[int]
    ms: Sequence[float]

    @property
    def exponent(self) -> float:
        """Of the power of x as which the far end grows (from a quarter of the largest x on, two points at
        least), where what is constant weighs least: the slope of the logarithms, by least squares."""
        far = min(sum(x < self.x[-1] / 4 for x in self.x), len(self.x) - 2)
        logs = np.log(list(zip(self.x, self.ms, strict=True))[far:])
        return float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])

    @property
    def is_wanted(self) -> bool:
        """Linear at most, or attention, each of whose tokens looks at all before it."""
        return self.exponent <= LINEAR or (self.name == ATTENTION and self.exponent <= 2 * LINEAR)

    def figures(self) -> dict[str, Any]:
        return {
            "of": self.of,
            "name": self.name,
            "x": list(self.x),
            "ms": [round(ms, 2) for ms in self.ms],
            "exponent": round(self.exponent, 2),
        }


def table(curves: Sequence[Curve]) -> str:
    """One for each thing that grows, then a line for each curve with its exponent."""
    lines = []
    for of in dict.fromkeys(curve.of for curve in curves):
        own = [curve for curve in curves if curve.of == of]
        lines.append(f"{of:<24}" + "".join(f"{x:>8}" for x in own[0].x))
        lines += [f"  {c.name + ', ms':<22}" + "".join(f"{ms:>8.1f}" for ms in c.ms) for c in own]
    lines.append("")
    for curve in curves:
        remark = "" if curve.is_wanted else ", worse than linear"
        lines.append(f"{curve.of}, {curve.name}: grows as x^{curve.exponent:.2f} at the far end{remark}")
    return "\n".join(lines)


def chart(curves: Sequence[Curve]) -> str:
    """An SVG picture: a panel for each thing that grows, both axes logarithmic."""
    from matplotlib.figure import Figure

    grown = list(dict.fromkeys(curve.of for curve in curves))
    figure = Figure(figsize=(4 * len(grown), 4), layout="constrained")
    for axes, of in zip(np.atleast_1d(figure.subplots(1, len(grown))), grown, strict=True):
        own = [curve for curve in curves if curve.of == of]
        for curve, colour in zip(own, _COLOURS, strict=False):
            label = f"{curve.name}, x^{curve.exponent:.2f}"
            axes.plot(curve.x, curve.ms, color=colour, marker="o", markersize=3, label=label)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(own[0].x, [str(x) for x in own[0].x])
        axes.set_title(f"{of}, ms", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(which="both", labelsize=8)
        axes.grid(color="#dddddd", linewidth=0.5)
        axes.legend(frameon=False, fontsize=8)
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()

"""What ``tune`` prints of its report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from edgeslm_export.cli.screen import print_columns, print_fields, print_labels, print_line
from edgeslm_export.train.calibration import rows_to_guarantee

HOW = {
    "head": "a head on the frozen encoder",
    "encoder": "a trained encoder with its head",
    "lora": "an adapter for the decoder",
    "qlora": "an adapter for the decoder",
}


def print_report(task: str, report: dict[str, Any], out: Path) -> None:
    """Prints each method's figures, the accuracy on a test set, and the coverage. :param out: the bundle."""
    print_line(f"{out}: learned {task} from {report['learned_from']} rows: {HOW[report['method']]}")
    if "fields" in report:
        _print_fields(report)
        _print_test(report, "exact")
    else:
        _print_methods(report)
        _print_test(report, "accuracy")
        print_line(f"majority baseline            {report['majority']:.3f}")
        _print_coverage(report)
        print_labels(report["labels"])


def print_use(name: str, out: Path, base: Path | None) -> None:
    """Prints what a node's configuration needs."""
    section: dict[str, Any] = {"tasks": {name: {"learned": str(out.absolute())}}}
    if base is not None:
        section = {"models": {"base": {"bundle": str(base.absolute())}}, **section}
    print_line("\nTo use it, add to the node's configuration:")
    for line in yaml.safe_dump(section, sort_keys=False, allow_unicode=True, width=1000).splitlines():
        print_line(line)


def _print_test(report: dict[str, Any], figure: str) -> None:
    """Prints the accuracy on the test set, if there was one."""
    if test := report.get("test"):
        print_line(f"{'test set':<29}{test[figure]:.3f} of {test['rows']} rows")


def _print_fields(report: dict[str, Any]) -> None:
    columns = ("method", "all fields right", *_COMPARED)
    _print_table(report, columns, "exact")
    _print_coverage(report)
    print_fields(report["fields"])


def _print_methods(report: dict[str, Any]) -> None:
    _print_table(report, ("method", "accuracy", *_COMPARED), "accuracy")
    if "without_doubted" in report:
        print_line(f"without rows with doubtful labels   {report['without_doubted']:.3f}")


_COMPARED = ("95 % interval", "rows held out", "calibration error", "messages/s", "bytes", "training memory")


def _print_table(report: dict[str, Any], columns: Sequence[str], figure: str) -> None:
    """Prints a row for each method that was tried."""
    rows = []
    for name, of in report["methods"].items():
        measured, error = report["measured"][name], of["calibration_error"]
        rows.append(
            (
                name,
                f"{of[figure]:.3f}",
                "{:.3f} to {:.3f}".format(*of["interval"]),
                str(of["held_out"]),
                "-" if error is None else f"{error:.3f}",
                f"{measured['texts_per_s']:.{0 if measured['texts_per_s'] >= 10 else 1}f}",
                f"{measured['bytes'] / 1e6:.1f} MB",
                "-" if measured["peak_rss"] is None else f"{measured['peak_rss'] / 1e9:.1f} GB",
            )
        )
    print_columns(columns, rows)


def _print_coverage(report: dict[str, Any]) -> None:
    """Prints the coverage (share of answered messages) at each error rate."""
    for wanted, share in report.get("coverage", {}).items():
        needed = rows_to_guarantee(float(wanted))
        least = (
            f"not reachable (lowest guaranteed: {report.get('least_error', 1):.3f}); label more: "
            f"this takes {needed} confident answers without an error"
        )
        print_line(f"{f'max_error: {wanted}':<29}{least if share is None else f'answers {share:.1%}'}")

"""Test report: count and time of each tier's tests, the slowest 20: ``scripts/test_report.py REPORTS``."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

SLOWEST = 20


def summarize(reports: list[Path]) -> str:
    """A table with a row for each report, and the slowest tests."""
    lines = [f"{'tier':12} {'tests':>6} {'failed':>6} {'skipped':>7} {'minutes':>7}"]
    times: list[tuple[float, str]] = []
    for report in reports:
        for suite in ElementTree.parse(report).getroot().iter("testsuite"):
            tests, failed, errors, skipped = (
                int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")
            )
            minutes = float(suite.get("time", 0)) / 60
            lines.append(f"{report.stem:12} {tests:6} {failed + errors:6} {skipped:7} {minutes:7.1f}")
            times += [
                (float(case.get("time", 0)), f"{case.get('classname')}::{case.get('name')}")
                for case in suite.iter("testcase")
            ]
    lines += ["", f"The slowest {SLOWEST}, in seconds:"]
    lines += [f"{seconds:7.1f}  {name[:150]}" for seconds, name in sorted(times, reverse=True)[:SLOWEST]]
    return "\n".join(lines)


if __name__ == "__main__":
    found = sorted(Path(sys.argv[1]).glob("*.xml"), key=lambda report: report.stat().st_mtime)
    sys.stdout.write(f"{summarize(found)}\n" if found else "")

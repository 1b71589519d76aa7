"""Steps in child processes: progress, results, and how each kind of end is told."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from edgeslm_export.jobs.subprocess_job import run_child

from edgeslm.errors import ExportError

_REPORTER = """
import sys
from edgeslm.errors import ExportError
from edgeslm_export.jobs.subprocess_job import Reporter
def work(task, reporter):
    {body}
sys.exit(Reporter().run(work))
"""


def _run(body: str, **more: Any) -> dict[str, Any]:
    code = _REPORTER.format(body=body)
    return run_child([sys.executable, "-c", code], {"x": 20}, "the test", **more)


def test_progress_and_result_come_back() -> None:
    seen: list[tuple[int, int, str]] = []
    result = _run(
        "print('chatter'); reporter.progress(1, 2, 'halfway'); return {'y': task['x'] + 1}",
        on_progress=lambda done, total, what: seen.append((done, total, what)),
    )
    assert result == {"y": 21}
    assert seen == [(1, 2, "halfway")]


def test_telemetry_is_off_before_anything_is_imported() -> None:
    assert _run("import os; return {'off': os.environ['ORT_DISABLE_TELEMETRY']}") == {"off": "1"}


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("raise ExportError('The cat sat on it.')", r"^The cat sat on it\.$"),
        (
            "raise RuntimeError('boom')",
            r"^It failed at the test: RuntimeError: boom \(--debug shows everything\)\.$",
        ),
        ("sys.exit(3)", "It failed at the test: exit status 3"),
        ("import os; os.kill(os.getpid(), 9)", "The system ended the test, most likely for lack of memory"),
        ("import os; os.kill(os.getpid(), 11)", "SIGSEGV ended the test"),
    ],
)
def test_each_end_has_its_sentence(body: str, sentence: str) -> None:
    with pytest.raises(ExportError, match=sentence):
        _run(body)


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_child_ends_with_its_parent(tmp_path: Path) -> None:
    """A killed export left its child computing for hours."""
    noted = tmp_path / "pid"
    body = (
        f"import os, pathlib, time; pathlib.Path({str(noted)!r}).write_text(str(os.getpid())); time.sleep(60)"
    )
    code = _REPORTER.format(body=body)
    outer = (
        "import sys\nfrom edgeslm_export.jobs.subprocess_job import run_child\n"
        f"run_child([sys.executable, '-c', {code!r}], {{}}, 'it')"
    )
    parent = subprocess.Popen([sys.executable, "-c", outer])
    try:
        deadline = time.monotonic() + 60
        while not (noted.exists() and noted.read_text()) and time.monotonic() < deadline:
            time.sleep(0.05)
        child = Path("/proc", noted.read_text())
        assert child.exists()
    finally:
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 60
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(child)


def _runs(process: Path) -> bool:
    """Of a process in /proc; one that nobody waited for stays there, dead."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_debug_lets_the_chatter_through(capfd: pytest.CaptureFixture[str]) -> None:
    assert _run("print('chatter'); return {}", debug=True) == {}
    assert "chatter" in capfd.readouterr().err


def test_without_debug_it_is_kept_away(capfd: pytest.CaptureFixture[str]) -> None:
    _run("print('chatter'); return {}")
    assert capfd.readouterr() == ("", "")


def test_a_child_that_ends_at_once() -> None:
    with pytest.raises(ExportError, match="It failed at the test: exit status 7"):
        run_child([sys.executable, "-c", "import os; os._exit(7)"], {"x": "y" * 1_000_000}, "the test")

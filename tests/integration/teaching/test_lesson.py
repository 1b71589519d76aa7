"""Jobs of teaching: on idle processors, within limits; they can be stopped, and end with their parent."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from edgeslm.errors import EdgeslmError
from edgeslm.teaching import lesson
from edgeslm.teaching.lesson import ExportRunner, work_folder
from tests.support.apps import WAIT_S


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command is a piece of Python."""
    monkeypatch.setattr(lesson, "COMMAND", ("-c",))


def wait_until(done: object, what: str) -> None:
    give_up_at = time.monotonic() + WAIT_S
    while not done():  # type: ignore[operator]
        assert time.monotonic() < give_up_at, what
        time.sleep(0.02)


@pytest.mark.usefixtures("program")
def test_a_report_comes_back_and_a_failure_is_told() -> None:
    runner = ExportRunner()
    assert runner.run(["import json; print('words'); print(json.dumps({'accuracy': 1}))"]) == {"accuracy": 1}
    with pytest.raises(EdgeslmError, match="failed: no space left"):
        runner.run(["import sys; sys.exit('edgeslm-export: no space left')"])
    with pytest.raises(EdgeslmError, match="ended by signal 9"):
        runner.run(["import os; os.kill(os.getpid(), 9)"])
    assert runner.pid is None


@pytest.mark.usefixtures("program")
def test_in_the_background_it_yields_and_has_less_memory(tmp_path: Path) -> None:
    runner = ExportRunner(memory_bytes=300_000_000, cache=tmp_path)
    said = runner.run(
        [
            "import json, os, resource\n"
            "print(json.dumps({'nice': os.nice(0), 'policy': os.sched_getscheduler(0), "
            "'oom': int(open('/proc/self/oom_score_adj').read()), 'cache': os.environ['XDG_CACHE_HOME'], "
            "'data': resource.getrlimit(resource.RLIMIT_DATA)[0]}))"
        ]
    )
    assert said == {
        "nice": 19,
        "policy": os.SCHED_IDLE,
        "oom": 1000,
        "cache": str(tmp_path),
        "data": 300_000_000,
    }
    with pytest.raises(EdgeslmError, match="MemoryError"):
        runner.run(["x = bytearray(400_000_000)"])


@pytest.mark.usefixtures("program")
def test_a_job_that_hangs_or_is_stopped_ends() -> None:
    with pytest.raises(EdgeslmError, match=r"took longer than 0\.5 seconds"):
        ExportRunner(limit_s=0.5).run(["import time; time.sleep(60)"])
    runner = ExportRunner(memory_bytes=300_000_000)
    failures: list[str] = []

    def run() -> None:
        try:
            runner.run(["import time; time.sleep(60)"])
        except EdgeslmError as error:
            failures.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: runner.pid is not None, "it runs")
    runner.stop()
    thread.join(WAIT_S)
    assert "ended by signal 9" in failures[0]
    with pytest.raises(EdgeslmError, match="teaching was stopped"):
        runner.run(["print(1)"])


def test_a_job_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    job = f"import os, time; open({str(file)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    parent = (
        "import sys\nfrom edgeslm.teaching import lesson\n"
        "lesson.COMMAND = ('-c',)\n"
        f"lesson.ExportRunner(memory_bytes=300_000_000).run([{job!r}])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", parent])
    wait_until(lambda: file.exists() and file.read_text(), "the job runs")
    process.kill()
    process.wait()
    wait_until(lambda: not Path("/proc", file.read_text()).exists(), "the job ended too")


def test_folders_of_killed_nodes_are_removed(tmp_path: Path) -> None:
    name = f"test-{os.getpid()}"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    old = Path(f"/dev/shm/edgeslm-teach-{name}-{ended.pid}-abc")
    old.mkdir()
    (old / "pool.jsonl").write_text("{}")
    mine = work_folder(name, tmp_path)
    other = work_folder(name, tmp_path)
    assert not old.exists() and mine.exists() and other.exists()
    assert mine.stat().st_mode & 0o777 == 0o700
    for folder in (mine, other):
        folder.rmdir()


def test_without_memory_files_are_on_the_disk_unless_they_may_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lesson, "IN_MEMORY", tmp_path / "nowhere")
    folder = work_folder("hall", tmp_path / "state")
    assert folder.parent == tmp_path / "state"
    with pytest.raises(EdgeslmError, match="no place for the files"):
        work_folder("hall", None)

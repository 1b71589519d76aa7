"""Jobs: orders carried out by a child within limits of memory and time."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import psutil
import pytest

from edgeslm.ipc.job import Job, JobError, run_job

CHILD = """
import os, re, resource, sys, time
from edgeslm.ipc.job import serve, yield_processors

def answer(order, progress):
    if order == "hoard":
        return len("x" * 400_000_000)
    if order == "freeze":
        re.search("^(a|a)*$", "a" * 60 + "b")
    if order == "sleep":
        time.sleep(60)
    if order == "abort":
        os.abort()
    if order == "yield":
        yield_processors()
        return [os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0) == os.SCHED_IDLE]
    if order == "yield a part":
        yield_processors(wholly=False)
        return [os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0) == os.SCHED_IDLE]
    if order == "limits":
        return [resource.getrlimit(each)[0] for each in (resource.RLIMIT_AS, resource.RLIMIT_CPU)]
    if order == "crash":
        os.kill(os.getpid(), 11)
    if order == "end":
        raise ValueError("no such thing")
    if order == "noise":
        os.write(1, b"a library speaks")
    if order == "pid":
        return os.getpid()
    if isinstance(order, int):
        return os.fdopen(order).read()
    if order == "progress":
        progress(0.5)
    if order == "huge":
        return "x" * 1_100_000
    if order == "lists":
        os.write(WIRE, b'{"answer":[' + b"[]," * 3_000_000 + b"0]}\\n")
        time.sleep(60)
    if order == "deep":
        os.write(WIRE, b'{"answer":' + b"[" * 100_000 + b"\\n")
        time.sleep(60)
    if order == "fork":
        if os.fork():
            os._exit(3)
        time.sleep(60)
    if order == "fork and speak":
        if os.fork():
            os._exit(3)
        os.setsid()
        for _ in range(600):
            os.write(WIRE, b'{"progress":1}\\n')
            time.sleep(0.1)
        os._exit(0)
    return {"got": order}

WIRE = os.dup(1)
serve(answer)
"""
COMMAND = (sys.executable, "-P", "-c")
MB = 1_000_000


@pytest.fixture
def job() -> Job:
    return Job(CHILD, command=COMMAND)


def ask(job: Job, order: str | int, timeout_s: float = 30.0, memory_bytes: int = 200 * MB) -> object:
    return job.ask(order, timeout_s=timeout_s, memory_bytes=memory_bytes)


def reason(job: Job, order: str, timeout_s: float = 30.0) -> str:
    with pytest.raises(JobError) as caught:
        ask(job, order, timeout_s)
    return caught.value.reason


def test_orders_are_answered_by_one_process(job: Job) -> None:
    with job:
        assert ask(job, "hello") == {"got": "hello"}
        assert ask(job, "pid") == ask(job, "pid")
        assert ask(job, "noise") == {"got": "noise"}


def test_progress_comes_before_the_answer(job: Job) -> None:
    seen: list[float] = []
    with job:
        job.ask("progress", timeout_s=30, memory_bytes=200 * MB, on_progress=seen.append)
    assert seen == [0.5]


def test_an_order_beyond_its_memory_fails_and_the_next_is_answered(job: Job) -> None:
    with job:
        assert reason(job, "hoard") == "memory"
        assert ask(job, "hello") == {"got": "hello"}
        assert ask(job, "hoard", memory_bytes=900 * MB) == 400 * MB


@pytest.mark.parametrize("order", ["freeze", "sleep"])
def test_an_order_beyond_its_time_ends_the_process(job: Job, order: str) -> None:
    with job:
        assert reason(job, order, 1.5) == "time"
        assert ask(job, "hello") == {"got": "hello"}


@pytest.mark.parametrize("order", ["crash", "end", "huge", "deep", "fork"])
def test_a_process_that_ends_is_replaced(job: Job, order: str) -> None:
    with job:
        assert reason(job, order) == "ended"
        assert ask(job, "hello") == {"got": "hello"}


def test_a_process_of_a_child_that_goes_on_speaking_holds_nobody_up(job: Job) -> None:
    with job:
        assert reason(job, "fork and speak", 1.5) == "time"
        assert ask(job, "hello") == {"got": "hello"}


def test_what_a_child_starts_ends_with_it(job: Job) -> None:
    with job:
        group = ask(job, "pid")
        assert isinstance(group, int)
        assert reason(job, "fork") == "ended"
        until = time.monotonic() + 30
        while (left := _living(group)) and time.monotonic() < until:
            time.sleep(0.05)
        assert not left


def _living(group: int) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def test_lists_without_end_are_not_made_of_a_line() -> None:
    with Job(CHILD, command=COMMAND, answer_bytes=64 * MB) as job:
        tracemalloc.start()
        try:
            assert reason(job, "lists") == "ended"
            assert tracemalloc.get_traced_memory()[1] < 60 * MB
        finally:
            tracemalloc.stop()


def test_the_last_words_of_a_process_are_told(job: Job) -> None:
    with job, pytest.raises(JobError, match=r"\(exit status 1\) ValueError: no such thing"):
        ask(job, "end")


def test_what_was_seen_of_the_end_of_a_process_is_told(job: Job) -> None:
    with job:
        for order, seen in (("end", (1, "ValueError: no such thing")), ("crash", (-11, ""))):
            with pytest.raises(JobError) as caught:
                ask(job, order)
            assert (caught.value.status, caught.value.words) == seen


def test_a_job_without_limits_has_those_of_this_process() -> None:
    own = [resource.getrlimit(each)[1] for each in (resource.RLIMIT_AS, resource.RLIMIT_CPU)]
    with Job(CHILD, command=COMMAND) as job:
        assert ask(job, "limits") != own
        assert job.ask("limits", timeout_s=None, memory_bytes=None) == own
        assert job.ask("hoard", timeout_s=None, memory_bytes=None) == 400 * MB


def test_an_abort_is_a_lack_of_memory_only_where_that_is_limited(job: Job) -> None:
    with job:
        assert reason(job, "abort") == "memory"
        with pytest.raises(JobError, match=r"its process ended unexpectedly \(signal 6\)") as caught:
            job.ask("abort", timeout_s=None, memory_bytes=None)
        assert caught.value.reason == "ended"


def test_the_time_of_processors_is_that_of_all_threads(job: Job) -> None:
    with job:
        _, one = cpu_limit(job, 1)
        _, four = cpu_limit(job, 4)
    assert 90 <= four - one < 93


def cpu_limit(job: Job, threads: int) -> list[int]:
    found = job.ask("limits", timeout_s=30.0, memory_bytes=200 * MB, threads=threads)
    assert isinstance(found, list)
    return found


@pytest.mark.parametrize(("order", "nice", "is_idle"), [("yield", 19, True), ("yield a part", 5, False)])
def test_a_job_yields_the_processors_to_others(job: Job, order: str, nice: int, is_idle: bool) -> None:
    with job:
        assert ask(job, order) == [min(os.nice(0) + nice, 19), is_idle]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_job_runs_as_another_user_and_in_no_other_group() -> None:
    code = "import os, json; print(json.dumps({'answer': [os.getuid(), os.getgid(), os.getgroups()]}))"
    with Job(code, command=("/usr/bin/python3", "-P", "-c"), runs_as=(12345, 12346)) as job:
        assert ask(job, "ids") == [12345, 12346, []]


def test_a_job_that_is_awaited_ends_when_that_is_cancelled(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    stay = (
        f"import os, pathlib, time; pathlib.Path({str(file)!r}).write_text(str(os.getpid())); time.sleep(600)"
    )

    async def cancel() -> None:
        with Job(stay, command=COMMAND) as job:
            doing = asyncio.create_task(job.in_thread(job.ask, "do it", timeout_s=None, memory_bytes=None))
            while not (file.exists() and file.read_text()):
                await asyncio.sleep(0.01)
            doing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await doing
            with pytest.raises(ProcessLookupError):  # the thread has reaped it and closed its pipes
                os.kill(int(file.read_text()), 0)

    asyncio.run(cancel())


def test_a_job_is_awaited(job: Job) -> None:
    async def wait() -> object:
        with job:
            return await job.in_thread(ask, job, "hello")

    assert asyncio.run(wait()) == {"got": "hello"}


def test_a_job_is_stopped_from_another_thread(job: Job) -> None:
    timer = threading.Timer(1.0, job.stop)
    timer.start()
    assert reason(job, "sleep") == "stopped"
    assert reason(job, "hello") == "stopped"


def test_a_child_has_the_files_that_it_is_given(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("what stands there")
    with (tmp_path / "text").open() as given, Job(CHILD, command=COMMAND, files=[given.fileno()]) as job:
        assert ask(job, given.fileno()) == "what stands there"


def test_a_child_ends_when_its_parent_is_killed() -> None:
    parent = psutil.Popen(
        [
            *COMMAND,
            "import sys; from edgeslm.ipc.job import run_job\n"
            f"run_job({CHILD!r}, 'sleep', timeout_s=60, memory_bytes=2**28, command={COMMAND!r})",
        ]
    )
    until = time.monotonic() + 30
    while not (children := parent.children()) and time.monotonic() < until:
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert children and not alive


def test_one_order_to_a_child_of_its_own() -> None:
    answer = run_job(CHILD, "hello", timeout_s=30, memory_bytes=200 * MB, command=COMMAND)
    assert answer == {"got": "hello"}
    assert not [child for child in psutil.Process().children() if child.status() == psutil.STATUS_ZOMBIE]


def test_a_job_whose_program_is_not_there_leaves_nothing_open() -> None:
    """An open file is a warning, and so a failure."""
    with pytest.raises(FileNotFoundError):
        run_job(CHILD, "hello", timeout_s=30, memory_bytes=200 * MB, command=("/nowhere/python",))


@pytest.mark.skipif(sys.platform != "linux", reason="Linux' way to choose")
def test_a_machine_without_memory_ends_the_child_first(job: Job) -> None:
    with job:
        pid = ask(job, "pid")
        assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "1000"

"""The handle on a worker, with stand-ins that do what a real one hardly ever does."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from edgeslm.engine.calls import Embed, Generate, Prompt, Text, Turn
from edgeslm.engine.host.process import EngineCrashed, EngineProcess
from edgeslm.errors import BundleError, Cancelled, InternalError, ModelUnavailable, RequestError, TooLong
from tests.support.nodes import FAKE_COMMAND, FakeProcess, parent_of, write_bundle

LIMIT_S = 60.0

HEAD = """
import os, signal, sys, time
from edgeslm.engine.calls import Cost, EngineInfo, Output
from edgeslm.engine.frames import *
from edgeslm.ipc.pipe import Pipe
pipe = Pipe(int(sys.argv[1]), FROM_ENGINE, TO_ENGINE)
def ready():
    pipe.send(Ready(EngineInfo("encoder", 2048, int(sys.argv[3]), 0.0)))
"""


def play(scene: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(LIMIT_S):
            await scene()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(limited())


@contextlib.asynccontextmanager
async def running(process: EngineProcess) -> AsyncIterator[EngineProcess]:
    try:
        await process.start()
        yield process
    finally:
        await process.stop()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "small", "encoder")


def fake(bundle: Path, **fields: Any) -> EngineProcess:
    """A worker that does what the input says (``tests/support/fake_worker.py``)."""
    return FakeProcess(bundle, threads=1, **fields)


def scripted(bundle: Path, script: str, **fields: Any) -> EngineProcess:
    """A worker that runs ``script``, in which ``pipe`` and ``ready()`` are there."""
    process = EngineProcess(bundle, threads=1, **fields)
    process.command = (sys.executable, "-c", HEAD + textwrap.dedent(script))
    return process


def impatient(process: EngineProcess) -> EngineProcess:
    """It ends soon what hangs."""
    process.cancel_grace_s, process.stop_grace_s = 0.03, 0.05
    return process


def order(words: str, **fields: Any) -> Generate:
    return Generate(Prompt((Turn("user", (Text(words),)),)), 8, **fields)


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.005)


def gone(pid: int) -> bool:
    """Ended and reaped."""
    return not Path(f"/proc/{pid}").exists()


# -- calls -----------------------------------------------------------------------------------------


def test_a_worker_whose_start_was_cancelled_is_not_ready(bundle: Path) -> None:
    async def scene() -> None:
        process = impatient(scripted(bundle, "time.sleep(60)"))
        start = asyncio.create_task(process.start())
        await asyncio.sleep(0.2)
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        assert not process.ready  # raised CancelledError itself, which broke off what asked
        await process.stop()

    play(scene)


def test_calls_are_answered_in_their_order(bundle: Path) -> None:
    async def scene() -> None:
        async with running(fake(bundle)) as process:
            assert process.alive
            assert process.info is not None
            assert process.info.kind == "encoder"
            outputs = await asyncio.gather(*(process.call(order(f"say {n}")) for n in range(9)))
            assert [output.text for output in outputs] == [f"say {n}" for n in range(9)]
        assert (process.alive, process.pid) == (False, None)

    play(scene)


def test_chunks_come_before_the_output(bundle: Path) -> None:
    async def scene() -> None:
        async with running(fake(bundle)) as process:
            pieces: list[str] = []
            output = await process.call(order("one two", stream=True), pieces.append)
            assert (pieces, output.text) == (["one", " two"], "one two")
            assert (await process.call(order("one two", stream=True))).text == "one two"

    play(scene)


def test_a_chunk_that_cant_be_passed_on_ends_nothing(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fails(text: str) -> None:
        raise ValueError(text)

    async def scene() -> None:
        async with running(fake(bundle)) as process:
            assert (await process.call(order("the secret", stream=True), fails)).text == "the secret"

    with caplog.at_level(logging.INFO):
        play(scene)
    assert "ValueError" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("code", "kind"), [("too_long", TooLong), ("cancelled", Cancelled), ("unheard_of", InternalError)]
)
def test_errors_come_back_as_what_they_are(bundle: Path, code: str, kind: type[RequestError]) -> None:
    async def scene() -> None:
        async with running(fake(bundle)) as process:
            with pytest.raises(kind, match="told to"):
                await process.call(order(f"fail {code}"))
            assert (await process.call(order("x"))).text == "x"

    play(scene)


def test_a_large_call_doesnt_stop_the_loop(bundle: Path) -> None:
    """A worker in a prefill reads nothing for seconds; the connection to the broker must go on meanwhile."""
    script = """
    ready()
    while not os.path.exists(sys.argv[2] + "/go"):
        time.sleep(0.005)
    start = pipe.receive()
    pipe.send(Done(start.number, Output(text=str(len(start.call.texts[0])))))
    pipe.receive()
    """

    async def scene() -> None:
        async with running(scripted(bundle, script)) as process:
            call = asyncio.create_task(process.call(Embed(("x" * 5_000_000,))))
            for _ in range(5):
                await asyncio.sleep(0.01)  # a blocking send would never come back here
            (bundle / "go").touch()
            assert (await call).text == "5000000"

    play(scene)


def test_a_message_that_comes_in_pieces_doesnt_stop_the_loop(bundle: Path) -> None:
    script = """
    import struct
    ready()
    data = FROM_ENGINE.encode(Done(pipe.receive().number, Output(text="whole")))
    data = struct.pack("!I", len(data)) + data
    os.write(pipe.fileno(), data[:2])
    while not os.path.exists(sys.argv[2] + "/go"):
        time.sleep(0.005)
    for byte in data[2:]:
        os.write(pipe.fileno(), bytes([byte]))
    pipe.receive()
    """

    async def scene() -> None:
        async with running(scripted(bundle, script)) as process:
            call = asyncio.create_task(process.call(Embed(("x",))))
            for _ in range(10):
                await asyncio.sleep(0.01)
            (bundle / "go").touch()
            assert (await call).text == "whole"

    play(scene)


# -- cancel ----------------------------------------------------------------------------------------


def test_a_cancelled_call_is_given_up_and_the_next_is_served(bundle: Path) -> None:
    async def scene() -> None:
        async with running(fake(bundle)) as process:
            call = asyncio.create_task(process.call(order(f"hold {bundle}-never")))
            await asyncio.sleep(0.02)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert (await process.call(order("x"))).text == "x"
            assert process._abandoned == {}, "nothing is left that would kill the worker later"

    play(scene)


def test_a_call_that_hangs_ends_the_worker(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    script = """
    ready()
    while True:
        pipe.receive()
    """

    async def scene() -> None:
        async with running(impatient(scripted(bundle, script))) as process:
            call = asyncio.create_task(process.call(order("x"), on_hang=lambda: hung.append("x")))
            await asyncio.sleep(0.01)
            call.cancel()
            with pytest.raises(EngineCrashed, match="signal 9"):
                await process.call(order("y"), on_hang=lambda: hung.append("y"))
            await until(lambda: not process.alive)
            with pytest.raises(asyncio.CancelledError):
                await call

    hung: list[str] = []
    play(scene)
    assert "did not give up call 1 and is killed" in caplog.text
    assert hung == ["x"]


def test_a_cancelled_call_that_waits_behind_a_long_one_doesnt_end_the_worker(bundle: Path) -> None:
    """Its grace begins when its turn comes: the call before it has done nothing wrong."""

    async def scene() -> None:
        async with running(impatient(fake(bundle))) as process:
            long = asyncio.create_task(process.call(order(f"hold {bundle}/go")))
            behind = asyncio.create_task(process.call(order("x")))
            await asyncio.sleep(0.01)
            behind.cancel()
            await asyncio.sleep(0.2)
            (bundle / "go").touch()
            assert (await long).text.startswith("hold")
            await until(lambda: process._abandoned == {})
            assert process.alive

    play(scene)


def test_a_cancelled_call_that_another_interrupts_has_time_until_that_is_done(bundle: Path) -> None:
    """The worker can't notice before."""
    script = """
    ready()
    numbers = [pipe.receive().number for _ in range(2)]
    assert isinstance(pipe.receive(), Cancel)
    while not os.path.exists(sys.argv[2] + "/go"):
        time.sleep(0.005)
    pipe.send(Done(numbers[1], Output(text="urgent")))
    pipe.send(Failed(numbers[0], "cancelled", "at last"))
    pipe.receive()
    """

    async def scene() -> None:
        async with running(impatient(scripted(bundle, script))) as process:
            long = asyncio.create_task(process.call(order("x")))
            await asyncio.sleep(0)
            urgent = asyncio.create_task(process.call(order("y"), priority=9))
            await asyncio.sleep(0)
            long.cancel()
            await asyncio.sleep(0.2)
            assert process.alive
            (bundle / "go").touch()
            assert (await urgent).text == "urgent"
            await until(lambda: process._abandoned == {})
            assert process.alive

    play(scene)


def test_what_hangs_without_anybody_waiting_is_ended_by_the_next_call_that_gives_up(bundle: Path) -> None:
    script = """
    ready()
    while True:
        pipe.receive()
    """

    async def scene() -> None:
        async with running(impatient(scripted(bundle, script))) as process:
            unasked = asyncio.create_task(process.call(order("x"), priority=-1))
            await asyncio.sleep(0)
            asked = asyncio.create_task(process.call(order("y")))
            await asyncio.sleep(0.01)
            asked.cancel()
            with pytest.raises(EngineCrashed):
                await unasked

    play(scene)


# -- the end of a worker ---------------------------------------------------------------------------


def test_a_crash_fails_every_call_and_it_can_be_started_again(bundle: Path) -> None:
    async def scene() -> None:
        async with running(fake(bundle)) as process:
            pid = process.pid
            assert pid is not None
            calls = [asyncio.create_task(process.call(order(f"hold {bundle}-never"))) for _ in range(3)]
            await asyncio.sleep(0.02)
            os.kill(pid, signal.SIGKILL)
            for call in calls:
                with pytest.raises(EngineCrashed, match=r"small ended unexpectedly \(signal 9\)"):
                    await call
            assert (process.alive, process.pid) == (False, None)
            assert gone(pid), "no zombie is left"
            with pytest.raises(EngineCrashed, match="not running"):
                await process.call(order("x"))
            await process.start()
            assert process.pid != pid
            assert (await process.call(order("x"))).text == "x"

    play(scene)


def test_a_worker_that_dies_between_calls_fails_the_next_one_once(bundle: Path) -> None:
    async def scene() -> None:
        async with running(fake(bundle)) as process:
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            with pytest.raises(EngineCrashed):
                await process.call(order("x"))  # sent before its end was noticed
            assert not process.alive, "a caller that tries again at once would be told the same"

    play(scene)


def test_an_exit_status_is_said(bundle: Path) -> None:
    async def scene() -> None:
        async with running(scripted(bundle, "ready(); pipe.receive(); os._exit(7)")) as process:
            with pytest.raises(EngineCrashed, match="exit status 7"):
                await process.call(order("x"))

    play(scene)


def test_a_worker_that_closes_its_pipe_but_lives_is_killed_and_not_waited_for(bundle: Path) -> None:
    async def scene() -> None:
        async with running(
            scripted(bundle, "ready(); pipe.receive(); pipe.close(); time.sleep(600)")
        ) as process:
            pid = process.pid
            with pytest.raises(EngineCrashed, match="signal 9"):
                await process.call(order("x"))
            assert pid is not None
            assert gone(pid)

    play(scene)


HOSTILE = {
    "a pickle": "struct.pack('!I', len(evil)) + evil",
    "a pickle as JSON": "body(evil)",
    "a text for a number": """body(b'["Chunk",["1","x"]]')""",
    "a number for a text": """body(b'["Chunk",[1,2]]')""",
    "no number": """body(b'["Ready",[["encoder",1,1,NaN,false]]]')""",
    "an order": """body(b'["Cancel",[1]]')""",
    "a type of others": """body(b'["Path",["/etc/passwd"]]')""",
    "deep": "body(b'[' * 1_000_000)",
    "long": "struct.pack('!I', 2**32 - 1)",
    "many numbers": """body(b'["Done",[1,[[0,0,0,0],"","",[],[],[],[99999999],null,null]]]')""",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_worker_gets_nothing_into_the_parent_and_is_replaced(
    bundle: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    script = f"""
    import pickle, struct
    def body(data):
        return struct.pack('!II', len(data) + 4, len(data)) + data
    class Evil:
        def __reduce__(self):
            return os.system, ("touch " + sys.argv[2] + "/trap",)
    evil = pickle.dumps(("done", 1, Evil()))
    ready()
    number = pipe.receive().number
    if os.path.exists(sys.argv[2] + "/was-hostile"):
        pipe.send(Done(number, Output(text="well")))
    else:
        open(sys.argv[2] + "/was-hostile", "w").close()
        pipe._socket.sendall({HOSTILE[what]})
    time.sleep(600)
    """

    async def scene() -> None:
        process = scripted(bundle, script)
        async with running(process):
            pid = process.pid
            with pytest.raises(EngineCrashed, match="it sent an invalid message"):
                await process.call(order("x"))
            assert pid is not None and gone(pid)
            await process.start()
            assert (await process.call(order("x"))).text == "well"
            assert process.losses == 1

    play(scene)
    assert not (bundle / "trap").exists()
    assert "Traceback" not in caplog.text


def test_a_call_that_no_frame_can_carry_fails_alone(bundle: Path) -> None:
    async def scene() -> None:
        async with running(fake(bundle)) as process:
            with pytest.raises(InternalError, match="can't be sent to the engine: int where str is needed"):
                await process.call(Embed((5,)))  # type: ignore[arg-type]
            assert (await process.call(order("x"))).text == "x"
            assert process.unanswered == 0

    play(scene)


def test_a_worker_that_talks_nonsense_counts_as_crashed(
    bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    script = """
    ready()
    pipe.receive()
    os.write(pipe.fileno(), b"\\x00\\x00\\x00\\x04nope")
    time.sleep(600)
    """

    async def scene() -> None:
        async with running(scripted(bundle, script)) as process:
            with pytest.raises(EngineCrashed):
                await process.call(order("x"))

    play(scene)


def test_a_crash_while_loading(bundle: Path) -> None:
    async def scene() -> None:
        process = scripted(bundle, "os._exit(3)")
        for _ in range(2):
            with pytest.raises(EngineCrashed, match="exit status 3"):
                await process.start()
            assert (process.alive, process.pid) == (False, None)

    play(scene)


def test_a_refusal(bundle: Path) -> None:
    async def scene() -> None:
        process = scripted(bundle, 'pipe.send(Refused("m: damaged")); time.sleep(600)')
        for _ in range(2):
            with pytest.raises(BundleError, match=r"^m: damaged$"):
                await process.start()
            assert (process.alive, process.pid) == (False, None)

    play(scene)


def test_what_computes_the_model_is_told_to_the_worker(bundle: Path) -> None:
    async def scene() -> None:
        process = scripted(
            bundle,
            'pipe.send(Refused(" ".join(sys.argv[3:9]))); time.sleep(600)',
            power="idle",
            device="cuda",
            cache=Path("/cache"),
        )
        with pytest.raises(BundleError, match=r"^1 WARNING idle cuda /cache -$"):
            await process.start()

    play(scene)


def test_a_command_that_isnt_there(bundle: Path) -> None:
    async def scene() -> None:
        process = EngineProcess(bundle)
        process.command = ("/no/such/python",)
        with pytest.raises(ModelUnavailable, match="can't be started: No such file"):
            await process.start()
        await process.stop()

    play(scene)


def test_stop_while_loading(bundle: Path) -> None:
    async def scene() -> None:
        process = scripted(bundle, "pipe.receive()")
        start = asyncio.create_task(process.start())
        await until(lambda: process.alive)
        await process.stop()
        with pytest.raises(ModelUnavailable, match="stopped"):
            await start
        assert process.pid is None

    play(scene)


def test_a_start_that_is_cancelled_leaves_no_worker(bundle: Path) -> None:
    async def scene() -> None:
        process = scripted(bundle, "pipe.receive()")
        start = asyncio.create_task(process.start())
        await until(lambda: process.alive)
        pid = process.pid
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        assert pid is not None
        assert gone(pid)
        assert (process.alive, process.pid) == (False, None)

    play(scene)


def test_stop_fails_what_runs_and_may_be_called_twice(bundle: Path) -> None:
    async def scene() -> None:
        async with running(fake(bundle)) as process:
            call = asyncio.create_task(process.call(order(f"hold {bundle}-never")))
            await asyncio.sleep(0.02)
            await process.stop()
            with pytest.raises(ModelUnavailable, match="being stopped") as caught:
                await call
            assert not isinstance(caught.value, EngineCrashed), "it must not be tried again"
            await process.stop()

    play(scene)


def test_a_worker_that_doesnt_end_is_killed(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        process = impatient(scripted(bundle, "ready(); time.sleep(600)"))
        await process.start()
        pid = process.pid
        await process.stop()
        assert pid is not None
        assert gone(pid)

    play(scene)
    assert "is killed" in caplog.text


def test_the_worker_ends_with_its_parent(bundle: Path) -> None:
    """Even when the parent is killed and can say nothing."""
    script = f"""
    import asyncio
    from pathlib import Path
    from edgeslm.engine.host.process import EngineProcess
    async def main():
        process = EngineProcess(Path({str(bundle)!r}))
        process.command = {FAKE_COMMAND!r}
        await process.start()
        print(process.pid, flush=True)
        await asyncio.sleep(600)
    asyncio.run(main())
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert parent_of(pid) == parent.pid
        parent.kill()
        parent.wait()
    limit = time.monotonic() + LIMIT_S
    while not gone(pid) and _state(pid) != "Z":
        assert time.monotonic() < limit, "the worker outlives its parent"
        time.sleep(0.01)


def _state(pid: int) -> str:
    """One letter; Z for what ended and waits to be reaped by whoever adopted it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"

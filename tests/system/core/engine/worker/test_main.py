"""The real worker with the real encoder, as a process; what it does with signals, bad bundles and calls."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import onnxruntime_genai as og
import pytest

from edgeslm.bundle.manifest import Bundle, load_bundle
from edgeslm.engine.calls import ANY, Classify, Embed, Generate, Guide, Output, Prompt, Text, Turn
from edgeslm.engine.frames import (
    FROM_ENGINE,
    TO_ENGINE,
    Cancel,
    Chunk,
    Done,
    EngineMessage,
    Failed,
    Ready,
    Start,
)
from edgeslm.engine.host.process import EngineProcess
from edgeslm.engine.worker.main import Engine, serve
from edgeslm.engine.worker.prepared import GRAPH, INDEX, WEIGHTS, folder_of
from edgeslm.errors import BundleError, Cancelled, InternalError, ModelUnavailable, TooLong
from edgeslm.ipc.pipe import Pipe
from tests.support.nodes import write_bundle

LIMIT_S = 60.0


def play(scene: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(LIMIT_S):
            await scene()

    asyncio.run(limited())


def test_serves_calls_through_everything_that_can_be_wrong_with_one(starter: Path, tmp_path: Path) -> None:
    """One process for all of it: loading it is what takes time."""

    async def scene() -> None:
        process = EngineProcess(starter / "minilm-l6-int8", threads=1)
        info = await process.start()
        assert (info.kind, info.context_length, info.threads) == ("encoder", 256, 1)
        assert info.load_ms > 0
        pid = process.pid
        try:
            together = await asyncio.gather(*(process.call(Embed((f"text {n}",))) for n in range(5)))
            assert [len(output.vectors[0]) for output in together] == [384] * 5
            assert all(output.cost.prefill_ms > 0 for output in together)

            with pytest.raises(InternalError, match="can't generate"):
                await process.call(Generate(Prompt((Turn("user", (Text("x"),)),)), 3))
            with pytest.raises(TooLong, match="has 900 tokens and there is room for 254"):
                await process.call(Embed(("pump " * 900,)))
            with pytest.raises(ModelUnavailable, match="there is no such folder"):
                await process.call(Classify("x", str(tmp_path / "none")))
            with pytest.raises(InternalError, match="NoneType where str is needed"):
                await process.call(Embed((None,)))  # type: ignore[arg-type]

            # Ctrl-C and systemd's SIGTERM reach the whole group: the worker leaves them to its parent.
            assert pid is not None
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGINT)
            assert (await process.call(Embed(("still here",)))).vectors
            assert process.alive
        finally:
            await process.stop()
        assert not Path(f"/proc/{pid}").exists()

    play(scene)


def test_texts_stay_out_of_what_it_writes(
    starter: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nor does either library leave a file in the home folder, though nothing says that this is a test."""
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "TMPDIR"):
        monkeypatch.setenv(name, str(tmp_path))

    async def scene() -> None:
        process = EngineProcess(starter / "minilm-l6-int8", threads=1, log_level="INFO")
        await process.start()
        await process.call(Embed(("the secret message",)))
        with pytest.raises(TooLong):
            await process.call(Embed(("secret " * 900,)))
        await process.stop()

    play(scene)
    assert "secret" not in "".join(capfd.readouterr())
    assert list(tmp_path.iterdir()) == []


def test_its_log_lines_have_the_time(starter: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(struct.pack("!I", 2) + b"[]")
        fd, bundle = str(theirs.fileno()), str(starter / "minilm-l6-int8")
        command = [sys.executable, "-m", "edgeslm.engine.worker.main", fd, bundle, "1", "INFO"]
        command += ["balanced", "cpu", ANY, ANY]
        done = subprocess.run(command, pass_fds=[int(fd)], capture_output=True, text=True, timeout=LIMIT_S)
    time = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"
    assert re.match(rf"{time} ERROR edgeslm\.engine: the node sent a malformed message: ", done.stderr)


def test_a_bad_bundle_is_refused_with_its_sentence(tmp_path: Path) -> None:
    async def scene() -> None:
        process = EngineProcess(write_bundle(tmp_path / "fake", "encoder"), threads=1)
        with pytest.raises(BundleError, match="a bundle of kind encoder, where an encoder is needed"):
            await process.start()
        assert (process.alive, process.pid) == (False, None)

    play(scene)


def test_another_bundle_than_at_the_start_is_refused(starter: Path) -> None:
    """What was found signed is told to the worker by its digest."""

    async def scene() -> None:
        folder = starter / "minilm-l6-int8"
        process = EngineProcess(folder, digest=load_bundle(folder).digest, threads=1)
        await process.start()
        await process.stop()
        process = EngineProcess(folder, digest="sha256:0", threads=1)
        with pytest.raises(BundleError, match=r"manifest\.json: another bundle than at the start"):
            await process.start()

    play(scene)


def test_an_encoder_runs_on_the_cpu_alone(starter: Path) -> None:
    async def scene() -> None:
        process = EngineProcess(starter / "minilm-l6-int8", threads=1, power="idle", device="cuda")
        with pytest.raises(BundleError, match="an encoder runs on the CPU alone: leave out device: cuda"):
            await process.start()

    play(scene)


@pytest.mark.skipif(og.is_cuda_available(), reason="the installed library has CUDA")
def test_cuda_that_isnt_there_is_refused_and_what_was_prepared_is_not_looked_at(
    starter: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is laid out for the CPU."""
    path = starter / "smollm2-135m-int4"
    folder = folder_of(load_bundle(path), "model.onnx", tmp_path)
    folder.mkdir()
    for name in (INDEX, GRAPH, WEIGHTS):
        (folder / name).write_text("no index")
    with pytest.raises(BundleError, match="device: cuda, but the installed onnxruntime-genai"):
        Engine(path, 1, cache=tmp_path, device="cuda")
    assert "can't be used" not in caplog.text
    Engine(path, 1, cache=tmp_path).close()
    assert "can't be used" in caplog.text


def test_an_engine_is_held_to_what_its_calls_need(starter: Path) -> None:
    """And has enough for one whose context is full, and that of a call in between."""
    prompt = Prompt((Turn("user", (Text("Which number?"),)),))
    rest = {
        "type": "object",
        "additionalProperties": False,
        "x-guidance": {"whitespace_flexible": False},
    }
    schemas = [{**rest, "properties": {x: {"enum": [1, 2]}}, "required": [x]} for x in "ab"]
    calls = [Generate(prompt, 8000, guide=Guide("json_schema", json.dumps(schema))) for schema in schemas]

    async def scene() -> None:
        process = EngineProcess(starter / "smollm2-135m-int4")
        try:
            await process.start()
            limits = Path(f"/proc/{process.pid}/limits").read_text()
            (held,) = [line.split()[3] for line in limits.splitlines() if line.startswith("Max data size")]
            manifest = load_bundle(process.bundle).manifest
            cache = manifest.kv_bytes_per_token * manifest.context_length
            assert 3 * cache < int(held) < 3 * cache + 2_000_000_000
            for output in await asyncio.gather(*(process.call(call) for call in calls)):
                assert output.text
        finally:
            await process.stop()

    asyncio.run(scene())


@pytest.mark.parametrize("kind", ["adapter"])
def test_a_kind_that_is_no_model(tmp_path: Path, kind: str) -> None:
    with pytest.raises(BundleError, match=f"a bundle of kind {kind} can't be a model of its own"):
        Engine(write_bundle(tmp_path / "fake", kind), 1)


@pytest.mark.parametrize("model", ["smollm2-135m-int4", "minilm-l6-int8"])
def test_a_bundle_that_is_swapped_while_it_is_read_is_refused(
    model: str, starter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine reads a bundle twice: the second reading must find what the first one did."""
    folder, current = tmp_path / "other", tmp_path / "current"
    shutil.copytree(starter / model, folder)
    current.symlink_to(starter / model)
    digest = load_bundle(starter / model).digest

    def read_and_swap(path: Path, expected: str | None = None) -> Bundle:
        bundle = load_bundle(path, expected)
        (folder / "manifest.json").write_text((folder / "manifest.json").read_text() + "\n")
        current.unlink()
        current.symlink_to(folder)
        return bundle

    monkeypatch.setattr("edgeslm.engine.worker.main.load_bundle", read_and_swap)
    engine = Engine(current, 1, digest)
    loaded = engine._decoder or engine._encoder
    assert loaded is not None
    assert loaded.bundle.digest == digest, "the link was settled before"
    engine.close()
    with pytest.raises(BundleError, match="another bundle than at the start"):
        Engine(current, 1, digest)


class Steps:
    """An engine whose work comes in pieces: before each it asks whether to go on. Keeps what it did."""

    kind, context_length, threads, prepared = "decoder", 2048, 1, False

    def __init__(self, *_: object) -> None:
        self.done: list[str] = []
        self.vector: tuple[float, ...] | None = None
        """All calls are answered by it at once, if there is one."""

    def limit_memory(self) -> None: ...

    def run(self, call: Any, emit: Callable[[str], None], cancelled: Callable[[], bool]) -> Output:
        name = call.texts[0]
        if self.vector is not None:
            return Output(vectors=(self.vector,))
        for _ in range(3):
            emit(name)
            self.done.append(name)
            time.sleep(0.05)
            if cancelled():
                raise Cancelled("given up")
        return Output(text=name)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Pipe, Steps]]:
    """The other end of a worker's pipe, and its engine."""
    engine, (one, other) = Steps(), socket.socketpair()
    ours, theirs = Pipe(one.detach(), TO_ENGINE, FROM_ENGINE), Pipe(other.detach(), FROM_ENGINE, TO_ENGINE)
    ours._socket.settimeout(LIMIT_S)
    monkeypatch.setattr("edgeslm.engine.worker.main.Engine", lambda *_, **__: engine)
    monkeypatch.setattr(os, "_exit", lambda status: None)  # its threads are ours
    thread = threading.Thread(
        target=serve, args=(theirs, ["", "x", "1", "", "balanced", "cpu", ANY, ANY]), daemon=True
    )
    thread.start()
    assert isinstance(ours.receive(), Ready)
    reader = next(thread for thread in threading.enumerate() if thread.name == "pipe")
    yield ours, engine
    ours.close()
    reader.join()  # before it could end the process of the tests


def heard(pipe: Pipe, *, until: int) -> list[tuple[type[EngineMessage], int]]:
    """What becomes of calls, until so many are answered."""
    said: list[tuple[type[EngineMessage], int]] = []
    while len(said) < until:
        message = pipe.receive()
        if not isinstance(message, Chunk):
            said.append((type(message), message.number))
    return said


def test_a_more_urgent_call_runs_between_two_pieces_of_another(steps: tuple[Pipe, Steps]) -> None:
    pipe, engine = steps
    pipe.send(Start(1, Embed(("long",)), 5))
    assert pipe.receive() == Chunk(1, "long")
    for number, (name, priority) in enumerate({"equal": 5, "urgent": 6, "most urgent": 9}.items(), 2):
        pipe.send(Start(number, Embed((name,)), priority))
    assert heard(pipe, until=4) == [(Done, 4), (Done, 3), (Done, 1), (Done, 2)]
    assert engine.done == [
        *("long", "most urgent", "most urgent", "most urgent", "urgent", "urgent", "urgent"),
        *("long", "long", "equal", "equal", "equal"),
    ]


def test_a_call_that_is_interrupted_can_be_cancelled_and_so_can_the_other(steps: tuple[Pipe, Steps]) -> None:
    pipe, _ = steps
    cases: list[tuple[tuple[int, ...], list[tuple[type[EngineMessage], int]]]] = [
        ((1,), [(Done, 2), (Failed, 1)]),
        ((4,), [(Failed, 4), (Done, 3)]),
        ((5, 6), [(Failed, 6), (Failed, 5)]),
    ]
    for cancelled, outcomes in cases:
        low = (cancelled[0] - 1) // 2 * 2 + 1
        pipe.send(Start(low, Embed(("long",)), 5))
        assert isinstance(pipe.receive(), Chunk)
        pipe.send(Start(low + 1, Embed(("urgent",)), 6))
        assert pipe.receive() == Chunk(low + 1, "urgent")
        for number in cancelled:
            pipe.send(Cancel(number))
        assert heard(pipe, until=2) == outcomes


@pytest.mark.parametrize("vector", [(float("nan"),), (0.5,) * 3_000_000])
def test_an_answer_that_is_no_message_fails_its_call_alone(
    steps: tuple[Pipe, Steps], vector: tuple[float, ...]
) -> None:
    pipe, engine = steps
    engine.vector = vector
    pipe.send(Start(1, Embed(("x",)), 5))
    failed = pipe.receive()
    engine.vector = None
    assert isinstance(failed, Failed) and failed.code == "internal"
    pipe.send(Start(2, Embed(("x",)), 5))
    assert heard(pipe, until=1) == [(Done, 2)]

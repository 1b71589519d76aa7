"""The process of the collections, a real one: searched, killed, stopped, and refused."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from edgeslm.errors import KnowledgeError
from edgeslm.knowledge.index.collection import Collection
from edgeslm.knowledge.index.queries import CollectionSpec, Memory, Query
from edgeslm.knowledge.service.process import AGAIN_S, KnowledgeProcess
from tests.support.knowledge.collection_samples import TAG, hash_embed, make_document, make_origin
from tests.support.knowledge.readers import bad_reader

LIMIT_S = 60.0
WITH_BAD_READER = """
import sys
from edgeslm.knowledge.readers import limited
from edgeslm.knowledge.service import worker
from tests.support.knowledge.readers import bad_reader
limited.COMMAND = bad_reader.command({act!r})
limited.Reading.most_s = {most_s}
worker.main(sys.argv[1:])
"""
"""Reads files called ``bomb`` badly."""


def play(scene: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(LIMIT_S):
            await scene()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(limited())


async def embed(collection: str, texts: Sequence[str]) -> list[list[float]]:
    return hash_embed(texts)


@contextlib.asynccontextmanager
async def running(*specs: CollectionSpec, again_s: float = AGAIN_S) -> AsyncIterator[KnowledgeProcess]:
    process = KnowledgeProcess(specs, embed=embed, again_s=again_s)
    try:
        await process.start()
        yield process
    finally:
        await process.stop()


@pytest.fixture
def spec(tmp_path: Path) -> CollectionSpec:
    spec = CollectionSpec("manuals", tmp_path / "kb", TAG)
    with Collection(spec.path, writes=True) as collection:
        collection.use_encoder(TAG)
        collection.put(
            *make_document("press.md", "Oil the press each week."), make_origin(), embed=hash_embed
        )
    return spec


def query(question: str = "oil", *collections: str, vector: bool = False) -> Query:
    found = hash_embed([question])[0] if vector else None
    return Query(collections or ("manuals",), question, 3, found)


def test_passages_come_back_with_their_figures(spec: CollectionSpec) -> None:
    async def scene() -> None:
        async with running(spec) as process:
            (by_words,) = await process.search(query())
            assert (by_words.source, by_words.text) == ("press.md", "Oil the press each week.")
            assert (by_words.cosine, by_words.collection) == (None, "manuals")
            (found,) = await process.search(query(vector=True))
            assert found.cosine is not None

    play(scene)


def test_several_collections_are_one_ranking(spec: CollectionSpec, tmp_path: Path) -> None:
    other = CollectionSpec("log", tmp_path / "log", TAG, writes=True)

    async def scene() -> None:
        async with running(spec, other) as process:
            await process.remember(
                "log", Memory("press/4", "1", "oil is low, oil the press now", time.time())
            )
            found = await process.search(query("oil the press", "manuals", "log"))
            assert {one.collection for one in found} == {"manuals", "log"}
            assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)

    play(scene)


def test_a_killed_process_is_started_again_and_asked_again(spec: CollectionSpec) -> None:
    async def scene() -> None:
        async with running(spec) as process:
            assert process.pid is not None
            os.kill(process.pid, signal.SIGSTOP)
            asking = asyncio.create_task(process.search(query()))
            await asyncio.sleep(0.05)
            os.kill(process.pid, signal.SIGKILL)
            assert len(await asking) == 1
            assert len(await process.search(query())) == 1

    play(scene)


def test_one_that_keeps_folders_is_started_again_by_itself(spec: CollectionSpec, tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(replace(spec, watch=(tmp_path,))) as process:
            first = process.pid
            assert first is not None
            os.kill(first, signal.SIGKILL)
            while process.pid in (None, first):
                await asyncio.sleep(0.02)

    play(scene)


def test_its_log_lines_have_the_time(
    spec: CollectionSpec, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "watched"
    folder.mkdir()
    (folder / "lathe.txt").write_text("Clean the lathe.")
    os.utime(folder / "lathe.txt", (0, 0))

    async def scene() -> None:
        process = KnowledgeProcess([replace(spec, watch=(folder,))], embed=embed, log_level="INFO")
        await process.start()
        said = ""
        while "1 added" not in said:
            await asyncio.sleep(0.02)
            said += capfd.readouterr().err
        await process.stop()
        line = next(line for line in said.splitlines() if "1 added" in line)
        assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO edgeslm\.knowledge: manuals: ", line)

    play(scene)


def test_searches_and_messages_do_not_wait_for_a_bad_file_which_is_left_out_for_good(
    spec: CollectionSpec, tmp_path: Path
) -> None:
    """It never comes to an end, and keeps the interpreter of its reader to itself."""
    folder = tmp_path / "manuals"
    folder.mkdir()
    for name in ("bomb", "lathe"):
        (folder / f"{name}.txt").write_text(f"Oil the {name}.")
        os.utime(folder / f"{name}.txt", (5, 5))
    code = WITH_BAD_READER.format(act=bad_reader.FREEZE, most_s=4.0)
    watched = replace(spec, watch=(folder,), writes=True)
    tries = tmp_path / "tries"

    async def scene() -> None:
        for start in range(2):
            process = KnowledgeProcess([watched], embed=embed, command=(sys.executable, "-P", "-c", code))
            await process.start()
            if not start:
                while not tries.exists():
                    await asyncio.sleep(0.02)
                for number in range(20):
                    memory = Memory("press/4", str(number), "bearing runs hot", time.time())
                    await process.remember("manuals", memory)
                    assert await process.search(query("bearing"))
                assert tries.read_text() == "x", "all of that came while it was read for the first time"
            while not any("bomb.txt" in problem for problem in process.problems):
                await asyncio.sleep(0.02)
            assert [one.source for one in await process.search(query("lathe"))] == ["lathe.txt"]
            await process.stop()
            assert tries.read_text() == "xx"
            os.utime(folder / "bomb.txt", (6, 6))  # another date is no other file

    play(scene)


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses of at least ``AGAIN_S``, each of which takes a moment."""
    pauses, sleep = list[float](), asyncio.sleep

    async def note(seconds: float) -> None:
        if seconds >= AGAIN_S:
            pauses.append(seconds)
        await sleep(min(seconds, 0.01))

    monkeypatch.setattr(asyncio, "sleep", note)
    return pauses


def test_one_that_ends_again_and_again_is_left_alone_for_longer_each_time(
    spec: CollectionSpec, tmp_path: Path, no_pauses: list[float]
) -> None:
    async def scene() -> None:
        async with running(replace(spec, watch=(tmp_path,))) as process:
            pid = process.pid
            for _ in range(3):
                assert pid is not None
                os.kill(pid, signal.SIGKILL)
                while process.pid in (None, pid) or not (await process.search(query())):
                    await asyncio.sleep(0.01)
                pid = process.pid

    play(scene)
    assert no_pauses == [AGAIN_S * 2**n for n in range(3)]


def test_one_that_never_gets_ready_again_is_left_alone_for_longer_though_it_was_ready_once(
    spec: CollectionSpec, tmp_path: Path, no_pauses: list[float]
) -> None:
    """The time since it was ready was taken for the life of each process that came after."""

    async def scene() -> None:
        async with running(replace(spec, watch=(tmp_path,))) as process:
            process._command = (sys.executable, "-c", "raise SystemExit(3)")
            assert process._ready_at is not None
            process._ready_at -= 1000.0
            process._child.kill()
            while len(no_pauses) < 3:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0)  # that it is cancelled reaches what waits

    play(scene)
    assert no_pauses[:3] == [AGAIN_S * 2**n for n in range(3)]


def test_one_that_could_not_be_opened_again_is_tried_once_more(spec: CollectionSpec, tmp_path: Path) -> None:
    folder = tmp_path / "watched"
    folder.mkdir()
    file = spec.path.with_suffix(".sqlite")

    async def scene() -> None:
        async with running(replace(spec, watch=(folder,)), again_s=0.05) as process:
            pid = process.pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)  # it could make the file anew
            for name in (file, Path(f"{file}-wal"), Path(f"{file}-shm")):
                name.unlink(missing_ok=True)
            file.mkdir()
            os.kill(pid, signal.SIGKILL)
            while process.pid is not None:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.5)
            file.rmdir()
            while process.pid is None:
                await asyncio.sleep(0.01)

    play(scene)


def test_a_collection_that_is_not_there_is_refused(tmp_path: Path) -> None:
    async def scene() -> None:
        with pytest.raises(KnowledgeError, match=r"there is no collection .*kb"):
            async with running(CollectionSpec("manuals", tmp_path / "kb")):
                pass

    play(scene)


def test_another_encoder_is_refused(spec: CollectionSpec) -> None:
    async def scene() -> None:
        with pytest.raises(KnowledgeError, match=r"knowledge\.manuals\.encoder: .* another encoder"):
            async with running(replace(spec, encoder=replace(TAG, digest="sha256:other"))):
                pass

    play(scene)


def test_a_collection_that_was_replaced_is_opened_anew(spec: CollectionSpec) -> None:
    async def scene() -> None:
        async with running(spec) as process:
            assert await process.search(query("oil"))
            for file in spec.path.parent.glob("kb*"):
                file.unlink()
            with pytest.raises(KnowledgeError, match="there is no collection"):
                await process.search(query("oil"))
            with Collection(spec.path, writes=True) as collection:
                collection.put(*make_document("lathe.md", "Grease the lathe."), make_origin())
            assert [one.source for one in await process.search(query("grease"))] == ["lathe.md"]

    play(scene)


def test_what_waits_when_it_is_stopped_is_told(spec: CollectionSpec) -> None:
    async def scene() -> None:
        async with running(spec) as process:
            assert process.pid is not None
            os.kill(process.pid, signal.SIGSTOP)
            asking = asyncio.create_task(process.search(query()))
            await asyncio.sleep(0.05)
            os.kill(process.pid, signal.SIGCONT)
            await process.stop()
            with pytest.raises(KnowledgeError, match="stopping"):
                await asking
            with pytest.raises(KnowledgeError, match="stopping"):
                await process.search(query())

    play(scene)


def test_vectors_that_come_late_are_not_those_of_another_process(spec: CollectionSpec) -> None:
    """Each process counts what it asks for from 1."""
    kept = replace(spec, writes=True)
    first, texts_of, late = asyncio.Event(), list[Sequence[str]](), asyncio.Event()

    async def embed(collection: str, texts: Sequence[str]) -> list[list[float]]:
        texts_of.append(texts)
        if len(texts_of) == 1:
            first.set()
            await late.wait()
            return hash_embed(["something else"])
        late.set()
        await asyncio.sleep(0.2)
        return hash_embed(texts)

    async def scene() -> None:
        process = KnowledgeProcess([kept], embed=embed)
        try:
            await process.start()
            await process.remember("manuals", Memory("log", "1", "bearing 7 runs hot", time.time()))
            await first.wait()
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            while len(texts_of) < 2:
                await asyncio.sleep(0.01)
            question = Query(("manuals",), texts_of[1][0], 1, hash_embed(texts_of[1])[0])
            while (found := await process.search(question))[0].cosine is None:
                await asyncio.sleep(0.01)
            assert found[0].cosine > 0.99
        finally:
            await process.stop()

    play(scene)


HOSTILE = """
import os, pickle, struct, sys, time
from edgeslm.ipc.pipe import Pipe
from edgeslm.knowledge.service import worker
from edgeslm.knowledge.service.frames import *
trap, flag = {trap!r}, {flag!r}
class Evil:
    def __reduce__(self):
        return os.system, ("touch " + trap,)
if os.path.exists(flag):
    worker.main(sys.argv[1:])
open(flag, "w").close()
pipe = Pipe(int(sys.argv[1]), FROM_COLLECTIONS, TO_COLLECTIONS)
pipe.send(Ready())
number = pipe.receive().number
evil = pickle.dumps(("done", number, [Evil()]))
{act}
time.sleep(600)
"""


@pytest.mark.parametrize(
    "act",
    [
        "pipe._socket.sendall(struct.pack('!I', len(evil)) + evil)",
        "pipe._socket.sendall(struct.pack('!II', len(evil) + 4, len(evil)) + evil)",
        "pipe.send(Computed(number, None))",
        "pipe.send(Remembered(number))",
        "pipe.send(Trouble('another', 'full'))",
        "pipe.send(Reading('another', None))",
        "pipe.send(Embed(1, 'another', ('x',)))",
        "for n in range(2): pipe.send(Embed(n, 'manuals', ('x',)))",
    ],
)
def test_a_hostile_process_gets_nothing_into_the_parent_and_is_replaced(
    spec: CollectionSpec, tmp_path: Path, act: str
) -> None:
    trap, flag = tmp_path / "trap", tmp_path / "was-hostile"
    script = HOSTILE.format(trap=str(trap), flag=str(flag), act=act)

    async def embed(collection: str, texts: Sequence[str]) -> list[list[float]]:
        await asyncio.Event().wait()
        return []

    async def scene() -> None:
        process = KnowledgeProcess([spec], embed=embed, command=(sys.executable, "-P", "-c", script))
        await process.start()
        assert [one.source for one in await process.search(query())] == ["press.md"]
        assert flag.exists() and process.problems == []
        await process.stop()

    play(scene)
    assert not trap.exists()


def test_a_question_that_no_frame_can_carry_fails_alone(spec: CollectionSpec) -> None:
    async def scene() -> None:
        async with running(spec) as process:
            with pytest.raises(KnowledgeError, match="can't be sent to the collections"):
                await process.search(replace(query(), vector=(float("nan"),)))
            assert await process.search(query())

    play(scene)


def test_trouble_is_a_problem_until_it_is_over(spec: CollectionSpec, tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(replace(spec, watch=(tmp_path / "gone",))) as process:
            while not process.problems:
                await asyncio.sleep(0.02)
            (problem,) = process.problems
            assert problem.startswith("The collection manuals: ") and "gone" in problem

    play(scene)


def test_a_problem_is_one_sentence(spec: CollectionSpec, tmp_path: Path) -> None:
    """What a reader says of a file ends with a full stop of its own."""
    folder = tmp_path / "manuals"
    folder.mkdir()
    (folder / "broken.docx").write_bytes(b"no archive")

    async def scene() -> None:
        async with running(replace(spec, watch=(folder,), writes=True)) as process:
            while not process.problems:
                await asyncio.sleep(0.02)
            (problem,) = process.problems
            assert "broken.docx" in problem and problem.endswith(".") and not problem.endswith("..")

    play(scene)

"""The real starter decoder prepared for this machine, and what goes wrong while it is."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from edgeslm.bundle.manifest import Bundle, load_bundle
from edgeslm.engine.calls import Generate, Prompt, Score, Text, Turn
from edgeslm.engine.host.process import EngineCrashed, EngineProcess
from edgeslm.engine.prepack import prepare as module
from edgeslm.engine.prepack.prepare import PrepackOrder, check_room, graph_of
from edgeslm.engine.prepack.prepare import prepare as start_preparing
from edgeslm.engine.prepack.trial import Seconds
from edgeslm.engine.worker.decoder import Decoder
from edgeslm.engine.worker.prepared import (
    CACHE,
    GRAPH,
    INDEX,
    WEIGHTS,
    Index,
    block_digest,
    find_prepared,
    folder_of,
    folder_start,
)
from edgeslm.engine.worker.prepared import SCORE as SCORE_GRAPH
from edgeslm.errors import BundleError
from edgeslm.hardware.board import usable_cores
from edgeslm.ipc.job import PYTHON
from tests.integration.engine.host.test_process import play, scripted
from tests.support.apps import WAIT_S
from tests.support.engine.fake_prepack import FakePrepack
from tests.support.engine.fake_prepack import fake_prepack as fake_prepack
from tests.support.engine.golden_bundles import with_golden
from tests.support.nodes import parent_of, write_bundle

PROMPT = Prompt((Turn("user", (Text("How far is it from Denver to Aspen?"),)),))
SCORE = Score(PROMPT, ("distance", "person", "description", "abbreviation"))
BRANCHED = Score(PROMPT, ("a place", "a person", "a distance", "a date"))


def prepare(bundle: Bundle, graph: str, state_dir: Path, **how: Any) -> Index:
    return asyncio.run(start_preparing(bundle, graph, state_dir, **how))


def make(bundle: Bundle, cache: Path, keep: tuple[str, ...] | None = None) -> Index:
    """In this process."""
    where: dict[str, Any] = {"bundle": bundle.path, "digest": bundle.digest, "cache": cache}
    order = PrepackOrder(graph="model.onnx", keep=keep, **where)
    return module.make(bundle, order, lambda step: None)


@pytest.fixture(scope="module")
def bundle(starter: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The starter decoder with golden answers of this machine."""
    return with_golden(starter / "smollm2-135m-int4", tmp_path_factory.mktemp("golden") / "small")


@pytest.fixture(scope="module")
def made(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Index]:
    """The cache and what was said."""
    state_dir = tmp_path_factory.mktemp("state")
    return state_dir / CACHE, prepare(bundle, "model.onnx", state_dir)


@pytest.fixture
def cache(made: tuple[Path, Index], tmp_path: Path) -> Path:
    """A copy that a test may spoil; its files are links, so they are replaced and never written to."""
    return Path(shutil.copytree(made[0], tmp_path / CACHE, copy_function=lambda a, b: Path(b).hardlink_to(a)))


@pytest.fixture(scope="module")
def prepared_decoder(bundle: Bundle, made: tuple[Path, Index]) -> Iterator[Decoder]:
    decoder = Decoder(bundle.path, 2, prepared=find_prepared(bundle, "model.onnx", made[0]))
    yield decoder
    decoder.close()


# --- the real thing ----------------------------------------------------------------------------------


def test_it_computes_what_the_bundle_computes(prepared_decoder: Decoder, decoder: Decoder) -> None:
    assert (prepared_decoder.prepared, decoder.prepared) == (True, False)
    write = Generate(PROMPT, 12)
    assert prepared_decoder.generate(write).text == decoder.generate(write).text


def test_labels_in_one_pass_share_what_was_prepared(
    prepared_decoder: Decoder, decoder: Decoder, bundle: Bundle, made: tuple[Path, Index]
) -> None:
    found, wanted = prepared_decoder.score(BRANCHED), decoder.score(BRANCHED)
    # Another order of quantized products: how far that goes differs from processor to processor.
    assert found.probabilities == pytest.approx(wanted.probabilities, abs=0.1)
    assert prepared_decoder.scorer is not None
    assert decoder.scorer is None  # it would hold the weights a second time
    maps = Path("/proc/self/maps").read_text().splitlines()
    weights = str(folder_of(bundle, "model.onnx", made[0]) / WEIGHTS)
    assert len([line for line in maps if line.endswith(weights)]) > 1  # twice mapped, once in memory


def test_a_scoring_graph_that_was_taken_away_is_noticed(bundle: Bundle, cache: Path) -> None:
    (folder_of(bundle, "model.onnx", cache) / SCORE_GRAPH).unlink()
    assert find_prepared(bundle, "model.onnx", cache) is None


def test_it_takes_less_memory_of_its_own(bundle: Bundle, made: tuple[Path, Index]) -> None:
    script = """if True:
        import sys
        from pathlib import Path
        from edgeslm.bundle.manifest import load_bundle
        from edgeslm.engine.worker.decoder import Decoder
        from edgeslm.engine.worker.prepared import find_prepared
        bundle = load_bundle(Path(sys.argv[1]))
        prepared = find_prepared(bundle, "model.onnx", Path(sys.argv[2])) if sys.argv[2] else None
        decoder = Decoder(bundle.path, 1, prepared=prepared)
        lines = open("/proc/self/status").read().splitlines()
        print(next(line.split()[1] for line in lines if line.startswith("RssAnon")))
        decoder.close()
    """

    def anonymous(cache: str) -> int:
        command = [sys.executable, "-c", script, str(bundle.path), cache]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert anonymous(str(made[0])) < 0.5 * anonymous("")


def test_what_is_said_is_what_is_kept(bundle: Bundle, made: tuple[Path, Index]) -> None:
    cache, index = made
    folder = folder_of(bundle, "model.onnx", cache)
    assert Index.model_validate_json((folder / INDEX).read_bytes()) == index
    assert {entry.name for entry in folder.iterdir()} == {GRAPH, WEIGHTS, SCORE_GRAPH, INDEX}
    assert {entry.name for entry in cache.iterdir()} == {"lock", folder.name}
    assert 1 <= index.threads <= index.cores
    assert len(index.divergences) == 2
    assert all(abs(apart) < 0.001 for apart in index.divergences)
    assert all(seconds > 0 for seconds in index.seconds.values())


def test_it_is_made_anew_beside_an_engine_that_runs(bundle: Bundle, cache: Path) -> None:
    (cache / ".stage").mkdir()  # of one that was killed
    decoder = Decoder(bundle.path, 1, prepared=find_prepared(bundle, "model.onnx", cache))
    before = decoder.score(SCORE).probabilities
    prepare(bundle, "model.onnx", cache.parent)
    assert len([entry for entry in cache.iterdir() if entry.is_dir()]) == 1
    decoder.forget()
    assert decoder.score(SCORE).probabilities == before
    decoder.close()


def test_a_worker_takes_it(bundle: Bundle, made: tuple[Path, Index]) -> None:
    async def scene() -> None:
        process = EngineProcess(bundle.path, cache=made[0])
        info = await process.start()
        await process.stop()
        assert info.prepared
        assert info.threads == made[1].threads

    play(scene)


def test_threads_that_are_named_are_taken(prepared_decoder: Decoder) -> None:
    assert prepared_decoder.threads == 2


# --- what was prepared and can't be used -------------------------------------------------------------


def test_what_is_damaged_is_not_loaded(bundle: Bundle, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    spoil(folder_of(bundle, "model.onnx", cache) / GRAPH)
    decoder = Decoder(bundle.path, 1, prepared=find_prepared(bundle, "model.onnx", cache))
    assert not decoder.prepared
    assert len(decoder.score(SCORE).probabilities) == 4
    assert "is damaged" in caplog.text
    decoder.close()


def test_what_the_runtime_refuses_is_not_loaded(
    bundle: Bundle, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = folder_of(bundle, "model.onnx", cache)
    index = json.loads((folder / INDEX).read_text())
    (folder / GRAPH).unlink()
    (folder / GRAPH).write_bytes(b"no graph")
    index["files"][0] |= {"bytes": 8, "sha256": block_digest(folder / GRAPH)}
    (folder / INDEX).unlink()
    (folder / INDEX).write_text(json.dumps(index))
    assert find_prepared(bundle, "model.onnx", cache) is not None
    decoder = Decoder(bundle.path, 1, prepared=find_prepared(bundle, "model.onnx", cache))
    assert not decoder.prepared
    assert "can't be loaded" in caplog.text
    decoder.close()


@pytest.mark.parametrize(
    ("name", "fault"),
    [("tokenizer.json", "its SHA-256 differs"), ("genai_config.json", "not JSON that is taken")],
)
def test_a_damaged_bundle_is_refused_though_it_was_prepared(
    bundle: Bundle, made: tuple[Path, Index], tmp_path: Path, name: str, fault: str
) -> None:
    copy = Path(shutil.copytree(bundle.path, tmp_path / "copy"))
    spoil(copy / name)
    with pytest.raises(BundleError, match=f"{name}: {fault}"):
        Decoder(copy, 1, prepared=find_prepared(load_bundle(copy), "model.onnx", made[0]))


def test_weights_that_are_not_read_are_not_verified(
    bundle: Bundle, made: tuple[Path, Index], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(bundle.path, tmp_path / "copy"))
    spoil(copy / "model.onnx.data")
    decoder = Decoder(copy, 1, prepared=find_prepared(load_bundle(copy), "model.onnx", made[0]))
    assert decoder.prepared
    decoder.close()
    with pytest.raises(BundleError, match=r"model\.onnx\.data: its SHA-256 differs"):
        Decoder(copy, 1)


def test_an_engine_that_dies_of_it_is_started_without_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        script = """
            if sys.argv[7] != "-":
                os.kill(os.getpid(), signal.SIGILL)
            ready()
            pipe.receive()
        """
        process = scripted(write_bundle(tmp_path / "small", "encoder"), script, cache=tmp_path / CACHE)
        with pytest.raises(EngineCrashed):
            await process.start()
        await process.start()
        await process.stop()
        assert "is restarted without prepared weights" in caplog.text

    play(scene)


def spoil(file: Path) -> None:
    """Changes a byte of it, and not of what it is a hard link to."""
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.unlink()
    file.write_bytes(content)


# --- making it fails ---------------------------------------------------------------------------------


def test_what_is_no_decoder_needs_no_preparing(tmp_path: Path, bundle: Bundle) -> None:
    assert graph_of(bundle, adapters=False) == "model.onnx"
    assert graph_of(bundle, adapters=True) == "model_lora.onnx"
    with pytest.raises(BundleError, match="it has no decoder's graph; only decoders can be prepared"):
        graph_of(load_bundle(write_bundle(tmp_path / "vectors", "encoder")), adapters=False)
    with pytest.raises(BundleError, match="it has no graph that takes adapters"):
        graph_of(load_bundle(write_bundle(tmp_path / "plain")), adapters=True)


def test_a_full_disk_is_told_before(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"\d+ MB are needed to prepare .*, 5 MB are free"):
        check_room(bundle, tmp_path, free_bytes=5_000_000)


def test_a_folder_that_can_not_be_made_is_named(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / CACHE).write_text("")
    with pytest.raises(BundleError, match="prepared: File exists"):
        prepare(bundle, "model.onnx", tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone could leave what the node can't write")
def test_root_makes_no_state_folder(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="state: missing; start the node once"):
        prepare(bundle, "model.onnx", tmp_path / "state")
    assert not (tmp_path / "state").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_root_makes_it_as_the_user_of_the_state_folder(bundle: Bundle, tmp_path: Path) -> None:
    """What that user put there leads root nowhere."""
    told = tmp_path / "told"
    told.touch()
    told.chmod(0o666)
    state_dir = tmp_path / "state"
    state_dir.mkdir()
    os.chown(state_dir, 12345, 12346)
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(folder.stat().st_mode | 0o011)
    script = f"echo $(id -u) $(id -g) $(id -G) > {told}"
    with pytest.raises(BundleError, match="ended unexpectedly"):
        prepare(bundle, "model.onnx", state_dir, command=("/bin/sh", "-c", script))
    assert told.read_text() == "12345 12346 12346\n"


def test_a_lock_that_leads_elsewhere_is_not_followed(bundle: Bundle, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("dear to root")
    (tmp_path / CACHE).mkdir()
    (tmp_path / CACHE / "lock").symlink_to(victim)
    with pytest.raises(BundleError, match="lock: Too many levels of symbolic links"):
        prepare(bundle, "model.onnx", tmp_path)
    assert victim.read_text() == "dear to root"


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("""print('{"answer": {"error": "it is damaged"}}')""", "^it is damaged$"),
        ("raise SystemExit('Illegal')", r"ended unexpectedly \(exit status 1\) Illegal"),
        ("import os; os.kill(os.getpid(), 9)", r"ended unexpectedly \(signal 9\)"),
        ("pass", r"ended unexpectedly \(exit status 0\)"),
    ],
)
def test_a_child_that_fails_says_why(bundle: Bundle, tmp_path: Path, script: str, sentence: str) -> None:
    with pytest.raises(BundleError, match=sentence):
        prepare(bundle, "model.onnx", tmp_path, command=(sys.executable, "-c", script))


def test_a_command_that_is_not_there_is_told(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="can't be prepared: No such file or directory"):
        prepare(bundle, "model.onnx", tmp_path, command=("/no/such/python",))


def test_a_damaged_bundle_is_refused_and_nothing_is_left(bundle: Bundle, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle.path, tmp_path / "copy"))
    spoil(copy / "model.onnx")
    with pytest.raises(BundleError, match=r"model\.onnx: its SHA-256 differs"):
        prepare(load_bundle(copy), "model.onnx", tmp_path)
    assert [entry.name for entry in (tmp_path / CACHE).iterdir()] == ["lock"]


def test_a_bundle_that_is_swapped_meanwhile_is_refused(
    bundle: Bundle, tmp_path: Path, fake_prepack: FakePrepack
) -> None:
    copy = Path(shutil.copytree(bundle.path, tmp_path / "copy"))
    fake_prepack.write = lambda graph, folder: spoil(graph)
    with pytest.raises(BundleError, match=r"model\.onnx: its SHA-256 differs"):
        make(load_bundle(copy), tmp_path / CACHE)


@pytest.mark.parametrize("trait", ["computes", "answers"])
def test_what_fails_its_trial_is_not_kept(
    trait: str, bundle: Bundle, tmp_path: Path, fake_prepack: FakePrepack
) -> None:
    fake_prepack.fails = trait
    with pytest.raises(BundleError, match="it computes other numbers"):
        make(bundle, tmp_path / CACHE)
    assert [entry.name for entry in (tmp_path / CACHE).iterdir()] == ["lock"]


@pytest.mark.parametrize("odd", ["nothing", "weights", "numbers"])
def test_a_scoring_graph_that_gets_other_weights_or_computes_otherwise_is_left_out(
    odd: str, bundle: Bundle, tmp_path: Path, fake_prepack: FakePrepack
) -> None:
    if odd == "weights":
        fake_prepack.write = lambda graph, folder: (folder / WEIGHTS).write_text(graph.name)
    fake_prepack.scores = odd != "numbers"
    index = make(bundle, tmp_path / CACHE)
    kept = {SCORE_GRAPH} if odd == "nothing" else set()
    assert {file.path for file in index.files} == {GRAPH, WEIGHTS} | kept


def test_the_most_threads_are_taken_where_none_could_be_measured(
    bundle: Bundle, tmp_path: Path, fake_prepack: FakePrepack
) -> None:
    more = usable_cores() + 1
    fake_prepack.seconds = {1: Seconds(0.8, 1.0), more: Seconds(0.4, 0.5)}
    index = make(bundle, tmp_path / CACHE)
    assert (index.threads, index.seconds, index.divergences) == (more, {1: 1.0, more: 0.5}, (0.001, 0.004))
    assert index.prompt_seconds == {1: 0.8, more: 0.4}
    fake_prepack.seconds = {}
    index = make(bundle, tmp_path / CACHE)
    assert (index.threads, index.seconds) == (usable_cores(), {})


# --- where nobody asked ------------------------------------------------------------------------------


def test_what_nobody_asked_for_takes_a_quarter_of_the_disk_and_no_memory_that_is_short(
    bundle: Bundle, tmp_path: Path
) -> None:
    weights = sum(file.bytes for file in bundle.manifest.weights)
    with pytest.raises(
        BundleError, match=r"\d+ MB are free, a quarter of which may be used in the background"
    ):
        check_room(bundle, tmp_path, free_bytes=23 * weights, background=True)
    check_room(bundle, tmp_path, free_bytes=23 * weights)
    free: dict[str, Any] = {"free_bytes": 25 * weights}
    with pytest.raises(BundleError, match=r"\d+ MB of memory are needed to prepare .* in the background"):
        check_room(bundle, tmp_path, **free, available_bytes=3 * weights, background=True)
    check_room(bundle, tmp_path, **free, available_bytes=3 * weights)
    check_room(bundle, tmp_path, **free, available_bytes=5 * weights, background=True)
    check_room(bundle, tmp_path, **free, available_bytes=None, background=True)


def test_what_another_node_made_meanwhile_is_not_made_again_unasked(
    bundle: Bundle, tmp_path: Path, fake_prepack: FakePrepack
) -> None:
    made = make(bundle, tmp_path)
    fake_prepack.fails = "computes"
    assert make(bundle, tmp_path, keep=()) == made
    with pytest.raises(BundleError, match="other numbers"):
        make(bundle, tmp_path)


def test_what_others_have_not_used_for_a_month_is_removed_where_nobody_asked(
    bundle: Bundle, tmp_path: Path, fake_prepack: FakePrepack
) -> None:
    own, other, lately = (f"sha256:{digit * 64}" for digit in "abc")
    for digest in (own, other, lately):
        folder = tmp_path / f"{folder_start(digest)}model.onnx"
        folder.mkdir()
        (folder / WEIGHTS).write_text("large")
        if digest != lately:
            os.utime(folder, (0, time.time() - 31 * 24 * 3600))
    make(bundle, tmp_path)
    assert len(list(tmp_path.glob("*-model.onnx"))) == 4
    make(bundle, tmp_path, keep=(bundle.digest, own))
    left = {folder.name[:4] for folder in tmp_path.glob("*-model.onnx")}
    assert left == {bundle.digest.removeprefix("sha256:")[:4], "aaaa", "cccc"}


def test_a_bundle_that_is_used_counts_as_used(bundle: Bundle, cache: Path) -> None:
    folder = folder_of(bundle, "model.onnx", cache)
    os.utime(folder, (0, 0))
    assert find_prepared(bundle, "model.onnx", cache) is not None
    assert time.time() - folder.stat().st_mtime < 3600


def told(tmp_path: Path, script: str) -> tuple[Sequence[str], Path]:
    """A command that runs ``script`` in the child's place, and the file that it knows as ``told``."""
    file = tmp_path / "told"
    head = f"import json, os, pathlib, sys, time\ntold = pathlib.Path({str(file)!r})\n"
    return (sys.executable, "-c", head + script), file


def test_the_child_is_told_who_asked(bundle: Bundle, tmp_path: Path) -> None:
    command, file = told(tmp_path, "told.write_text(sys.stdin.readline())")
    for how, keep in (({}, None), ({"background": True, "keep": ["sha256:a"]}, ["sha256:a"])):
        with pytest.raises(BundleError, match="ended unexpectedly"):
            prepare(bundle, "model.onnx", tmp_path, command=command, **how)
        order = json.loads(file.read_text())["order"]
        assert (order["graph"], order["keep"]) == ("model.onnx", keep)


def test_it_ends_at_once_when_it_is_cancelled(bundle: Bundle, tmp_path: Path) -> None:
    command, file = told(tmp_path, "told.write_text(str(os.getpid())); time.sleep(600)")

    async def scene() -> None:
        preparing = asyncio.create_task(start_preparing(bundle, "model.onnx", tmp_path, command=command))
        while not file.exists() or not file.read_text():
            await asyncio.sleep(0.01)
        preparing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await preparing
        assert parent_of(int(file.read_text())) is None

    play(scene)


def test_the_child_ends_with_its_parent(bundle: Bundle, tmp_path: Path) -> None:
    """Whatever it is doing: here it waits for the lock."""
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        order = PrepackOrder(
            bundle=bundle.path,
            digest=bundle.digest,
            graph="model.onnx",
            cache=tmp_path,
            keep=(),
        )
        command = (*PYTHON, module.MODULE)
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        assert child.stdin is not None
        told = {"order": order.model_dump(mode="json"), "cpu_s": None, "memory_bytes": None}
        child.stdin.write(json.dumps(told).encode() + b"\n")
        child.stdin.flush()
        while os.sched_getscheduler(child.pid) != os.SCHED_IDLE:  # it has read its order, and gives way
            assert child.poll() is None
            time.sleep(0.01)
        child.send_signal(signal.SIGTERM)  # of systemd, to the whole group: the parent says when
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.2)
        assert os.getpriority(os.PRIO_PROCESS, child.pid) == 19
        child.stdin.close()
        assert child.wait(WAIT_S) == 0  # its turn comes only while nobody else computes


# --- by itself ---------------------------------------------------------------------------------------


def test_the_worker_is_told_where_prepared_bundles_are(tmp_path: Path) -> None:
    async def scene() -> None:
        script = """
            open(sys.argv[2] + "/told", "w").write(repr(sys.argv[7:9]))
            ready()
            pipe.receive()
        """
        folder = write_bundle(tmp_path / "small", "encoder")
        process = scripted(folder, script, cache=tmp_path / CACHE)
        await process.start()
        await process.stop()
        assert (folder / "told").read_text() == repr([str(tmp_path / CACHE), "-"])

    play(scene)

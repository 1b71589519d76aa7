"""A bundle prepared for this machine: the real starter decoder, and what goes wrong."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeslm.bundle import Bundle, load_bundle
from edgeslm.engine import prepare as module
from edgeslm.engine.calls import Generate, Prompt, Score, Text, Turn
from edgeslm.engine.decoder import Decoder
from edgeslm.engine.prepare import CACHE, Index, fastest, find_prepared, machine_key, prepare
from edgeslm.engine.process import EngineProcess
from edgeslm.errors import BundleError
from tests.engine.test_process import play, scripted
from tests.nodes import write_bundle

GRAPH = "model.onnx"
PROMPT = Prompt((Turn("user", (Text("How far is it from Denver to Aspen?"),)),))


@pytest.fixture(scope="module")
def bundle(starter: Path) -> Bundle:
    return load_bundle(starter / "smollm2-135m-int4")


@pytest.fixture(scope="module")
def made(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Index]:
    cache = tmp_path_factory.mktemp("state") / CACHE
    return cache, prepare(bundle, GRAPH, cache)


@pytest.fixture
def cache(made: tuple[Path, Index], tmp_path: Path) -> Path:
    """A copy that a test may spoil; its files are linked, so they are replaced and never written to."""
    return Path(shutil.copytree(made[0], tmp_path / CACHE, copy_function=lambda a, b: Path(b).hardlink_to(a)))


def folder_in(cache: Path) -> Path:
    (folder,) = (entry for entry in cache.iterdir() if entry.is_dir())
    return folder


def replace_index(cache: Path, **changes: Any) -> None:
    file = folder_in(cache) / "prepared.json"
    content = json.loads(file.read_text())
    file.unlink()
    file.write_text(json.dumps({**content, **changes}))


# --- the real thing ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared_decoder(bundle: Bundle, made: tuple[Path, Index]) -> Iterator[Decoder]:
    decoder = Decoder(bundle.path, 2, cache=made[0])
    yield decoder
    decoder.close()


def test_it_computes_what_the_bundle_computes(prepared_decoder: Decoder, decoder: Decoder) -> None:
    assert (prepared_decoder.prepared, decoder.prepared) == (True, False)
    score = Score(PROMPT, ("distance", "person", "description", "abbreviation"))
    found, wanted = prepared_decoder.score(score), decoder.score(score)
    assert found.probabilities == pytest.approx(wanted.probabilities, abs=1e-6)
    write = Generate(PROMPT, 12)
    assert prepared_decoder.generate(write).text == decoder.generate(write).text


def test_it_takes_less_memory_of_its_own(bundle: Bundle, made: tuple[Path, Index]) -> None:
    script = """if True:
        import sys
        from pathlib import Path
        from edgeslm.engine.decoder import Decoder
        decoder = Decoder(Path(sys.argv[1]), 1, cache=Path(sys.argv[2]) if sys.argv[2] else None)
        lines = open("/proc/self/status").read().splitlines()
        print(next(line.split()[1] for line in lines if line.startswith("RssAnon")))
        decoder.close()
    """

    def anonymous(cache: str) -> int:
        command = [sys.executable, "-c", script, str(bundle.path), cache]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert anonymous(str(made[0])) < 0.5 * anonymous("")


def test_what_was_measured_is_told(made: tuple[Path, Index]) -> None:
    index = made[1]
    assert min(index.seconds) == 1
    assert all(seconds > 0 for seconds in index.seconds.values())
    assert index.threads in (0, *index.seconds)
    told = index.render()
    assert told.startswith("prepared: ")
    assert "1 threads: " in told
    assert ("busy" in told) is (index.threads == 0)


def test_nothing_but_what_was_made_is_left(made: tuple[Path, Index]) -> None:
    assert sorted(entry.name for entry in made[0].iterdir() if entry.is_file()) == ["lock"]
    files = {file.path for file in made[1].files}
    assert {entry.name for entry in folder_in(made[0]).iterdir()} == {*files, "prepared.json"}


def test_it_is_made_anew_beside_an_engine_that_runs(
    bundle: Bundle, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cache / f".{folder_in(cache).name}.1").mkdir()  # of one that was killed
    decoder = Decoder(bundle.path, 1, cache=cache)
    before = decoder.score(Score(PROMPT, ("a", "b"))).probabilities
    prepare(bundle, GRAPH, cache)
    assert len([entry for entry in cache.iterdir() if entry.is_dir()]) == 1
    decoder.forget()
    assert decoder.score(Score(PROMPT, ("a", "b"))).probabilities == before
    decoder.close()


def test_a_worker_takes_it(bundle: Bundle, made: tuple[Path, Index]) -> None:
    async def scene() -> None:
        process = EngineProcess(bundle.path, cache=made[0])
        info = await process.start()
        await process.stop()
        assert info.prepared
        assert info.threads >= 1

    play(scene)


def test_the_threads_that_were_fastest_are_taken_where_none_are_named(bundle: Bundle, cache: Path) -> None:
    replace_index(cache, threads=1)
    for asked, taken in ((0, 1), (2, 2)):
        decoder = Decoder(bundle.path, asked, cache=cache)
        assert decoder.threads == taken
        decoder.close()


# --- what can't be used ------------------------------------------------------------------------------


def test_nothing_is_found_where_nothing_was_made(bundle: Bundle, tmp_path: Path) -> None:
    assert find_prepared(bundle, GRAPH, tmp_path / "none") is None


def test_another_graph_is_none_of_it(bundle: Bundle, cache: Path) -> None:
    assert find_prepared(bundle, GRAPH, cache) is not None
    assert find_prepared(bundle, "model_lora.onnx", cache) is None


def test_another_processor_or_version_is_told(
    bundle: Bundle, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    replace_index(cache, machine="sha256:0")
    with caplog.at_level(logging.INFO):
        assert find_prepared(bundle, GRAPH, cache) is None
    assert "is for another processor or version; edgeslm prepare makes it anew" in caplog.text


def test_damage_is_noticed_and_the_bundle_is_loaded(
    bundle: Bundle, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = folder_in(cache) / "model.onnx"
    content = bytearray(file.read_bytes())
    file.unlink()
    content[-1] ^= 1
    file.write_bytes(content)
    decoder = Decoder(bundle.path, 1, cache=cache)
    assert not decoder.prepared
    assert decoder.score(Score(PROMPT, ("a", "b"))).probabilities
    assert "model.onnx is damaged" in caplog.text
    decoder.close()


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff", b'{"format": 2}'])
def test_an_index_that_is_none_is_told(
    bundle: Bundle, cache: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    file = folder_in(cache) / "prepared.json"
    file.unlink()
    file.write_bytes(content)
    assert find_prepared(bundle, GRAPH, cache) is None
    assert "can't be used" in caplog.text


def test_what_the_runtime_refuses_is_not_the_end(
    bundle: Bundle, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "file_digest", lambda file: pytest.fail("not reached"))
    replace_index(cache, files=[])
    graph = folder_in(cache) / "model.onnx"
    graph.unlink()
    graph.write_bytes(b"no graph")
    monkeypatch.undo()
    decoder = Decoder(bundle.path, 1, cache=cache)
    assert not decoder.prepared
    assert "can't be loaded" in caplog.text
    decoder.close()


# --- making it fails ---------------------------------------------------------------------------------


def test_a_full_disk_is_told_before(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=5_000_000))
    with pytest.raises(BundleError, match=r"\d+ MB are needed to prepare .*, 5 MB are free"):
        prepare(bundle, GRAPH, tmp_path / CACHE)


def test_a_folder_that_can_not_be_made_is_named(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="file/prepared: Not a directory"):
        prepare(bundle, GRAPH, tmp_path / "file" / CACHE)


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("print('it is damaged'); raise SystemExit(1)", "^it is damaged$"),
        ("raise SystemExit('Illegal')", "can't be prepared: Illegal"),
        ("import os; os.kill(os.getpid(), 9)", "can't be prepared: its process was ended by signal 9"),
    ],
)
def test_a_child_that_fails_says_why(bundle: Bundle, tmp_path: Path, script: str, sentence: str) -> None:
    with pytest.raises(BundleError, match=sentence):
        prepare(bundle, GRAPH, tmp_path / CACHE, command=(sys.executable, "-c", script))


def test_a_damaged_bundle_is_refused_and_nothing_is_left(starter: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(starter / "smollm2-135m-int4", tmp_path / "copy"))
    with (folder / "model.onnx").open("r+b") as file:
        file.seek(100)
        file.write(b"\0\1\2")
    with pytest.raises(BundleError, match=r"model\.onnx: its SHA-256 differs"):
        prepare(load_bundle(folder), GRAPH, tmp_path / CACHE)
    assert [entry.name for entry in (tmp_path / CACHE).iterdir()] == ["lock"]


def test_other_numbers_are_not_kept(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    answers = iter([np.ones(4), np.array([1.0, 1.0, 1.1, 1.0])])
    monkeypatch.setattr(module, "_write", lambda graph, stage: None)
    monkeypatch.setattr(module, "_logits", lambda bundle, graph: next(answers))
    with pytest.raises(BundleError, match=r"computes other numbers \(by 10\.0%\), so it is not used"):
        module.make(bundle, GRAPH, tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- by itself ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "threads"),
    [
        ({1: 1.0}, 1),
        ({1: 1.0, 2: 0.6}, 2),
        ({1: 1.0, 2: 0.96}, 1),
        ({1: 1.0, 2: 0.6, 4: 0.59}, 2),
        ({1: 1.0, 2: 1.2, 4: 0.5}, 4),
        ({4: 0.5, 1: 1.0, 2: 0.6}, 4),
    ],
)
def test_more_threads_have_to_be_worth_it(seconds: dict[int, float], threads: int) -> None:
    assert fastest(seconds) == threads


def test_the_key_is_that_of_processor_and_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "proc" / "cpuinfo"
    file.parent.mkdir()

    def key(text: str) -> str:
        file.write_text(text)
        return machine_key(tmp_path)

    one = key("processor\t: 0\nmodel name\t: A\nflags\t\t: avx2 fma\ncpu MHz\t\t: 2000.0\n")
    assert one == key(
        "processor\t: 1\nmodel name\t: A\ncpu MHz\t\t: 800.1\nflags\t\t: avx2 fma\n\n"
        "processor\t: 2\nmodel name\t: A\nflags\t\t: avx2 fma\n"
    )
    assert one != key("model name\t: A\nflags\t\t: avx2\n")
    arm = key("CPU implementer\t: 0x41\nCPU part\t: 0xd0b\nFeatures\t: asimd asimddp\n")
    assert arm not in (one, key("CPU implementer\t: 0x41\nCPU part\t: 0xd08\nFeatures\t: asimd\n"))
    monkeypatch.setattr(module, "version", lambda name: "0.0")
    assert key("model name\t: A\nflags\t\t: avx2 fma\n") != one
    assert machine_key(tmp_path / "nowhere") != one


def test_the_worker_is_told_where_prepared_bundles_are(tmp_path: Path) -> None:
    async def scene() -> None:
        script = """
            open(sys.argv[2] + "/told", "w").write(repr(sys.argv[5:7]))
            ready()
            pipe.recv()
        """
        folder = write_bundle(tmp_path / "small", "encoder")
        process = scripted(folder, script, cache=tmp_path / CACHE)
        await process.start()
        await process.stop()
        assert (folder / "told").read_text() == repr([str(tmp_path / CACHE), "-"])

    play(scene)

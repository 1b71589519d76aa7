"""What was prepared of a bundle: when it is found, and when it isn't believed. The files are made up."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgeslm.bundle.manifest import Bundle, load_bundle
from edgeslm.engine.worker.prepared import (
    CACHE,
    GRAPH,
    INDEX,
    WEIGHTS,
    Index,
    Prepared,
    block_digest,
    find_prepared,
    folder_of,
    machine_key,
)
from edgeslm.hardware.board import usable_cores
from tests.support.missing import FakePackages
from tests.support.missing import packages as packages
from tests.support.nodes import write_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return load_bundle(write_bundle(tmp_path / "small"))


@pytest.fixture
def folder(bundle: Bundle, tmp_path: Path) -> Path:
    """Of the bundle's graph, sound."""
    folder = folder_of(bundle, "model.onnx", tmp_path / CACHE)
    folder.mkdir(parents=True)
    for name in (GRAPH, WEIGHTS):
        (folder / name).write_bytes(name.encode())
    write_index(folder, bundle)
    return folder


def digest_of_blocks(*blocks: bytes) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(block).digest() for block in blocks)).hexdigest()


def write_index(folder: Path, of: Bundle, **changes: Any) -> None:
    entries = [
        {"path": name, "bytes": len(name), "sha256": digest_of_blocks(name.encode())}
        for name in (GRAPH, WEIGHTS)
    ]
    content = {
        "format": 2,
        "bundle": of.digest,
        "graph": "model.onnx",
        "machine": machine_key(),
        "cores": usable_cores(),
        "threads": 1,
        "seconds": {"1": 0.4},
        "prompt_seconds": {"1": 0.3},
        "files": entries,
    }
    (folder / INDEX).write_text(json.dumps({**content, **changes}))


def find(bundle: Bundle, folder: Path) -> Prepared | None:
    return find_prepared(bundle, "model.onnx", folder.parent)


def test_what_is_whole_is_found(bundle: Bundle, folder: Path) -> None:
    found = find(bundle, folder)
    assert found == Prepared(folder / GRAPH, 1, prompt_seconds={1: 0.3})
    assert (bundle.path / found.seen_from(bundle.path)).samefile(folder / GRAPH)


def test_nothing_is_found_where_nothing_was_made(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert find_prepared(bundle, "model.onnx", tmp_path / "none") is None
    assert caplog.text == ""


def test_each_graph_is_one_of_its_own(bundle: Bundle, folder: Path) -> None:
    assert find_prepared(bundle, "model_lora.onnx", folder.parent) is None
    assert find_prepared(bundle, "more/model.onnx", folder.parent) is None


def test_what_an_earlier_version_prepared_lacks_the_prompts_seconds(bundle: Bundle, folder: Path) -> None:
    write_index(folder, bundle)
    index = json.loads((folder / INDEX).read_text())
    del index["prompt_seconds"]
    (folder / INDEX).write_text(json.dumps(index))
    assert find(bundle, folder) == Prepared(folder / GRAPH, 1)


def test_threads_of_another_number_of_cores_are_not_taken(bundle: Bundle, folder: Path) -> None:
    write_index(folder, bundle, cores=usable_cores() + 1)
    assert find(bundle, folder) == Prepared(folder / GRAPH, 0)


def test_another_processor_or_version_is_told(
    bundle: Bundle, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_index(folder, bundle, machine="sha256:0")
    with caplog.at_level(logging.INFO):
        assert find(bundle, folder) is None
    assert "is for another processor or version; edgeslm prepare recreates it" in caplog.text


@pytest.mark.parametrize(
    "changes",
    [{"bundle": "sha256:0"}, {"graph": "other.onnx"}, {"files": []}],
    ids=["bundle", "graph", "files"],
)
def test_what_is_not_of_the_bundle_is_damage(
    bundle: Bundle, folder: Path, changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    write_index(folder, bundle, **changes)
    assert find(bundle, folder) is None
    assert "is damaged; edgeslm prepare recreates it" in caplog.text


@pytest.mark.parametrize("name", [GRAPH, WEIGHTS])
def test_a_changed_byte_is_damage(
    bundle: Bundle, folder: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / name).write_bytes(name.upper().encode())
    assert find(bundle, folder) is None
    assert "is damaged" in caplog.text


@given(content=st.binary(max_size=100))
@example(content=b"")
@example(content=b"x" * 64)
@example(content=b"x" * 65)
def test_blocks_are_hashed_each_and_then_together(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    blocks = [content[start : start + 16] for start in range(0, len(content), 16)]
    assert block_digest(file, 16) == digest_of_blocks(*blocks)


@pytest.mark.parametrize("name", [GRAPH, WEIGHTS, INDEX])
def test_a_missing_file_is_nothing(bundle: Bundle, folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert find(bundle, folder) is None


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff", b'{"format": 1}'])
def test_an_index_that_is_none_is_told(
    bundle: Bundle, folder: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / INDEX).write_bytes(content)
    assert find(bundle, folder) is None
    assert "can't be used (ValidationError)" in caplog.text


@pytest.mark.parametrize("threads", [0, -3])
def test_no_threads_are_none(bundle: Bundle, folder: Path, threads: int) -> None:
    write_index(folder, bundle, threads=threads)
    assert find(bundle, folder) is None


def _open(file: Path) -> None:
    file.chmod(0o666)


def _link(file: Path) -> None:
    file.rename(file.with_name("elsewhere"))
    file.symlink_to(file.with_name("elsewhere"))


def _pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize("spoil", [_open, _link, _pipe], ids=["mode", "link", "pipe"])
@pytest.mark.parametrize("name", [GRAPH, WEIGHTS, INDEX])
def test_what_others_could_have_written_is_not_believed(
    bundle: Bundle, folder: Path, name: str, spoil: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    spoil(folder / name)
    assert find(bundle, folder) is None
    assert "can't be used (PermissionError)" in caplog.text


def test_a_folder_that_others_can_write_is_not_believed(bundle: Bundle, folder: Path) -> None:
    folder.chmod(0o775)
    assert find(bundle, folder) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_another_users_files_are_not_believed(bundle: Bundle, folder: Path) -> None:
    os.chown(folder / WEIGHTS, 12345, 12345)
    assert find(bundle, folder) is None


def test_the_key_is_that_of_processor_and_libraries(tmp_path: Path, packages: FakePackages) -> None:
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
    packages.versions = {"onnxruntime": "0.0", "onnxruntime-genai": "0.0"}
    assert key("model name\t: A\nflags\t\t: avx2 fma\n") != one
    assert machine_key(tmp_path / "nowhere") != one


def test_what_was_measured_is_told() -> None:
    index = Index(bundle="b", graph="g", machine="m", cores=4, threads=2, seconds={1: 0.4, 2: 0.2}, files=())
    assert index.render().splitlines() == [
        "0 MB for this processor",
        "  1 thread: 400 ms for 128 prompt tokens and 16 new ones",
        "  2 threads: 200 ms for 128 prompt tokens and 16 new ones  used with threads: auto",
        "  no self-test: the bundle has no golden answers; export it again to add them",
    ]
    tested = index.model_copy(update={"divergences": (0.0011, 0.0026)}).render()
    assert "self-test: 2 of 2 answers as on the build machine (largest divergence 0.003 nats)" in tested
    assert "too busy to compare threads" in index.model_copy(update={"seconds": {}}).render()

"""The header of a GGUF: what a damaged file is told, and which files have a tied embedding twice."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from edgeslm_export.sources.gguf import EMBEDDING, HEAD, read_gguf_header, tied_copy
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.errors import ExportError


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def _sample(version: int = 3) -> bytes:
    """Two settings, one array, one F32 tensor of 4 x 2."""
    head = b"GGUF" + struct.pack("<IQQ", version, 1, 3)
    head += _string("general.architecture") + struct.pack("<I", 8) + _string("llama")
    head += _string("llama.block_count") + struct.pack("<II", 4, 2)
    head += _string("tokens") + struct.pack("<IIQ", 9, 8, 2) + _string("a") + _string("bc")
    head += _string("weight") + struct.pack("<IQQIQ", 2, 4, 2, 0, 0)
    return head + bytes(-len(head) % 32) + bytes(32)


SAMPLE = _sample()


def _write(folder: Path, data: bytes) -> Path:
    file = folder / "model.gguf"
    file.write_bytes(data)
    return file


def test_it_reads_settings_and_tensors(tmp_path: Path) -> None:
    header = read_gguf_header(_write(tmp_path, SAMPLE))
    assert header.metadata == {"general.architecture": "llama", "llama.block_count": 2, "tokens": 2}
    assert [(t.name, t.shape, t.bytes) for t in header.tensors] == [("weight", (4, 2), 32)]
    assert header.parameters == 8


@given(length=st.integers(0, len(SAMPLE) - 1))
def test_a_truncated_file_is_always_noticed(tmp_path: Path, length: int) -> None:
    with pytest.raises(ExportError, match=r"truncated|no GGUF"):
        read_gguf_header(_write(tmp_path, SAMPLE[:length]))


@given(at=st.integers(4, len(SAMPLE) - 33), value=st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused(tmp_path: Path, at: int, value: int) -> None:
    data = bytearray(SAMPLE)
    data[at] = value
    try:
        read_gguf_header(_write(tmp_path, bytes(data)))
    except ExportError as error:
        assert "\n" not in str(error)


@given(tail=st.binary(max_size=200))
def test_noise_after_the_magic_is_read_or_refused(tmp_path: Path, tail: bytes) -> None:
    try:
        read_gguf_header(_write(tmp_path, b"GGUF" + tail))
    except ExportError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("data", [b"", b"GG", b"not a gguf at all", b"<!doctype html>" * 10])
def test_another_file_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ExportError, match="not a GGUF file"):
        read_gguf_header(_write(tmp_path, data))


def test_another_version_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="version 1"):
        read_gguf_header(_write(tmp_path, _sample(version=1)))


def test_missing_tensor_data_is_told_with_both_sizes(tmp_path: Path) -> None:
    with pytest.raises(
        ExportError, match=f"has {len(SAMPLE) - 5:,} bytes and its header speaks of {len(SAMPLE):,}"
    ):
        read_gguf_header(_write(tmp_path, SAMPLE[:-5]))


def _with_head(folder: Path, embedding: str, head: str, *, tied: bool) -> Path:
    """A file with an embedding and a head of 40 x 64, each quantized to a type of ggml."""
    file = folder / "model.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    random = np.random.default_rng(3)
    values = random.standard_normal((40, 64), np.float32)
    other = values if tied else random.standard_normal((40, 64), np.float32)
    for name, matrix, kind in ((EMBEDDING, values, embedding), (HEAD, other, head)):
        ggml = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(name, gguf.quants.quantize(matrix, ggml), raw_dtype=ggml)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.mark.parametrize(
    ("embedding", "head", "tied", "better"),
    [
        ("Q4_0", "Q8_0", True, HEAD),
        ("F16", "Q8_0", True, EMBEDDING),
        ("F32", "F32", True, HEAD),
        ("Q8_0", "Q8_0", False, None),
    ],
)
def test_two_copies_of_a_tied_embedding_are_found(
    tmp_path: Path, embedding: str, head: str, tied: bool, better: str | None
) -> None:
    file = _with_head(tmp_path, embedding, head, tied=tied)
    assert tied_copy(file, read_gguf_header(file)) == better


def test_a_head_that_was_trained_apart_is_kept(tmp_path: Path) -> None:
    """Fine-tuning an untied copy of a tied head changes it by less than rounding to four bits does."""
    file = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    random = np.random.default_rng(3)
    values = random.standard_normal((40, 64), np.float32)
    writer.add_tensor(EMBEDDING, values)
    writer.add_tensor(HEAD, values + 0.05 * random.standard_normal((40, 64), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert tied_copy(file, read_gguf_header(file)) is None


def test_a_file_without_a_head_has_no_second_copy(tmp_path: Path) -> None:
    file = _write(tmp_path, SAMPLE)
    assert tied_copy(file, read_gguf_header(file)) is None

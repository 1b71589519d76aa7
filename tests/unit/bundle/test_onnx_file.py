"""What is read of a graph file, and files that aren't one."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeslm.bundle import onnx_file
from edgeslm.bundle.onnx_file import read_onnx
from edgeslm.errors import BundleError
from tests.support.onnx_bytes import FLOAT16, attribute, graph, message, model, node, number, tensor, varint


def written(folder: Path, data: bytes) -> Path:
    (folder / "model.onnx").write_bytes(data)
    return folder / "model.onnx"


def test_inputs_formats_and_external_data(tmp_path: Path) -> None:
    products = (
        node("MatMulNBits", attribute("K", 64), attribute("bits", 8), attribute("block_size", 32)),
        node("MatMulNBits", attribute("block_size", 128)),  # bits is 4 if left out
    )
    weights = (tensor("a.data", 0, 10), tensor("a.data", 90, 10), tensor(raw=bytes(300)), tensor("b.data"))
    data = model(graph({"input_ids": 7, "past.0.key": FLOAT16}, nodes=products, tensors=weights))
    found = read_onnx(written(tmp_path, data))
    assert found.inputs == {"input_ids": 7, "past.0.key": FLOAT16}
    assert found.external == {"a.data": 100, "b.data": 0}
    assert found.formats == {(8, 32): 1, (4, 128): 1}
    assert found.windowed == []


def test_weights_of_inner_graphs_are_found(tmp_path: Path) -> None:
    inner = graph({"not an input": 1}, tensors=(tensor("inner.data", 5, 5),))
    branch = node("If", attribute("then_branch", graph=inner))
    found = read_onnx(written(tmp_path, model(graph({}, nodes=(branch,)))))
    assert found.external == {"inner.data": 10}
    assert found.inputs == {}


def test_the_place_of_a_windowed_cache(tmp_path: Path) -> None:
    attributes = [attribute("local_window_size", 64), attribute("sliding_window_cache", 1)]
    full = node("GroupQueryAttention", attribute("sliding_window_cache", 0))
    file = written(tmp_path, model(graph({}, nodes=(full, node("GroupQueryAttention", *attributes)))))
    (place,) = read_onnx(file).windowed
    data = bytearray(file.read_bytes())
    assert data[place] == 1
    data[place] = 0
    file.write_bytes(data)
    assert read_onnx(file).windowed == []


WHOLE = model(
    graph({"input_ids": 7}, nodes=(node("Add", attribute("axis", 1)),), tensors=(tensor("a", 1, 1),))
)


@pytest.mark.parametrize("end", range(1, len(WHOLE)))
def test_a_truncated_file_is_refused_or_has_no_graph(end: int, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="not an ONNX model"):
        read_onnx(written(tmp_path, WHOLE[:end]))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b"<html>not found</html>", "not an ONNX model"),
        (number(1, 10), "no graph"),
        (model(graph({})) + message(7, graph({})), "several main graphs"),
        (number(7, 3), "a number stands where a message belongs"),
        (message(20, b"") + model(graph({})), "training graphs"),
        (varint(7 << 3 | 2) + varint(2**60), "truncated"),
        (b"\xff" * 20, "a number is too long"),
        (varint(7 << 3 | 3), "no known kind"),
        (model(graph({}, tensors=(tensor("a", "-1", 5),))), "isn't a number"),
        (model(graph({}, tensors=(tensor("a", "9" * 50, 5),))), "isn't a number"),
        (model(graph({}, tensors=(tensor("a" * 5000, 1, 5),))), "a name is too long"),
        (model(graph({}, nodes=(message(4, b"\xff\xfe"),))), "not an ONNX model"),
        (model(graph({}, nodes=(node("A", attribute("sliding_window_cache", 300)),))), "is 300"),
    ],
)
def test_what_is_no_graph(data: bytes, why: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=why):
        read_onnx(written(tmp_path, data))


def test_graphs_within_graphs_end(tmp_path: Path) -> None:
    inner = graph({})
    for _ in range(2000):
        inner = graph({}, nodes=(node("If", attribute("then_branch", graph=inner)),))
    with pytest.raises(BundleError, match="nested"):
        read_onnx(written(tmp_path, model(inner)))


def test_a_file_of_millions_of_fields_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "MOST_FIELDS", 1000)
    with pytest.raises(BundleError, match="more than 1,000 fields"):
        read_onnx(written(tmp_path, number(1, 10) * 1001))


def test_numbers_of_fields_that_other_readers_would_cut(tmp_path: Path) -> None:
    """protobuf in C++ drops the upper bits of a tag, and would find a field here."""
    body = b"hidden"
    data = model(graph({}) + varint((5 << 3 | 2) + 2**32) + varint(len(body)) + body)
    with pytest.raises(BundleError, match="a field of no known kind"):
        read_onnx(written(tmp_path, data))

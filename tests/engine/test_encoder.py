"""On the real small encoder; heads are made by hand."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeslm.bundle import load_bundle
from edgeslm.engine.calls import Classify, Embed
from edgeslm.engine.encoder import Encoder
from edgeslm.engine.heads import load_head
from edgeslm.errors import BundleError, TooLong
from edgeslm.messages import Truncated

TEXTS = (
    "The pump leaks oil.",
    "Oil is leaking from the pump!",
    "We have cake in the office",
    "Ölstand niedrig 😀",
)
DIMENSION = 384


def arrays(**changes: Any) -> bytes:
    stream = io.BytesIO()
    made = {"weight": np.eye(2, DIMENSION, dtype=np.float32), "bias": np.zeros(2, np.float32), **changes}
    np.savez(stream, **{name: value for name, value in made.items() if value is not None})
    return stream.getvalue()


def write_head(folder: Path, encoder: str | None, weights: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "head.npz").write_bytes(weights)
    digest = hashlib.sha256(weights).hexdigest()
    manifest = {
        "format": 1,
        "name": "t",
        "kind": "head",
        "architecture": "logistic-regression",
        "source": {"id": "here"},
        "files": [{"path": "head.npz", "bytes": len(weights), "sha256": digest}],
        "head": {"encoder": encoder},
        "learned": {"task": "t", "kind": "classify", "labels": ["spam", "ham"], "rows": 2},
        "created": "2026-01-01T00:00:00Z",
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_vectors_of_unit_length(encoder: Encoder) -> None:
    vectors, tokens, truncated = encoder.embed(TEXTS, "error")
    assert vectors.shape == (4, DIMENSION)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert tokens > 4 * 4
    assert truncated is None


def test_meaning_counts(encoder: Encoder) -> None:
    vectors, _, _ = encoder.embed(TEXTS, "error")
    assert vectors[0] @ vectors[1] > 0.7 > 0.3 > vectors[0] @ vectors[2]


def test_a_batch_gives_what_single_texts_give_in_their_order(encoder: Encoder) -> None:
    many = [f"{'word ' * (number % 7)}number {number}" for number in range(20)]
    together, _, _ = encoder.embed(many, "error")
    for number in (0, 6, 13, 19):
        alone, _, _ = encoder.embed([many[number]], "error")
        assert (together[number] == alone[0]).all()


def test_the_same_text_gives_the_same_vector(encoder: Encoder) -> None:
    first, _, _ = encoder.embed(TEXTS[:1], "error")
    encoder.embed(TEXTS, "error")
    assert (encoder.embed(TEXTS[:1], "error")[0] == first).all()


@pytest.mark.parametrize("text", ["", " ", "\x00", "[SEP] [CLS] [PAD] [MASK]", "😀" * 10])
def test_odd_texts_have_vectors(encoder: Encoder, text: str) -> None:
    vectors, _, _ = encoder.embed([text], "error")
    assert np.isfinite(vectors).all()


def test_no_texts(encoder: Encoder) -> None:
    assert encoder.embed([], "error")[0].shape == (0, DIMENSION)


def test_special_tokens_in_a_message_stay_text(encoder: Encoder) -> None:
    ids, _, _ = encoder._encode("a [SEP] b [PAD]", "error")
    frame, _, _ = encoder._encode("", "error")
    assert [number for number in ids if number in frame] == frame


def test_too_long_says_the_numbers(encoder: Encoder) -> None:
    room = encoder.context_length - 2
    with pytest.raises(TooLong, match=rf"has {room + 1} tokens and there is room for {room}"):
        encoder.embed(["pump " * (room + 1)], "error")
    assert encoder.embed(["pump " * room], "error")[1] == encoder.context_length


def test_a_cut_text_is_read_like_the_part_that_is_kept(encoder: Encoder) -> None:
    room = encoder.context_length - 2
    output = encoder.run_embed(Embed(("pump " * room + "oil " * 9,), "head"))
    assert output.truncated == Truncated(room, room + 9)
    assert output.cost.prompt_tokens == encoder.context_length
    kept, _, _ = encoder.embed(["pump " * room], "error")
    assert np.asarray(output.vectors[0], np.float32) @ kept[0] > 0.999


# -- heads -----------------------------------------------------------------------------------------


def test_a_head_gives_probabilities(encoder: Encoder, tmp_path: Path) -> None:
    vectors, _, _ = encoder.embed(TEXTS[:1], "error")
    weight = np.stack([vectors[0], -vectors[0]])
    head = write_head(tmp_path / "h", encoder.bundle.digest, arrays(weight=2 * weight))
    output = encoder.run_classify(Classify(TEXTS[0], str(head)))
    # softmax of (2, -2)
    expected = 1 / (1 + np.exp(-4))
    assert output.probabilities == pytest.approx((expected, 1 - expected), abs=1e-3)
    assert sum(output.probabilities) == pytest.approx(1, abs=1e-6)
    assert all(0 <= value <= 1 for value in output.probabilities)


def test_a_head_with_an_encoder_of_its_own(encoder: Encoder, tmp_path: Path) -> None:
    folder = tmp_path / "learned"
    shutil.copytree(encoder.bundle.path, folder)
    own = json.loads((folder / "manifest.json").read_bytes())
    weights = arrays()
    write_head(folder, None, weights)
    head = json.loads((folder / "manifest.json").read_bytes())
    joined = {**head, **own, "kind": "head", "files": own["files"] + head["files"]}
    (folder / "manifest.json").write_text(json.dumps(joined))
    output = Encoder(folder, 1).run_classify(Classify(TEXTS[0], str(folder)))
    beside = write_head(tmp_path / "beside", encoder.bundle.digest, weights)
    assert output.probabilities == pytest.approx(
        encoder.run_classify(Classify(TEXTS[0], str(beside))).probabilities, abs=1e-3
    )
    with pytest.raises(BundleError, match="learned on the encoder sha256:"):
        encoder.run_classify(Classify(TEXTS[0], str(folder)))


def test_a_sure_head_stays_within_one(encoder: Encoder, tmp_path: Path) -> None:
    bias = np.array([1e9, -1e9], np.float32)
    head = write_head(tmp_path / "h", encoder.bundle.digest, arrays(bias=bias))
    assert encoder.run_classify(Classify("x", str(head))).probabilities == (1.0, 0.0)


def test_a_head_of_another_encoder(encoder: Encoder, tmp_path: Path) -> None:
    head = write_head(tmp_path / "h", "sha256:" + "0" * 64, arrays())
    with pytest.raises(BundleError, match="learned on the encoder sha256:000"):
        encoder.run_classify(Classify("x", str(head)))


class Evil:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self._file,)


def test_a_pickle_is_refused_and_not_run(encoder: Encoder, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    stream = io.BytesIO()
    np.savez(stream, weight=np.array([Evil(trap)], object), bias=np.zeros(2, np.float32))
    for number, weights in enumerate((stream.getvalue(), pickle.dumps(Evil(trap)))):
        head = write_head(tmp_path / str(number), encoder.bundle.digest, weights)
        with pytest.raises(BundleError, match=r"head\.npz: not the arrays of a head"):
            load_head(head, encoder.bundle)
    assert not trap.exists()


@pytest.mark.parametrize(
    "weights",
    [
        b"",
        b"PK\x03\x04 half a zip file",
        arrays()[:-40],
        arrays(bias=None),
        arrays(weight=np.array(["a"])),
        arrays(weight=np.eye(3, DIMENSION, dtype=np.float32)),
        arrays(weight=np.eye(2, 3, dtype=np.float32)),
        arrays(bias=np.zeros(3, np.float32)),
        arrays(bias=np.array([0, np.nan], np.float32)),
        arrays(weight=np.full((2, DIMENSION), np.inf, np.float32)),
    ],
)
def test_arrays_that_are_no_head(encoder: Encoder, tmp_path: Path, weights: bytes) -> None:
    head = write_head(tmp_path / "h", encoder.bundle.digest, weights)
    with pytest.raises(BundleError, match=r"head\.npz: "):
        load_head(head, encoder.bundle)


def test_a_changed_head(encoder: Encoder, tmp_path: Path) -> None:
    head = write_head(tmp_path / "h", encoder.bundle.digest, arrays())
    (head / "head.npz").write_bytes(arrays(bias=np.ones(2, np.float32)))
    with pytest.raises(BundleError, match=r"head\.npz: "):
        load_head(head, encoder.bundle)


def test_another_head_in_its_place(encoder: Encoder, tmp_path: Path) -> None:
    """What was seen at the start, and found signed, is what is loaded."""
    head = write_head(tmp_path / "h", encoder.bundle.digest, arrays())
    digest = load_bundle(head).digest
    load_head(head, encoder.bundle, digest)
    (head / "manifest.json").write_text((head / "manifest.json").read_text() + "\n")
    with pytest.raises(BundleError, match=r"manifest\.json: another bundle than at the start"):
        load_head(head, encoder.bundle, digest)


# -- bundles ---------------------------------------------------------------------------------------


def test_a_bundle_of_another_kind(starter: Path, tmp_path: Path, encoder: Encoder) -> None:
    with pytest.raises(BundleError, match="a bundle of kind decoder, where an encoder is needed"):
        Encoder(starter / "smollm2-135m-int4", 1)
    with pytest.raises(BundleError, match="a bundle of kind decoder, where a learned head is needed"):
        load_head(starter / "smollm2-135m-int4", encoder.bundle)


def changed_copy(source: Path, folder: Path, **changes: Any) -> Path:
    folder.mkdir()
    for file in source.iterdir():
        shutil.copyfile(file, folder / file.name)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, **changes}))
    return folder


def test_a_manifest_with_another_dimension_is_refused_when_it_is_loaded(
    starter: Path, tmp_path: Path
) -> None:
    copy = changed_copy(starter / "minilm-l6-int8", tmp_path / "copy", encoder={"dimension": 7})
    with pytest.raises(BundleError, match="doesn't give vectors of 7 numbers"):
        Encoder(copy, 1)


def test_a_graph_that_is_none(starter: Path, tmp_path: Path) -> None:
    copy = changed_copy(starter / "minilm-l6-int8", tmp_path / "copy", graphs={"encode": "tokenizer.json"})
    with pytest.raises(BundleError, match=r"tokenizer\.json: onnxruntime can't load it"):
        Encoder(copy, 1)


def test_the_first_token_as_the_vector(starter: Path, tmp_path: Path, encoder: Encoder) -> None:
    section = {"dimension": DIMENSION, "pooling": "cls", "normalize": False}
    copy = Encoder(changed_copy(starter / "minilm-l6-int8", tmp_path / "copy", encoder=section), 1)
    vectors, _, _ = copy.embed(TEXTS[:1], "error")
    assert vectors.shape == (1, DIMENSION)
    assert vectors[0] @ encoder.embed(TEXTS[:1], "error")[0][0] < 0.999 * np.linalg.norm(vectors[0])

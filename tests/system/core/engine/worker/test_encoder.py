"""On the real small encoder; heads are made by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeslm.bundle.manifest import load_bundle
from edgeslm.engine.calls import Classify, Embed, Overflow, Point, Read
from edgeslm.engine.worker.encoder import Encoder
from edgeslm.errors import BundleError, Cancelled, TooLong
from edgeslm.messages import Truncated
from tests.support.engine.hand_made import classifier, pack, pointer, write_head
from tests.support.pointers import POINTED
from tests.support.readers import make_reader

TEXTS = (
    "The pump leaks oil.",
    "Oil is leaking from the pump!",
    "We have cake in the office",
    "Ölstand niedrig 😀",
)
DIMENSION = 384


def head_arrays(**changes: Any) -> bytes:
    return pack({**classifier(DIMENSION), **changes})


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
    ids, _, _ = encoder.encode("a [SEP] b [PAD]", "error")
    frame, _, _ = encoder.encode("", "error")
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
    head = write_head(tmp_path / "h", encoder.bundle.digest, head_arrays(weight=2 * weight))
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
    weights = head_arrays()
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
    head = write_head(tmp_path / "h", encoder.bundle.digest, head_arrays(bias=bias))
    assert encoder.run_classify(Classify("x", str(head))).probabilities == (1.0, 0.0)


# -- fields ----------------------------------------------------------------------------------------

MESSAGE = "Größe 😀: the Valve leaks"
SURE = 50.0
"""Of scores: what has it is by far the likeliest."""
FIELD = {
    **POINTED,
    "output_schema": {"type": "object", "properties": {"part": {"type": "string"}}},
    "fields": [{"name": "part", "optional": True, "longest": 40, "values": ["pump"]}],
}
"""Missing, in the message, or the pump."""


def place_of(encoder: Encoder, text: str, word: str, overflow: Overflow = "error") -> int:
    """Which of the tokens that are kept is ``word``; each of the words that tests look for is one token."""
    ids, _, _ = encoder.encode(text, overflow)
    frame, _, _ = encoder.encode("", "error")
    (wanted,) = [token for token in encoder.encode(word, "error")[0] if token not in frame]
    (found,) = [place for place, token in enumerate(ids) if token == wanted]
    return found


def write_pointer(
    folder: Path, encoder: Encoder, text: str, first: str, last: str, overflow: Overflow = "error"
) -> Path:
    """A head that points from one word to another, in this text alone: nothing is as near to a vector as
    itself."""
    hidden, _, _ = encoder.read_tokens(text, overflow)
    others = hidden - hidden.mean(axis=0)
    ends = [others[place_of(encoder, text, word, overflow)] for word in (first, last)]
    pointing = np.zeros((1, 3, DIMENSION), np.float32)
    for asked, vector in enumerate(ends):
        pointing[0, asked] = SURE * vector / (vector @ vector)
    made = pointer(DIMENSION, FIELD["fields"], place_weight=pointing, bias=np.array([0, SURE, 0], np.float32))
    return write_head(folder, encoder.bundle.digest, pack(made), FIELD)


@pytest.mark.parametrize(
    ("first", "last", "place"),
    [("valve", "valve", "Valve"), ("the", "valve", "the Valve"), ("valve", "leaks", "Valve leaks")],
)
def test_a_head_points_at_words_as_they_stand_in_the_message(
    encoder: Encoder, tmp_path: Path, first: str, last: str, place: str
) -> None:
    """The tokens are of small letters without dots, and offsets count characters, not bytes."""
    head = write_pointer(tmp_path / "h", encoder, MESSAGE, first, last)
    output = encoder.run(Point(MESSAGE, str(head)))
    (field,) = output.fields
    assert field.options == pytest.approx((0, 1, 0), abs=1e-6)
    start, end, share = field.places[0]
    assert MESSAGE[start:end] == place
    assert share > 0.99
    assert output.cost.prompt_tokens == len(encoder.encode(MESSAGE, "error")[0])
    assert (output.truncated, output.distance) == (None, None)


LONG = "Größe 😀: Valve " + "pump " * 2000 + "Sensor"


@pytest.mark.parametrize(
    ("overflow", "word", "stands"),
    [
        ("head", "valve", "Valve"),
        ("tail", "sensor", "Sensor"),
        ("middle", "valve", "Valve"),
        ("middle", "sensor", "Sensor"),
    ],
)
def test_places_are_those_of_the_whole_message_however_it_was_cut(
    encoder: Encoder, tmp_path: Path, overflow: Overflow, word: str, stands: str
) -> None:
    head = write_pointer(tmp_path / "h", encoder, LONG, word, word, overflow)
    output = encoder.run_point(Point(LONG, str(head), overflow))
    start, end, share = output.fields[0].places[0]
    assert LONG[start:end] == stands
    assert share > 0.99
    room = encoder.context_length - 2
    assert output.truncated is not None
    assert output.truncated.kept == room
    assert output.cost.prompt_tokens == encoder.context_length


def test_a_message_that_is_too_long_is_pointed_at_nowhere(encoder: Encoder, tmp_path: Path) -> None:
    head = write_pointer(tmp_path / "h", encoder, MESSAGE, "valve", "valve")
    with pytest.raises(TooLong):
        encoder.run(Point(LONG, str(head)))


@pytest.mark.parametrize("overflow", ["head", "tail", "middle"])
@pytest.mark.parametrize(
    "text",
    [
        LONG,
        f"  {MESSAGE}\n\t",
        "é " * 900,
        "e\u0301-x " * 400,
        "打开灯 " * 400,
        "😀",
        "[SEP] oil [CLS]",
        " ",
        "",
    ],
)
def test_whatever_a_head_points_at_stands_in_the_message(
    encoder: Encoder, tmp_path: Path, overflow: Overflow, text: str
) -> None:
    chance = np.random.default_rng(7)
    weight = chance.normal(size=(1, 3, DIMENSION)).astype(np.float32)
    made = pointer(DIMENSION, FIELD["fields"], place_weight=weight)
    head = write_head(tmp_path / "h", encoder.bundle.digest, pack(made), FIELD)
    places = encoder.run_point(Point(text, str(head), overflow)).fields[0].places
    assert bool(places) == bool(text.strip())
    for start, end, share in places:
        assert 0 <= start < end <= len(text)
        assert end - start <= FIELD["fields"][0]["longest"]
        assert text[start:end] == text[start:end].strip()
        assert 0 <= share <= 1


def test_tokens_stand_where_their_text_does(encoder: Encoder) -> None:
    """And those of the encoder itself nowhere."""
    hidden, offsets, truncated = encoder.read_tokens("Oil leaks", "error")
    assert hidden.shape == (4, DIMENSION)
    assert [end - start for start, end in (offsets[0], offsets[-1])] == [0, 0]
    assert offsets[1:-1] == [(0, 3), (4, 9)]
    assert truncated is None


def test_the_vector_of_a_text_is_the_same_for_each_kind_of_head(encoder: Encoder, tmp_path: Path) -> None:
    vectors, _, _ = encoder.embed([MESSAGE], "error")
    made = pointer(DIMENSION, FIELD["fields"], centroids=vectors)
    head = write_head(tmp_path / "h", encoder.bundle.digest, pack(made), FIELD)
    assert encoder.run(Point(MESSAGE, str(head))).distance == pytest.approx(0, abs=1e-6)
    assert (encoder.run(Point("cake", str(head))).distance or 0) > 0.3


def test_a_head_is_read_once(encoder: Encoder, tmp_path: Path) -> None:
    head = write_pointer(tmp_path / "h", encoder, MESSAGE, "valve", "valve")
    first = encoder.run(Point(MESSAGE, str(head)))
    shutil.rmtree(head)
    assert encoder.run(Point(MESSAGE, str(head))) == first


def test_a_head_of_labels_points_at_nothing_and_one_of_fields_gives_no_labels(
    encoder: Encoder, tmp_path: Path
) -> None:
    labels = write_head(tmp_path / "labels", encoder.bundle.digest, head_arrays())
    with pytest.raises(BundleError, match=r"head\.npz: weight has shape"):
        encoder.run(Point("x", str(labels)))
    fields = write_pointer(tmp_path / "fields", encoder, MESSAGE, "valve", "valve")
    with pytest.raises(BundleError, match=r"head\.npz: weight has shape"):
        encoder.run(Classify("x", str(fields)))


def test_a_head_is_the_one_that_was_seen_at_the_start(encoder: Encoder, tmp_path: Path) -> None:
    head = write_pointer(tmp_path / "h", encoder, MESSAGE, "valve", "valve")
    with pytest.raises(BundleError, match="another bundle than at the start"):
        encoder.run(Point("x", str(head), digest="sha256:" + "0" * 64))
    digest = load_bundle(head).digest
    assert encoder.run(Point(MESSAGE, str(head), digest=digest)).fields


# -- bundles ---------------------------------------------------------------------------------------


def test_a_bundle_of_another_kind(starter: Path) -> None:
    with pytest.raises(BundleError, match="a bundle of kind decoder, where an encoder is needed"):
        Encoder(starter / "smollm2-135m-int4", 1)


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


# --- pairs -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reader(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return Encoder(make_reader(encoder.bundle.path, tmp_path_factory.mktemp("reader") / "bundle"), threads=1)


def test_each_text_is_read_with_the_question(reader: Encoder) -> None:
    output = reader.run(Read("what leaks?", TEXTS))
    assert len(output.probabilities) == len(set(output.probabilities)) == len(TEXTS)
    assert all(0 <= likely <= 1 for likely in output.probabilities)
    (alone,) = reader.run(Read("what leaks?", TEXTS[1:2])).probabilities
    assert alone == output.probabilities[1]
    (otherwise,) = reader.run(Read("who has cake?", TEXTS[1:2])).probabilities
    assert otherwise != alone
    assert output.cost.prompt_tokens > 4 * 8


@pytest.mark.parametrize("question", ["oil?", "oil " * 2000])
def test_ends_that_do_not_fit_are_not_read(reader: Encoder, question: str) -> None:
    """The question keeps a quarter, the text the rest."""
    long = "The pump leaks oil. " * 500
    longer = reader.run(Read(question, (long, long + "Much more of it.")))
    assert longer.probabilities[0] == longer.probabilities[1]
    assert longer.cost.prompt_tokens == 2 * reader.context_length
    assert longer.cut == (0, 1)
    _, kinds, _, _ = reader.encode_pair(question, long)
    assert kinds.count(1) >= reader.context_length * 0.7
    _, kinds, offsets, is_cut = reader.encode_pair("oil?", "The pump.")
    assert kinds == [0, 0, 0, 0, 1, 1, 1, 1]
    assert offsets == [(0, 0)] * 4 + [(0, 3), (4, 8), (8, 9), (0, 0)]
    assert not is_cut


def test_a_text_has_a_limit_of_its_own(reader: Encoder) -> None:
    short, long = "The pump.", "The pump. It leaks oil."
    output = reader.run(Read("oil?", (short, long), text_tokens=3))
    assert output.probabilities[0] == output.probabilities[1]
    assert output.cut == (1,)


def test_texts_are_read_until_a_call_is_cancelled(reader: Encoder) -> None:
    answers = iter([False, False, True])
    with pytest.raises(Cancelled):
        reader.run(Read("oil?", TEXTS), lambda: next(answers))
    assert not list(answers)


def test_a_reader_points_into_each_text(reader: Encoder, encoder: Encoder, tmp_path: Path) -> None:
    places = reader.run(Read("what leaks?", (*TEXTS, ""))).places
    assert len(places) == len(TEXTS) + 1
    for text, runs in zip(TEXTS, places, strict=False):
        assert runs and all(0 <= start < end <= len(text) for start, end, _ in runs)
        assert 0 < sum(share for _, _, share in runs) < 1.001
    assert places[-1] == ()
    silent = Encoder(make_reader(encoder.bundle.path, tmp_path / "silent", points=False), threads=1)
    assert silent.run(Read("what leaks?", TEXTS)).places == ((),) * len(TEXTS)


def test_no_texts_are_read(reader: Encoder) -> None:
    assert reader.run(Read("what leaks?", ())).probabilities == ()


def test_an_encoder_reads_no_pairs(encoder: Encoder) -> None:
    with pytest.raises(BundleError, match="reads no question with a text; name a reader"):
        encoder.run(Read("what leaks?", TEXTS))

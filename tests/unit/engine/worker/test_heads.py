"""Heads without an encoder: numbers made by hand, and the files they are read from."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.bundle.learned_task import LearnedField
from edgeslm.bundle.manifest import Bundle, load_bundle
from edgeslm.engine.worker.heads import (
    ENDS,
    INSIDE,
    STARTS,
    Head,
    Pointer,
    Reader,
    likeliest_places,
    load_head,
    load_pointer,
    load_reader,
)
from edgeslm.errors import BundleError
from tests.support.engine.hand_made import classifier, pack, pointer, write_head
from tests.support.nodes import write_bundle, write_reader
from tests.support.pointers import POINTED
from tests.support.taught import CLASSIFY

DIMENSION = 2
"""Of the vectors of the fake encoder."""
Floats = npt.NDArray[np.float32]
Place = tuple[int, int]


@pytest.fixture
def encoder(tmp_path: Path) -> Bundle:
    return load_bundle(write_bundle(tmp_path / "encoder", "encoder"))


def words(*lengths: int) -> list[Place]:
    """Offsets of words with a space between them."""
    places, start = [], 0
    for length in lengths:
        places.append((start, start + length))
        start += length + 1
    return places


def scores(tokens: int, **of_tokens: Mapping[int, float]) -> Floats:
    """Zero but for these: ``starts``, ``ends`` and ``inside`` by token."""
    made = np.zeros((tokens, 3), np.float32)
    for name, asked in (("starts", STARTS), ("ends", ENDS), ("inside", INSIDE)):
        for token, score in of_tokens.get(name, {}).items():
            made[token, asked] = score
    return made


# -- labels ----------------------------------------------------------------------------------------


def test_probabilities_of_labels_sum_to_one_for_each_text() -> None:
    head = Head(np.array([[1, 0], [0, 1], [9, 9]], np.float32), np.array([0, 0, -18], np.float32))
    found = head.probabilities(np.array([[0, 0], [1, 1], [1e9, 0]], np.float32))
    assert found.shape == (3, 3)
    assert found.sum(axis=1) == pytest.approx(1)
    assert found[0] == pytest.approx([0.5, 0.5, 0], abs=1e-6)
    assert found[2] == pytest.approx([0, 0, 1])


def test_the_distance_is_that_to_the_nearest_of_what_was_learned_from() -> None:
    centroids = np.array([[1, 0], [0, 1]], np.float32)
    head = Head(np.eye(2, dtype=np.float32), np.zeros(2, np.float32), centroids)
    for vector, distance in (
        ([3, 0], 0.0),
        ([0, 0.5], 0.0),
        ([1, 1], 1 - 0.5**0.5),
        ([-1, -1], 1 + 0.5**0.5),
    ):
        assert head.distance(np.array(vector, np.float32)) == pytest.approx(distance, abs=1e-6)
    assert head.distance(np.zeros(2, np.float32)) == 1
    assert Head(np.eye(2, dtype=np.float32), np.zeros(2, np.float32)).distance(centroids[0]) is None


# -- places ----------------------------------------------------------------------------------------


def test_a_place_goes_from_where_a_field_begins_to_where_it_ends() -> None:
    found = likeliest_places(scores(4, starts={1: 20}, ends={2: 20}), words(3, 4, 5, 6), 40)
    assert found[0][:2] == (4, 14)
    assert found[0][2] == pytest.approx(1, abs=1e-6)


def test_without_a_sign_all_places_are_alike() -> None:
    found = likeliest_places(scores(3), words(1, 1, 1), 9)
    assert sorted(place[:2] for place in found) == [(0, 1), (0, 3), (0, 5), (2, 3), (2, 5), (4, 5)]
    assert [share for _, _, share in found] == pytest.approx([1 / 6] * 6)


def test_no_place_ends_before_it_begins() -> None:
    found = likeliest_places(scores(3, starts={2: 20}, ends={0: 20}), words(2, 2, 2), 40)
    assert all(start < end for start, end, _ in found)


@pytest.mark.parametrize(("longest", "place"), [(14, (0, 14)), (13, (4, 14)), (9, (0, 8)), (3, (0, 3))])
def test_no_place_is_longer_than_a_field_may_be(longest: int, place: Place) -> None:
    signs = scores(3, starts={0: 9, 1: 6}, ends={2: 9, 1: 3}, inside={0: 1, 1: 1, 2: 1})
    assert likeliest_places(signs, words(3, 4, 5), longest)[0][:2] == place


def test_where_each_word_is_too_long_there_is_no_place() -> None:
    assert likeliest_places(scores(2), words(30, 40), 20) == ()


def test_a_value_that_stands_there_twice_is_not_joined() -> None:
    """Each could begin or end it, and only what lies between tells that it is two."""
    offsets = words(5, 4, 3, 4, 5)
    twice = {0: 9.0, 4: 9.0}
    parted = scores(5, starts=twice, ends=twice, inside={0: 9, 1: -9, 2: -9, 3: -9, 4: 9})
    first, second, *others = likeliest_places(parted, offsets, 100)
    assert {first[:2], second[:2]} == {offsets[0], offsets[4]}
    assert (first[2], second[2]) == pytest.approx((0.5, 0.5), abs=1e-3)
    assert all(share < 1e-3 for _, _, share in others)
    joined = scores(5, starts=twice, ends=twice, inside=dict.fromkeys(range(5), 9.0))
    assert likeliest_places(joined, offsets, 100)[0][:2] == (offsets[0][0], offsets[4][1])


def test_of_many_places_the_likeliest_are_told() -> None:
    count = 60
    starts = dict(enumerate(np.linspace(0, 9, count).tolist()))
    found = likeliest_places(scores(count, starts=starts), words(*[1] * count), 1)
    assert [start for start, _, _ in found] == [2 * (count - 1 - place) for place in range(16)]
    assert sum(share for _, _, share in found) < 1


tokens = st.tuples(st.booleans(), st.integers(0, 2), st.integers(1, 5))


@st.composite
def signs(draw: st.DrawFn) -> tuple[Floats, list[Place]]:
    """Scores of up to twelve tokens, some of them side by side and some in one place, as of an emoji that is
    several tokens."""
    count = draw(st.integers(1, 12))
    numbers = st.floats(-30, 30, width=32) | st.sampled_from([-1e9, 1e9])
    rows = draw(st.lists(st.lists(numbers, min_size=3, max_size=3), min_size=count, max_size=count))
    offsets: list[Place] = []
    for again, gap, length in draw(st.lists(tokens, min_size=count, max_size=count)):
        start = (offsets[-1][1] if offsets else 0) + gap
        offsets.append(offsets[-1] if again and offsets else (start, start + length))
    return np.array(rows, np.float32), offsets


@given(signs(), st.integers(1, 30))
def test_shares_of_places_sum_to_at_most_one_and_the_likeliest_is_first(
    drawn: tuple[Floats, list[Place]], longest: int
) -> None:
    made, offsets = drawn
    found = likeliest_places(made, offsets, longest)
    shares = [share for _, _, share in found]
    assert all(0 <= share <= 1 for share in shares)
    assert sum(shares) <= 1 + 1e-9
    assert shares == sorted(shares, reverse=True)
    assert bool(found) == any(end - start <= longest for start, end in offsets)
    begins, ends = {start for start, _ in offsets}, {end for _, end in offsets}
    for start, end, _ in found:
        assert 0 < end - start <= longest
        assert start in begins
        assert end in ends


# -- fields ----------------------------------------------------------------------------------------

FIELDS = (
    LearnedField(name="machine", optional=False, longest=20),
    LearnedField(name="celsius", optional=True, longest=20),
    LearnedField(name="state", optional=True, values=("on", "off")),
)
FRAMED = [(0, 0), *words(5, 1, 4), (0, 0)]
"""A text of three words between the encoder's own tokens."""
HIDDEN = np.array([[9, 9], [0, 0], [1, 0], [0, 1], [9, 9]], np.float32)
"""What is the encoder's own is a better sign than anything in the text."""
TEXT_VECTOR = np.array([1, 0], np.float32)


def make_pointer(fields: Sequence[LearnedField] = FIELDS, **changes: Any) -> Pointer:
    made = pointer(DIMENSION, [field.model_dump() for field in fields], **changes)
    return Pointer(fields, **made)


def test_each_field_has_options_of_its_own() -> None:
    weight = np.zeros((6, DIMENSION), np.float32)
    weight[1, 0] = weight[5, 0] = np.log(3)
    found = make_pointer(weight=weight, bias=np.array([7, 0, 0, 0, 0, -20], np.float32)).point(
        HIDDEN, TEXT_VECTOR, FRAMED
    )
    assert [field.options for field in found] == [
        pytest.approx((1.0,)),
        pytest.approx((0.75, 0.25)),
        pytest.approx((0.5, 0.5, 0.0), abs=1e-6),
    ]
    assert all(type(share) is float for field in found for share in field.options)


def test_each_field_has_places_of_its_own_and_one_of_values_has_none() -> None:
    place_weight = np.zeros((3, 3, DIMENSION), np.float32)
    place_weight[0, (STARTS, ENDS), 0] = 20
    place_weight[1, (STARTS, ENDS), 1] = 20
    machine, celsius, state = make_pointer(place_weight=place_weight).point(HIDDEN, TEXT_VECTOR, FRAMED)
    assert machine.places[0][:2] == FRAMED[2]
    assert celsius.places[0][:2] == FRAMED[3]
    assert state.places == ()


def test_the_encoders_own_tokens_are_part_of_no_place() -> None:
    place_weight = np.full((3, 3, DIMENSION), 9, np.float32)
    machine, _, _ = make_pointer(place_weight=place_weight).point(HIDDEN, TEXT_VECTOR, FRAMED)
    expected = {(start, end) for start, _ in FRAMED[1:-1] for _, end in FRAMED[1:-1] if start < end}
    assert {place[:2] for place in machine.places} == expected
    assert sum(share for _, _, share in machine.places) == pytest.approx(1)


@pytest.mark.parametrize("offsets", [[(0, 0), (0, 0)], [(0, 0), (1, 1), (0, 0)], []])
def test_an_empty_text_has_options_and_no_places(offsets: list[Place]) -> None:
    hidden = np.ones((len(offsets), DIMENSION), np.float32)
    found = make_pointer().point(hidden, TEXT_VECTOR, offsets)
    assert [len(field.options) for field in found] == [1, 2, 3]
    assert all(field.places == () for field in found)


def test_where_a_field_is_surely_missing_nothing_is_looked_for() -> None:
    for missing, has_places in ((20.0, False), (5.0, True)):
        bias = np.array([0, missing, 0, 0, 0, 0], np.float32)
        _, celsius, _ = make_pointer(bias=bias).point(HIDDEN, TEXT_VECTOR, FRAMED)
        assert bool(celsius.places) is has_places


def test_logits_without_bounds_overflow_nowhere() -> None:
    place_bias = np.array([[1e30, -1e30, 1e9]] * 3, np.float32)
    bias = np.array([1e30, 1e30, -1e30, 0, 0, 0], np.float32)
    found = make_pointer(bias=bias, place_bias=place_bias).point(HIDDEN, TEXT_VECTOR, FRAMED)
    assert found[1].options == (1.0, 0.0)
    assert all(np.isfinite(share) for field in found for _, _, share in field.places)


def test_a_pointer_says_how_far_a_text_lies_from_what_it_learned_from() -> None:
    made = make_pointer(centroids=np.array([[0, 1]], np.float32))
    assert made.distance(TEXT_VECTOR) == pytest.approx(1)
    assert make_pointer().distance(TEXT_VECTOR) is None


# -- files of labels -------------------------------------------------------------------------------


def arrays(**changes: Any) -> bytes:
    return pack({**classifier(DIMENSION), **changes})


def test_a_head_that_is_read_gives_probabilities(encoder: Bundle, tmp_path: Path) -> None:
    centroids = np.array([[1, 0]], np.float64)
    head = load_head(write_head(tmp_path / "h", encoder.digest, arrays(centroids=centroids)), encoder)
    assert head.probabilities(np.zeros((1, DIMENSION), np.float32)).tolist() == [[0.5, 0.5]]
    assert head.distance(np.array([1, 0], np.float32)) == 0


def test_a_head_of_another_encoder(encoder: Bundle, tmp_path: Path) -> None:
    for number, (weights, learned, load) in enumerate(KINDS):
        head = write_head(tmp_path / f"h{number}", "sha256:" + "0" * 64, weights, learned)
        with pytest.raises(BundleError, match="learned on the encoder sha256:000"):
            load(head, encoder)


class Evil:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self._file,)


def test_a_pickle_is_refused_and_not_run(encoder: Bundle, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    stream = io.BytesIO()
    np.savez(stream, weight=np.array([Evil(trap)], object), bias=np.zeros(2, np.float32))
    for number, weights in enumerate((stream.getvalue(), pickle.dumps(Evil(trap)))):
        for _, learned, load in KINDS:
            head = write_head(tmp_path / str(number), encoder.digest, weights, learned)
            with pytest.raises(BundleError, match=r"head\.npz: not the arrays of a head"):
                load(head, encoder)
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
        arrays(centroids=np.zeros((1, 3), np.float32)),
        arrays(centroids=np.zeros(DIMENSION, np.float32)),
    ],
)
def test_arrays_that_are_no_head(encoder: Bundle, tmp_path: Path, weights: bytes) -> None:
    head = write_head(tmp_path / "h", encoder.digest, weights)
    with pytest.raises(BundleError, match=r"head\.npz: "):
        load_head(head, encoder)


def test_a_changed_head(encoder: Bundle, tmp_path: Path) -> None:
    head = write_head(tmp_path / "h", encoder.digest, arrays())
    (head / "head.npz").write_bytes(arrays(bias=np.ones(2, np.float32)))
    with pytest.raises(BundleError, match=r"head\.npz: "):
        load_head(head, encoder)


def test_another_head_in_its_place(encoder: Bundle, tmp_path: Path) -> None:
    """What was seen at the start, and found signed, is what is loaded."""
    for weights, learned, load in KINDS:
        head = write_head(tmp_path / "h", encoder.digest, weights, learned)
        digest = load_bundle(head).digest
        load(head, encoder, digest)
        (head / "manifest.json").write_text((head / "manifest.json").read_text() + "\n")
        with pytest.raises(BundleError, match=r"manifest\.json: another bundle than at the start"):
            load(head, encoder, digest)


def test_a_bundle_of_another_kind(encoder: Bundle) -> None:
    for _, _, load in KINDS:
        with pytest.raises(BundleError, match="a bundle of kind encoder, where a learned head is needed"):
            load(encoder.path, encoder)


# -- files of fields -------------------------------------------------------------------------------


def pointing(**changes: Any) -> bytes:
    return pack(pointer(DIMENSION, POINTED["fields"], **changes))


KINDS: Any = ((arrays(), CLASSIFY, load_head), (pointing(), POINTED, load_pointer))
"""A head of each kind, and what reads it."""


def test_a_pointer_that_is_read_points(encoder: Bundle, tmp_path: Path) -> None:
    place_weight = np.zeros((3, 3, DIMENSION), np.float64)
    place_weight[0, (STARTS, ENDS), 0] = 20
    head = write_head(tmp_path / "h", encoder.digest, pointing(place_weight=place_weight), POINTED)
    found = load_pointer(head, encoder).point(HIDDEN, TEXT_VECTOR, FRAMED)
    assert [len(field.options) for field in found] == [1, 2, 3]
    assert found[0].places[0][:2] == FRAMED[2]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"weight": None}, r"weight has shape none, \(6, 2\) is needed"),
        ({"bias": None}, r"bias has shape none, \(6,\) is needed"),
        ({"place_weight": None}, r"place_weight has shape none, \(3, 3, 2\) is needed"),
        ({"place_bias": None}, r"place_bias has shape none, \(3, 3\) is needed"),
        ({"weight": np.zeros((5, 2), np.float32)}, r"weight has shape \(5, 2\), \(6, 2\) is needed"),
        ({"weight": np.zeros((6, 3), np.float32)}, r"weight has shape \(6, 3\), \(6, 2\) is needed"),
        ({"bias": np.zeros((6, 1), np.float32)}, r"bias has shape \(6, 1\), \(6,\) is needed"),
        ({"place_weight": np.zeros((2, 3, 2), np.float32)}, r"place_weight has shape \(2, 3, 2\)"),
        ({"place_weight": np.zeros((3, 2, 2), np.float32)}, r"place_weight has shape \(3, 2, 2\)"),
        ({"place_weight": np.zeros((9, 2), np.float32)}, r"place_weight has shape \(9, 2\)"),
        ({"place_bias": np.zeros(9, np.float32)}, r"place_bias has shape \(9,\), \(3, 3\) is needed"),
        ({"centroids": np.zeros((4, 3), np.float32)}, r"centroids have shape \(4, 3\), \[groups, 2\] is"),
        ({"place_bias": np.full((3, 3), np.nan, np.float32)}, "holds numbers that are not finite"),
        ({"place_weight": np.full((3, 3, 2), np.inf, np.float32)}, "holds numbers that are not finite"),
        ({"centroids": np.full((1, 2), np.nan, np.float32)}, "holds numbers that are not finite"),
        ({"place_bias": np.full((3, 3), "a")}, "not the arrays of a head"),
    ],
)
def test_arrays_that_are_no_pointer(
    encoder: Bundle, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    head = write_head(tmp_path / "h", encoder.digest, pointing(**changes), POINTED)
    with pytest.raises(BundleError, match=rf"head\.npz: {sentence}"):
        load_pointer(head, encoder)


def test_a_head_of_one_kind_is_none_of_the_other(encoder: Bundle, tmp_path: Path) -> None:
    labels = write_head(tmp_path / "labels", encoder.digest, arrays())
    fields = write_head(tmp_path / "fields", encoder.digest, pointing(), POINTED)
    with pytest.raises(BundleError, match=r"head\.npz: weight has shape \(2, 2\), \(0, 2\) is needed"):
        load_pointer(labels, encoder)
    with pytest.raises(BundleError, match=r"head\.npz: weight has shape \(6, 2\), \(0, 2\) is needed"):
        load_head(fields, encoder)


# --- readers -----------------------------------------------------------------------------------------


def reader_of(folder: Path, **arrays: Any) -> Bundle:
    """On the fake encoder."""
    layers = {"weight": np.array([[2.0, 0.0]], np.float32), "bias": np.array([-1.0], np.float32), **arrays}
    return load_bundle(write_reader(folder / "reader", pack(layers)))


def test_a_reader_is_a_logistic_regression(tmp_path: Path) -> None:
    reader = load_reader(reader_of(tmp_path))
    assert reader.probability(np.array([0.5, 7.0], np.float32)) == pytest.approx(0.5)
    assert reader.probability(np.array([2.0, 0.0], np.float32)) == pytest.approx(1 / (1 + np.exp(-3.0)))


def test_a_reader_may_have_a_layer_with_tanh(tmp_path: Path) -> None:
    dense = {"dense": 9 * np.eye(2, dtype=np.float32), "dense_bias": np.zeros(2, np.float32)}
    reader = load_reader(reader_of(tmp_path, **dense))
    assert reader.probability(np.array([3.0, 0.0], np.float32)) == pytest.approx(1 / (1 + np.exp(-1.0)))


POINTS = {"place_weight": np.eye(2, dtype=np.float32), "place_bias": np.zeros(2, np.float32)}
"""The first number of a token's vector is how it begins, the second how it ends."""


def test_a_reader_points_at_runs_by_their_beginnings(tmp_path: Path) -> None:
    reader = load_reader(reader_of(tmp_path, **POINTS))
    hidden = np.array([[0, 0], [9, 9], [4, 0], [2, 0], [0, 5], [0, 1]], np.float32)
    offsets = [(0, 0), (0, 0), (0, 3), (4, 7), (8, 12), (12, 13)]
    runs = reader.places(hidden, offsets)
    assert [run[:2] for run in runs] == [(0, 12), (4, 12), (8, 12), (12, 13)], "none ends before it begins"
    assert [share for _, _, share in runs] == sorted((share for _, _, share in runs), reverse=True)
    assert 0.9 < sum(share for _, _, share in runs) < 1


def test_what_is_missing_of_all_shares_stands_nowhere(tmp_path: Path) -> None:
    reader = load_reader(reader_of(tmp_path, **POINTS))
    hidden = np.zeros((3, 2), np.float32)
    (even, last) = reader.places(hidden, [(0, 0), (0, 3), (4, 7)])
    assert even[2] == pytest.approx(2 / 4)
    assert last[2] == pytest.approx(1 / 4)
    hidden[0] = 9.0
    assert sum(share for _, _, share in reader.places(hidden, [(0, 0), (0, 3), (4, 7)])) < 1e-6
    hidden[1:] = 900.0
    assert sum(share for _, _, share in reader.places(hidden, [(0, 0), (0, 3), (4, 7)])) == pytest.approx(1)


def test_a_reader_that_cannot_point_or_has_nothing_to_point_at(tmp_path: Path) -> None:
    hidden = np.ones((2, 2), np.float32)
    assert load_reader(reader_of(tmp_path)).places(hidden, [(0, 0), (0, 3)]) == ()
    assert load_reader(reader_of(tmp_path / "other", **POINTS)).places(hidden, [(0, 0), (0, 0)]) == ()


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"weight": np.zeros((2, 2), np.float32)}, "weight has shape"),
        ({"bias": None}, "bias has shape none"),
        ({"dense": np.zeros((2, 3), np.float32)}, "dense has shape"),
        ({"dense": np.zeros((2, 2), np.float32)}, "dense_bias has shape none"),
        ({"place_weight": np.zeros((3, 2), np.float32)}, r"place_weight has shape \(3, 2\), \(2, 2\)"),
        ({"place_weight": np.zeros((2, 2), np.float32)}, "place_bias has shape none"),
        ({"bias": np.array([np.nan], np.float32)}, "not finite"),
    ],
)
def test_a_damaged_reader_is_refused(tmp_path: Path, arrays: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BundleError, match=sentence):
        load_reader(reader_of(tmp_path, **arrays))


def test_nothing_is_surer_than_numbers_can_say() -> None:
    reader = Reader(np.array([[500.0]], np.float32), np.zeros(1, np.float32))
    assert 0 <= reader.probability(np.array([-9.0], np.float32)) < 1e-20
    assert reader.probability(np.array([9.0], np.float32)) == 1.0

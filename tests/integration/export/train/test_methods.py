"""Which ways of learning a task are tried on what there is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from edgeslm_export.jobs.checkpoint_notes import Notes
from edgeslm_export.sources.checkpoint import Origin, examine_local
from edgeslm_export.train import methods as ways
from edgeslm_export.train.field_spec import FieldSpec
from edgeslm_export.train.spec import Budget, Inputs

from edgeslm.errors import ExportError
from tests.support.export.tiny_tasks import FOUND, findings, make_field_spec, make_spec, write_encoder

# --- labels ------------------------------------------------------------------------------------------


class FakeDecoderMethod:
    """The real one reads a decoder's graph."""

    def __init__(self, method: str, *_: object) -> None:
        self.method = method


@pytest.fixture
def whole(tmp_path: Path, encoders: Path, monkeypatch: pytest.MonkeyPatch) -> Inputs:
    """Everything that there can be."""
    monkeypatch.setattr(ways, "DecoderMethod", FakeDecoderMethod)
    monkeypatch.setattr(ways, "WriterMethod", FakeDecoderMethod)
    checkpoint = examine_local(encoders / "bge", "encoder")
    decoder = Origin(tmp_path, "LlamaForCausalLM", 1, checkpoint.source, "")
    return Inputs(write_encoder(tmp_path / "encoder"), checkpoint, tmp_path / "base", decoder)


def without(inputs: Inputs, *names: str) -> Inputs:
    there = {name: getattr(inputs, name) for name in ("bundle", "checkpoint", "base", "decoder")}
    return Inputs(**{name: value for name, value in there.items() if name not in names})


def tried(inputs: Inputs, folder: Path, *methods: str, rows: int = 300) -> Sequence[str]:
    """The names of their classes, or of an adapter its method."""
    found = ways.make_methods(inputs, make_spec(rows), Budget(methods), Notes(folder / "notes"), folder)
    return [way.method if isinstance(way, FakeDecoderMethod) else type(way).__name__ for way in found]


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ((), ["HeadMethod", "EncoderMethod", "lora"]),
        (("base", "decoder"), ["HeadMethod", "EncoderMethod"]),
        (("decoder",), ["HeadMethod", "EncoderMethod"]),
        (("base",), ["HeadMethod", "EncoderMethod"]),
        (("bundle",), ["EncoderMethod", "lora"]),
        (("bundle", "checkpoint"), ["lora"]),
        (("checkpoint", "base"), ["HeadMethod"]),
    ],
)
def test_all_that_is_possible_is_tried_the_cheapest_first(
    whole: Inputs, tmp_path: Path, missing: Sequence[str], expected: list[str]
) -> None:
    assert tried(without(whole, *missing), tmp_path) == expected


@pytest.mark.parametrize(
    ("method", "expected"),
    [("head", "HeadMethod"), ("encoder", "EncoderMethod"), ("lora", "lora"), ("qlora", "qlora")],
)
def test_a_wanted_method_is_tried_alone(whole: Inputs, tmp_path: Path, method: str, expected: str) -> None:
    assert tried(whole, tmp_path, method) == [expected]


def test_several_wanted_methods_stand_beside_each_other(whole: Inputs, tmp_path: Path) -> None:
    assert tried(whole, tmp_path, "qlora", "head", "lora") == ["HeadMethod", "lora", "qlora"]


@pytest.mark.parametrize(
    ("methods", "missing", "sentence"),
    [
        ((), ("bundle", "checkpoint", "base"), "The method head needs an encoder's bundle"),
        (("head",), ("bundle",), "The method head needs an encoder's bundle .* name it with --encoder"),
        (
            ("head", "encoder"),
            ("checkpoint",),
            "The method encoder needs an encoder's checkpoint: name it with --encoder",
        ),
        (("lora",), ("base",), "The method lora needs a decoder's bundle and its checkpoint: .* --base and"),
        (
            ("lora",),
            ("decoder",),
            "The method lora needs a decoder's bundle and its checkpoint: .*--checkpoint",
        ),
        (
            ("lora", "qlora"),
            ("base", "decoder"),
            "The method lora needs a decoder's bundle and its checkpoint",
        ),
    ],
)
def test_what_a_wanted_method_lacks_is_named(
    whole: Inputs, tmp_path: Path, methods: tuple[str, ...], missing: Sequence[str], sentence: str
) -> None:
    with pytest.raises(ExportError, match=sentence):
        tried(without(whole, *missing), tmp_path, *methods)


# --- fields ------------------------------------------------------------------------------------------

FIELDS = make_field_spec(findings(20), FOUND, required=["state"])
LISTS = make_field_spec(
    [("M3 and M4", {"machines": ["M3", "M4"]})] * 10, {"machines": {"type": "array"}}, required=["machines"]
)
NOWHERE = make_field_spec(
    [(f"it leaks {row}", {"machine": f"M{row}"}) for row in range(40)],
    {"machine": {"type": "string"}},
    required=["machine"],
)


def tried_on_fields(
    inputs: Inputs, folder: Path, *methods: str, spec: FieldSpec = FIELDS, **budget: Any
) -> Sequence[str]:
    """As ``tried``."""
    budget = {"announce": lambda said: None, **budget}
    found = ways.make_field_methods(inputs, spec, Budget(methods, **budget), Notes(folder / "notes"), folder)
    return [way.method if isinstance(way, FakeDecoderMethod) else type(way).__name__ for way in found]


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ((), ["PointerMethod", "lora"]),
        (("bundle",), ["PointerMethod", "lora"]),
        (("base", "decoder"), ["PointerMethod"]),
        (("decoder",), ["PointerMethod"]),
        (("base",), ["PointerMethod"]),
        (("checkpoint",), ["lora"]),
    ],
)
def test_fields_are_pointed_at_and_written_the_cheaper_way_first(
    whole: Inputs, tmp_path: Path, missing: Sequence[str], expected: list[str]
) -> None:
    assert tried_on_fields(without(whole, *missing), tmp_path) == expected


@pytest.mark.parametrize(
    ("method", "expected"), [("encoder", "PointerMethod"), ("lora", "lora"), ("qlora", "qlora")]
)
def test_a_wanted_method_finds_fields_alone(
    whole: Inputs, tmp_path: Path, method: str, expected: str
) -> None:
    assert tried_on_fields(whole, tmp_path, method) == [expected]


@pytest.mark.parametrize(
    ("methods", "missing", "sentence"),
    [
        ((), ("checkpoint", "base"), "The method encoder needs an encoder's checkpoint"),
        (("encoder",), ("checkpoint",), "The method encoder needs an encoder's checkpoint"),
        (("lora",), ("base",), "The method lora needs a decoder's bundle and its checkpoint"),
        (("qlora",), ("decoder",), "The method qlora needs a decoder's bundle and its checkpoint"),
    ],
)
def test_what_a_method_lacks_to_find_fields_is_named(
    whole: Inputs, tmp_path: Path, methods: tuple[str, ...], missing: Sequence[str], sentence: str
) -> None:
    with pytest.raises(ExportError, match=sentence):
        tried_on_fields(without(whole, *missing), tmp_path, *methods)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (LISTS, "The field 'machines' is not a single text, number or truth value"),
        (NOWHERE, "The values of the field 'machine' are in none of the texts; verbatim texts"),
    ],
    ids=["lists", "nowhere"],
)
def test_fields_that_nobody_can_point_at_are_written_where_that_is_possible(
    whole: Inputs, tmp_path: Path, spec: FieldSpec, sentence: str
) -> None:
    said: list[str] = []
    assert tried_on_fields(whole, tmp_path, spec=spec, announce=said.append) == ["lora"]
    (told,) = said
    assert told.startswith(sentence)
    with pytest.raises(ExportError, match=sentence):
        tried_on_fields(whole, tmp_path, "encoder", spec=spec)
    with pytest.raises(ExportError, match=sentence):
        tried_on_fields(without(whole, "base"), tmp_path, spec=spec)


def test_without_the_library_fields_are_pointed_at_alone(
    whole: Inputs, tmp_path: Path, packages_there: dict[str, bool]
) -> None:
    packages_there["peft"] = False
    said: list[str] = []
    assert tried_on_fields(whole, tmp_path, announce=said.append) == ["PointerMethod"]
    assert len(said) == 1
    assert said[0].endswith("No adapter is tried.")

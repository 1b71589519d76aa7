from __future__ import annotations

import hashlib
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.bundle.manifest import load_bundle, memory_need, parse_manifest, short_digest, verify_bundle
from edgeslm.errors import BundleError
from tests.support.nodes import write_reader
from tests.support.pointers import POINTED, fitted
from tests.support.taught import CLASSIFY, EXTRACT, RISK, calibration

WEIGHTS = b"four bits each"


def entry(path: str, data: bytes = WEIGHTS) -> dict[str, Any]:
    return {"path": path, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def manifest(**changes: Any) -> dict[str, Any]:
    made = {
        "format": 1,
        "name": "tiny",
        "kind": "decoder",
        "architecture": "LlamaForCausalLM",
        "source": {"id": "here"},
        "files": [entry("model.onnx")],
        "context_length": 64,
        "kv_bytes_per_token": 10,
        "graphs": {"generate": "model.onnx"},
        "created": "2026-01-01T00:00:00Z",
        **changes,
    }
    return {key: value for key, value in made.items() if value is not None}


def write(folder: Path, **changes: Any) -> Path:
    (folder / "model.onnx").write_bytes(WEIGHTS)
    (folder / "manifest.json").write_text(json.dumps(manifest(**changes)))
    return folder


HEAD = {"encoder": "sha256:0", "weights": "model.onnx"}
ADAPTER = {"base": "sha256:0", "weights": "model.onnx", "rank": 4, "targets": ["q_proj"]}
ENCODER = {"dimension": 3}


def test_loads_and_verifies(tmp_path: Path) -> None:
    bundle = load_bundle(write(tmp_path))
    verify_bundle(bundle)
    raw = (tmp_path / "manifest.json").read_bytes()
    assert bundle.digest == "sha256:" + hashlib.sha256(raw).hexdigest()
    assert bundle.weight_bytes == len(WEIGHTS)
    assert short_digest(bundle.digest) == bundle.digest[:19]


def test_files_in_folders_below_are_fine(tmp_path: Path) -> None:
    (tmp_path / "heads").mkdir()
    (tmp_path / "heads" / "a.npz").write_bytes(WEIGHTS)
    bundle = load_bundle(write(tmp_path, files=[entry("model.onnx"), entry("heads/a.npz")]))
    assert [file.path for file in bundle.manifest.files] == ["model.onnx", "heads/a.npz"]


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="nowhere: there is no such folder"):
        load_bundle(tmp_path / "nowhere")


def test_a_folder_without_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json: missing"):
        load_bundle(tmp_path)


def test_a_manifest_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(BundleError, match=r"manifest\.json: a folder"):
        load_bundle(tmp_path)


def test_missing_file(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "model.onnx").unlink()
    with pytest.raises(BundleError, match=r"model\.onnx: missing"):
        load_bundle(tmp_path)


def test_a_file_that_is_a_folder(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "model.onnx").unlink()
    (tmp_path / "model.onnx").mkdir()
    with pytest.raises(BundleError, match=r"model\.onnx: missing"):
        load_bundle(tmp_path)


def test_wrong_size(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "model.onnx").write_bytes(WEIGHTS + b"!")
    with pytest.raises(BundleError, match=r"model\.onnx: 15 bytes, the manifest says 14"):
        load_bundle(tmp_path)


def test_changed_file_of_the_same_size(tmp_path: Path) -> None:
    bundle = load_bundle(write(tmp_path))
    (tmp_path / "model.onnx").write_bytes(WEIGHTS[::-1])
    with pytest.raises(BundleError, match=r"model\.onnx: its SHA-256 differs"):
        verify_bundle(bundle)


def test_a_file_that_vanishes_before_it_is_verified(tmp_path: Path) -> None:
    bundle = load_bundle(write(tmp_path))
    (tmp_path / "model.onnx").unlink()
    with pytest.raises(BundleError, match=r"model\.onnx: No such file"):
        verify_bundle(bundle)


def test_a_name_longer_than_the_file_system_takes(tmp_path: Path) -> None:
    name = "x" * 300 + ".npz"
    with pytest.raises(BundleError, match="missing, though the manifest lists it"):
        load_bundle(write(tmp_path, files=[entry("model.onnx"), entry(name)]))


@pytest.mark.parametrize("path", ["ops.so", "model", "run.py", "model.onnx.so", ".so", "a/b.SO", "x.pkl"])
def test_a_file_that_no_bundle_has_is_refused(path: str) -> None:
    raw = json.dumps(manifest(files=[entry("model.onnx"), entry(path)])).encode()
    with pytest.raises(BundleError, match=r"m: '.*' is not a file of a bundle, whose names end in \.onnx"):
        parse_manifest(raw, "m")


@pytest.mark.parametrize("name", ["genai_config.json", "report.json", "golden.json", "chat_template.jinja"])
def test_what_is_read_whole_is_bounded_by_the_manifest_already(name: str) -> None:
    files = [entry("model.onnx"), {**entry(name), "bytes": 5_000_000}]
    with pytest.raises(BundleError, match=f"m: '{name}' has 5000000 bytes, and may have"):
        parse_manifest(json.dumps(manifest(files=files)).encode(), "m")


@pytest.mark.parametrize("key", ["files", "quantization", "learned", "of_ours"])
def test_a_manifest_of_nothing_but_lists_takes_little_memory(tmp_path: Path, key: str) -> None:
    """pydantic keeps some 280 bytes for each byte of such a list, and a failed allocation in it aborts."""
    folder = write(tmp_path)
    text = json.dumps({**manifest(), key: ["LISTS"]}).replace('"LISTS"', ",".join(["[]"] * 300_000))
    (folder / "manifest.json").write_text(text)
    tracemalloc.start()
    try:
        with pytest.raises(BundleError, match=r"manifest\.json: larger than"):
            load_bundle(folder)
        assert tracemalloc.get_traced_memory()[1] < 60_000_000
    finally:
        tracemalloc.stop()


def test_a_manifest_larger_than_a_megabyte_is_not_parsed(tmp_path: Path) -> None:
    (write(tmp_path) / "manifest.json").write_text(json.dumps(manifest(name="x" * 1_000_000)))
    with pytest.raises(BundleError, match=r"manifest\.json: larger than the 1000000 bytes that it may have"):
        load_bundle(tmp_path)


def test_a_manifest_lists_at_most_so_many_files() -> None:
    files = [entry(f"{number}.npz") for number in range(1001)]
    with pytest.raises(BundleError, match="m: lists more than 1000 files"):
        parse_manifest(json.dumps(manifest(files=[entry("model.onnx"), *files])).encode(), "m")


def test_another_manifest_than_was_seen_before_is_not_parsed(tmp_path: Path) -> None:
    digest = load_bundle(write(tmp_path)).digest
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(BundleError, match="another bundle than at the start"):
        load_bundle(tmp_path, digest)


def test_what_the_runtime_is_told_is_looked_at(tmp_path: Path) -> None:
    told = b'{"model": {"decoder": {"session_options": {"custom_ops_library": "model.onnx"}}}}'
    (tmp_path / "genai_config.json").write_bytes(told)
    write(tmp_path, files=[entry("model.onnx"), entry("genai_config.json", told)])
    wanted = (
        r"genai_config\.json: the key 'model\.decoder\.session_options\.custom_ops_library' is not allowed"
    )
    with pytest.raises(BundleError, match=wanted):
        load_bundle(tmp_path)


@pytest.mark.parametrize("release", [-1, 2**53, 1.5, "2", True])
def test_a_release_is_a_whole_number(release: object) -> None:
    with pytest.raises(BundleError, match="m: release: "):
        parse_manifest(json.dumps(manifest(release=release)).encode(), "m")
    assert parse_manifest(json.dumps(manifest(release=7)).encode(), "m").release == 7


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", "", ".", "..", "a/..", "a\0b"])
def test_paths_that_leave_the_folder(path: str) -> None:
    raw = json.dumps(manifest(files=[entry("model.onnx"), entry(path)])).encode()
    with pytest.raises(BundleError, match="is not a path inside the bundle"):
        parse_manifest(raw, "m")


@pytest.mark.parametrize(
    "changes",
    [
        {"graphs": {"generate": "../other/model.onnx"}},
        {"graphs": {"generate": "/tmp/model.onnx"}},
        {"graphs": {"score": "score.onnx"}},
        {"kind": "encoder", "encoder": ENCODER, "graphs": {"encode": "encode.onnx"}},
        {
            "kind": "head",
            "graphs": None,
            "head": {**HEAD, "weights": "../head.npz"},
            "learned": CLASSIFY,
        },
    ],
)
def test_only_listed_files_are_used(changes: dict[str, Any]) -> None:
    """What has no digest could be swapped, so it must not be loaded."""
    with pytest.raises(BundleError, match="is used but not among its files"):
        parse_manifest(json.dumps(manifest(**changes)).encode(), "m")


@pytest.mark.parametrize("found", [0, 2, "1", None, [1]])
def test_unknown_format(found: Any) -> None:
    raw = json.dumps({**manifest(), "format": found}).encode()
    with pytest.raises(BundleError, match="this version reads format 1"):
        parse_manifest(raw, "m")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"kind": "ghost"}, "kind"),
        ({"name": ""}, "name"),
        ({"colour": "blue"}, "colour"),
        ({"source": None}, "source"),
        ({"files": [{**entry("model.onnx"), "sha256": "0"}]}, r"files\.0\.sha256"),
        ({"files": [{**entry("model.onnx"), "bytes": -1}]}, r"files\.0\.bytes"),
        ({"context_length": None}, "context_length is missing"),
        ({"kind": "encoder"}, "without the section 'encoder'"),
        ({"kind": "head", "graphs": None}, "without the section 'head'"),
        (
            {"kind": "head", "head": {**HEAD, "encoder": None}, "learned": CLASSIFY},
            "names no encoder, in a bundle that has none",
        ),
    ],
)
def test_wrong_fields_are_named(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BundleError, match=sentence):
        parse_manifest(json.dumps(manifest(**changes)).encode(), "m")


def taught(kind: str = "head", learned: dict[str, Any] = CLASSIFY, **changes: Any) -> bytes:
    """The manifest of a head or an adapter that was taught a task, with changes to what it learned."""
    made = {"kind": kind, kind: HEAD if kind == "head" else ADAPTER, "graphs": None}
    return json.dumps(manifest(**made, learned={**learned, **changes})).encode()


def test_what_a_head_or_an_adapter_was_taught() -> None:
    head = parse_manifest(taught(calibration=calibration(risk=RISK)), "m")
    assert head.learned is not None
    assert (head.learned.task, head.learned.labels, head.learned.rows) == ("topic", ("spam", "ham"), 9)
    assert head.learned.calibration is not None
    assert [point.coverage for point in head.learned.calibration.risk] == [1.0, 0.8, 0.5]
    adapter = parse_manifest(taught("adapter", EXTRACT), "m")
    assert adapter.learned is not None
    assert adapter.learned.output_schema == EXTRACT["output_schema"]
    assert adapter.learned.instruction == EXTRACT["instruction"]


def test_an_adapter_may_be_taught_elsewhere() -> None:
    """Then nobody knows what."""
    assert parse_manifest(json.dumps(manifest(kind="adapter", adapter=ADAPTER)).encode(), "m").learned is None


def test_a_head_without_what_it_learned() -> None:
    with pytest.raises(BundleError, match="m: a head, but without the section 'learned'"):
        parse_manifest(json.dumps(manifest(kind="head", head=HEAD)).encode(), "m")


def test_a_reader_learns_no_task_and_has_its_own_encoder(tmp_path: Path) -> None:
    bundle = load_bundle(write_reader(tmp_path / "reader"))
    assert bundle.manifest.is_reader
    assert bundle.manifest.model_kind == "encoder"
    raw = json.loads((tmp_path / "reader/manifest.json").read_text())
    with pytest.raises(
        BundleError, match="m: a reader, which learns no task, but with the section 'learned'"
    ):
        parse_manifest(json.dumps({**raw, "learned": CLASSIFY}).encode(), "m")
    elsewhere = {**raw, "head": {"reads": "pairs", "encoder": "sha256:0"}}
    with pytest.raises(BundleError, match=r"m: head\.encoder: a reader has an encoder of its own"):
        parse_manifest(json.dumps(elsewhere).encode(), "m")


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (
            taught(learned={**CLASSIFY, "kind": "generate"}),
            r"learned\.kind: Input should be 'classify' or 'extract'",
        ),
        (taught(rows=None), r"learned\.rows"),
        (taught(temperature=1.0), r"learned\.temperature"),
        (taught(labels=[]), r"learned\.labels: two or more are needed, each once"),
        (taught(labels=["spam"]), r"learned\.labels: two or more"),
        (taught(labels=["spam", "ham", "spam"]), r"learned\.labels: two or more"),
        (taught("adapter", labels=[]), r"learned\.labels: two or more"),
        (
            taught(calibration=calibration(scale=[1])),
            r"learned\.calibration: it needs a scale and a bias for",
        ),
        (
            taught(calibration=calibration(bias=[0, 0, 0])),
            r"learned\.calibration: it needs a scale and a bias",
        ),
        (
            taught(calibration=calibration(margins=[0.5])),
            r"learned\.calibration: it needs a confidence for each",
        ),
        (
            taught(calibration=calibration(confidences=[0.5])),
            r"learned\.calibration: it needs a confidence for",
        ),
        (
            taught(reference={"confidences": [0, 1], "labels": [1]}),
            r"learned\.reference: it needs a share for",
        ),
        (taught(reference={"labels": [0.5, 0.5]}), r"learned\.reference\.confidences"),
        (taught(calibration=calibration(rows=-1)), r"learned\.calibration\.rows"),
        (taught(calibration=calibration(scale=[1, float("inf")])), r"learned\.calibration\.scale\.1"),
        (taught(calibration=calibration(bias=[0, float("nan")])), r"learned\.calibration\.bias\.1"),
        (
            taught(calibration=calibration(risk=[{"threshold": 1.1, "error": 0, "coverage": 1}])),
            r"learned\.calibration\.risk\.0\.threshold",
        ),
    ],
)
def test_what_doesnt_fit_together_in_what_was_learned(raw: bytes, sentence: str) -> None:
    with pytest.raises(BundleError, match=sentence):
        parse_manifest(raw, "m")


MACHINE = POINTED["fields"][0]
NO_PROPERTIES: list[Any] = [5, None, "machine", [[]], ["machine", "celsius", "state"]]


def test_the_fields_that_a_head_was_taught() -> None:
    head = parse_manifest(taught(learned=POINTED, calibration=fitted(risk=RISK)), "m").learned
    assert head is not None
    assert [(field.name, field.options) for field in head.fields] == [
        ("machine", 1),
        ("celsius", 2),
        ("state", 3),
    ]
    assert head.fields[1].optional
    assert (head.fields[1].longest, head.fields[2].values) == (20, ("on", "off"))


@pytest.mark.parametrize("values", [[True, 1, 1.5, "1"], [0, False], ["", "true"]])
def test_values_of_fields_keep_their_types(values: list[Any]) -> None:
    fields = [{**MACHINE, "values": values}, *POINTED["fields"][1:]]
    head = parse_manifest(taught(learned=POINTED, fields=fields), "m").learned
    assert head is not None
    found = head.fields[0].values
    assert [(type(value), value) for value in found] == [(type(value), value) for value in values]


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (taught(learned=POINTED, output_schema=None), r"learned\.output_schema: missing, and it was trained"),
        (taught("adapter", EXTRACT, output_schema=None), r"learned\.output_schema: missing, and it was"),
        (taught("adapter", EXTRACT, fields=[MACHINE]), r"learned\.fields: an adapter writes its fields"),
        (taught("adapter", EXTRACT, calibration=fitted()), r"learned\.calibration: an adapter writes its"),
        (
            taught("adapter", EXTRACT, reference={"confidences": [0, 1], "labels": []}),
            r"learned\.reference: an adapter writes its fields",
        ),
        (taught(learned=EXTRACT), r"learned\.fields: each property of the schema is needed, once"),
        (taught(learned=POINTED, fields=POINTED["fields"][1:]), r"learned\.fields: each property of the"),
        (taught(learned=POINTED, fields=[*POINTED["fields"], MACHINE]), r"learned\.fields: each property"),
        (
            taught(learned=POINTED, fields=[*POINTED["fields"], {**MACHINE, "name": "valve"}]),
            r"learned\.fields: each property of the schema is needed, once",
        ),
        (taught(learned=POINTED, output_schema={"type": "object"}), r"learned\.fields: each property of"),
        *(
            (
                taught(learned=POINTED, output_schema={"type": "object", "properties": properties}),
                r"learned\.fields: each property of the schema is needed, once",
            )
            for properties in NO_PROPERTIES
        ),
        (
            taught(learned=POINTED, fields=[{**MACHINE, "longest": 0}, *POINTED["fields"][1:]]),
            r"learned\.fields: each needs an option",
        ),
        (
            taught(learned=POINTED, fields=[{**MACHINE, "longest": -1}, *POINTED["fields"][1:]]),
            r"learned\.fields\.0\.longest",
        ),
        (
            taught(learned=POINTED, fields=[{**MACHINE, "values": [None]}, *POINTED["fields"][1:]]),
            r"learned\.fields\.0\.values\.0",
        ),
        (
            taught(learned=POINTED, fields=[{**MACHINE, "values": [["a"]]}, *POINTED["fields"][1:]]),
            r"learned\.fields\.0\.values\.0",
        ),
        (taught(learned=POINTED, fields=[{"name": "machine"}]), r"learned\.fields\.0\.optional"),
        (taught(learned=POINTED, fields=[{**MACHINE, "name": ""}]), r"learned\.fields\.0\.name"),
        (taught(learned=POINTED, labels=["a", "b"]), r"learned\.labels: fields have none"),
        (taught("adapter", EXTRACT, labels=["a", "b"]), r"learned\.labels: fields have none"),
        (
            taught(learned=POINTED, calibration=fitted(scale=[1.0])),
            r"learned\.calibration: fields have no scale and no bias",
        ),
        (
            taught(learned=POINTED, calibration=fitted(bias=[0.0])),
            r"learned\.calibration: fields have no scale and no bias",
        ),
        (
            taught(learned=POINTED, calibration=fitted(confidences=[0.5])),
            r"learned\.calibration: it needs a confidence for each margin",
        ),
        (
            taught(learned=POINTED, calibration=fitted(confidences=[0.5, 0.25])),
            r"learned\.calibration: margins and confidences must rise",
        ),
        (
            taught(learned=POINTED, reference={"confidences": [0, 1], "labels": [1]}),
            r"learned\.reference: fields have no labels",
        ),
    ],
)
def test_what_doesnt_fit_together_in_fields_that_were_learned(raw: bytes, sentence: str) -> None:
    with pytest.raises(BundleError, match=sentence):
        parse_manifest(raw, "m")


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"format": 1' + b"0" * 5000])
def test_not_json(raw: bytes) -> None:
    with pytest.raises(BundleError, match="m: not JSON"):
        parse_manifest(raw, "m")


@pytest.mark.parametrize("raw", [b"[]", b"null", b'"text"', b"1"])
def test_not_an_object(raw: bytes) -> None:
    with pytest.raises(BundleError, match="m: not a JSON object"):
        parse_manifest(raw, "m")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.binary())
def test_bytes_give_nothing_but_a_bundle_error(raw: bytes) -> None:
    with pytest.raises(BundleError):
        parse_manifest(raw, "m")


@given(
    st.dictionaries(
        st.sampled_from([*manifest(), "head", "encoder", "learned", "x"]), json_values, max_size=3
    )
)
def test_any_field_gives_a_manifest_or_a_bundle_error(changes: dict[str, Any]) -> None:
    try:
        parse_manifest(json.dumps({**manifest(), **changes}).encode(), "m")
    except BundleError as error:
        assert str(error).startswith("m: ")


@given(
    st.dictionaries(
        st.sampled_from([*CLASSIFY, *EXTRACT, *POINTED, "calibration", "reference"]), json_values, max_size=3
    ),
    st.sampled_from([("head", CLASSIFY), ("head", POINTED), ("adapter", EXTRACT)]),
)
def test_anything_learned_gives_a_manifest_or_a_bundle_error(
    changes: dict[str, Any], known: tuple[str, dict[str, Any]]
) -> None:
    kind, learned = known
    try:
        parse_manifest(taught(kind, {**learned, **changes}), "m")
    except BundleError as error:
        assert str(error).startswith("m: ")


@given(json_values, st.lists(st.fixed_dictionaries({"name": st.text(max_size=2), "optional": st.booleans()})))
def test_any_schema_and_fields_give_a_manifest_or_a_bundle_error(
    properties: Any, fields: list[dict[str, Any]]
) -> None:
    schema = {"type": "object", "properties": properties}
    try:
        parse_manifest(taught(learned={**POINTED, "output_schema": schema, "fields": fields}), "m")
    except BundleError as error:
        assert str(error).startswith("m: ")


def test_memory_grows_with_the_cache() -> None:
    files = [entry("model.onnx"), entry("model.onnx.data"), entry("tokenizer.json")]
    parsed = parse_manifest(json.dumps(manifest(files=files)).encode(), "m")
    assert memory_need(parsed, 100) - memory_need(parsed, 0) == 1000
    assert memory_need(parsed, 0) == 3 * len(WEIGHTS) + len(WEIGHTS) * 9 // 2 + 100_000_000

"""Zero-shot checkpoints of three families through export, int8 and the engine, with random weights."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgeslm_export.evaluate.report_card import load_encoder
from edgeslm_export.models.encoder import export_encoder
from edgeslm_export.models.zero_shot import export_zero_shot, read_zero_shot
from edgeslm_export.sources.checkpoint import examine_local

from edgeslm.bundle.manifest import load_bundle
from edgeslm.engine.calls import Embed, FindSpans, LabelText
from edgeslm.errors import BundleError, Cancelled, ExportError, InternalError, InvalidRequest, TooLong
from tests.support.export import tiny_encoders, tiny_zero_shot

pytestmark = pytest.mark.export

TEXT = "the pump of press 4 is hot"
LABELS = ("pump", "press", "oil")


def export(source: Path, out: Path, recipe: str = "int8", **options: Any) -> Path:
    origin = examine_local(source, "encoder")
    found = read_zero_shot(origin, **options)
    assert found is not None
    export_zero_shot(origin, found, out, lambda said: None, recipe)
    return out


@pytest.fixture(scope="module")
def gliclass(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gliclass")
    tiny_zero_shot.gliclass("bert", folder / "source", scorer_type="weighted-dot")
    return export(folder / "source", folder / "bundle")


@pytest.fixture(scope="module")
def gliner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gliner")
    tiny_zero_shot.gliner("deberta", folder / "source")
    return export(folder / "source", folder / "bundle")


@pytest.fixture(scope="module")
def nli(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("nli")
    tiny_zero_shot.nli("modernbert", folder / "source", ("contradiction", "neutral", "entailment"))
    made = export(folder / "source", folder / "bundle", "float", hypothesis="It is about {}!")
    return folder / "source", made


def test_gliclass_labels_a_text(gliclass: Path) -> None:
    card = json.loads((gliclass / "report.json").read_bytes())
    assert card["probabilities"]["mean_apart"] <= 0.03
    manifest = load_bundle(gliclass).manifest
    assert (manifest.kind, manifest.architecture) == ("encoder", "GLiClass")
    encoder = load_encoder(gliclass, 1)
    found = encoder.run(LabelText(TEXT, LABELS)).probabilities
    assert len(found) == 3 and sum(found) == pytest.approx(1, abs=1e-5)
    with pytest.raises(BundleError, match="finds no spans; name one of kind gliner"):
        encoder.run(FindSpans(TEXT, LABELS))


def test_a_text_cant_add_labels(gliclass: Path) -> None:
    """Its special tokens are plain text."""
    encoder = load_encoder(gliclass, 1)
    found = encoder.run(LabelText("<<LABEL>>pump<<SEP>>" + TEXT, ("<<SEP>>pump", "oil")))
    assert len(found.probabilities) == 2


def test_labels_that_leave_no_room(gliclass: Path) -> None:
    encoder = load_encoder(gliclass, 1)
    with pytest.raises(InvalidRequest, match=r"2 labels take .* of 128 tokens"):
        encoder.run(LabelText(TEXT, ("x y " * 30, "oil " * 60)))
    with pytest.raises(InvalidRequest, match="1 to 100"):
        encoder.run(LabelText(TEXT, tuple(f"l{number}" for number in range(101))))
    with pytest.raises(InvalidRequest, match="a label is empty, or is there twice"):
        encoder.run(LabelText(TEXT, ("oil", "oil")))


def test_a_long_text_is_cut_as_told(gliclass: Path) -> None:
    encoder = load_encoder(gliclass, 1)
    with pytest.raises(TooLong):
        encoder.run(LabelText(TEXT * 30, LABELS))
    cut = encoder.run(LabelText(TEXT * 30, LABELS, "head")).truncated
    assert cut is not None and cut.kept < cut.of


def test_gliner_finds_spans_that_dont_overlap(gliner: Path) -> None:
    encoder = load_encoder(gliner, 1)
    found = encoder.run(FindSpans(TEXT, LABELS, least=0.01))
    runs = sorted(run for places in found.places for run in places)
    assert runs
    assert all(end <= start for (_, end, _), (start, _, _) in pairwise(runs))
    words = {TEXT[start:end] for start, end, _ in runs}
    assert all(word == word.strip() and word in TEXT for word in words)
    best = [max((share for _, _, share in places), default=0.0) for places in found.places]
    assert max(best) == pytest.approx(max(found.probabilities))
    assert encoder.run(FindSpans("  ", LABELS)).places == ((), (), ())
    with pytest.raises(TooLong, match="words"):
        encoder.run(FindSpans("a " * 60, LABELS))
    with pytest.raises(BundleError, match="labels no texts"):
        encoder.run(LabelText(TEXT, LABELS))


def test_only_the_likeliest_spans_are_compared(gliner: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text of many words has millions of spans with many labels."""
    encoder = load_encoder(gliner, 1)
    call = FindSpans(TEXT, LABELS, least=1e-6)
    whole = encoder.run(call)
    monkeypatch.setattr("edgeslm.engine.worker.gliner._MOST_SPANS", 1)
    first = encoder.run(call)
    best = max((run for runs in whole.places for run in runs), key=lambda run: run[2])
    assert [run for runs in first.places for run in runs] == [best]
    assert first.probabilities == whole.probabilities


def test_nli_computes_what_transformers_does(nli: tuple[Path, Path]) -> None:
    from transformers import pipeline

    source, bundle = nli
    asked = pipeline("zero-shot-classification", model=str(source), device="cpu")
    wanted = asked(TEXT, candidate_labels=list(LABELS), hypothesis_template="It is about {}!")
    shares = dict(zip(wanted["labels"], wanted["scores"], strict=True))
    found = load_encoder(bundle, 1).run(LabelText(TEXT, LABELS)).probabilities
    assert found == pytest.approx([shares[label] for label in LABELS], abs=1e-5)


def test_a_single_label_gets_the_probability_that_it_fits(gliclass: Path, nli: tuple[Path, Path]) -> None:
    """And not the 1.0 of a softmax over one label."""
    from transformers import pipeline

    source, bundle = nli
    asked = pipeline("zero-shot-classification", model=str(source), device="cpu")
    wanted = asked(TEXT, candidate_labels=["pump"], hypothesis_template="It is about {}!", multi_label=True)
    found = load_encoder(bundle, 1).run(LabelText(TEXT, ("pump",))).probabilities
    assert found == pytest.approx(wanted["scores"], abs=1e-5)
    assert load_bundle(bundle).manifest.zero_shot.contradiction == 0  # type: ignore[union-attr]

    encoder = load_encoder(gliclass, 1)
    model: Any = encoder._zero_shot
    logits: dict[str, Any] = {}
    compute = model.logits
    model.logits = lambda *what: logits.setdefault("found", compute(*what))
    (share,) = encoder.run(LabelText(TEXT, ("pump",))).probabilities
    assert share == pytest.approx(1 / (1 + np.exp(-logits["found"][0])), abs=1e-6)
    assert share < 1


def test_a_long_text_is_shorter_the_more_labels_there_are(
    nli: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each label is a pass over the text, so that the cost of a call would be without a limit."""
    encoder = load_encoder(nli[1], 1)
    labels = tuple(f"label {number}" for number in range(8))
    text = " ".join(["pump"] * 20)
    whole = encoder.run(LabelText(text, labels))
    assert whole.truncated is None and whole.cost.prompt_tokens > 8 * 100
    monkeypatch.setattr("edgeslm.engine.worker.zero_shot_model.MOST_CALL_TOKENS", 8 * 80)
    with pytest.raises(TooLong):
        encoder.run(LabelText(text, labels))
    cut = encoder.run(LabelText(text, labels, "head"))
    assert cut.truncated is not None and cut.cost.prompt_tokens == 8 * 80
    monkeypatch.setattr("edgeslm.engine.worker.zero_shot_model.MOST_CALL_TOKENS", 8 * 24)
    with pytest.raises(InvalidRequest, match="name fewer labels"):
        encoder.run(LabelText(text, labels))


def test_a_pair_is_tokenized_as_a_whole(nli: tuple[Path, Path]) -> None:
    encoder = load_encoder(nli[1], 1)
    model: Any = encoder._zero_shot
    for text in (TEXT, "", "  x\n", "[SEP] </s> é"):
        bare = model._encoder.bare(text)
        ids, kinds, _ = model._encode_pair(bare, "pump", ("pump",), "error")
        whole = encoder._tokenizer.encode(text, "It is about pump!")
        assert (ids, kinds) == (whole.ids, whole.type_ids)


def test_a_cancelled_call_ends_between_labels(nli: tuple[Path, Path]) -> None:
    polled = iter([False, True])
    with pytest.raises(Cancelled):
        load_encoder(nli[1], 1).run(LabelText(TEXT, LABELS), lambda: next(polled))


def _changed(bundle: Path, out: Path, change: Any) -> Path:
    """A copy of a bundle whose layers ``change`` edits."""
    from edgeslm_export.bundle.writer import write_manifest

    shutil.copytree(bundle, out)
    with np.load(out / "layers.npz") as arrays:
        layers = dict(arrays)
    change(layers)
    np.savez(out / "layers.npz", **layers)
    fields = load_bundle(bundle).manifest.model_dump(exclude_none=True)
    write_manifest(out, {name: value for name, value in fields.items() if name != "files"})
    return out


def test_damaged_layers_are_refused_at_load(gliclass: Path, gliner: Path, tmp_path: Path) -> None:
    wrong = _changed(gliclass, tmp_path / "shape", lambda layers: layers.pop("text_in.weight"))
    with pytest.raises(BundleError, match=r"layers\.npz: text_in\.weight has shape none"):
        load_encoder(wrong, 1)

    def infinite(layers: dict[str, Any]) -> None:
        for name in ("label_out.bias", "span_out.bias"):
            layers[name] = np.full_like(layers[name], 3e38)

    huge = _changed(gliner, tmp_path / "huge", infinite)
    with pytest.raises(BundleError, match=r"fails on a first text: .* not finite"):
        load_encoder(huge, 1)


def test_numbers_that_arent_finite_are_an_error_and_not_nothing(gliner: Path) -> None:
    encoder = load_encoder(gliner, 1)
    forward = encoder._zero_shot._encoder.forward  # type: ignore[union-attr]
    nowhere = encoder._zero_shot._encoder  # type: ignore[union-attr]
    object.__setattr__(nowhere, "forward", lambda *what: forward(*what) * np.float32("nan"))
    with pytest.raises(InternalError, match="not finite"):
        encoder.run(FindSpans(TEXT, LABELS))


def test_a_plain_deberta_is_exported_by_torch(tmp_path: Path) -> None:
    """In this environment; the export compares its vectors with PyTorch's."""
    (tmp_path / "source").mkdir()
    tiny_encoders.make("deberta", tmp_path / "source")
    origin = examine_local(tmp_path / "source", "encoder")
    manifest, measured = export_encoder(origin, tmp_path / "out", lambda said: None, "float")
    assert (manifest.architecture, manifest.embeds) == ("DebertaV2Model", True)
    assert measured["cosine_to_float"]["lowest"] >= 0.9999


def test_a_zero_shot_model_still_embeds_for_the_report(gliclass: Path) -> None:
    assert len(load_encoder(gliclass, 1).run(Embed((TEXT,))).vectors) == 1


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"architecture_type": "bi-encoder"}, "only uni-encoders"),
        ({"scorer_type": "hopfield"}, "its scorer is hopfield"),
        ({"squeeze_layers": True}, "squeeze_layers"),
        ({"encoder_layer_id": 3}, "layer 3"),
        ({"class_token_index": 9}, "doesn't add"),
    ],
)
def test_gliclass_that_cant_be_exported(settings: dict[str, Any], reason: str, tmp_path: Path) -> None:
    _config(tmp_path / "config.json", {"model_type": "GLiClass", **settings})
    with pytest.raises(ExportError, match=reason):
        read_zero_shot(_origin(tmp_path))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"labels_encoder": "bge"}, "bi-encoder"),
        ({"span_mode": "token_level"}, "it labels tokens"),
        ({"span_mode": "conv_max"}, "span_mode is conv_max"),
        ({"encoder_config": None, "model_name": "deberta-x"}, r"names its encoder \(deberta-x\)"),
        ({"encoder_config": {"model_type": "t5"}}, "family t5"),
    ],
)
def test_gliner_that_cant_be_exported(settings: dict[str, Any], reason: str, tmp_path: Path) -> None:
    _config(tmp_path / "gliner_config.json", settings)
    with pytest.raises(ExportError, match=reason):
        read_zero_shot(_origin(tmp_path))


def _config(file: Path, settings: dict[str, Any]) -> None:
    encoder = {"model_type": "bert", "max_position_embeddings": 128, "hidden_size": 8}
    config = {"encoder_config": encoder, "class_token_index": 3, "text_token_index": 4, **settings}
    file.write_text(json.dumps(config))
    added = [{"id": 3, "content": "<<ENT>>"}, {"id": 4, "content": "<<SEP>>"}]
    (file.parent / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))


def _origin(folder: Path) -> Any:
    from edgeslm_export.sources.checkpoint import Origin

    from edgeslm.bundle.manifest import Source

    return Origin(folder, "GLiClass", 1, Source(id="tiny"))


def test_a_hypothesis_is_for_inference_alone(tmp_path: Path) -> None:
    _config(tmp_path / "config.json", {"model_type": "bert"})
    with pytest.raises(ExportError, match="natural-language inference"):
        read_zero_shot(_origin(tmp_path), "about {}")
    _config(tmp_path / "config.json", {"model_type": "bert", "label2id": {"ENTAILMENT": 0, "other": 1}})
    with pytest.raises(ExportError, match=r"needs one \{\}"):
        read_zero_shot(_origin(tmp_path), "about")


def test_layers_of_an_unknown_kind_are_refused(tmp_path: Path) -> None:
    import torch

    tiny_zero_shot.gliner("bert", tmp_path / "source")
    file = tmp_path / "source/pytorch_model.bin"
    tensors = torch.load(file, weights_only=True)
    torch.save({**tensors, "count_embed.weight": torch.zeros(2)}, file)
    with pytest.raises(ExportError, match=r"layers that can't be exported: count_embed"):
        export(tmp_path / "source", tmp_path / "out")


def test_a_gliner2_is_refused_by_its_name(tmp_path: Path) -> None:
    config = {"model_type": "extractor", "architectures": ["Extractor"], "counting_layer": "count_lstm"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ExportError, match=r"it is a GLiNER2, whose layers are others"):
        examine_local(tmp_path, "encoder")


def test_weights_are_read_without_running_them(tmp_path: Path) -> None:
    tiny_zero_shot.gliner("bert", tmp_path / "source")
    (tmp_path / "source/pytorch_model.bin").write_bytes(b"cbuiltins\nprint\n(S'ran'\ntR.")
    with pytest.raises(ExportError, match="holds more than weights, or is damaged"):
        export(tmp_path / "source", tmp_path / "out")
    assert not (tmp_path / "out").exists()

"""Zero-shot checkpoints: GLiClass, GLiNER and classifiers for natural-language inference, from their
configuration alone.

Reads what the layers after the encoder are, and refuses what the engine doesn't compute, before anything slow
starts. ``models.zero_shot`` exports them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeslm_export.sources.checkpoint import GLINER_CONFIG, read_config

from edgeslm.bundle.zero_shot import HYPOTHESIS, MOST_TOKENS, Gliclass, Gliner, Nli
from edgeslm.errors import ExportError

FAMILIES = (
    *("albert", "bert", "camembert", "deberta-v2", "distilbert", "electra", "modernbert", "mpnet"),
    *("roberta", "xlm-roberta"),
)
"""``model_type`` of the encoders inside of zero-shot models that can be exported."""
_SCORERS = {"simple": "dot", "weighted-dot": "weighted-dot", "mlp": "mlp"}
_RELATIVE_TOKENS = 1024
"""Context length of a DeBERTa without absolute positions, as the library's pipelines use it; its
``max_position_embeddings`` limits nothing then."""


@dataclass(frozen=True, slots=True)
class ZeroShotSource:
    """A zero-shot checkpoint that can be exported.

    ``encoder`` is the configuration of the encoder in it, and ``prefix`` the start of the names of the
    encoder's weights. ``architecture`` is the name for the manifest.
    """

    section: Gliclass | Gliner | Nli
    architecture: str
    encoder: Mapping[str, Any]
    prefix: str
    context_length: int


def read_gliclass(folder: Path) -> ZeroShotSource:
    """:raises ExportError: the model is of a kind that the engine doesn't compute."""
    config = read_config(folder / "config.json")
    _refuse(folder, "GLiClass", _gliclass_faults(config))
    encoder = _encoder_of(folder, config)
    label, text = (_token(folder, config, key) for key in ("class_token_index", "text_token_index"))
    section = Gliclass(
        label_token=label,
        text_token=text,
        after_label_token=not config.get("embed_class_token", True),
        labels_first=bool(config.get("prompt_first", False)),
        label_pooling=config.get("class_token_pooling", "first"),
        text_pooling=config.get("pooling_strategy", "first"),
        text_only=bool(config.get("extract_text_features", False)),
        scorer=_SCORERS[config.get("scorer_type", "simple")],  # type: ignore[arg-type]
        activation=config.get("projector_hidden_act", "gelu"),
        scale=1.0 if config.get("normalize_features") else None,  # the weights have its value
        lstm_layers=int(bool(config.get("use_lstm", False))),
    )
    return ZeroShotSource(section, "GLiClass", encoder, "model.encoder_model.", _context_length(encoder))


def _gliclass_faults(config: Mapping[str, Any]) -> Iterator[str]:
    if (kind := config.get("architecture_type", "uni-encoder")) != "uni-encoder":
        yield f"its architecture is {kind}, and only uni-encoders can be exported"
    if (scorer := config.get("scorer_type", "simple")) not in _SCORERS:
        yield f"its scorer is {scorer}; those that can be exported: {', '.join(_SCORERS)}"
    for key, what in (
        ("squeeze_layers", "it mixes the layers of its encoder"),
        ("use_segment_embeddings", "it adds embeddings of segments"),
        ("use_calibrator", "it has a calibrator"),
        ("multimodal", "it reads images or sound"),
    ):
        if config.get(key):
            yield f"{what} ({key})"
    if (layer := config.get("encoder_layer_id", -1)) != -1:
        yield f"it takes layer {layer} of its encoder (encoder_layer_id), and only the last can be exported"
    if (act := config.get("projector_hidden_act", "gelu")) not in ("gelu", "relu", "tanh"):
        yield f"its activation is {act}; gelu, relu and tanh can be exported"
    inner = config.get("encoder_config")
    sizes = (config.get("hidden_size"), inner.get("hidden_size") if isinstance(inner, dict) else None)
    if None not in sizes and sizes[0] != sizes[1]:
        yield f"its layers are {sizes[0]} wide and its encoder {sizes[1]}"


def read_gliner(folder: Path) -> ZeroShotSource:
    """:raises ExportError: the model is of a kind that the engine doesn't compute."""
    config = read_config(folder / GLINER_CONFIG)
    _refuse(folder, "GLiNER", _gliner_faults(config))
    encoder = _encoder_of(folder, config)
    label = _token(folder, config, "class_token_index")
    words = str(config.get("sep_token", "<<SEP>>"))
    text = _added_tokens(folder).get(words)
    if text is None:
        raise ExportError(f"{folder} has a tokenizer without the token {words}; save it with its library.")
    section = Gliner(
        label_token=label,
        text_token=text,
        after_label_token=not config.get("embed_ent_token", True),
        longest=int(config.get("max_width", 12)),
        most_words=min(int(config.get("max_len", 384)), MOST_TOKENS),
        word_pooling=config.get("subtoken_pooling", "first"),
        marker=config.get("span_mode", "markerV0"),
        lstm_layers=max(int(config.get("num_rnn_layers", 1)), 0),
    )
    return ZeroShotSource(
        section, "GLiNER", encoder, "token_rep_layer.bert_layer.model.", _context_length(encoder)
    )


def _gliner_faults(config: Mapping[str, Any]) -> Iterator[str]:
    if config.get("labels_encoder"):
        yield "it is a bi-encoder, and only uni-encoders can be exported"
    if config.get("labels_decoder"):
        yield "it writes its labels by a decoder"
    if config.get("relations_layer") is not None:
        yield "it finds relations"
    mode = str(config.get("span_mode", "markerV0"))
    if mode not in ("marker", "markerV0"):
        what = "it labels tokens" if mode.startswith("token") else f"its span_mode is {mode}"
        yield f"{what}; spans by marker and markerV0 can be exported"
    for key, what in (
        ("fuse_layers", "it mixes the layers of its encoder"),
        ("post_fusion_schema", "it fuses labels and words by attention"),
        ("span_encoder_config", "it has a second encoder, of spans"),
        ("precomputed_prompts_mode", "its labels are fixed"),
    ):
        if config.get(key):
            yield f"{what} ({key})"
    if (splitter := config.get("words_splitter_type", "whitespace")) != "whitespace":
        yield f"it splits words by {splitter}, and only whitespace can be exported"


def read_nli(folder: Path, hypothesis: str | None = None) -> ZeroShotSource | None:
    """A classifier of text pairs whose labels have an entailment; None if the labels are others.

    :raises ExportError: the hypothesis has no place for a label.
    """
    config = read_config(folder / "config.json")
    names = {str(label).lower(): number for label, number in labels_of(config).items()}
    if "entailment" not in names:
        return None
    hypothesis = HYPOTHESIS if hypothesis is None else hypothesis
    if hypothesis.count("{}") != 1 or hypothesis.count("{") != 1:
        raise ExportError(f"The hypothesis {hypothesis!r} needs one {{}} where the label stands.")
    classes, entailment = len(names), names["entailment"]
    if sorted(names.values()) != list(range(classes)) or classes < 2:
        raise ExportError(f"{folder} numbers its labels in an unknown way: {names}.")
    against = names.get("contradiction", 1 - entailment if classes == 2 else None)
    section = Nli(hypothesis=hypothesis, classes=classes, entailment=entailment, contradiction=against)
    length = min(_context_length(config), int(config.get("max_position_embeddings", 512)))
    architecture = str((config.get("architectures") or ["NLI"])[0])
    return ZeroShotSource(section, architecture, config, "", length)


def labels_of(config: Mapping[str, Any]) -> Mapping[str, int]:
    """A classifier's labels with their numbers: ``id2label`` the other way around, or ``label2id``."""
    by_label, by_id = config.get("label2id"), config.get("id2label")
    if isinstance(by_id, dict):
        return {str(label): int(number) for number, label in by_id.items()}
    return by_label if isinstance(by_label, dict) else {}


def _refuse(folder: Path, what: str, faults: Iterator[str]) -> None:
    for fault in faults:
        raise ExportError(f"{folder} is a {what} that can't be exported: {fault}.")
    if (folder / "adapter_config.json").is_file():
        raise ExportError(f"{folder} has an adapter, which isn't merged; merge it before the export.")


def _encoder_of(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Configuration of the encoder. :raises ExportError: it is missing, or of an unknown family."""
    inner = config.get("encoder_config")
    if not isinstance(inner, dict):
        file = folder / "encoder_config.json"
        name = config.get("encoder_model_name") or config.get("model_name") or "its encoder"
        if not file.is_file():
            raise ExportError(
                f"{folder} names its encoder ({name}) without its configuration; "
                f"put the config.json of {name} beside it as {file.name}."
            )
        inner = read_config(file)
    family = str(inner.get("model_type", "deberta-v2"))
    if family not in FAMILIES:
        raise ExportError(
            f"{folder} has an encoder of the family {family}, which can't be exported; "
            f"those that can: {', '.join(FAMILIES)}."
        )
    return {**inner, "model_type": family}


def _context_length(encoder: Mapping[str, Any]) -> int:
    length = int(encoder.get("max_position_embeddings", 512))
    family = encoder.get("model_type")
    if family == "deberta-v2" and encoder.get("position_biased_input") is False:
        length = max(length, _RELATIVE_TOKENS)
    if family in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        length -= 2  # positions start after the padding token's
    return min(length, MOST_TOKENS)


def _token(folder: Path, config: Mapping[str, Any], key: str) -> int:
    """Id of a special token. :raises ExportError: the tokenizer doesn't have it."""
    number = config.get(key)
    if not isinstance(number, int) or number not in _added_tokens(folder).values():
        raise ExportError(
            f"{folder} has {key} {number}, which its tokenizer.json doesn't add; save the model and its "
            "tokenizer with their library."
        )
    return number


def _added_tokens(folder: Path) -> dict[str, int]:
    """Added tokens of ``tokenizer.json``. :raises ExportError: the file is missing or damaged."""
    file = folder / "tokenizer.json"
    try:
        added = json.loads(file.read_bytes())["added_tokens"]
        return {str(token["content"]): int(token["id"]) for token in added}
    except FileNotFoundError:
        raise ExportError(
            f"{folder} has no tokenizer.json; load it with its library and save_pretrained to a folder."
        ) from None
    except (OSError, ValueError, KeyError, TypeError):
        raise ExportError(f"{file} can't be read; download it again.") from None

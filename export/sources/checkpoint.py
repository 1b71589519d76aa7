"""Checkpoint check: validates a local checkpoint folder or GGUF file before anything slow starts.

Finds every fault that is visible without loading weights and reports it in one sentence; imports no torch.
``normalize`` then makes the checkpoint folder that the builder reads. ``hub`` downloads models.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgeslm_export.sources.gguf import GgufHeader, read_gguf_header, tied_copy

from edgeslm.bundle.manifest import Source, file_digest
from edgeslm.bundle.text_config import refusal, text_config
from edgeslm.bundle.writer import bundle_name as bundle_name
from edgeslm.errors import ExportError

Kind = Literal["decoder", "encoder", "reader"]

# transformers classes of the decoders for which onnxruntime-genai 0.18's builder makes a graph that computes
# what transformers does, with a cache that can be rewound or a state that can be kept. ``text_config`` turns
# other classes into these and says why some are refused.
DECODERS = (
    "Ernie4_5ForCausalLM",
    "Gemma2ForCausalLM",
    "Gemma3ForCausalLM",
    "GemmaForCausalLM",
    "GraniteForCausalLM",
    "HunYuanDenseV1ForCausalLM",
    "Lfm2ForCausalLM",
    "LlamaForCausalLM",
    "Ministral3ForCausalLM",
    "MistralForCausalLM",
    "NemotronForCausalLM",
    "Phi3ForCausalLM",
    "PhiForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "Qwen3_5ForCausalLM",
    "SmolLM3ForCausalLM",
)

# ``general.architecture`` of a GGUF -> transformers class, where transformers can read the weights.
GGUF_ARCHITECTURES = {
    "gemma2": "Gemma2ForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "nemotron": "NemotronForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}

# Encoders whose token vectors optimum or torch exports under the names that the engine expects.
ENCODERS = (
    "AlbertModel",
    "BertModel",
    "CamembertModel",
    "DebertaV2Model",
    "DistilBertModel",
    "ElectraModel",
    "MPNetModel",
    "ModernBertModel",
    "RobertaModel",
    "XLMRobertaModel",
)

_CLASSIFIED = (
    *("Albert", "Bert", "Camembert", "DebertaV2", "DistilBert", "Electra", "MPNet", "ModernBert", "Roberta"),
    "XLMRoberta",
)
READERS = tuple(f"{family}ForSequenceClassification" for family in _CLASSIFIED)
"""Cross-encoders: architectures with a classification head that the export can read."""
GLINER_CONFIG = "gliner_config.json"
GLINER2 = "extractor"
"""``model_type`` of GLiNER2."""
ZERO_SHOT = ("GLiClass", "GLiClassModel", "GLiNER")
"""Zero-shot models of GLiClass and GLiNER; ``sources.zero_shot`` checks them."""
CLASSIFIERS = READERS
"""Classifiers: those for natural-language inference are zero-shot models, others learned tasks."""
_BY_TYPE = {"deberta-v2": "DebertaV2Model", "GLiClass": "GLiClass", "GLiNER": "GLiNER"}
"""``model_type`` -> class, for checkpoints whose configuration names no class."""
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "spm.model",
)
SETTINGS = (".json", ".jinja", ".model", ".txt")
"""Suffixes of a checkpoint's configuration, chat template and tokenizer."""
BESIDE_TEXT = re.compile(r"mtp\.|(model\.)?(vision_\w+|visual|audio_\w+|multi_modal_projector)\.")
"""Tensors of a multimodal checkpoint that don't belong to its text decoder."""
_SUFFIX = re.compile(r"For\w+$|Model$")


@dataclass(frozen=True, slots=True)
class Origin:
    """A source that passed the check.

    ``path`` is a checkpoint folder or a GGUF file, ``architecture`` the transformers class, ``weights``
    the number of parameters, ``revised`` the UTC date of the source's revision or "" if it has none.
    """

    path: Path
    architecture: str
    weights: int
    source: Source
    revised: str = ""

    @property
    def is_gguf(self) -> bool:
        return self.path.is_file()


def examine_local(path: Path, kind: Kind, source: Source | None = None, revised: str = "") -> Origin:
    """Checks a local folder or file.

    :param source: recorded as the origin; by default the name of the folder or file, with a digest of its
        weights as the revision.
    :raises ExportError: the source can't be exported; the message says why in one sentence.
    """
    if path.is_dir():
        return examine_folder(path, kind, source, revised)
    if path.suffix.lower() != ".gguf":
        raise ExportError(f"{path} is neither a checkpoint folder nor a .gguf file; name one of these.")
    if kind != "decoder":
        raise ExportError(
            f"{path} is a GGUF file; {kind}s are exported from a checkpoint folder or a hub id."
        )
    return _examine_gguf(path, source, revised)


# --- folders ---------------------------------------------------------------------------------------


def examine_folder(path: Path, kind: Kind, source: Source | None = None, revised: str = "") -> Origin:
    """Checks a checkpoint folder; see ``examine_local``."""
    config = read_model_config(path, kind)
    architecture = check_architecture(config, kind, str(path))
    check_tokenizer_names({file.name for file in path.iterdir()}, str(path))
    if kind == "decoder" and not _folder_has_chat_template(path):
        raise ExportError(
            f"{path} has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json); "
            "use an instruct model or add its template."
        )
    files = weight_files(path)
    weights = sum(_count_weights(file, text_only=kind == "decoder") for file in files)
    if source is None:
        source = Source(id=path.resolve().name, revision=_digest_of(files), licence=licence_of(path))
    return Origin(path, architecture, weights, source, revised)


def read_model_config(path: Path, kind: Kind) -> dict[str, Any]:
    """``config.json`` of a checkpoint folder, or a stand-in for a GLiNER, whose configuration has another
    name. :raises ExportError: see ``read_config``."""
    if kind == "encoder" and (path / GLINER_CONFIG).is_file():
        read_config(path / GLINER_CONFIG)
        return {"architectures": ["GLiNER"]}
    return read_config(path / "config.json")


def read_config(file: Path) -> dict[str, Any]:
    """``config.json`` of a checkpoint. :raises ExportError: it is missing or not a JSON object."""
    try:
        config = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise ExportError(f"{file.parent} has no config.json, so it is not a checkpoint folder.") from None
    except (OSError, ValueError) as error:
        raise ExportError(f"{file} can't be read as JSON: {error}.") from None
    if not isinstance(config, dict):
        raise ExportError(f"{file} is not a JSON object, so it doesn't describe a model.")
    return config


def check_architecture(config: dict[str, Any], kind: Kind, where: str) -> str:
    """:return: the transformers class. :raises ExportError: the config names no class, or a class that can't
    be exported.

    :param where: the source, as error messages name it.
    """
    whole = config
    if kind == "decoder":
        config = dict(text_config(config))
    names = config.get("architectures")
    architecture = names[0] if isinstance(names, list) and names else None
    if architecture is None and kind == "encoder":
        architecture = _BY_TYPE.get(str(config.get("model_type")))
    known = {"decoder": DECODERS, "encoder": (*ENCODERS, *ZERO_SHOT, *CLASSIFIERS), "reader": READERS}[kind]
    if architecture not in known:
        listed = ", ".join(_SUFFIX.sub("", name) for name in known)
        other = ""
        if kind == "decoder" and architecture in ENCODERS:
            other = " (the command for it is `edgeslm-export encoder`)"
        elif architecture in READERS:
            other = " (the command for it is `edgeslm-export reader`, without questions)"
        elif kind == "reader" and architecture in ENCODERS:
            other = " as a reader (--questions trains it as one)"
        elif kind == "encoder" and config.get("model_type") == GLINER2:
            other = " (it is a GLiNER2, whose layers are others than those of a GLiNER)"
        elif kind == "decoder" and isinstance(architecture, str) and (why := refusal(architecture, whole)):
            other = f": {why}"
        raise ExportError(
            f"{where} has the architecture {architecture or 'of no name'}, which can't be exported{other}; "
            f"the {kind}s that can: {listed}."
        )
    quantization = config.get("quantization_config")
    if isinstance(quantization, dict):
        method = quantization.get("quant_method", "a library")
        raise ExportError(
            f"{where} is already quantized by {method}; export the float checkpoint it was made from."
        )
    return str(architecture)


def check_tokenizer_names(names: set[str], where: str) -> None:
    """:param names: names of the checkpoint's files. :raises ExportError: none of the files is a
    tokenizer."""
    if not names.intersection(_TOKENIZER_FILES):
        raise ExportError(
            f"{where} has no tokenizer (tokenizer.json or tokenizer.model); add the model's own."
        )


def _folder_has_chat_template(path: Path) -> bool:
    if (path / "chat_template.jinja").is_file() or (path / "chat_template.json").is_file():
        return True
    try:
        settings = json.loads((path / "tokenizer_config.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(settings, dict) and bool(settings.get("chat_template"))


def weight_files(path: Path) -> list[Path]:
    """Weight files: safetensors if there are any, else PyTorch's. :raises ExportError: some are missing."""
    for index_name in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if (path / index_name).is_file():
            try:
                names = sorted(set(json.loads((path / index_name).read_bytes())["weight_map"].values()))
            except (ValueError, KeyError, AttributeError, TypeError):
                raise ExportError(
                    f"{path / index_name} is not an index of weights; download it again."
                ) from None
            for name in names:
                if not (path / name).is_file():
                    raise ExportError(f"{path / name} is missing, though {index_name} lists it.")
            return [path / name for name in names]
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (path / name).is_file():
            return [path / name]
    raise ExportError(f"{path} has no weights (model.safetensors or pytorch_model.bin).")


def _count_weights(file: Path, *, text_only: bool) -> int:
    """Number of parameters in a file (of its text decoder, if ``text_only``): exact for safetensors,
    estimated from the size for PyTorch's format.

    Layout of safetensors: eight bytes of length, a JSON header, the data.
    """
    size = file.stat().st_size
    if file.suffix != ".safetensors":
        return size // 2
    damaged = ExportError(f"{file} is truncated or damaged ({size:,} bytes); download it again.")
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= size - 8:
            raise damaged
        try:
            header = json.loads(stream.read(length))
            tensors = [entry for name, entry in header.items() if name != "__metadata__"]
            end = max((entry["data_offsets"][1] for entry in tensors), default=0)
            counted = [
                entry
                for name, entry in header.items()
                if name != "__metadata__" and not (text_only and BESIDE_TEXT.match(name))
            ]
            weights = sum(int(math.prod(entry["shape"])) for entry in counted)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise damaged from None
    if end + 8 + length != size:
        raise damaged
    return weights


def _digest_of(files: list[Path]) -> str:
    """``sha256:`` and a digest: that of the only file, or that of the files' digests in order."""
    digests = [file_digest(file) for file in files]
    whole = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    return f"sha256:{whole}"


def licence_of(path: Path) -> str:
    """The value of ``license:`` in the model card (the README's front matter); "" if there is none."""
    try:
        lines = (path / "README.md").read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    if not lines or lines[0].strip() != "---":
        return ""
    for line in lines[1:]:
        if line.strip() == "---":
            break
        if line.startswith("license:"):
            return line.partition(":")[2].strip().strip("'\"")
    return ""


# --- GGUF ------------------------------------------------------------------------------------------


def _examine_gguf(file: Path, source: Source | None, revised: str) -> Origin:
    header = read_gguf_header(file)
    for problem in _gguf_problems(header):
        raise ExportError(f"{file} {problem}")
    name = str(header.metadata["general.architecture"])
    if source is None:
        licence = str(header.metadata.get("general.license", ""))
        source = Source(id=file.name, revision=_digest_of([file]), licence=licence)
    weights = header.parameters
    if (copy := tied_copy(file, header)) is not None:
        weights -= next(math.prod(tensor.shape) for tensor in header.tensors if tensor.name == copy)
    return Origin(file, GGUF_ARCHITECTURES[name], weights, source, revised)


def _gguf_problems(header: GgufHeader) -> Iterator[str]:
    """Reasons why a GGUF file can't be exported, each as the end of a sentence that begins with the file's
    name."""
    name = header.metadata.get("general.architecture")
    if name not in GGUF_ARCHITECTURES:
        listed = ", ".join(GGUF_ARCHITECTURES)
        yield f"has the architecture {name!r}, which can't be exported; those that can: {listed}."
    if header.metadata.get("split.count", 0) > 1:
        yield "is one part of several; join them with llama.cpp's gguf-split --merge first."
    if not header.tensors:
        yield "holds a vocabulary and no weights; use the file of the model itself."
    if any(tensor.name.startswith("rope_factors") and name == "phi3" for tensor in header.tensors):
        yield "is a Phi-3 with long context, whose position factors a GGUF loses; use its checkpoint folder."
    if not header.metadata.get("tokenizer.ggml.tokens"):
        yield "has no tokenizer; convert the model again with its tokenizer."
    if not header.metadata.get("tokenizer.chat_template"):
        yield "has no chat template (tokenizer.chat_template); use an instruct model's file."

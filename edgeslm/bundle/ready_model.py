"""Ready models: judges a folder of onnxruntime-genai, as makers publish them, and describes it as a bundle.

Nothing is converted: the graph, its weights, the tokenizer and the chat template are taken as they are. The
folder is untrusted; only the files that a bundle needs are taken, and each is checked before it is copied.
The engine then runs the model once (``edgeslm.engine.prepack.ready``).
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgeslm.bundle import genai_config
from edgeslm.bundle.bounded_files import MANIFEST_BYTES, file_fault, read_whole
from edgeslm.bundle.manifest import MANIFEST, Source
from edgeslm.bundle.onnx_file import ITEM_BYTES, OnnxFile, read_onnx
from edgeslm.bundle.tokenizer_class import generalize, is_known
from edgeslm.bundle.writer import bundle_name
from edgeslm.errors import BundleError

ARCHITECTURES: Final[Mapping[str, str]] = {
    "ernie4_5": "Ernie4_5ForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "granite": "GraniteForCausalLM",
    "hunyuandensev1": "HunYuanDenseV1ForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "nemotron": "NemotronForCausalLM",
    "phi": "PhiForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
}
"""``model.type`` of ``genai_config.json`` -> transformers class: decoders whose cache can be rewound."""

TOKENIZER: Final = "tokenizer.json"
SETTINGS: Final = "tokenizer_config.json"
TEMPLATE: Final = "chat_template.jinja"
SMALL: Final = (
    *(genai_config.FILE, TOKENIZER, SETTINGS, TEMPLATE, "config.json", "generation_config.json"),
    *("special_tokens_map.json", "added_tokens.json"),
)
"""Files besides the graph and its weights that are taken if the folder has them."""
_MOST_CONTEXT: Final = 2**24
_MOST_LISTED: Final = 6


@dataclass(frozen=True, slots=True)
class ReadyModel:
    """A folder that passed the check.

    :ivar files: names of the files to take.
    :ivar left_out: names of the other files.
    :ivar cache_bytes: bytes of a number in the KV cache.
    :ivar formats: number of quantized matrices by bits and group size.
    :ivar windowed: places of ``sliding_window_cache`` in the graph file; see ``amend``.
    :ivar knows_tokenizer: whether the runtime knows the tokenizer's class.
    """

    files: tuple[str, ...]
    left_out: tuple[str, ...]
    graph: str
    architecture: str
    context_length: int
    cache_bytes: int
    kv_bytes_per_token: int
    formats: dict[tuple[int, int], int]
    windowed: tuple[int, ...] = ()
    knows_tokenizer: bool = True

    @property
    def form(self) -> str:
        """The weights' most frequent format, such as ``int4``; ``float`` without quantized matrices."""
        return f"int{self._usual[0]}" if self.formats else "float"

    @property
    def _usual(self) -> tuple[int, int]:
        return max(self.formats, key=lambda form: (self.formats[form], form))

    @property
    def lacks(self) -> list[str]:
        """What a bundle that ``edgeslm-export model`` makes has besides, as sentences."""
        sentences = [
            "no graph that scores labels in one pass: they are scored branch by branch",
            "no graph that takes adapters: tasks can't be taught with LoRA on it",
            "not measured against the float model",
        ]
        if self.cache_bytes > 1:
            sentences.append(
                f"a cache of {8 * self.cache_bytes} bits a number, where an export of a long context has 8"
            )
        return sentences

    @property
    def changes(self) -> list[str]:
        """What ``amend`` changes, as sentences."""
        changed = []
        if self.windowed:
            changed.append("layers with an attention window have a cache of all tokens")
        if not self.knows_tokenizer:
            changed.append("the tokenizer has a class that the runtime knows")
        return changed

    def manifest_fields(self, source: Source, created: str) -> dict[str, Any]:
        """The manifest without ``files`` and ``runtime``."""
        formats = [{"group": "*", "bits": self._usual[0], "group_size": self._usual[1]}]
        return {
            "name": bundle_name(source.id, self.form),
            "kind": "decoder",
            "architecture": self.architecture,
            "source": source.model_dump(),
            "quantization": {"recipe": "ready-made", "groups": formats if self.formats else []},
            "context_length": self.context_length,
            "kv_bytes_per_token": self.kv_bytes_per_token,
            "graphs": {"generate": self.graph},
            "created": created,
        }

    def report(self) -> dict[str, Any]:
        """The report card: what the folder shows without running it."""
        counted = sorted(self.formats.items(), key=lambda item: -item[1])
        return {
            "kind": "decoder",
            "recipe": "ready-made",
            "formats": {_form(bits, group): number for (bits, group), number in counted},
            "cache_bits": 8 * self.cache_bytes,
            "lacks": self.lacks,
            "changed": self.changes,
        }


def judge(folder: Path) -> ReadyModel:
    """Checks a folder that onnxruntime-genai can load.

    :raises BundleError: a file is missing, damaged or leads out of the folder, or the model can't be served;
        the text says what to change.
    """
    try:
        present = _listed(folder)
        config = read_settings(folder, present)
        graph = str(config["decoder"]["filename"])
        onnx = read_onnx(folder / graph)
        return _judged(folder, present, config, graph, onnx)
    except OSError as error:
        raise BundleError(f"{error.filename or folder}: {error.strerror}") from None


def _judged(
    folder: Path, present: Mapping[str, int], config: Mapping[str, Any], graph: str, onnx: OnnxFile
) -> ReadyModel:
    check_weights(folder, present, onnx)
    files = [name for name in SMALL if name in present] + [graph, *sorted(onnx.external)]
    for name in files:
        if fault := file_fault(name, present[name]):
            raise BundleError(f"{folder}: {fault}")
    tokenizer = _tokenizer_settings(folder, present)
    cache = _cache_of(folder / graph, config, onnx)
    decoder = config["decoder"]
    layers, heads, size = (
        _number(decoder, key, folder) for key in ("num_hidden_layers", "num_key_value_heads", "head_size")
    )
    return ReadyModel(
        files=tuple(files),
        left_out=tuple(sorted(set(present) - set(files))),
        graph=graph,
        architecture=ARCHITECTURES[config["type"]],
        context_length=_number(config, "context_length", folder),
        cache_bytes=cache,
        kv_bytes_per_token=2 * layers * heads * size * cache,
        formats=dict(onnx.formats),
        windowed=tuple(onnx.windowed),
        knows_tokenizer=is_known(tokenizer),
    )


def amend(folder: Path, ready: ReadyModel) -> None:
    """Gives the layers with an attention window a cache of all tokens, and the tokenizer a class that the
    runtime knows, in a copy of the folder.

    With caches as long as the window, the runtime (onnxruntime-genai 0.18) refuses requests shorter than the
    window, and a cache can't be rewound beyond it. The results are the same: the window itself stays.

    :raises OSError: a file can't be written.
    """
    if not ready.knows_tokenizer:
        generalize(folder / SETTINGS)
    if not ready.windowed:
        return
    with (folder / ready.graph).open("r+b") as stream:
        for place in ready.windowed:
            stream.seek(place)
            stream.write(b"\0")
    file = folder / genai_config.FILE
    config = json.loads(file.read_bytes())
    config["model"]["decoder"].pop("sliding_window", None)
    file.write_text(json.dumps(config, indent=4) + "\n")


def read_settings(folder: Path, present: Mapping[str, int]) -> dict[str, Any]:
    """The section ``model`` of ``genai_config.json``, checked as far as no graph is needed.

    :param present: size of each file that the folder has or will have.
    :raises BundleError: the model can't be served. :raises OSError: the file can't be read.
    """
    file = folder / genai_config.FILE
    if genai_config.FILE not in present:
        raise BundleError(f"{file}: not a file")
    raw = read_whole(file, MANIFEST_BYTES)
    genai_config.check_genai_config(raw, set(present), str(file))
    config = json.loads(raw).get("model", {})
    kind, decoder = config.get("type"), config.get("decoder", {})
    if kind not in ARCHITECTURES:
        raise BundleError(
            f"{file}: a model of the type {kind!r}, which isn't served; served are {', '.join(ARCHITECTURES)}"
        )
    if "filename" not in decoder:
        raise BundleError(f"{file}: it names no graph (model.decoder.filename)")
    providers = decoder.get("session_options", {}).get("provider_options", [])
    if any("cuda" in one for one in providers):
        raise BundleError(f"{file}: built for CUDA; take the folder for the CPU (cpu_and_mobile/...)")
    if _number(config, "context_length", folder) > _MOST_CONTEXT:
        raise BundleError(f"{file}: model.context_length is more than any model has")
    for name in (TOKENIZER, SETTINGS):
        if name not in present:
            raise BundleError(f"{folder}: has no {name}; add it from the model that the folder was made of")
    return dict(config)


def check_weights(folder: Path, present: Mapping[str, int], onnx: OnnxFile) -> None:
    """:raises BundleError: a file with weights is missing, too small, or outside the folder."""
    for name, size in sorted(onnx.external.items()):
        shown = repr(name[:100])
        if not name or "/" in name or "\\" in name or name in (".", "..") or "\0" in name:
            raise BundleError(f"{folder}: the graph's weights are in {shown}, which leads out of the folder")
        if name not in present:
            raise BundleError(f"{folder}: {shown} is missing, though the graph has weights in it")
        if present[name] < size:
            raise BundleError(
                f"{folder}: {shown} has {present[name]:,} bytes and the graph wants {size:,}; "
                "download it again"
            )


def check_names(names: Iterable[str], where: str) -> None:
    """:param names: paths of a folder's files, with forward slashes. :raises BundleError: none is
    ``genai_config.json``; the text names folders below that have one."""
    if genai_config.FILE in (known := set(names)):
        return
    below = sorted(name.rpartition("/")[0] for name in known if name.endswith(f"/{genai_config.FILE}"))
    below.sort(key=lambda name: "cpu" not in name)
    if not below:
        raise BundleError(
            f"{where}: has no {genai_config.FILE}, so onnxruntime-genai can't load it; "
            "a checkpoint is converted by `edgeslm-export model`"
        )
    more = ", ..." if len(below) > _MOST_LISTED else ""
    raise BundleError(f"{where}: name one of its folders: {', '.join(below[:_MOST_LISTED])}{more}")


def _listed(folder: Path) -> dict[str, int]:
    """Size of each plain file directly in the folder."""
    if not folder.is_dir():
        raise BundleError(f"{folder}: there is no such folder")
    if (folder / MANIFEST).exists():
        raise BundleError(f"{folder}: a bundle already")
    if not (folder / genai_config.FILE).is_symlink() and not (folder / genai_config.FILE).is_file():
        inside = folder.glob(f"**/{genai_config.FILE}")
        check_names([file.relative_to(folder).as_posix() for file in inside], str(folder))
    present = {}
    for file in folder.iterdir():
        status = file.stat() if _is_cached(file) else file.lstat()
        if stat.S_ISLNK(status.st_mode):
            raise BundleError(f"{file}: a link to another place; copy the file itself there")
        if stat.S_ISREG(status.st_mode):
            present[file.name] = status.st_size
    return present


def _is_cached(file: Path) -> bool:
    """Whether a file is a link within the hub's cache, from ``snapshots/<revision>/...`` to ``blobs``."""
    for above in file.parents:
        if above.parent.name == "snapshots":
            blobs = above.parent.parent / "blobs"
            is_inside = blobs.resolve() == above.parent.parent.resolve() / "blobs"
            return is_inside and file.is_symlink() and file.resolve().parent == blobs.resolve()
    return False


def _tokenizer_settings(folder: Path, present: Mapping[str, int]) -> Mapping[str, Any]:
    """The content of ``tokenizer_config.json``. :raises BundleError: it isn't JSON, or there is no chat
    template."""
    file = folder / SETTINGS
    try:
        settings = json.loads(read_whole(file, present[SETTINGS]))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{file}: not JSON ({error})") from None
    settings = settings if isinstance(settings, dict) else {}
    if TEMPLATE not in present and not isinstance(settings.get("chat_template"), str):
        raise BundleError(
            f"{folder}: has no chat template ({TEMPLATE}, or chat_template in {SETTINGS}); "
            "add that of the instruct model"
        )
    return settings


def _cache_of(file: Path, config: Mapping[str, Any], onnx: OnnxFile) -> int:
    """Bytes of a number in the graph's KV cache. :raises BundleError: the graph isn't a decoder with one."""
    inputs = config["decoder"].get("inputs", {})
    layers = _number(config["decoder"], "num_hidden_layers", file)
    kinds = set()
    for key, usual in (("past_key_names", "key"), ("past_value_names", "value")):
        pattern = inputs.get(key, f"past_key_values.%d.{usual}")
        for layer in range(min(layers, len(onnx.inputs) + 1)):
            name = pattern.replace("%d", str(layer))
            if name not in onnx.inputs:
                raise BundleError(f"{file}: it has no input {name}, so its cache can't be rewound")
            kinds.add(onnx.inputs[name])
    if len(kinds) != 1 or not kinds <= ITEM_BYTES.keys():
        raise BundleError(f"{file}: its cache has numbers of an unknown or mixed type")
    return ITEM_BYTES[kinds.pop()]


def _number(settings: Mapping[str, Any], key: str, where: Path) -> int:
    value = settings.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
        raise BundleError(f"{where}: {genai_config.FILE} has {value!r} as {key}, not a whole number above 0")
    return value


def _form(bits: int, group_size: int) -> str:
    return f"{bits} bits, groups of {group_size}"

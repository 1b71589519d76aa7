"""Model hub access: downloads checkpoints and resolves a command's SRC.

No other module talks to a hub. Small files are downloaded first, so that models which can't be exported are
refused early. Large downloads are announced.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from edgeslm_export.jobs.optimum_env import cache_folder
from edgeslm_export.jobs.resources import check_resources
from edgeslm_export.jobs.subprocess_job import Announce
from edgeslm_export.sources.checkpoint import (
    GLINER_CONFIG,
    Kind,
    Origin,
    check_architecture,
    check_tokenizer_names,
    examine_folder,
    examine_local,
    read_config,
    read_model_config,
)

from edgeslm.bundle.manifest import Source
from edgeslm.bundle.onnx_file import read_onnx
from edgeslm.bundle.ready_model import SMALL, check_names, check_weights, read_settings
from edgeslm.errors import ExportError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?(@[\w./-]+)?")
_SMALL = ("config.json", "tokenizer_config.json", GLINER_CONFIG)
_WANTED = re.compile(
    r"config\.json|gliner_config\.json|encoder_config\.json|generation_config\.json|tokenizer.*|special_tokens_map\.json|added_tokens\.json|vocab\.\w+"
    r"|merges\.txt|spiece\.model|spm\.model|chat_template\.\w+|modules\.json|sentence_bert_config\.json|config_sentence_transformers\.json|\d_\w+/config\.json"
)
_SAFETENSORS = re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
_PYTORCH = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin(\.index\.json)?")


def resolve_source(src: str, kind: Kind, announce: Announce, *, memory_a_weight: int = 2) -> Origin:
    """Resolves a command's SRC: a folder, a ``.gguf`` file or a hub id (``[owner/]name[@revision]``).

    :param announce: called with a sentence for the user before something large is downloaded.
    :param memory_a_weight: bytes of memory that the export will need for each weight; a model that needs too
        much isn't downloaded.
    :raises ExportError: the source can't be exported; the message says what to change.
    """
    path = Path(src).expanduser()
    if path.exists():
        return examine_local(path, kind)
    if path.suffix.lower() == ".gguf" or src.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(src):
        raise ExportError(f"{src} doesn't exist; name a checkpoint folder, a .gguf file or a hub id.")
    return fetch_checkpoint(src, kind, announce, memory_a_weight)


def fetch_config(src: str) -> dict[str, Any]:
    """Downloads only ``config.json`` of a hub id.

    :raises ExportError: no network, no such model, no access, or no config.json.
    """
    from huggingface_hub import HfApi, hf_hub_download

    if src.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(src) or src.lower().endswith(".gguf"):
        raise ExportError(f"{src} doesn't exist; name a checkpoint folder, a .gguf file or a hub id.")
    repo, _, revision = src.partition("@")
    with _hub_errors(src):
        info = HfApi().model_info(repo, revision=revision or None)
    sizes = {file.rfilename: 0 for file in info.siblings or ()}
    if "config.json" not in sizes:
        raise ExportError(f"{src} has no config.json{_gguf_hint(sizes)}, so it is not a checkpoint.")
    with _hub_errors(src):
        file = hf_hub_download(repo, "config.json", revision=info.sha)
    return read_config(Path(file))


def fetch_checkpoint(hub_id: str, kind: Kind, announce: Announce, memory_a_weight: int = 2) -> Origin:
    """Downloads a checkpoint into the hub's own cache; see ``resolve_source``.

    :raises ExportError: no network, no such model, no access, or nothing that can be exported.
    """
    from huggingface_hub import HfApi, snapshot_download

    repo, _, revision = hub_id.partition("@")
    with _hub_errors(hub_id):
        info = HfApi().model_info(repo, revision=revision or None, files_metadata=True)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    check_tokenizer_names(set(sizes), hub_id)
    if not {"config.json", *([GLINER_CONFIG] if kind == "encoder" else ())} & sizes.keys():
        raise ExportError(f"{hub_id} has no config.json{_gguf_hint(sizes)}, so it is not a checkpoint.")
    with _hub_errors(hub_id):
        small = snapshot_download(repo, revision=info.sha, allow_patterns=list(_SMALL))
    check_architecture(read_model_config(Path(small), kind), kind, hub_id)
    if kind == "decoder" and not _has_chat_template(Path(small), set(sizes)):
        raise ExportError(f"{hub_id} has no chat template; use an instruct model.")
    weights = [name for name in sizes if _SAFETENSORS.fullmatch(name)]
    weights = weights or [name for name in sizes if _PYTORCH.fullmatch(name)]
    if not weights:
        raise ExportError(
            f"{hub_id} has no weights (model.safetensors or pytorch_model.bin){_gguf_hint(sizes)}."
        )
    wanted = [name for name in sizes if _WANTED.fullmatch(name)] + weights
    total = sum(sizes[name] for name in wanted)
    cache = cache_folder().parent
    cache.mkdir(parents=True, exist_ok=True)
    # The hub counts weights of safetensors only. Other files have at least a weight for four bytes.
    counted = getattr(getattr(info, "safetensors", None), "total", None)
    number = counted or sum(sizes[name] for name in weights) // 4
    check_resources(number, total, cache, memory_a_weight)
    announce(f"Downloading {hub_id}: {len(wanted)} files, {total / 1e6:,.0f} MB at most.")
    with _hub_errors(hub_id):
        folder = snapshot_download(repo, revision=info.sha, allow_patterns=wanted)
    licence = str(getattr(info.card_data, "license", None) or "")
    source = Source(id=repo, revision=info.sha or "", licence=licence)
    return examine_folder(Path(folder), kind, source, _iso(info.last_modified))


def fetch_ready(hub_id: str, announce: Announce) -> tuple[Path, Source, str]:
    """Downloads a ready folder of onnxruntime-genai into the hub's own cache.

    The small files come first, so that a model which can't be served is refused early.

    :param hub_id: ``[owner/]name[@revision][:subfolder]``.
    :return: the folder, its origin, and the date of its revision.
    :raises ExportError: no network, no such model, no access, or too little disk.
    :raises BundleError: nothing there can be served.
    """
    from huggingface_hub import HfApi, snapshot_download

    whole, _, inside = hub_id.partition(":")
    inside = inside.strip("/")
    if hub_id.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(whole) or ".." in inside.split("/"):
        raise ExportError(f"{hub_id} doesn't exist; name a folder or a hub id (owner/name:subfolder).")
    repo, _, revision = whole.partition("@")
    with _hub_errors(whole):
        info = HfApi().model_info(repo, revision=revision or None, files_metadata=True)
    start = f"{inside}/" if inside else ""
    sizes = {
        file.rfilename[len(start) :]: file.size or 0
        for file in info.siblings or ()
        if file.rfilename.startswith(start)
    }
    check_names(sizes, hub_id)
    direct = {name: size for name, size in sizes.items() if "/" not in name}

    def download(names: Iterable[str]) -> Path:
        with _hub_errors(whole):
            wanted = [f"{start}{name}" for name in names]
            return Path(snapshot_download(repo, revision=info.sha, allow_patterns=wanted)) / inside

    folder = download(name for name in SMALL if name in direct)
    graph = str(read_settings(folder, direct)["decoder"]["filename"])
    weights = [name for name in direct if name.endswith((".onnx", ".data")) and name.startswith(graph)]
    total = sum(direct[name] for name in weights)
    if (free := shutil.disk_usage(folder).free) < total:
        raise ExportError(
            f"{folder} has {free / 1e9:.1f} GB free and {hub_id} has {total / 1e9:.1f} GB; free some space."
        )
    announce(f"Downloading {hub_id}: {len(weights)} files, {total / 1e6:,.0f} MB at most.")
    download([graph])
    onnx = read_onnx(folder / graph)
    check_weights(folder, direct, onnx)
    download(onnx.external)
    licence = str(getattr(info.card_data, "license", None) or "")
    source = Source(id=repo, revision=info.sha or "", licence=licence)
    return folder, source, _iso(info.last_modified)


@contextlib.contextmanager
def _hub_errors(hub_id: str) -> Iterator[None]:
    """Turns errors of the hub into ``ExportError`` with a sentence for the user."""
    from huggingface_hub import errors

    try:
        yield
    except errors.HFValidationError:
        raise ExportError(f"{hub_id} doesn't exist here and is not a hub id (owner/name).") from None
    except errors.GatedRepoError:
        raise ExportError(
            f"{hub_id} asks for its terms to be accepted; do that on its page and log in."
        ) from None
    except errors.RevisionNotFoundError:
        raise ExportError(f"{hub_id}: the model exists and has no such revision.") from None
    except errors.RepositoryNotFoundError:
        raise ExportError(
            f"{hub_id} doesn't exist, neither here nor on the hub (a private model needs a login)."
        ) from None
    except errors.HfHubHTTPError as error:
        raise ExportError(f"{hub_id} can't be had from the hub: {str(error).splitlines()[0]}") from None
    except Exception as error:  # the HTTP client's own classes change with its major version
        raise ExportError(
            f"{hub_id} is not a local path and the hub can't be reached ({type(error).__name__}); "
            "check the network or name a downloaded folder or .gguf file."
        ) from None


def _has_chat_template(folder: Path, names: set[str]) -> bool:
    if names & {"chat_template.jinja", "chat_template.json"}:
        return True
    file = folder / "tokenizer_config.json"
    return file.is_file() and bool(json.loads(file.read_bytes()).get("chat_template"))


def _gguf_hint(sizes: dict[str, int]) -> str:
    files = [name for name in sizes if name.endswith(".gguf")]
    return f" but GGUF files: download {files[0]} and name the file" if files else ""


def _iso(moment: datetime.datetime | None) -> str:
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if moment else ""

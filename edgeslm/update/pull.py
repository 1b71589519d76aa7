"""Pull: brings a ready onnxruntime-genai folder from a model hub into the store, as a bundle made here.

The hub is asked by plain HTTP, in the layout of Hugging Face: a description with size and digest of every
file, then each file that the bundle needs. An interrupted pull goes on where it stopped. Nothing is
converted: the folder is judged (``edgeslm.bundle.ready_model``), and the engine runs it once.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import quote, urlsplit

from edgeslm.bundle.manifest import Bundle, Source
from edgeslm.bundle.onnx_file import read_onnx
from edgeslm.bundle.ready_model import SMALL, ReadyModel, check_names, check_weights, judge, read_settings
from edgeslm.engine.prepack.golden import FILE as GOLDEN
from edgeslm.engine.prepack.ready import ReadyTrial, check_memory, make_bundle
from edgeslm.errors import BundleError
from edgeslm.update.allowance import PIECE, Show, Stopped
from edgeslm.update.downloads import ServerLogin, Unreachable
from edgeslm.update.sources import SCHEME
from edgeslm.update.staging import KEPT_S, Staging
from edgeslm.update.store import Store

HUB: Final = "https://huggingface.co"
ENDPOINT_VARIABLE: Final = "HF_ENDPOINT"
TOKEN_VARIABLE: Final = "HF_TOKEN"
_HUB_ID: Final = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]*(/[\w.-]+)?)(@(?P<revision>[\w./-]+))?(:(?P<inside>[^:\0]+))?"
)
_DESCRIPTION_BYTES: Final = 16_000_000
_MADE: Final = (GOLDEN, "report.json", "manifest.json")
_FOLDER: Final = ".pull-"
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class HubId:
    """A folder of a model: ``[owner/]name[@revision][:subfolder]``."""

    repo: str
    revision: str
    inside: str

    @classmethod
    def parse(cls, text: str) -> HubId:
        """:raises BundleError: not such an id."""
        match = _HUB_ID.fullmatch(text)
        inside = (match["inside"] or "").strip("/") if match else ""
        if match is None or ".." in text.split("/") or any(part in ("..", ".") for part in inside.split("/")):
            raise BundleError(f"{text[:200]}: not a hub id; write OWNER/NAME[@REVISION][:SUBFOLDER]")
        return cls(match["repo"], match["revision"] or "main", inside)

    def __str__(self) -> str:
        return f"{self.repo}:{self.inside}" if self.inside else self.repo


@dataclass(frozen=True, slots=True)
class HubFile:
    """Size and digest of a file: the SHA-256 of a large file, the git blob's SHA-1 of a small one."""

    size: int
    sha256: str | None
    blob: str | None

    def fault(self, stream: IO[bytes]) -> str | None:
        """What is wrong with the content; None if it is the promised one."""
        if (size := os.fstat(stream.fileno()).st_size) != self.size:
            return f"it has {size} bytes and should have {self.size}"
        seen = hashlib.sha256() if self.sha256 else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        while piece := stream.read(PIECE):
            seen.update(piece)
        return None if seen.hexdigest() == (self.sha256 or self.blob) else "its digest isn't the hub's"


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model at one revision. ``files`` are those directly in the wanted folder."""

    source: Source
    revised: str
    files: Mapping[str, HubFile]

    @property
    def sizes(self) -> dict[str, int]:
        return {name: file.size for name, file in self.files.items()}


class ModelHub:
    """A hub that serves over ``https://``; ``http://`` is taken of this machine only.

    :raises BundleError: the address is another one.
    """

    def __init__(
        self,
        store: Store,
        *,
        budget_bytes: int,
        endpoint: str | None = None,
        ca_file: Path | None = None,
        show: Show = lambda done, of: None,
    ) -> None:
        self._url = (endpoint or os.environ.get(ENDPOINT_VARIABLE) or HUB).rstrip("/")
        is_local = self._url.startswith("http://") and urlsplit(self._url).hostname in _LOOPBACK
        if not (is_local or self._url.startswith(SCHEME)):
            raise BundleError(f"{self._url}: only {SCHEME} addresses are taken ({ENDPOINT_VARIABLE})")
        token = os.environ.get(TOKEN_VARIABLE, "").strip()
        if not re.fullmatch(r"[\x21-\x7e]*", token):
            raise BundleError(f"{TOKEN_VARIABLE} isn't a token: it has spaces or letters that no token has")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        login = ServerLogin(headers, ca_file)
        self._staging = Staging(store, budget_bytes=budget_bytes, login=login, allow_http=is_local, show=show)

    def describe(self, wanted: HubId) -> HubModel:
        """:raises BundleError: no such model or folder, no access, or an answer that isn't a hub's."""
        revision = quote(wanted.revision, safe="")
        url = f"{self._url}/api/models/{wanted.repo}/revision/{revision}?blobs=true"
        raw = self._staging.fetch(url, None, lambda stream, name: stream.read(), _DESCRIPTION_BYTES)
        try:
            return _model(json.loads(raw), wanted)
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
            raise BundleError(f"{url}: not the description of a model ({error})") from None

    def bring(self, model: HubModel, wanted: HubId, names: Iterable[str], folder: Path) -> None:
        """Downloads files to ``folder``; those that are there already are checked and kept.

        :raises BundleError: a download failed, or a file isn't the promised one.
        """
        names = [name for name in dict.fromkeys(names) if not _is_whole(folder / name, model.files[name])]
        present = sum(file.size for name, file in model.files.items() if (folder / name).is_file())
        self._staging.check_room(sum(model.files[name].size for name in names), str(wanted), present)
        for name in names:
            path = "/".join(filter(None, (wanted.inside, name)))
            url = f"{self._url}/{wanted.repo}/resolve/{model.source.revision}/{quote(path)}"
            file = model.files[name]
            self._staging.fetch(url, None, _Keep(url, file, folder / name), file.size)


class _Keep:
    """Moves a downloaded file to its place if its content is the promised one."""

    def __init__(self, url: str, promised: HubFile, target: Path) -> None:
        self._url, self._promised, self._target = url, promised, target

    def __call__(self, stream: IO[bytes], name: str) -> None:
        if fault := self._promised.fault(stream):
            raise BundleError(f"{self._url}: {fault}")
        Path(self._target.parent.parent, name).rename(self._target)


def pull(wanted: HubId, store: Store, hub: ModelHub) -> tuple[Bundle, ReadyModel, ReadyTrial]:
    """Brings the folder into the store as a bundle.

    :raises BundleError: nothing there can be served, a download failed, or the model fails its test.
    :raises OSError: a disk error.
    """
    model = hub.describe(wanted)
    key = hashlib.sha256(f"{wanted}@{model.source.revision}".encode()).hexdigest()[:16]
    with _own_folder(store.folder / f"{_FOLDER}{key}", str(wanted)) as folder:
        sizes = model.sizes
        hub.bring(model, wanted, (name for name in SMALL if name in sizes), folder)
        graph = str(read_settings(folder, sizes)["decoder"]["filename"])
        hub.bring(model, wanted, [graph], folder)
        onnx = read_onnx(folder / graph)
        check_weights(folder, sizes, onnx)
        check_memory(str(wanted), sum(sizes[name] for name in (graph, *onnx.external)))
        hub.bring(model, wanted, onnx.external, folder)
        ready = judge(folder)
        _, trial = make_bundle(folder, ready, model.source, model.revised)
        bundle = store.add(folder)
        shutil.rmtree(folder, ignore_errors=True)  # the store had the bundle already
    return bundle, ready, trial


@contextmanager
def _own_folder(folder: Path, what: str) -> Iterator[Path]:
    """The folder of one pull, locked. It is kept for the next pull if this one is interrupted, and removed if
    the model can't be served; folders of old, unfinished pulls are removed too."""
    folder.mkdir(parents=True, exist_ok=True)
    for other in folder.parent.glob(f"{_FOLDER}*"):
        with suppress(FileNotFoundError):  # that pull has just ended
            if other != folder and time.time() - other.stat().st_mtime > KEPT_S:
                shutil.rmtree(other, ignore_errors=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Unreachable(f"{what}: is being pulled already") from None
        for name in _MADE:  # of an interrupted pull
            with suppress(FileNotFoundError):
                (folder / name).unlink()
        yield folder
    except (Stopped, Unreachable):
        raise  # the next pull goes on
    except BundleError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def _model(told: Any, wanted: HubId) -> HubModel:
    start = f"{wanted.inside}/" if wanted.inside else ""
    files = {}
    for one in told["siblings"]:
        name, large = str(one["rfilename"]), one.get("lfs") or {}
        if name.startswith(start):
            digests = large.get("sha256"), one.get("blobId")
            size = one["size"]
            if not isinstance(size, int) or size < 0 or not name.isprintable():
                raise ValueError(f"a file has the size {size!r} or a name with control characters")
            files[name[len(start) :]] = HubFile(size, *map(_digest, digests))
    check_names(files, str(wanted))
    direct = {name: file for name, file in files.items() if "/" not in name and name not in (".", "..")}
    revision = str(told["sha"])
    if not re.fullmatch(r"[0-9a-f]{40,64}", revision):
        raise ValueError("its revision isn't a digest")
    if re.fullmatch(r"[0-9a-f]{40}", wanted.revision) and revision != wanted.revision:
        raise ValueError(f"it is of the revision {revision}")
    licence = (told.get("cardData") or {}).get("license")
    source = Source(id=wanted.repo, revision=revision, licence=licence if isinstance(licence, str) else "")
    return HubModel(source, _moment(told.get("lastModified")), direct)


def _digest(value: Any) -> str | None:
    return value if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{40,64}", value) else None


def _moment(value: Any) -> str:
    """UTC time to the second; 1970 if the hub tells none."""
    match = re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", value) if isinstance(value, str) else None
    return f"{match[0]}Z" if match else "1970-01-01T00:00:00Z"


def _is_whole(file: Path, promised: HubFile) -> bool:
    try:
        with file.open("rb") as stream:
            return promised.fault(stream) is None
    except FileNotFoundError:
        return False

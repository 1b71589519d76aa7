"""One version of edgeslm as processes run it: this tree, or another in a directory of its own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.lib.paths import ROOT

FIRST = "8dd6cdd"
"""The commit of version 0.1.0."""
SECOND = "61b530a5"
"""The commit of version 0.2.0."""
PARTS = ("edgeslm", "benchmarks")


class NoHistory(Exception):
    """Git doesn't have the commit here: a shallow clone, or a folder that was unpacked."""


@dataclass(frozen=True, slots=True)
class Version:
    """``environment`` is what ``python`` needs to find the code of ``tree``."""

    name: str
    tree: Path
    python: str
    environment: dict[str, str]

    @property
    def engine(self) -> Path:
        here, before = (self.tree / f"benchmarks/{name}" for name in ("lib/fake_engine.py", "fake_engine.py"))
        return here if here.exists() else before

    def origin(self) -> Path:
        """Where its processes have edgeslm from."""
        command = [self.python, "-c", "import edgeslm; print(edgeslm.__file__)"]
        environment = {**os.environ, **self.environment}
        done = subprocess.run(
            command, env=environment, cwd=self.tree, capture_output=True, text=True, check=True
        )
        return Path(done.stdout.strip()).resolve()


def this_version() -> Version:
    """What this process runs."""
    return Version("new", ROOT, sys.executable, {"PYTHONPATH": os.environ.get("PYTHONPATH", "")})


def version_in(tree: Path) -> Version:
    """The code of ``tree`` with the libraries of this process.

    Of the interpreter without its environment: what an environment has installed is edgeslm too, and its
    ``.pth`` files may insist on that.
    """
    libraries = [entry for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")]
    path = os.pathsep.join([str(tree), *libraries])
    python = os.path.realpath(sys.executable)
    return Version("old", tree, python, {"PYTHONPATH": path})


def unpack(folder: Path, commit: str = FIRST) -> Path:
    """The code of a commit, in ``folder``. :raises NoHistory: git has no such commit here."""
    command = ["git", "archive", commit, *PARTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if done.returncode != 0:
        raise NoHistory(f"git has no commit {commit} here, which a full clone has")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder

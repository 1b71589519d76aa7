"""A reading child that does something else with files called ``bomb``."""

from __future__ import annotations

import sys

_CODE = """
import os, re, sys, time
from edgeslm.knowledge.readers import read_worker
read = read_worker.read_document
def read_document(path, source, **more):
    if path.name.startswith("bomb") and not (path.parent.parent / "mended").exists():
        open(path.parent.parent / "tries", "a").write("x")
        {act}
    return read(path, source, **more)
read_worker.read_document = read_document
read_worker.main()
"""
CRASH = "os._exit(9)"
FREEZE = "re.search('^(a|a)*$', 'a' * 60 + 'b')"
"""Which also keeps the interpreter to itself."""
HOARD = "hoard = [0] * 10**9"


def command(act: str) -> tuple[str, ...]:
    """For ``limited.COMMAND``. Beside the folder of the file it counts in ``tries``, and stops once there is
    a ``mended``."""
    return (sys.executable, "-P", "-c", _CODE.format(act=act))

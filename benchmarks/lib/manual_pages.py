"""Manual pages as HTML by mandoc."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from typing import Final

from edgeslm.errors import ExportError

COMMAND: Final = ("mandoc", "-K", "utf-8", "-T", "html")
PAGE: Final = re.compile(r"\.[1-8][a-z]*")
"""The suffix of a manual page's name."""


def html_of(page: bytes, command: Sequence[str] = COMMAND) -> bytes:
    """:param page: man(7) or mdoc(7).
    :raises ExportError: there is no mandoc, or it makes nothing of the page.
    """
    try:
        done = subprocess.run(command, input=page, capture_output=True, check=False)
    except FileNotFoundError:
        raise ExportError("Manual pages are read through mandoc; apt-get install mandoc brings it.") from None
    if not done.stdout:  # its status tells of the smallest oddity
        raise ExportError(f"mandoc can't read a manual page: {done.stderr.decode(errors='replace')[:200]}")
    return done.stdout

"""docs/reference/commands.md has all commands and arguments, as the parsers have them."""

from __future__ import annotations

import subprocess
import sys

from tests.support.paths import ROOT


def test_the_page_is_that_of_the_parsers() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/commands.py"], capture_output=True, text=True, check=True
    )
    page = (ROOT / "docs/reference/commands.md").read_text("utf-8")
    assert page == done.stdout, "scripts/commands.py >docs/reference/commands.md recreates it"

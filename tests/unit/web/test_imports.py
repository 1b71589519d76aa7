from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["edgeslm.api.worker", "edgeslm.console.worker"])
def test_a_web_process_loads_no_configuration(module: str) -> None:
    """pydantic alone takes 6 MB."""
    code = f"import sys, {module}; print('pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"

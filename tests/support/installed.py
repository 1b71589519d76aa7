"""Fixtures for the tests end to end: the installed programs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.apps import WAIT_S
from tests.support.paths import ROOT


@dataclass(frozen=True)
class Installed:
    """The environment of ``scripts/wheel``: what a user gets, and a Python that sees no checkout."""

    python: Path

    @property
    def environment(self) -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def __call__(self, program: str, *arguments: object) -> str:
        """What it prints. Fails where its status isn't 0."""
        command = [str(self.python.with_name(program)), *map(str, arguments)]
        done = subprocess.run(
            command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    @contextmanager
    def running(self, words: Path, program: str, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
        """It runs meanwhile, and what it says goes to ``words``; SIGTERM must end it with status 0."""
        with words.open("wb") as stream:
            process = subprocess.Popen(
                [self.python.with_name(program), *map(str, arguments)],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
            )
        try:
            yield process
            process.send_signal(signal.SIGTERM)
            assert process.wait(WAIT_S) == 0, words.read_text()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


@pytest.fixture(scope="session")
def installed() -> Installed:
    if "wheel_guard" in sys.modules:  # it is the one that runs this
        return Installed(Path(sys.executable))
    done = subprocess.run([ROOT / "scripts/wheel"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return Installed(Path(done.stdout.strip()))

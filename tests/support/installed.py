"""Fixtures for end-to-end tests: the installed programs."""

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
    """The environment of ``scripts/wheel``: programs as a user gets them, without the checkout."""

    python: Path

    @property
    def environment(self) -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def __call__(self, program: str, *arguments: object, typed: str = "") -> str:
        """Runs a program that must succeed. :param typed: its standard input. :return: its output."""
        command = [str(self.python.with_name(program)), *map(str, arguments)]
        done = subprocess.run(
            command,
            env=self.environment,
            input=typed,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    @contextmanager
    def running(self, words: Path, program: str, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
        """Runs a program during the block, with its output in ``words``; SIGTERM must end it cleanly."""
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
    if "wheel_guard" in sys.modules:  # this process runs in it
        return Installed(Path(sys.executable))
    done = subprocess.run([ROOT / "scripts/wheel"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return Installed(Path(done.stdout.strip()))

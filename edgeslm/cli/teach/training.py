"""Choice of messages and training of heads: runs ``edgeslm-export``, in processes of its own."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeslm.config.extras import install_line
from edgeslm.errors import EdgeslmError


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is taught: the task with its labels, the encoder, and a folder for the files in between."""

    task: str
    labels: Mapping[str, str]
    encoder: Path
    work: Path

    def check(self) -> None:
        """:raises EdgeslmError: training isn't installed here."""
        if importlib.util.find_spec("sklearn") is None:
            line = install_line("heads")
            raise EdgeslmError(f"teaching needs the extra heads, which isn't installed: {line}")

    def choose(self, texts: Sequence[str], rows: Sequence[Mapping[str, str]], count: int) -> dict[str, Any]:
        """The next texts to label, with guesses, and the accuracy so far (``edgeslm-export choose``).

        :raises EdgeslmError: the choice failed.
        """
        pool = self._write("pool.jsonl", [{"text": text} for text in texts])
        command = ["choose", pool, "--count", str(count), "--encoder", str(self.encoder)]
        if rows:
            command += ["--labelled", self._write("rows.jsonl", rows)]
        return _run(command)

    def train(self, rows: Sequence[Mapping[str, str]], out: Path) -> dict[str, Any]:
        """Trains a head, which replaces that in ``out``, and returns its report.

        :raises EdgeslmError: training failed.
        """
        description = self.work / "task.yaml"
        task = {"name": self.task, "kind": "classify", "labels": dict(self.labels)}
        description.write_text(json.dumps(task), "utf-8")  # JSON is YAML
        out.parent.mkdir(parents=True, exist_ok=True)
        data = self._write("rows.jsonl", rows)
        command = ["tune", str(description), data, str(out), "--method", "head", "--replace"]
        return _run([*command, "--encoder", str(self.encoder)])

    def _write(self, name: str, rows: Sequence[Mapping[str, str]]) -> str:
        file = self.work / name
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
        return str(file)


def _run(arguments: Sequence[str]) -> dict[str, Any]:
    command = [sys.executable, "-P", "-m", "edgeslm_export", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().rpartition("\n")[2].removeprefix("edgeslm-export: ")
        raise EdgeslmError(f"{arguments[0]} failed: {said}")
    found: dict[str, Any] = json.loads(done.stdout.strip().rpartition("\n")[2])
    return found

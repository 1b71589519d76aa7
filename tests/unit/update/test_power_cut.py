"""A power cut at any moment of a switch: what was not synced may be gone, and a whole model is served.

Before and after each renaming and each syncing a disk is made as it may be found then: files whose content
was not synced are empty (Pillai et al., OSDI 2014, "All file systems are not created equal").
"""

from __future__ import annotations

import os
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgeslm.bundle.manifest import load_bundle, verify_bundle
from edgeslm.config.loader import parse_config
from edgeslm.update.store import Store
from tests.support.nodes import write_bundle


class Disk:
    """Notes a state folder as it may be found after a power cut at each step."""

    def __init__(self, folder: Path, found: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._found = found
        self._synced: set[int] = set()
        self.cuts: list[Path] = []
        fsync = os.fsync

        def note_sync(descriptor: int) -> None:
            self.cut()
            fsync(descriptor)
            self._synced.add(os.fstat(descriptor).st_ino)
            self.cut()

        def note_move(move: Any) -> Any:
            def moved(path: Path, target: Path) -> Any:
                self.cut()
                result = move(path, target)
                self.cut()
                return result

            return moved

        monkeypatch.setattr(os, "fsync", note_sync)
        for name in ("rename", "replace"):
            monkeypatch.setattr(Path, name, note_move(getattr(Path, name)))

    def cut(self) -> None:
        """Content that is not synced is lost: the file is there, and empty."""
        copy = self._found / f"cut-{len(self.cuts)}"
        shutil.copytree(self._folder, copy)
        for file in self._folder.rglob("*"):
            if file.is_file() and file.stat().st_ino not in self._synced:
                (copy / file.relative_to(self._folder)).write_bytes(b"")
        self.cuts.append(copy)


@pytest.mark.parametrize("on_trial", [False, True])
def test_a_whole_model_is_served_after_a_power_cut_at_any_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_trial: bool
) -> None:
    first = write_bundle(tmp_path / "first")
    config = parse_config(
        yaml.safe_dump(
            {
                "node": "hall",
                "broker": {"url": "mqtt://broker"},
                "models": {"small": {"bundle": str(first)}},
                "tasks": {"say": {"kind": "generate", "model": "small"}},
            }
        )
    )
    state = tmp_path / "state"
    store = Store(state, "hall")
    base = load_bundle(first).digest
    disk = Disk(state, tmp_path / "found", monkeypatch)
    digests = {base}
    for weights in (b"second", b"third"):
        with store.draft() as draft:
            bundle = store.add(write_bundle(draft / "new", weights=weights))
        digests.add(bundle.digest)
        store.activate("small", base, bundle.digest, on_trial=on_trial)
        store.begin_start()
        store.prove("small")
    store.roll_back("small")
    disk.cut()
    monkeypatch.undo()
    assert len(disk.cuts) > 40
    served = []
    for found in disk.cuts:
        after = Store(found, "hall")
        after.clear()
        after.begin_start()
        bundle = load_bundle(after.settled(config).models["small"].bundle)
        verify_bundle(bundle)
        assert bundle.digest in digests
        assert after.problems == {}
        served.append(bundle.digest)
    changes = [new for old, new in pairwise(served) if old != new]
    assert len(changes) == 3, "it changes when it was told to, and at no other step"

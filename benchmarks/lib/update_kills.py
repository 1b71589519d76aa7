"""Kills of a node while its model is replaced: does it come back, with a whole bundle, and answer?

    python benchmarks/robustness/chaos.py update BUNDLE [--kills 50] [--seed 1] [--json]

Each time the real node starts with the real decoder, gets another bundle (the same weights under another
name) in its watched folder, and is killed with SIGKILL, with its engines and tests, at a random moment
between the arrival of the archive and the end of the canary period. After a restart it must come online and
answer a request, and its model must be the old or the new bundle with every file as the manifest says. Each
tenth run goes to its end and must have the new model. Prints one JSON line last; status 1 if one of these
fails.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import yaml

from benchmarks.lib.cards import Say, run_benchmark
from edgeslm.bundle.manifest import Bundle, load_bundle, verify_bundle
from edgeslm.cli.demo.broker import start_broker
from edgeslm.client import Client
from edgeslm.config.loader import load_config
from edgeslm.errors import EdgeslmError
from edgeslm.update.store import Store

NODE: Final = "hall"
FIRST_S: Final = 180.0
"""For a node to come online and answer, on any machine."""
WHOLE_EVERY: Final = 10
"""Each so many runs goes to its end."""


class Device:
    """A folder with a node's configuration, its state and the folder that it watches."""

    def __init__(self, folder: Path, bundle: Path, url: str) -> None:
        self.incoming = folder / "incoming"
        self.incoming.mkdir()
        self.state = folder / "state"
        self._bundle = bundle
        self._drafts = folder / "drafts"
        self._drafts.mkdir()
        self._words = folder / "words.txt"
        self._url = url
        self.file = folder / "config.yaml"
        self.file.write_text(
            yaml.safe_dump(
                {
                    "node": NODE,
                    "broker": {"url": url},
                    "models": {"small": {"bundle": str(bundle)}},
                    "tasks": {
                        "judge": {"kind": "classify", "model": "small", "labels": ["normal", "critical"]}
                    },
                    "updates": {"watch": str(self.incoming), "trial_s": 1, "slowest": 10},
                    "prepare": "never",
                    "state_dir": str(self.state),
                }
            )
        )

    def start(self) -> subprocess.Popen[bytes]:
        command = (sys.executable, "-m", "edgeslm", "run", str(self.file))
        with self._words.open("wb") as words:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=words, stderr=words, start_new_session=True
            )

    def ask(self) -> str:
        """The digest of the model that answers, as results shorten it. :raises RuntimeError: nothing does."""
        try:
            with Client(self._url, NODE) as client:
                give_up_at = time.monotonic() + FIRST_S
                while client.node_state != "online":
                    if time.monotonic() > give_up_at:
                        raise RuntimeError(f"not online: {self._words.read_text()[-800:]}")
                    time.sleep(0.05)
                result = client.request("judge", "Spindle 3 smells of burnt oil", timeout=FIRST_S)
        except EdgeslmError as error:
            raise RuntimeError(f"no answer ({error}); the node: {self._words.read_text()[-800:]}") from None
        if result.status != "ok" or result.model is None:
            raise RuntimeError(f"it answers {result}")
        return result.model.partition("@")[2]

    def pack(self, number: int) -> tuple[Path, str]:
        """An archive of the bundle under another name, and its digest."""
        manifest = json.loads((self._bundle / "manifest.json").read_text())
        manifest["name"] = f"version-{number}"
        draft = self._drafts / f"{number}"
        draft.mkdir()
        (draft / "manifest.json").write_text(json.dumps(manifest))
        archive = self._drafts / f"{number}.tar"
        with tarfile.open(archive, "w") as tar:
            for entry in manifest["files"]:
                tar.add(self._bundle / entry["path"], entry["path"])
            tar.add(draft / "manifest.json", "manifest.json")
        for entry in manifest["files"]:
            (draft / entry["path"]).parent.mkdir(parents=True, exist_ok=True)
            os.link(self._bundle / entry["path"], draft / entry["path"])
        return archive, load_bundle(draft).digest

    def tidy(self) -> None:
        """Removes what nothing goes back to: hundreds of copies would fill the disk."""
        store, config = Store(self.state, NODE), load_config(self.file)
        for stored in store.bundles():
            if not stored.used_by:
                store.remove(stored.bundle.digest, config)

    def serving(self) -> Bundle:
        """By the record, as the next start reads it."""
        config = Store(self.state, NODE).settled(load_config(self.file))
        return load_bundle(config.models["small"].bundle)


def kill(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def look(device: Device, allowed: Sequence[str]) -> str:
    """Starts the node after a kill. :return: the digest of what serves. :raises RuntimeError: it is wrong."""
    process = device.start()
    try:
        said = device.ask()
        bundle = device.serving()
        verify_bundle(bundle)
        if bundle.digest not in allowed or not bundle.digest.startswith(said):
            raise RuntimeError(f"{said} answers, {bundle.digest} is on record, allowed were {allowed}")
        left = [path.name for path in (device.state / "updates").glob(".draft-*")]
        if left:
            raise RuntimeError(f"left over: {left}")
    finally:
        kill(process)
    return bundle.digest


def measure(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    dice, ends, wrong = random.Random(args.seed), Counter[str](), []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        broker = stack.enter_context(start_broker(folder))
        device = Device(folder, args.bundle.resolve(), broker.url)
        present = load_bundle(args.bundle).digest
        whole_s = 20.0
        for number in range(args.kills):
            goes_on = number % WHOLE_EVERY == 0
            archive, digest = device.pack(number)
            process = device.start()
            try:
                device.ask()
                archive.rename(device.incoming / "small.tar")
                began = time.monotonic()
                until = began + (FIRST_S if goes_on else dice.uniform(0, whole_s))
                while time.monotonic() < until:
                    entry = Store(device.state, NODE).entry("small")
                    if goes_on and entry is not None and (entry.active, entry.tries) == (digest, None):
                        whole_s = time.monotonic() - began
                        break
                    time.sleep(0.02)
            finally:
                kill(process)
            try:
                after = look(device, [digest] if goes_on else [present, digest])
            except (RuntimeError, EdgeslmError) as error:
                wrong.append(f"run {number}: {error}")
                say(wrong[-1])
                after = device.serving().digest
            ends["went to its end" if goes_on else "new" if after == digest else "old"] += 1
            how = "to its end" if goes_on else "killed"
            say(f"{number + 1:4d}  {how}: the {'new' if after == digest else 'old'} one answers")
            present = after
            device.tidy()
    if wrong:
        raise RuntimeError(f"{len(wrong)} of {args.kills} runs are wrong")
    return {"kills": args.kills, "whole_s": round(whole_s, 1), "ends": dict(ends), "wrong": len(wrong)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    run_benchmark("update_kills", parser.parse_args(), measure, what="a node killed while its model changes")

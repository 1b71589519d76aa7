"""Memory of optional parts of a node: console, metrics, Home Assistant discovery, tracing.

    python benchmarks/speed/node.py parts BUNDLE [--rounds 3] [--json]

Megabytes (2^20 bytes) resident of the daemon after the same hundred requests, without any part and with each
alone, in turns; the process of the console separately, with its private and its shared pages. Chromium opens
the page on this machine, signed in, until the first requests are drawn. Needs the extra `dev`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.lib.cards import Say, run_benchmark
from benchmarks.lib.served import ask, served
from edgeslm.cli.demo.broker import free_port

_TOKEN = "a-token-of-a-benchmark-0123456789"
_REQUESTS = 100
_PAGES = 1 << 20


def _parts(name: str, folder: Path) -> dict[str, Any]:
    if name == "console":
        (folder / "token").write_text(_TOKEN + "\n")
        return {"console": {"listen": f"127.0.0.1:{free_port()}", "token_file": str(folder / "token")}}
    return {
        "none": {},
        "metrics": {"metrics": {"listen": f"127.0.0.1:{free_port()}"}},
        "discovery": {"discovery": {"prefix": "homeassistant"}},
        "tracing": {"tracing": {"endpoint": f"http://127.0.0.1:{free_port()}/v1/traces"}},
    }[name]


def _resident(pid: int, key: str = "Rss") -> float:
    """Of a process; with ``Private`` what is its alone."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(key)) / _PAGES


def _process(words: Sequence[str]) -> int:
    """The process whose command line has all these words."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
            except OSError:
                continue
            if all(word in line for word in words) and int(entry.name) != os.getpid():
                return int(entry.name)
    raise RuntimeError(f"no process runs {' '.join(words)}")


def _open_page(address: str) -> dict[str, float]:
    """Milliseconds to the first paint of the node's page and to its first requests, and kB on the wire.

    The wire: what Chromium counts of bodies, and the text of each response's head.
    """
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page()
        network = page.context.new_cdp_session(page)
        network.send("Network.enable")
        counted: list[float] = []
        network.on("Network.dataReceived", lambda event: counted.append(event["encodedDataLength"]))
        network.on("Network.responseReceived", lambda event: counted.append(len(str(event["response"]))))
        page.goto(f"http://{address}/")
        page.fill("#token", _TOKEN)
        began = time.monotonic()
        page.press("#token", "Enter")
        page.locator("#requests tbody tr").first.wait_for()
        figures_ms = (time.monotonic() - began) * 1000
        paint_ms = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        browser.close()
    return {"first_paint_ms": paint_ms, "figures_ms": figures_ms, "wire_kb": sum(counted) / 1000}


def _measure_one(name: str, bundle: Path) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="extras-") as made:
        task = {"kind": "classify", "model": "small", "labels": ["good", "bad"]}
        parts = _parts(name, Path(made))
        models = {"small": {"bundle": str(bundle.resolve())}}
        with served({"models": models, "tasks": {"judge": task}, **parts}) as (url, state_dir):
            ask(url, "judge", ["it is fine"] * _REQUESTS, 4)
            if name == "metrics":
                with urllib.request.urlopen(f"http://{parts['metrics']['listen']}/metrics") as scrape:
                    scrape.read()
            time.sleep(3.0)
            daemon = _process(["edgeslm run", str(state_dir.parent)])
            found = {"daemon": _resident(daemon)}
            if name == "console":
                found |= _open_page(parts["console"]["listen"])
                worker = _process(["edgeslm.console.worker"])
                found |= {"console": _resident(worker), "console_own": _resident(worker, "Private")}
            return found


def measure(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    rounds: dict[str, list[dict[str, float]]] = {}
    for _ in range(args.rounds):
        for name in ("none", "metrics", "discovery", "tracing", "console"):
            found = _measure_one(name, args.bundle)
            rounds.setdefault(name, []).append(found)
            say(f"  {name:>9}  " + "  ".join(f"{key} {value:.1f}" for key, value in found.items()))
    middle = {
        name: {key: statistics.median(one[key] for one in many) for key in many[0]}
        for name, many in rounds.items()
    }
    alone = middle["none"]["daemon"]
    added = {f"{name}_mb": round(of["daemon"] - alone, 1) for name, of in middle.items() if name != "none"}
    page = {key: round(value, 1) for key, value in middle["console"].items() if key != "daemon"}
    return {"daemon_mb": round(alone, 1), **added, **page}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    args = parser.parse_args(argv)
    run_benchmark("extras", args, measure)

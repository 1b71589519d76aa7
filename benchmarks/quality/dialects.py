"""What can OpenAI's and Ollama's official clients do with a node, and with llama.cpp's server?

    python benchmarks/quality/dialects.py --bundle BUNDLE --encoder BUNDLE [--gguf FILE]

Runs the same list of features (``lib/dialect_checks.py``) against a node and, with ``--gguf``, against
llama.cpp's server with the same decoder, a second of them for embeddings. Prints a table, which is in
``docs/reference/http.md``, and one JSON line last.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks.lib.assist_calls import TOKEN, edge_node
from benchmarks.lib.cards import Say, run_benchmark
from benchmarks.lib.dialect_checks import FEATURES, Site
from benchmarks.lib.llama_server import find_server, running, version_of
from edgeslm.hardware.board import usable_cores

LABELS: Final = ("normal", "warning", "critical")
CONTEXT: Final = 4096


@contextmanager
def edge_site(args: argparse.Namespace, folder: Path) -> Iterator[Site]:
    models = {
        "small": {"bundle": str(args.bundle.resolve())},
        "encoder": {"bundle": str(args.encoder.resolve())},
    }
    tasks = {"triage": {"kind": "classify", "model": "small", "labels": list(LABELS)}}
    with edge_node(folder, {"models": models, "tasks": tasks}) as port:
        yield Site(f"http://127.0.0.1:{port}", TOKEN, "model:small", "model:encoder", "triage")


@contextmanager
def llama_site(args: argparse.Namespace, folder: Path) -> Iterator[Site]:
    server, threads = find_server(args.llama_server), usable_cores()
    name = args.gguf.name
    key = ("--api-key", TOKEN, "--alias", name)
    with ExitStack() as stack:
        ports = [
            stack.enter_context(
                running(server, args.gguf, 1, threads, folder / f"{mode}.log", CONTEXT, (*key, *more))
            )[1]
            for mode, more in (("chat", ("--jinja",)), ("embed", ("--embeddings", "--pooling", "mean")))
        ]
        chat, embed = (f"http://127.0.0.1:{port}" for port in ports)
        yield Site(chat, TOKEN, name, name, name, embed)


def check(site: Site, say: Say) -> dict[str, str]:
    """What of each feature the site supports: ``yes``, or ``no`` and why."""
    found = {}
    for name, feature in FEATURES.items():
        try:
            found[name] = feature(site) or "yes"
        except Exception as error:
            found[name] = f"no: {type(error).__name__}: {error}".replace("\n", " ")[:160]
        say(f"  {name:<36} {found[name]}")
    site.opened.close()
    return found


def measure(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    sites: dict[str, dict[str, str]] = {}
    version = None
    with tempfile.TemporaryDirectory(prefix="dialects-") as name:
        folder = Path(name)
        with edge_site(args, folder) as site:
            say("edgeslm")
            sites["edgeslm"] = check(site, say)
        if args.gguf is not None:
            version = version_of(find_server(args.llama_server))
            with llama_site(args, folder) as site:
                say(f"llama.cpp {version}")
                sites["llama.cpp"] = check(site, say)
    say("\n| feature | " + " | ".join(sites) + " |\n|---|" + "---|" * len(sites))
    for feature in FEATURES:
        say(f"| {feature} | " + " | ".join(told[feature].partition(":")[0] for told in sites.values()) + " |")
    return {"llama_version": version, "features": len(FEATURES), "sites": sites}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, required=True, help="a decoder's bundle")
    parser.add_argument("--encoder", type=Path, required=True, help="an encoder's bundle")
    parser.add_argument("--gguf", type=Path, help="the same decoder for llama.cpp's server")
    parser.add_argument("--llama-server", type=Path, help="(default: the one on the PATH)")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    args = parser.parse_args(argv)
    run_benchmark("dialects", args, measure, bundle=args.bundle.name)


if __name__ == "__main__":
    main()

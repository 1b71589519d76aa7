"""Do known attacks harm an installed node or its other clients?

    scripts/attack [--only WORD ...] [--answer-s S] [--starter DIR] [--keep DIR]

The node runs with real models at a real broker while another client sends requests. An attack has failed if
the node stays online and works as specified, its parent and each child stay within their memory, and the
other client gets its answers within a second. Prints a table, then one JSON line; status 1 if an attack
succeeded.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))

import edgeslm
from benchmarks.lib import attack_bus as bus
from benchmarks.lib import attack_files as files
from benchmarks.lib import attack_processes as processes
from benchmarks.lib.attack_site import Bystander, Memory, Site
from benchmarks.lib.paths import STARTER

PARENT_MB = 100
"""60 MB at rest, and what a message of 1 MiB takes several times."""
CHILD_MB = 900
"""An engine with the small model and its context, a little above."""
ANSWER_S = 1.0

ATTACKS: tuple[tuple[str, Callable[[Site], str]], ...] = (
    ("native code in a bundle", files.native_code),
    ("sparse headers in an archive", files.sparse_archive),
    ("a manifest of empty lists", files.nested_manifest),
    ("an exponential pattern", bus.patterns),
    ("a bad page in the journal", files.damaged_journal),
    ("documents of quadratic cost", files.documents),
    ("a grammar of millions of states", bus.grammars),
    ("Correlation Data of 65 kB", bus.amplification),
    ("a pickle from an engine", processes.pickles),
    ("folders without end", files.folders),
    ("an id that forges log lines", bus.forged_lines),
    ("captured blocks of templates", bus.templates),
    ("install.sh in a hostile folder", processes.current_folder),
    ("files that others can read", processes.open_files),
    ("a result larger than a packet", bus.large_results),
    ("names of unknown tasks", bus.unknown_tasks),
    ("unsigned rollouts, old releases", files.older_release),
    ("a fault of the handler", processes.faulty_handler),
    ("texts that end the connection", bus.lone_surrogates),
)


@dataclass(frozen=True, slots=True)
class Row:
    attack: str
    refused: bool
    how: str
    online: bool
    parent_mb: int
    child_mb: int
    slowest_answer_s: float
    seconds: float
    passed: bool


def perform(
    name: str,
    attack: Callable[[Site], str],
    site: Site,
    memory: Memory,
    bystander: Bystander,
    answer_s: float,
) -> Row:
    memory.begin()
    bystander.slowest_s()
    began = time.monotonic()
    try:
        refused, how = True, attack(site)
    except bus.Succeeded as error:
        refused, how = False, str(error)
    seconds = time.monotonic() - began
    time.sleep(0.5)
    online = site.node.is_alive() and site.node.state() == "online"
    parent_mb, child_mb = round(memory.parent_bytes / 1e6), round(memory.child_bytes / 1e6)
    slowest_s = round(bystander.slowest_s(), 2)
    passed = refused and online and parent_mb <= PARENT_MB and child_mb <= CHILD_MB and slowest_s <= answer_s
    row = Row(name, refused, how, online, parent_mb, child_mb, slowest_s, round(seconds, 1), passed)
    if not site.node.is_alive():
        site.node.start()
    return row


def show(row: Row) -> None:
    print(
        f"{row.attack:<34}{'passed' if row.passed else 'FAILED':<8}{'yes' if row.online else 'NO':<8}"
        f"{row.parent_mb:>7}{row.child_mb:>7}{row.slowest_answer_s:>9.2f}{row.seconds:>8.1f}   {row.how}",
        flush=True,
    )


def attack(site: Site, wanted: Sequence[str], answer_s: float) -> list[Row]:
    rows = []
    memory, bystander = Memory(site), Bystander(site)
    site.node.start()
    memory.start()
    bystander.start()
    try:
        while bystander.answers < 5:
            time.sleep(0.1)
        print(
            f"{'attack':<42}{'online':<8}{'parent':>7}{'child':>7}{'answer':>9}{'took':>8}   what came of it"
        )
        print(f"{'':<50}{'MB':>7}{'MB':>7}{'s':>9}{'s':>8}")
        for name, one in ATTACKS:
            if not wanted or any(word in name for word in wanted):
                rows.append(perform(name, one, site, memory, bystander, answer_s))
                show(rows[-1])
    finally:
        bystander.end()
        memory.end()
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--only", nargs="+", default=[], help="attacks with one of these words in their names"
    )
    parser.add_argument("--answer-s", type=float, default=ANSWER_S, help="which others may wait at most")
    parser.add_argument("--starter", type=Path, default=STARTER, help="folder with the starter bundles")
    parser.add_argument("--keep", type=Path, help="where the files of the run shall stay")
    arguments = parser.parse_args(argv)
    print(f"edgeslm in {Path(edgeslm.__file__).parent}")
    with tempfile.TemporaryDirectory(prefix="edgeslm-attack-") as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        site = Site(arguments.starter, folder.resolve())
        try:
            rows = attack(site, arguments.only, arguments.answer_s)
        finally:
            site.stop()
    failed = [row.attack for row in rows if not row.passed]
    for name in failed:
        print(f"failed: {name}", file=sys.stderr)
    print(json.dumps({"attacks": [asdict(row) for row in rows], "passed": not failed}))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())

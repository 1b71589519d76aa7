"""Kills of ``edgeslm knowledge add``: does the collection open, and is each document whole?

    python benchmarks/robustness/chaos.py collection [--kills 50] [--files 60] [--seed 1] [--bundle DIR]

Before each run files are changed, added and removed; then the real command adds the folder with ``--sync``
and is killed with SIGKILL at a random moment. The remains are checked without the project's code as well:
SQLite's checks of the file and of its index, slots and vectors, and each document against all that its file
ever held. The encoder is a hash, so that a run is all writing, or with ``--bundle`` the real one. A last run
goes to its end, and must bring everything up to date. Prints one JSON line last; status 1 on an incomplete
document.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks.lib.cards import Say, run_benchmark
from edgeslm.knowledge.documents.passages import split
from edgeslm.knowledge.index.collection import Collection
from edgeslm.knowledge.index.search import search
from edgeslm.knowledge.index.vectors import SCALE_BYTES, SLOTS
from edgeslm.knowledge.readers.reader import read_document

BEGUN: Final = "begun"
WORDS: Final = [f"word{number}" for number in range(500)]


class HashEmbedding:
    """In the place of an encoder: as fast as can be, and the same text always has the same vector."""

    def __init__(self, path: Path) -> None:
        self.bundle = SimpleNamespace(path=path, digest="sha256:hash")

    def __enter__(self) -> HashEmbedding:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def __call__(self, texts: Sequence[str]) -> list[list[float]]:
        return [[byte - 127.5 for byte in hashlib.sha256(text.encode()).digest()] for text in texts]


def add_in_child(arguments: Sequence[str], *, real: bool) -> int:
    """The command itself, in this process. Says when all is loaded: a kill before that shows nothing."""
    from edgeslm.cli import embedding
    from edgeslm.cli import main as cli
    from edgeslm.knowledge.service import intake  # noqa: F401

    if not real:
        embedding.Embedding = HashEmbedding  # type: ignore[misc, assignment]
    print(BEGUN, flush=True)
    return cli.main(["knowledge", "add", *arguments])


class Shelf:
    """A folder of files that change, and what each of them ever held."""

    def __init__(self, folder: Path, files: int, seed: int) -> None:
        self.folder = folder
        self._dice = random.Random(seed)
        self._names = [f"{number % 7}/{number}.md" for number in range(files)]
        self.held: dict[str, dict[str, list[str]]] = {name: {} for name in self._names}
        """Texts of passages, by source and digest of the file."""
        for name in self._names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)

    def change(self) -> None:
        """A third of the files is written anew, a tenth goes away."""
        for name in self._names:
            file, chance = self.folder / name, self._dice.random()
            if chance < 0.1:
                file.unlink(missing_ok=True)
            elif chance < 0.43 or not file.exists():
                self._write(name, file)

    def _write(self, name: str, file: Path) -> None:
        kept = file.read_text().split("\n\n") if file.exists() else []
        new = [self._section() for _ in range(self._dice.randint(1, 12))]
        sections = [part for part in [*kept, *new] if self._dice.random() < 0.7] or new
        file.write_text("\n\n".join(sections))
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        self.held[name][digest] = [passage.text for passage in split(read_document(file, name))]

    def _section(self) -> str:
        return " ".join(self._dice.choices(WORDS, k=self._dice.randint(5, 120))) + "."


def faults(file: Path, shelf: Shelf) -> list[str]:
    """What isn't whole in the collection."""
    if not _is_made(file):
        return []  # killed before that
    with Collection(file) as collection:  # mends what a kill left, as the next command does
        entries = collection.documents()
        search(collection, "word1 word2")
    found = loose_parts(file)
    with closing(sqlite3.connect(file)) as db:
        for entry in entries:
            rows = db.execute(
                "SELECT text FROM passages p JOIN documents d ON d.id = p.document WHERE source = ? "
                "ORDER BY number",
                (entry.source,),
            )
            if [text for (text,) in rows] != shelf.held[entry.source].get(entry.origin.digest):
                found.append(f"{entry.source} isn't whole")
    return found


def _is_made(file: Path) -> bool:
    if not file.exists():
        return False
    with closing(sqlite3.connect(file)) as db:
        return db.execute("SELECT 1 FROM sqlite_master").fetchone() is not None


def loose_parts(file: Path) -> list[str]:
    """What of a collection doesn't belong to the rest: documents, passages, index, vectors, slots, tables."""
    with closing(sqlite3.connect(file)) as db:

        def column(statement: str) -> set[int]:
            return {row[0] for row in db.execute(statement)}

        found = [line for (line,) in db.execute("PRAGMA integrity_check") if line != "ok"]
        db.execute("INSERT INTO words (words) VALUES ('integrity-check')")
        slots, embedded = (
            column("SELECT slot FROM passages"),
            column("SELECT slot FROM passages WHERE embedded"),
        )
        free, indexed = column("SELECT slot FROM free_slots"), column("SELECT id FROM words_docsize")
        wrong = {
            "both free and taken": slots & free,
            "neither free nor taken": (slots | free) ^ set(range(len(slots | free))),
            "not in the index, or there alone": slots ^ indexed,
            "of stems without a passage": column("SELECT slot FROM stemmed") - slots,
            "with a vector and not said to have one, or the reverse": embedded ^ _slots_with_vectors(db),
            "of no document": column(
                "SELECT slot FROM passages WHERE document NOT IN (SELECT id FROM documents)"
            ),
            "at a number that isn't theirs": column(
                "SELECT slot FROM (SELECT slot, number, row_number() OVER "
                "(PARTITION BY document ORDER BY number) AS place FROM passages) WHERE number != place - 1"
            ),
        }
        tables = column("SELECT document FROM tables")
        loose = {
            "tables": tables - column("SELECT id FROM documents"),
            "rows": tables ^ column("SELECT DISTINCT document FROM table_rows"),
            "texts": column("SELECT DISTINCT document FROM table_texts") - tables,
            "values": tables ^ column("SELECT DISTINCT document FROM table_values"),
        }
    found += [f"{what} of {sorted(keys)} are of no table" for what, keys in loose.items() if keys]
    return [*found, *(f"slots {sorted(places)} are {what}" for what, places in wrong.items() if places)]


def _slots_with_vectors(db: sqlite3.Connection) -> set[int]:
    (dimension,) = db.execute("SELECT dimension FROM about").fetchone()
    size = (dimension or 0) + SCALE_BYTES
    return {
        block * SLOTS + place // size
        for block, raw in db.execute("SELECT block, slots FROM vectors")
        for place in range(0, len(raw), size)
        if any(raw[place + size - SCALE_BYTES : place + size])
    }


def run_and_kill(command: Sequence[str], delay_s: float | None, words: Path) -> float:
    """Runs to the end, or is killed so long after it has begun.

    :return: how long it took, in seconds; 0 if it was killed.
    """
    with words.open("w") as said:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=said, text=True, start_new_session=True
        )
        with process:
            if process.stdout is None or process.stdout.readline().strip() != BEGUN:
                raise RuntimeError(f"the command didn't begin: {words.read_text()[-500:]}")
            started = time.perf_counter()
            try:
                status = process.wait(delay_s)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # an engine of its own as well
                return 0.0
    if status:
        raise RuntimeError(f"the command failed: {words.read_text()[-500:]}")
    return time.perf_counter() - started


def measure(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    dice = random.Random(args.seed)
    counts, found = Counter[str](), []
    with tempfile.TemporaryDirectory(prefix="edgeslm-kills-") as name:
        folder = Path(name)
        shelf = Shelf(folder / "files", args.files, args.seed)
        file = folder / "kb.sqlite"
        how = ("real", args.bundle) if args.bundle else ("hash", "hash")
        words = ("--child", how[0], file, shelf.folder, "--sync", "--encoder", how[1])
        command = [sys.executable, str(Path(__file__).resolve()), *map(str, words)]
        shelf.change()
        whole_s = run_and_kill(command, None, folder / "said")  # how long a run takes that has all to do
        file.unlink()
        while counts["killed"] < args.kills:
            delay_s = dice.uniform(0.0, whole_s)
            took_s = run_and_kill(command, delay_s, folder / "said")
            counts["ended" if took_s else "killed"] += 1
            found += (here := faults(file, shelf))
            say(f"{'ended' if took_s else 'killed':>8} after {took_s or delay_s:.2f} s: {here or 'whole'}")
            if counts["ended"] > 3 * args.kills:
                raise RuntimeError("the runs end before they can be killed; take more --files")
            shelf.change()
        run_and_kill(command, None, folder / "said")
        found += [*faults(file, shelf), *outdated(file, shelf.folder)]
    if found:
        raise RuntimeError(f"not whole: {found}")
    return {**counts, "not_whole": len(found)}


def outdated(file: Path, folder: Path) -> list[str]:
    """After a run to the end, each file that is there and no other must be in the collection as it is."""
    files = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*.md")
    }
    with Collection(file) as collection:
        kept = {entry.source: entry.origin.digest for entry in collection.documents()}
    return [f"{source} isn't up to date" for source, _ in files.items() ^ kept.items()]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--files", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    run_benchmark("knowledge_kills", args, measure, kills=args.kills, files=args.files, seed=args.seed)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        sys.exit(add_in_child(sys.argv[3:], real=sys.argv[2] == "real"))
    main()

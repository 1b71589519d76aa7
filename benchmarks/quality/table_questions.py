"""How many questions to tables are answered, and are the answers exact?

    python benchmarks/quality/table_questions.py [--half development] [--show]
    python benchmarks/quality/table_questions.py --rows 100000      # latency of questions to a large table

100 questions to nine public tables: releases of Debian and Ubuntu, countries, currencies, languages, time
zones, four years of Seattle's weather, cars, airports. The tables come from packages of Debian and PyPI. The
questions are in ``data/table_questions.jsonl``: written before the code that answers them, with answers that
other code computed. Unanswerable ones ask for what their table lacks or has several of. ``half`` of the first
fifty was drawn by digest: choose settings on ``development``, report ``test``. The author of the half
``independent`` knew neither code nor documents. Each question is asked of its own table, and of all tables in
one collection. No model takes part.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

sys.path.append(str(Path(__file__).resolve().parents[2]))

from edgeslm_export.jobs.optimum_env import cache_folder
from edgeslm_export.sources.wheel_data import Package, Packages
from edgeslm_export.starter import fetch_debian

from benchmarks.lib import table_reference
from benchmarks.lib.cards import Say, run_benchmark
from benchmarks.lib.paths import DATA
from edgeslm.bundle.manifest import file_digest
from edgeslm.errors import ExportError
from edgeslm.knowledge.index import table_store
from edgeslm.knowledge.index.collection import Collection
from edgeslm.knowledge.index.queries import Filter, TableAnswer
from edgeslm.knowledge.service.intake import add_files
from edgeslm.knowledge.table_qa import answers, query
from edgeslm.knowledge.table_qa.answers import answer_from_tables, ask_tables

FILE: Final = DATA / "table_questions.jsonl"
HALVES: Final = ("development", "test", "independent")
WAYS: Final = ("its table", "all tables")
RUNS: Final = {
    "row by row": (table_reference.run_by_rows, table_reference.scan_passages),
    "SQLite": (query.run_query, table_store.passages_of),
}
"""What runs a query, and what finds the passages of its rows."""
TURNS: Final = 5
TIMED: Final = (
    "average temperature",
    "average temperature in hall South",
    "average cost in March 2026",
    "total cost in the north hall above 80 °C in March 2026",
    "how many rows are there",
    "how many rows are hotter than 80 °C",
    "how many different halls",
    "how many days in hall South",
    "highest temperature in March 2026",
    "which hall had the highest cost",
    "temperature of R-5000",
)
"""Questions to a large table of readings."""
_CLOSE: Final = 1e-9
"""Relative: averages are floats here and there."""

_DEBIAN: Final = {
    "debian.csv": (
        "distro-info-data",
        "usr/share/distro-info/debian.csv",
        "f52f5cc3f8047accbe03d28865436d7b1a2b2dec017f51c3ee5ad2017295e0ec",
    ),
    "ubuntu.csv": (
        "distro-info-data",
        "usr/share/distro-info/ubuntu.csv",
        "226437d59f8c88b3bb630a6868255c33d3b7435ad198a5223f40fd5a5538be82",
    ),
    "countries.json": (
        "iso-codes",
        "usr/share/iso-codes/json/iso_3166-1.json",
        "f01b812b57fba9f31ff621bf33e7c7570a01964dbeb5be2167e94decf538c89f",
    ),
    "currencies.json": (
        "iso-codes",
        "usr/share/iso-codes/json/iso_4217.json",
        "c9c37b426317809a6ffe067da3a334a3150f42494fae91823557afb7bd1a4135",
    ),
    "languages.json": (
        "iso-codes",
        "usr/share/iso-codes/json/iso_639-2.json",
        "fa83810fdb59f9d84b4d58486d5e5e48e807d82a98d6a39ef0ba4fc57c2a9327",
    ),
}
"""Package, path and SHA-256 of each table that is one of Debian's files."""
TZDATA: Final = Package(
    requirement="tzdata==2026.6",
    wheel="tzdata-2026.6-py2.py3-none-any.whl",
    wheel_sha256="0a10eec6e13ef16b627fabed9a5f2ba61a62b1c67f327305f4e7e412a70b4aec",
    bytes=348_210,
    folder="tzdata/zoneinfo/zone1970.tab",
    member="tzdata/zoneinfo/zone1970.tab",
    member_sha256="5f23781702bf51408ff1581daa109ab3b9257fb433b1554e579d92172892c0cf",
)
VEGA: Final = Package(
    requirement="vega-datasets==0.9.0",
    wheel="vega_datasets-0.9.0-py3-none-any.whl",
    wheel_sha256="3d7c63917be6ca9b154b565f4779a31fedce57b01b5b9d99d8a34a7608062a1d",
    bytes=210_822,
    folder="vega_datasets/_data/",
    member="vega_datasets/_data/cars.json",
    member_sha256="f686a53678b21f4231e2f6a5ba7ce5761d9d39204fccdea1caa29fb8c460e319",
)
_VEGA_FILES: Final = {
    "weather.csv": "seattle-weather.csv",
    "cars.json": "cars.json",
    "airports.csv": "airports.csv",
}
_ZONES: Final = "time-zones.tsv"
_ZONE_COLUMNS: Final = "country-codes\tcoordinates\tTZ\tcomments"
"""In zone1970.tab these stand in its last comment."""
TABLES: Final = (*_DEBIAN, _ZONES, *_VEGA_FILES)


@dataclass(frozen=True, slots=True)
class Question:
    """``expected`` are the values that answer it; None: the table doesn't, or not clearly."""

    id: str
    table: str
    question: str
    expected: tuple[str | float, ...] | None
    half: str


def load_questions() -> list[Question]:
    rows = [json.loads(line) for line in FILE.read_text("utf-8").splitlines()]
    return [
        Question(**{**row, "expected": None if row["expected"] is None else tuple(row["expected"])})
        for row in rows
    ]


def fetch_tables(folder: Path, say: Say) -> None:
    """Puts the tables into ``folder``, under the names that questions have for them.

    :raises ExportError: a package can't be had, or its file is another version.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        work = Path(name)
        for package in sorted(
            {package for table, (package, *_) in _DEBIAN.items() if not (folder / table).exists()}
        ):
            if not fetch_debian(package, work):
                raise ExportError(
                    f"Some tables come from Debian's package {package}, which apt-get can't download."
                )
            for table, (own, path, sha256) in _DEBIAN.items():
                if own == package:
                    if file_digest(work / path) != sha256:
                        raise ExportError(f"{path} of Debian's package {package} is another version.")
                    shutil.copyfile(work / path, folder / table)
    packages = Packages(say)
    if not all((folder / table).exists() for table in _VEGA_FILES):
        with packages.unpacked(VEGA) as unpacked:
            for table, file in _VEGA_FILES.items():
                shutil.copyfile(unpacked.path / VEGA.folder / file, folder / table)
    if not (folder / _ZONES).exists():
        with packages.unpacked(TZDATA) as unpacked:
            lines = (unpacked.path / TZDATA.member).read_text("utf-8").splitlines()
        rows = [line for line in lines if not line.startswith("#")]
        (folder / _ZONES).write_text("\n".join([_ZONE_COLUMNS, *rows, ""]), "utf-8")


def is_exact(values: Sequence[str | float], expected: Sequence[str | float]) -> bool:
    """The same values, in any order."""
    rest = list(expected)
    for value in values:
        same = next((each for each in rest if _is_same(value, each)), None)
        if same is None:
            return False
        rest.remove(same)
    return not rest


def _is_same(value: str | float, expected: str | float) -> bool:
    if isinstance(value, str) and isinstance(expected, str):
        return value == expected
    try:
        one, other = float(value), float(expected)
    except ValueError:
        return False
    return abs(one - other) <= _CLOSE * max(abs(one), abs(other))


def verdict(question: Question, answer: TableAnswer | None) -> str:
    """``exact``, ``wrong``, ``declined`` (it has an answer) or ``abstained`` (it has none)."""
    if answer is None:
        return "abstained" if question.expected is None else "declined"
    return (
        "exact" if question.expected is not None and is_exact(answer.values, question.expected) else "wrong"
    )


def write_readings(file: Path, rows: int) -> None:
    """A table of readings of presses, one a minute."""
    rng = random.Random(5)
    with file.open("w", encoding="utf-8") as out:
        out.write("reading,hall,time,temperature_c,cost_eur\n")
        for number in range(rows):
            day, minute = divmod(number, 1440)
            date = f"2026-{day // 28 % 12 + 1:02}-{day % 28 + 1:02} {minute // 60:02}:{minute % 60:02}"
            hall, cost = rng.choice(("North", "South", "West")), rng.randrange(1000) / 10
            if number == rows // 2:  # so that its hall has both the largest reading and the largest sum
                hall, cost = "South", 10 * rows
            out.write(f"R-{number},{hall},{date},{rng.randrange(4000, 9500) / 100},{cost}\n")


def measure_times(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    """Each question to a table of so many rows, answered by each of ``RUNS`` in turns."""
    times: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "files"
        folder.mkdir()
        write_readings(folder / "readings.csv", args.rows)
        begin = time.perf_counter()
        with _collection(folder) as collection:
            say(f"{args.rows:,} rows added in {time.perf_counter() - begin:.1f} s")
            for question in TIMED:
                taken: dict[str, list[float]] = {run: [] for run in RUNS}
                said: set[Any] = set()
                for _ in range(TURNS):
                    for run, (run_query, passages_of) in RUNS.items():
                        vars(answers).update(run_query=run_query, passages_of=passages_of, LONGEST_S=60.0)
                        begin = time.perf_counter()
                        answer = answer_from_tables(collection, question)
                        taken[run].append(time.perf_counter() - begin)
                        said.add(answer and (answer.text, answer.values, answer.matched, answer.citations))
                if len(said) > 1:
                    raise RuntimeError(f"{question}: the answers differ")
                times[question] = {
                    run: round(statistics.median(each) * 1000, 1) for run, each in taken.items()
                }
                before, after = times[question].values()
                (told,) = said
                say(f"{before:8.1f} ms  {after:8.1f} ms  {question}: {told and told[1]}")
    return {"rows": args.rows, "ms": times}


def measure(args: argparse.Namespace, say: Say) -> dict[str, Any]:
    if args.rows is not None:
        return measure_times(args, say)
    folder = args.cache
    fetch_tables(folder, say)
    halves = HALVES if args.half is None else (args.half,)
    questions = [question for question in load_questions() if question.half in halves]
    counts: Counter[tuple[str, str, str]] = Counter()
    times: list[float] = []
    with _collection(folder) as collection:
        for question in questions:
            for way in WAYS:
                only = Filter(sources=question.table) if way == WAYS[0] else Filter()
                begin = time.perf_counter()
                answer, why = ask_tables(collection, question.question, only=only)
                times.append(time.perf_counter() - begin)
                found = verdict(question, answer)
                counts[question.half, way, found] += 1
                if args.show and way == WAYS[0]:
                    said = answer.text if answer is not None else "; ".join(why.values())
                    say(f"{question.id} {found:>9}  {question.question}\n{'':>15}{said}")
    figures = {half: {way: _figures(counts, half, way) for way in WAYS} for half in halves}
    _print_table(figures, say)
    return {
        "questions": figures,
        "ms_median": round(statistics.median(times) * 1000, 2),
        "ms_max": round(max(times) * 1000, 1),
    }


@contextmanager
def _collection(folder: Path) -> Iterator[Collection]:
    with (
        tempfile.TemporaryDirectory() as name,
        Collection(Path(name) / "tables", writes=True) as collection,
    ):
        add_files(collection, [folder])
        yield collection


def _figures(counts: Counter[tuple[str, str, str]], half: str, way: str) -> dict[str, Any]:
    exact, wrong, declined, abstained = (
        counts[half, way, found] for found in ("exact", "wrong", "declined", "abstained")
    )
    answered, answerable = exact + wrong, exact + declined
    return {
        "exact": exact,
        "wrong": wrong,
        "declined": declined,
        "abstained": abstained,
        "exact_of_answered": round(exact / answered, 3) if answered else None,
        # A wrong answer to an answerable question counts among neither.
        "coverage": round(answered / (answered + declined), 3) if answerable else None,
    }


def _print_table(figures: dict[str, dict[str, dict[str, Any]]], say: Say) -> None:
    names = ("exact", "wrong", "declined", "abstained", "exact_of_answered", "coverage")
    say(f"{'half':>12} {'asked of':>11}  " + "  ".join(f"{name:>9}" for name in names))
    for half, ways in figures.items():
        for way, row in ways.items():
            say(
                f"{half:>12} {way:>11}  " + "  ".join(f"{row[name]!s:>{max(9, len(name))}}" for name in names)
            )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--half", choices=HALVES, help="only these questions")
    parser.add_argument("--rows", type=int, metavar="N", help="time questions to a table of so many rows")
    parser.add_argument("--show", action="store_true", help="each question with what came of it")
    parser.add_argument(
        "--cache", type=Path, default=cache_folder() / "tables", help="keeps the tables (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="the last line alone")
    args = parser.parse_args(arguments)
    run_benchmark("table_questions", args, measure, tables=len(TABLES), questions=len(load_questions()))


if __name__ == "__main__":
    main(sys.argv[1:])

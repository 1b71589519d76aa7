"""The short form of ``scripts/fuzz``: the oracle itself, what was once found, and a little of each target."""

from __future__ import annotations

import json
import platform
import random
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from tests.integration.fuzz import drive
from tests.integration.fuzz.targets import TARGETS, Target, seeds_of
from tests.integration.fuzz.work import Growth, TooMuchWork, check_cpu, check_lines, random_growth
from tests.integration.fuzz.worker import check_growth, growth_of, search_work

CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.*-*"))
WHEELS = sys.platform == "linux" and platform.machine() == "x86_64"
GROWN = 2
"""Inputs of each target whose work is counted here."""
RUNS = 3000


# --- the oracle ------------------------------------------------------------------------------------------


def a_linear(data: bytes) -> None:
    for _ in data:
        pass


def a_quadratic(data: bytes) -> None:
    for at in range(len(data)):
        for _ in data[at::16]:
            pass


def a_quadratic_expression(data: bytes) -> None:
    re.search(rb"title: (.+?)[ \t]*\r?$", data)


def a_limit(data: bytes) -> None:
    """Cheap below a size, linear above it."""
    if len(data) > 3000:
        a_linear(data)


BLANKS = Growth(b"title: a b", ((8, 9),))


@pytest.fixture(autouse=True)
def _sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less is told apart here than in an hour."""
    monkeypatch.setattr("tests.integration.fuzz.work.CPU_S", 0.01)
    monkeypatch.setattr("tests.integration.fuzz.work.MOST_LINES", 500_000)


def test_lines_that_grow_too_fast_are_found() -> None:
    with pytest.raises(TooMuchWork, match=r"^lines of .* bytes"):
        check_lines(a_quadratic, BLANKS)
    check_lines(a_linear, BLANKS)
    check_lines(a_limit, BLANKS)


def test_time_of_c_that_grows_too_fast_is_found() -> None:
    check_lines(a_quadratic_expression, BLANKS)
    with pytest.raises(TooMuchWork, match=r"^seconds of .* bytes"):
        check_cpu(a_quadratic_expression, BLANKS, 16_384)
    check_cpu(a_linear, BLANKS, 1_000_000)


def test_slices_are_repeated_in_their_places() -> None:
    assert Growth(b"abcde", ((1, 2),)).of(8) == b"abbbbcde"
    assert Growth(b"abcde", ((0, 1), (3, 5))).of(11) == b"aaabcdedede"
    assert Growth(b"abc", ((0, 3),)).of(1) == b"abc"


def test_random_slices_lie_within_and_apart() -> None:
    chance = random.Random(1)
    for _ in range(2000):
        data = bytes(chance.randrange(1, 3000))
        slices = random_growth(data, chance).slices
        assert slices and all(0 <= start < end <= len(data) for start, end in slices)
        assert all(first[1] <= second[0] for first, second in pairwise(slices))


def test_findings_are_written_down_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = TARGETS["json"]
    monkeypatch.setitem(TARGETS, "json", Target(lambda: a_quadratic, target.largest))
    monkeypatch.setattr("resource.setrlimit", lambda *_: None)
    said: list[str] = []
    search_work(tmp_path, "json", 1.0, 1, tmp_path / "none", said.append)
    assert json.loads(said[0])["inputs"] >= 1
    (finding,) = [file for file in tmp_path.iterdir() if file.suffix != ".txt"]
    with pytest.raises(TooMuchWork):
        check_growth(a_quadratic, growth_of(finding.read_bytes()), target.largest)


# --- what is fuzzed --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_takes_its_seeds_and_grows_with_them(name: str) -> None:
    run, chance, seeds = TARGETS[name].make(), random.Random(7), seeds_of(name)
    assert seeds
    for seed in seeds:
        run(seed)
    for _ in range(GROWN):
        check_lines(run, random_growth(chance.choice(seeds), chance))


@pytest.mark.parametrize("file", CORPUS, ids=lambda path: path.name)
def test_what_was_found_once(file: Path) -> None:
    name = file.name.partition(".")[0].replace("-", " ")
    if name not in TARGETS:
        pytest.skip("the part that this was found in is gone")
    run = TARGETS[name].make()
    if file.name.partition(".")[2].startswith("input-"):
        run(file.read_bytes())
    else:
        check_growth(run, growth_of(file.read_bytes()), TARGETS[name].largest)


@pytest.mark.skipif(not WHEELS, reason="atheris has wheels for Linux on x86-64 only")
def test_thousands_of_inputs_that_reach_new_branches(tmp_path: Path) -> None:
    found, seeds = tmp_path / "found", tmp_path / "seeds"
    found.mkdir()
    seeds.mkdir()
    for number, name in enumerate(TARGETS):
        for nth, seed in enumerate(seeds_of(name)):
            (seeds / f"{number}-{nth}").write_bytes(bytes([number]) + seed)
    options = [f"-runs={RUNS}", "-seed=7", "-max_len=4096", "-timeout=60", f"-artifact_prefix={tmp_path}/"]
    command = [
        sys.executable,
        "-P",
        "-m",
        "tests.integration.fuzz.worker",
        "cover",
        str(found),
        *TARGETS,
        "--",
        *options,
    ]
    done = subprocess.run([*command, str(seeds)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"Done {RUNS} runs" in done.stderr
    assert not list(found.iterdir()), [file.read_text() for file in found.glob("*.txt")]


def test_the_drive_tells_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--minutes", "0.02", "--seed", "1", "--targets", "json", "packets"]
    arguments += ["--found", str(tmp_path / "found"), "--corpus", str(tmp_path / "corpus")]
    assert drive.main(arguments) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("seed 1, 2 targets")
    assert json.loads(said[-1]).keys() == {"seed", "minutes", "inputs", "grown", "findings"}


@pytest.mark.skipif(not WHEELS, reason="atheris has wheels for Linux on x86-64 only")
def test_a_large_process_can_drive(tmp_path: Path) -> None:
    """A test run's own peak of memory counted as that of the parser."""
    code = (
        "import sys; taken = b'x' * 1_300_000_000; del taken; from tests.integration.fuzz import drive; "
        "sys.exit(drive.main(sys.argv[1:]))"
    )
    arguments = ["--minutes", "0.04", "--seed", "1", "--targets", "json"]
    arguments += ["--found", str(tmp_path / "found"), "--corpus", str(tmp_path / "corpus")]
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:]

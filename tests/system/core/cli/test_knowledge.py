"""The command ``edgeslm knowledge``: what it says, and its exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import pytest

from edgeslm.cli import main
from tests.support.knowledge.collection_samples import faults
from tests.support.knowledge.readers import bad_reader
from tests.support.knowledge.readers.bad_reader import read_with as read_with
from tests.support.nodes import fake_engines as fake_engines
from tests.support.nodes import write_bundle
from tests.support.terminals import on_terminal as on_terminal

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Status, standard output and standard error of ``edgeslm knowledge``, in the folder of the test."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        status = main.main(["knowledge", *map(str, arguments)])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


@pytest.fixture
def manuals(tmp_path: Path) -> Path:
    folder = tmp_path / "manuals"
    folder.mkdir()
    (folder / "press.md").write_text("# Press 4\n\n## Care\n\nOil it each week.\n")
    (folder / "lathe.txt").write_text("Clean the lathe.\n")
    return folder


@pytest.fixture
def encoder(tmp_path: Path, fake_engines: None) -> Path:
    """A bundle that only a fake engine can load; all texts have one vector."""
    return write_bundle(tmp_path / "encoder", "encoder")


# --- words alone ----------------------------------------------------------------------------------------


def test_documents_are_added_listed_searched_and_removed(run: Run, manuals: Path, tmp_path: Path) -> None:
    status, out, err = run("add", "kb", manuals)
    assert (status, out) == (0, "2 added; 2 new passages\n")
    assert err == "edgeslm: without --encoder kb.sqlite is searched by words alone\n"
    assert (tmp_path / "kb.sqlite").exists()

    status, out, err = run("list", "kb")
    assert (status, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == ["lathe.txt", "press.md", "kb.sqlite:"]
    assert out.endswith("kb.sqlite: 2 documents, 2 passages, searched by words alone\n")

    status, out, err = run("search", "kb", "oil")
    assert (status, err) == (0, "")
    assert out.startswith("1. press.md: Press 4 > Care (")
    assert out.endswith("    Oil it each week.\n")

    assert run("remove", "kb", "press.md") == (0, "removed press.md\n", "")
    assert run("search", "kb.sqlite", "oil") == (0, "nothing found\n", "")
    assert faults(tmp_path / "kb.sqlite") == []


def test_a_search_as_json_has_the_keys_of_the_contract(run: Run, manuals: Path) -> None:
    run("add", "kb", manuals)
    status, out, err = run("search", "kb", "oil", "--json")
    assert (status, err) == (0, "")
    (found,) = json.loads(out)
    assert set(found) == {"source", "heading", "text", "start", "end", "score"}
    assert (found["source"], found["heading"], found["text"]) == (
        "press.md",
        "Press 4 > Care",
        "Oil it each week.",
    )
    assert (manuals / "press.md").read_text()[found["start"] : found["end"]] == found["text"]
    assert 0 < found["score"] <= 1


def test_as_many_passages_are_shown_as_wanted(run: Run, manuals: Path) -> None:
    for number in range(9):
        (manuals / f"{number}.txt").write_text(f"Oil press {number}.")
    run("add", "kb", manuals)
    assert len(json.loads(run("search", "kb", "oil", "--json")[1])) == 5
    assert len(json.loads(run("search", "kb", "oil", "--json", "-k", 3)[1])) == 3
    assert {
        one["source"] for one in json.loads(run("search", "kb", "oil", "--json", "--source", "3*")[1])
    } == {"3.txt"}


def test_a_search_is_of_documents_of_a_time(run: Run, manuals: Path) -> None:
    os.utime(manuals / "press.md", (1_700_000_000, 1_700_000_000))  # in November 2023
    run("add", "kb", manuals)
    assert run("search", "kb", "oil", "--since", "2023-11-30")[1] == "nothing found\n"
    assert run("search", "kb", "oil", "--until", "2023-11-01T06:00")[1] == "nothing found\n"
    day = time.strftime("%Y-%m-%d", time.localtime(1_700_000_000))
    assert "press.md" in run("search", "kb", "oil", "--since", day, "--until", day)[1]
    day = day.replace("-", "")
    assert "press.md" in run("search", "kb", "oil", "--since", day, "--until", day)[1]
    with pytest.raises(SystemExit):
        run("search", "kb", "oil", "--since", "yesterday")


def test_what_stands_around_a_passage_is_shown_with_it(run: Run, tmp_path: Path) -> None:
    text = "# Press 4\n\n" + "\n\n".join(f"Part {n}: {'wipe it, ' * 60}then go on." for n in range(5))
    (tmp_path / "press.md").write_text(text)
    run("add", "kb", "press.md")
    (alone,) = json.loads(run("search", "kb", "part 2", "-k", 1, "--json")[1])
    (whole,) = json.loads(run("search", "kb", "part 2", "-k", 1, "--around", 1, "--json")[1])
    assert alone["text"].startswith("Part 2") and alone["text"] in whole["text"]
    assert [f"Part {n}" in whole["text"] for n in range(5)] == [False, True, True, True, False]
    assert text[whole["start"] : whole["end"]] == whole["text"]


def test_what_has_changed_is_said(run: Run, manuals: Path) -> None:
    run("add", "kb", manuals)
    (manuals / "lathe.txt").write_text("Grind the lathe.")
    (manuals / "press.md").unlink()
    (manuals / "new.txt").write_text("New.")
    (manuals / "picture.png").touch()
    assert run("add", "kb", manuals, "--sync")[1] == (
        "1 added, 1 changed, 1 removed; 2 new passages; skipped 1 .png\n"
    )
    totals = json.loads(run("add", "kb", manuals, "--json")[1])
    assert totals == {
        **dict.fromkeys(("added", "changed", "removed", "broken", "passages"), 0),
        "unchanged": 2,
        "skipped": {".png": 1},
    }


def test_each_broken_file_is_a_sentence_and_the_status_is_1(run: Run, manuals: Path) -> None:
    (manuals / "broken.txt").write_bytes(b"\0\1")
    status, out, err = run("add", "kb", manuals, manuals / "missing.md")
    assert status == 1
    assert out == "2 added, 2 not added; 2 new passages\n"
    lines = err.splitlines()
    assert "broken.txt" in lines[1] and "missing.md: No such file" in lines[2]
    assert lines[3] == "edgeslm: 2 of 4 files could not be added"


def test_a_path_that_is_not_there_is_neither_broken_nor_one_of_others(run: Run) -> None:
    status, out, err = run("add", "kb", "missing.md")
    assert (status, out) == (1, "1 not added; 0 new passages\n")
    assert err.splitlines()[1:] == [
        "edgeslm: missing.md: No such file or directory",
        "edgeslm: 1 of 1 file could not be added",
    ]


def test_one_document_is_singular(run: Run, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("Oil it.")
    assert run("add", "kb", tmp_path / "note.txt")[1] == "1 added; 1 new passage\n"
    listed = run("list", "kb")[1]
    assert "1 passage   added" in listed and ": 1 document, 1 passage, " in listed


def test_lists_and_removals_as_json(run: Run, manuals: Path) -> None:
    run("add", "kb", manuals)
    listed = json.loads(run("list", "kb", "--json")[1])
    assert [(one["source"], one["passages"]) for one in listed] == [("lathe.txt", 1), ("press.md", 1)]
    assert json.loads(run("remove", "kb", "*", "--json")[1]) == {"removed": ["lathe.txt", "press.md"]}


@pytest.mark.parametrize("action", [("list",), ("search", "oil"), ("remove", "press.md")])
def test_what_isn_t_there_is_one_sentence_and_no_file(
    run: Run, tmp_path: Path, action: tuple[str, ...]
) -> None:
    status, out, err = run(action[0], "kb", *action[1:])
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("edgeslm: there is no collection kb.sqlite; edgeslm knowledge add")
    assert list(tmp_path.iterdir()) == []


def test_a_document_that_isn_t_there_can_t_be_removed(run: Run, manuals: Path) -> None:
    run("add", "kb", manuals)
    status, out, err = run("remove", "kb", "pres.md")
    assert (status, out) == (1, "")
    assert err == "edgeslm: kb.sqlite has no document pres.md; see edgeslm knowledge list\n"


@pytest.mark.parametrize("action", ["add", "list", "remove", "search"])
def test_every_action_has_help_with_an_example(run: Run, action: str) -> None:
    with pytest.raises(SystemExit) as ended:
        run(action, "--help")
    assert ended.value.code == 0


@pytest.mark.parametrize("count", ["0", "-1", "x"])
def test_a_number_of_passages_is_above_0(run: Run, count: str) -> None:
    with pytest.raises(SystemExit) as ended:
        run("search", "kb", "oil", "-k", count)
    assert ended.value.code == 2


def test_words_alone_load_neither_numpy_nor_an_engine(run: Run, manuals: Path) -> None:
    code = (
        "import sys; from edgeslm.cli import main as cli\n"
        "for words in (['add', 'kb', 'manuals'], ['search', 'kb', 'oil']): cli.main(['knowledge', *words])\n"
        "heavy = {'numpy', 'onnxruntime', 'paho', 'edgeslm.engine.host.process'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("Oil it each week.\n[]\n")


# --- with an encoder ------------------------------------------------------------------------------------


def test_passages_and_questions_are_embedded(run: Run, manuals: Path, encoder: Path) -> None:
    assert run("add", "kb", manuals, "--encoder", encoder) == (0, "2 added; 2 new passages\n", "")
    assert run("list", "kb")[1].endswith("2 documents, 2 passages, embedded by encoder\n")
    status, out, err = run("search", "kb", "zebra", "--json")
    assert (status, err) == (0, "")
    assert len(json.loads(out)) == 2, "the fake's vectors are all alike"


def test_the_encoder_is_remembered(run: Run, manuals: Path, encoder: Path) -> None:
    run("add", "kb", manuals, "--encoder", encoder)
    (manuals / "new.txt").write_text("New.")
    assert run("add", "kb", manuals) == (0, "1 added, 2 unchanged; 1 new passage\n", "")
    assert run("list", "kb")[1].endswith("3 passages, embedded by encoder\n")


def test_a_collection_that_had_words_alone_is_embedded_whole(run: Run, manuals: Path, encoder: Path) -> None:
    run("add", "kb", manuals)
    assert run("add", "kb", manuals, "--encoder", encoder)[0] == 0
    assert len(json.loads(run("search", "kb", "zebra", "--json")[1])) == 2


def test_another_encoder_is_refused_until_all_is_embedded_anew(
    run: Run, manuals: Path, encoder: Path, tmp_path: Path
) -> None:
    run("add", "kb", manuals, "--encoder", encoder)
    other = write_bundle(tmp_path / "other", "encoder")
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps({**manifest, "name": "another"}))
    status, _, err = run("add", "kb", manuals, "--encoder", other)
    assert status == 1
    assert "was embedded with another encoder" in err and "--re-embed" in err
    assert run("search", "kb", "oil", "--encoder", other)[0] == 1
    assert run("add", "kb", manuals, "--encoder", other, "--re-embed")[0] == 0
    assert run("list", "kb")[1].endswith("2 passages, embedded by other\n")


def test_an_encoder_that_is_gone_leaves_words(run: Run, manuals: Path, encoder: Path, tmp_path: Path) -> None:
    run("add", "kb", manuals, "--encoder", encoder)
    moved = encoder.rename(tmp_path / "moved")
    status, out, err = run("search", "kb", "oil", "--json")
    assert (status, len(json.loads(out))) == (0, 1)
    assert err.startswith("edgeslm: searched by words alone: the encoder isn't where it was")
    assert len(json.loads(run("search", "kb", "zebra", "--json", "--encoder", moved)[1])) == 2
    status, out, err = run("add", "kb", manuals)
    assert (status, out) == (1, "")
    assert "name it with --encoder" in err


def test_a_bundle_that_is_no_encoder_is_refused_before_a_file_is_made(
    run: Run, manuals: Path, tmp_path: Path
) -> None:
    decoder = write_bundle(tmp_path / "decoder")
    status, _, err = run("add", "kb", manuals, "--encoder", decoder)
    assert status == 1
    assert err == f"edgeslm: {decoder}: a bundle of kind decoder, where an encoder is needed\n"
    assert not (tmp_path / "kb.sqlite").exists()


@pytest.mark.e2e
def test_meaning_is_found_by_the_real_encoder(run: Run, manuals: Path, starter: Path) -> None:
    (manuals / "press.md").write_text("The machine must be lubricated every seven days.")
    assert run("add", "kb", manuals, "--encoder", starter / "minilm-l6-int8")[0] == 0
    found = json.loads(run("search", "kb", "how often do I have to oil my press", "--json")[1])
    assert found[0]["source"] == "press.md"


# --- a terminal -----------------------------------------------------------------------------------------


@pytest.fixture
def all_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step gets a progress bar."""
    monkeypatch.setattr("edgeslm.cli.screen.DELAY_S", -1.0)
    monkeypatch.setattr("edgeslm.cli.screen.TICK_S", -1.0)


def test_a_terminal_sees_how_far_long_work_is(
    run: Run, manuals: Path, on_terminal: Callable[[TextIO], None], all_takes_long: None
) -> None:
    on_terminal(sys.stderr)
    _, _, err = run("add", "kb", manuals)
    assert "] 100%" not in err and "]   0% lathe.txt" in err
    assert err.endswith("\r\x1b[2K")


def test_a_terminal_sees_how_many_passages_are_embedded_anew(
    run: Run,
    manuals: Path,
    encoder: Path,
    on_terminal: Callable[[TextIO], None],
    all_takes_long: None,
) -> None:
    run("add", "kb", manuals)
    on_terminal(sys.stderr)
    _, _, err = run("add", "kb", manuals, "--encoder", encoder)
    assert "]   0% embedding passage 0 of 2" in err


def test_a_file_that_was_given_up_is_read_when_it_is_asked_for(
    run: Run, manuals: Path, tmp_path: Path, read_with: bad_reader.ReadWith
) -> None:
    read_with(bad_reader.command(bad_reader.CRASH))
    (manuals / "bomb.txt").write_text("Oil the bomb.")
    for _ in range(2):
        status, _, error = run("add", tmp_path / "kb", manuals)
        assert status == 1 and "--again" in error and "1 of" in error
    (tmp_path / "mended").touch()
    status, said, _ = run("add", tmp_path / "kb", manuals, "--again")
    assert status == 0 and "1 added" in said


def test_a_language_can_be_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("Wartung\n")
    assert run("add", "kb", "note.txt")[0] == 0
    assert run("search", "kb", "Wartungen")[1] == "nothing found\n"
    assert run("add", "kb", "note.txt", "--language", "de")[0] == 0
    assert "note.txt" in run("search", "kb", "Wartungen")[1]
    with pytest.raises(SystemExit):
        run("add", "kb", "note.txt", "--language", "klingon")

"""The model that doctor proposes for a board."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgeslm.bundle.catalog import CONTEXT, MODELS, USES
from edgeslm.cli.doctor.finding import render
from edgeslm.cli.doctor.proposal import Proposal, proposal_finding, propose, render_proposal
from edgeslm.hardware.board_profiles import load_board
from tests.support.boards import FakeProbes, look, meminfo, put


def proposed(board: str, use: str, root: Path, context: int = CONTEXT) -> Proposal:
    found = load_board(board)
    put(root, "proc/meminfo", meminfo(found.memory_bytes // 1_000_000, found.memory_bytes // 1_300_000))
    return propose(found, use, root, context)


def names(board: str, root: Path) -> list[str | None]:
    found = [proposed(board, use, root).chosen for use in ("labels", "answers", "text")]
    return [one.model.name if one else None for one in found]


def test_a_faster_board_gets_a_larger_model(tmp_path: Path) -> None:
    weights = {model.name: model.weights for model in MODELS}
    slow, fast = names("pi4-4gb", tmp_path), names("pi5-8gb", tmp_path)
    assert all(weights[str(a)] <= weights[str(b)] for a, b in zip(slow, fast, strict=True))
    assert slow != fast


@pytest.mark.parametrize("use", USES)
def test_what_is_proposed_fits_is_fast_and_free_to_use(tmp_path: Path, use: str) -> None:
    proposal = proposed("pi5-8gb", use, tmp_path)
    chosen = proposal.chosen
    assert chosen is not None
    assert chosen.need_bytes <= proposal.room_bytes < 8e9
    assert chosen.seconds <= USES[use].seconds and chosen.model.is_open
    assert chosen.context == CONTEXT
    larger = [one for one in proposal.candidates if one.model.weights > chosen.model.weights]
    for one in larger:
        assert not (one.fits and one.is_fast and one.model.is_open and one.context == CONTEXT)


def test_it_says_why_and_how_to_get_it(tmp_path: Path) -> None:
    proposal = proposed("pi5-8gb", "answers", tmp_path)
    assert proposal.chosen is not None
    model = proposal.chosen.model
    finding = proposal_finding(proposal)
    assert finding.text.startswith(f"{model.name} for answers: takes ")
    assert "with daemon, a small encoder and 8192 tokens" in finding.text
    export, copy = finding.commands
    assert export.startswith(f"edgeslm-export model {model.source} {model.name.lower()}-auto ")
    assert copy.startswith(f"scp -r {model.name.lower()}-auto ")
    assert copy.endswith(":/var/lib/edgeslm/bundles/")
    assert render([finding]).splitlines()[1:3] == [f"                {line}" for line in finding.commands]


def test_the_limit_of_a_control_group_counts(tmp_path: Path) -> None:
    free = proposed("pi5-8gb", "labels", tmp_path)
    put(tmp_path, "proc/self/cgroup", "0::/node\n")
    put(tmp_path, "sys/fs/cgroup/node/memory.max", "1000000000\n")
    limited = proposed("pi5-8gb", "labels", tmp_path)
    assert limited.room_bytes == 1_000_000_000
    assert free.chosen is not None and limited.chosen is not None
    assert limited.chosen.model.weights < free.chosen.model.weights


def test_a_board_without_enough_memory_or_speed_is_told_so(tmp_path: Path) -> None:
    board = load_board("pi4-4gb")
    put(tmp_path, "proc/meminfo", meminfo(900, 500))
    finding = proposal_finding(propose(board, "answers", tmp_path))
    assert finding.level == "warn" and "even SmolLM2-135M needs " in finding.text
    assert "--context" in finding.advice
    slow = replace(board, int4_gflops=0.5, int8_gflops=0.5)
    put(tmp_path, "proc/meminfo", meminfo(4000, 3000))
    finding = proposal_finding(propose(slow, "answers", tmp_path))
    assert finding.level == "warn" and "SmolLM2-135M takes " in finding.text
    assert "tune" in finding.advice


def test_a_shorter_context_needs_less_memory(tmp_path: Path) -> None:
    long, short = (proposed("pi5-4gb", "text", tmp_path, tokens).candidates for tokens in (CONTEXT, 1024))
    assert all(a.need_bytes < b.need_bytes for a, b in zip(short, long, strict=True))


def test_a_new_board_gets_a_proposal_and_one_with_models_does_not(n100: Path, tmp_path: Path) -> None:
    assert look(n100)["proposal"].level == "ok"
    assert "proposal" not in look(n100, bundles=(tmp_path / "none",))


def test_the_table_for_people_and_for_programs(n100: Path) -> None:
    probes = FakeProbes(n100)
    text, found = render_proposal("labels", None, is_json=False, probes=probes)
    assert found
    rows = [line for line in text.splitlines() if line.startswith(tuple(model.name for model in MODELS))]
    assert [row.split()[0] for row in rows] == [model.name for model in MODELS]
    assert sum(row.endswith("proposed") for row in rows) == 1
    text, found = render_proposal("labels", 1024, is_json=True, probes=probes)
    data = json.loads(text)
    assert (data["use"], data["context"]) == ("labels", 1024)
    assert [one["name"] for one in data["models"]] == [model.name for model in MODELS]
    chosen = next(one for one in data["models"] if one["name"] == data["proposed"])
    assert (chosen["fits"], chosen["fault"]) == (True, "")
    assert len(data["commands"]) == 2


def test_a_context_that_no_model_has_is_the_reason(tmp_path: Path) -> None:
    """It said that the smallest model takes 0 s, and advised a head."""
    finding = proposal_finding(proposed("pi5-4gb", "labels", tmp_path, 200_000))
    assert "has a context of only" in finding.text
    assert finding.advice == "take a smaller --context"

"""Doctor's proposal: the model of the catalog that suits this board best, and how to get it."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeslm.bundle.catalog import (
    CONTEXT,
    RECIPE,
    SYSTEM_BYTES,
    USES,
    Candidate,
    choose,
    rate,
)
from edgeslm.cli.doctor.finding import Finding, megabytes, render
from edgeslm.cli.doctor.probes import THIS_MACHINE, Probes
from edgeslm.hardware import board as hardware
from edgeslm.hardware.board_profiles import Board

BUNDLES = "/var/lib/edgeslm/bundles"
"""Folder of a device's bundles, as in the examples of configurations."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """The models of the catalog on this board, and the one that is proposed for ``use``."""

    use: str
    context: int
    room_bytes: int
    candidates: Sequence[Candidate]

    @property
    def chosen(self) -> Candidate | None:
        return choose(self.candidates, self.context)


def propose(board: Board, use: str, root: Path = Path("/"), context: int = CONTEXT) -> Proposal:
    """Rates the catalog's models for a measured board.

    :param use: a key of ``USES``. :param root: folder that contains ``proc`` and ``sys``.
    """
    memory = hardware.read_memory(root)
    total = (memory.total if memory else board.memory_bytes) - SYSTEM_BYTES
    room = min(total, memory.limit) if memory and memory.limit is not None else total
    return Proposal(use, context, room, rate(board, room, USES[use], context))


def proposal_finding(proposal: Proposal) -> Finding:
    """One finding: the proposed model, why, and the commands that make and copy it."""
    use, chosen = USES[proposal.use], proposal.chosen
    room = megabytes(proposal.room_bytes)
    if chosen is None:
        smallest = min(proposal.candidates, key=lambda one: one.need_bytes)
        if smallest.context < proposal.context:
            reason = f"{smallest.model.name} {_fault(smallest, proposal)}"
        elif not smallest.fits:
            reason = f"even {smallest.model.name} needs {megabytes(smallest.need_bytes)} and {room} are there"
        else:
            reason = f"{smallest.model.name} takes {smallest.seconds:.0f} s for {use.summary}"
        is_long = smallest.context < proposal.context or not smallest.fits
        advice = "take a smaller --context" if is_long else "take a head that edgeslm-export tune makes"
        return Finding("proposal", "warn", f"no model of the catalog suits {proposal.use}: {reason}", advice)
    model, typical = chosen.model, chosen.typical
    text = (
        f"{model.name} for {proposal.use}: takes {megabytes(chosen.need_bytes)} of {room} with daemon, a "
        f"small encoder and {chosen.context} tokens, reads {typical.prefill_tps:.0f} and writes "
        f"{typical.decode_tps:.1f} tokens/s; {use.summary} takes about {chosen.seconds:.1f} s"
    )
    larger = next((one for one in proposal.candidates if _is_next(one, chosen)), None)
    if larger is not None:
        text += f"; {larger.model.name} {_fault(larger, proposal)}"
    return Finding("proposal", "ok", text, commands=commands(chosen))


def commands(chosen: Candidate) -> tuple[str, ...]:
    """Shell commands: the export on a build machine, and the copy to this board."""
    name = f"{chosen.model.name.lower()}-{RECIPE}"
    return (
        f"edgeslm-export model {chosen.model.source} {name}    # on a build machine",
        f"scp -r {name} {socket.gethostname()}:{BUNDLES}/",
    )


def _is_next(one: Candidate, chosen: Candidate) -> bool:
    return one.model.is_open and one.model.weights > chosen.model.weights


def _fault(one: Candidate, proposal: Proposal) -> str:
    """Why a model isn't proposed; empty if it could be."""
    if one.context < proposal.context:
        return f"has a context of only {one.context} tokens"
    if not one.fits:
        return f"needs {megabytes(one.need_bytes)}"
    if not one.is_fast:
        return f"takes {one.seconds:.0f} s"
    return "" if one.model.is_open else f"has the licence {one.model.licence}"


def render_proposal(
    use: str, context: int | None, *, is_json: bool, probes: Probes = THIS_MACHINE
) -> tuple[str, bool]:
    """The table and the proposal for this machine as text, and whether a model is proposed.

    :raises BoardError: the speed of the machine can't be measured.
    """
    proposal = propose(probes.measure_board(), use, probes.root, context or CONTEXT)
    if is_json:
        text = json.dumps(proposal_json(proposal), indent=2)
    else:
        text = "\n".join([*proposal_lines(proposal), "", render([proposal_finding(proposal)])])
    return text, proposal.chosen is not None


def proposal_lines(proposal: Proposal) -> list[str]:
    """The table of all models, for a person."""
    use = USES[proposal.use]
    lines = [
        f"{proposal.use}: {use.summary}, {use.read} tokens read and {use.written} written, within "
        f"{use.seconds:.0f} s",
        f"{megabytes(proposal.room_bytes)} for daemon, a small encoder and a model with {proposal.context} "
        "tokens",
        "",
        f"{'model':<16} {'needs':>7} {'reads':>8} {'writes':>8} {'takes':>7}",
    ]
    for one in proposal.candidates:
        fault = "proposed" if one is proposal.chosen else _fault(one, proposal)
        lines.append(
            f"{one.model.name:<16} {megabytes(one.need_bytes):>7} {one.typical.prefill_tps:>6.0f}/s "
            f"{one.typical.decode_tps:>6.1f}/s {one.seconds:>6.1f}s  {fault}".rstrip()
        )
    return lines


def proposal_json(proposal: Proposal) -> dict[str, Any]:
    """The proposal as plain data; ``proposed`` is the name of a model, or null."""
    chosen = proposal.chosen
    return {
        "use": proposal.use,
        "context": proposal.context,
        "room_bytes": proposal.room_bytes,
        "models": [
            {
                "name": one.model.name,
                "source": one.model.source,
                "licence": one.model.licence,
                "weights": one.model.weights,
                "context": one.context,
                "need_bytes": one.need_bytes,
                "fits": one.fits,
                "prefill_tps": round(one.typical.prefill_tps, 1),
                "decode_tps": round(one.typical.decode_tps, 1),
                "seconds": round(one.seconds, 2),
                "fault": _fault(one, proposal),
            }
            for one in proposal.candidates
        ],
        "proposed": chosen.model.name if chosen else None,
        "commands": list(commands(chosen)) if chosen else [],
    }

"""Doctor checks of bundles: memory need, expected speed, signatures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeslm.bundle.catalog import DAEMON_BYTES, USUAL
from edgeslm.bundle.manifest import Bundle, load_bundle, memory_need
from edgeslm.bundle.performance import Expectation, bundle_footprint, expect
from edgeslm.bundle.size_estimate import Footprint, memory_bytes
from edgeslm.bundle.trust import NOT_SIGNED, check_bundles, describe_signature
from edgeslm.cli.check import bundle_problems, missing_bundles
from edgeslm.cli.doctor.finding import MB, Finding, Level, megabytes
from edgeslm.cli.doctor.probes import Probes
from edgeslm.cli.doctor.proposal import proposal_finding, propose
from edgeslm.cli.starter import starter_dir
from edgeslm.config.extras import install_line
from edgeslm.config.loader import Config
from edgeslm.errors import BoardError, BundleError
from edgeslm.hardware import board
from edgeslm.hardware.board_profiles import Board

MEASURING_BYTES = 400 * MB
"""Memory, in bytes, that is needed during the two seconds in which the board's speed is measured."""


def judge_bundles(
    config: Config | None, given: Sequence[Path], probes: Probes, context: int
) -> list[Finding]:
    """Findings on speed and memory of the configured and ``given`` bundles; without any, on those in the
    starter folder, and a proposal for this board."""
    memory = board.read_memory(probes.root)
    configured = config.bundles if config else {}
    others = {f"bundle {path.name}": path for path in given}
    is_new = not configured and not others
    starter = sorted(starter_dir().glob("*/manifest.json")) if is_new else []
    others |= {f"bundle {file.parent.name}": file.parent for file in starter}
    findings: list[Finding] = []
    models: dict[str, Bundle] = {}
    for subject, path in {**configured, **others}.items():
        try:
            models[subject] = load_bundle(path)
        except BundleError as error:
            advice = "make it with edgeslm-export, or copy it again"
            findings.append(Finding(subject, "bad", str(error), advice))
    models = {name: model for name, model in models.items() if model.manifest.model_kind is not None}
    prints = {subject: bundle_footprint(bundle) for subject, bundle in models.items()}
    machine = None
    if is_new or any(prints.values()):
        speed, machine = measure_speed(probes, memory)
        findings = [speed, *findings]
    needs = {
        subject: _Need.of(bundle, prints[subject], machine, context, _workers(config, subject))
        for subject, bundle in models.items()
    }
    findings += [_fits(subject, need, memory) for subject, need in needs.items()]
    if config is not None:
        findings += _judge_together(config, {key: needs[key] for key in needs if key in configured}, memory)
    if is_new and machine is not None:
        findings.append(proposal_finding(propose(machine, USUAL, probes.root)))
    return findings


def measure_speed(probes: Probes, memory: board.BoardMemory | None) -> tuple[Finding, Board | None]:
    """A finding on the board's speed, and the measured board; None if it can't be measured."""
    if memory is not None and memory.available < MEASURING_BYTES:
        text = f"not measured: it takes {megabytes(MEASURING_BYTES)}, more than is available now"
        return Finding("speed", "warn", text, "stop other programs to see tokens/s"), None
    try:
        machine = probes.measure_board()
    except BoardError as error:
        return Finding("speed", "warn", str(error), "see whether the engine loads"), None
    text = (
        f"reads {machine.read_gbs:.1f} GB/s, computes {machine.int4_gflops:.0f} GFLOPS with 4-bit weights"
        f" on {machine.cores} cores"
    )
    if machine.busy:
        text += "; other programs were running; real speed is higher"
    return Finding("speed", "ok", text), machine


@dataclass(frozen=True, slots=True)
class _Need:
    """Memory of a model's workers with a cache of ``tokens`` tokens: ``weights``, ``cache``, and ``rest``,
    which is the engine with its libraries and tokenizer. ``whole`` is the memory with a cache for all
    ``longest`` tokens of the model."""

    tokens: int
    longest: int
    weights: int
    cache: int
    rest: int
    whole: int
    workers: int
    expected: Expectation | None

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.rest

    @classmethod
    def of(
        cls, bundle: Bundle, foot: Footprint | None, machine: Board | None, context: int, workers: int
    ) -> _Need:
        manifest, longest = bundle.manifest, bundle.manifest.context_length
        tokens = min(context, longest)

        def total(tokens: int) -> int:
            return workers * (memory_need(manifest, tokens) if foot is None else memory_bytes(foot, tokens))

        files = sum(file.bytes for file in manifest.weights)
        cache = (total(1) - total(0)) * tokens
        need = total(tokens)
        weights = min(workers * files, need - cache)
        expected = None if foot is None or machine is None else expect(foot, machine, tokens)
        return cls(tokens, longest, weights, cache, need - cache - weights, total(longest), workers, expected)

    def __str__(self) -> str:
        parts = f"weights {megabytes(self.weights)}, KV cache {megabytes(self.cache)}"
        if not self.cache:
            parts = f"weights {megabytes(self.weights)}"
        text = f"needs about {megabytes(self.total)} at {self.tokens} tokens ({parts}, the rest "
        text += f"{megabytes(self.rest)})"
        if self.longest > self.tokens and self.cache:
            text += f", {megabytes(self.whole)} at all {self.longest}"
        if self.workers > 1:
            text += f" with {self.workers} workers"
        return text


def _workers(config: Config | None, subject: str) -> int:
    models = {f"model {name}": model for name, model in config.models.items()} if config else {}
    return models[subject].workers if subject in models else 1


def _fits(subject: str, need: _Need, memory: board.BoardMemory | None) -> Finding:
    advice = "take a smaller model" if need.workers == 1 else f"take fewer than {need.workers} workers"
    text = str(need)
    if memory is not None and need.total > (memory.limit or memory.total):
        return Finding(subject, "bad", f"{text}, more than there is", advice)
    if need.expected is not None:
        expected = need.expected
        text += f", reads {expected.prefill_tps:.0f} and writes {expected.decode_tps:.0f} tokens/s there"
    if memory is None or need.total <= memory.available:
        return Finding(subject, "ok", text)
    advice = f"stop other programs, or {advice}"
    return Finding(subject, "warn", f"{text}; more than is available now", advice)


def _judge_together(
    config: Config, needs: Mapping[str, _Need], memory: board.BoardMemory | None
) -> list[Finding]:
    """Whether all configured models and the daemon fit together; if they don't, whether the models without
    ``keep_alive_s`` fit with the largest of the others."""
    if len(needs) < 2:
        return []
    brief = {f"model {name}" for name, model in config.models.items() if model.keep_alive_s is not None}
    together = DAEMON_BYTES + sum(need.total for need in needs.values())
    stay = DAEMON_BYTES + sum(need.total for subject, need in needs.items() if subject not in brief)
    in_turns = stay + max((needs[subject].total for subject in brief if subject in needs), default=0)
    tokens = max(need.tokens for need in needs.values())
    text = f"need about {megabytes(together)} at {tokens} tokens, with the daemon's {megabytes(DAEMON_BYTES)}"
    available = math.inf if memory is None else memory.available
    there = math.inf if memory is None else memory.limit or memory.total
    if together <= available:
        return [Finding("all models", "ok", text)]
    turns = f"; in turns (keep_alive_s) about {megabytes(in_turns)}"
    if in_turns < together and in_turns <= available:
        return [Finding("all models", "ok", f"{text}, more than is available now{turns}")]
    if in_turns < together:
        text += turns
    if min(together, in_turns) > there:
        advice = "leave out a model, take smaller ones, or set keep_alive_s"
        return [Finding("all models", "bad", f"{text}; more than there is", advice)]
    advice = "stop other programs, leave out a model, take smaller ones, or set keep_alive_s"
    return [Finding("all models", "warn", f"{text}; more than is available now", advice)]


def judge_tasks(config: Config) -> list[Finding]:
    """Findings on tasks and collections whose bundles are of the wrong kind. Missing bundles have findings of
    their own."""
    problems = [] if missing_bundles(config) else bundle_problems(config)
    return [Finding("tasks", "bad", problem, "change the configuration") for problem in problems]


def judge_signatures(config: Config) -> list[Finding]:
    """Checks signatures as the daemon does at its start, but without cached results."""
    signing = config.signing
    if not signing.keys:
        described = {name: describe_signature(path) for name, path in config.bundles.items()}
        return [
            Finding(f"signature {name}", "ok", text) for name, text in described.items() if text != NOT_SIGNED
        ]
    try:
        verdicts = check_bundles(list(config.bundles.values()), signing.keys)
    except BundleError as error:
        return [Finding("signatures", "bad", str(error), "see that there is memory for the check")]
    level: Level = "bad" if signing.refuses else "warn"
    findings = []
    for (name, path), verdict in zip(config.bundles.items(), verdicts, strict=True):
        subject = f"signature {name}"
        if verdict.status == "signed":
            findings.append(Finding(subject, "ok", f"{path} is signed by {verdict.key}"))
        elif verdict.status == "unverifiable":
            text = f"{path} is not verifiable: {verdict.sentence.partition(':')[0]}"
            findings.append(Finding(subject, level, text, install_line("verify")))
        else:
            text = f"not signed: {verdict.sentence}" if verdict.status == "unsigned" else verdict.sentence
            advice = "sign it with edgeslm-export sign, or name the key that did in signing.keys"
            findings.append(Finding(subject, level, text, advice))
    return findings

"""Doctor checks of bundles: memory need, expected speed, signatures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from edgeslm.bundle.manifest import Bundle, load_bundle, memory_need
from edgeslm.bundle.performance import Expectation, bundle_footprint, expect
from edgeslm.bundle.trust import NOT_SIGNED, check_bundles, describe_signature
from edgeslm.cli.doctor.finding import DAEMON_BYTES, MB, Finding, Level, megabytes
from edgeslm.cli.doctor.probes import Probes
from edgeslm.cli.starter import starter_dir
from edgeslm.config.loader import Config
from edgeslm.errors import BoardError, BundleError
from edgeslm.hardware import board

MEASURING_BYTES = 400 * MB
"""Memory, in bytes, that is needed during the two seconds in which the board's speed is measured."""


def judge_bundles(
    config: Config | None, given: Sequence[Path], probes: Probes, context: int
) -> list[Finding]:
    memory = board.read_memory(probes.root)
    configured = config.bundles if config else {}
    others = {f"bundle {path.name}": path for path in given}
    starter = sorted(starter_dir().glob("*/manifest.json")) if not configured and not others else []
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
    speed, expected = _expectations(models, probes, memory, context)
    findings = [*speed, *findings]
    workers = {f"model {name}": model.workers for name, model in config.models.items()} if config else {}
    total = 0
    for subject, bundle in models.items():
        expectation = expected.get(subject)
        tokens = min(context, bundle.manifest.context_length)
        need = expectation.memory_bytes if expectation else memory_need(bundle.manifest, tokens)
        several = workers.get(subject, 1)
        need *= several
        total += need if subject in configured else 0
        advice = "take a smaller model" if several == 1 else f"take fewer than {several} workers"
        findings.append(_fits(subject, need, tokens, memory, advice, expectation))
    if len(models.keys() & configured.keys()) > 1:
        findings.append(
            _fits(
                "all models", total + DAEMON_BYTES, context, memory, "leave out a model, or take smaller ones"
            )
        )
    return findings


def _expectations(
    models: Mapping[str, Bundle], probes: Probes, memory: board.BoardMemory | None, context: int
) -> tuple[list[Finding], dict[str, Expectation]]:
    """Findings on speed, and the expected speed of each model.

    The board's speed is measured only if the dimensions of at least one model are known.
    """
    prints = {subject: bundle_footprint(bundle) for subject, bundle in models.items()}
    known = {subject: foot for subject, foot in prints.items() if foot is not None}
    if not known:
        return [], {}
    if memory is not None and memory.available < MEASURING_BYTES:
        text = f"not measured: it takes {megabytes(MEASURING_BYTES)}, more than is available now"
        return [Finding("speed", "warn", text, "stop other programs to see tokens/s")], {}
    try:
        machine = probes.measure_board()
    except BoardError as error:
        return [Finding("speed", "warn", str(error), "see whether the engine loads")], {}
    text = (
        f"reads {machine.read_gbs:.1f} GB/s, computes {machine.int4_gflops:.0f} GFLOPS with 4-bit weights"
        f" on {machine.cores} cores"
    )
    if machine.busy:
        text += "; other programs were running; real speed is higher"
    expected = {
        subject: expect(foot, machine, min(context, foot.shape.context_length))
        for subject, foot in known.items()
    }
    return [Finding("speed", "ok", text)], expected


def _fits(
    subject: str,
    need: int,
    tokens: int,
    memory: board.BoardMemory | None,
    advice: str,
    expected: Expectation | None = None,
) -> Finding:
    text = f"needs about {megabytes(need)} at {tokens} tokens"
    if memory is not None and need > (memory.limit or memory.total):
        return Finding(subject, "bad", f"{text}, more than there is", advice)
    if expected is not None:
        speeds = f"reads {expected.prefill_tps:.0f} and writes {expected.decode_tps:.0f} tokens/s there"
        text = f"{text}, {speeds}"
    if memory is None or need <= memory.available:
        return Finding(subject, "ok", text)
    return Finding(
        subject, "warn", f"{text}; more than is available now", f"stop other programs, or {advice}"
    )


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
            findings.append(Finding(subject, level, text, "pip install 'edgeslm[verify]'"))
        else:
            text = f"not signed: {verdict.sentence}" if verdict.status == "unsigned" else verdict.sentence
            advice = "sign it with edgeslm-export sign, or name the key that did in signing.keys"
            findings.append(Finding(subject, level, text, advice))
    return findings

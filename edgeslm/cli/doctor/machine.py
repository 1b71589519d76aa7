"""Doctor checks of the machine's CPU, memory, temperature, power supply and clock."""

from __future__ import annotations

import time
from pathlib import Path

from edgeslm.bundle.catalog import DAEMON_BYTES
from edgeslm.cli.doctor.finding import MB, Finding, Level, megabytes
from edgeslm.cli.doctor.probes import Probes
from edgeslm.hardware import board
from edgeslm.hardware.board_profiles import load_advice, recognise

SMALLEST_MODEL_BYTES = 300 * MB
"""Peak memory of SmolLM2-135M in int4, the smallest model."""
DAY_S = 86_400.0


def judge_board(root: Path) -> Finding:
    name = board.board_name(root)
    if name is None:
        return Finding("board", "ok", "not named by the kernel (a virtual machine or container)")
    return Finding("board", "ok", name)


def judge_profile(root: Path) -> list[Finding]:
    """A finding with the settings of the board's profile; none if the board has no profile."""
    memory, cpu = board.read_memory(root), board.read_cpu(root)
    names = [name for name in (board.board_name(root), cpu.name) if name]
    profile = recognise(names, cpu.family, memory.total) if memory is not None else None
    if profile is None:
        return []
    advised = load_advice(profile)
    text = f"{profile}: power {advised.power}, threads {advised.threads}, {advised.models_gb:g} GB for models"
    return [Finding("profile", "ok", text)]


def judge_cpu(root: Path) -> list[Finding]:
    cpu = board.read_cpu(root)
    features = ", ".join(sorted(cpu.features)) or "none of the known ones"
    text = f"{cpu.name}, {cpu.cores} cores, instructions: {features}"
    if cpu.family == "arm" and "asimddp" not in cpu.features:
        finding = Finding(
            "cpu",
            "warn",
            text,
            "no dot products (asimddp): int4 runs several times slower, take a small model",
        )
    elif cpu.family == "x86" and "avx2" not in cpu.features:
        finding = Finding("cpu", "warn", text, "no AVX2: expect a tenth of the usual speed")
    else:
        finding = Finding("cpu", "ok", text)
    findings = [finding]
    quota, usable = board.cpu_quota(root), board.usable_cores(root)
    if quota is not None and quota < (cpu.cores or usable):
        text = f"a control group allows {quota:.1f} cores; models with threads: auto use {usable}"
        advice = "raise CPUQuota= of the unit or the container's limit, or allow requests more time"
        findings.append(Finding("cpu limit", "warn", text, advice))
    if board.governor(root) == "powersave" and cpu.family == "arm":
        advice = "set the governor to schedutil, ondemand or performance"
        findings.append(Finding("governor", "warn", "powersave keeps the CPU at its lowest clock", advice))
    return findings


def judge_memory(root: Path) -> list[Finding]:
    memory = board.read_memory(root)
    if memory is None:
        return [Finding("memory", "warn", "the kernel does not say how much there is", "mount /proc")]
    text = f"{megabytes(memory.total)}, {megabytes(memory.available)} of it available"
    if memory.limit is not None:
        text += f"; a control group allows {megabytes(memory.limit)}"
    need = DAEMON_BYTES + SMALLEST_MODEL_BYTES
    if memory.available >= need:
        return [Finding("memory", "ok", text)]
    if (memory.limit or memory.total) < need:
        where = "raise MemoryMax= of the unit" if memory.limit else "take a board with more memory"
        return [Finding("memory", "bad", text, f"the smallest model needs {megabytes(need)}: {where}")]
    return [
        Finding("memory", "warn", text, f"stop other programs: the smallest model needs {megabytes(need)}")
    ]


def judge_heat(probes: Probes) -> list[Finding]:
    findings = []
    degrees = board.temperature_c(probes.root)
    if degrees is not None:
        level: Level = "bad" if degrees >= 85 else "warn" if degrees >= 75 else "ok"
        advice = "" if level == "ok" else "cool it: a heat sink, a fan, air; it slows down when hot"
        findings.append(Finding("temperature", level, f"{degrees:.0f} degrees Celsius", advice))
    seen = board.throttling(probes.root, probes.firmware)
    if seen.low_voltage:
        when = "is too low now" if seen.low_voltage_now else "was too low since the start"
        advice = "use the board's own power supply and a short cable, and unplug what takes much by USB"
        findings.append(
            Finding("power", "bad", f"the voltage {when}: it slows down, and cards get damaged", advice)
        )
    if seen.slowed:
        when = "is slowed down now" if seen.slowed_now else "was slowed down since the start"
        advice = "cool it, or choose a smaller model; speeds vary until then"
        findings.append(Finding("throttling", "warn", f"the CPU {when}", advice))
    return findings


def judge_clock(probes: Probes) -> Finding:
    """Judges the clock.

    The clock may be wrong: boards without a clock battery start with the time of their last shutdown, or in
    1970.
    """
    installed = Path(__file__).stat().st_mtime
    if (now := probes.now()) < installed - DAY_S:
        text = f"says {time.strftime('%-d %B %Y', time.gmtime(now))}, before this program was installed"
        advice = "set it, or give it a network: with a wrong time certificates are refused (timedatectl)"
        return Finding("clock", "bad", text, advice)
    synchronised = probes.clock_synchronised()
    if synchronised is None:
        return Finding("clock", "ok", "the kernel does not say whether it is synchronised")
    if synchronised:
        return Finding("clock", "ok", "synchronised")
    advice = "enable systemd-timesyncd or chrony: certificates and deadlines need the right time"
    return Finding("clock", "warn", "not synchronised", advice)

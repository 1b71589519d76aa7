"""``edgeslm doctor``: what this board is, what fits on it, what is wrong, and what to do about it.

Facts come from ``edgeslm.board``; this module judges them. The inference libraries are only ever imported in
a child process, since an instruction that the CPU lacks ends the process that imports them.
"""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from edgeslm import board
from edgeslm.bundle import Bundle, load_bundle, memory_need
from edgeslm.config import Broker, Config
from edgeslm.engine.libraries import GENAI, LIBRARIES, TIMEOUT_S, import_in_child, installed
from edgeslm.errors import BoardError, BundleError, EdgeslmError
from edgeslm.expectation import Expectation, bundle_footprint, expect, measure_board
from edgeslm.profiles import Board
from edgeslm.sections import default_state_dir
from edgeslm.trust import NOT_SIGNED, check_bundles, describe_signature

Level = Literal["ok", "warn", "bad"]

PURE_LIBRARIES = ("numpy", "paho-mqtt", "pyyaml", "tokenizers", "jinja2", "jsonschema", "pydantic")
TOKENS = 2048
"""Tokens of context that the memory need of a bundle is worked out for."""

MB = 1_000_000
DAEMON_BYTES = 60 * MB
MEASURING_BYTES = 400 * MB
"""What measuring the board takes for two seconds."""
SMALLEST_MODEL_BYTES = 300 * MB
"""What SmolLM2-135M in int4 takes at its peak."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. ``advice`` says what to do, empty if nothing is."""

    subject: str
    level: Level
    text: str
    advice: str = ""


def examine(
    config: Config | None = None,
    bundles: Sequence[Path] = (),
    *,
    root: Path = Path("/"),
    probe_library: Callable[[str], subprocess.CompletedProcess[str]] | None = None,
    probe_broker: Callable[[Config], tuple[list[str], list[str]]] | None = None,
    clock: Callable[[], bool | None] = board.clock_synchronised,
    measure: Callable[[], Board] = measure_board,
    context: int = TOKENS,
) -> list[Finding]:
    """Looks at everything once; takes some seconds, as libraries are loaded and a broker may be asked.

    ``root`` is where /proc and /sys are. Bundles of ``config`` and the given ones, or without any those of
    the starter folder, are measured against the memory with ``context`` tokens, and what the board was
    measured to do says how fast they will be. The probes ask a child process and a broker; tests give others.
    """
    findings = [_board(root), *_cpu(root), *_memory(root), _disk(config), *_heat(root), _clock(clock)]
    wanting = [name for name, model in config.models.items() if model.device == "cuda"] if config else []
    findings += [_python(), *_libraries(probe_library or import_in_child, wanting), *_pure_libraries()]
    findings += _bundles(config, bundles, board.read_memory(root), measure, context)
    if config is not None:
        findings += _signatures(config)
        findings += [*_broker_secrets(config.broker), *_broker(config, probe_broker or _ask_broker)]
    return findings


def render(findings: Sequence[Finding], colour: bool | None = None) -> str:
    """A line each, with what to do below it. Colours on a terminal, unless NO_COLOR is set."""
    if colour is None:
        colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    colours = {"ok": "\x1b[32m", "warn": "\x1b[33m", "bad": "\x1b[31m"}
    width = max((len(finding.subject) for finding in findings), default=0)
    lines = []
    for finding in findings:
        mark = f"{finding.level:<4}"
        if colour:
            mark = f"{colours[finding.level]}{mark}\x1b[0m"
        lines.append(f"{mark}  {finding.subject:<{width}}  {finding.text}")
        if finding.advice:
            lines.append(f"      {'':<{width}}  -> {finding.advice}")
    count = {level: sum(finding.level == level for finding in findings) for level in colours}
    lines.append(f"{count['ok']} ok, {count['warn']} to look at, {count['bad']} bad")
    return "\n".join(lines)


def _megabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 10**9 else f"{size / 1e6:.0f} MB"


def _board(root: Path) -> Finding:
    name = board.board_name(root)
    if name is None:
        return Finding("board", "ok", "not named by the kernel (a virtual machine or container)")
    return Finding("board", "ok", name)


def _cpu(root: Path) -> list[Finding]:
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
    quota, usable = board.cpu_quota(root), board.usable_cores()
    if quota is not None and quota < (cpu.cores or usable):
        advice = "raise CPUQuota= of the unit or the container's limit, or set threads of the models to it"
        findings.append(Finding("cpu limit", "warn", f"a control group allows {quota:.1f} cores", advice))
    if board.governor(root) == "powersave" and cpu.family == "arm":
        advice = "set the governor to schedutil, ondemand or performance"
        findings.append(Finding("governor", "warn", "powersave keeps the CPU at its lowest clock", advice))
    return findings


def _memory(root: Path) -> list[Finding]:
    memory = board.read_memory(root)
    if memory is None:
        return [Finding("memory", "warn", "the kernel does not say how much there is", "mount /proc")]
    text = f"{_megabytes(memory.total)}, {_megabytes(memory.available)} of it available"
    if memory.limit is not None:
        text += f"; a control group allows {_megabytes(memory.limit)}"
    need = DAEMON_BYTES + SMALLEST_MODEL_BYTES
    if memory.available >= need:
        return [Finding("memory", "ok", text)]
    if (memory.limit or memory.total) < need:
        where = "raise MemoryMax= of the unit" if memory.limit else "take a board with more memory"
        return [Finding("memory", "bad", text, f"the smallest model needs {_megabytes(need)}: {where}")]
    return [
        Finding("memory", "warn", text, f"stop other programs: the smallest model needs {_megabytes(need)}")
    ]


def _disk(config: Config | None) -> Finding:
    folder = config.state_dir if config is not None else default_state_dir()
    nearest = folder
    while not nearest.is_dir() and nearest != nearest.parent:
        nearest = nearest.parent
    try:
        free = shutil.disk_usage(nearest).free
    except OSError as error:
        return Finding("disk", "bad", f"{folder}: {error.strerror}", "choose another state_dir")
    text = f"{_megabytes(free)} free for {folder}"
    if free < 100 * MB:
        return Finding("disk", "bad", text, "make room: the daemon can't keep its state")
    if not os.access(nearest, os.W_OK):
        return Finding("disk", "warn", f"{folder} can't be written by this user", "run as the daemon's user")
    if free < 1000 * MB:
        return Finding("disk", "warn", text, "make room before the next bundle is installed")
    return Finding("disk", "ok", text)


def _heat(root: Path) -> list[Finding]:
    findings = []
    degrees = board.temperature_c(root)
    if degrees is not None:
        level: Level = "bad" if degrees >= 85 else "warn" if degrees >= 75 else "ok"
        advice = "" if level == "ok" else "cool it: a heat sink, a fan, air; it slows down when hot"
        findings.append(Finding("temperature", level, f"{degrees:.0f} degrees Celsius", advice))
    low_voltage, heat = board.throttling(root)
    if low_voltage:
        advice = "use the board's own power supply and a short cable"
        findings.append(Finding("power", "bad", "the voltage was too low since the start", advice))
    if heat:
        advice = "cool it, or choose a smaller model; speeds vary until then"
        findings.append(Finding("throttling", "warn", "the CPU was slowed down since the start", advice))
    return findings


def _clock(clock: Callable[[], bool | None]) -> Finding:
    synchronised = clock()
    if synchronised is None:
        return Finding("clock", "ok", "the kernel does not say whether it is synchronised")
    if synchronised:
        return Finding("clock", "ok", "synchronised")
    advice = "enable systemd-timesyncd or chrony: certificates and deadlines need the right time"
    return Finding("clock", "warn", "not synchronised", advice)


def _python() -> Finding:
    text = f"{platform.python_version()} on {platform.machine()}"
    if sys.maxsize < 2**32:
        return Finding(
            "python", "bad", f"{text}, 32 bits", "install a 64-bit system: there is no 32-bit engine"
        )
    return Finding("python", "ok", text)


def _libraries(
    probe: Callable[[str], subprocess.CompletedProcess[str]], wanting: Sequence[str]
) -> list[Finding]:
    """:param wanting: the models that are to run on CUDA."""
    findings = []
    for module, (name, *_) in LIBRARIES.items():
        try:
            text = installed(module)
        except PackageNotFoundError:
            findings.append(Finding("engine", "bad", f"{name} is not installed", "pip install edgeslm again"))
            continue
        try:
            done = probe(module)
        except subprocess.TimeoutExpired:
            text += f" did not load within {TIMEOUT_S} s"
            findings.append(Finding("engine", "bad", text, "look for a busy disk or another hanging process"))
            continue
        findings.append(_loaded(text, done.returncode, done.stderr))
        if wanting and module == GENAI and done.returncode == 0:
            findings.append(_cuda(text, done.stdout, wanting))
    return findings


def _cuda(library: str, said: str, wanting: Sequence[str]) -> Finding:
    names = ", ".join(wanting)
    if said.strip() == "True":
        return Finding("device", "ok", f"{library} can compute on CUDA, wanted for {names}")
    advice = "install onnxruntime-genai-cuda in its place, or leave out device"
    return Finding(
        "device", "bad", f"{library} computes on the CPU alone, for {names} CUDA is wanted", advice
    )


def _loaded(text: str, status: int, output: str) -> Finding:
    """``status`` is a child's: negative for a signal, or 128 and the signal when an emulator was between."""
    if status == 0:
        return Finding("engine", "ok", f"{text} loads")
    number = -status if status < 0 else status - 128 if status > 128 else 0
    if number == signal.SIGILL:
        text += " uses an instruction that this CPU does not have"
        return Finding("engine", "bad", text, "try another version of it, or run on a newer CPU")
    if number:
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        advice = "out of memory?" if number == signal.SIGKILL else "install it again"
        return Finding("engine", "bad", f"{text} ended with {name} while loading", advice)
    reason = output.strip().splitlines()[-1][:200] if output.strip() else "no reason given"
    return Finding("engine", "bad", f"{text} does not load: {reason}", "install edgeslm again with pip")


def _pure_libraries() -> list[Finding]:
    found, missing = [], []
    for name in PURE_LIBRARIES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        return [Finding("libraries", "bad", f"missing: {', '.join(missing)}", "pip install edgeslm again")]
    return [Finding("libraries", "ok", ", ".join(found))]


def starter_dir() -> Path:
    """Where `edgeslm-export starter` puts the starter bundles unless told otherwise."""
    data = os.environ.get("XDG_DATA_HOME", "")
    try:
        return (Path(data) if data.startswith("/") else Path.home() / ".local/share") / "edgeslm/starter"
    except RuntimeError:
        return Path("/nonexistent")


def _bundles(
    config: Config | None,
    given: Sequence[Path],
    memory: board.Memory | None,
    measure: Callable[[], Board],
    context: int,
) -> list[Finding]:
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
    speed, expected = _expectations(models, measure, memory, context)
    findings = [*speed, *findings]
    total = 0
    for subject, bundle in models.items():
        expectation = expected.get(subject)
        tokens = min(context, bundle.manifest.context_length)
        need = expectation.memory_bytes if expectation else memory_need(bundle.manifest, tokens)
        total += need if subject in configured else 0
        findings.append(_fits(subject, need, tokens, memory, "take a smaller model", expectation))
    if len(models.keys() & configured.keys()) > 1:
        findings.append(
            _fits(
                "all models", total + DAEMON_BYTES, context, memory, "leave out a model, or take smaller ones"
            )
        )
    return findings


def _expectations(
    models: Mapping[str, Bundle], measure: Callable[[], Board], memory: board.Memory | None, context: int
) -> tuple[list[Finding], dict[str, Expectation]]:
    """The board is only measured if there is a model whose shape is known."""
    prints = {subject: bundle_footprint(bundle) for subject, bundle in models.items()}
    known = {subject: foot for subject, foot in prints.items() if foot is not None}
    if not known:
        return [], {}
    if memory is not None and memory.available < MEASURING_BYTES:
        text = f"not measured: it takes {_megabytes(MEASURING_BYTES)}, more than is available now"
        return [Finding("speed", "warn", text, "stop other programs to see tokens/s")], {}
    try:
        machine = measure()
    except BoardError as error:
        return [Finding("speed", "warn", str(error), "see whether the engine loads")], {}
    text = (
        f"reads {machine.read_gbs:.1f} GB/s, computes {machine.int4_gflops:.0f} GFLOPS with 4-bit weights"
        f" on {machine.cores} cores"
    )
    if machine.busy:
        text += "; other programs computed meanwhile, it can do more"
    expected = {
        subject: expect(foot, machine, min(context, foot.shape.context_length))
        for subject, foot in known.items()
    }
    return [Finding("speed", "ok", text)], expected


def _fits(
    subject: str,
    need: int,
    tokens: int,
    memory: board.Memory | None,
    advice: str,
    expected: Expectation | None = None,
) -> Finding:
    text = f"needs about {_megabytes(need)} at {tokens} tokens"
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


def _signatures(config: Config) -> list[Finding]:
    """What a start of the daemon would find, asked anew: nothing that is remembered counts."""
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
    level: Level = "bad" if signing.require_signature else "warn"
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


def _broker_secrets(broker: Broker) -> list[Finding]:
    findings = []
    for key in ("password_file", "ca_file", "cert_file", "key_file"):
        file: Path | None = getattr(broker, key)
        if file is None:
            continue
        try:
            with file.open("rb"):
                mode = file.stat().st_mode
        except OSError as error:
            text = f"{key} {file}: {error.strerror}"
            findings.append(Finding("secrets", "bad", text, "correct the path, or let this user read it"))
            continue
        if key in ("password_file", "key_file") and mode & 0o007:
            text = f"{key} {file} can be read by every user"
            findings.append(Finding("secrets", "warn", text, f"chmod o= {file}"))
    if broker.password_file and not broker.tls and broker.host not in ("localhost", "127.0.0.1", "::1"):
        text = "the password crosses the network in clear"
        findings.append(Finding("secrets", "warn", text, "use mqtts:// in url"))
    return findings


def _ask_broker(config: Config) -> tuple[list[str], list[str]]:
    from edgeslm.bus.probe import probe_broker  # lazy: only with a configuration

    probe = probe_broker(config)
    return list(probe.notes), list(probe.problems)


def _broker(config: Config, ask: Callable[[Config], tuple[list[str], list[str]]]) -> list[Finding]:
    try:
        notes, problems = ask(config)
    except EdgeslmError as error:
        notes, problems = [], [str(error)]
    advice = "see that it runs and that url, username and password_file are right"
    if problems:
        return [Finding("broker", "bad", problem, advice) for problem in problems]
    return [
        Finding("broker", "ok", note)
        for note in notes or [f"{config.broker.host}:{config.broker.port} answers"]
    ]

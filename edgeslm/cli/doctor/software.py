"""Doctor checks of Python and the libraries: whether they are installed, and load on this CPU."""

from __future__ import annotations

import platform
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from edgeslm.cli.doctor.finding import Finding
from edgeslm.cli.doctor.probes import Probes
from edgeslm.config.extras import install_line
from edgeslm.engine.libraries import GENAI, LIBRARIES, TIMEOUT_S, installed
from edgeslm.ipc.job import JobError

AGAIN = install_line("node")
PURE_LIBRARIES = ("numpy", "paho-mqtt", "pyyaml", "tokenizers", "jinja2", "jsonschema", "pydantic")


def judge_python() -> Finding:
    text = f"{platform.python_version()} on {platform.machine()}"
    if sys.maxsize < 2**32:
        return Finding(
            "python", "bad", f"{text}, 32 bits", "install a 64-bit system: there is no 32-bit engine"
        )
    return Finding("python", "ok", text)


def judge_libraries(probes: Probes, wanting: Sequence[str]) -> list[Finding]:
    """Checks inference libraries. :param wanting: names of the models configured for CUDA."""
    findings = []
    for module, (name, *_) in LIBRARIES.items():
        try:
            text = installed(module)
        except PackageNotFoundError:
            findings.append(Finding("engine", "bad", f"{name} is not installed", AGAIN))
            continue
        try:
            has_cuda = probes.load_library(module)
        except JobError as error:
            findings.append(_not_loaded(text, error))
            continue
        findings.append(Finding("engine", "ok", f"{text} loads"))
        if wanting and module == GENAI:
            findings.append(_cuda(text, has_cuda, wanting))
    return findings


def _cuda(library: str, has_cuda: bool, wanting: Sequence[str]) -> Finding:
    names = ", ".join(wanting)
    if has_cuda:
        return Finding("device", "ok", f"{library} can compute on CUDA, wanted for {names}")
    advice = "install onnxruntime-genai-cuda in its place, or leave out device"
    return Finding(
        "device", "bad", f"{library} computes on the CPU alone, for {names} CUDA is wanted", advice
    )


def _not_loaded(text: str, error: JobError) -> Finding:
    if error.reason == "time":
        text += f" did not load within {TIMEOUT_S} s"
        return Finding("engine", "bad", text, "look for a busy disk or another hanging process")
    status = error.status  # 128 plus the signal under an emulator
    number = -status if status < 0 else status - 128 if status > 128 else 0
    if number == signal.SIGILL:
        text += " uses an instruction that this CPU does not have"
        return Finding("engine", "bad", text, "try another version of it, or run on a newer CPU")
    if number:
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        advice = "out of memory?" if number == signal.SIGKILL else "install it again"
        return Finding("engine", "bad", f"{text} ended with {name} while loading", advice)
    return Finding("engine", "bad", f"{text} does not load: {error.words[:200] or 'no reason given'}", AGAIN)


def judge_pure_libraries() -> list[Finding]:
    found, missing = [], []
    for name in PURE_LIBRARIES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        return [Finding("libraries", "bad", f"missing: {', '.join(missing)}", AGAIN)]
    return [Finding("libraries", "ok", ", ".join(found))]

"""Python and the libraries: are they there, and do they load on this processor?"""

from __future__ import annotations

import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version

from edgeslm.cli.doctor.finding import Finding
from edgeslm.engine.libraries import GENAI, LIBRARIES, TIMEOUT_S, installed

AGAIN = "pip install 'edgeslm[node]'"
PURE_LIBRARIES = ("numpy", "paho-mqtt", "pyyaml", "tokenizers", "jinja2", "jsonschema", "pydantic")


def judge_python() -> Finding:
    text = f"{platform.python_version()} on {platform.machine()}"
    if sys.maxsize < 2**32:
        return Finding(
            "python", "bad", f"{text}, 32 bits", "install a 64-bit system: there is no 32-bit engine"
        )
    return Finding("python", "ok", text)


def judge_libraries(
    probe: Callable[[str], subprocess.CompletedProcess[str]], wanting: Sequence[str]
) -> list[Finding]:
    """:param wanting: the models that are to run on CUDA."""
    findings = []
    for module, (name, *_) in LIBRARIES.items():
        try:
            text = installed(module)
        except PackageNotFoundError:
            findings.append(Finding("engine", "bad", f"{name} is not installed", AGAIN))
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
    return Finding("engine", "bad", f"{text} does not load: {reason}", AGAIN)


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

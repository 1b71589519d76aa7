"""Prompts of a given number of tokens that share no prefix."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from edgeslm.engine.calls import Prompt, Text, Turn

_TEXT = (
    "the pump valve motor sensor line shift oil heat press drive belt gear shaft water air hall door level "
    "temperature pressure speed report check clean open close start stop change before after under over new "
    "old left right first last day night hour minute normal high low and with for from"
)
_WORDS = _TEXT.split()


@dataclass(frozen=True, slots=True)
class Job:
    """One prompt as both sides get it; ``ids`` is what the bundle's template and tokenizer make of it."""

    system: str
    text: str
    ids: tuple[int, ...]


def make_jobs(encode: Callable[[str, str], list[int]], tokens: int, count: int) -> list[Job]:
    """Prompts of exactly ``tokens`` tokens; each begins with another word."""
    jobs = []
    for number in range(count):
        draw = random.Random(number)
        system = f"{_WORDS[number % len(_WORDS)].capitalize()} log {number}: answer at length."
        words: list[str] = []
        step = tokens
        while step:
            candidate = [*words, *draw.choices(_WORDS, k=step)]
            if len(encode(system, " ".join(candidate))) <= tokens:
                words = candidate
            else:
                step //= 2
        jobs.append(Job(system, " ".join(words), tuple(encode(system, " ".join(words)))))
    return jobs


def prompt_of(system: str, text: str) -> Prompt:
    """The chat that both engines get; ``system`` differs from run to run, so no cache serves it."""
    return Prompt(turns=(Turn("system", (system,)), Turn("user", (Text(text),))))

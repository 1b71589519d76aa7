"""Workloads of ``compare.py``: tasks of four kinds, and messages that no two runs repeat.

Texts are real: SMS and sshd lines of the starter directory, and WikiText-2.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.lib.load import Ask
from edgeslm.cli.demo.material import LOGIN_EXAMPLES, load_logins, load_sms

MODEL: Final = "small"
CONTEXT_TOKENS: Final = 500
SUMMARY_TOKENS: Final = 1000
NEW_TOKENS: Final = 48
"""Most of an answer or a summary; both sides may end sooner."""
SEED: Final = 23

FEW_LABELS: Final = ("private", "business", "advertising", "other")
_MANY: Final = (
    "oil leak, water leak, air leak, gas smell, smoke, fire, noise, vibration, overheating, overload, "
    "belt wear, bearing wear, tool wear, broken part, loose bolt, blocked pipe, blocked filter, low oil, "
    "low coolant, low pressure, high pressure, high temperature, low temperature, power failure, "
    "short circuit, blown fuse, sensor failure, network failure, software error, display error, "
    "door open, guard open, emergency stop, wrong material, missing material, bad quality, injury, "
    "cleaning, delivery, all fine"
)
MANY_LABELS: Final = tuple(_MANY.split(", "))
_FIELDS: Final = {
    "type": "object",
    "properties": {
        "host": {"type": "string", "description": "address or name of the other side"},
        "user": {"type": "string", "description": "who tried to log in"},
    },
    "required": ["host", "user"],
}
_USERS: Final = ("root", "pi", "carol")
_QUESTIONS: Final = (
    "What is this text about?",
    "Which person or place is named first?",
    "What happened?",
    "Which year is named?",
)


@dataclass(frozen=True, slots=True)
class Mix:
    """``asks`` without end; ``requests`` says how many a turn takes, by its clients; ``is_text``: what comes
    back can be streamed."""

    name: str
    asks: Iterator[Ask]
    requests: Mapping[int, int]
    is_text: bool = False


def tasks() -> dict[str, dict[str, Any]]:
    """The node's ``tasks``: their instructions and examples are the fixed part of each prompt."""
    few, many = dict.fromkeys(FEW_LABELS, ""), dict.fromkeys(MANY_LABELS, "")
    examples = [
        {"input": text, "output": {"host": host, "user": user}}
        for (text, host), user in zip(LOGIN_EXAMPLES, _USERS, strict=True)
    ]
    allow = ["deadline_ms", "stream"]
    return {
        "few": {"kind": "classify", "model": MODEL, "labels": few, "allow": allow[:1]},
        "many": {"kind": "classify", "model": MODEL, "labels": many, "allow": allow[:1]},
        "login": {
            "kind": "extract",
            "model": MODEL,
            "schema": _FIELDS,
            "examples": examples,
            "max_tokens": NEW_TOKENS * 2,
            "allow": allow[:1],
        },
        "answer": {
            "kind": "answer",
            "model": MODEL,
            "mode": "compose",
            "max_tokens": NEW_TOKENS,
            "allow": ["context", *allow],
        },
        "brief": {"kind": "summarize", "model": MODEL, "max_tokens": NEW_TOKENS, "allow": allow},
    }


DEADLINES_S: Final = {"few": 2.0, "many": 2.0, "login": 10.0, "answer": 20.0, "brief": 30.0}
"""How long the senders of a mixed load wait."""


class Messages:
    """Inputs for each task in a shuffled order, again from the beginning when they are used up.

    :param article: a long text. :param encode: text to tokens.
    """

    def __init__(self, data: Path, article: str, encode: Callable[[str], Sequence[int]]) -> None:
        self._random = random.Random(SEED)
        self._sms = [row.text for row in load_sms(data)[1]]
        self._logins = [row.text for row in load_logins(data, 200)]
        if not self._logins:
            raise ValueError(f"{data} has no log lines; make the starter folder on a machine with apt.")
        self._words = article.split()
        self._tokens_a_word = len(encode(article)) / len(self._words)

    def of(self, task: str) -> Iterator[Ask]:
        makers: dict[str, Callable[[], Ask]] = {
            "few": lambda: Ask("few", self._random.choice(self._sms)),
            "many": lambda: Ask("many", self._random.choice(self._sms)),
            "login": lambda: Ask("login", self._random.choice(self._logins)),
            "answer": self._question,
            "brief": lambda: Ask("brief", self._passage(SUMMARY_TOKENS)),
        }
        while True:
            yield makers[task]()

    def mixed(self) -> Iterator[Ask]:
        """Many short ones, few long ones, in a random order, each with its sender's patience."""
        pattern = ("few",) * 5 + ("many",) * 2 + ("login",) * 2 + ("answer", "brief")
        streams = {task: self.of(task) for task in DEADLINES_S}
        while True:
            for task in self._random.sample(pattern, len(pattern)):
                ask = next(streams[task])
                deadline_s = DEADLINES_S[task]
                options = {**ask.options, "deadline_ms": round(deadline_s * 1000)}
                yield Ask(task, ask.input, options, deadline_s)

    def _question(self) -> Ask:
        passage = self._passage(CONTEXT_TOKENS)
        return Ask("answer", self._random.choice(_QUESTIONS), {"context": passage})

    def _passage(self, tokens: int) -> str:
        count = round(tokens / self._tokens_a_word)
        start = self._random.randrange(len(self._words) - count)
        return " ".join(self._words[start : start + count])


def make_mixes(messages: Messages) -> list[Mix]:
    """As many requests as take some seconds each."""
    return [
        Mix("classify, 4 labels", messages.of("few"), {1: 100, 4: 160, 16: 200}),
        Mix("classify, 40 labels", messages.of("many"), {1: 60, 4: 80, 16: 120}),
        Mix("extract", messages.of("login"), {1: 20, 4: 32, 16: 48}),
        Mix("answer, 500 tokens", messages.of("answer"), {1: 10, 4: 16, 16: 32}, is_text=True),
        Mix("summarize, 1000 tokens", messages.of("brief"), {1: 8, 4: 12, 16: 16}, is_text=True),
        Mix("all together", messages.mixed(), {1: 33, 4: 44, 16: 88}),
    ]

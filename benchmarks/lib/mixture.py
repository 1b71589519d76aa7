"""Requests of ``mixed.py``: every kind, valid and invalid, with the expected result."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeslm.cli.demo.material import NOTES_TAUGHT, QUESTIONS, load_logins, load_sms
from edgeslm.messages import Result

NODE = "mixed"
IN_FLIGHT = 24
SEED = 11
FINE = ("ok", "abstained")
LONG = "The spindle of lathe 2 ran hot again and the coolant was low. " * 700
"""More tokens than the decoder's context; less than the node's largest packet."""
HUGE = b"x" * 10_000_000


def configuration(url: str, starter: Path, learned: Path, state: Path) -> dict[str, Any]:
    """Every kind of task, with outputs of a few tokens: what is counted is results, not prose."""
    small: dict[str, Any] = {"model": "small"}
    return {
        "node": NODE,
        "broker": {"url": url},
        "models": {
            "small": {"bundle": str(starter / "smollm2-135m-int4")},
            "encoder": {"bundle": str(starter / "minilm-l6-int8")},
        },
        "tasks": {
            "triage": {
                **small,
                "kind": "classify",
                "labels": {
                    "normal": "all is well",
                    "warning": "look at it this shift",
                    "critical": "stop now",
                },
            },
            "notes": {"learned": str(learned)},
            "login": {
                **small,
                "kind": "extract",
                "schema": {
                    "type": "object",
                    "properties": {"host": {"type": "string"}},
                    "required": ["host"],
                },
                "verbatim": True,
                "max_tokens": 48,
                "allow": ["schema", "priority", "deadline_ms"],
            },
            "manual": {**small, "kind": "answer", "max_tokens": 12},
            "brief": {**small, "kind": "summarize", "max_tokens": 6},
            "say": {**small, "kind": "generate", "max_tokens": 6},
            "vector": {"kind": "embed", "model": "encoder", "overflow": "head"},
        },
        "limits": {"request_timeout_s": 60},
        "prepare": "never",
        "state_dir": str(state),
        "log_level": "warning",
    }


@dataclass(slots=True)
class Plan:
    """One request: what to send, and what must come back. ``kind`` is its row in the table.

    ``fields`` is the JSON of a request, ``raw`` a payload that is none. ``reply_to`` takes the place of the
    sender's own reply topic; ``anonymous`` means that a sender of MQTT 3.1.1 can't be told by an id.
    """

    kind: str
    task: str
    code: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    raw: bytes | None = None
    reply_to: str | None = None
    anonymous: bool = False
    sent_at: float = 0.0
    results: list[Result] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    round_trip_ms: float = 0.0

    @property
    def is_right(self) -> bool:
        if len(self.results) != 1:
            return False
        (result,) = self.results
        if self.code is None:
            return result.status in FINE and result.task == self.task
        return result.error is not None and result.error.code == self.code


def good_plans(data: Path) -> Iterator[Plan]:
    """Without end, all kinds of tasks in turn, cheap ones more often."""
    sms, notes, logins = load_sms(data)[1], NOTES_TAUGHT, load_logins(data, 40)
    turns: Sequence[Callable[[int], Plan]] = (
        lambda n: Plan("classify, scored", "triage", fields={"input": sms[n % len(sms)].text}),
        lambda n: Plan("classify, learned", "notes", fields={"input": notes[n % len(notes)].text}),
        lambda n: Plan("embed", "vector", fields={"input": sms[n % len(sms)].text}),
        lambda n: Plan("extract", "login", fields={"input": logins[n % len(logins)].text}),
        lambda n: Plan("classify, scored", "triage", fields={"input": notes[n % len(notes)].text}),
        lambda n: Plan("answer", "manual", fields=_question(n)),
        lambda n: Plan("generate", "say", fields={"input": sms[n % len(sms)].text}),
        lambda n: Plan("classify, learned", "notes", raw=sms[n % len(sms)].text.encode(), anonymous=True),
        lambda n: Plan("summarize", "brief", fields={"input": sms[n % len(sms)].text}),
        lambda n: Plan("generate, streamed", "say", fields=_streamed(notes[n % len(notes)].text)),
    )
    number = 0
    while True:
        for turn in turns:
            yield turn(number)
        number += 1


def _question(number: int) -> dict[str, Any]:
    question = QUESTIONS[number % len(QUESTIONS)]
    return {"input": question.text, "options": {"context": question.context}}


def _streamed(text: str) -> dict[str, Any]:
    return {"input": _chat(text), "options": {"stream": True}}


def _chat(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


def bad_plans() -> Iterator[Plan]:
    """Without end, every way to be wrong in turn."""

    def options(task: str, **values: Any) -> dict[str, Any]:
        return {"task": task, "fields": {"input": "a message", "options": values}}

    ways: Sequence[tuple[str, str, dict[str, Any]]] = (
        ("not a request", "invalid_request", {"task": "triage", "raw": b"{", "anonymous": True}),
        ("not a request", "invalid_request", {"task": "say", "raw": b'{"input": "x"', "anonymous": True}),
        ("wrong type", "invalid_request", {"task": "triage", "fields": {"input": 5}}),
        ("wrong type", "invalid_request", {"task": "say", "fields": {"input": "x", "options": []}}),
        ("wrong type", "invalid_request", options("say", max_tokens="many")),
        ("wrong type", "invalid_request", {"task": "triage", "fields": {"input": _chat("x")}}),
        ("no input", "invalid_request", {"task": "triage", "fields": {"text": "x"}}),
        ("empty input", "invalid_request", {"task": "triage", "fields": {"input": " \n"}}),
        ("empty input", "invalid_request", {"task": "notes", "raw": b"", "anonymous": True}),
        ("unknown task", "unknown_task", {"task": "horoscope", "fields": {"input": "x"}}),
        ("unknown option", "invalid_request", options("say", colour="red")),
        ("option not allowed", "invalid_request", options("triage", max_tokens=5)),
        ("option not allowed", "invalid_request", options("triage", labels=["a", "b"])),
        ("option out of range", "invalid_request", options("say", temperature=9)),
        ("10 MB", "too_large", {"task": "triage", "raw": HUGE, "anonymous": True}),
        ("longer than the context", "too_long", {"task": "triage", "fields": {"input": LONG}}),
        ("invalid UTF-8", "invalid_request", {"task": "say", "raw": b"caf\xe9", "anonymous": True}),
        (
            "bad schema",
            "invalid_request",
            options("login", schema={"type": "object", "properties": {"a": {"type": "colour"}}}),
        ),
        ("expired", "expired", options("triage", deadline_ms=1, priority=0)),
        (
            "wildcard reply topic",
            "invalid_request",
            {"task": "triage", "fields": {"input": "x"}, "reply_to": "a/+/b"},
        ),
        (
            "foreign reply topic",
            "invalid_request",
            {"task": "say", "fields": {"input": "x"}, "reply_to": "valve/set"},
        ),
        ("no context", "invalid_request", {"task": "manual", "fields": {"input": "How often?"}}),
    )
    while True:
        for kind, code, values in ways:
            plan = Plan(f"bad: {kind}", code=code, **values)
            plan.fields = dict(plan.fields)
            yield plan


def make_plans(count: int, bad: int, data: Path) -> list[Plan]:
    """``count`` plans of which ``bad`` are bad, mixed in an order that is the same every time."""
    good, wrong = good_plans(data), bad_plans()
    plans = [next(wrong) for _ in range(bad)] + [next(good) for _ in range(count - bad)]
    random.Random(SEED).shuffle(plans)
    # What must expire comes when the node knows how long its task takes.
    late = [plan for plan in plans[:IN_FLIGHT] + plans[-IN_FLIGHT:] if plan.code == "expired"]
    rest = [plan for plan in plans if not any(plan is one for one in late)]
    middle = len(rest) // 2
    return [*rest[:middle], *late, *rest[middle:]]

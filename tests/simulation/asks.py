"""What simulated senders send: requests of every kind, cancellations, messages for routes, corrections."""

from __future__ import annotations

import json
import random
from typing import Final

from edgeslm.protocol.codec import Topics
from tests.simulation.apps import App, Ask
from tests.simulation.engine import PERSON, What
from tests.simulation.routes import NOTE
from tests.simulation.setup import Setup

KINDS: Final = {
    "plain": 50,
    "stream": 24,
    "invalid": 4,
    "unknown": 3,
    "qos0": 5,
    "own topic": 8,
    "priority": 6,
    "deadline": 6,
    "cancel": 8,
    "kills": 1,
    "crashes": 2,
    "mixed": 2,
    "long": 3,
    "rate": 12,
}
"""Kind of a request and how often it is drawn."""
SCRIPTS: Final[dict[str, list[What]]] = {
    "kills": ["kill"] * 9,
    "crashes": ["crash"] * 9,
    "mixed": ["crash", "kill", "crash", "crash"],
    "long": ["long"] * 99,
}
LINES: Final = {"a": 24, "b": 24, "r": 14, "k": 12, "feedback": 20, "close": 5, "poison": 1, "long": 2}
"""Line of a message that isn't a request, and how often it is drawn."""


def request(number: int, chance: random.Random, app: App, setup: Setup, topics: Topics) -> Ask:
    """A request of a drawn kind."""
    kind = chance.choices(list(KINDS), weights=list(KINDS.values()))[0]
    ask = Ask(f"r{number}", f"text {number}", topics.request("say"), app.name, app.reply_to, False)
    ask.repeats, ask.mqtt5 = chance.random() < 0.5, setup.mqtt5
    ask.names = chance.choice(("both", "correlation", "id")) if setup.mqtt5 else "id"
    ask.expiry_s = chance.choice((None, None, None, 3.0, 30.0)) if setup.mqtt5 else None
    ask.engine = list(SCRIPTS.get(kind, ()))
    if kind == "stream":
        ask.options = {"stream": True}
    elif kind == "rate":
        ask.topic = topics.request("rate")
    elif kind == "invalid":
        ask.options, ask.error = {"no_such_option": 1}, "invalid_request"
    elif kind == "unknown":
        ask.topic, ask.error = topics.request("no-such-task"), "unknown_task"
    elif kind == "qos0":
        ask.qos, ask.repeats = 0, False
    elif kind == "own topic":
        ask.names, ask.reply_to, ask.repeats = "topic", f"{app.reply_to}/{ask.name}", False
    elif kind == "priority":
        ask.options = {"priority": chance.choice((0, 9))}
    elif kind == "deadline":
        ask.options = {"deadline_ms": chance.choice((200, 2000, 8000))}
    return ask


def cancellation(ask: Ask, topics: Topics) -> Ask:
    """A message that cancels a request."""
    body = json.dumps({} if ask.names in ("both", "correlation") else {"id": ask.name}).encode()
    made = Ask(f"x{ask.name}", f"cancel {ask.name}", topics.cancel, ask.app, None, False, body=body)
    made.cancels, made.names, made.mqtt5 = ask.name, ask.names, ask.mqtt5
    return made


def note(number: int, line: str, app: str) -> Ask:
    """A message for routes, on the topic of ``line``."""
    name, said = f"m{number}", f"said {number}"
    text = f"{NOTE} number {number} has come"
    topic = {"r": "private/r", "k": "keep/k"}.get(line, f"in/{line}/log")
    if line == "r":
        text += f" from user{number}@example.org or {PERSON}"
    elif line == "a" and number % 3 == 0:
        text += f" for user{number}@example.org"  # a route redacts it after some reloads
    if line == "poison":
        topic = f"in/p{number}/log"
    ask = Ask(name, said, topic, app, None, False)
    ask.is_poison = line == "poison"
    told = {"id": name, "text": text, "said": said, **({"kills": True} if ask.is_poison else {})}
    ask.body = json.dumps(told).encode()
    if line == "r" and number % 2:
        ask.body = ask.body.replace(b"}", b', "tail": "%s"}' % (b"-" * 100))  # is redacted in a thread
    if line == "long":
        ask.topic, ask.engine = "in/a/log", ["long"] * 99
    return ask


def close(number: int, app: str) -> Ask:
    """An event that completes the windows of a route."""
    return Ask(f"c{number}", f"close {number}", "in/close", app, None, False, body=b"close %d" % number)


def correction(number: int, topic: str, app: str) -> Ask:
    text = f"correction {number}"
    body = json.dumps({"task": "sort", "input": text, "label": "good"}).encode()
    return Ask(f"f{number}", text, topic, app, None, False, body=body)


def same(app: str) -> Ask:
    """A message that a sensor sends again and again."""
    told = {"id": "same", "text": f"{NOTE} number 0 has come", "said": "said again"}
    return Ask("same", "said again", "in/a/log", app, None, False, body=json.dumps(told).encode())


def message(number: int, chance: random.Random, app: App, topics: Topics) -> Ask:
    """A message of a drawn line."""
    line = chance.choices(list(LINES), weights=list(LINES.values()))[0]
    if line == "feedback":
        return correction(number, topics.feedback, app.name)
    return close(number, app.name) if line == "close" else note(number, line, app.name)

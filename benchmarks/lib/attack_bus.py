"""Attacks by a client that may publish on the bus."""

from __future__ import annotations

import json
import secrets
import time
from typing import Any

from benchmarks.lib.attack_site import NODE, TOPICS, Site

Verdict = str
"""How the node met the attack, in a few words."""


class Succeeded(Exception):
    """The attack did what it was meant to do; the message says what."""


def ask(site: Site, task: str, payload: Any, *, timeout_s: float = 90.0, **properties: Any) -> dict[str, Any]:
    """The result of a request on a topic of its own, or an error on the task's."""
    reply, fallback = f"{TOPICS.result(task)}/{secrets.token_hex(6)}", TOPICS.result(task)
    properties = {"ResponseTopic": reply, "CorrelationData": b"1", **properties}
    seen = site.app.count(fallback)
    text = payload if isinstance(payload, str | bytes) else json.dumps(payload)
    site.app.publish(TOPICS.request(task), text, **properties)
    give_up_at = time.monotonic() + timeout_s
    while time.monotonic() < give_up_at:
        for topic, before in ((reply, 0), (fallback, seen)):
            if site.app.count(topic) > before:
                said: dict[str, Any] = json.loads(site.app.latest(topic) or b"{}")
                return said
        time.sleep(0.02)
    raise Succeeded(f"no answer within {timeout_s:.0f} s")


def code(result: dict[str, Any]) -> str:
    return str(result["error"]["code"] if "error" in result else result["status"])


def patterns(site: Site) -> Verdict:
    """A pattern with exponential cost in a sender's schema."""
    schema = {"type": "object", "properties": {"word": {"type": "string", "pattern": "^(a|a)*$"}}}
    request = {"input": "a" * 40 + " b", "options": {"schema": schema, "max_tokens": 32}}
    return code(ask(site, "fields", request))


def grammars(site: Site) -> Verdict:
    """A schema whose grammar has millions of states."""
    told = []
    for size in (5_000_011, 999_983):
        schema = {"type": "object", "properties": {"n": {"type": "integer", "multipleOf": size}}}
        request = {"input": "Spindle 3 turns 1200 times", "options": {"schema": schema, "max_tokens": 16}}
        told.append(code(ask(site, "fields", request)))
    if set(told) != {"invalid_request"}:
        raise Succeeded(f"the engine computed it: {told}")
    return "invalid_request"


def amplification(site: Site) -> Verdict:
    """65 kB of Correlation Data, repeated with each streamed piece."""
    before = site.app.received_bytes()
    request = {"input": "Tell a long story.", "options": {"stream": True, "max_tokens": 200}}
    told = code(ask(site, "say", request, CorrelationData=bytes(65_000)))
    topic = f"{TOPICS.result('say')}/{'x' * 2000}"
    ask(site, "say", {"input": "Tell it.", "reply_to": topic, "options": {"stream": True, "max_tokens": 50}})
    came = site.app.received_bytes() - before
    if told != "invalid_request" or came > 300_000:
        raise Succeeded(f"{told}: 130 kB in, {came / 1000:.0f} kB out")
    return f"invalid_request, {came / 1000:.0f} kB out"


def forged_lines(site: Site) -> Verdict:
    """A request id with a newline and a made-up log line."""
    since = site.node.log.stat().st_size
    line = "2026-11-28 22:00:00,000 ERROR edgeslm.update: signature check FAILED"
    # The broker refuses the second, so that the node has to say which result could not be sent.
    for topic in (f"{TOPICS.result('triage')}/a", f"{TOPICS.result('triage')}{'/a' * 250}"):
        request = {"id": f"1\n{line}\x1b[2J", "input": "all quiet", "reply_to": topic}
        site.app.publish(TOPICS.request("triage"), json.dumps(request))
    # One that the broker takes, so that the lines of the other have been written when it is answered.
    ask(site, "triage", "all quiet")
    time.sleep(0.5)
    words = site.node.words(since)
    if any(one.startswith(line) for one in words.splitlines()) or "\x1b" in words:
        raise Succeeded("a line of the log is the sender's")
    return "no line forged"


def templates(site: Site) -> Verdict:
    """A payload that makes a template's captured block grow without bound."""
    topic = "shop/1/label"
    seen = site.app.count(topic)
    payload = json.dumps({"l": [0] * 2000, "t": "x" * 400_000})
    since = site.node.log.stat().st_size
    site.app.publish("shop/1/block", payload)
    site.app.publish("shop/1/block", json.dumps({"l": [0], "t": "all quiet"}))
    if site.app.wait_for(topic, seen, 60) is None:
        raise Succeeded("the route answers no more")
    return "dropped" if "shop" in site.node.words(since) or site.app.count(topic) == seen + 1 else "answered"


def large_results(site: Site) -> Verdict:
    """A request of a megabyte of control characters, each of which takes six bytes in JSON."""
    text = "\x01" * 1_000_000
    told = code(ask(site, "say", json.dumps({"input": text, "options": {"max_tokens": 1}})))
    later = code(ask(site, "triage", "all quiet"))
    return f"{told}, then {later}"


def unknown_tasks(site: Site) -> Verdict:
    """Corrections and requests for 256 tasks with names of 60 kB that don't exist."""
    before = site.node.memory()
    for number in range(256):
        name = f"{number}{'n' * 60_000}"
        site.app.publish(TOPICS.feedback, json.dumps({"task": name, "id": str(number), "label": "x"}))
    ask(site, "triage", "all quiet")
    grown = site.node.memory() - before
    if grown > 8_000_000:
        raise Succeeded(f"{grown / 1e6:.0f} MB of names are kept")
    return f"{max(grown, 0) / 1e6:.0f} MB kept"


def lone_surrogates(site: Site) -> Verdict:
    """Texts in MQTT properties that the client library ends a connection for."""
    seen = site.app.count(TOPICS.state)
    for properties in (
        {"UserProperty": ("k", "\ufeff")},
        {"ContentType": "\ufeff"},
        {"ResponseTopic": f"{TOPICS.result('triage')}/\ufeff"},
    ):
        site.app.publish(TOPICS.request("triage"), "all quiet", **properties)
    ask(site, "triage", "all quiet")
    if site.app.count(TOPICS.state) != seen:
        raise Succeeded("the node lost its connection")
    return f"{NODE} stays connected"

"""The console of a real node with fake engines: what it is shown, what it may ask, and what it isn't told."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from edgeslm.config.web_sections import Console
from edgeslm.console.host import ConsoleHost, read_token
from edgeslm.errors import ConfigError
from tests.support.apps import App
from tests.support.brokers import Mosquitto
from tests.support.consoles import console_node, visitor_of, wait_until_up
from tests.support.nodes import BASE, Node, fake_configuration


def test_it_shows_the_node_and_its_requests(broker: Mosquitto, tmp_path: Path) -> None:
    with console_node(tmp_path, broker.url) as node, App(broker.port, f"{BASE}/res/#") as app:
        visitor = visitor_of(node)
        visitor.sign_in()
        app.publish(f"{BASE}/req/triage", {"input": "Spindle 3 smells", "id": "7"})
        app.take(f"{BASE}/res/triage")
        found: dict[str, Any] = {}
        wanted = {"health", "info", "models", "collections", "rows", "moments"}
        for news in visitor.news():
            found |= news
            if wanted <= set(found) and any(row["status"] == "ok" for row in found["rows"]):
                break
        (row,) = found["rows"]
        assert (row["task"], row["topic"]) == ("triage", f"{BASE}/res/triage")
        assert found["info"]["node"] == "hall"
        assert found["models"]["small"]["bundle"] == "fake-decoder"
        assert found["health"]["memory_bytes"]["console"] > 0
        assert "Spindle" not in json.dumps(found)


def test_a_request_of_the_form(broker: Mosquitto, tmp_path: Path) -> None:
    audit = {"file": str(tmp_path / "audit.jsonl")}
    with console_node(tmp_path, broker.url, audit=audit) as node:
        visitor = visitor_of(node)
        visitor.sign_in()
        reply = visitor.change("/api/ask", {"task": "triage", "input": "Spindle 3 smells"})
        assert reply.json["status"] == "ok"
        assert reply.json["result"]["label"] in ("normal", "critical")
        reply = visitor.change("/api/ask", {"task": "manual", "input": "?", "options": {"context": "E42."}})
        assert reply.json["status"] in ("ok", "abstained")
        rows = visitor.wait_for("rows")
        assert {row["topic"] for row in rows} == {"console"}
    first = json.loads((tmp_path / "audit.jsonl").read_text().splitlines()[0])
    assert (first["what"], first["task"], first["status"]) == ("console", "triage", "ok")
    assert "Spindle" not in (tmp_path / "audit.jsonl").read_text()


def test_texts_for_who_asks_where_they_are_kept(broker: Mosquitto, tmp_path: Path) -> None:
    with console_node(tmp_path, broker.url, console={"texts": True}) as node:
        visitor = visitor_of(node)
        visitor.sign_in()
        visitor.change("/api/ask", {"task": "triage", "input": "Spindle 3 smells"})
        for news in visitor.news():
            assert "Spindle" not in json.dumps(news)
            if any(row["status"] == "ok" for row in news.get("rows", ())):
                break
        said = visitor.ask("/api/text/1").json
        assert said["input"] == "Spindle 3 smells"
        assert "label" in said["output"]


def test_a_console_that_is_killed_comes_again_and_the_node_goes_on(broker: Mosquitto, tmp_path: Path) -> None:
    with console_node(tmp_path, broker.url) as node, App(broker.port, f"{BASE}/res/#") as app:
        console = node.extension(ConsoleHost)
        os.kill(console.pids["console"], 9)
        app.publish(f"{BASE}/req/triage", {"input": "Spindle 3 smells", "id": "7"})
        assert app.take(f"{BASE}/res/triage").json["status"] == "ok"
        app.wait_until(lambda: console.url is None, "it is gone")
        wait_until_up(node)
        assert visitor_of(node).sign_in().status == 303


def test_without_its_section_there_is_no_console(broker: Mosquitto, tmp_path: Path) -> None:
    with Node(tmp_path, fake_configuration(broker.url, tmp_path)) as node, pytest.raises(StopIteration):
        node.extension(ConsoleHost)


def test_a_missing_token_is_told_at_the_start(broker: Mosquitto, tmp_path: Path) -> None:
    console = {"token_file": str(tmp_path / "nowhere")}
    configuration = fake_configuration(broker.url, tmp_path, console=console)
    with (
        pytest.raises(ConfigError, match=r"console\.token_file.*No such file"),
        Node(tmp_path, configuration),
    ):
        pass


def test_a_token_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    token = read_token(Console(), tmp_path / "state")
    assert len(token) >= 32
    assert read_token(Console(), tmp_path / "state") == token
    assert stat.S_IMODE((tmp_path / "state/console-token").stat().st_mode) == 0o600


def test_a_token_that_could_be_guessed_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "token"
    section = Console(token_file=file)
    with pytest.raises(ConfigError, match=r"console\.token_file.*can't be read: No such file"):
        read_token(section, tmp_path)
    for text in ("", "short\n", "\n" + "a" * 40):
        file.write_text(text)
        with pytest.raises(ConfigError, match="16 characters or more"):
            read_token(section, tmp_path)
    file.write_text("a" * 16 + "\nmore\n")
    assert read_token(section, tmp_path) == "a" * 16


def test_it_shows_what_routes_read_and_skip(broker: Mosquitto, tmp_path: Path) -> None:
    route = {"name": "notes", "from": "hall/notes", "task": "triage", "input": "{{ payload.text }}"}
    with console_node(tmp_path, broker.url, routes=[route]) as node, App(broker.port, f"{BASE}/#") as app:
        visitor = visitor_of(node)
        visitor.sign_in()
        app.publish("hall/notes", {"text": "Spindle 3 smells"})
        app.publish("hall/notes", {"note": "Spindle 3 smells"})
        app.take(f"{BASE}/event/notes")
        for news in visitor.news():
            if news.get("routes") and len(news["routes"][0]["counts"]) == 2:
                break
        (shown,) = news["routes"]
        assert (shown["name"], shown["from"], shown["task"]) == ("notes", "hall/notes", "triage")
        assert shown["counts"] == {"read": 1, "template": 1}
        assert shown["unusable"].startswith("hall/notes: ") and "Spindle" not in shown["unusable"]

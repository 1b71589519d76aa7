"""The console behind Home Assistant's ingress, and servers that only known addresses reach. Real sockets."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.apis import api_node, client_of
from tests.support.apps import WAIT_S
from tests.support.brokers import Mosquitto
from tests.support.consoles import Visitor, console_node, visitor_of
from tests.support.ingress import PREFIX, ingress
from tests.support.nodes import Node

INGRESS = {"token_file": None, "ingress": True, "peers": ["127.0.0.1"]}


@pytest.fixture(scope="module")
def node(module_broker: Mosquitto, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with console_node(tmp_path_factory.mktemp("node"), module_broker.url, console=INGRESS) as node:
        yield node


@pytest.fixture
def user(node: Node) -> Visitor:
    """Signed in to Home Assistant, whose name is in the Host header."""
    visitor = visitor_of(node)
    visitor.host = "homeassistant.local:8123"
    visitor.csrf = next(visitor.news())["csrf"]
    return visitor


def test_a_user_of_home_assistant_needs_no_token(user: Visitor) -> None:
    page = user.ask("/")
    assert page.status == 200 and b'"/' not in page.body, "the page names no absolute path"
    assert page.headers["x-frame-options"] == "SAMEORIGIN"
    assert "frame-ancestors 'self'" in page.headers["content-security-policy"]
    assert next(user.news())["ingress"] is True
    asked = {"task": "triage", "input": "Spindle 3 smells"}
    for origin in ("http://homeassistant.local:8123", "https://home.example.org", None):
        assert user.change("/api/ask", asked, origin=origin).json["status"] == "ok"


def test_another_page_can_change_nothing(user: Visitor) -> None:
    asked = {"task": "triage", "input": "?"}
    for csrf in (None, "", "guessed"):
        assert user.change("/api/ask", asked, x_edgeslm_secret=csrf).status == 403
    assert user.change("/api/ask", asked, sec_fetch_site="cross-site").status == 403


def test_it_works_below_the_path_of_ingress(node: Node) -> None:
    with ingress(visitor_of(node).port) as home:
        page = urllib.request.urlopen(f"{home}{PREFIX}/", timeout=WAIT_S).read().decode()
        assert 'src="static/app.js"' in page
        script = urllib.request.urlopen(f"{home}{PREFIX}/static/app.js", timeout=WAIT_S)
        assert script.headers["Content-Type"].startswith("text/javascript")
        with urllib.request.urlopen(f"{home}{PREFIX}/events", timeout=WAIT_S) as events:
            assert events.readline().startswith(b'data: {"first": true')


def test_an_unknown_address_gets_nothing(broker: Mosquitto, tmp_path: Path) -> None:
    section = {"token_file": None, "ingress": True, "peers": ["172.30.32.2"]}
    with console_node(tmp_path, broker.url, console=section) as node:
        stranger = visitor_of(node)
        for path in ("/", "/login", "/events", "/api/node", "/static/style.css"):
            for forwarded_for in (None, "172.30.32.2"):
                reply = stranger.ask(path, x_forwarded_for=forwarded_for, x_ingress_path=PREFIX)
                assert (reply.status, reply.headers.get("set-cookie")) == (403, None)
                assert b"hall" not in reply.body
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"http://127.0.0.1:{stranger.port}/", timeout=WAIT_S)


def test_the_api_knows_its_peers_too(broker: Mosquitto, tmp_path: Path) -> None:
    for peers, status in ((["127.0.0.0/8"], 200), (["172.30.32.0/23"], 403)):
        folder = tmp_path / str(status)
        folder.mkdir()
        with api_node(folder, broker.url, api={"peers": peers}) as node:
            assert client_of(node).ask("/v1/models").status == status

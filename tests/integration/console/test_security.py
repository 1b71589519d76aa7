"""The console as an attacker meets it: thirty-two tests over loopback against a real node.

They follow the OWASP web security testing guide (WSTG 4.2) as far as it means something here. The numbers are
those of the list in ``docs/guides/console.md``.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import pytest

from edgeslm.console.access import ATTEMPTS, MOST_SESSIONS
from edgeslm.console.web import HEADERS, MOST_STREAMS
from tests.support.apps import WAIT_S, App
from tests.support.brokers import Mosquitto
from tests.support.consoles import TOKEN, Reply, Visitor, console_node, visitor_of
from tests.support.nodes import BASE, Node
from tests.support.paths import ROOT
from tests.support.teaching import teaching_node

PAGES = ["/", "/events", "/api/node", "/api/ask", "/api/text/1", "/api/teach", "/logout"]
GATED = [
    *("app.js", "live.js", "ask.js", "cards.js", "charts.js", "dom.js", "teach.js"),
    *("index.html", "login.html"),
]


@pytest.fixture(scope="module")
def node(module_broker: Mosquitto, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """One for all: a test that uses its attempts up has a node of its own."""
    with console_node(tmp_path_factory.mktemp("node"), module_broker.url) as node:
        yield node


@pytest.fixture
def stranger(node: Node) -> Visitor:
    return visitor_of(node)


@pytest.fixture
def guest(node: Node) -> Visitor:
    """Signed in."""
    visitor = visitor_of(node)
    assert visitor.sign_in().status == 303
    return visitor


def has_session(reply: Reply) -> bool:
    return "edgeslm=" in reply.headers.get("set-cookie", "")


def raw(visitor: Visitor, request: bytes) -> bytes:
    """What comes back on a connection of its own, until it is closed."""
    with socket.create_connection(("127.0.0.1", visitor.port), WAIT_S) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        found = b""
        while piece := connection.recv(65536):
            found += piece
        return found


# Authentication


@pytest.mark.parametrize("path", PAGES)
def test_01_no_page_and_no_interface_without_the_token(stranger: Visitor, path: str) -> None:
    for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS"):
        reply = stranger.ask(path, method, b"{}")
        assert reply.status in (303, 401), (method, path)
        assert reply.headers.get("location", "/login") == "/login"
        assert b"hall" not in reply.body


@pytest.mark.parametrize("name", GATED)
def test_02_no_script_and_no_page_template_without_the_token(stranger: Visitor, name: str) -> None:
    assert stranger.ask(f"/static/{name}").status == 401


def test_03_what_there_is_can_t_be_told_from_what_isn_t(stranger: Visitor) -> None:
    there, not_there = (stranger.ask(path) for path in ("/api/node", "/api/nothing"))
    assert (there.status, there.body) == (not_there.status, not_there.body)


def test_04_a_wrong_token_opens_nothing(broker: Mosquitto, tmp_path: Path) -> None:
    with console_node(tmp_path, broker.url) as node:
        for token in ("", TOKEN[:-1], TOKEN.upper(), TOKEN + "\0", "' or '1'='1"):
            reply = visitor_of(node).sign_in(token)
            assert reply.status == 403
            assert not has_session(reply)
            assert "1'='1" not in reply.text


def test_05_guessing_is_slowed_down(broker: Mosquitto, tmp_path: Path) -> None:
    with console_node(tmp_path, broker.url) as node:
        visitor = visitor_of(node)
        assert [visitor.sign_in("wrong").status for _ in range(ATTEMPTS)] == [403] * ATTEMPTS
        reply = visitor.sign_in(TOKEN)
        assert reply.status == 429
        assert 0 < int(reply.headers["retry-after"]) <= 60
        assert not has_session(reply)


def test_06_the_token_in_an_address_or_a_header_opens_nothing(stranger: Visitor) -> None:
    assert stranger.ask(f"/api/node?token={TOKEN}").status == 401
    assert stranger.ask("/api/node", authorization=f"Bearer {TOKEN}").status == 401
    assert stranger.ask(f"/login?token={TOKEN}").status == 200
    assert stranger.ask("/api/node", cookie=f"edgeslm={TOKEN}").status == 401


# Sessions


def test_07_the_cookie_is_out_of_reach_of_scripts_and_other_sites(stranger: Visitor) -> None:
    reply = stranger.sign_in()
    cookie = SimpleCookie(reply.headers["set-cookie"])["edgeslm"]
    assert cookie["httponly"] and cookie["samesite"] == "strict" and cookie["path"] == "/"
    assert not cookie["domain"]
    assert len(cookie.value) >= 43, "256 bits"


def test_08_behind_tls_the_cookie_is_for_tls_alone(broker: Mosquitto, tmp_path: Path) -> None:
    with console_node(tmp_path, broker.url, console={"https": True}) as node:
        visitor = visitor_of(node)
        reply = visitor.sign_in(origin=f"https://{visitor.host}")
        cookie = SimpleCookie(reply.headers["set-cookie"])["__Host-edgeslm"]
        assert cookie["secure"] and cookie["path"] == "/" and not cookie["domain"]
        assert reply.headers["strict-transport-security"] == "max-age=31536000"
        assert visitor.sign_in(origin=f"http://{visitor.host}").status == 403


def test_09_each_sign_in_is_a_new_session_and_none_is_taken_from_outside(stranger: Visitor) -> None:
    stranger.cookie = "edgeslm=chosen-by-somebody-else"
    stranger.sign_in()
    first = stranger.cookie
    assert first is not None and "chosen" not in first
    stranger.sign_in()
    assert stranger.cookie != first


def test_10_signing_out_ends_the_session_at_the_console_too(guest: Visitor) -> None:
    assert guest.ask("/api/node").status == 200
    assert guest.change("/logout").status == 200
    assert guest.ask("/api/node").status == 401


def test_11_sessions_don_t_outlive_the_console(broker: Mosquitto, tmp_path: Path) -> None:
    with console_node(tmp_path, broker.url) as node:
        visitor = visitor_of(node)
        visitor.sign_in()
        cookie, port = visitor.cookie, visitor.port
    console = {"listen": f"127.0.0.1:{port}"}
    with console_node(tmp_path, broker.url, console=console):
        assert visitor.ask("/api/node", cookie=cookie).status == 401


def test_12_there_are_only_so_many_sessions(broker: Mosquitto, tmp_path: Path) -> None:
    with console_node(tmp_path, broker.url) as node:
        visitors = [visitor_of(node) for _ in range(MOST_SESSIONS + 1)]
        for visitor in visitors:
            assert visitor.sign_in().status == 303
        assert [visitor.ask("/api/node").status for visitor in visitors] == [401] + [200] * MOST_SESSIONS


# Other sites


@pytest.mark.parametrize("path", ["/api/ask", "/api/teach", "/logout"])
@pytest.mark.parametrize("origin", [None, "null", "http://evil.example.org", "http://localhost:1"])
def test_13_another_site_changes_nothing(guest: Visitor, path: str, origin: str | None) -> None:
    assert guest.change(path, {"task": "say", "input": "x"}, origin=origin).status == 403
    assert guest.ask("/api/node").status == 200


@pytest.mark.parametrize("secret", [None, "", "wrong", TOKEN])
def test_14_nor_does_a_page_without_the_second_secret(guest: Visitor, secret: str | None) -> None:
    body = {"task": "say", "input": "x"}
    assert guest.change("/api/ask", body, x_edgeslm_secret=secret).status == 403


def test_15_another_site_signs_nobody_in(stranger: Visitor) -> None:
    for origin in (None, "null", "http://evil.example.org"):
        assert stranger.sign_in(origin=origin).status == 403
    assert stranger.sign_in(sec_fetch_site="cross-site").status == 403
    for cookie in (None, "edgeslm-visit=", "edgeslm-visit=of-somebody-else"):
        reply = stranger.sign_in(cookie=cookie)
        assert reply.status == 403 and "out of date" in reply.text


def test_16_reading_changes_nothing(guest: Visitor) -> None:
    for path in ("/logout", "/api/ask", "/api/teach"):
        assert guest.ask(path).status == 405
    assert guest.ask("/api/node").status == 200


@pytest.mark.parametrize(
    "host", ["evil.example.org", "localhost.evil.example.org", "127.0.0.1.nip.io", "a@127.0.0.1", "", None]
)
def test_17_a_name_that_is_not_ours_is_refused(guest: Visitor, host: str | None) -> None:
    for path in ("/", "/login", "/api/node", "/static/style.css"):
        assert guest.ask(path, host=host).status in (400, 421)
    assert raw(guest, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil\r\n\r\n")[9:12] in (b"400", b"421")


def test_18_no_other_origin_is_let_in(guest: Visitor) -> None:
    for reply in (
        guest.ask("/api/node", origin="http://evil.example.org"),
        guest.ask("/api/ask", "OPTIONS", origin="http://evil.example.org"),
    ):
        assert not [name for name in reply.headers if name.startswith("access-control")]


# Headers and contents


@pytest.mark.parametrize("path", ["/", "/login", "/api/node", "/static/app.js", "/nothing", "/api/text/1"])
def test_19_every_answer_has_the_headers(guest: Visitor, path: str) -> None:
    reply = guest.ask(path)
    assert {name: reply.headers.get(name.lower()) for name in HEADERS} == HEADERS
    refused = guest.ask(path, host="evil.example.org")
    assert {name: refused.headers.get(name.lower()) for name in HEADERS} == HEADERS


def test_20_no_inline_script_and_nothing_from_elsewhere() -> None:
    policy = HEADERS["Content-Security-Policy"]
    assert "unsafe" not in policy and "*" not in policy and "http" not in policy
    static = ROOT / "edgeslm/console/static"
    for file in static.iterdir():
        text = file.read_text().replace('"http://www.w3.org/2000/svg"', "")
        assert "//" not in re.sub(r"^\s*// .*|(?<=[;{}]) // .*", "", text, flags=re.MULTILINE), file
        assert not re.search(r"<script(?! type=\"module\" src=\"static/)|\son\w+=|style=|javascript:", text)
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function", text
        )


def test_21_nothing_of_a_node_is_kept_by_caches(guest: Visitor, stranger: Visitor) -> None:
    assert guest.ask("/api/node").headers["cache-control"] == "no-store"
    assert stranger.ask("/login").headers["cache-control"] == "no-store"
    assert guest.ask("/").headers["cache-control"] == "private, no-cache"


def test_22_it_doesn_t_say_what_it_is_made_of(guest: Visitor, stranger: Visitor) -> None:
    for reply in (guest.ask("/nothing"), stranger.ask("/login"), guest.change("/api/ask", [1])):
        assert "server" not in reply.headers and "x-powered-by" not in reply.headers
        assert not re.search(rb"Traceback|starlette|uvicorn|File \"|site-packages", reply.body)


def test_23_no_secret_and_no_path_is_in_what_it_shows(guest: Visitor) -> None:
    guest.wait_for("models")
    shown = guest.ask("/api/node").text
    assert TOKEN not in shown and "token" not in shown.replace("tokens", "")
    assert not re.search(r'"/(tmp|home|root|var|etc)/', shown)


# Inputs


@pytest.mark.parametrize(
    "path",
    [
        *["/static/../access.py", "/static/..%2faccess.py", "/static/%2e%2e/access.py", "//etc/passwd"],
        *["/static//etc/passwd", "/static/..%5caccess.py", "/static/style.css%00.js", "/static/"],
        "/static/%2fetc%2fpasswd",
    ],
)
def test_24_no_file_but_its_own(guest: Visitor, path: str) -> None:
    reply = guest.ask(path)
    assert reply.status in (303, 307, 400, 404), path
    assert b"root:" not in reply.body and b"import" not in reply.body


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[" * 50_000, 400),
        (b"[]", 400),
        (b'{"task": 1, "input": "x"}', 400),
        (b'{"task": "say", "input": {"messages": []}}', 400),
        (b'{"task": "say", "input": "x", "options": []}', 400),
        (b'{"task": "say", "input": "' + b"x" * 40_000 + b'"}', 413),
        (b"x" * 200_000, 413),
        (b"\xff\xfe", 400),
    ],
)
def test_25_what_is_no_request_is_refused(guest: Visitor, body: bytes, status: int) -> None:
    reply = guest.ask(
        "/api/ask",
        "POST",
        body,
        content_type="application/json",
        origin=f"http://{guest.host}",
        x_edgeslm_secret=guest.csrf,
    )
    assert reply.status == status
    assert reply.json["error"]


@pytest.mark.parametrize(
    "asked",
    [
        {"task": "../../ctl/reload", "input": "x"},
        {"task": "say/+", "input": "x"},
        {"task": "nobody", "input": "x"},
        {"task": "say", "input": "x", "options": {"priority": 9, "nonsense": 1}},
        {"task": "say", "input": "x", "options": {"max_tokens": 10**9}},
        {"task": "fields", "input": "x", "options": {"schema": {"$ref": "file:///etc/passwd"}}},
        {"task": "say", "input": ""},
    ],
)
def test_26_what_the_form_asks_goes_through_all_checks(guest: Visitor, asked: dict[str, Any]) -> None:
    reply = guest.change("/api/ask", asked)
    assert reply.status == 200
    assert reply.json["status"] == "error"
    assert reply.json["error"]["code"] in ("invalid_request", "unknown_task")


def test_27_texts_are_kept_from_who_may_not_see_them(guest: Visitor, module_broker: Mosquitto) -> None:
    with App(module_broker.port, f"{BASE}/res/#") as app:
        secret = "<script>alert('nobody must see this')</script>"
        app.publish(f"{BASE}/req/triage", {"input": secret, "id": "1"})
        app.take(f"{BASE}/res/triage")
    for news in guest.news():
        assert "nobody must see" not in json.dumps(news)
        if any(row["status"] == "ok" for row in news.get("rows", ())):
            break
    assert guest.ask("/api/text/1").status == 404
    assert guest.ask("/api/text/-1").status == guest.ask("/api/text/x").status == 404


def test_28_only_so_many_look_at_a_time(broker: Mosquitto, tmp_path: Path) -> None:
    with console_node(tmp_path, broker.url) as node:
        visitor = visitor_of(node)
        visitor.sign_in()
        streams = [visitor.news() for _ in range(MOST_STREAMS)]
        for stream in streams:
            next(stream)
        assert visitor.ask("/events").status == 503
        assert visitor.ask("/api/node").status == 200
        for stream in streams:
            stream.close()  # type: ignore[attr-defined]
        statuses = iter(lambda: visitor.ask("/events").status, 200)
        assert all(status == 503 for status in statuses), "who left makes room"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
        b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + b"\0" * 64 + b"\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"GET http://evil.example.org/ HTTP/1.1\r\nHost: evil.example.org\r\nConnection: close\r\n\r\n",
        b"CONNECT evil.example.org:80 HTTP/1.1\r\nHost: evil.example.org\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nA:b\r\n c\r\nX\x00: 1\r\n\r\n",
        b"TRACE / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    ],
)
def test_29_what_is_no_http_is_refused_and_harms_nobody(
    guest: Visitor, node: Node, request_bytes: bytes
) -> None:
    reply = raw(guest, request_bytes)
    assert reply == b"" or reply[9:12] in (b"303", b"400", b"401", b"403", b"421")
    assert guest.ask("/api/node").status == 200


def test_30_a_browser_that_doesn_t_read_costs_the_node_nothing(
    guest: Visitor, node: Node, module_broker: Mosquitto
) -> None:
    with socket.create_connection(("127.0.0.1", guest.port), WAIT_S) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall(f"GET /events HTTP/1.1\r\nHost: {guest.host}\r\nCookie: {guest.cookie}\r\n\r\n".encode())
        with App(module_broker.port, f"{BASE}/res/#") as app:
            for number in range(300):
                app.publish(f"{BASE}/req/triage", {"input": f"{number} {'x' * 200}", "id": str(number)})
            answered = {app.take(f"{BASE}/res/triage").json["id"] for _ in range(300)}
            assert answered >= {str(number) for number in range(300)}
        assert guest.ask("/api/node").status == 200


# Teaching


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b'{"task": "triage"}', 400),
        (b'{"action": 1}', 400),
        (b'{"action": "label", "message": {}, "label": "normal"}', 400),
        (b'{"action": "label", "message": ["x"], "label": "normal"}', 400),
        (b'{"action": "state", "task": "' + b"x" * 20_000 + b'"}', 413),
        (b'{"action": "../use"}', 409),
        (b'{"action": "label", "task": "triage", "message": "0", "label": "normal"}', 409),
        (b'{"action": "label", "task": "../x", "message": "0", "label": "normal"}', 409),
        (b'{"action": "use", "task": "triage", "folder": "/etc"}', 409),
    ],
)
def test_31_what_is_no_action_is_refused(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: bytes, status: int
) -> None:
    with teaching_node(tmp_path, broker.url, monkeypatch) as (_, teacher, _):
        headers = {"origin": f"http://{teacher.host}", "x_edgeslm_secret": teacher.csrf}
        reply = teacher.ask("/api/teach", "POST", body, content_type="application/json", **headers)
        assert (reply.status, set(reply.json)) == (status, {"error"})
        assert str(tmp_path) not in reply.text
        assert teacher.ask("/api/teach", "POST", body, content_type="text/plain", **headers).status == 415
        assert teacher.ask("/api/teach").status == 405


def test_32_messages_for_teaching_reach_only_who_teaches(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a task that isn't named are not kept; no message is in the stream that every page gets."""
    with (
        teaching_node(tmp_path, broker.url, monkeypatch, teach={"tasks": ["triage"]}) as (_, teacher, _),
        App(broker.port, f"{BASE}/res/#") as app,
    ):
        for task in ("triage", "strict", "manual"):
            app.publish(f"{BASE}/req/{task}", {"input": f"Spindle of {task}", "id": task})
            app.take(f"{BASE}/res/{task}")
        while teacher.state("open")["messages"] != 1:
            pass
        stranger = Visitor(teacher.port)
        assert stranger.change("/api/teach", {"action": "state"}).status == 401
        assert teacher.change("/api/teach", {"action": "state"}, x_edgeslm_secret="x").status == 403
        assert teacher.act("state", task="strict").status == 409
        assert teacher.state()["message"]["text"] == "Spindle of triage"
        for number, news in enumerate(teacher.news()):
            assert "Spindle" not in json.dumps(news)
            if number > 2:
                break
    kept = b"".join(file.read_bytes() for file in (tmp_path / "state").glob("samples*"))
    assert b"Spindle of triage" in kept and b"strict" not in kept and b"manual" not in kept

"""The console's web application: pages, event stream and JSON API; all but the sign-in page need a session.

Data comes from a ``View``; requests from the page's form go to an ``AskedNode``.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Protocol
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgeslm.console.access import Access, Session, TooManyAttempts
from edgeslm.console.view import Cursor, View
from edgeslm.console.wire import INPUT_BYTES
from edgeslm.web.connections import admit
from edgeslm.web.server import Refusal, read_body

log = logging.getLogger("edgeslm.console")

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: browsers would send forms with "Origin: null".
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), usb=()",
}
INGRESS_HEADERS = {
    # Home Assistant shows the console in a frame of its own page.
    "Content-Security-Policy": HEADERS["Content-Security-Policy"].replace(
        "frame-ancestors 'none'", "frame-ancestors 'self'"
    ),
    "X-Frame-Options": "SAMEORIGIN",
}
CSRF_HEADER = "X-Edgeslm-Secret"
PUBLIC = ("/login", "/static/login.js", "/static/style.css", "/static/icon.svg")
"""Paths served without a session."""
MOST_CONNECTIONS = 64
"""Maximum number of connections of signed-in browsers."""
MOST_STREAMS = 16
MOST_ASKS = 2
"""Maximum number of requests from the page's form that run at a time."""
BODY_BYTES = 3 * INPUT_BYTES
TEACH_BYTES = 16_384
MOST_TEACHINGS = 8
"""Maximum number of actions of the page that teaches, at a time."""
_ARGUMENTS = ("task", "message", "label", "was")
BEAT_S = 15.0
"""Interval of keep-alives on an event stream without new data; each keep-alive also checks the session."""
TAKE_S = 30.0
"""Timeout for a browser to accept one event."""
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    packed: bytes
    tag: str
    media_type: str


class Guard:
    """Middleware: refuses requests with a wrong host or without a session; adds security headers to
    responses.
    """

    def __init__(self, app: ASGIApp, access: Access, cookie: str, *, secure: bool) -> None:
        self._app = app
        self._access = access
        self._cookie = cookie
        self._headers = HEADERS | INGRESS_HEADERS if access.is_ingress else dict(HEADERS)
        if secure:
            self._headers["Strict-Transport-Security"] = "max-age=31536000"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        answer = self._refuse(scope) or self._app
        await answer(scope, receive, send_with_headers)

    def _refuse(self, scope: Scope) -> Response | None:
        request = Request(scope)
        hosts = request.headers.getlist("host")
        if len(hosts) != 1 or not self._access.is_our_host(hosts[0]):
            sentence = "This name isn't one of the console's; name it in console.hosts."
            return PlainTextResponse(sentence, status_code=421)
        session = self._access.session(request.cookies.get(self._cookie))
        scope["state"]["session"] = session
        if session is not None and not admit(scope, MOST_CONNECTIONS):
            sentence = "The console has too many connections; try again."
            return JSONResponse({"error": sentence}, 503, {"Retry-After": "1", "Connection": "close"})
        if session is None and scope["path"] not in PUBLIC:
            if scope["path"] == "/" and scope["method"] in ("GET", "HEAD"):
                return RedirectResponse("/login", 303)
            return JSONResponse({"error": "Sign in first."}, status_code=401)
        if scope["method"] not in ("GET", "HEAD"):
            return self._refuse_change(request, hosts[0], session)
        return None

    def _refuse_change(self, request: Request, host: str, session: Session | None) -> Response | None:
        fetched_by = request.headers.get("sec-fetch-site", "same-origin")
        is_ours = self._access.is_our_page(request.headers.get("origin"), host)
        if not is_ours or fetched_by != "same-origin":
            return JSONResponse({"error": "This didn't come from a page of the console."}, status_code=403)
        if request.url.path == "/login":
            return None
        if session is None or not self._access.knows_secret(session, request.headers.get(CSRF_HEADER)):
            return JSONResponse({"error": "The page is out of date; load it again."}, status_code=403)
        return None


class AskedNode(Protocol):
    """Interface of the node for the web application."""

    async def ask(self, task: str, text: str, options: dict[str, Any]) -> dict[str, Any]:
        """Runs a request and returns the result, as it would be published."""
        ...

    async def text(self, row: int) -> dict[str, Any]:
        """Input and result of the request with number ``row``."""
        ...

    async def teach(self, action: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Does an action of the page that teaches. :return: the state, or an ``error``."""
        ...

    def note_viewers(self, count: int) -> None:
        """Reports the number of connected browsers."""


class EventStream(Response):
    """Server-sent events for one browser; each event waits until the browser accepted the previous one."""

    def __init__(self, web: Web, view: View, first: Mapping[str, Any], cookie: str | None) -> None:
        super().__init__()
        self._web = web
        self._view = view
        self._first = first
        self._cookie = cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._web.count(1)
        try:
            await self._run(receive, send)
        finally:
            self._web.count(-1)

    async def _run(self, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
        headers.append((b"x-accel-buffering", b"no"))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        streaming = asyncio.create_task(self._stream(send))
        leaving = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait([streaming, leaving], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (streaming, leaving):
                task.cancel()
            await asyncio.wait([streaming, leaving])
        error = None if streaming.cancelled() else streaming.exception()
        if error is not None and not isinstance(error, OSError | TimeoutError):
            raise error

    async def _stream(self, send: Send) -> None:
        cursor = Cursor()
        news: Mapping[str, Any] = {**self._first, **self._view.news(cursor)}
        while True:
            body = b"data: " + json.dumps(news).encode() + b"\n\n" if news else b": \n\n"
            async with asyncio.timeout(TAKE_S):
                await send({"type": "http.response.body", "body": body, "more_body": True})
            await self._view.changed(cursor, BEAT_S)
            if not self._web.is_signed_in(self._cookie):
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                return
            news = self._view.news(cursor)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Web:
    """The web application.

    :param texts: whether browsers may read the input and result of requests. :param teaches: whether they
        may teach tasks.
    """

    def __init__(
        self,
        access: Access,
        view: View,
        node: AskedNode,
        *,
        secure: bool,
        texts: bool,
        teaches: bool = False,
    ) -> None:
        self._access = access
        self._view = view
        self._node = node
        self._secure = secure
        self._texts = texts
        self._teaches = teaches
        self._cookie = "__Host-edgeslm" if secure else "edgeslm"
        self._files = _load_files()
        self._streams = 0
        self._asks = 0
        self._teachings = 0
        routes = [
            Route("/", self._page),
            Route("/login", self._login, methods=["GET", "POST"]),
            Route("/logout", self._logout, methods=["POST"]),
            Route("/events", self._events),
            Route("/api/node", self._now),
            Route("/api/ask", self._answer, methods=["POST"]),
            Route("/api/text/{number:int}", self._texts_of),
            Route("/api/teach", self._teach, methods=["POST"]),
            Route("/static/{name}", self._static),
        ]
        app = Starlette(routes=routes, exception_handlers={Refusal: _refused, 500: _failed})
        self.app: ASGIApp = Guard(app, access, self._cookie, secure=secure)

    async def _page(self, request: Request) -> Response:
        return self._file(request, "index.html")

    async def _static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._files or name.endswith(".html"):
            raise Refusal(404, "There is no such file.")
        return self._file(request, name)

    async def _login(self, request: Request) -> Response:
        if request.method != "POST":
            if request.state.session is not None:
                return RedirectResponse("/", 303)
            return self._login_page("", 200)
        fields = parse_qs((await read_body(request, 4096)).decode("utf-8", "replace"))
        token, given = ((fields.get(name) or [""])[0].strip() for name in ("token", "csrf_token"))
        if not self._access.is_pass(given, request.cookies.get(f"{self._cookie}-visit")):
            return self._login_page("The page was out of date; try again.", 403)
        address = request.client.host if request.client else ""
        try:
            secret = self._access.sign_in(token, address)
        except TooManyAttempts as error:
            said = f"Too many attempts. Try again in {error.wait_s} seconds."
            page = self._login_page(said, 429)
            page.headers["Retry-After"] = str(error.wait_s)
            return page
        if secret is None:
            log.warning("somebody at %s tried to sign in to the console with a wrong token", address)
            return self._login_page("This is not the token.", 403)
        response = RedirectResponse("/", 303)
        self._set_cookie(response, self._cookie, secret)
        return response

    async def _logout(self, request: Request) -> Response:
        self._access.sign_out(request.cookies.get(self._cookie))
        response = JSONResponse({})
        response.delete_cookie(self._cookie, httponly=True, samesite="strict", secure=self._secure, path="/")
        return response

    async def _now(self, request: Request) -> Response:
        return JSONResponse(self._view.news(Cursor()))

    async def _events(self, request: Request) -> Response:
        if self._streams >= MOST_STREAMS:
            raise Refusal(503, f"{MOST_STREAMS} browsers look already; close one.", {"Retry-After": "10"})
        cookie = request.cookies.get(self._cookie)
        first = {
            "first": True,
            "csrf": request.state.session.csrf,
            "texts": self._texts,
            "teaches": self._teaches,
            "ingress": self._access.is_ingress,
        }
        return EventStream(self, self._view, first, cookie)

    def is_signed_in(self, cookie: str | None) -> bool:
        return self._access.session(cookie) is not None

    def count(self, change: int) -> None:
        """Adds ``change`` to the number of connected browsers."""
        self._streams += change
        self._node.note_viewers(self._streams)

    async def _answer(self, request: Request) -> Response:
        asked = await _read_json(request, BODY_BYTES)
        task, text, options = (
            (asked.get("task"), asked.get("input"), asked.get("options", {}))
            if isinstance(asked, dict)
            else (None, None, None)
        )
        if not isinstance(task, str) or not isinstance(text, str) or not isinstance(options, dict):
            raise Refusal(400, "Send an object with task, input and, if you like, options.")
        if len(text.encode("utf-8", "replace")) > INPUT_BYTES:
            raise Refusal(413, f"The text is longer than {INPUT_BYTES // 1024} kB; send it over MQTT.")
        if self._asks >= MOST_ASKS:
            raise Refusal(
                429, "Requests of this form are running already; wait for them.", {"Retry-After": "2"}
            )
        self._asks += 1
        try:
            return JSONResponse(await self._node.ask(task, text, options))
        finally:
            self._asks -= 1

    async def _teach(self, request: Request) -> Response:
        if not self._teaches:
            raise Refusal(404, "Teaching is off: add teach to console in the configuration.")
        asked = await _read_json(request, TEACH_BYTES)
        action = asked.get("action") if isinstance(asked, dict) else None
        if not isinstance(action, str) or not all(isinstance(value, str) for value in asked.values()):
            raise Refusal(400, "Send an object with action and, if you like, task, message, label and was.")
        if self._teachings >= MOST_TEACHINGS:
            raise Refusal(429, "Too much at a time; try again.", {"Retry-After": "1"})
        self._teachings += 1
        try:
            state = await self._node.teach(action, {k: asked[k] for k in _ARGUMENTS if k in asked})
        finally:
            self._teachings -= 1
        return JSONResponse(state, 409 if "error" in state else 200)

    async def _texts_of(self, request: Request) -> Response:
        if not self._texts:
            raise Refusal(404, "Texts aren't kept: console.texts is false.")
        return JSONResponse(await self._node.text(request.path_params["number"]))

    def _login_page(self, said: str, status: int) -> Response:
        visit = secrets.token_urlsafe(16)
        page = self._files["login.html"].body.replace(b"<!-- said -->", said.encode())
        page = page.replace(b"<!-- pass -->", self._access.pass_of(visit).encode())
        response = Response(page, status, media_type="text/html")
        self._set_cookie(response, f"{self._cookie}-visit", visit)
        return response

    def _set_cookie(self, response: Response, name: str, value: str) -> None:
        response.set_cookie(name, value, httponly=True, samesite="strict", secure=self._secure, path="/")

    def _file(self, request: Request, name: str) -> Response:
        file = self._files[name]
        headers = {"ETag": file.tag, "Cache-Control": "private, no-cache", "Vary": "Accept-Encoding"}
        if request.headers.get("if-none-match") == file.tag:
            return Response(status_code=304, headers=headers)
        body = file.body
        if "gzip" in Headers(scope=request.scope).get("accept-encoding", ""):
            headers["Content-Encoding"], body = "gzip", file.packed
        return Response(body, headers=headers, media_type=file.media_type)


async def _read_json(request: Request, most_bytes: int) -> Any:
    """:raises Refusal: the body isn't JSON, or too long."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise Refusal(415, "Send JSON.")
    try:
        return json.loads(await read_body(request, most_bytes))
    except (ValueError, RecursionError):
        raise Refusal(400, "This isn't JSON.") from None


async def _refused(request: Request, error: Exception) -> Response:
    refusal = error if isinstance(error, Refusal) else Refusal(500, "The console failed on this.")
    return JSONResponse({"error": str(refusal)}, refusal.status, headers=refusal.headers)


async def _failed(request: Request, error: Exception) -> Response:
    log.error("the console failed on a request: %s", type(error).__name__)
    return JSONResponse({"error": "The console failed on this; its log says more."}, 500)


def _load_files() -> dict[str, _File]:
    """Loads all static files into memory, so that no request reads a path from disk."""
    found = {}
    for entry in files("edgeslm.console").joinpath("static").iterdir():
        media_type = _TYPES.get(entry.name.rpartition(".")[2])
        if media_type is not None:
            body = entry.read_bytes()
            tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
            found[entry.name] = _File(body, gzip.compress(body, mtime=0), tag, media_type)
    return found

"""Fake of hawkBit: a server with its DDI API v1 and its rollouts in groups.

Written from the documentation of Eclipse hawkBit (the reference of the DDI API, "Rollout Management", how its
``DdiRootController`` turns feedback into states); it shares no code with edgeslm. hawkBit itself comes from
Maven Central alone. Actions are numbered; feedback becomes a status as there: ``closed`` with ``failure`` is
ERROR, other ``closed`` FINISHED, ``rejected`` WARNING, which leaves the action open. A closed action answers
410. A rollout starts its next group when enough of the one before have FINISHED, and pauses when too many are
in ERROR.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CLOSED = frozenset({"FINISHED", "ERROR", "CANCELED"})


@dataclass
class Module:
    """A software module: one archive and its metadata."""

    id: int
    name: str
    version: str
    file: Path
    metadata: dict[str, str] = field(default_factory=dict)
    encrypted: bool = False
    hashes: tuple[str, ...] = ("sha1", "md5", "sha256")


@dataclass
class Action:
    """What one target is to do. ``status`` as hawkBit's, ``said`` all feedback as it came."""

    id: int
    target: str
    modules: list[Module]
    status: str = "RUNNING"
    download: str = "forced"
    update: str = "forced"
    window: str | None = None
    canceling: bool = False
    unconfirmed: bool = False
    said: list[dict[str, Any]] = field(default_factory=list)

    @property
    def executions(self) -> list[str]:
        return [one["status"]["execution"] for one in self.said]

    @property
    def details(self) -> list[str]:
        return [line for one in self.said for line in one["status"].get("details") or ()]


@dataclass
class Rollout:
    """Groups of targets, one after the other; thresholds in percent of a group."""

    modules: list[Module]
    groups: list[list[str]]
    success: float = 100.0
    error: float = 50.0
    status: str = "RUNNING"
    started: int = 0
    actions: dict[str, Action] = field(default_factory=dict)

    def counts(self) -> list[dict[str, int]]:
        """Of each group: how many targets are in which status; those that no action has are NOTSTARTED."""
        found = []
        for group in self.groups:
            states = [self.actions[name].status if name in self.actions else "NOTSTARTED" for name in group]
            found.append({state: states.count(state) for state in sorted(set(states))})
        return found


class FakeHawkbit:
    """A context; ``url`` is where it listens. Without ``context`` it speaks no TLS."""

    def __init__(self, context: ssl.SSLContext | None = None, *, token: str = "", sleep: str = "00:00:01"):
        self.token, self.sleep = token, sleep
        self.targets: dict[str, dict[str, str]] = {}
        self.polls: dict[str, int] = {}
        self.asks_attributes: set[str] = set()
        self.actions: list[Action] = []
        self.rollouts: list[Rollout] = []
        self.modules: list[Module] = []
        self.downloads: list[tuple[str, str | None]] = []
        """Targets that downloaded, with the range that they asked for."""
        self.cuts: list[int] = []
        """Bytes of a download after which the server hangs up, one each time."""
        self.logins: list[str | None] = []
        """The header Authorization of each request."""
        self.instead: Callable[[str, str], tuple[int, dict[str, str], bytes] | None] = lambda verb, path: None
        """What is answered in place of the truth, by a test that wants a hostile server."""
        self.lock = threading.RLock()
        self._http = _Listener(self)
        if context is not None:
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self._scheme = "http" if context is None else "https"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> FakeHawkbit:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    @property
    def url(self) -> str:
        return f"{self._scheme}://localhost:{self._http.server_address[1]}"

    # What an operator does

    def module(self, name: str, file: Path, version: str = "1", **more: Any) -> Module:
        with self.lock:
            self.modules.append(Module(len(self.modules) + 1, name, version, file, **more))
            return self.modules[-1]

    def assign(self, target: str, *modules: Module, **more: Any) -> Action:
        with self.lock:
            self.actions.append(Action(len(self.actions) + 1, target, list(modules), **more))
            return self.actions[-1]

    def roll_out(self, modules: Sequence[Module], groups: Sequence[Sequence[str]], **more: Any) -> Rollout:
        with self.lock:
            rollout = Rollout(list(modules), [list(group) for group in groups], **more)
            self.rollouts.append(rollout)
            self._go_on(rollout)
            return rollout

    def _go_on(self, rollout: Rollout) -> None:
        if rollout.status != "RUNNING":
            return
        if rollout.started:
            group = rollout.groups[rollout.started - 1]
            states = [rollout.actions[name].status for name in group]
            if 100 * states.count("ERROR") / len(group) >= rollout.error:
                rollout.status = "PAUSED"
                return
            if 100 * states.count("FINISHED") / len(group) < rollout.success:
                return
        if rollout.started == len(rollout.groups):
            rollout.status = "FINISHED"
            return
        for name in rollout.groups[rollout.started]:
            rollout.actions[name] = self.assign(name, *rollout.modules)
        rollout.started += 1

    # What devices ask

    def open_action(self, target: str) -> Action | None:
        return next((one for one in self.actions if one.target == target and one.status not in CLOSED), None)

    def poll(self, target: str, base: str) -> dict[str, Any]:
        new = target not in self.targets
        self.targets.setdefault(target, {})
        self.polls[target] = self.polls.get(target, 0) + 1
        links, action = {}, self.open_action(target)
        if action is not None:
            kind = "deploymentBase"
            if action.unconfirmed:
                kind = "confirmationBase"
            elif action.canceling:
                kind = "cancelAction"
            query = "" if action.canceling else f"?c={-(action.id * 31)}"
            links[kind] = {"href": f"{base}/{kind}/{action.id}{query}"}
        if new or target in self.asks_attributes:
            links["configData"] = {"href": f"{base}/configData"}
        return {"config": {"polling": {"sleep": self.sleep}}, "_links": links}

    def deployment(self, action: Action, base: str) -> dict[str, Any]:
        plan: dict[str, Any] = {"download": action.download, "update": action.update}
        if action.window is not None:
            plan["maintenanceWindow"] = action.window
        plan["chunks"] = [self._chunk(module, base) for module in action.modules]
        return {"id": str(action.id), "deployment": plan, "actionHistory": {"status": "RUNNING"}}

    def _chunk(self, module: Module, base: str) -> dict[str, Any]:
        content = module.file.read_bytes()
        href = f"{base}/softwaremodules/{module.id}/artifacts/{module.file.name}"
        kind = "download" if self._scheme == "https" else "download-http"
        chunk: dict[str, Any] = {
            "part": "bApp",
            "version": module.version,
            "name": module.name,
            "artifacts": [
                {
                    "filename": module.file.name,
                    "hashes": {name: hashlib.new(name, content).hexdigest() for name in module.hashes},
                    "size": len(content),
                    "_links": {kind: {"href": href}, "md5sum": {"href": f"{href}.MD5SUM"}},
                }
            ],
        }
        if module.encrypted:
            chunk["encrypted"] = True
        if module.metadata:
            chunk["metadata"] = [{"key": key, "value": value} for key, value in module.metadata.items()]
        return chunk

    def take_feedback(self, action: Action, about: str, said: dict[str, Any]) -> None:
        action.said.append({**said, "about": about})
        execution, finished = said["status"]["execution"], said["status"]["result"]["finished"]
        if about == "cancelAction":
            if execution == "closed":
                action.status = "ERROR" if finished == "failure" else "CANCELED"
            elif execution == "rejected":
                action.canceling, action.status = False, "RUNNING"
        elif execution == "closed":
            action.status = "ERROR" if finished == "failure" else "FINISHED"
        elif execution == "downloaded" and action.update == "skip" and action.window is None:
            action.status = "FINISHED"
        else:
            states = {"rejected": "WARNING", "download": "DOWNLOAD", "downloaded": "DOWNLOADED"}
            action.status = states.get(execution, "RUNNING")
        for rollout in self.rollouts:
            if action in rollout.actions.values():
                self._go_on(rollout)


class _Listener(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hawkbit: FakeHawkbit) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hawkbit = hawkbit

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A device that hung up, or didn't trust the certificate."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Listener
    protocol_version = "HTTP/1.1"

    def log_message(self, *words: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        self._handle("GET")

    def do_POST(self) -> None:
        self._handle("POST")

    def do_PUT(self) -> None:
        self._handle("PUT")

    def _handle(self, verb: str) -> None:
        hawkbit = self.server.hawkbit
        hawkbit.logins.append(self.headers.get("Authorization"))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        if (other := hawkbit.instead(verb, path)) is not None:
            status, headers, content = other
            self._answer(status, content, headers)
            return
        found = re.fullmatch(r"/(\w+)/controller/v1/([^/]+)((?:/[^/]+)*)", path)
        if found is None:
            self._answer(404)
            return
        target, rest = found[2], found[3].split("/")[1:]
        if hawkbit.token and self.headers.get("Authorization") != f"TargetToken {hawkbit.token}":
            self._answer(401)
            return
        if verb == "GET" and rest[:1] == ["softwaremodules"]:
            self._send_artifact(hawkbit, target, int(rest[1]), rest[3])
            return
        base = f"{hawkbit.url}/{found[1]}/controller/v1/{target}"
        with hawkbit.lock:
            status, value = self._do(hawkbit, verb, target, rest, base, body)
        self._answer(status, b"" if value is None else json.dumps(value).encode())

    def _do(
        self, hawkbit: FakeHawkbit, verb: str, target: str, rest: list[str], base: str, body: bytes
    ) -> tuple[int, Any]:
        if verb == "GET" and not rest:
            return 200, hawkbit.poll(target, base)
        if verb == "PUT" and rest == ["configData"]:
            said = json.loads(body)
            hawkbit.targets[target] = {**hawkbit.targets.get(target, {}), **said["data"]}
            hawkbit.asks_attributes.discard(target)
            return 200, None
        action = next((one for one in hawkbit.actions if [str(one.id)] == rest[1:2]), None)
        if action is None or action.target != target:
            return 404, None
        kind = rest[0]
        if verb == "POST" and rest[2:] == ["feedback"]:
            said = json.loads(body)
            if kind == "confirmationBase":
                action.unconfirmed = said["confirmation"] != "confirmed"
                return 200, None
            if action.status in CLOSED:
                return 410, None
            hawkbit.take_feedback(action, kind, said)
            return 200, None
        if kind == "cancelAction" and action.canceling:
            return 200, {"id": str(action.id), "cancelAction": {"stopId": str(action.id)}}
        if kind == "deploymentBase" and not (action.canceling or action.unconfirmed):
            return 200, hawkbit.deployment(action, base)
        return 404, None

    def _send_artifact(self, hawkbit: FakeHawkbit, target: str, number: int, name: str) -> None:
        module = next((one for one in hawkbit.modules if one.id == number and one.file.name == name), None)
        if module is None:
            self._answer(404)
            return
        content, wanted = module.file.read_bytes(), self.headers.get("Range")
        tag, start = f'"{hashlib.sha1(content).hexdigest()}"', 0
        hawkbit.downloads.append((target, wanted))
        found = re.fullmatch(r"bytes=(\d+)-", wanted or "")
        if found and self.headers.get("If-Range") in (None, tag):
            start = int(found[1])
            if start >= len(content):
                self._answer(416)
                return
        headers = {"ETag": tag, "Accept-Ranges": "bytes"}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        end = min(len(content), hawkbit.cuts.pop(0)) if hawkbit.cuts else len(content)
        self._answer(206 if start else 200, content[start:end], headers, length=len(content) - start)
        self.close_connection = self.close_connection or end < len(content)

    def _answer(
        self, status: int, body: bytes = b"", headers: dict[str, str] | None = None, length: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

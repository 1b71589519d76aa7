"""A model hub on this machine, in the public hub's layout: descriptions, files by revision, redirects."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

REVISION = "0123456789abcdef0123456789abcdef01234567"
LARGE_BYTES = 10_000
"""Files of at least this size are stored with LFS: the hub tells their SHA-256 and redirects to a store."""


class ModelHub:
    """Serves the folders below ``root`` as models ``owner/name``.

    :ivar requests: path and range of each request for a file's content.
    :ivar tokens: the token of each request, whose path is in ``paths``.
    :ivar cut_after: if set, the next answers with content end after so many bytes.
    :ivar damaged: names of files of which the first byte is changed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.requests: list[tuple[str, str | None]] = []
        self.paths: list[str] = []
        self.tokens: list[str | None] = []
        self.cut_after: int | None = None
        self.damaged: set[str] = set()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self, with_body=True)

            def do_HEAD(self) -> None:
                hub.answer(self, with_body=False)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._store = f"http://localhost:{self._server.server_port}/store"  # of another name, as the hub's

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def describe(self, model: str) -> dict[str, Any]:
        siblings = []
        for file in sorted((self.root / model).rglob("*")):
            if file.is_file():
                data = file.read_bytes()
                one: dict[str, Any] = {
                    "rfilename": file.relative_to(self.root / model).as_posix(),
                    "size": len(data),
                    "blobId": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(),
                }
                if len(data) >= LARGE_BYTES:
                    one["lfs"] = {
                        "sha256": hashlib.sha256(data).hexdigest(),
                        "size": len(data),
                        "pointerSize": 1,
                    }
                siblings.append(one)
        return {
            "id": model,
            "modelId": model,
            "sha": REVISION,
            "lastModified": "2025-03-01T12:00:00.000Z",
            "cardData": {"license": "mit"},
            "siblings": siblings,
            "tags": [],
            "private": False,
            "downloads": 0,
        }

    def tree(self, model: str) -> list[dict[str, Any]]:
        """The same files, as the listing of a folder tells them."""
        listed: list[dict[str, Any]] = []
        for one in self.describe(model)["siblings"]:
            entry = {"type": "file", "path": one["rfilename"], "size": one["size"], "oid": one["blobId"]}
            if large := one.get("lfs"):
                entry["lfs"] = {"oid": large["sha256"], "size": large["size"], "pointerSize": 1}
            listed.append(entry)
        return listed

    def answer(self, request: BaseHTTPRequestHandler, *, with_body: bool) -> None:
        path = request.path.partition("?")[0]
        self.paths.append(path)
        self.tokens.append(request.headers.get("Authorization"))
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/[^/]+)?", path):
            if not (self.root / match[1]).is_dir() or (match[2] or "").endswith("/gone"):
                kind = "RevisionNotFound" if match[2] else "RepoNotFound"
                _send(request, 404, b"{}", with_body, {"X-Error-Code": kind})
                return
            _send(request, 200, json.dumps(self.describe(match[1])).encode(), with_body, {})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/[^/]+", path):
            _send(request, 200, json.dumps(self.tree(match[1])).encode(), with_body, {})
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(request, self.root / match[1] / match[3], path, with_body)
        elif path.startswith("/store/"):
            self._content(request, self.root / path.removeprefix("/store/"), path, with_body, {})
        else:
            _send(request, 404, b"", with_body, {})

    def _file(self, request: BaseHTTPRequestHandler, file: Path, path: str, with_body: bool) -> None:
        if not file.is_file():
            _send(request, 404, b"", with_body, {"X-Error-Code": "EntryNotFound"})
            return
        size = file.stat().st_size
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        headers = {"X-Repo-Commit": REVISION, "ETag": f'"{digest}"'}
        if size >= LARGE_BYTES:
            store = f"{self._store}/{file.relative_to(self.root).as_posix()}"
            headers |= {"Location": store, "X-Linked-Size": str(size), "X-Linked-ETag": f'"{digest}"'}
            _send(request, 302, b"", with_body, headers)
        else:
            self._content(request, file, path, with_body, headers)

    def _content(
        self,
        request: BaseHTTPRequestHandler,
        file: Path,
        path: str,
        with_body: bool,
        headers: dict[str, str],
    ) -> None:
        data = file.read_bytes()
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', **headers}
        if file.name in self.damaged:
            data = bytes([data[0] ^ 1]) + data[1:]
        wanted, status = request.headers.get("Range"), 200
        if with_body:
            self.requests.append((path, wanted))
        if wanted:
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            status, headers["Content-Range"] = 206, f"bytes {start}-{len(data) - 1}/{len(data)}"
            data = data[start:]
        cut = self.cut_after if self.cut_after is not None and len(data) > self.cut_after else None
        _send(request, status, data, with_body, headers, cut)


def _send(
    request: BaseHTTPRequestHandler,
    status: int,
    data: bytes,
    with_body: bool,
    headers: dict[str, str],
    cut: int | None = None,
) -> None:
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(data)))
    request.end_headers()
    if with_body:
        request.wfile.write(data[:cut])
    if cut is not None:
        request.wfile.flush()
        request.close_connection = True

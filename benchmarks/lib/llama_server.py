"""llama.cpp's server, set up for speed: the baseline of ``compare.py``.

As many slots as clients, its prompt cache on, all cores, weights mapped. It is ``--llama-server`` or the one
on the PATH; ``scripts/llama-server`` builds one.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from edgeslm.cli.demo.broker import free_port

START_S: Final = 60.0
SLOT_TOKENS: Final = 1536
"""Context of a slot: the longest prompt of ``mixes.py`` with its answer, and what tokenizers differ by."""
TIMEOUT_S: Final = 600.0
_NAME: Final = "llama-server"


def find_server(wanted: Path | None = None) -> Path:
    """:raises RuntimeError: there is none; says how to get it."""
    on_path = shutil.which(_NAME)
    found = wanted or (Path(on_path) if on_path else None)
    if found is None or not found.is_file():
        raise RuntimeError(
            f"{found or _NAME} isn't there; scripts/llama-server builds it and says where it is."
        )
    return found


def version_of(server: Path) -> str:
    """Build number and commit, as it says them."""
    said = subprocess.run([server, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"version: (\S+(?: \(\w+\))?)", said.stdout + said.stderr)
    return found[1] if found else "unknown"


@contextmanager
def running(
    server: Path,
    gguf: Path,
    slots: int,
    threads: int,
    log: Path,
    slot_tokens: int = SLOT_TOKENS,
    more: Sequence[str] = (),
) -> Iterator[tuple[int, int]]:
    """The server with its model loaded. :param slot_tokens: context of each slot. :param more: further
    options of the command line. :return: process id and port.

    :raises RuntimeError: it didn't start; with the end of what it said.
    """
    port = free_port()
    options = {
        "--model": gguf,
        "--port": port,
        "--parallel": slots,
        "--ctx-size": slots * slot_tokens,
        "--threads": threads,
        "--threads-batch": threads,
    }
    command = [str(server), *(str(word) for option in options.items() for word in option), *more]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream)
    try:
        _wait(process, port, log)
        yield process.pid, port
    finally:
        process.terminate()
        process.wait(30)


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    give_up_at = time.monotonic() + START_S
    while time.monotonic() < give_up_at and process.poll() is None:
        with contextlib.suppress(OSError):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.05)
    raise RuntimeError(f"llama.cpp's server did not start: {log.read_text(errors='replace')[-800:]}")


class Completions:
    """A connection that stays open, for one thread."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)

    def complete(self, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The answer in pieces when ``body`` says ``stream``, else at once. The last one has the figures.

        :raises RuntimeError: it refuses, with what it says.
        """
        try:
            response = self._post(body)
        except (OSError, http.client.HTTPException):  # the server closes what was idle for some seconds
            self._connection.close()
            response = self._post(body)
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {response.read().decode(errors='replace')[:300]}")
        if not body.get("stream"):
            yield json.loads(response.read())
            return
        for line in response:
            if line.startswith(b"data: {"):
                yield json.loads(line[6:])

    def _post(self, body: Mapping[str, Any]) -> http.client.HTTPResponse:
        headers = {"Content-Type": "application/json"}
        self._connection.request("POST", "/completion", json.dumps(body), headers)
        return self._connection.getresponse()

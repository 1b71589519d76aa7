"""A client of one model on an OpenAI-compatible server."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import httpx2

from edgeslm.remote.chat import LONGEST_ANSWER, Chat, RemoteError, Reply, encode, read_reply, refused_field

CONNECT_S: Final = 5.0
PIECE: Final = 64 * 1024
MOST_WAIT_S: Final = 3600.0
"""Maximum of a server's Retry-After."""
_MOST_REFUSALS: Final = 4

logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs each request


class ChatClient:
    """Sends chats to one model.

    :param url: address before ``/chat/completions``. :param read_key: gives the API key, for each request.
    :param is_local: whether the server is on this machine, so that no proxy is used.
    :raises OSError: ``ca_file`` can't be read, or isn't a certificate.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        read_key: Callable[[], str] | None = None,
        ca_file: Path | None = None,
        is_local: bool = False,
    ) -> None:
        self._url = url.rstrip("/") + "/chat/completions"
        self._model = model
        self._read_key = read_key
        self._refused: frozenset[str] = frozenset()
        """Fields that the server has refused."""
        is_secure = url.startswith("https://")
        if is_secure:
            verify = True if ca_file is None else ssl.create_default_context(cafile=str(ca_file))
        else:
            verify = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without the certificates, 4 MB
        self._http = httpx2.AsyncClient(
            verify=verify,
            trust_env=is_secure and not is_local,  # a proxy would read what has no TLS
            timeout=httpx2.Timeout(None, connect=CONNECT_S),
            limits=httpx2.Limits(max_keepalive_connections=8),
        )

    async def ask(self, chat: Chat, timeout_s: float, on_sent: Callable[[int], None] | None = None) -> Reply:
        """The server's answer. ``on_sent`` gets the bytes of each body that was sent, whole or in part, also
        if the request fails.

        :raises RemoteError: there is no usable answer in time.
        """
        key, refused = self._key(), self._refused
        try:
            async with asyncio.timeout(timeout_s):
                for _ in range(_MOST_REFUSALS):
                    body = encode(chat, self._model, refused)
                    status, answer, retry_after_s = await self._post(body, key, on_sent)
                    field = refused_field(answer, body) if status == 400 else None
                    if field is None:
                        break
                    refused |= {field}
        except TimeoutError:
            raise RemoteError(f"no answer within {timeout_s:.3g} s", is_timeout=True) from None
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError, ImportError) as error:
            raise RemoteError(_reason(error)) from None
        if status != 200:
            raise RemoteError(f"it answers with status {status}", status=status, retry_after_s=retry_after_s)
        self._refused = refused
        return read_reply(answer)

    def _key(self) -> str | None:
        """The API key. :raises RemoteError: it can't be read."""
        if self._read_key is None:
            return None
        try:
            return self._read_key()
        except (OSError, ValueError) as error:
            why = "it isn't text" if isinstance(error, UnicodeDecodeError) else error
            raise RemoteError(f"key_file: {getattr(error, 'strerror', None) or why}") from None

    async def close(self) -> None:
        await self._http.aclose()

    async def _post(
        self, body: object, key: str | None, on_sent: Callable[[int], None] | None
    ) -> tuple[int, bytes, float | None]:
        """Status, body and Retry-After of the answer."""
        content, sent = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace"), 0

        async def pieces() -> AsyncIterator[bytes]:
            nonlocal sent
            for start in range(0, len(content), PIECE):
                piece = content[start : start + PIECE]
                sent += len(piece)
                yield piece

        headers = {"Content-Type": "application/json", "Content-Length": str(len(content))}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        try:
            async with self._http.stream("POST", self._url, content=pieces(), headers=headers) as answer:
                found = bytearray()
                async for piece in answer.aiter_bytes():
                    found += piece
                    if len(found) > LONGEST_ANSWER:
                        raise RemoteError(f"its answer has more than {LONGEST_ANSWER} bytes")
                return answer.status_code, bytes(found), _seconds(answer.headers.get("retry-after"))
        finally:
            if on_sent is not None and sent:
                on_sent(sent)


def _seconds(header: str | None) -> float | None:
    try:
        seconds = float(header or "")
    except ValueError:  # a date, or none
        return None
    return min(max(seconds, 0.0), MOST_WAIT_S) if math.isfinite(seconds) else None


def _reason(error: Exception) -> str:
    """A reason without addresses, keys or texts."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate isn't trusted ({cause.verify_message})"
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
        return "it can't be reached"
    if isinstance(error, ImportError):
        return "the proxy of the environment is of a kind that isn't supported"
    return f"the connection broke off ({type(error).__name__})"

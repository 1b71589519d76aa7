"""HTTP client of a rollout server: login, one request at a time, answers with a size limit, no redirects.

The module ``ddi`` parses the server's answers.
"""

from __future__ import annotations

import http.client
import ssl
import time
import urllib.error
import urllib.request
from typing import Any, Final

from edgeslm.config.sections import Rollouts
from edgeslm.errors import RolloutError
from edgeslm.update.downloads import ServerLogin
from edgeslm.update.rollout.ddi import same_server

MOST_BYTES: Final = 1_000_000
"""Size limit of an answer."""
SILENT_S: Final = 30.0
LONGEST_S: Final = 120.0
"""Time limit of a whole answer, since a server might send it byte by byte."""
SCHEMES: Final = {"target": "TargetToken", "gateway": "GatewayToken"}
"""Kind of token -> scheme in hawkBit's header ``Authorization``."""


AGAIN: Final = frozenset({401, 403, 408, 425, 429})
"""Status codes worth a retry, besides 500 and above."""


class ServerRefused(RolloutError):
    """The server refuses the request, and a retry won't help."""


class Server:
    """The DDI endpoint of one node.

    :raises RolloutError: the file of a certificate, key or token can't be read.
    """

    def __init__(self, rollouts: Rollouts, node: str) -> None:
        name = rollouts.controller_id or node
        self.base = f"{rollouts.url.rstrip('/')}/{rollouts.tenant}/controller/v1/{name}"
        self._headers = _token(rollouts)
        self.login = ServerLogin(
            headers=self._headers,
            ca_file=rollouts.ca_file,
            cert_file=rollouts.cert_file,
            key_file=rollouts.key_file,
        )
        try:
            context = self.login.context()
        except (OSError, ssl.SSLError) as error:
            raise RolloutError(f"rollouts: a certificate or key can't be read: {error}") from None
        self._opener = urllib.request.build_opener(
            urllib.request.HTTPSHandler(context=context), _NoRedirection()
        )

    def read(self, href: str = "") -> bytes:
        """Gets ``href``, a link that the server sent; if ``href`` is empty, polls the server. :return: the
        answer's body.
        :raises ServerRefused: the server refuses the request.
        :raises RolloutError: the server can't be reached, or the link leads to another server.
        """
        url = href or self.base
        if not same_server(url, self.base):
            raise RolloutError(f"The server's link {url[:200]} leads to another server, which isn't asked.")
        return self._ask("GET", url, None)

    def tell(self, path: str, body: bytes, method: str = "POST") -> None:
        """Sends ``body`` to the server. :param path: path relative to the node's URL on the server. :raises:
        as :meth:`read`."""
        self._ask(method, f"{self.base}/{path}", body)

    def _ask(self, method: str, url: str, body: bytes | None) -> bytes:
        headers = {"Accept": "application/json, application/hal+json", "Accept-Encoding": "identity"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        request = urllib.request.Request(url, body, {**headers, **self._headers}, method=method)
        try:
            with self._opener.open(request, timeout=SILENT_S) as answer:
                return _read(answer)
        except urllib.error.HTTPError as error:
            with error:
                kind = ServerRefused if error.code < 500 and error.code not in AGAIN else RolloutError
                raise kind(f"{url}: the server says {error.code} {error.reason}") from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise RolloutError(
                    f"{url}: its certificate isn't trusted ({reason.verify_message})"
                ) from None
            raise RolloutError(f"{url}: {reason or type(error).__name__}") from None
        except ValueError as error:  # an invalid address
            raise RolloutError(f"{url[:200]!r}: not a valid address ({error})") from None


class _NoRedirection(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        raise RolloutError(f"{req.full_url}: redirects to {newurl[:200]}; redirects aren't followed")


def _read(answer: http.client.HTTPResponse) -> bytes:
    until, pieces, size = time.monotonic() + LONGEST_S, [], 0
    while piece := answer.read1(65_536):
        pieces.append(piece)
        size += len(piece)
        if size > MOST_BYTES:
            raise RolloutError(f"The server's answer has more than {MOST_BYTES // 1000} kB.")
        if time.monotonic() > until:
            raise RolloutError(f"The server's answer takes longer than {LONGEST_S:g} s.")
    return b"".join(pieces)


def _token(rollouts: Rollouts) -> dict[str, str]:
    """The header ``Authorization`` with the token; empty if no token is configured. :raises RolloutError: the
    token's file can't be read, or has no token."""
    if rollouts.token_file is None:
        return {}
    try:
        first = rollouts.token_file.read_text("utf-8").partition("\n")[0].strip()
    except (OSError, ValueError) as error:
        raise RolloutError(f"rollouts.token_file: {rollouts.token_file} can't be read: {error}") from None
    if not first or not first.isascii() or not first.isprintable() or " " in first:
        raise RolloutError(f"rollouts.token_file: the first line of {rollouts.token_file} is not a token")
    return {"Authorization": f"{SCHEMES[rollouts.token]} {first}"}

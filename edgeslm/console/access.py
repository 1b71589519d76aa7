"""Console access control: token, sessions, attempts, allowed origins. Pure but for the clock.

What browsers send is checked as OWASP's cheat sheets on sessions and cross-site request forgery have it: a
session is a cookie that no script reads, and what changes something needs the page's own origin and a second
secret beside the cookie. A Host that is a name must be one of ours: a name of somebody else's that points
here (DNS rebinding) would make their page this page. An address can't be rebound.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import urlsplit

FEWEST_CHARACTERS = 16
"""Of a token: one that is shorter could be guessed."""
SESSION_S = 12 * 3600.0
MOST_SESSIONS = 32
ATTEMPTS = 5
"""Wrong tokens a minute from one address."""
ATTEMPTS_OF_ALL = 30
WINDOW_S = 60.0
_MOST_ADDRESSES = 1000


@dataclass(frozen=True, slots=True)
class Session:
    """``csrf`` is the second secret, which only the page can read."""

    csrf: str = field(repr=False)
    ends_at: float


class TooManyAttempts(Exception):
    """``wait_s`` is after how many seconds one may try again."""

    def __init__(self, wait_s: int) -> None:
        self.wait_s = wait_s


class Access:
    """``hosts`` are names by which browsers may call it, beside ``localhost`` and addresses."""

    def __init__(
        self,
        token: str,
        *,
        hosts: Iterable[str] = (),
        secure: bool = False,
    ) -> None:
        self._token = _digest(token)
        self._key = secrets.token_bytes(32)
        self._hosts = frozenset(hosts) | {"localhost"}
        self._scheme = "https" if secure else "http"
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()
        self._all_failures: deque[float] = deque(maxlen=ATTEMPTS_OF_ALL)

    def is_our_host(self, header: str) -> bool:
        """Whether a Host header names this console."""
        try:
            parts = urlsplit(f"//{header}")
            host, _ = parts.hostname or "", parts.port
        except ValueError:
            return False
        if parts.netloc != header or "@" in header or parts.path or parts.query:
            return False
        return host in self._hosts or _is_address(host)

    def is_our_page(self, origin: str | None, host: str) -> bool:
        """Whether a request that changes something comes from a page of this console."""
        return origin == f"{self._scheme}://{host}"

    def pass_of(self, visit: str) -> str:
        """What the sign-in form has to bring back beside the cookie ``visit``: no other site knows it."""
        return hmac.new(self._key, visit.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()

    def is_pass(self, given: str, visit: str | None) -> bool:
        return visit is not None and hmac.compare_digest(_digest(given), _digest(self.pass_of(visit)))

    def sign_in(self, token: str, address: str) -> str | None:
        """The secret of a new session; None if the token is wrong.

        :raises TooManyAttempts: also a right token isn't looked at then.
        """
        self._check_attempts(address)
        if not hmac.compare_digest(_digest(token), self._token):
            self._count_failure(address)
            return None
        self._failures.pop(address, None)
        secret = secrets.token_urlsafe(32)
        while len(self._sessions) >= MOST_SESSIONS:
            self._sessions.popitem(last=False)
        self._sessions[_digest(secret)] = Session(secrets.token_urlsafe(32), time.monotonic() + SESSION_S)
        return secret

    def session(self, secret: str | None) -> Session | None:
        """That of a cookie, unless it has ended."""
        if not secret:
            return None
        session = self._sessions.get(_digest(secret))
        if session is not None and session.ends_at <= time.monotonic():
            del self._sessions[_digest(secret)]
            return None
        return session

    def sign_out(self, secret: str | None) -> None:
        self._sessions.pop(_digest(secret or ""), None)

    @staticmethod
    def knows_secret(session: Session, given: str | None) -> bool:
        return hmac.compare_digest(_digest(given or ""), _digest(session.csrf))

    def _check_attempts(self, address: str) -> None:
        now = time.monotonic()
        for failures, most in (
            (self._failures.get(address), ATTEMPTS),
            (self._all_failures, ATTEMPTS_OF_ALL),
        ):
            if failures is None:
                continue
            while failures and failures[0] <= now - WINDOW_S:
                failures.popleft()
            if len(failures) >= most:
                raise TooManyAttempts(math.ceil(failures[0] + WINDOW_S - now))

    def _count_failure(self, address: str) -> None:
        now = time.monotonic()
        self._failures.setdefault(address, deque(maxlen=ATTEMPTS)).append(now)
        self._failures.move_to_end(address)
        if len(self._failures) > _MOST_ADDRESSES:
            self._failures.popitem(last=False)
        self._all_failures.append(now)


def _digest(text: str) -> bytes:
    """Of equal length, so that a comparison in constant time tells nothing of a length either."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True

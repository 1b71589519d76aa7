"""Console access control: token, sessions, rate limit of sign-ins, allowed hosts and origins.

The module follows OWASP's cheat sheets on sessions and cross-site request forgery. Scripts can't read the
session cookie, and requests that change something must come from a page of the console and carry a CSRF
token. Against DNS rebinding, a name in the ``Host`` header must be one of the console's names; IP addresses
can't be rebound. Apart from reading the clock and random numbers, the module does no input or output.
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

from edgeslm.web.hosts import is_own_host

SESSION_S = 12 * 3600.0
MOST_SESSIONS = 32
ATTEMPTS = 5
"""Maximum number of wrong tokens per minute from one address."""
ATTEMPTS_OF_ALL = 30
WINDOW_S = 60.0
_MOST_ADDRESSES = 1000


@dataclass(frozen=True, slots=True)
class Session:
    """A browser's session; ``csrf`` is its CSRF token, which only the console's page can read."""

    csrf: str = field(repr=False)
    ends_at: float


class TooManyAttempts(Exception):
    """Too many wrong tokens; ``wait_s`` is the time until the next attempt is allowed."""

    def __init__(self, wait_s: int) -> None:
        self.wait_s = wait_s


class Access:
    """``hosts`` are the host names allowed besides ``localhost`` and IP addresses.

    :param token: None with Home Assistant's ingress: the proxy has signed the user in. All requests then have
        one session, whose CSRF token is the protection against other pages. Host names and origins, which are
        those of Home Assistant, aren't checked.
    """

    def __init__(
        self,
        token: str | None,
        *,
        hosts: Iterable[str] = (),
        secure: bool = False,
    ) -> None:
        self.is_ingress = token is None
        self._token = _digest(token or secrets.token_urlsafe(32))
        self._proxied = Session(secrets.token_urlsafe(32), math.inf)
        self._key = secrets.token_bytes(32)
        self._hosts = frozenset(hosts)
        self._scheme = "https" if secure else "http"
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()
        self._all_failures: deque[float] = deque(maxlen=ATTEMPTS_OF_ALL)

    def is_our_host(self, header: str) -> bool:
        """Whether a Host header names this console."""
        return self.is_ingress or is_own_host(header, self._hosts)

    def is_our_page(self, origin: str | None, host: str) -> bool:
        """Whether a request that changes something comes from a page of this console."""
        return self.is_ingress or origin == f"{self._scheme}://{host}"

    def pass_of(self, visit: str) -> str:
        """CSRF token of the sign-in form, derived from the cookie ``visit``."""
        return hmac.new(self._key, visit.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()

    def is_pass(self, given: str, visit: str | None) -> bool:
        return visit is not None and hmac.compare_digest(_digest(given), _digest(self.pass_of(visit)))

    def sign_in(self, token: str, address: str) -> str | None:
        """Begins a session and returns its secret; None if the token is wrong.

        :raises TooManyAttempts: the rate limit is reached; then even the right token is refused.
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
        """The session that belongs to a cookie's ``secret``; None if there is none, or it has expired."""
        if self.is_ingress:
            return self._proxied
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
    """SHA-256 digest. All digests have equal length, so comparing them doesn't reveal a secret's length."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()

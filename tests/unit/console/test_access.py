from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.console.access import (
    ATTEMPTS,
    ATTEMPTS_OF_ALL,
    MOST_SESSIONS,
    SESSION_S,
    WINDOW_S,
    Access,
    TooManyAttempts,
)
from tests.support.fakes import FakeClock

TOKEN = "a-token-of-the-tests"


def test_the_token_opens_a_session_and_nothing_else_does() -> None:
    access = Access(TOKEN)
    secret = access.sign_in(TOKEN, "10.0.0.1")
    assert secret is not None
    session = access.session(secret)
    assert session is not None
    assert access.knows_secret(session, session.csrf)
    assert not access.knows_secret(session, None)
    assert not access.knows_secret(session, secret)
    assert access.session(secret + "x") is None
    assert access.session(None) is None
    for wrong in ("", TOKEN[:-1], TOKEN + " ", TOKEN.upper(), "\udcff"):
        assert Access(TOKEN).sign_in(wrong, "10.0.0.1") is None


pytestmark = pytest.mark.usefixtures("monotonic")


def test_sessions_end(clock: FakeClock) -> None:
    access = Access(TOKEN)
    first, second = (access.sign_in(TOKEN, "10.0.0.1") for _ in range(2))
    access.sign_out(first)
    assert access.session(first) is None
    assert access.session(second) is not None
    clock.now += SESSION_S
    assert access.session(second) is None


def test_the_oldest_session_gives_way() -> None:
    access = Access(TOKEN)
    first = access.sign_in(TOKEN, "10.0.0.1")
    others = [access.sign_in(TOKEN, "10.0.0.1") for _ in range(MOST_SESSIONS)]
    assert access.session(first) is None
    assert all(access.session(one) for one in others)


def test_guessing_is_slowed_down_also_for_the_right_token(clock: FakeClock) -> None:
    access = Access(TOKEN)
    for _ in range(ATTEMPTS):
        assert access.sign_in("wrong", "10.0.0.1") is None
    with pytest.raises(TooManyAttempts) as caught:
        access.sign_in(TOKEN, "10.0.0.1")
    assert caught.value.wait_s == WINDOW_S
    assert access.sign_in(TOKEN, "10.0.0.2") is not None, "others aren't kept out"
    clock.now += WINDOW_S
    assert access.sign_in(TOKEN, "10.0.0.1") is not None


def test_guessing_from_many_addresses_is_slowed_down_too(clock: FakeClock) -> None:
    access = Access(TOKEN)
    for number in range(ATTEMPTS_OF_ALL):
        assert access.sign_in("wrong", f"10.0.0.{number}") is None
    with pytest.raises(TooManyAttempts):
        access.sign_in(TOKEN, "10.1.0.1")


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        *[("localhost", True), ("localhost:8480", True), ("127.0.0.1:8480", True), ("[::1]:8480", True)],
        *[("192.168.1.7:8480", True), ("hall.example.org:8480", True), ("HALL.example.org", True)],
        *[("evil.example.org:8480", False), ("localhost.evil.example.org", False), ("", False)],
        *[("evil@localhost", False), ("localhost:8480@evil.example.org", False), ("localhost/evil", False)],
        *[("127.0.0.1:99999", False), ("[::1", False), ("127.0.0.1.nip.io", False), ("localhost?x", False)],
    ],
)
def test_hosts(host: str, ours: bool) -> None:
    assert Access(TOKEN, hosts=["hall.example.org"]).is_our_host(host) is ours


@given(st.text())
def test_any_host_is_judged(host: str) -> None:
    assert Access(TOKEN).is_our_host(host) in (True, False)


def test_pages() -> None:
    access = Access(TOKEN)
    assert access.is_our_page("http://localhost:8480", "localhost:8480")
    for origin in (None, "null", "https://localhost:8480", "http://localhost", "http://evil.example.org"):
        assert not access.is_our_page(origin, "localhost:8480")
    assert Access(TOKEN, secure=True).is_our_page("https://hall", "hall")

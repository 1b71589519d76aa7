"""Servers that can't be believed: deployments and answers of strangers, and whom the token goes to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgeslm.errors import RolloutError
from edgeslm.update.rollout.hawkbit import Hawkbit
from edgeslm.update.store import Store
from tests.support.rollout.hawkbits import FakeHawkbit, client, configured, drive, load, of, over, pack


def poisoned(server: Any, change: Any) -> None:
    """Has the server describe its deployments otherwise."""

    def instead(verb: str, path: str) -> tuple[int, dict[str, str], bytes] | None:
        if verb != "GET" or "/deploymentBase/" not in path:
            return None
        base = f"{server.url}{path.partition('/deploymentBase')[0]}"
        said = server.deployment(server.actions[0], base)
        changed = change(said)
        return 200, {}, changed if isinstance(changed, bytes) else json.dumps(said).encode()

    server.instead = instead


def artifact(said: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = said["deployment"]["chunks"][0]["artifacts"][0]
    return found


LINKS = {"download-http": {"href": "http://elsewhere.example/small.tar"}}
HOSTILE: dict[str, tuple[Any, str]] = {
    "another host": (lambda said: artifact(said).update(_links=LINKS), "neither rollouts.url nor"),
    "a file": (
        lambda said: artifact(said).update(_links={"download": {"href": "file:///etc/passwd"}}),
        "no https:// address",
    ),
    "no hash": (lambda said: artifact(said).update(hashes={}), "tells no hash"),
    "another hash": (lambda said: artifact(said).update(hashes={"sha256": "0" * 64}), "its sha256 is not"),
    "another size": (lambda said: artifact(said).update(size=1), "more than the 1 bytes"),
    "too large": (lambda said: artifact(said).update(size=10**18), "updates.budget_bytes"),
    "negative": (lambda said: artifact(said).update(size=-1), "artifacts.0.size"),
    "no archive": (lambda said: artifact(said).update(filename="../../etc/passwd"), "has 0 archives"),
    "encrypted": (lambda said: said["deployment"]["chunks"][0].update(encrypted=True), "is encrypted"),
    "twice": (lambda said: said["deployment"]["chunks"].append(said["deployment"]["chunks"][0]), "two"),
    "empty": (lambda said: said["deployment"].update(chunks=[]), "no software module"),
    "many": (lambda said: said["deployment"].update(chunks=[{"name": "small"}] * 100), "chunks"),
    "deep": (lambda said: b"[" * 5000, "nested deeper"),
    "no JSON": (lambda said: b"\xff{}", "UTF-8"),
    "another action": (lambda said: said.update(id="99"), "describes action 99"),
    "an id that leads away": (lambda said: said.update(id="../../x"), "id"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_deployment_that_cannot_be_taken_is_rejected_with_a_sentence(
    server: Any, hawkbit: Hawkbit, tmp_path: Path, name: str
) -> None:
    change, sentence = HOSTILE[name]
    action = server.assign("hall", server.module("small", pack(tmp_path / "new", "small", b"version 2")))
    poisoned(server, change)
    drive(hawkbit, over(hawkbit), "it is over")
    assert (of(hawkbit).state, action.status) == ("REJECTED", "ERROR")
    assert sentence in action.details[-1]
    assert Store(tmp_path / "state", "hall").bundles() == []
    assert list((tmp_path / "state/updates").glob(".part-*")) == []


ANSWERS: dict[str, tuple[int, dict[str, str], bytes]] = {
    "redirection": (302, {"Location": "http://elsewhere.example/"}, b""),
    "flood": (200, {}, b" " * 2_000_000),
    "nothing": (200, {}, b""),
    "list": (200, {}, b"[]"),
    "link elsewhere": (200, {}, b'{"_links":{"deploymentBase":{"href":"http://elsewhere.example/x/7"}}}'),
    "link without action": (200, {}, b'{"_links":{"deploymentBase":{"href":"http://h/a/%2e%2e"}}}'),
    "link to no address": (200, {}, b'{"_links":{"deploymentBase":{"href":"SERVER/\xc3\xbc/7"}}}'),
    "redirection to no address": (302, {"Location": "http://["}, b""),
    "unauthorized": (401, {}, b""),
    "broken": (500, {}, b"<html>"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_that_nobody_understands_is_asked_for_again_later(
    server: Any, hawkbit: Hawkbit, name: str
) -> None:
    status, headers, content = ANSWERS[name]
    said = status, headers, content.replace(b"SERVER", server.url.encode())
    server.instead = lambda verb, path: said if verb == "GET" else None
    hawkbit.turn()
    assert hawkbit.failures == 1
    assert hawkbit.book.job is None
    server.instead = lambda verb, path: None
    hawkbit.next_poll = 0.0
    hawkbit.turn()
    assert hawkbit.failures == 0


def test_the_token_goes_to_the_server_alone(
    server: Any, configuration: dict[str, Any], tmp_path: Path
) -> None:
    server.token = "secret"
    (tmp_path / "token").write_text("secret\n")
    configuration["rollouts"]["token_file"] = str(tmp_path / "token")
    archive = pack(tmp_path / "new", "small", b"version 2")
    action = server.assign("hall", server.module("small", archive))
    with FakeHawkbit() as other:
        other.instead = lambda verb, path: (200, {}, archive.read_bytes())
        configuration["rollouts"]["downloads"] = [other.url]
        link = {"download-http": {"href": f"{other.url}/small.tar"}}
        poisoned(server, lambda said: artifact(said).update(_links=link))
        hawkbit = client(load(tmp_path, configuration))
        drive(hawkbit, lambda: of(hawkbit).step == "switching" if hawkbit.book.job else False, "here")
        assert other.logins == [None]
        assert set(server.logins) == {"TargetToken secret"}
    assert action.status == "RUNNING"


@pytest.mark.parametrize(
    ("rollouts", "sentence"),
    [
        ({"token_file": "/nowhere"}, "can't be read"),
        ({"ca_file": "/nowhere"}, "certificate or key can't be read"),
    ],
)
def test_files_that_cannot_be_read_are_told_at_the_start(
    server: Any, tmp_path: Path, rollouts: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(RolloutError, match=sentence):
        client(load(tmp_path, configured(tmp_path, server.url, **rollouts)))


def test_without_the_section_there_is_nothing_to_ask(tmp_path: Path) -> None:
    configuration = configured(tmp_path, "http://h")
    del configuration["rollouts"]
    with pytest.raises(RolloutError, match="no section rollouts"):
        client(load(tmp_path, configuration))

"""hawkBit's DDI API as values: what is understood, what is refused, and that nothing else happens."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.errors import RolloutError
from edgeslm.update.rollout.ddi import (
    MOST_DETAILS,
    Artifact,
    CancelAction,
    DeploymentBase,
    Poll,
    action_of,
    encode_attributes,
    encode_confirmation,
    encode_feedback,
    parse,
    same_server,
)

BASE = "https://hawkbit.plant/DEFAULT/controller/v1/hall"
POLL = {
    "config": {"polling": {"sleep": "12:00:05"}},
    "_links": {"deploymentBase": {"href": f"{BASE}/deploymentBase/3?c=-2129030598"}},
}
"""As the reference of the API shows it."""
DEPLOYMENT: dict[str, Any] = {
    "id": "8",
    "deployment": {
        "download": "forced",
        "update": "forced",
        "maintenanceWindow": "available",
        "chunks": [
            {
                "part": "jvm",
                "version": "1.0.62",
                "name": "oneApp",
                "artifacts": [
                    {
                        "filename": "binary.tgz",
                        "hashes": {"sha1": "3dcbd36a81a0b5a3a0bb1b5ef0a1bba8c7a5d1d1", "md5": "0" * 32},
                        "size": 11,
                        "_links": {
                            "download": {"href": f"{BASE}/a"},
                            "download-http": {"href": "http://x/a"},
                        },
                    }
                ],
                "metadata": [{"key": "edgeslm.model", "value": "small"}],
            }
        ],
    },
    "actionHistory": {"status": "RUNNING", "messages": ["Reboot"]},
}

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=20,
)


def encoded(value: object) -> bytes:
    return json.dumps(value).encode()


def test_what_the_reference_shows_is_understood() -> None:
    poll = parse(encoded(POLL), Poll)
    assert poll.sleep_s == 12 * 3600 + 5
    assert poll.links.deployment is not None and action_of(poll.links.deployment.href) == "3"
    said = parse(encoded(DEPLOYMENT), DeploymentBase)
    assert said.may_download and said.may_update
    (chunk,) = said.deployment.chunks
    assert (chunk.name, chunk.says("edgeslm.model"), chunk.says("other")) == ("oneApp", "small", None)
    (artifact,) = chunk.artifacts
    assert list(artifact.promised) == ["sha1", "md5"]
    assert artifact.url(allow_http=False) == artifact.url(allow_http=True) == f"{BASE}/a"
    cancel = parse(b'{"id": "11", "cancelAction": {"stopId": "10"}}', CancelAction)
    assert cancel.to_stop.stop_id == "10"


@pytest.mark.parametrize(
    ("changes", "may"),
    [
        ({}, (True, True)),
        ({"update": "skip"}, (True, False)),
        ({"download": "skip", "update": "skip"}, (False, False)),
        ({"maintenanceWindow": "unavailable"}, (True, False)),
        ({"download": "attempt", "update": "attempt"}, (True, True)),
    ],
)
def test_what_a_deployment_allows(changes: dict[str, str], may: tuple[bool, bool]) -> None:
    deployment = {**DEPLOYMENT["deployment"], **changes}
    said = parse(encoded({**DEPLOYMENT, "deployment": deployment}), DeploymentBase)
    assert (said.may_download, said.may_update) == may


@pytest.mark.parametrize("sleep", ["", "soon", "1:2:3", "00:00:00:00", "-1:00:00", "0" * 500])
def test_a_pause_that_is_none_is_nobodys(sleep: str) -> None:
    assert parse(encoded({"config": {"polling": {"sleep": sleep}}}), Poll).sleep_s is None


def test_without_tls_only_where_that_is_allowed() -> None:
    links = {"download-http": {"href": "http://x/a"}, "download": {"href": "ftp://x/a"}}
    artifact = parse(encoded({"filename": "a", "size": 1, "_links": links}), Artifact)
    assert artifact.url(allow_http=False) is None
    assert artifact.url(allow_http=True) == "http://x/a"


@pytest.mark.parametrize(
    ("href", "is_same"),
    [
        (f"{BASE}/deploymentBase/3", True),
        ("https://hawkbit.plant/", True),
        ("https://hawkbit.plant:443/x", True),
        ("http://hawkbit.plant/", False),
        ("http://hawkbit.plant:443/", False),
        ("https://hawkbit.plant:444/", False),
        ("https://hawkbit.plant.evil/", False),
        ("https://x@hawkbit.plant/", False),
        ("https://[/", False),
        ("/deploymentBase/3", False),
    ],
)
def test_whether_a_link_leads_to_the_server(href: str, is_same: bool) -> None:
    assert same_server(href, BASE) is is_same


@pytest.mark.parametrize("href", ["", "https://h/x/", "https://h/..", "https://h/a b", "https://[", "x/%2e"])
def test_a_link_without_an_action_is_told(href: str) -> None:
    with pytest.raises(RolloutError, match="names no action"):
        action_of(href)


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_fail_with_a_sentence(payload: bytes) -> None:
    for what in (Poll, DeploymentBase, CancelAction):
        try:
            parse(payload, what)
        except RolloutError as error:
            assert "\n" not in str(error)


@given(anything, st.sampled_from(["id", "deployment", "chunks", "artifacts", "hashes", "size", "_links"]))
def test_no_value_of_a_field_does_more(value: object, field: str) -> None:
    said = json.loads(encoded(DEPLOYMENT))
    holders = [said, said["deployment"], said["deployment"]["chunks"][0]]
    holders.append(holders[-1]["artifacts"][0])
    for holder in holders:
        if field in holder:
            holder[field] = value
    try:
        parse(encoded(said), DeploymentBase)
    except RolloutError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000


@given(st.text(max_size=2000), st.integers(0, 2**62))
def test_feedback_is_json_that_the_server_keeps(detail: str, at_ms: int) -> None:
    said = json.loads(encode_feedback("7", "closed", "failure", (detail,), at_ms))
    assert said["status"]["execution"] == "closed"
    assert said["status"]["result"] == {"finished": "failure"}
    assert all(len(one) <= MOST_DETAILS for one in said["status"]["details"])


def test_a_clock_that_was_never_set_tells_no_time() -> None:
    assert "timestamp" not in json.loads(encode_feedback("7", "closed", "success", (), 5_000))
    assert json.loads(encode_feedback("7", "closed", "success", (), 1_790_000_000_000))["timestamp"]


def test_attributes_and_confirmations() -> None:
    said = json.loads(encode_attributes({"a": "b" * 1000}))
    assert said == {"mode": "merge", "data": {"a": "b" * 128}}
    assert json.loads(encode_confirmation(("yes",))) == {"confirmation": "confirmed", "details": ["yes"]}

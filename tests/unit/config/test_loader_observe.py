"""The sections that let others see a node: what they take, and the sentences if they don't."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.config.fields import http_url, listen_address
from edgeslm.config.loader import parse_config
from edgeslm.config.network_validation import console_notes
from edgeslm.errors import ConfigError
from tests.support.config_texts import SMALL, problems


def test_all_of_it_is_off_by_default() -> None:
    config = parse_config(SMALL)
    assert config.metrics.address is None
    assert config.discovery.prefix is None
    assert config.tracing.endpoint is None


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("9464", ("127.0.0.1", 9464)),
        ("0.0.0.0:9464", ("0.0.0.0", 9464)),
        ("localhost:1", ("localhost", 1)),
        ("[::1]:65535", ("::1", 65535)),
    ],
)
def test_a_port_alone_is_on_loopback(text: str, address: tuple[str, int]) -> None:
    assert parse_config(f'{SMALL}metrics: {{listen: "{text}"}}').metrics.address == address


@pytest.mark.parametrize(
    "text", ["", "0", "65536", ":9464", "a b:1", "::1:9464", "[::1]", "host", "http://h:1", "1.2.3.4:", "٩:٩"]
)
def test_what_is_no_address_is_told(text: str) -> None:
    (problem,) = problems(f'{SMALL}metrics: {{listen: "{text}"}}')
    assert problem.endswith("must be a port, on 127.0.0.1, or HOST:PORT, as 127.0.0.1:9464")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:4318", "https://traces.example.org/otlp", "http://[::1]:1"]
)
def test_collectors(url: str) -> None:
    assert parse_config(f'{SMALL}tracing: {{endpoint: "{url}"}}').tracing.endpoint == url


@pytest.mark.parametrize(
    "url",
    [
        *("", "collector:4318", "mqtt://h", "http://", "http://h:x", "http://h:99999", "http://h h"),
        *("http://user:secret@h", "http://h?token=secret", "http://h#secret"),
    ],
)
def test_what_is_no_collector_is_told_without_repeating_it(url: str) -> None:
    (problem,) = problems(f'{SMALL}tracing: {{endpoint: "{url}"}}')
    assert "tracing.endpoint" in problem and "secret" not in problem


def test_a_prefix_is_a_topic() -> None:
    (problem,) = problems(f'{SMALL}discovery: {{prefix: "home/#"}}')
    assert "wildcard" in problem


@given(st.text(max_size=30) | st.from_regex(r"[\[\]0-9a-f:.]{1,20}", fullmatch=True))
def test_any_text_is_an_address_or_a_sentence(text: str) -> None:
    try:
        host, port = listen_address(text)
    except ValueError:
        return
    assert host and 0 < port < 65536


@given(st.text(max_size=30).map(lambda text: f"http://{text}"))
def test_any_text_is_a_collector_or_a_sentence(text: str) -> None:
    try:
        assert http_url(text) == text
    except ValueError as error:
        assert str(error)


def test_an_unknown_key_is_told() -> None:
    with pytest.raises(ConfigError, match="did you mean listen"):
        parse_config(f"{SMALL}metrics: {{listn: '1'}}")


@pytest.mark.parametrize("section", ["console", "api"])
def test_containers_of_this_machine_may_connect_without_tls(section: str) -> None:
    text = f'{SMALL}{section}: {{listen: "0.0.0.0:8099", peers: [%s]}}'
    config = parse_config(text % "172.30.32.0/23, 172.30.40.2, fd00:1::/64")
    assert getattr(config, section).peers == ("172.30.32.0/23", "172.30.40.2/32", "fd00:1::/64")
    parse_config(text % "10.42.0.0/16, 127.0.0.0/16, 192.168.65.0/24, '::1'")
    for peer in ("0.0.0.0/0", "::/0", "8.8.8.8", "1.0.0.0/24", "10.0.0.0/8", "172.16.0.0/12", "fd00::/48"):
        (problem,) = problems(text % f"172.30.32.0/23, '{peer}'")
        assert f"{section}.peers: {ip_network(peer)} is more than the containers of one machine" in problem
        parse_config((text % f"'{peer}'").replace("peers", "https: true, peers"))
    (problem,) = problems(f'{SMALL}{section}: {{listen: "0.0.0.0:8099"}}')
    assert f"{section}.listen: without TLS the token can be read on the network" in problem
    for wrong in ("172.30.32.1/23", "homeassistant", "", "172.30.32.0/33", "٣.0.0.0"):
        (problem,) = problems(text % f'"{wrong}"')
        assert "must be an IP address or a network of private addresses" in problem


def test_ingress_is_for_one_proxy() -> None:
    text = f'{SMALL}console: {{listen: "0.0.0.0:8099", ingress: true%s}}'
    parse_config(text % ", peers: [172.30.32.2]")
    for peers in ("", ", https: true", ", peers: [172.30.32.0/23]", ", peers: [172.30.32.2, 172.30.33.0/24]"):
        assert any(
            "console.ingress: lets everybody in who can connect" in one for one in problems(text % peers)
        )


def test_ingress_for_this_machine_is_noted() -> None:
    for peers in ("127.0.0.1", "'::1'"):
        (note,) = console_notes(parse_config(f"{SMALL}console: {{ingress: true, peers: [{peers}]}}"))
        assert "console.ingress: every program on this machine can use the console" in note
    for section in ("{ingress: true, peers: [172.30.32.2]}", "{peers: [127.0.0.1]}", "{}"):
        assert not console_notes(parse_config(f"{SMALL}console: {section}"))


def test_topics_of_discovery_are_those_of_routes() -> None:
    routes = "routes: [{from: in/+, task: triage, to: 'out/{{ topic[1] }}'}]\n"
    text = f"{SMALL}{routes}discovery: {{prefix: homeassistant, topics: [%s]}}"
    parse_config(text % "out/4, out/+, 'out/#'")
    (problem,) = problems(text % "out/4, in/4")
    assert problem.endswith("discovery.topics: no route publishes to in/4: remove it, or see the routes' to")
    assert problems(text % "'a/#/b'")


def test_teaching_in_the_console() -> None:
    teach = parse_config(f"{SMALL}console: {{teach: {{tasks: [triage], keep_days: 7}}}}").console
    assert teach is not None and teach.teach is not None and teach.teach.keep_messages == 2000
    assert (
        parse_config(f"{SMALL}console: {{}}").console
        == parse_config(f"{SMALL}console: {{teach: null}}").console
    )


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ("console: {teach: {tasks: [other]}}", "console.teach.tasks[0]: no task is called 'other'"),
        ("console: {teach: {encoder: other}}", "console.teach.encoder: no model is called 'other'"),
        ("console: {teach: {}}\njournal: {keep: none}", "console.teach: keeps messages on this disk"),
        (
            "console: {teach: {}}\nsigning: {unsigned: refuse, keys: [/k]}",
            "console.teach: heads that are taught here have no signature",
        ),
        ("console: {teach: {keep_messages: 5}}", "console.teach.keep_messages: must be"),
    ],
)
def test_what_doesnt_fit_teaching_is_told(more: str, sentence: str) -> None:
    assert any(sentence in problem for problem in problems(SMALL + more)), problems(SMALL + more)

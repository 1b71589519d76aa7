"""Broker addresses and passwords."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeslm.config.loader import parse_config
from edgeslm.config.sections import Broker
from edgeslm.errors import BrokerError
from edgeslm.mqtt.broker_address import BrokerAddress, Login, client_id_of, read_password


@pytest.mark.parametrize(
    ("url", "host", "port", "tls"),
    [
        ("mqtt://broker.local", "broker.local", 1883, False),
        ("mqtts://broker.local", "broker.local", 8883, True),
        ("mqtt://10.0.0.1:1884/", "10.0.0.1", 1884, False),
        ("mqtt://[::1]:1885", "::1", 1885, False),
    ],
)
def test_urls(url: str, host: str, port: int, tls: bool) -> None:
    address = BrokerAddress.parse(url)
    assert (address.host, address.port, address.tls) == (host, port, tls)
    assert BrokerAddress.parse(str(address)) == address


def test_a_login_in_the_url_is_read_and_never_shown() -> None:
    address = BrokerAddress.parse("mqtt://ann:s%3Acret@h")
    assert (address.login.username, address.login.password) == ("ann", "s:cret")
    assert "cret" not in f"{address!r} {address}"
    assert BrokerAddress.parse("mqtt://ann:a@h", Login("bob", "b")).login.password == "b"


@pytest.mark.parametrize(
    "url",
    ["", "broker.local", "http://h", "mqtt://", "mqtt://h:99999", "mqtt://h/topic", "mqtt://[::1", "ws://h"],
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(BrokerError, match="The broker's address"):
        BrokerAddress.parse(url)


def test_the_password_is_the_first_line_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_bytes("pässwort \r\nsecond line\n".encode())
    assert read_password(file) == "pässwort "
    assert read_password(None) is None
    broker = Broker(url="mqtts://h:1", username="ann", password_file=file)
    address = BrokerAddress.of(broker)
    assert (address.host, address.port, address.tls) == ("h", 1, True)
    assert (address.login.username, address.login.password) == ("ann", "pässwort ")


@pytest.mark.parametrize("content", [None, b"", b"\nsecond", b"\xff"])
def test_a_bad_password_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(BrokerError, match=f"password file {file}"):
        read_password(file)


def test_bad_tls_files_are_named(tmp_path: Path) -> None:
    missing = tmp_path / "ca.pem"
    with pytest.raises(BrokerError, match=f"authority file {missing}"):
        BrokerAddress.parse("mqtts://h", Login(ca_file=missing)).tls_context()
    missing.write_text("no certificate")
    with pytest.raises(BrokerError, match=f"authority file {missing}"):
        BrokerAddress.parse("mqtts://h", Login(ca_file=missing)).tls_context()
    with pytest.raises(BrokerError, match=f"client certificate {missing}"):
        BrokerAddress.parse("mqtts://h", Login(cert_file=missing)).tls_context()
    assert BrokerAddress.parse("mqtt://h", Login(ca_file=missing)).tls_context() is None


def test_the_name_of_a_session_is_that_of_the_node_or_in_a_file(tmp_path: Path) -> None:
    text = "node: hall\nbroker: {url: mqtt://localhost%s}\n"
    text += "tasks: {t: {kind: embed, model: m}}\nmodels: {m: {bundle: /b}}"
    assert client_id_of(parse_config(text % "")) == "edgeslm-hall"
    (file := tmp_path / "id").write_text("nobody knows it\n")
    config = parse_config(text % f", client_id_file: {file}")
    assert client_id_of(config) == "nobody knows it"
    file.write_text("")
    with pytest.raises(BrokerError, match=r"The client id file .* is empty"):
        client_id_of(config)

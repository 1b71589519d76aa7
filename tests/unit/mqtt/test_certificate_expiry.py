"""bus/validity.py: when certificates end, and how that is told."""

from __future__ import annotations

import base64
import datetime
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.cli.provision.certificates import KeyFolder
from edgeslm.config.sections import Broker
from edgeslm.mqtt.certificate_expiry import end_of, ending_soon

NOW = datetime.datetime(2026, 11, 26, tzinfo=datetime.UTC)


@pytest.mark.parametrize("days", [1, 825, 36_500])
def test_it_is_what_another_reader_of_certificates_says(tmp_path: Path, days: int) -> None:
    KeyFolder(tmp_path, days=days).make([], ["hall"])
    file = tmp_path / "hall.pem"
    assert end_of(file) == x509.load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc


def test_certificates_of_others_are_read_too(tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    expected = x509.load_pem_x509_certificate((tmp_path / "ca.pem").read_bytes()).not_valid_after_utc
    assert end_of(tmp_path / "ca.pem") == expected


def test_it_is_told_60_days_before_and_after_the_end(tmp_path: Path) -> None:
    KeyFolder(tmp_path, days=100, now=NOW).make([], ["hall"])
    broker = Broker(
        url="mqtts://broker.local",
        ca_file=tmp_path / "ca.pem",
        cert_file=tmp_path / "hall.pem",
        key_file=tmp_path / "hall.key",
    )
    assert list(ending_soon(broker, NOW)) == []
    (sentence,) = ending_soon(broker, NOW + datetime.timedelta(days=41))
    assert sentence.startswith(f"The certificate {tmp_path}/hall.pem ends on 2027-03-06: renew it")
    (sentence,) = ending_soon(broker, NOW + datetime.timedelta(days=101))
    assert " ended on 2027-03-06" in sentence


@given(st.binary(max_size=200))
def test_whatever_a_file_holds_nothing_is_raised(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:

    file = tmp_path_factory.mktemp("pem") / "x.pem"
    for content in (
        data,
        b"-----BEGIN CERTIFICATE-----\n" + base64.b64encode(data) + b"\n-----END CERTIFICATE-----\n",
    ):
        file.write_bytes(content)
        end_of(file)
    assert end_of(file.with_name("none")) is None

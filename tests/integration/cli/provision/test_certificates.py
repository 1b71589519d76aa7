"""provision/certificates.py: what is made, kept, renewed; what each certificate is good for."""

from __future__ import annotations

import datetime
import re
import ssl
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography import x509

from edgeslm.cli.provision.certificates import KeyFolder, make_client_id
from edgeslm.errors import ProvisionError

NOW = datetime.datetime(2026, 11, 26, tzinfo=datetime.UTC)


def certificate(folder: Path, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / f"{name}.pem").read_bytes())


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_openssl_agrees_what_each_certificate_is_for(tmp_path: Path) -> None:
    KeyFolder(tmp_path).make(["broker.local", "192.0.2.7"], ["hall", "desk"])

    def verifies(name: str, *how: str) -> bool:
        command = ["openssl", "verify", "-x509_strict", "-CAfile", str(tmp_path / "ca.pem"), *how]
        return subprocess.run([*command, str(tmp_path / f"{name}.pem")], capture_output=True).returncode == 0

    assert verifies("broker", "-purpose", "sslserver", "-verify_hostname", "broker.local")
    assert verifies("broker", "-purpose", "sslserver", "-verify_ip", "192.0.2.7")
    assert not verifies("broker", "-purpose", "sslserver", "-verify_hostname", "elsewhere.local")
    assert verifies("hall", "-purpose", "sslclient")
    assert not verifies("hall", "-purpose", "sslserver"), "a node that passes for the broker"
    assert not verifies("broker", "-purpose", "sslclient")
    for name in ("broker", "hall", "desk"):
        ssl.create_default_context().load_cert_chain(tmp_path / f"{name}.pem", tmp_path / f"{name}.key")


def test_only_the_owner_may_read_what_is_made(tmp_path: Path) -> None:
    made = KeyFolder(tmp_path / "site").make(["broker.local"], ["hall"])
    assert {one.what for one in made} == {"made"}
    assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "site").iterdir()} == {0o600}
    assert stat.S_IMODE((tmp_path / "site").stat().st_mode) == 0o700


def test_what_is_there_is_kept_and_what_is_missing_added(tmp_path: Path) -> None:
    KeyFolder(tmp_path).make(["broker.local"], ["hall"])
    before = contents(tmp_path)
    made = KeyFolder(tmp_path).make(["broker.local"], ["hall", "desk"])
    assert [(one.name, one.what) for one in made] == [
        *(("ca", "kept"), ("broker", "kept"), ("hall", "kept"), ("desk", "made"))
    ]
    assert before.items() <= contents(tmp_path).items()


def test_force_makes_new_keys_and_never_a_new_authority(tmp_path: Path) -> None:
    KeyFolder(tmp_path).make([], ["hall", "desk"])
    before = contents(tmp_path)
    KeyFolder(tmp_path, force=True).make([], ["hall"])
    changed = {name for name, content in contents(tmp_path).items() if content != before[name]}
    assert changed == {"hall.pem", "hall.key"}


def test_a_key_whose_certificate_an_interruption_took_is_used(tmp_path: Path) -> None:
    KeyFolder(tmp_path).make([], ["hall"])
    key = (tmp_path / "hall.key").read_bytes()
    (tmp_path / "hall.pem").unlink()
    KeyFolder(tmp_path).make([], ["hall"])
    assert (tmp_path / "hall.key").read_bytes() == key


def test_renewal_keeps_keys_and_names_and_what_the_authority_signed(tmp_path: Path) -> None:
    KeyFolder(tmp_path, now=NOW).make(["broker.local"], ["hall"])
    KeyFolder(tmp_path, now=NOW, days=5000).make([], ["desk"])
    before = contents(tmp_path)
    later = NOW + datetime.timedelta(days=800)
    made = KeyFolder(tmp_path, now=later, renew_within_days=90).make([], [])
    assert {one.name: one.what for one in made} == {
        "ca": "kept",
        "broker": "renewed",
        "hall": "renewed",
        "desk": "kept",
    }
    changed = {name for name, content in contents(tmp_path).items() if content != before[name]}
    assert changed == {"broker.pem", "hall.pem"}
    assert certificate(tmp_path, "hall").not_valid_after_utc > later + datetime.timedelta(days=800)
    names = certificate(tmp_path, "broker").extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.value.get_values_for_type(x509.DNSName) == ["broker.local"]

    old = certificate(tmp_path, "desk")
    much_later = NOW + datetime.timedelta(days=7250)
    made = KeyFolder(tmp_path, now=much_later, renew_within_days=90).make([], [])
    assert made[0].what == "renewed"
    old.verify_directly_issued_by(certificate(tmp_path, "ca"))


def test_the_name_of_a_session_cannot_be_guessed_and_stays(tmp_path: Path) -> None:
    file = make_client_id(tmp_path, "hall")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    first = file.read_text()
    assert re.fullmatch(r"edgeslm-hall-[0-9a-f]{32}\n", first)
    assert make_client_id(tmp_path, "hall").read_text() == first
    assert make_client_id(tmp_path, "hall", replace=True).read_text() != first


def test_other_names_of_the_broker_make_its_certificate_anew_for_the_same_key(tmp_path: Path) -> None:
    KeyFolder(tmp_path).make(["broker.local"], [])
    key = (tmp_path / "broker.key").read_bytes()
    made = KeyFolder(tmp_path).make(["broker.local", "broker.lan"], [])
    assert made[1].what == "renewed"
    assert (tmp_path / "broker.key").read_bytes() == key


@pytest.mark.parametrize("name", ["", "ca", "broker", "a/b", "../x", "a b", "a#", "a\nuser root"])
def test_a_name_that_can_be_no_client_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ProvisionError, match="can't be a client's name"):
        KeyFolder(tmp_path).make([], [name])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("host", ["", "mqtts://broker", "a b", "*", "-x", "fe80::1%a b"])
def test_what_is_no_host_is_refused(tmp_path: Path, host: str) -> None:
    with pytest.raises(ProvisionError, match="neither the name of a host nor an address"):
        KeyFolder(tmp_path).make([host], [])


def test_files_that_do_not_belong_together_are_an_error(tmp_path: Path) -> None:
    KeyFolder(tmp_path).make([], ["hall", "desk"])
    (tmp_path / "hall.key").write_bytes((tmp_path / "desk.key").read_bytes())
    with pytest.raises(ProvisionError, match=r"hall.pem isn't the certificate of .*hall.key"):
        KeyFolder(tmp_path).make([], ["hall"])
    (tmp_path / "hall.key").write_text("no key")
    with pytest.raises(ProvisionError, match=r"hall.key and hall.pem can't be used"):
        KeyFolder(tmp_path).make([], ["hall"])
    (tmp_path / "hall.key").unlink()
    with pytest.raises(ProvisionError, match=r"hall.pem is there and hall.key isn't"):
        KeyFolder(tmp_path).make([], ["hall"])

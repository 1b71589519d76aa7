"""Certificate authority in a folder: signs certificates for the broker and each client.

Keys are on the curve P-256. Each certificate has one purpose: the broker's certificate can't be used to log
in as a client, and a client's certificate can't identify a broker (RFC 5280, section 4.2.1.12). Keys are made
in this process by the package ``cryptography``, which is imported when needed.
"""

from __future__ import annotations

import datetime
import ipaddress
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgeslm.cli.provision.files import write_private
from edgeslm.config.extras import install_line
from edgeslm.errors import ProvisionError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

AUTHORITY = "ca"
BROKER = "broker"
AUTHORITY_DAYS = 7300
"""Validity of the authority: twenty years, since replacing it means a visit to every device."""
DAYS = 825
SLACK = datetime.timedelta(days=1)
"""Certificates are valid from a day before they are made, for boards whose clock is slow."""

_HOST = re.compile(r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9-]+)*")

_Extensions = list[tuple[Any, bool]]


@dataclass(frozen=True, slots=True)
class Made:
    """A certificate, and whether it was made, kept or renewed. ``ends`` is the certificate's last valid
    day."""

    name: str
    file: Path
    key: Path
    what: Literal["made", "kept", "renewed"]
    ends: datetime.date


@dataclass(frozen=True, slots=True)
class _Pair:
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


def make_client_id(folder: Path, node: str, *, replace: bool = False) -> Path:
    """Makes a file with a random MQTT client id for the node, unless it exists.

    :raises ProvisionError: the file can't be written.
    """
    file = folder / f"{node}.id"
    if replace or not file.exists():
        write_private(file, f"edgeslm-{node}-{secrets.token_hex(16)}\n".encode(), replace=replace)
    return file


class KeyFolder:
    """The authority and its certificates in ``folder``, as ``NAME.pem`` and ``NAME.key``.

    Existing files are kept. ``force`` replaces the requested keys and certificates, but never the authority.
    ``renew_within_days`` renews all certificates that end within this time, with the same keys, so that no
    secret has to be copied again.
    """

    def __init__(
        self,
        folder: Path,
        *,
        days: int = DAYS,
        force: bool = False,
        renew_within_days: int | None = None,
        now: datetime.datetime | None = None,
    ) -> None:
        self._folder = folder
        self._days = days
        self._force = force
        self._now = now or datetime.datetime.now(datetime.UTC)
        self._renew_by = None
        if renew_within_days is not None:
            self._renew_by = self._now + datetime.timedelta(days=renew_within_days)

    def make(self, broker_hosts: Sequence[str], clients: Sequence[str]) -> list[Made]:
        """Makes the certificates of the authority, the broker (if ``broker_hosts`` isn't empty) and the
        clients.

        :raises ProvisionError: an invalid name, unreadable or unwritable files, or a missing library.
        """
        check_library()
        for name in clients:
            check_client_name(name)
        authority, made = self._authority()
        done = [made]
        if broker_hosts:
            done.append(self._signed(BROKER, broker_hosts, authority))
        done += [self._signed(name, [], authority) for name in dict.fromkeys(clients)]
        if self._renew_by is not None:
            known = {one.name for one in done}
            for file in sorted(self._folder.glob("*.pem")):
                if file.stem not in known and file.with_suffix(".key").is_file():
                    done.append(self._renewed(file.stem, authority))
        return done

    def _authority(self) -> tuple[_Pair, Made]:
        from cryptography import x509

        key, there = self._load(AUTHORITY)
        if key is not None and there is not None and not self._is_due(there):
            return _Pair(key, there), self._noted(AUTHORITY, "kept", there)
        key = key or self._new_key(AUTHORITY)
        # With the same name and key, a renewed authority stays valid for all it has signed.
        name = there.subject if there else _named(f"edgeslm {self._now:%Y-%m-%d %H:%M:%S}")
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        extensions = [
            (x509.BasicConstraints(ca=True, path_length=0), True),
            (usage, True),
            (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        ]
        certificate = self._certificate(name, key, name, key, AUTHORITY_DAYS, extensions)
        self._write(AUTHORITY, certificate, replace=there is not None)
        return _Pair(key, certificate), self._noted(AUTHORITY, "renewed" if there else "made", certificate)

    def _signed(self, name: str, hosts: Sequence[str], authority: _Pair) -> Made:
        key, there = (None, None) if self._force else self._load(name)
        is_same = there is not None and (not hosts or set(hosts) == set(_hosts_of(there)))
        if key is not None and there is not None and is_same and not self._is_due(there):
            return self._noted(name, "kept", there)
        key = key or self._new_key(name)
        return self._sign(name, key, hosts, authority, is_new=there is None)

    def _renewed(self, name: str, authority: _Pair) -> Made:
        key, there = self._load(name)
        if key is None or there is None:
            raise ProvisionError(f"{self._folder / name}.pem went away meanwhile")
        if not self._is_due(there):
            return self._noted(name, "kept", there)
        return self._sign(name, key, _hosts_of(there), authority, is_new=False)

    def _sign(
        self,
        name: str,
        key: ec.EllipticCurvePrivateKey,
        hosts: Sequence[str],
        authority: _Pair,
        *,
        is_new: bool,
    ) -> Made:
        from cryptography import x509
        from cryptography.x509.oid import ExtendedKeyUsageOID

        purpose = ExtendedKeyUsageOID.SERVER_AUTH if name == BROKER else ExtendedKeyUsageOID.CLIENT_AUTH
        usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
        extensions: _Extensions = [
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (usage, True),
            (x509.ExtendedKeyUsage([purpose]), False),
            (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), False),
        ]
        if hosts:
            extensions.append((x509.SubjectAlternativeName([_host(one) for one in hosts]), False))
        certificate = self._certificate(
            _named(hosts[0] if hosts else name),
            key,
            authority.certificate.subject,
            authority.key,
            self._days,
            extensions,
        )
        self._write(name, certificate, replace=self._force or not is_new)
        return self._noted(name, "made" if is_new else "renewed", certificate)

    def _certificate(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        issuer: x509.Name,
        issuer_key: ec.EllipticCurvePrivateKey,
        days: int,
        extensions: _Extensions,
    ) -> x509.Certificate:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes

        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - SLACK)
            .not_valid_after(self._now + datetime.timedelta(days=days))
        )
        for extension, is_critical in extensions:
            builder = builder.add_extension(extension, critical=is_critical)
        return builder.sign(issuer_key, hashes.SHA256())

    # --- files --------------------------------------------------------------------------------------

    def _load(self, name: str) -> tuple[ec.EllipticCurvePrivateKey | None, x509.Certificate | None]:
        """Loads a key and its certificate. Key and certificate are None if neither file exists; the
        certificate is None if only the key exists.

        A key without a certificate, which an interrupted run may have left, is used for the new certificate.
        """
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization

        key_file, file = self._folder / f"{name}.key", self._folder / f"{name}.pem"
        if not key_file.exists():
            if file.exists():
                raise ProvisionError(
                    f"{file} is there and {key_file.name} isn't: bring the key, or remove it"
                )
            return None, None
        try:
            key: Any = serialization.load_pem_private_key(key_file.read_bytes(), None)
            there = x509.load_pem_x509_certificate(file.read_bytes()) if file.exists() else None
        except (OSError, ValueError, TypeError) as error:
            raise ProvisionError(f"{key_file} and {file.name} can't be used: {error}") from None
        if there is not None and there.public_key() != key.public_key():
            raise ProvisionError(f"{file} isn't the certificate of {key_file}")
        return key, there

    def _new_key(self, name: str) -> ec.EllipticCurvePrivateKey:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        form = serialization.PrivateFormat.PKCS8
        pem = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
        if self._force:  # remove the old key's certificate
            (self._folder / f"{name}.pem").unlink(missing_ok=True)
        write_private(self._folder / f"{name}.key", pem, replace=self._force)
        return key

    def _write(self, name: str, certificate: x509.Certificate, *, replace: bool) -> None:
        from cryptography.hazmat.primitives import serialization

        pem = certificate.public_bytes(serialization.Encoding.PEM)
        write_private(self._folder / f"{name}.pem", pem, replace=replace)

    def _is_due(self, certificate: x509.Certificate) -> bool:
        return self._renew_by is not None and certificate.not_valid_after_utc <= self._renew_by

    def _noted(
        self, name: str, what: Literal["made", "kept", "renewed"], certificate: x509.Certificate
    ) -> Made:
        file = self._folder / f"{name}.pem"
        return Made(name, file, file.with_suffix(".key"), what, certificate.not_valid_after_utc.date())


def check_client_name(name: str) -> None:
    """Checks a client's name, which is its login and a topic level. :raises ProvisionError: it is invalid."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
        raise ProvisionError(f"{name!r} can't be a client's name: use letters, digits, - and _, at most 64")
    if name in (AUTHORITY, BROKER):
        raise ProvisionError(f"{name!r} can't be a client's name: its files are those of the {name}")


def check_library() -> None:
    """Checks that keys can be made. :raises ProvisionError: the package ``cryptography`` isn't installed."""
    try:
        import cryptography
    except ImportError:
        raise ProvisionError(
            f"keys are made with a package that isn't installed: {install_line('provision')}"
        ) from None
    del cryptography


def _named(name: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def _host(text: str) -> x509.GeneralName:
    from cryptography import x509

    check_host(text)
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def check_host(text: str) -> None:
    """Checks a host. :raises ProvisionError: the text is neither an IP address nor a host name."""
    try:
        ipaddress.ip_address(text)
        is_address = "%" not in text  # an IPv6 zone may have any characters
    except ValueError:
        is_address = False
    if not is_address and not _HOST.fullmatch(text):
        raise ProvisionError(f"{text!r} is neither the name of a host nor an address")


def _hosts_of(certificate: x509.Certificate) -> list[str]:
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(name.value) for name in names]

"""Broker address and login (URL, user name, password, TLS files). Reads only files."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urlsplit

from edgeslm.errors import BrokerError

if TYPE_CHECKING:
    from argparse import Namespace

    from edgeslm.config.schema import Config
    from edgeslm.config.sections import Broker

PORTS = {"mqtt": 1883, "mqtts": 8883}
"""Maps each URL scheme to its default port."""


@dataclass(frozen=True, slots=True)
class Login:
    """Credentials of a client, and its trusted certificates. ``repr`` hides the password.

    With ``ca_file`` None, the system's certificate authorities are trusted. ``cert_file`` and ``key_file``
    are the client certificate for mutual TLS.
    """

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    @classmethod
    def of(cls, named: Broker | Namespace) -> Login:
        """Reads the login from a configuration's ``broker`` section, or from command-line arguments.

        :raises BrokerError: the password file can't be read or is empty.
        """
        password = read_password(named.password_file)
        return cls(named.username, password, named.ca_file, named.cert_file, named.key_file)


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Host, port, TLS and login of a broker."""

    host: str
    port: int
    tls: bool
    login: Login

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}"

    @classmethod
    def parse(cls, url: str, login: Login = Login()) -> BrokerAddress:
        """Parses ``mqtt[s]://[user[:password]@]host[:port]``; the user name and password in ``login`` take
        precedence over those in the URL.

        :raises BrokerError: the URL is invalid.
        """
        parts, port = _split(url)
        if not parts.hostname:
            raise BrokerError("The broker's address names no host; write it as mqtt://host:1883.")
        if parts.path not in ("", "/") or parts.query or parts.fragment:
            raise BrokerError(
                "The broker's address has something after the port; write it as mqtt://host:1883."
            )
        username = login.username if login.username is not None else _unquoted(parts.username)
        password = login.password if login.password is not None else _unquoted(parts.password)
        login = replace(login, username=username, password=password)
        return cls(parts.hostname, port, parts.scheme == "mqtts", login)

    @classmethod
    def of(cls, section: Broker) -> BrokerAddress:
        """The address in a configuration's ``broker`` section. :raises BrokerError: see :meth:`Login.of`."""
        return cls(section.host, section.port, section.tls, Login.of(section))

    def tls_context(self) -> ssl.SSLContext | None:
        """The TLS settings; None for a connection without TLS.

        :raises BrokerError: a file can't be used; the message names it.
        """
        if not self.tls:
            return None
        login = self.login
        try:
            context = ssl.create_default_context(cafile=login.ca_file)
        except (OSError, ssl.SSLError):
            raise BrokerError(
                f"The certificate authority file {login.ca_file} can't be read; it must hold PEM "
                "certificates."
            ) from None
        if (certificate := login.cert_file) is not None:
            try:
                # Without a password, OpenSSL would prompt on the terminal.
                context.load_cert_chain(certificate, login.key_file, password="")
            except (OSError, ssl.SSLError, ValueError):
                raise BrokerError(
                    f"The client certificate {certificate} and its key {login.key_file or certificate} "
                    "can't be used; both must be PEM, belong together, and the key must have no pass phrase."
                ) from None
        return context


def read_password(file: Path | None) -> str | None:
    """The password in the first line of a file. :raises BrokerError: the file can't be read, or the line is
    empty."""
    return None if file is None else _read_line(file, "password")


def client_id_of(config: Config) -> str:
    """The client id of a node. :raises BrokerError: the client id file can't be read or is empty."""
    file = config.broker.client_id_file
    return f"{config.prefix}-{config.node}" if file is None else _read_line(file, "client id")


def pool_client_id(broker: Broker, prefix: str, pool: str) -> str:
    """The client id of a pool's dispatcher. The default client id contains a dot, so that it differs from the
    client ids of nodes.

    :raises BrokerError: the client id file can't be read or is empty.
    """
    file = broker.client_id_file
    return f"{prefix}-pool.{pool}" if file is None else _read_line(file, "client id")


def _read_line(file: Path, what: str) -> str:
    try:
        line = file.read_text(encoding="utf-8").split("\n", 1)[0].rstrip("\r")
    except (OSError, UnicodeDecodeError):
        raise BrokerError(
            f"The {what} file {file} can't be read; it must hold one line of UTF-8 text."
        ) from None
    if not line:
        raise BrokerError(f"The {what} file {file} is empty; write the {what} into its first line.")
    return line


def _split(url: str) -> tuple[SplitResult, int]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise BrokerError(f"The broker's address can't be read: {error}.") from None
    if parts.scheme not in PORTS:
        raise BrokerError("The broker's address must begin with mqtt:// or mqtts://.")
    return parts, PORTS[parts.scheme] if port is None else port


def _unquoted(text: str | None) -> str | None:
    return None if text is None else unquote(text)

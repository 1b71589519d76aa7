"""Certificate expiry: warnings before the certificates of a node expire.

This module parses the validity field of X.509 (RFC 5280, section 4.1.2.5), which the standard library doesn't
read from files.
"""

from __future__ import annotations

import datetime
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeslm.config.sections import Broker

WARN = datetime.timedelta(days=60)
_VERSION, _UTC_TIME = 0xA0, 0x17
_END = "-----END CERTIFICATE-----"


def ending_soon(broker: Broker, now: datetime.datetime | None = None) -> Iterator[str]:
    """A sentence for each certificate of a configuration that has expired or expires within 60 days."""
    now = now or datetime.datetime.now(datetime.UTC)
    for file in (broker.cert_file, broker.ca_file):
        end = end_of(file) if file is not None else None
        if end is not None and end - now < WARN:
            yield (
                f"The certificate {file} {'ends' if end > now else 'ended'} on {end.date()}: renew it "
                "(edgeslm provision keys DIR --renew) and copy it here."
            )


def end_of(file: Path) -> datetime.datetime | None:
    """Returns when the first certificate in a PEM file expires; None if the certificate can't be read."""
    try:
        text = file.read_text("ascii", "replace")
        begin = text.index("-----BEGIN CERTIFICATE-----")
        der = ssl.PEM_cert_to_DER_cert(text[begin : text.index(_END, begin) + len(_END)])
        _, at, _ = _element(der, _element(der, 0)[1])
        if der[at] == _VERSION:
            at = _element(der, at)[2]
        for _ in ("serial number", "signature", "issuer"):
            at = _element(der, at)[2]
        _, at, _ = _element(der, at)
        tag, start, end = _element(der, _element(der, at)[2])
        digits = der[start:end].decode("ascii")
        if tag == _UTC_TIME:  # two-digit years, 1950 to 2049
            digits = ("19" if digits >= "50" else "20") + digits
        return datetime.datetime.strptime(digits, "%Y%m%d%H%M%SZ").replace(tzinfo=datetime.UTC)
    except (OSError, ValueError, IndexError):
        return None


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """Tag, start and end of the content of a DER element (X.690)."""
    tag, length, at = der[at], der[at + 1], at + 2
    if length & 0x80:
        count = length & 0x7F
        length, at = int.from_bytes(der[at : at + count], "big"), at + count
    return tag, at, at + length

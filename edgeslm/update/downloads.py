"""Resumable downloads: an interrupted download continues where it stopped, even after a restart.

An :class:`Allowance` limits the size of a download. Redirects must lead to a URL with an allowed scheme, by
default ``https://``.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from edgeslm.errors import BundleError
from edgeslm.storage.atomic_json import read_record
from edgeslm.update.allowance import PIECE, Allowance
from edgeslm.update.sources import SCHEME

log = logging.getLogger("edgeslm.update")

SILENT_S: Final = 30.0
PAUSES_S: Final = (1.0, 5.0, 15.0, 60.0)
"""Pauses before the retries, in order. After an attempt that received data, the first pause is used again."""
NOT_YET_VALID: Final = 9
"""OpenSSL's ``X509_V_ERR_CERT_NOT_YET_VALID``."""
HASHES: Final = ("sha256", "sha1", "md5")
"""Hash algorithms, strongest first; only the strongest that the server announces is checked."""


class Unreachable(BundleError):
    """The download failed, but a later attempt may succeed; the part received so far is kept."""


@dataclass(frozen=True, slots=True)
class ServerLogin:
    """Credentials for a server. ``headers`` are sent to the requested address only, not after a redirect."""

    headers: Mapping[str, str] = field(default_factory=dict)
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    def context(self) -> ssl.SSLContext:
        """:raises OSError: a file can't be read, or isn't a certificate or key."""
        context = ssl.create_default_context(cafile=self.ca_file)
        if self.cert_file is not None:
            context.load_cert_chain(self.cert_file, self.key_file)
        return context


@dataclass(frozen=True, slots=True)
class Promise:
    """Announced size of a file in bytes, and its hashes in hexadecimal, by algorithm."""

    size: int
    hashes: Mapping[str, str]

    def check(self, file: Path, what: str) -> None:
        """:raises BundleError: the file has another size or hash. :raises OSError: a disk error."""
        name = next(name for name in HASHES if name in self.hashes)
        if (size := file.stat().st_size) != self.size:
            raise BundleError(f"{what}: it has {size} bytes and should have {self.size}")
        seen = hashlib.new(name, usedforsecurity=False)
        with file.open("rb") as stream:
            while piece := stream.read(PIECE):
                seen.update(piece)
        if seen.hexdigest() != self.hashes[name].lower():
            raise BundleError(f"{what}: its {name} is not the one that was promised")


class Download:
    """
    :param within: prefixes of the URLs to which redirects may lead; if empty, redirects may lead to any URL
        with an allowed scheme.
    :param schemes: allowed URL schemes, such as ``https://``.
    """

    def __init__(
        self,
        allowance: Allowance,
        login: ServerLogin,
        *,
        within: Sequence[str] = (),
        schemes: tuple[str, ...] = (SCHEME,),
    ) -> None:
        self._allowance = allowance
        self._login = login
        self._within = tuple(start.rstrip("/") + "/" for start in within if start.startswith(schemes))
        self._schemes = schemes

    def bring(self, url: str, file: Path, most: int | None = None) -> None:
        """Downloads ``url`` to ``file``, which may already hold the first part.

        :param most: largest size of the file, besides the budget.
        :raises Unreachable: the server doesn't answer, or the download broke off.
        :raises BundleError: the server isn't trusted or refuses the request, or the file is too large.
        """
        left = list(PAUSES_S)
        while True:
            before = file.stat().st_size if file.exists() else 0
            try:
                self._fetch(url, file, most)
                return
            except urllib.error.HTTPError as error:
                if error.code < 500 and error.code not in (408, 429):
                    raise BundleError(f"{url}: the server says {error.code} {error.reason}") from None
                why = f"{error.code} {error.reason}"
            except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
                reason = getattr(error, "reason", error)
                if isinstance(reason, ssl.SSLCertVerificationError):
                    later = reason.verify_code == NOT_YET_VALID  # boards without a clock start in 1970
                    raise (Unreachable if later else BundleError)(
                        f"{url}: its certificate isn't trusted ({reason.verify_message})"
                    ) from None
                why = str(reason) or type(error).__name__
            except ValueError as error:  # an invalid address, given or redirected to
                raise BundleError(f"{url[:200]}: not a valid address ({error})") from None
            if file.exists() and file.stat().st_size > before:
                left = list(PAUSES_S)
            if not left:
                raise Unreachable(f"{url}: can't be downloaded ({why}); what came is kept for the next try")
            log.warning("%s broke off (%s); retry in %g s", url, why, left[0])
            self._allowance.wait(left.pop(0))

    def _fetch(self, url: str, file: Path, most: int | None) -> None:
        """Makes one attempt to download ``url``; resumes at the end of ``file`` if the server's copy is
        unchanged."""
        notes = file.with_suffix(".json")
        known = read_record(notes) if file.exists() else {}
        have = file.stat().st_size if known else 0
        request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})
        for name, value in self._login.headers.items():
            request.add_unredirected_header(name, value)
        if have and known.get("tag"):
            request.add_header("Range", f"bytes={have}-")
            request.add_header("If-Range", known["tag"])
        opener = urllib.request.build_opener(
            urllib.request.HTTPSHandler(context=self._login.context()),
            _Redirections(self._schemes, self._within),
        )
        try:
            answer = opener.open(request, timeout=SILENT_S)
        except urllib.error.HTTPError as error:
            if error.code == 416:  # the file is complete, or the server's copy became shorter
                if known.get("size") == have:
                    return
                notes.unlink(missing_ok=True)  # the next try starts over
            raise
        with answer:
            goes_on = answer.status == 206 and _start_of(answer.headers.get("Content-Range")) == have
            if not goes_on:
                have = 0
            length = answer.headers.get("Content-Length")
            size = have + int(length) if length is not None and length.isdecimal() else None
            self._allowance.check_room((size or 0) - have, url)
            self._allowance.check_budget(size or 0, url)
            tag = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
            if tag and tag.startswith("W/"):
                tag = None  # a weak tag doesn't promise the same bytes
            notes.write_text(json.dumps({"tag": tag, "size": size, "url": url}))
            with file.open("ab" if goes_on else "wb") as written:
                done = self._allowance.pour(answer, written, have, size, url, most)
                written.flush()
                os.fsync(written.fileno())
            if size is not None and done < size:
                raise ConnectionError(f"it ended after {done} of {size} bytes")


class _Redirections(urllib.request.HTTPRedirectHandler):
    """Refuses redirects to other schemes or outside the allowed URL prefixes."""

    def __init__(self, schemes: tuple[str, ...], within: tuple[str, ...]) -> None:
        self._schemes = schemes
        self._within = within

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not newurl.startswith(self._schemes):
            raise BundleError(f"{req.full_url}: redirects to {newurl}; only {SCHEME} addresses are allowed")
        if self._within and (not newurl.startswith(self._within) or ".." in unquote(newurl)):
            raise BundleError(
                f"{req.full_url}: redirects to {newurl}, which is outside the allowed addresses"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _start_of(content_range: str | None) -> int | None:
    """Start of a content range, such as 5 in ``bytes 5-9/10`` (RFC 9110, section 14.4)."""
    unit, _, rest = (content_range or "").partition(" ")
    start = rest.partition("-")[0]
    return int(start) if unit == "bytes" and start.isdecimal() else None

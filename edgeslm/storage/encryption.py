"""Encryption at rest: AES-256-GCM (NIST SP 800-38D) for stored texts.

Each text has a random 96-bit nonce, which is safe for up to 4 billion texts per key. Each text is bound to
its row, so that two texts can't be swapped. The first :class:`Seal` imports the ``cryptography`` package.
"""

from __future__ import annotations

import os
from pathlib import Path

from edgeslm.config.extras import install_line
from edgeslm.errors import JournalError

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16


class Seal:
    """Encrypts and decrypts with one key.

    :raises JournalError: the ``cryptography`` package isn't installed.
    """

    def __init__(self, key: bytes) -> None:
        try:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError:
            raise JournalError(
                f"The journal's key_file needs a package that isn't installed: {install_line('encrypt')}."
            ) from None
        self._cipher = AESGCM(key)
        self._invalid = InvalidTag

    def close(self, text: bytes, place: bytes) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        sealed: bytes = self._cipher.encrypt(nonce, text, place)
        return nonce + sealed

    def open(self, sealed: bytes, place: bytes) -> bytes:
        """Decrypts. :raises ValueError: the key is wrong, or the text was changed or moved to another row."""
        try:
            text: bytes = self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], place)
        except self._invalid:
            raise ValueError("the seal is broken") from None
        return text


def load_seal(file: Path) -> Seal:
    """Loads a key file, which has 32 bytes or 64 hexadecimal digits.

    :raises JournalError: the file can't be read or isn't a key, or ``cryptography`` isn't installed.
    """
    try:
        key = file.read_bytes()
        if len(key) != KEY_BYTES:
            key = bytes.fromhex(key.decode("ascii"))
    except OSError as error:
        raise JournalError(f"The journal's key {file} can't be read ({error.strerror}).") from None
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise JournalError(
            f"{file} holds no key for the journal: it must have 32 bytes or 64 hexadecimal digits, as "
            "`openssl rand -hex 32` prints them."
        )
    return Seal(key)

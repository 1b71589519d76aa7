"""Bundle signing: signs bundles offline with a private key (OpenSSF model signing), and makes key pairs.

The signature, ``model.sig``, covers every other file of the bundle; devices check it (``bundle.trust``). Only
plain keys are used: no certificates and no Sigstore service.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from edgeslm.bundle.manifest import SIGNATURE, Bundle, load_bundle, verify_bundle
from edgeslm.errors import ExportError

PUBLIC_SUFFIX = ".pub"


def sign_bundle(folder: Path, key: Path, passphrase: bytes | None = None) -> Bundle:
    """Writes ``model.sig`` into a bundle, replacing an earlier one. The bundle's digest doesn't change.

    :param key: private key, PEM, on the curve P-256, P-384 or P-521.
    :raises BundleError: the bundle is damaged.
    :raises ExportError: the key can't be used or the folder can't be written.
    """
    from model_signing import hashing, signing

    bundle = load_bundle(folder)
    verify_bundle(bundle)
    config = signing.Config()
    try:
        # The library passes the passphrase on to cryptography, which takes bytes.
        config.use_elliptic_key_signer(private_key=key, password=passphrase)
    except OSError as error:
        raise ExportError(f"{key}: {error.strerror}.") from None
    except Exception as error:
        raise ExportError(f"{key}: {_why_no_key(error)}.") from None
    # By default the signature leaves out files of git.
    config.set_hashing_config(hashing.Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False))
    with tempfile.TemporaryDirectory() as scratch:
        config.sign(folder.resolve(), Path(scratch) / SIGNATURE)
        signature = (Path(scratch) / SIGNATURE).read_bytes()
    _put(folder / SIGNATURE, signature)
    return bundle


def _put(file: Path, data: bytes) -> None:
    """Writes a signature file atomically, so that a full disk doesn't destroy an earlier signature."""
    draft = file.with_name(f".{file.name}.draft")
    try:
        try:
            draft.write_bytes(data)
            draft.replace(file)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise ExportError(f"{file} can't be written: {error.strerror}.") from None


def _why_no_key(error: Exception) -> str:
    """Says why a key can't be used, from the exception of the library cryptography."""
    if isinstance(error, TypeError) and "not given" in str(error):
        return "the key has a passphrase; name a file with it in --passphrase-file"
    if isinstance(error, TypeError):
        return "the key has no passphrase; leave --passphrase-file out"
    if "password" in str(error).lower():
        return "the passphrase is wrong"
    return "no private key (PEM) on the curve P-256, P-384 or P-521; make one with --make-key"


def make_key(key: Path, passphrase: bytes | None = None) -> Path:
    """Makes a key pair on the curve P-256: the private key in ``key`` (mode 600), the public key next to it.

    :param passphrase: encrypts the private key.
    :return: the file of the public key.
    :raises ExportError: one of the files exists or can't be written.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    public = key.with_suffix(PUBLIC_SUFFIX)
    made = ec.generate_private_key(ec.SECP256R1())
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        encryption = serialization.BestAvailableEncryption(passphrase)
    private_bytes = made.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )
    public_bytes = made.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    if public == key:
        raise ExportError(f"{key}: the private key needs another suffix than {PUBLIC_SUFFIX}; name it .key.")
    for file in (key, public):  # before either is written
        if file.exists() or file.is_symlink():
            raise ExportError(f"{file} exists already; name another file or remove it.")
    for file, data, mode in ((key, private_bytes, 0o600), (public, public_bytes, 0o644)):
        try:
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        except OSError as error:
            raise ExportError(f"{file} can't be written: {error.strerror}.") from None
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
    return public

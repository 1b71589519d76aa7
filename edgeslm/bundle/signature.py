"""Signature check: parses ``model.sig`` and verifies that a trusted key signed this bundle.

The format is OpenSSF model signing with a key. A Sigstore bundle contains a DSSE envelope, which contains an
in-toto statement with the SHA-256 of every file. The library ``model-signing`` signs on the build machine;
signatures that this library refuses are refused here, too. The only cryptographic primitive in use is ECDSA
verification by ``cryptography``.

Signatures and bundles are untrusted, so ``trust`` runs the check as a job (``edgeslm.ipc.job``). The job's
input is ``{"bundles": [...], "keys": [...]}``; its output is a list with the fields of a
:class:`SignatureVerdict` for each bundle.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from edgeslm.bundle.manifest import MANIFEST, SIGNATURE, Bundle, file_digest, load_bundle
from edgeslm.config.extras import install_line
from edgeslm.errors import BundleError
from edgeslm.ipc.job import Progress, serve

LARGEST_BYTES = 4_000_000
"""Maximum size of a signature file in bytes; the file has about 200 bytes for each file of the bundle."""
_PREDICATE: Final = "https://model_signing/signature/v1.0"
_PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
_HASH_OF_CURVE: Final = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}

Status = Literal["signed", "unsigned", "refused", "unverifiable"]


@dataclass(frozen=True, slots=True)
class SignatureVerdict:
    """Result of the check of one bundle.

    If ``status`` is ``signed``, then ``key`` is the file of the signing key, and ``bundle`` and ``signature``
    are the digests (``sha256:<hex>``) of the checked manifest and of ``model.sig``. Otherwise ``sentence``
    gives the reason. The status ``unverifiable`` means that the package ``cryptography`` is missing.
    """

    status: Status
    sentence: str = ""
    key: str = ""
    bundle: str = ""
    signature: str = ""


@dataclass(frozen=True, slots=True)
class SignedStatement:
    """The parsed content of a signature; untrusted until verified.

    ``digests`` maps paths in the bundle to SHA-256 digests in hex. ``ignored`` lists files and folders that
    the signer left out. ``root`` is the SHA-256 (hex) of the concatenated digests. ``key`` is the SHA-256
    (hex) of the public key as PEM in openssl's format; old signatures may lack it. ``payload`` is the signed
    statement, ``signature`` its signature in DER format.
    """

    digests: dict[str, str]
    ignored: tuple[str, ...]
    root: str
    key: str
    payload: bytes
    signature: bytes


class _Outer(BaseModel):
    """Base class for the parts of the Sigstore bundle. The Sigstore bundle itself isn't signed, so unknown
    fields are refused."""

    model_config = ConfigDict(strict=True, extra="forbid", alias_generator=to_camel)


class _Signature(_Outer):
    sig: str
    keyid: str | None = None


class _Envelope(_Outer):
    payload: str
    payload_type: Literal["application/vnd.in-toto+json"]
    signatures: list[_Signature] = Field(min_length=1)


class _PublicKey(_Outer):
    hint: str | None = None
    raw_bytes: Any = None
    key_details: Any = None


class _Material(_Outer):
    """Verification material, which must be a public key. Certificates and transparency logs belong to other
    signing methods and are refused."""

    public_key: _PublicKey
    x509_certificate_chain: None = None
    certificate: None = None
    tlog_entries: list[Any] = Field(default=[], max_length=0)
    timestamp_verification_data: None = None


class _SigstoreBundle(_Outer):
    media_type: Literal["application/vnd.dev.sigstore.bundle.v0.3+json"]
    verification_material: _Material
    message_signature: None = None
    dsse_envelope: _Envelope


class _Inner(BaseModel):
    """Base class for the parts of the in-toto statement. By the specification, verifiers ignore unknown
    fields."""

    model_config = ConfigDict(strict=True)


class _Root(_Inner):
    sha256: str


class _Subject(_Inner):
    name: Any
    digest: _Root


class _Serialization(_Inner):
    method: Any
    hash_type: Any
    allow_symlinks: Any
    ignore_paths: list[str] = []


class _Resource(_Inner):
    name: str
    algorithm: str
    digest: str


class _Predicate(_Inner):
    serialization: _Serialization
    resources: list[_Resource]


class _InTotoStatement(_Inner):
    type: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    subject: list[_Subject] = Field(min_length=1, max_length=1)
    predicate_type: str = Field(alias="predicateType")
    predicate: _Predicate


def parse_statement(raw: bytes, where: str) -> SignedStatement:
    """Parses ``model.sig``.

    :raises BundleError: the file isn't a signature of model signing, or uses an unsupported method.
    """
    try:
        outer = _SigstoreBundle.model_validate(json.loads(raw.decode()))
        (first, *_) = outer.dsse_envelope.signatures
        payload = base64.b64decode(outer.dsse_envelope.payload, validate=True)
        signature = base64.b64decode(first.sig, validate=True)
        statement = _InTotoStatement.model_validate(json.loads(payload))
    except (ValueError, RecursionError):  # pydantic's, JSON's, base64's and UTF-8's are ValueErrors
        raise BundleError(
            f"{where}: no signature of model signing; copy the bundle again, or sign it again"
        ) from None
    predicate = statement.predicate
    form = (statement.predicate_type, predicate.serialization.method)
    digests = {one.name: one.digest for one in predicate.resources}
    once = len(digests) == len(predicate.resources)
    if (
        form != (_PREDICATE, "files")
        or {one.algorithm for one in predicate.resources} != {"sha256"}
        or not once
    ):
        raise BundleError(
            f"{where}: signs in another way than files by SHA-256; sign the bundle with edgeslm-export sign"
        )
    return SignedStatement(
        digests,
        tuple(predicate.serialization.ignore_paths),
        statement.subject[0].digest.sha256,
        outer.verification_material.public_key.hint or "",
        payload,
        signature,
    )


def read_signature(folder: Path) -> bytes:
    """Reads ``model.sig``.

    :raises FileNotFoundError: the bundle has no signature.
    :raises BundleError: the file can't be read or is too large.
    """
    file = folder / SIGNATURE
    try:
        with file.open("rb") as stream:
            raw = stream.read(LARGEST_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise BundleError(f"{file}: {error.strerror}") from None
    if len(raw) > LARGEST_BYTES:
        raise BundleError(f"{file}: larger than any signature; sign the bundle again")
    return raw


def check_bundle(folder: Path, keys: Sequence[Path]) -> SignatureVerdict:
    """Checks that the bundle is intact and signed by one of ``keys`` (files of public keys in PEM).

    :raises ModuleNotFoundError: the package ``cryptography`` is missing.
    """
    file = folder / SIGNATURE
    try:
        bundle = load_bundle(folder)
        try:
            raw = read_signature(folder)
        except FileNotFoundError:
            return SignatureVerdict("unsigned", f"{file}: missing, so the bundle is not signed")
        statement = parse_statement(raw, str(file))
        key = _signer(statement, keys, file)
        _check_root(statement, file)
        _compare(bundle, statement)
    except BundleError as error:
        return SignatureVerdict("refused", str(error))
    except OSError as error:  # a file disappeared during the check
        return SignatureVerdict("refused", f"{error.filename or folder}: {error.strerror}")
    return SignatureVerdict(
        "signed", "", str(key), bundle.digest, f"sha256:{hashlib.sha256(raw).hexdigest()}"
    )


def _signer(statement: SignedStatement, keys: Sequence[Path], file: Path) -> Path:
    """The key that signed the statement.

    :raises BundleError: none of the keys signed it, or a key can't be used.
    """
    for key in keys:
        public_key, digest = _load_key(key)
        if statement.key and statement.key != digest:
            continue
        if _is_signature(public_key, statement):
            return key
        if statement.key:
            raise BundleError(f"{file}: damaged, as its content does not fit its signature; copy it again")
    names = " or ".join(str(key) for key in keys)
    made_with = f" (its key has the SHA-256 {statement.key[:16]}...)" if statement.key else ""
    raise BundleError(f"{file}: not made with the key {names}{made_with}")


def _load_key(file: Path) -> tuple[Any, str]:
    """Loads a public key; returns the key and the SHA-256 (hex) of its PEM format.

    :raises BundleError: the key can't be used.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_public_key(file.read_bytes())
    except OSError as error:
        raise BundleError(f"{file}: {error.strerror}") from None
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _HASH_OF_CURVE:
        raise BundleError(f"{file}: no public key (PEM) on the curve P-256, P-384 or P-521")
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return key, hashlib.sha256(pem).hexdigest()


def _is_signature(key: Any, statement: SignedStatement) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    algorithm = getattr(hashes, _HASH_OF_CURVE[key.curve.name])()
    try:
        key.verify(statement.signature, _pre_authentication_encoding(statement.payload), ec.ECDSA(algorithm))
    except InvalidSignature:
        return False
    return True


def _pre_authentication_encoding(payload: bytes) -> bytes:
    """The bytes that were signed, which are type and content with their lengths ("PAE" in DSSE 1.0); the
    lengths make the encoding unambiguous."""
    return b"DSSEv1 %d %b %d %b" % (len(_PAYLOAD_TYPE), _PAYLOAD_TYPE.encode(), len(payload), payload)


def _check_root(statement: SignedStatement, file: Path) -> None:
    """Checks that the root digest matches the list of digests, as ``model-signing`` does."""
    try:
        root = hashlib.sha256(b"".join(map(bytes.fromhex, statement.digests.values()))).hexdigest()
    except ValueError:  # not hexadecimal
        root = ""
    if root != statement.root:
        raise BundleError(f"{file}: contradicts itself; sign the bundle again")


def _compare(bundle: Bundle, statement: SignedStatement) -> None:
    """Checks that manifest, signature and files agree, and that every file is signed.

    :raises BundleError: files differ or aren't signed; the error's text names them.
    """
    listed = {MANIFEST: bundle.digest.removeprefix("sha256:")}
    listed |= {entry.path: entry.sha256 for entry in bundle.manifest.files}
    found = listed | {name: file_digest(bundle.path / name) for name in listed if name != MANIFEST}
    left_out = [name for name in listed if _is_ignored(name, statement)]
    signed = {name: digest for name, digest in statement.digests.items() if name not in left_out}
    changed = [name for name in listed if name not in left_out and found[name] != signed.get(name)]
    changed += sorted(set(signed) - set(listed))
    if changed:
        if damaged := [name for name in listed if found[name] != listed[name]]:
            raise BundleError(
                f"{bundle.path / damaged[0]}: its SHA-256 differs from the manifest's; "
                f"the file was changed or damaged"
            )
        raise BundleError(_difference(bundle, changed))
    for name, digest in listed.items():
        if name in left_out:
            raise BundleError(f"{bundle.path / name}: not covered by {SIGNATURE}; sign the bundle again")
        if signed[name] != digest:
            raise BundleError(f"{bundle.path / name}: signed with other content than the manifest lists")


def _is_ignored(name: str, statement: SignedStatement) -> bool:
    return any(PurePosixPath(name).is_relative_to(path) for path in statement.ignored)


def _difference(bundle: Bundle, changed: Sequence[str]) -> str:
    names = [name if name.isprintable() else ascii(name) for name in changed[:4]]
    also = f", as are {', '.join(names[1:])}" if len(changed) > 1 else ""
    also += f" and {len(changed) - 4} more" if len(changed) > 4 else ""
    return (
        f"{bundle.path}/{names[0]}: not the file that was signed{also}; "
        f"the bundle was changed, or its {SIGNATURE} is another bundle's"
    )


def _answer(order: dict[str, Any], progress: Progress) -> list[dict[str, str]]:
    keys = [Path(key) for key in order["keys"]]
    return [asdict(_verdict(Path(folder), keys)) for folder in order["bundles"]]


def _verdict(folder: Path, keys: Sequence[Path]) -> SignatureVerdict:
    try:
        return check_bundle(folder, keys)
    except ModuleNotFoundError as error:
        package = (error.name or "cryptography").partition(".")[0]
        return SignatureVerdict("unverifiable", f"the package {package} is missing: {install_line('verify')}")


if __name__ == "__main__":
    serve(_answer)

"""``model.sig``: what it says, and whether one of the trusted keys made it for the bundle it lies in.

The format is that of OpenSSF model signing: a Sigstore bundle around an in-toto statement with the SHA-256 of
every file. Cryptography is the library's; that the answer names a file, that the manifest is covered and that
nothing is ignored is seen to here. The library brings some 30 packages, so the check runs in a process of its
own (``python -m edgeslm.signature``), which ``edgeslm.trust`` starts; nothing else imports the library.

The task is one JSON object on standard input, ``{"bundles": [...], "keys": [...]}``; the answer is a line for
each bundle, a :class:`Verdict`.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from edgeslm.bundle import MANIFEST, SIGNATURE, Bundle, file_digest, load_bundle, verify_bundle
from edgeslm.errors import BundleError

LIBRARY = "model_signing"
LARGEST_BYTES = 4_000_000
"""Of a signature file: it has some 200 bytes for each file of a bundle."""
_PREDICATE = "https://model_signing/signature/v1.0"

Status = Literal["signed", "unsigned", "refused", "unverifiable"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came out for one bundle.

    ``signed``: ``key`` is the file of the key that made the signature, ``bundle`` and ``signature`` are the
    ``sha256:<hex>`` of the manifest and of ``model.sig`` that were checked. Otherwise ``sentence`` says why
    not; ``unverifiable`` means that nothing could be said of it, as the library is missing.
    """

    status: Status
    sentence: str = ""
    key: str = ""
    bundle: str = ""
    signature: str = ""


@dataclass(frozen=True, slots=True)
class Statement:
    """What a signature claims; to be believed only after the library has checked it.

    ``digests``: path in the bundle -> SHA-256 in hex. ``key``: SHA-256 in hex of the public key as PEM, which
    is that of the file as openssl writes it; signatures of old may lack it.
    """

    digests: dict[str, str]
    key: str


def parse_statement(raw: bytes, where: str) -> Statement:
    """:raises BundleError: no signature of model signing, or made in a way that isn't understood here."""
    try:
        signature = json.loads(raw)
        statement = json.loads(base64.b64decode(signature["dsseEnvelope"]["payload"], validate=True))
        predicate = statement["predicate"]
        form = (statement["predicateType"], predicate["serialization"]["method"])
        resources = [
            (str(one["name"]), one["algorithm"], str(one["digest"])) for one in predicate["resources"]
        ]
        key = signature["verificationMaterial"].get("publicKey") or {}
        hint = str(key.get("hint") or "")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BundleError(
            f"{where}: no signature of model signing; copy the bundle again, or sign it again"
        ) from None
    if form != (_PREDICATE, "files") or any(algorithm != "sha256" for _, algorithm, _ in resources):
        raise BundleError(
            f"{where}: signs in another way than files by SHA-256; sign the bundle with edgeslm-export sign"
        )
    return Statement({name: digest for name, _, digest in resources}, hint)


def read_signature(folder: Path) -> bytes:
    """The bytes of ``model.sig``.

    :raises FileNotFoundError: the bundle has none.
    :raises BundleError: it can't be read or is too large.
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


def check_bundle(folder: Path, keys: Sequence[Path]) -> Verdict:
    """Whether the bundle is whole and signed by one of ``keys``, public ones as PEM. Needs the library."""
    file = folder / SIGNATURE
    try:
        bundle = load_bundle(folder)
        try:
            raw = read_signature(folder)
        except FileNotFoundError:
            return Verdict("unsigned", f"{file}: missing, so the bundle is not signed")
        statement = parse_statement(raw, str(file))
        key = _signer(bundle, raw, statement, keys)
        _compare(bundle, statement)
    except BundleError as error:
        return Verdict("refused", str(error))
    except OSError as error:  # a file that goes away meanwhile
        return Verdict("refused", f"{error.filename or folder}: {error.strerror}")
    return Verdict("signed", "", str(key), bundle.digest, f"sha256:{sha256(raw).hexdigest()}")


def _signer(bundle: Bundle, raw: bytes, statement: Statement, keys: Sequence[Path]) -> Path:
    """The key that made the signature, when every file is what was signed."""
    # What is checked is what was parsed; in memory, since there may be no disk to write to.
    with os.fdopen(os.memfd_create(SIGNATURE), "wb") as copy:
        copy.write(raw)
        copy.flush()
        for key in keys:
            try:
                # The library refuses a folder that is a link.
                _verify(bundle.path.resolve(), Path(f"/proc/self/fd/{copy.fileno()}"), key)
            except (BundleError, ModuleNotFoundError):
                raise
            except Exception as error:
                if str(error).startswith("Signature mismatch"):  # the key's, but of other files
                    raise BundleError(_difference(bundle, statement)) from None
                if not (str(error).startswith("Key mismatch") or type(error).__name__ == "InvalidSignature"):
                    reason = next(iter(str(error).splitlines()), type(error).__name__)
                    raise BundleError(f"{bundle.path / SIGNATURE}: can't be checked: {reason}") from None
            else:
                return key
    raise BundleError(_wrong_key(bundle.path / SIGNATURE, statement, keys))


def _verify(folder: Path, signature: Path, key: Path) -> None:
    """The library's check of the signature and of every file.

    :raises ValueError: and cryptography's ``InvalidSignature``.
    :raises BundleError: the key can't be used.
    """
    from model_signing import hashing, verifying  # lazy: only this process has it

    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=key)
    except OSError as error:
        raise BundleError(f"{key}: {error.strerror}") from None
    except Exception:  # what is no PEM, an RSA key, another curve
        raise BundleError(f"{key}: no public key (PEM) on the curve P-256, P-384 or P-521") from None
    # By default what git keeps would be let through.
    config.set_hashing_config(hashing.Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False))
    config.verify(folder, signature)


def _compare(bundle: Bundle, statement: Statement) -> None:
    """Sees that the manifest and all that it lists are covered, so that its digest stands for the whole: the
    library lets a signature leave files out."""
    listed = {MANIFEST: bundle.digest.removeprefix("sha256:")}
    listed |= {entry.path: entry.sha256 for entry in bundle.manifest.files}
    for name, digest in listed.items():
        if name not in statement.digests:
            raise BundleError(f"{bundle.path / name}: not covered by {SIGNATURE}; sign the bundle again")
        if statement.digests[name] != digest:
            raise BundleError(f"{bundle.path / name}: signed with other content than the manifest lists")


def _difference(bundle: Bundle, statement: Statement) -> str:
    """What in the folder is not what was signed, in a sentence; the signature itself is good."""
    try:
        verify_bundle(bundle)
    except BundleError as error:
        return str(error)
    present = [MANIFEST, *(entry.path for entry in bundle.manifest.files)]
    changed = [name for name in present if file_digest(bundle.path / name) != statement.digests.get(name)]
    changed += sorted(set(statement.digests) - set(present))
    if not changed:
        return f"{bundle.path / SIGNATURE}: signs other files than the bundle has; sign the bundle again"
    also = f", as are {', '.join(changed[1:4])}" if len(changed) > 1 else ""
    also += f" and {len(changed) - 4} more" if len(changed) > 4 else ""
    return (
        f"{bundle.path / changed[0]}: not the file that was signed{also}; "
        f"the bundle was changed, or its {SIGNATURE} is another bundle's"
    )


def _wrong_key(file: Path, statement: Statement, keys: Sequence[Path]) -> str:
    if statement.key in {file_digest(key) for key in keys}:
        return f"{file}: damaged, as its content does not fit its signature; copy it again"
    names = " or ".join(str(key) for key in keys)
    made_with = f" (its key has the SHA-256 {statement.key[:16]}...)" if statement.key else ""
    return f"{file}: not made with the key {names}{made_with}"


def main() -> int:
    """``python -m edgeslm.signature``, started by ``edgeslm.trust``."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the library prints warnings
    task: dict[str, Any] = json.load(sys.stdin)
    keys = [Path(key) for key in task["keys"]]
    for folder in map(Path, task["bundles"]):
        try:
            verdict = check_bundle(folder, keys)
        except ModuleNotFoundError as error:
            sentence = f"the package {error.name} is missing: pip install 'edgeslm[verify]'"
            verdict = Verdict("unverifiable", sentence)
        answers.write(json.dumps(asdict(verdict)) + "\n")
        answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())

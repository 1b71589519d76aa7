"""Changed, forged and odd signatures of a bundle, each made from a valid one.

Some remain valid, because the changed part isn't signed; ``model-signing`` decides which.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from tests.support.tampering import TAMPERING

PAYLOAD_TYPE = b"application/vnd.in-toto+json"
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
Json = dict[str, Any]


@dataclass(slots=True)
class Scene:
    """A signed bundle, its signer's key, and the public key for the check."""

    bundle: Path
    key: ec.EllipticCurvePrivateKey
    public: Path

    @property
    def file(self) -> Path:
        return self.bundle / "model.sig"

    def read(self) -> Json:
        value: Json = json.loads(self.file.read_text())
        return value

    def write(self, signature: Json) -> None:
        self.file.write_text(json.dumps(signature))

    def payload(self) -> bytes:
        return base64.b64decode(self.read()["dsseEnvelope"]["payload"])

    def put_payload(self, payload: bytes) -> None:
        signature = self.read()
        signature["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
        self.write(signature)

    def sig(self) -> bytes:
        return base64.b64decode(self.read()["dsseEnvelope"]["signatures"][0]["sig"])

    def put_sig(self, sig: bytes) -> None:
        signature = self.read()
        signature["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(sig).decode()
        self.write(signature)

    def sign(self, payload: bytes, encoded: bytes | None = None, hash_name: str = "SHA256") -> None:
        """Signs another payload with the right key, or ``encoded`` instead of its encoding."""
        encoded = pae(payload) if encoded is None else encoded
        self.put_payload(payload)
        self.put_sig(self.key.sign(encoded, ec.ECDSA(getattr(hashes, hash_name)())))


Forgery = Callable[[Scene], None]
FORGERIES: dict[str, Forgery] = {}


def pae(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding, which is signed."""
    return b"DSSEv1 %d %b %d %b" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE, len(payload), payload)


def flip(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8 % len(data)] ^= 1 << bit % 8
    return bytes(changed)


# --- files, and single bits of the signed part ---------------------------------------------------------


def _of_files(tamper: Callable[[Path], None]) -> Forgery:
    return lambda scene: tamper(scene.bundle)


def _flip_payload(share: float) -> Forgery:
    def act(scene: Scene) -> None:
        payload = scene.payload()
        scene.put_payload(flip(payload, int(share * 8 * len(payload))))

    return act


def _flip_sig(share: float) -> Forgery:
    def act(scene: Scene) -> None:
        scene.put_sig(flip(scene.sig(), int(share * 8 * len(scene.sig()))))

    return act


def _flip_file(name: str, share: float) -> Forgery:
    def act(scene: Scene) -> None:
        data = (scene.bundle / name).read_bytes()
        (scene.bundle / name).write_bytes(flip(data, int(share * 8 * len(data))))

    return act


FORGERIES |= {name: _of_files(tamper) for name, (tamper, _) in TAMPERING.items()}
del FORGERIES["the signature too large"]  # the library reads any
FORGERIES |= {f"payload, bit at {n}/40": _flip_payload(n / 40) for n in range(40)}
FORGERIES |= {f"signature, bit at {n}/24": _flip_sig(n / 24) for n in range(24)}
FORGERIES |= {f"model.sig, bit at {n}/32": _flip_file("model.sig", n / 32) for n in range(32)}
for name in ("manifest.json", "model.onnx", "model.onnx.data", "heads/two.npz"):
    FORGERIES |= {f"{name}, bit at {n}/5": _flip_file(name, n / 5) for n in range(5)}


# --- the envelope, which isn't signed --------------------------------------------------------------------


def envelope(change: Callable[[Json], Any]) -> Forgery:
    def act(scene: Scene) -> None:
        signature = scene.read()
        change(signature)
        scene.write(signature)

    return act


def at(*path: str | int, value: Any) -> Forgery:
    """Sets one field, or removes it if the value is ``...``."""

    def change(signature: Any) -> None:
        for step in path[:-1]:
            signature = signature[step]
        if value is ...:
            del signature[path[-1]]
        else:
            signature[path[-1]] = value

    return envelope(change)


def signatures(change: Callable[[list[Json]], list[Json]]) -> Forgery:
    def act(signature: Json) -> None:
        signature["dsseEnvelope"]["signatures"] = change(signature["dsseEnvelope"]["signatures"])

    return envelope(act)


def text(change: Callable[[str], str], encoding: str = "utf-8") -> Forgery:
    def act(scene: Scene) -> None:
        scene.file.write_bytes(change(json.dumps(scene.read())).encode(encoding))

    return act


BAD = {"sig": base64.b64encode(b"no signature").decode(), "keyid": ""}
DSSE, MATERIAL = "dsseEnvelope", "verificationMaterial"
V3 = "application/vnd.dev.sigstore.bundle"
FORGERIES |= {
    "media type of 0.1": at("mediaType", value=f"{V3}+json;version=0.1"),
    "media type of 0.3, older form": at("mediaType", value=f"{V3}+json;version=0.3"),
    "media type unknown": at("mediaType", value="text/plain"),
    "media type in capitals": at("mediaType", value=f"{V3}.v0.3+json".upper()),
    "media type a number": at("mediaType", value=3),
    "media type missing": at("mediaType", value=...),
    "payload type of another kind": at(DSSE, "payloadType", value="application/json"),
    "payload type in capitals": at(DSSE, "payloadType", value=PAYLOAD_TYPE.decode().upper()),
    "payload type with a space": at(DSSE, "payloadType", value=PAYLOAD_TYPE.decode() + " "),
    "payload type empty": at(DSSE, "payloadType", value=""),
    "payload type a number": at(DSSE, "payloadType", value=7),
    "payload type null": at(DSSE, "payloadType", value=None),
    "payload type missing": at(DSSE, "payloadType", value=...),
    "payload empty": at(DSSE, "payload", value=""),
    "payload null": at(DSSE, "payload", value=None),
    "payload missing": at(DSSE, "payload", value=...),
    "payload an object": at(DSSE, "payload", value={}),
    "payload no base64": at(DSSE, "payload", value="?!"),
    "no envelope": at(DSSE, value=...),
    "an empty envelope": at(DSSE, value={}),
    "an envelope in a list": envelope(lambda signature: signature.update({DSSE: [signature[DSSE]]})),
    "an unknown field": at("more", value=1),
    "an unknown field in the envelope": at(DSSE, "more", value=1),
    "an unknown field beside the signature": at(DSSE, "signatures", 0, "more", value=1),
    "an unknown field beside the key": at(MATERIAL, "more", value=1),
    "an unknown field of the key": at(MATERIAL, "publicKey", "more", value=1),
    "a message signature too": at("messageSignature", value={"signature": "AAAA"}),
    "a message signature of null": at("messageSignature", value=None),
    "no signatures": at(DSSE, "signatures", value=[]),
    "signatures null": at(DSSE, "signatures", value=None),
    "signatures an object": at(DSSE, "signatures", value={}),
    "signatures of texts": at(DSSE, "signatures", value=["AAAA"]),
    "a good and a bad signature": signatures(lambda given: [*given, BAD]),
    "a bad and a good signature": signatures(lambda given: [BAD, *given]),
    "the signature twice": signatures(lambda given: [*given, *given]),
    "the signature null": at(DSSE, "signatures", 0, "sig", value=None),
    "the signature empty": at(DSSE, "signatures", 0, "sig", value=""),
    "the signature a number": at(DSSE, "signatures", 0, "sig", value=1),
    "the signature missing": at(DSSE, "signatures", 0, "sig", value=...),
    "the signature no base64": at(DSSE, "signatures", 0, "sig", value="?!"),
    "key id of text": at(DSSE, "signatures", 0, "keyid", value="factory"),
    "key id null": at(DSSE, "signatures", 0, "keyid", value=None),
    "key id a number": at(DSSE, "signatures", 0, "keyid", value=1),
    "key id missing": at(DSSE, "signatures", 0, "keyid", value=...),
    "hint of another key": at(MATERIAL, "publicKey", "hint", value="0" * 64),
    "hint empty": at(MATERIAL, "publicKey", "hint", value=""),
    "hint null": at(MATERIAL, "publicKey", "hint", value=None),
    "hint missing": at(MATERIAL, "publicKey", "hint", value=...),
    "hint a number": at(MATERIAL, "publicKey", "hint", value=1),
    "key null": at(MATERIAL, "publicKey", value=None),
    "key missing": at(MATERIAL, "publicKey", value=...),
    "key a text": at(MATERIAL, "publicKey", value="factory"),
    "key with older fields": envelope(
        lambda signature: signature[MATERIAL]["publicKey"].update(rawBytes="AAAA", keyDetails="P256")
    ),
    "a certificate too": at(MATERIAL, "certificate", value={"rawBytes": "AAAA"}),
    "a certificate alone": at(MATERIAL, value={"certificate": {"rawBytes": "AAAA"}, "tlogEntries": []}),
    "a chain too": at(MATERIAL, "x509CertificateChain", value={"certificates": []}),
    "no log": at(MATERIAL, "tlogEntries", value=...),
    "log null": at(MATERIAL, "tlogEntries", value=None),
    "log of nonsense": at(MATERIAL, "tlogEntries", value=[1]),
    "no material": at(MATERIAL, value=...),
    "material null": at(MATERIAL, value=None),
    "a list around it": text(lambda text: f"[{text}]"),
    "spaces around it": text(lambda text: f"\n  {text}\n\n"),
    "text behind it": text(lambda text: text + "x"),
    "a byte order mark": text(lambda text: "\ufeff" + text),
    "in UTF-16": text(lambda text: text, "utf-16"),
    "in Latin-1, with more": text(lambda text: text.replace('"keyid": ""', '"keyid": "é"'), "latin-1"),
    "a comment in it": text(lambda text: text.replace("{", "{/* good */", 1)),
    "a comma too many": text(lambda text: text.replace("{", "{,", 1)),
    "escaped letters": text(lambda text: text.replace("payload", "\\u0070ayload")),
    "NUL in it": text(lambda text: text.replace('"keyid": ""', '"keyid": "\\u0000"')),
    "deep lists": text(lambda text: "[" * 100_000 + text),
    "a bad payload before the good one": text(
        lambda text: text.replace('"payload":', '"payload": "AAAA", "payload":')
    ),
    "a bad payload behind the good one": text(
        lambda text: text.replace('"payloadType":', '"payload": "AAAA", "payloadType":')
    ),
    "the media type twice": text(lambda text: text.replace("{", '{"mediaType": "x", ', 1)),
    "the envelope twice": text(lambda text: text.rstrip()[:-1] + ', "dsseEnvelope": {}}'),
}


# --- the mathematics -------------------------------------------------------------------------------------


def _numbers(change: Callable[[int, int], tuple[int, int]]) -> Forgery:
    def act(scene: Scene) -> None:
        scene.put_sig(encode_dss_signature(*change(*decode_dss_signature(scene.sig()))))

    return act


def _raw_numbers(scene: Scene) -> None:
    scene.put_sig(b"".join(number.to_bytes(32, "big") for number in decode_dss_signature(scene.sig())))


def signs(encode: Callable[[bytes], bytes], hash_name: str = "SHA256") -> Forgery:
    def act(scene: Scene) -> None:
        scene.sign(scene.payload(), encode(scene.payload()), hash_name)

    return act


FORGERIES |= {
    "s negated": _numbers(lambda r, s: (r, P256_ORDER - s)),  # valid: ECDSA signatures are malleable
    "r and s of zero": _numbers(lambda r, s: (0, 0)),
    "r of zero": _numbers(lambda r, s: (0, s)),
    "s of zero": _numbers(lambda r, s: (r, 0)),
    "r and s of one": _numbers(lambda r, s: (1, 1)),
    "r and s swapped": _numbers(lambda r, s: (s, r)),
    "r beyond the order": _numbers(lambda r, s: (r + P256_ORDER, s)),
    "s beyond the order": _numbers(lambda r, s: (r, s + P256_ORDER)),
    "r without DER": _raw_numbers,
    "DER with a tail": lambda scene: scene.put_sig(scene.sig() + b"\0"),
    "DER without an end": lambda scene: scene.put_sig(scene.sig()[:-1]),
    "the payload signed without its type": signs(lambda payload: payload),
    "signed as another type": signs(lambda payload: b"DSSEv1 9 text/html %d %b" % (len(payload), payload)),
    "signed as another version": signs(lambda payload: pae(payload).replace(b"v1", b"v2", 1)),
    "signed with another length": signs(lambda payload: pae(payload)[:-1]),
    "signed with SHA-512": signs(pae, "SHA512"),
}

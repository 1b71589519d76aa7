"""Odd signed statements and odd keys: what the owner of a key might sign, and which keys a node might get."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from tests.support.forgeries import (
    DSSE,
    MATERIAL,
    PAYLOAD_TYPE,
    Forgery,
    Json,
    Scene,
    at,
    envelope,
    signatures,
    signs,
    text,
)
from tests.support.tampering import TAMPERING


def _root(statement: Json) -> None:
    """Updates the root digest, as a signer would."""
    data = b"".join(bytes.fromhex(one["digest"]) for one in statement["predicate"]["resources"])
    statement["subject"][0]["digest"]["sha256"] = hashlib.sha256(data).hexdigest()


def _statement(change: Callable[[Json], Any], *, root: bool = False) -> Forgery:
    def act(scene: Scene) -> None:
        statement = json.loads(scene.payload())
        change(statement)
        if root:
            _root(statement)
        scene.sign(json.dumps(statement).encode())

    return act


def _resources(change: Callable[[list[Json]], Any]) -> Forgery:
    return _statement(lambda statement: change(statement["predicate"]["resources"]), root=True)


def _serialization(**fields: Any) -> Forgery:
    def change(statement: Json) -> None:
        serialization = statement["predicate"]["serialization"]
        serialization |= fields
        for name in [name for name, value in fields.items() if value is ...]:
            del serialization[name]

    return _statement(change)


def _rename(old: str, new: str) -> Forgery:
    def change(resources: list[Json]) -> None:
        next(one for one in resources if one["name"] == old)["name"] = new

    return _resources(change)


def _payload(change: Callable[[bytes], bytes]) -> Forgery:
    return lambda scene: scene.sign(change(scene.payload()))


def _extra(name: str) -> Forgery:
    return _resources(lambda given: given.append({"name": name, "algorithm": "sha256", "digest": "00" * 32}))


STATEMENTS: dict[str, Forgery] = {
    "signed again": _payload(lambda payload: payload),
    "signed with other spaces": _payload(lambda payload: json.dumps(json.loads(payload), indent=5).encode()),
    "statement of another type": _statement(
        lambda one: one.update(_type="https://in-toto.io/Statement/v0.1")
    ),
    "statement without a type": _statement(lambda one: one.pop("_type")),
    "another predicate": _statement(lambda one: one.update(predicateType="https://slsa.dev/provenance/v1")),
    "the predicate of an older form": _statement(
        lambda one: one.update(predicateType="https://model_signing/Digests/v0.1")
    ),
    "no predicate": _statement(lambda one: one.pop("predicate")),
    "predicate null": _statement(lambda one: one.update(predicate=None)),
    "predicate with more": _statement(lambda one: one["predicate"].update(more=1)),
    "statement with more": _statement(lambda one: one.update(more=1)),
    "no subject": _statement(lambda one: one.update(subject=[])),
    "two subjects": _statement(lambda one: one.update(subject=one["subject"] * 2)),
    "subject without a name": _statement(lambda one: one["subject"][0].pop("name")),
    "subject with another name": _statement(lambda one: one["subject"][0].update(name="another")),
    "subject without a digest": _statement(lambda one: one["subject"][0].pop("digest")),
    "subject with another digest": _statement(
        lambda one: one["subject"][0]["digest"].update(sha256="00" * 32)
    ),
    "subject in capitals": _statement(
        lambda one: one["subject"][0]["digest"].update(sha256=one["subject"][0]["digest"]["sha256"].upper())
    ),
    "subject with a number": _statement(lambda one: one["subject"][0]["digest"].update(sha256=1)),
    "no serialization": _statement(lambda one: one["predicate"].pop("serialization")),
    "by shards": _serialization(method="shards", shard_size=1000),
    "by an unknown method": _serialization(method="blocks"),
    "no method": _serialization(method=...),
    "no hash type": _serialization(hash_type=...),
    "hash type of another kind": _serialization(hash_type="blake2b"),
    "links allowed": _serialization(allow_symlinks=True),
    "nothing said of links": _serialization(allow_symlinks=...),
    "nothing ignored": _serialization(ignore_paths=...),
    "model.onnx ignored": _serialization(ignore_paths=["model.onnx"]),
    "heads ignored": _serialization(ignore_paths=["heads"]),
    "all ignored": _serialization(ignore_paths=["."]),
    "all ignored by an empty path": _serialization(ignore_paths=[""]),
    "what isn't there ignored": _serialization(ignore_paths=["nothing", "../model.onnx"]),
    "ignored null": _serialization(ignore_paths=None),
    "no resources": _statement(lambda one: one["predicate"].pop("resources")),
    "resources empty": _resources(lambda given: given.clear()),
    "resources in another order": _resources(lambda given: given.reverse()),
    "resources in another order than the root": _statement(
        lambda one: one["predicate"]["resources"].reverse()
    ),
    "one resource less": _resources(lambda given: given.pop()),
    "one resource twice with other digests": _resources(
        lambda given: given.append({**given[0], "digest": "00" * 32})
    ),
    "one resource before with another digest": _statement(
        lambda one: one["predicate"]["resources"].insert(
            0, {**one["predicate"]["resources"][0], "digest": "00" * 32}
        )
    ),
    "one resource more": _extra("another.bin"),
    "the signature among the resources": _extra("model.sig"),
    "a resource outside": _extra("../another.bin"),
    "a resource at the root": _extra("/etc/passwd"),
    "a resource that is the folder": _extra("."),
    "a resource without a name": _extra(""),
    "a resource with NUL": _extra("a\0b"),
    "a resource with a lone surrogate": _extra("a\ud800"),
    "a resource with letters like others": _rename("model.onnx", "mоdel.onnx"),
    "a resource in a fullwidth form": _rename("model.onnx", "ｍodel.onnx"),
    "a resource by another path": _rename("model.onnx", "./model.onnx"),
    "a resource in capitals": _rename("model.onnx", "MODEL.onnx"),
    "a resource with a space": _rename("model.onnx", "model.onnx "),
    "two digests swapped": _resources(
        lambda given: given[0].update(digest=given[1]["digest"]) or given[1].update(digest=given[0]["digest"])
    ),
    "a digest of zeros": _resources(lambda given: given[0].update(digest="00" * 32)),
    "a digest cut": _resources(lambda given: given[0].update(digest=given[0]["digest"][:-2])),
    "a digest of odd length": _statement(lambda one: one["predicate"]["resources"][0].update(digest="abc")),
    "a digest that is none": _statement(lambda one: one["predicate"]["resources"][0].update(digest="xyz")),
    "a digest that is a number": _statement(lambda one: one["predicate"]["resources"][0].update(digest=7)),
    "a digest missing": _statement(lambda one: one["predicate"]["resources"][0].pop("digest")),
    "a name missing": _statement(lambda one: one["predicate"]["resources"][0].pop("name")),
    "a name that is a number": _statement(lambda one: one["predicate"]["resources"][0].update(name=7)),
    "an algorithm missing": _statement(lambda one: one["predicate"]["resources"][0].pop("algorithm")),
    "algorithm SHA-512 by name": _resources(lambda given: given[0].update(algorithm="sha512")),
    "algorithm in capitals": _resources(lambda given: given[0].update(algorithm="SHA256")),
    "algorithm blake3": _resources(lambda given: given[0].update(algorithm="blake3")),
    "algorithm none": _resources(lambda given: given[0].update(algorithm="none")),
    "algorithm null": _resources(lambda given: given[0].update(algorithm=None)),
    "payload of a list": _payload(lambda payload: b"[" + payload + b"]"),
    "payload of nothing": _payload(lambda payload: b""),
    "payload with a tail": _payload(lambda payload: payload + b"x"),
    "payload in UTF-16": _payload(lambda payload: payload.decode().encode("utf-16")),
    "payload with the type twice": _payload(lambda payload: payload.replace(b"{", b'{"_type": "x", ', 1)),
    "payload with another type behind": _payload(
        lambda payload: payload.rstrip()[:-1] + b', "predicateType": "x"}'
    ),
}


# --- keys ------------------------------------------------------------------------------------------------


def public_pem(key: Any) -> bytes:
    data: bytes = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return data


def _checked_with(make: Callable[[Scene], bytes]) -> Forgery:
    def act(scene: Scene) -> None:
        scene.public = scene.bundle.parent / "checked.pub"
        scene.public.write_bytes(make(scene))

    return act


def _signed_with(curve: Any, hash_name: str, *, hint: bool = True) -> Forgery:
    """Signs with a new key, which is also the one for the check."""

    def act(scene: Scene) -> None:
        scene.key = ec.generate_private_key(curve)
        public = public_pem(scene.key)
        _checked_with(lambda scene: public)(scene)
        digest = hashlib.sha256(public).hexdigest()
        at(MATERIAL, "publicKey", "hint", value=digest if hint else "")(scene)
        scene.sign(scene.payload(), hash_name=hash_name)

    return act


def _hinted(pem: Callable[[Scene], bytes]) -> Forgery:
    """Checks with another key, which the signature names."""

    def act(scene: Scene) -> None:
        _checked_with(pem)(scene)
        digest = hashlib.sha256(scene.public.read_bytes()).hexdigest()
        at(MATERIAL, "publicKey", "hint", value=digest)(scene)

    return act


def _certificate(scene: Scene) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "factory")])
    start = datetime(2026, 1, 1, tzinfo=UTC)
    certificate = (
        x509.CertificateBuilder(name, name, scene.key.public_key(), 1, start, start.replace(year=2030))
        .sign(scene.key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    assert isinstance(certificate, bytes)
    return certificate


def _der(scene: Scene) -> bytes:
    data: bytes = scene.key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return data


def _private(scene: Scene) -> bytes:
    data: bytes = scene.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return data


P256, P384, P521 = ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()
KEYS: dict[str, Forgery] = {
    "another key": _checked_with(lambda scene: public_pem(ec.generate_private_key(P256))),
    "another key that is claimed": _hinted(lambda scene: public_pem(ec.generate_private_key(P256))),
    "a key on P-384 that is claimed": _hinted(lambda scene: public_pem(ec.generate_private_key(P384))),
    "an RSA key that is claimed": _hinted(lambda scene: public_pem(rsa.generate_private_key(65537, 2048))),
    "an Ed25519 key that is claimed": _hinted(lambda scene: public_pem(ed25519.Ed25519PrivateKey.generate())),
    "a certificate for the key": _checked_with(_certificate),
    "the key as DER": _checked_with(_der),
    "the private key": _checked_with(_private),
    "no key": _checked_with(lambda scene: b""),
    "the key with other line ends": _checked_with(
        lambda scene: public_pem(scene.key).replace(b"\n", b"\r\n")
    ),
    "the key with a line before": _checked_with(lambda scene: b"the factory's\n" + public_pem(scene.key)),
    "the key cut": _checked_with(lambda scene: public_pem(scene.key)[:-40]),
    "the key twice": _checked_with(lambda scene: public_pem(scene.key) * 2),
    "signed on P-256": _signed_with(P256, "SHA256"),
    "signed on P-384": _signed_with(P384, "SHA384"),
    "signed on P-521": _signed_with(P521, "SHA512"),
    "signed on P-521 without a hint": _signed_with(P521, "SHA512", hint=False),
    "signed on P-384 with SHA-256": _signed_with(P384, "SHA256"),
    "signed on P-521 with SHA-384": _signed_with(P521, "SHA384"),
    "signed on secp256k1": _signed_with(ec.SECP256K1(), "SHA256"),
    "signed on P-224": _signed_with(ec.SECP224R1(), "SHA224"),
    "signed on brainpool": _signed_with(ec.BrainpoolP256R1(), "SHA256"),
}


# --- accepted by the library, refused by a device --------------------------------------------------------


def _as_of_old(payload: bytes) -> bytes:
    """The encoding of model-signing 0.2, which didn't make statements of this form."""
    return f"DSSEV1 {len(PAYLOAD_TYPE)} {PAYLOAD_TYPE.decode()} {len(payload)} {payload!r}".encode()


REFUSED_HERE: dict[str, Forgery] = {
    "the signature too large": lambda scene: TAMPERING["the signature too large"][0](scene.bundle),
    "ignored of numbers": _serialization(ignore_paths=[1]),
    "a line end in the signature": signatures(
        lambda given: [{**given[0], "sig": given[0]["sig"][:20] + "\n" + given[0]["sig"][20:]}]
    ),
    "a line end in the payload": envelope(
        lambda signature: signature[DSSE].update(payload=signature[DSSE]["payload"] + "\n")
    ),
    "names of Python in the envelope": text(lambda text: text.replace("payloadType", "payload_type")),
    "time stamps": at(MATERIAL, "timestampVerificationData", value={}),
    "signed as model-signing 0.2 did": signs(_as_of_old),
    "one resource twice": _resources(lambda given: given.append(given[0])),
    "a digest in capitals": _resources(lambda given: given[0].update(digest=given[0]["digest"].upper())),
    "a digest with a space": _resources(lambda given: given[0].update(digest=" " + given[0]["digest"])),
}
"""No tool writes these forms, and a single allowed form is easier to verify."""

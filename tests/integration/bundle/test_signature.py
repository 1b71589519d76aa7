"""What is done to a signed bundle, and that each is refused with a sentence that names the file."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.bundle.manifest import load_bundle, verify_bundle
from edgeslm.bundle.signature import SignatureVerdict, check_bundle, parse_statement
from edgeslm.errors import BundleError
from tests.support.signers import Signer, write_files, write_manifest
from tests.support.tampering import TAMPERING, consistent, edit


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return Signer(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def signed(tmp_path: Path, signer: Signer) -> Path:
    return signer.sign(write_files(tmp_path / "bundle"))


def test_a_signed_bundle_is_known_by_its_key(signed: Path, signer: Signer, tmp_path: Path) -> None:
    other = Signer(tmp_path, "other")
    verdict = check_bundle(signed, [other.public, signer.public])
    assert (verdict.status, verdict.sentence, verdict.key) == ("signed", "", str(signer.public))
    assert verdict.bundle == load_bundle(signed).digest


def test_a_signature_changes_nothing_in_the_manifest(tmp_path: Path, signer: Signer) -> None:
    bundle = write_files(tmp_path / "bundle")
    before = load_bundle(bundle)
    signer.sign(bundle)
    assert load_bundle(bundle) == before
    verify_bundle(before)
    signer.sign(bundle)  # once more, in place of the first
    assert check_bundle(bundle, [signer.public]).status == "signed"
    assert load_bundle(bundle) == before


def test_a_bundle_may_be_moved_renamed_and_reached_by_a_link(
    signed: Path, signer: Signer, tmp_path: Path
) -> None:
    moved = signed.rename(tmp_path / "renamed")
    link = tmp_path / "current"
    link.symlink_to(moved)
    assert check_bundle(link, [signer.public]).status == "signed"


def test_the_librarys_own_command_agrees(signed: Path, signer: Signer) -> None:
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(signed)]
    command += ["--signature", str(signed / "model.sig"), "--public_key", str(signer.public)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", TAMPERING)
def test_every_tampering_is_refused_and_names_the_file(kind: str, signed: Path, signer: Signer) -> None:
    tamper, named = TAMPERING[kind]
    tamper(signed)
    verdict = check_bundle(signed, [signer.public])
    assert verdict.status == ("unsigned" if kind == "the signature removed" else "refused")
    assert named in verdict.sentence
    assert str(signed) in verdict.sentence and "\n" not in verdict.sentence
    assert (verdict.key, verdict.bundle, verdict.signature) == ("", "", "")


def test_the_signature_of_another_key(signed: Path, signer: Signer, tmp_path: Path) -> None:
    other = Signer(tmp_path, "other")
    other.sign(signed)
    verdict = check_bundle(signed, [signer.public])
    assert verdict.status == "refused"
    assert f"{signed / 'model.sig'}: not made with the key {signer.public}" in verdict.sentence


def test_the_signature_of_another_bundle(signed: Path, signer: Signer, tmp_path: Path) -> None:
    other = write_files(tmp_path / "other", name="other")
    (other / "model.onnx").write_bytes(b"another graph")
    write_manifest(other)
    shutil.copy(signer.sign(other) / "model.sig", signed / "model.sig")
    verdict = check_bundle(signed, [signer.public])
    assert verdict.status == "refused"
    assert "manifest.json: not the file that was signed, as are model.onnx" in verdict.sentence
    assert "its model.sig is another bundle's" in verdict.sentence


def change_signature(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    file = bundle / "model.sig"
    signature = json.loads(file.read_text())
    change(signature)
    file.write_text(json.dumps(signature))


def test_a_statement_that_was_made_to_fit(signed: Path, signer: Signer) -> None:
    """Files, manifest and the list in the signature agree; only the signature over that list doesn't."""
    consistent(edit("model.onnx", lambda data: data[::-1]))(signed)
    manifest = load_bundle(signed)

    def fit(signature: dict[str, Any]) -> None:
        statement = json.loads(base64.b64decode(signature["dsseEnvelope"]["payload"]))
        digests = {entry.path: entry.sha256 for entry in manifest.manifest.files}
        digests["manifest.json"] = manifest.digest.removeprefix("sha256:")
        for resource in statement["predicate"]["resources"]:
            resource["digest"] = digests[resource["name"]]
        payload = base64.b64encode(json.dumps(statement).encode()).decode()
        signature["dsseEnvelope"]["payload"] = payload

    change_signature(signed, fit)
    verdict = check_bundle(signed, [signer.public])
    assert verdict.status == "refused"
    assert "model.sig: damaged, as its content does not fit its signature" in verdict.sentence


def test_a_signature_that_claims_another_key(signed: Path, signer: Signer) -> None:
    def claim(signature: dict[str, Any]) -> None:
        signature["verificationMaterial"]["publicKey"]["hint"] = "0" * 64

    change_signature(signed, claim)
    verdict = check_bundle(signed, [signer.public])
    assert verdict.status == "refused"
    assert "model.sig: not made with the key" in verdict.sentence


@pytest.mark.parametrize(
    "change",
    [
        lambda signature: signature.update(mediaType="text/plain"),
        lambda signature: signature["dsseEnvelope"].update(signatures=[]),
        lambda signature: signature["dsseEnvelope"].update(payloadType=7),
    ],
)
def test_a_signature_that_cant_be_read(
    signed: Path, signer: Signer, change: Callable[[dict[str, Any]], None]
) -> None:
    change_signature(signed, change)
    verdict = check_bundle(signed, [signer.public])
    assert verdict.status == "refused"
    assert "model.sig: " in verdict.sentence and "\n" not in verdict.sentence


@hypothesis.settings(max_examples=200)
@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_no_other_byte_of_a_signature_makes_it_say_something_else(
    signed: Path, signer: Signer, place: float, byte: int
) -> None:
    file = signed / "model.sig"
    raw = file.read_bytes()
    changed = bytearray(raw)
    changed[int(place * len(raw))] = byte
    file.write_bytes(changed)
    try:
        verdict = check_bundle(signed, [signer.public])
    finally:
        file.write_bytes(raw)
    if verdict.status == "signed":  # bytes that are not signed over, such as the names of unknown fields
        assert parse_statement(bytes(changed), "m").digests == parse_statement(raw, "m").digests
    else:
        assert (verdict.status, "\n" in verdict.sentence) == ("refused", False)


@pytest.mark.parametrize("left_out", ["model.onnx", "manifest.json"])
def test_a_signature_that_leaves_a_file_out(tmp_path: Path, signer: Signer, left_out: str) -> None:
    """The library's own command can be told to, and its check then lets the file be anything."""
    bundle = write_files(tmp_path / "bundle")
    command = [sys.executable, "-m", "model_signing", "sign", "key", str(bundle)]
    command += ["--signature", str(bundle / "model.sig"), "--private_key", str(signer.key)]
    command += ["--ignore-paths", str(bundle / left_out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    verdict = check_bundle(bundle, [signer.public])
    assert verdict.status == "refused"
    assert f"{bundle / left_out}: not covered by model.sig" in verdict.sentence


def test_a_damaged_bundle_that_was_signed_as_it_is(tmp_path: Path, signer: Signer) -> None:
    from model_signing import hashing, signing

    bundle = write_files(tmp_path / "bundle")
    edit("model.onnx", lambda data: data[::-1])(bundle)
    config = signing.Config().use_elliptic_key_signer(private_key=signer.key)
    config.set_hashing_config(hashing.Config().set_ignored_paths(paths=["model.sig"], ignore_git_paths=False))
    config.sign(bundle, bundle / "model.sig")
    verdict = check_bundle(bundle, [signer.public])
    assert verdict.status == "refused"
    assert f"{bundle / 'model.onnx'}: signed with other content than the manifest lists" in verdict.sentence


@pytest.mark.parametrize(
    "content", [b"", b"no key", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"]
)
def test_a_key_that_is_none(signed: Path, tmp_path: Path, content: bytes) -> None:
    key = tmp_path / "bad.pub"
    key.write_bytes(content)
    verdict = check_bundle(signed, [key])
    assert verdict == SignatureVerdict(
        "refused", f"{key}: no public key (PEM) on the curve P-256, P-384 or P-521"
    )


def test_a_private_key_in_place_of_a_public_one(signed: Path, signer: Signer) -> None:
    assert "factory.key: no public key" in check_bundle(signed, [signer.key]).sentence


def test_a_missing_key(signed: Path, tmp_path: Path) -> None:
    verdict = check_bundle(signed, [tmp_path / "no.pub"])
    assert verdict == SignatureVerdict("refused", f"{tmp_path / 'no.pub'}: No such file or directory")


# --- what is read before anything is checked ------------------------------------------------------------


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.binary())
def test_any_bytes_give_a_statement_or_a_bundle_error(raw: bytes) -> None:
    with pytest.raises(BundleError, match=r"^m: no signature of model signing"):
        parse_statement(raw, "m")


def envelope(statement: dict[str, Any], **outer: Any) -> bytes:
    """A signature file around a statement; nobody signed it."""
    payload = base64.b64encode(json.dumps(statement).encode()).decode()
    signature = {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "dsseEnvelope": {
            "payload": payload,
            "payloadType": "application/vnd.in-toto+json",
            "signatures": [{"sig": "AAAA"}],
        },
        "verificationMaterial": {"publicKey": {"hint": "ab"}},
        **outer,
    }
    return json.dumps(signature).encode()


def a_statement(method: str = "files", algorithm: str = "sha256", **fields: Any) -> dict[str, Any]:
    serialization = {"method": method, "hash_type": "sha256", "allow_symlinks": False}
    resource = {"name": "a", "algorithm": algorithm, "digest": "00"}
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "bundle", "digest": {"sha256": "00"}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {"serialization": serialization, "resources": [resource]},
        **fields,
    }


def test_a_statement_is_read_without_a_key() -> None:
    parsed = parse_statement(envelope(a_statement()), "m")
    assert (parsed.digests, parsed.key, parsed.root) == ({"a": "00"}, "ab", "00")


@given(
    st.dictionaries(st.sampled_from(["predicate", "predicateType", "subject", "_type"]), json_values),
    st.dictionaries(st.sampled_from(["serialization", "resources"]), json_values),
    st.dictionaries(st.sampled_from(["dsseEnvelope", "verificationMaterial", "mediaType"]), json_values),
)
def test_any_field_gives_a_statement_or_a_bundle_error(
    fields: dict[str, Any], predicate: dict[str, Any], outer: dict[str, Any]
) -> None:
    statement = a_statement()
    statement["predicate"] |= predicate
    try:
        parsed = parse_statement(envelope(statement | fields, **outer), "m")
    except BundleError as error:
        assert str(error).startswith("m: ")
    else:
        assert all(isinstance(name, str) for name in parsed.digests)


@pytest.mark.parametrize(
    "statement",
    [
        a_statement(method="shards"),
        a_statement(algorithm="blake3"),
        a_statement(predicateType="https://model_signing/Digests/v0.1"),
    ],
)
def test_other_ways_to_sign_are_told_apart(statement: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match="signs in another way than files by SHA-256"):
        parse_statement(envelope(statement), "m")

"""Keys and signatures as the build machine makes them, and what its commands say."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from edgeslm_export.bundle.sign import make_key, sign_bundle
from edgeslm_export.cli import main

from edgeslm.bundle.manifest import load_bundle
from edgeslm.bundle.signature import check_bundle
from edgeslm.errors import BundleError, ExportError
from tests.support.signers import Signer, write_files

pytestmark = pytest.mark.usefixtures("own_process")


def openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def test_a_key_pair(tmp_path: Path) -> None:
    public = make_key(tmp_path / "factory.key")
    assert public == tmp_path / "factory.pub"
    assert (tmp_path / "factory.key").stat().st_mode & 0o777 == 0o600
    assert b"PUBLIC KEY" in public.read_bytes()
    assert b"PRIVATE KEY" in (tmp_path / "factory.key").read_bytes()


@pytest.mark.parametrize("there", ["factory.key", "factory.pub"])
def test_a_key_is_never_overwritten(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("mine")
    with pytest.raises(ExportError, match=f"{there} exists already"):
        make_key(tmp_path / "factory.key")
    assert [file.name for file in tmp_path.iterdir()] == [there]


def test_a_key_that_would_be_its_own_public_one(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"needs another suffix than \.pub"):
        make_key(tmp_path / "factory.pub")


def test_a_key_in_a_folder_that_isnt_there(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="can't be written: No such file or directory"):
        make_key(tmp_path / "none" / "factory.key")


@pytest.mark.parametrize("curve", ["prime256v1", "secp384r1", "secp521r1"])
def test_keys_of_openssl(tmp_path: Path, curve: str) -> None:
    """The lines of docs/operations/signing.md."""
    key, public = tmp_path / "o.key", tmp_path / "o.pub"
    openssl("ecparam", "-name", curve, "-genkey", "-noout", "-out", key)
    openssl("ec", "-in", key, "-pubout", "-out", public)
    bundle = write_files(tmp_path / "b")
    sign_bundle(bundle, key)
    assert check_bundle(bundle, [public]).status == "signed"


def test_a_key_with_a_passphrase(tmp_path: Path) -> None:
    plain = Signer(tmp_path)
    key = tmp_path / "locked.key"
    openssl("ec", "-aes256", "-passout", "pass:secret", "-in", plain.key, "-out", key)
    bundle = write_files(tmp_path / "b")
    sign_bundle(bundle, key, b"secret")
    assert check_bundle(bundle, [plain.public]).status == "signed"
    with pytest.raises(ExportError, match="the passphrase is wrong"):
        sign_bundle(bundle, key, b"guess")
    with pytest.raises(ExportError, match="name a file with it in --passphrase-file"):
        sign_bundle(bundle, key)
    with pytest.raises(ExportError, match="the key has no passphrase; leave --passphrase-file out"):
        sign_bundle(bundle, plain.key, b"secret")
    assert check_bundle(bundle, [plain.public]).status == "signed", "what was there is still there"


def test_keys_that_cant_sign(tmp_path: Path) -> None:
    bundle = write_files(tmp_path / "b")
    openssl("genpkey", "-algorithm", "ed25519", "-out", tmp_path / "ed.key")
    openssl("ecparam", "-name", "secp256k1", "-genkey", "-noout", "-out", tmp_path / "k1.key")
    (tmp_path / "no.key").write_text("no key")
    for name in ("ed.key", "k1.key", "no.key"):
        with pytest.raises(ExportError, match=f"{name}: no private key .PEM. on the curve P-256"):
            sign_bundle(bundle, tmp_path / name)
    with pytest.raises(ExportError, match=r"none\.key: No such file or directory"):
        sign_bundle(bundle, tmp_path / "none.key")
    load_bundle(bundle)
    assert not (bundle / "model.sig").exists()


def test_a_damaged_bundle_is_not_signed(tmp_path: Path) -> None:
    bundle, signer = write_files(tmp_path / "b"), Signer(tmp_path)
    (bundle / "model.onnx").write_bytes((bundle / "model.onnx").read_bytes()[::-1])
    with pytest.raises(BundleError, match=r"model\.onnx: its SHA-256 differs"):
        sign_bundle(bundle, signer.key)
    assert not (bundle / "model.sig").exists()


def test_a_full_disk_leaves_the_earlier_signature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signer = Signer(tmp_path)
    bundle = signer.sign(write_files(tmp_path / "b"))
    before = (bundle / "model.sig").read_bytes()

    def fail(self: Path, data: bytes) -> int:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(ExportError, match=r"model\.sig can't be written: No space left"):
        sign_bundle(bundle, signer.key)
    assert (bundle / "model.sig").read_bytes() == before
    load_bundle(bundle)


# --- the commands ----------------------------------------------------------------------------------------


def test_make_a_key_sign_and_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, key = write_files(tmp_path / "b"), tmp_path / "factory.key"
    assert main.main(["sign", str(bundle), "--key", str(key), "--make-key"]) == 0
    told = capsys.readouterr().out
    assert f"{tmp_path / 'factory.pub'}: its public key, for signing.keys of the devices\n" in told
    assert f"{bundle / 'model.sig'}: signs {load_bundle(bundle).digest}\n" in told
    assert main.main(["verify", str(bundle), "--key", str(tmp_path / "factory.pub")]) == 0
    assert capsys.readouterr().out == f"{bundle}: whole, and signed by {tmp_path / 'factory.pub'}\n"
    (bundle / "report.json").write_bytes(b'{"kl": 0.0}')
    assert main.main(["verify", str(bundle), "--key", str(tmp_path / "factory.pub")]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"edgeslm-export: {bundle / 'report.json'}: ") and told.count("\n") == 1


def test_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, signer = write_files(tmp_path / "b"), Signer(tmp_path)

    def said(*arguments: str, status: int = 0) -> dict[str, Any]:
        assert main.main([*arguments, "--json"]) == status
        value: dict[str, Any] = json.loads(capsys.readouterr().out)
        return value

    signed = said("sign", str(bundle), "--key", str(signer.key))
    digest = load_bundle(bundle).digest
    assert signed == {"bundle": str(bundle), "digest": digest, "signature": str(bundle / "model.sig")}
    verified = said("verify", str(bundle), "--key", str(signer.public))
    assert (verified["status"], verified["bundle"], verified["key"]) == ("signed", digest, str(signer.public))
    (bundle / "model.sig").unlink()
    verified = said("verify", str(bundle), "--key", str(signer.public), status=1)
    assert verified["status"] == "unsigned" and "model.sig: missing" in verified["sentence"]


def test_no_key_is_made_for_what_is_no_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["sign", str(tmp_path), "--key", str(tmp_path / "a.key"), "--make-key"]) == 1
    assert "this folder is not a bundle" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_new_key_gets_the_passphrase(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, key, words = write_files(tmp_path / "b"), tmp_path / "factory.key", tmp_path / "words"
    words.write_text("open sesame\n")
    command = ["sign", str(bundle), "--key", str(key), "--passphrase-file", str(words)]
    assert main.main([*command, "--make-key"]) == 0
    assert b"ENCRYPTED" in key.read_bytes()
    assert main.main(command) == 0
    assert main.main(["verify", str(bundle), "--key", str(tmp_path / "factory.pub")]) == 0
    words.write_text("")
    assert (
        main.main(["sign", str(bundle), "--key", "new.key", "--make-key", "--passphrase-file", str(words)])
        == 1
    )
    assert not (tmp_path / "new.key").exists()


def test_a_key_is_not_made_inside_the_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = write_files(tmp_path / "b")
    before = sorted(bundle.iterdir())
    assert main.main(["sign", str(bundle), "--key", str(bundle / "a.key"), "--make-key"]) == 1
    assert "a key doesn't belong into the bundle" in capsys.readouterr().err
    assert sorted(bundle.iterdir()) == before


def test_a_passphrase_comes_from_a_file_or_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, key, bundle = Signer(tmp_path), tmp_path / "locked.key", write_files(tmp_path / "b")
    openssl("ec", "-aes256", "-passout", "pass:secret", "-in", plain.key, "-out", key)
    arguments = ["sign", str(bundle), "--key", str(key)]
    assert main.main(arguments) == 1
    assert "has a passphrase; name a file with it" in capsys.readouterr().err
    (tmp_path / "empty").touch()
    assert main.main([*arguments, "--passphrase-file", str(tmp_path / "empty")]) == 1
    assert "is empty; write the passphrase" in capsys.readouterr().err
    (tmp_path / "phrase").write_text("secret\n")
    assert main.main([*arguments, "--passphrase-file", str(tmp_path / "phrase")]) == 0
    (bundle / "model.sig").unlink()
    status, shown = at_a_terminal(arguments, f"passphrase of {key}: ", "secret\n")
    assert status == 0, shown
    assert "secret" not in shown
    assert check_bundle(bundle, [plain.public]).status == "signed"


def at_a_terminal(arguments: Sequence[str], prompt: str, answer: str) -> tuple[int, str]:
    """The command's exit status and what the terminal shows. ``answer`` is typed after ``prompt``."""
    user, terminal = pty.openpty()
    command = [sys.executable, "-m", "edgeslm_export", *arguments]
    child = subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
    )
    os.close(terminal)
    shown = ""
    # What is shown ends with an error of the device.
    with os.fdopen(user, "rb+", buffering=0) as stream, contextlib.suppress(OSError):
        while data := stream.read(4096):
            shown += data.decode()
            if answer and prompt in shown:
                stream.write(answer.encode())
                answer = ""
    return child.wait(), shown

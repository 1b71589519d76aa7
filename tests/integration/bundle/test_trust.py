"""Which bundles a node runs: what is asked of a signature, when, and what is remembered of it."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from edgeslm.bundle.signature import SignatureVerdict
from edgeslm.bundle.trust import RECORD, REMEMBERED, Trust, check_bundles, describe_signature
from edgeslm.config.sections import Signing
from edgeslm.errors import BundleError
from edgeslm.ipc.job import PYTHON
from tests.support.nodes import parent_of, write_bundle
from tests.support.signers import Signer, write_files, write_manifest

NO_CHILD = (sys.executable, "-c", "raise SystemExit('asked again')")
"""Stands in for the check where none may be needed."""
NO_LIBRARY = (
    sys.executable,
    "-c",
    "import runpy, sys; sys.modules['cryptography'] = None\n"
    "runpy.run_module(sys.argv[1], run_name='__main__', alter_sys=True)",
)


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return Signer(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def signed(tmp_path: Path, signer: Signer) -> Path:
    return signer.sign(write_files(tmp_path / "bundle"))


class Node:
    """Starts of a node that requires signatures of ``signers``."""

    def __init__(self, state: Path, *signers: Signer) -> None:
        self.state = state
        self.signing = Signing(require_signature=True, keys=tuple(signer.public for signer in signers))

    def start(self, *bundles: Path, command: Sequence[str] = PYTHON) -> Trust:
        trusting = Trust(self.signing, self.state, command=command)
        for bundle in bundles:
            trusting.load(bundle)
        asyncio.run(trusting.check())
        return trusting

    @property
    def record(self) -> Path:
        return self.state / RECORD


def test_nothing_is_asked_where_nothing_is_required(tmp_path: Path, signer: Signer) -> None:
    trusting = Trust(Signing(keys=(signer.public,)), tmp_path / "state", command=NO_CHILD)
    bundle = trusting.load(write_files(tmp_path / "bundle"))
    assert bundle.manifest.name == "tiny"
    asyncio.run(trusting.check())
    assert not (tmp_path / "state").exists()


def test_a_signature_is_checked_once(tmp_path: Path, signed: Path, signer: Signer) -> None:
    node = Node(tmp_path / "state", signer)
    node.start(signed)
    assert node.record.stat().st_mode & 0o777 == 0o600
    node.start(signed, command=NO_CHILD)
    moved = signed.rename(tmp_path / "elsewhere")
    node.start(moved, command=NO_CHILD)


def test_a_second_bundle_is_checked_alone(tmp_path: Path, signed: Path, signer: Signer) -> None:
    node = Node(tmp_path / "state", signer)
    node.start(signed)
    other = write_files(tmp_path / "other", name="other")
    with pytest.raises(BundleError, match=r"other/model\.sig: missing, so the bundle is not signed"):
        node.start(signed, other)
    signer.sign(other)
    node.start(signed, other)
    node.start(signed, other, command=NO_CHILD)


@pytest.mark.parametrize("change", ["signature", "manifest"])
def test_what_changes_is_checked_again(tmp_path: Path, signed: Path, signer: Signer, change: str) -> None:
    node = Node(tmp_path / "state", signer)
    node.start(signed)
    if change == "signature":
        (signed / "model.sig").unlink()
    else:
        write_manifest(signed, name="another")
    named = "model.sig: missing" if change == "signature" else "manifest.json: not the file that was signed"
    with pytest.raises(BundleError, match=f"{named}.*unsigned bundles are refused"):
        node.start(signed)


def test_a_key_that_is_no_longer_trusted(tmp_path: Path, signed: Path, signer: Signer) -> None:
    other = Signer(tmp_path, "other")
    Node(tmp_path / "state", signer, other).start(signed)
    with pytest.raises(BundleError, match=r"model\.sig: not made with the key .*other\.pub"):
        Node(tmp_path / "state", other).start(signed)
    signed_again = other.sign(signed)
    Node(tmp_path / "state", other).start(signed_again)


def test_all_that_is_refused_is_named(tmp_path: Path, signed: Path, signer: Signer) -> None:
    """Heads are bundles too: whatever is loaded is asked for."""
    one, two = write_files(tmp_path / "one", name="one"), write_files(tmp_path / "two", name="two")
    with pytest.raises(BundleError, match=r"one/model\.sig: missing.*; .*two/model\.sig: missing"):
        Node(tmp_path / "state", signer).start(signed, one, two)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 1}', "[" * 100_000, "\ud800"])
def test_a_record_that_cant_be_read_is_made_anew(
    tmp_path: Path, signed: Path, signer: Signer, content: str
) -> None:
    node = Node(tmp_path / "state", signer)
    node.state.mkdir()
    node.record.write_bytes(content.encode(errors="surrogatepass"))
    node.start(signed)
    node.start(signed, command=NO_CHILD)


def test_a_record_that_others_can_write_is_not_believed(
    tmp_path: Path, signed: Path, signer: Signer, caplog: pytest.LogCaptureFixture
) -> None:
    node = Node(tmp_path / "state", signer)
    node.start(signed)
    node.record.chmod(0o666)
    with pytest.raises(BundleError, match="asked again"):
        node.start(signed, command=NO_CHILD)
    assert "can be written by other users and is ignored" in caplog.text
    node.start(signed)
    node.start(signed, command=NO_CHILD)


def test_a_state_folder_that_cant_be_written(
    tmp_path: Path, signed: Path, signer: Signer, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state").write_text("a file")
    Node(tmp_path / "state", signer).start(signed)
    assert "signatures are checked at every start" in caplog.text


def test_a_record_does_not_grow_for_ever(tmp_path: Path, signed: Path, signer: Signer) -> None:
    node = Node(tmp_path / "state", signer)
    node.state.mkdir()
    node.record.write_text(json.dumps({str(number): "a mark" for number in range(REMEMBERED)}))
    node.start(signed)
    known = json.loads(node.record.read_text())
    assert len(known) == REMEMBERED and "0" not in known and "1" in known
    assert [file.name for file in node.state.iterdir()] == [RECORD], "no draft is left"


def test_a_bundle_that_is_replaced_while_it_is_checked(tmp_path: Path, signed: Path, signer: Signer) -> None:
    """By another that is signed as well: what was loaded before is still the old one."""
    node = Node(tmp_path / "state", signer)
    trusting = Trust(node.signing, node.state)
    trusting.load(signed)
    shutil.rmtree(signed)
    signer.sign(write_files(signed, name="newer"))
    with pytest.raises(BundleError, match="was replaced while it was checked"):
        asyncio.run(trusting.check())


def test_a_missing_key_file(tmp_path: Path, signed: Path) -> None:
    trusting = Trust(Signing(require_signature=True, keys=(tmp_path / "no.pub",)), tmp_path)
    trusting.load(signed)
    with pytest.raises(BundleError, match=r"signing\.keys: .*no\.pub: No such file"):
        asyncio.run(trusting.check())


def test_without_the_library_nothing_runs(tmp_path: Path, signed: Path, signer: Signer) -> None:
    node = Node(tmp_path / "state", signer)
    wanted = r"the package cryptography is missing: pip install '\.\[verify\]' in a clone"
    with pytest.raises(BundleError, match=wanted):
        node.start(signed, command=NO_LIBRARY)
    assert check_bundles([signed], [signer.public], command=NO_LIBRARY)[0].status == "unverifiable"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise SystemExit('what a pity')", r"ended unexpectedly \(exit status 1\) what a pity$"),
        ("import os; os.kill(os.getpid(), 11)", r"ended unexpectedly \(signal 11\)$"),
        ("import os; os.abort()", r"takes more memory than it may \(signal 6\)$"),
    ],
)
def test_a_check_that_ends_otherwise(signed: Path, signer: Signer, code: str, words: str) -> None:
    with pytest.raises(BundleError, match=rf"^the check of signatures failed: .*{words}"):
        check_bundles([signed], [signer.public], command=(sys.executable, "-c", code))


def test_a_check_that_takes_too_much_memory(signed: Path, signer: Signer) -> None:
    (signed / "model.sig").write_bytes(b"[" + b"[]," * 1_300_000 + b"[]]")
    (verdict,) = check_bundles([signed], [signer.public])
    assert verdict.sentence.startswith(f"{signed / 'model.sig'}: no signature of model signing")
    with pytest.raises(BundleError, match="the check of signatures failed: it takes more memory than it may"):
        check_bundles([signed], [signer.public], memory_bytes=50_000_000)


def hang(pid: Path) -> tuple[str, ...]:
    """A check that writes its process id and never ends."""
    code = (
        f"import os, pathlib, time; pathlib.Path({str(pid)!r}).write_text(str(os.getpid())); time.sleep(600)"
    )
    return (sys.executable, "-c", code)


def test_a_check_that_hangs_is_ended(tmp_path: Path, signed: Path, signer: Signer) -> None:
    with pytest.raises(BundleError, match="the check of signatures was ended after 0 s"):
        check_bundles([signed], [signer.public], command=hang(tmp_path / "pid"), timeout_s=0.05)


def test_a_node_that_is_stopped_meanwhile_waits_for_nothing(
    tmp_path: Path, signed: Path, signer: Signer
) -> None:
    pid = tmp_path / "pid"

    async def scene() -> None:
        signing = Signing(require_signature=True, keys=(signer.public,))
        trusting = Trust(signing, tmp_path, command=hang(pid))
        trusting.load(signed)
        checking = asyncio.create_task(trusting.check())
        while not pid.exists() or not pid.read_text():
            await asyncio.sleep(0.01)
        checking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await checking

    asyncio.run(scene())  # ends only once the thread that waits for the child has ended
    assert parent_of(int(pid.read_text())) is None


def test_several_bundles_get_a_verdict_each(tmp_path: Path, signed: Path, signer: Signer) -> None:
    verdicts = check_bundles([signed, write_files(tmp_path / "b"), tmp_path / "no"], [signer.public])
    assert [verdict.status for verdict in verdicts] == ["signed", "unsigned", "refused"]
    assert verdicts[2] == SignatureVerdict("refused", f"{tmp_path / 'no'}: there is no such folder")


def test_what_a_signature_says_of_itself(tmp_path: Path, signed: Path) -> None:
    assert describe_signature(signed).startswith("signed by a key with the SHA-256 ")
    assert describe_signature(signed).endswith("not verified, as no key was named")
    assert describe_signature(write_files(tmp_path / "b")) == "not signed"
    (signed / "model.sig").write_bytes(b"")
    assert describe_signature(signed).endswith(
        "model.sig: no signature of model signing; copy the bundle again, or sign it again"
    )


def test_files_of_the_working_directory_are_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cd BUNDLE; edgeslm inspect . --key ...` ran a base64.py of the bundle and believed what it said."""
    bundle = write_bundle(tmp_path / "small")
    for module in ("base64", "json", "edgeslm"):
        (tmp_path / f"{module}.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(tmp_path)
    (verdict,) = check_bundles([bundle], [Signer(tmp_path).public])
    assert verdict.status == "unsigned"

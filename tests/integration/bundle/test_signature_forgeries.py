"""The check on the device beside the library that signs: the same verdict on whatever is done to a bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edgeslm.bundle.manifest import MANIFEST, load_bundle
from edgeslm.bundle.signature import check_bundle
from tests.support.forgeries import FORGERIES, Scene
from tests.support.odd_signers import KEYS, REFUSED_HERE, STATEMENTS
from tests.support.signers import Signer, write_files

ALL = FORGERIES | STATEMENTS | KEYS


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return Signer(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, signer: Signer) -> Path:
    return signer.sign(write_files(tmp_path_factory.mktemp("signed") / "bundle"))


@pytest.fixture
def scene(tmp_path: Path, original: Path, signer: Signer) -> Scene:
    key = serialization.load_pem_private_key(signer.key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return Scene(Path(shutil.copytree(original, tmp_path / "bundle")), key, signer.public)


def library_accepts(scene: Scene) -> bool:
    """By model-signing's own check of signature and folder. That the folder is a bundle, and that nothing of
    it was left out, is asked beside it."""
    from model_signing import hashing, verifying

    try:
        bundle = load_bundle(scene.bundle)
        config = verifying.Config().use_elliptic_key_verifier(public_key=scene.public)
        config.set_hashing_config(
            hashing.Config().set_ignored_paths(paths=["model.sig"], ignore_git_paths=False)
        )
        config.verify(scene.bundle, scene.file)
    except Exception:  # of all kinds
        return False
    covered = {one["name"] for one in json.loads(scene.payload())["predicate"]["resources"]}
    return covered >= {MANIFEST, *(entry.path for entry in bundle.manifest.files)}


def content(scene: Scene) -> list[object]:
    files = [
        (path, path.is_symlink(), path.is_file() and path.read_bytes()) for path in scene.bundle.rglob("*")
    ]
    return [scene.public.read_bytes(), *sorted(files)]


@pytest.mark.parametrize("name", ALL)
def test_a_device_and_the_library_agree(scene: Scene, name: str) -> None:
    before = content(scene)
    ALL[name](scene)
    assert content(scene) != before
    accepted = library_accepts(scene)
    verdict = check_bundle(scene.bundle, [scene.public])
    assert (verdict.status == "signed") == accepted, verdict.sentence
    assert accepted or (verdict.sentence.isprintable() and verdict.sentence)


@pytest.mark.parametrize("name", REFUSED_HERE)
def test_what_a_device_refuses_though_the_library_takes_it(scene: Scene, name: str) -> None:
    REFUSED_HERE[name](scene)
    assert library_accepts(scene)
    assert check_bundle(scene.bundle, [scene.public]).status == "refused"


def test_some_two_hundred_forgeries_and_more() -> None:
    assert len(FORGERIES) >= 200 and len(ALL) == len(FORGERIES) + len(STATEMENTS) + len(KEYS)

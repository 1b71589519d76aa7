"""``edgeslm models pull``: hub id to bundle on this device, from a hub on this machine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edgeslm.bundle.manifest import load_bundle, verify_bundle
from edgeslm.cli import main
from edgeslm.engine.prepack.golden import load_golden
from edgeslm.update.pull import HubId
from tests.support.model_hub import REVISION, ModelHub
from tests.support.nodes import fake_configuration, write_configuration

pytestmark = pytest.mark.export

WANTED = "maker/tiny-onnx:cpu/cpu-int4"


def test_a_pulled_folder_is_a_bundle_of_the_store(
    ready: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Broken off in the weights, then resumed; a second pull finds the same bundle. Gemma 2 is amended."""
    shutil.copytree(ready / "gemma2", tmp_path / "hub" / "maker" / "tiny-onnx" / "cpu" / "cpu-int4")
    (tmp_path / "state").mkdir()
    config = write_configuration(tmp_path, fake_configuration("mqtt://broker", tmp_path))
    with ModelHub(tmp_path / "hub") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", "secret")
        monkeypatch.setattr("edgeslm.update.downloads.PAUSES_S", ())
        hub.cut_after = 20_000
        assert main.main(["models", "pull", str(config), WANTED]) == 1
        assert "what came is kept" in capsys.readouterr().err
        hub.cut_after = None
        first = len(hub.requests)
        assert main.main(["models", "pull", str(config), WANTED, "--json"]) == 0
        said = json.loads(capsys.readouterr().out)
        resumed = [wanted for path, wanted in hub.requests[first:] if path.endswith(".onnx")]
        assert resumed == ["bytes=20000-"]
        assert not any("config" in path for path, _ in hub.requests[first:])  # kept, and checked
        assert {token for path, token in zip(hub.paths, hub.tokens, strict=True) if "/store/" in path} == {
            None
        }
        assert "Bearer secret" in hub.tokens

        assert main.main(["models", "pull", str(config), WANTED, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["digest"] == said["digest"]
    bundle = load_bundle(Path(said["path"]), said["digest"])
    verify_bundle(bundle)
    assert load_golden(bundle) is not None
    assert bundle.manifest.source.revision == REVISION
    assert bundle.manifest.created == "2025-03-01T12:00:00Z"
    assert said["changed"] == ["layers with an attention window have a cache of all tokens"]
    store = tmp_path / "state" / "updates"
    assert [folder.name for folder in store.iterdir()] == [bundle.path.name]
    assert HubId.parse(WANTED).inside == "cpu/cpu-int4"

"""A hub id: what is asked first, what is said, and each refusal's sentence. The hub itself is faked."""

from __future__ import annotations

import datetime
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from edgeslm_export.jobs.resources import LIBRARIES_BYTES
from edgeslm_export.sources.hub import resolve_source

from edgeslm.errors import ExportError


class FakeHub:
    """One model's files in a folder; ``downloads`` notes what was asked for."""

    def __init__(self, remote: Path, local: Path) -> None:
        self.remote, self.local = remote, local
        self.downloads: list[list[str]] = []

    def model_info(self, api: object, repo: str, *, revision: str | None, files_metadata: bool) -> Any:
        files = [
            SimpleNamespace(rfilename=file.name, size=file.stat().st_size)
            for file in sorted(self.remote.iterdir())
        ]
        return SimpleNamespace(
            sha=revision or "abc123",
            siblings=files,
            card_data=SimpleNamespace(license="mit"),
            last_modified=datetime.datetime(2025, 3, 1, 12, tzinfo=datetime.UTC),
        )

    def snapshot_download(self, repo: str, *, revision: str, allow_patterns: list[str]) -> str:
        self.downloads.append(allow_patterns)
        for name in allow_patterns:
            if (self.remote / name).is_file():
                shutil.copyfile(self.remote / name, self.local / name)
        return str(self.local)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Path) -> FakeHub:
    remote, local = tmp_path / "remote", tmp_path / "local"
    shutil.copytree(tiny / "plain", remote)
    (remote / "training_args.bin").write_bytes(b"not wanted")
    local.mkdir()
    fake = FakeHub(remote, local)
    monkeypatch.setattr(
        huggingface_hub.HfApi, "model_info", lambda api, repo, **more: fake.model_info(api, repo, **more)
    )
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return fake


def test_a_model_is_described_then_downloaded(hub: FakeHub) -> None:
    said: list[str] = []
    origin = resolve_source("owner/tiny@v1", "decoder", said.append)
    assert origin.source.id == "owner/tiny"
    assert origin.source.revision == "v1"
    assert origin.source.licence == "mit"
    assert origin.revised == "2025-03-01T12:00:00Z"
    assert len(said) == 1
    assert said[0].startswith("Downloading owner/tiny@v1: ")
    small, large = hub.downloads
    assert "model.safetensors" not in small
    assert "model.safetensors" in large
    assert "training_args.bin" not in large


def test_a_gliner_comes_without_config_json(hub: FakeHub) -> None:
    (hub.remote / "config.json").rename(hub.remote / "gliner_config.json")
    (hub.remote / "tokenizer.json").rename(hub.remote / "spm.model")
    origin = resolve_source("owner/spans", "encoder", lambda said: None)
    assert origin.architecture == "GLiNER"
    assert {"gliner_config.json", "spm.model"} <= set(hub.downloads[1])
    with pytest.raises(ExportError, match=r"has no config\.json"):
        resolve_source("owner/spans", "decoder", lambda said: None)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda remote: (remote / "tokenizer.json").unlink(), "has no tokenizer"),
        (lambda remote: (remote / "config.json").unlink(), "has no config.json"),
        (lambda remote: (remote / "chat_template.jinja").unlink(), "has no chat template"),
        (
            lambda remote: (remote / "config.json").write_text('{"architectures": ["T5Model"]}'),
            "architecture T5Model",
        ),
        (
            lambda remote: (remote / "model.safetensors").rename(remote / "m-q4_0.gguf"),
            "but GGUF files: download m-q4_0.gguf",
        ),
    ],
)
def test_a_bad_model_is_refused_before_its_weights_come(
    hub: FakeHub, spoil: Callable[[Path], object], sentence: str
) -> None:
    spoil(hub.remote)
    with pytest.raises(ExportError, match=sentence) as caught:
        resolve_source("owner/tiny", "decoder", lambda said: None)
    assert "\n" not in str(caught.value)
    assert not (hub.local / "model.safetensors").exists()


def test_too_little_memory_is_told_before_the_download(hub: FakeHub, memory: Callable[[int], None]) -> None:
    memory(1000)
    with pytest.raises(ExportError, match="of memory available"):
        resolve_source("owner/tiny", "decoder", lambda said: None)
    assert len(hub.downloads) == 1


def test_what_the_recipe_needs_counts_before_the_download(
    hub: FakeHub, memory: Callable[[int], None]
) -> None:
    """Mistral-7B was downloaded, 14.5 GB, to be refused for lack of memory."""
    weights = (hub.remote / "model.safetensors").stat().st_size // 4
    memory(LIBRARIES_BYTES + weights * 4)
    with pytest.raises(ExportError, match="use a larger machine"):
        resolve_source("owner/tiny", "decoder", lambda said: None, memory_a_weight=5)
    assert len(hub.downloads) == 1
    resolve_source("owner/tiny", "decoder", lambda said: None, memory_a_weight=3)
    assert "model.safetensors" in hub.downloads[-1]


@pytest.mark.parametrize(
    "src", ["./none", "/none/at/all", "none.gguf", "a b", "a/b/c", "~/nothing-of-this-name"]
)
def test_a_path_that_is_not_there(src: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ExportError, match=r"doesn't exist; name a checkpoint folder, a \.gguf file or a hub id"
    ):
        resolve_source(src, "decoder", lambda said: None)


@pytest.mark.parametrize(
    "environment",
    [{"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}],
    ids=["unreachable", "offline"],
)
def test_a_hub_id_without_a_network(
    environment: dict[str, str], tmp_path: Path, run: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = run("model", "owner/tiny", tmp_path / "out", HF_HOME=str(tmp_path / "hub"), **environment)
    assert done.returncode == 1
    assert "is not a local path and the hub can't be reached" in done.stderr
    assert done.stderr.count("\n") == 1
    assert json.dumps(done.stdout) == '""'
    assert not (tmp_path / "out").exists()

"""Home Assistant's own llama_cpp and ollama integrations with a node: real Home Assistant, real models.

A small head is trained for the test, as a user would train one for a home, and answers in place of a decoder.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.apis import TOKENS
from tests.support.apps import App
from tests.support.brokers import Mosquitto, free_port
from tests.support.nodes import BASE, NodeProcess
from tests.support.paths import ROOT

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.export,
    pytest.mark.skipif(os.geteuid() != 0, reason="a Debian root needs root"),
    pytest.mark.timeout(1500),
]

NAMES = ("kitchen light", "bedroom light", "desk lamp", "ceiling lamp", "reading light", "fan", "heater")
AREAS = ("kitchen", "bedroom", "office", "hallway", "garage")
HOME_ASSISTANT = ROOT / "firmware-config/home-assistant"


class Home:
    """A running Home Assistant in a Debian root."""

    def __init__(self, root: Path, words: Path) -> None:
        script = root / "srv/assist_home.py"
        script.write_text((ROOT / "tests/support/assist_home.py").read_text())
        self._words = words.open("w+")
        self._process = subprocess.Popen(
            ["chroot", str(root), "/ha/bin/python", "/srv/assist_home.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            text=True,
        )

    def ask(self, order: str, **arguments: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps({"order": order, **arguments}), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        self._words.seek(0)
        assert line, self._words.read()
        told = json.loads(line)
        assert not (isinstance(told, dict) and "failed" in told), (told, self._words.read())
        return told

    def stop(self) -> None:
        self._process.communicate(timeout=60)
        self._words.close()


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head that knows two intents, trained on some 150 sentences."""
    folder = tmp_path_factory.mktemp("head")
    said: list[str | Path] = [
        sys.executable,
        HOME_ASSISTANT / "sentences.py",
        "--names",
        *NAMES,
        "--areas",
        *AREAS,
    ]
    with (folder / "sentences.jsonl").open("w") as rows:
        subprocess.run(said, stdout=rows, check=True)
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "edgeslm_export",
        "tune",
        HOME_ASSISTANT / "household.yaml",
    ]
    done = subprocess.run(
        [*command, "sentences.jsonl", "household", "--method", "encoder"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder / "household"


@pytest.fixture(scope="module")
def node(head: Path, starter: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a node's API."""
    folder = tmp_path_factory.mktemp("node")
    (folder / "tokens").write_text(f"home {TOKENS['app']}\n")
    broker, port = Mosquitto(folder), free_port()
    broker.start()
    configuration = {
        "node": "hall",
        "broker": {"url": broker.url},
        "models": {"small": {"bundle": str(starter / "smollm2-135m-int4")}},
        "tasks": {
            "assist": {
                "kind": "generate",
                "learned": str(head),
                "stages": ["learned", "small"],
                "threshold": 0.5,
                "reply": "Done.",
            }
        },
        "api": {"listen": f"127.0.0.1:{port}", "tokens": str(folder / "tokens")},
        "prepare": "never",
        "state_dir": str(folder / "state"),
    }
    with App(broker.port, f"{BASE}/#") as app, NodeProcess(folder, configuration) as process:
        process.wait_online(app)
        yield f"http://127.0.0.1:{port}"
    broker.stop()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    environment = {**os.environ, "UV": str(Path(sys.executable).with_name("uv"))}
    done = subprocess.run(
        [ROOT / "scripts/home-assistant-root"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    home = Home(Path(done.stdout.strip()), tmp_path_factory.mktemp("home") / "words.txt")
    version = tuple(int(part) for part in home.ask("version").split(".")[:2])
    assert version >= (2026, 7), version
    yield home
    home.stop()


def test_a_sentence_changes_a_light_through_llama_cpp(home: Home, node: str) -> None:
    login = {"base_url": f"{node}/v1", "api_key": TOKENS["app"]}
    done = home.ask("flow", domain="llama_cpp", steps=[login, {"chat_model": "assist"}])
    assert (done["type"], done["errors"]) == ("create_entry", None)
    assert "conversation.assist" in home.ask("entities")
    for sentence, entity, state in (
        ("Turn on the kitchen light", "light.kitchen_light", "on"),
        ("switch the lights on in the bedroom", "light.bedroom_light", "on"),
        ("Turn the kitchen light off", "light.kitchen_light", "off"),
    ):
        told = home.ask("say", agent="conversation.assist", text=sentence)
        print(sentence, told)
        assert (told["lights"][entity], told["speech"]) == (state, "Done."), told
        assert told["seconds"] < 5, told  # without a decoder; 0.06 s on an idle machine


def test_a_wrong_key_is_told(home: Home, node: str) -> None:
    login = {"base_url": f"{node}/v1?", "api_key": "a-wrong-key-0123456789"}
    done = home.ask("flow", domain="llama_cpp", steps=[login])
    assert done["errors"] == {"base": "invalid_auth"}


def test_structured_data_by_an_ai_task_through_ollama(home: Home, node: str) -> None:
    done = home.ask("flow", domain="ollama", steps=[{"url": node, "api_key": TOKENS["app"]}])
    assert (done["type"], done["errors"]) == ("create_entry", None)
    options = {"name": "Small", "model": "model:small", "num_ctx": 2048, "max_history": 0, "keep_alive": -1}
    done = home.ask("subentry", domain="ollama", kind="ai_task_data", given=options)
    assert (done["type"], done["errors"]) == ("create_entry", None), done
    structure = {"city": {"selector": {"text": {}}, "required": True}}
    told = home.ask("task", entity="ai_task.small", instructions="Name a city of Italy.", structure=structure)
    print(told)
    assert isinstance(told["data"]["city"], str)


def test_the_page_has_the_task_that_is_tested() -> None:
    text = (ROOT / "docs/getting-started/home-assistant.md").read_text("utf-8")
    parts = [yaml.safe_load(block) for block in re.findall(r"(?ms)^```yaml\n(.*?)^```", text)]
    (page,) = [part for part in parts if "assist" in part.get("tasks", {})]
    assert page["tasks"]["assist"]["stages"] == ["learned", "small"]
    assert page["tasks"]["assist"]["reply"] == "Done."

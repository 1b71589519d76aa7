"""docs/guides/mcp.md: its program and its client configuration, against a node with fake engines."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import yaml

from edgeslm.api.tools import ARGUMENTS
from edgeslm.config.loader import parse_config
from edgeslm.knowledge.index.browse import MOST_CHARACTERS, MOST_LISTED
from tests.support.apis import api_node, client_of
from tests.support.brokers import Mosquitto
from tests.support.paths import ROOT

TEXT = (ROOT / "docs/guides/mcp.md").read_text("utf-8")
BASE = {"node": "n", "broker": {"url": "mqtt://localhost"}, "models": {"small": {"bundle": "/b"}}}
TASKS = {name: {"kind": "embed", "model": "small"} for name in ("triage", "fields")}


def block(kind: str) -> str:
    (found,) = re.findall(rf"(?ms)^```{kind}\n(.*?)^```", TEXT)
    return str(found)


def test_its_section_is_valid() -> None:
    config = parse_config(yaml.safe_dump({**BASE, "tasks": TASKS, **yaml.safe_load(block("yaml"))}))
    assert config.api is not None and config.api.mcp == ("triage", "fields")


def test_its_program_and_its_client_run(broker: Mosquitto, tmp_path: Path) -> None:
    with api_node(tmp_path, broker.url, api={"mcp": True}) as node:
        api = client_of(node)
        program = block("python").replace("http://127.0.0.1:8481", api.url)
        done = subprocess.run(
            [sys.executable, "-c", f"TOKEN = {api.token!r}\n{program}"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert "'triage', 'strict'" in done.stdout and "normal {'normal': 0.9" in done.stdout
        client = json.loads(block("json"))
        (server,) = client["servers"].values()
        (token,) = client["inputs"]
        header = server["headers"]["Authorization"].replace(f"${{input:{token['id']}}}", str(api.token))
        request = urllib.request.Request(
            server["url"].replace("http://127.0.0.1:8481", api.url),
            json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).encode(),
            {
                "Authorization": header,
                "Content-Type": "application/json",
                "Accept": "application/json, text/event-stream",
            },
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert b'"triage"' in answer.read()


def test_its_figures_are_those_of_the_code() -> None:
    assert f"the {MOST_LISTED} that were added last" in TEXT
    assert f"up to {MOST_CHARACTERS:,} characters" in TEXT
    for name in ARGUMENTS:
        assert f"`{name}`" in TEXT

"""The README: its tree names every module, its examples are real."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from edgeslm.bus.protocol import parse_result
from edgeslm.config import parse_config

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("folder", ["edgeslm", "export", "benchmarks"])
def test_the_tree_names_every_module(folder: str) -> None:
    tree = README.partition("## The tree")[2]
    for file in (ROOT / folder).rglob("*.py"):
        name = f"{file.parent.name}/" if file.name == "__init__.py" else file.name
        assert re.search(rf"^ *{re.escape(name)} ", tree, re.MULTILINE), (
            f"{file.relative_to(ROOT)} is missing"
        )


def test_the_tree_names_no_module_that_is_gone() -> None:
    files = {
        file.name for folder in ("edgeslm", "export", "benchmarks") for file in (ROOT / folder).rglob("*.py")
    }
    for name in re.findall(r"^ +(\w+\.py) ", README.partition("## The tree")[2], re.MULTILINE):
        assert name in files


def test_the_configuration_parses() -> None:
    whole, of_documents, of_a_pool = blocks("yaml")
    config = parse_config(whole)
    assert config.node == "press-hall-4"
    assert config.routes[0].task == "triage"
    config = parse_config("node: hall\nbroker: {url: mqtt://localhost}\n" + of_documents)
    assert config.routes[0].remember == "log"
    config = parse_config(f"{whole}{of_a_pool}")
    assert config.pool is not None and config.pool.by == "dispatcher"


def test_the_result_is_one() -> None:
    (text,) = blocks("json")
    result = parse_result(text.encode())
    assert result.status == "ok"
    assert result.result == json.loads(text)["result"]

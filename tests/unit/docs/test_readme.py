"""The README: its examples are real."""

from __future__ import annotations

import json
import re

from edgeslm.config.loader import parse_config
from edgeslm.protocol.codec import parse_result
from tests.support.paths import ROOT

README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_it_stays_short() -> None:
    assert len(README.encode()) <= 8_192


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

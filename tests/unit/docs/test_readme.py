"""The README: its examples are real, and its picture reads well everywhere."""

from __future__ import annotations

import json
import re
from typing import get_args
from xml.etree import ElementTree

from edgeslm.config.loader import parse_config
from edgeslm.config.task_kinds import Kind
from edgeslm.protocol.codec import parse_result
from tests.support.paths import ROOT

README = (ROOT / "README.md").read_text("utf-8")
PICTURE = ROOT / "docs/images/message.svg"


def block(language: str) -> str:
    (text,) = re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    assert isinstance(text, str)
    return text


def test_it_stays_short() -> None:
    assert len(README.encode()) <= 8_192


def test_the_configuration_parses() -> None:
    config = parse_config(block("yaml"))
    assert config.node == "press-hall-4"
    assert config.routes[0].task == "triage"
    assert len(block("yaml").splitlines()) <= 12


def test_the_result_is_one() -> None:
    text = block("json")
    result = parse_result(text.encode())
    assert result.status == "ok"
    assert result.result == json.loads(text)["result"]


def test_each_kind_of_task_has_its_row() -> None:
    assert re.findall(r"(?m)^\| `(\w+)` \|", README) == list(get_args(Kind))


def test_the_picture_is_readable_on_a_phone_and_in_the_dark() -> None:
    """At 328 of its 400 units, as on a phone of 360 px, its letters have 12 px or more."""
    text = PICTURE.read_text("utf-8")
    root = ElementTree.fromstring(text)
    assert root.get("viewBox", "").split()[:3] == ["0", "0", "400"]
    sizes = [float(size) for size in re.findall(r"font-size: ([\d.]+)px", text)]
    assert min(sizes) * 328 / 400 > 11.8
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r"@import|@font-face|url\((?!#)|href=|<image|<script", text)
    assert f"](docs/images/{PICTURE.name})" in README

"""docs/guides/apps.md shows the tested examples as they are, and says of the client what is so."""

from __future__ import annotations

import re

import edgeslm.client
from edgeslm.client import Client
from edgeslm.config.sections import Limits
from edgeslm.errors import REQUEST_ERRORS
from tests.support.paths import ROOT

DOCS = ROOT / "docs"
GUIDES = DOCS / "guides"
PAGE = (GUIDES / "apps.md").read_text("utf-8")
EXAMPLES = DOCS / "examples"


def test_what_it_shows_are_the_tested_files() -> None:
    shown = re.findall(r"^```\w+ (examples/\S+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert {file for file, _ in shown} == {
        f"examples/{name}" for name in ("ask.mjs", "ask.py", "mosquitto.sh")
    }
    for file, text in shown:
        assert text == (DOCS / file).read_text("utf-8"), f"apps.md shows another {file}"


def test_every_example_is_named_and_run_by_a_test() -> None:
    tests = "".join(file.read_text("utf-8") for file in (ROOT / "tests/system/apps").glob("test_*.py"))
    for file in EXAMPLES.rglob("*"):
        if file.is_file() and file.suffix != ".yaml":  # a dispatcher's is no app: guides/pools.md shows it
            assert file.name == "package.json" or f"(../{file.relative_to(DOCS)})" in PAGE, file
            assert file.name in tests or file.suffix in tests, file


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        path, _, heading = target.partition("#")
        assert not path or (GUIDES / path).exists(), target
        if heading and not path:
            headings = re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}


def test_each_error_has_its_row_and_its_exception() -> None:
    rows = [row.split(" | ") for row in PAGE.splitlines() if re.match(r"\| `\w+`.*\| `[A-Z]\w+`", row)]
    explained: dict[str, str] = {}
    for codes, classes, *_ in rows:
        explained |= dict(zip(re.findall(r"`(\w+)`", codes), re.findall(r"`(\w+)`", classes), strict=True))
    assert explained == {code: cls.__name__ for code, cls in REQUEST_ERRORS.items()}


def test_the_calls_it_names_exist() -> None:
    for name in re.findall(r"client\.(\w+)\(", PAGE):
        assert hasattr(Client, name)
    for name in re.findall(r"`([A-Z]\w+Error|TimedOut|TooLarge|InvalidRequest|Options)\b", PAGE):
        assert name in edgeslm.client.__all__


def test_the_size_it_names_is_the_default() -> None:
    assert "`limits.packet_bytes` of the node (1 MiB)" in PAGE and Limits().packet_bytes == 2**20

"""OpenAI's and Ollama's own clients against a node with real models, and the table of what they can do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.benchmarks.scripts import load_scripts
from tests.support.paths import ROOT
from tests.support.readers import make_reader

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ROWS = re.findall(
    r"(?m)^\| (?!feature)([^|-][^|]*) \| (yes|no)", (ROOT / "docs/reference/http.md").read_text()
)
CHECKS = load_scripts("assist_calls", "dialect_checks")
FEATURES = CHECKS["dialect_checks"].FEATURES


@pytest.fixture(scope="module")
def site(starter: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    calls, checks = CHECKS["assist_calls"], CHECKS["dialect_checks"]
    folder = tmp_path_factory.mktemp("dialects")
    models = {
        "small": {"bundle": str(starter / "smollm2-135m-int4")},
        "encoder": {"bundle": str(starter / "minilm-l6-int8")},
        "reader": {"bundle": str(make_reader(starter / "minilm-l6-int8", folder / "reader"))},
    }
    labels = ["normal", "warning", "critical"]
    tasks = {"triage": {"kind": "classify", "model": "small", "labels": labels}}
    with calls.edge_node(folder, {"models": models, "tasks": tasks}) as port:
        url = f"http://127.0.0.1:{port}"
        site = checks.Site(url, calls.TOKEN, "model:small", "model:encoder", "triage", reader="model:reader")
        with site.opened:
            yield site


def test_the_table_has_all_features() -> None:
    assert [name for name, _ in ROWS] == list(FEATURES)


@pytest.mark.parametrize(("feature", "supported"), ROWS)
def test_what_the_table_says(site: Any, feature: str, supported: str) -> None:
    if supported == "yes":
        assert (FEATURES[feature](site) or "yes").startswith("yes")
        return
    with pytest.raises(Exception):  # noqa: B017  clients raise many kinds
        FEATURES[feature](site)

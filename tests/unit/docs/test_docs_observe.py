"""The page on monitoring: its configurations parse, attributes and entities are described."""

from __future__ import annotations

import re

import pytest
import yaml

from edgeslm.config.loader import parse_config
from edgeslm.telemetry.discovery import announcements
from tests.support.config_texts import SMALL
from tests.support.paths import ROOT
from tests.unit.telemetry.test_tracing import FakeProcessor, answered, make_tracer, request

DOCS = ROOT / "docs"
PAGE = (DOCS / "operations/monitoring.md").read_text("utf-8")


@pytest.mark.parametrize("block", re.findall(r"(?ms)^```yaml\n(.*?)^```", PAGE))
def test_each_configuration_parses(block: str) -> None:
    parse_config(SMALL + block)


def test_prometheus_is_told_the_address_that_is_listened_on() -> None:
    found = re.search(r"(?ms)^```yaml prometheus\n(.*?)^```", PAGE)
    assert found
    (job,) = yaml.safe_load(found[1])["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["127.0.0.1:9464"]}]
    assert parse_config(SMALL + 'metrics: {listen: "9464"}').metrics.listen == "127.0.0.1:9464"


def test_each_attribute_of_a_span_is_described() -> None:
    processor = FakeProcessor()
    tracer = make_tracer(processor)
    tracer.record(request(tracer.trace(None)), answered())
    for span in processor.spans:
        assert all(f"`{name}`" in PAGE for name in span.attributes or {})


def test_each_entity_is_described() -> None:
    config = parse_config(SMALL + "discovery: {prefix: homeassistant}")
    names = {one["name"] for one in announcements(config, {"triage": "classify"}, {}).values()}
    assert "Task triage" in names
    page = (DOCS / "reference/home-assistant.md").read_text("utf-8")
    assert all(f"`{name}`" in page for name in names - {"Task triage"})

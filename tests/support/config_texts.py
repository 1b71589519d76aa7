"""Small configurations for tests of the configuration file, and a function that lists their problems."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from edgeslm.config.loader import parse_config
from edgeslm.errors import ConfigError

SMALL = """\
node: press-hall-4
broker: {url: mqtt://localhost}
models:
  small: {bundle: /srv/small}
tasks:
  triage: {kind: classify, model: small, labels: [calm, urgent]}
"""


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "c.yaml")
    return caught.value.problems


def with_task(**task: Any) -> str:
    data = yaml.safe_load(SMALL)
    data["tasks"]["triage"] = task
    return yaml.safe_dump(data)


def with_routes(*routes: dict[str, Any], **top: Any) -> str:
    data = yaml.safe_load(SMALL)
    return yaml.safe_dump({**data, **top, "routes": [{"task": "triage", **route} for route in routes]})

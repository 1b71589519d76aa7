"""Fixtures of the system tests: real brokers, the starter models, the installed programs."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.brokers import broker as broker
from tests.support.brokers import make_broker as make_broker
from tests.support.installed import installed as installed
from tests.support.nodes import NodeProcess
from tests.support.sandboxed import Sandbox
from tests.support.starter import starter as starter


@pytest.fixture(scope="session", autouse=True)
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """With EDGESLM_TEST_SANDBOX (``scripts/test --sandbox``) nodes are services of the shipped unit."""
    if not os.environ.get("EDGESLM_TEST_SANDBOX"):
        yield
        return
    with Sandbox(tmp_path_factory.mktemp("sandbox"), tmp_path_factory.getbasetemp()) as sandbox:
        NodeProcess.launch = staticmethod(sandbox.launch)
        yield

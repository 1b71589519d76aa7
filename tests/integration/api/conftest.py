from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.apis import ApiClient, api_node, client_of
from tests.support.brokers import Mosquitto
from tests.support.nodes import Node


@pytest.fixture(scope="module")
def node(module_broker: Mosquitto, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """One for all tests of a module."""
    with api_node(tmp_path_factory.mktemp("node"), module_broker.url) as node:
        yield node


@pytest.fixture
def api(node: Node) -> ApiClient:
    return client_of(node)

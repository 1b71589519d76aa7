"""Fixtures for engine tests: the real small models, each loaded once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeslm.engine.worker.decoder import Decoder
from edgeslm.engine.worker.encoder import Encoder
from edgeslm.engine.worker.loading import PLAIN


@pytest.fixture(scope="session")
def loaded_decoder(starter: Path) -> Iterator[Decoder]:
    decoder = Decoder(starter / "smollm2-135m-int4", 2)
    yield decoder
    decoder.close()


@pytest.fixture
def decoder(loaded_decoder: Decoder) -> Decoder:
    """The starter decoder with an empty cache."""
    loaded_decoder.forget()
    return loaded_decoder


@pytest.fixture(scope="session")
def model(starter: Path) -> Any:
    """The starter decoder as the runtime's model."""
    return PLAIN.load(starter / "smollm2-135m-int4", "", 2)


@pytest.fixture(scope="session")
def encoder(starter: Path) -> Encoder:
    return Encoder(starter / "minilm-l6-int8", 2)

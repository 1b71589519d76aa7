"""An encoder bundle as a function: its engine process runs from the first text to the end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgeslm.cli.embedding import Embedding
from edgeslm.engine.host.process import EngineCrashed
from edgeslm.errors import BundleError
from tests.support.nodes import fake_engines as fake_engines
from tests.support.nodes import parent_of, write_bundle


@pytest.fixture
def encoder(tmp_path: Path, fake_engines: None) -> Path:
    return write_bundle(tmp_path / "encoder", "encoder")


def children() -> int:
    return sum(parent_of(int(entry.name)) == os.getpid() for entry in Path("/proc").glob("[0-9]*"))


def test_texts_become_vectors(encoder: Path) -> None:
    before = children()
    with Embedding(encoder) as embed:
        assert children() == before, "no text yet"
        assert [pytest.approx(vector) for vector in embed(["one", "two"])] == [(0.6, 0.8), (0.6, 0.8)]
        assert [pytest.approx(vector) for vector in embed(["three"])] == [(0.6, 0.8)]
        assert children() == before + 1
    assert children() == before


def test_an_engine_that_ends_is_an_error(encoder: Path) -> None:
    with Embedding(encoder) as embed, pytest.raises(EngineCrashed):
        embed(["crash"])


def test_what_is_no_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="of kind decoder, where an encoder is needed"):
        Embedding(write_bundle(tmp_path / "decoder"))
    with pytest.raises(BundleError, match="no such folder"):
        Embedding(tmp_path / "missing")


@pytest.mark.e2e
def test_the_real_encoder_reads_the_head_of_a_long_text(starter: Path) -> None:
    with Embedding(starter / "minilm-l6-int8") as embed:
        (short,), (long,) = embed(["word " * 200]), embed(["word " * 5000])
    assert len(short) == len(long) == 384

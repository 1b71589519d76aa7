"""What crosses the command line to the process of the collections."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeslm.knowledge.index.collection import EncoderTag
from edgeslm.knowledge.index.queries import Shelf, encode_shelf, parse_shelf


@pytest.mark.parametrize(
    "shelf",
    [
        Shelf("manuals", Path("/srv/kb.sqlite")),
        Shelf("log", Path("a b"), EncoderTag("sha256:1", "/b"), (Path("/x y"), Path("ä")), writes=True),
        Shelf("manuals", Path("kb"), watch=(Path("/x"),)),
    ],
)
def test_a_shelf_comes_out_as_it_went_in(shelf: Shelf) -> None:
    assert parse_shelf(encode_shelf(shelf)) == shelf


def test_a_collection_is_kept_where_a_node_writes_to_it() -> None:
    assert not Shelf("manuals", Path("kb")).is_kept
    assert Shelf("manuals", Path("kb"), watch=(Path("x"),)).is_kept
    assert Shelf("manuals", Path("kb"), writes=True).is_kept

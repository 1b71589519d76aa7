"""What crosses the command line to the process of the collections."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeslm.knowledge.index.queries import CollectionSpec, EncoderTag, encode_spec, parse_spec


@pytest.mark.parametrize(
    "spec",
    [
        CollectionSpec("manuals", Path("/srv/kb.sqlite")),
        CollectionSpec(
            "log", Path("a b"), EncoderTag("sha256:1", "/b"), (Path("/x y"), Path("ä")), writes=True
        ),
        CollectionSpec("manuals", Path("kb"), watch=(Path("/x"),)),
        CollectionSpec("manuals", Path("kb"), language="de"),
    ],
)
def test_a_spec_comes_out_as_it_went_in(spec: CollectionSpec) -> None:
    assert parse_spec(encode_spec(spec)) == spec


def test_a_collection_is_kept_where_a_node_writes_to_it() -> None:
    assert not CollectionSpec("manuals", Path("kb")).is_kept
    assert CollectionSpec("manuals", Path("kb"), watch=(Path("x"),)).is_kept
    assert CollectionSpec("manuals", Path("kb"), writes=True).is_kept

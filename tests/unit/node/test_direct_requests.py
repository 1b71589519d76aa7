"""Pieces of a streamed text when the engine crashes in the middle."""

from __future__ import annotations

from edgeslm.node.direct_requests import Pieces


def test_the_same_text_goes_on_where_it_was() -> None:
    told: list[str] = []
    pieces = Pieces(told.append)
    for piece in ("one", " two"):
        pieces(piece)
    pieces.begin_again()
    for piece in ("one t", "wo three", " four"):
        pieces(piece)
    assert told == ["one", " two", " three", " four"]


def test_of_another_text_nothing_more_is_told() -> None:
    told: list[str] = []
    pieces = Pieces(told.append)
    pieces("one")
    pieces.begin_again()
    for piece in ("two", " three four"):
        pieces(piece)
    assert told == ["one"]

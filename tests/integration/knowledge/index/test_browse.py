from __future__ import annotations

from pathlib import Path

import pytest

from edgeslm.knowledge.index import browse
from edgeslm.knowledge.index.browse import list_documents, read_document
from edgeslm.knowledge.index.collection import Collection
from edgeslm.knowledge.index.queries import DocumentText
from tests.support.knowledge.collection_samples import make_document, make_origin


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    collection = Collection(tmp_path / "kb", writes=True)
    collection.open()
    return collection


def test_the_newest_documents_are_listed(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list_documents(collection).documents == ()
    for number in range(5):
        collection.put(*make_document(f"{number}.md", *["text"] * number), make_origin(mtime=60.0 * number))
    monkeypatch.setattr(browse, "MOST_LISTED", 3)
    found = list_documents(collection)
    assert [(one.source, one.passages) for one in found.documents] == [("4.md", 4), ("3.md", 3), ("2.md", 2)]
    assert (found.documents[0].modified, found.total) == ("1970-01-01T00:04:00+00:00", 5)


def test_a_text_has_the_titles_of_its_sections(collection: Collection) -> None:
    headings = ((), ("A",), ("A",), ("A", "B"))
    collection.put(*make_document("a.md", "one", "two", "three", "four", headings=headings), make_origin())
    text = "one\n\nA\n\ntwo\n\nthree\n\nA > B\n\nfour"
    assert read_document(collection, "a.md") == DocumentText("a.md", text, False)
    assert read_document(collection, "b.md") is None


@pytest.mark.parametrize(
    ("most", "text", "is_cut"),
    [(12, "one\n\ntwo\n\nH\n\nthree", False), (11, "one\n\ntwo\n\nH\n\nthre", True), (6, "one\n\ntwo", True)],
)
def test_a_long_text_is_cut(
    collection: Collection, monkeypatch: pytest.MonkeyPatch, most: int, text: str, is_cut: bool
) -> None:
    monkeypatch.setattr(browse, "MOST_CHARACTERS", most)
    collection.put(*make_document("a.md", "one", "two", "three", headings=((), (), ("H",))), make_origin())
    assert read_document(collection, "a.md") == DocumentText("a.md", text, is_cut)

"""Documents put, changed and removed: what a collection then holds, and that it is whole."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeslm.errors import KnowledgeError
from edgeslm.knowledge.index.collection import BATCH, Collection
from edgeslm.knowledge.index.queries import EncoderTag
from edgeslm.knowledge.index.search import search
from tests.support.knowledge.collection_samples import (
    OTHER_TAG,
    TAG,
    faults,
    hash_embed,
    make_document,
    make_origin,
    refusing,
)


@pytest.fixture
def collection(tmp_path: Path) -> Iterator[Collection]:
    with Collection(tmp_path / "manuals", writes=True) as made:
        yield made
        assert faults(made.file) == []


def put(
    collection: Collection, source: str, *texts: str, title: str | None = None, embedded: bool = False
) -> int:
    """:return: how many passages are new."""
    document, passages = make_document(source, *texts, title=title)
    return collection.put(document, passages, make_origin(), embed=hash_embed if embedded else None)


def ids(collection: Collection, question: str) -> dict[str, str]:
    """Ids of what is found, by the text."""
    return {found.text: found.id for found in search(collection, question, k=50)}


def texts(collection: Collection, question: str) -> set[str]:
    return set(ids(collection, question))


# --- documents ------------------------------------------------------------------------------------------


def test_a_document_is_listed_with_what_is_known_of_it(collection: Collection) -> None:
    document, passages = make_document("press/4.md", "Oil it.", "Clean it.", title="Press 4")
    origin = make_origin("abc", mtime=5.0, expires=9e9)
    collection.put(document, passages, origin)
    (entry,) = collection.documents()
    assert (entry.source, entry.title, entry.origin, entry.passages) == ("press/4.md", "Press 4", origin, 2)
    assert collection.find("press/4.md") == entry
    assert collection.find("press/5.md") is None


def test_documents_come_in_the_order_of_their_sources(collection: Collection) -> None:
    for source in ("b.txt", "a.txt", "c.txt"):
        put(collection, source, "Text.")
    assert [entry.source for entry in collection.documents()] == ["a.txt", "b.txt", "c.txt"]


def test_a_document_may_have_no_passage(collection: Collection) -> None:
    assert put(collection, "empty.txt") == 0
    (entry,) = collection.documents()
    assert entry.passages == 0


def test_a_changed_document_keeps_the_ids_of_passages_that_stayed(collection: Collection) -> None:
    put(collection, "a.txt", "oil the press", "clean the press", "stop the press")
    before = ids(collection, "press")
    assert put(collection, "a.txt", "new words of the press", "clean the press", "stop the press") == 1
    after = ids(collection, "press")
    assert "oil the press" not in after
    for text in ("clean the press", "stop the press"):
        assert after[text] == before[text]
    assert after["new words of the press"] not in before.values()


def test_passages_that_moved_have_new_offsets_and_the_same_id(collection: Collection) -> None:
    put(collection, "a.txt", "oil the press")
    (before,) = search(collection, "oil")
    put(collection, "a.txt", "something in front", "oil the press")
    (after,) = search(collection, "oil")
    assert (after.id, after.start) == (before.id, len("something in front\n\n"))


def test_the_same_text_several_times_is_several_passages(collection: Collection) -> None:
    put(collection, "a.txt", "see above", "see above")
    put(collection, "b.txt", "see above")
    assert len({found.id for found in search(collection, "above")}) == 3


def test_a_passage_s_id_depends_on_its_content_alone(collection: Collection, tmp_path: Path) -> None:
    put(collection, "z.txt", "something else")
    put(collection, "a.txt", "oil the press")
    with Collection(tmp_path / "another", writes=True) as another:
        put(another, "a.txt", "oil the press")
        assert ids(another, "press") == ids(collection, "press")


def test_a_new_title_is_found(collection: Collection) -> None:
    put(collection, "a.txt", "text", title="Spindle")
    put(collection, "a.txt", "text", title="Lathe")
    assert texts(collection, "spindle") == set()
    assert texts(collection, "lathe") == {"text"}


def test_what_is_removed_is_not_found(collection: Collection) -> None:
    put(collection, "a.txt", "oil the press")
    put(collection, "b.txt", "oil the lathe")
    assert collection.remove("a.txt")
    assert texts(collection, "oil") == {"oil the lathe"}
    assert not collection.remove("a.txt")


def test_places_of_removed_passages_are_used_again(collection: Collection) -> None:
    for number in range(20):
        put(collection, f"{number}.txt", f"text {number}", embedded=False)
        if number >= 3:
            collection.remove(f"{number - 3}.txt")
    with collection.reading() as db:
        assert db.execute("SELECT max(slot) FROM passages").fetchone()[0] <= 4


def test_sources_are_found_by_name_and_else_by_pattern(collection: Collection) -> None:
    for source in ("press/4.md", "press/5.md", "[a].md", "a.md"):
        put(collection, source, "text")
    assert collection.sources("press/*") == ["press/4.md", "press/5.md"]
    assert collection.sources("[a].md") == ["[a].md"]
    assert collection.sources("lathe*") == []


def test_what_expires_is_removed_when_its_time_has_come(collection: Collection) -> None:
    for source, expires in (("old", 10.0), ("new", 20.0), ("always", None)):
        document, passages = make_document(source, "text")
        collection.put(document, passages, make_origin(expires=expires))
    assert collection.remove_expired(now=10.0) == 1
    assert [entry.source for entry in collection.documents()] == ["always", "new"]


def test_an_unchanged_document_may_have_moved(collection: Collection) -> None:
    put(collection, "a.txt", "text")
    collection.refresh("a.txt", make_origin("0", mtime=7.0))
    entry = collection.find("a.txt")
    assert entry is not None and entry.origin.mtime == 7.0


def test_an_error_in_the_middle_leaves_the_document_as_it_was(collection: Collection) -> None:
    collection.use_encoder(TAG)
    put(collection, "a.txt", "oil the press", embedded=True)
    with refusing(collection.file, "vectors"), pytest.raises(KnowledgeError, match="it is refused"):
        put(collection, "a.txt", "oil the lathe", embedded=True)
    assert texts(collection, "oil") == {"oil the press"}
    assert put(collection, "a.txt", "oil the lathe", embedded=True) == 1


SOURCES = st.sampled_from(["a", "b", "c"])
PARTS = st.lists(st.sampled_from(["oil it", "clean it", "stop it now", "it is hot", "oil"]), max_size=4)


@settings(max_examples=40)
@given(st.lists(st.tuples(SOURCES, st.none() | PARTS, st.booleans()), max_size=12))
def test_after_any_changes_it_is_as_if_it_had_been_made_at_once(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, list[str] | None, bool]]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    last: dict[str, list[str]] = {}
    with Collection(folder / "changed", writes=True) as changed:
        changed.use_encoder(TAG)
        for source, parts, embedded in changes:
            if parts is None:
                assert changed.remove(source) == (last.pop(source, None) is not None)
            else:
                put(changed, source, *parts, embedded=embedded)
                last[source] = parts
        changed.embed_missing(hash_embed)
        assert changed.unembedded == 0
    assert faults(changed.file) == []
    with Collection(folder / "fresh", writes=True) as fresh:
        fresh.use_encoder(TAG)
        for source, parts in last.items():
            put(fresh, source, *parts, embedded=True)
    with Collection(folder / "changed") as changed, Collection(folder / "fresh") as fresh:
        for question in ("oil", "it is", "stop"):
            found = [search(kb, question, k=50, embed=hash_embed) for kb in (changed, fresh)]
            one, other = ({one.id: (round(one.bm25, 6), one.cosine) for one in each} for each in found)
            assert one == other


# --- vectors --------------------------------------------------------------------------------------------


def test_only_new_passages_are_embedded(collection: Collection) -> None:
    seen: list[str] = []

    def embed(parts: Sequence[str]) -> list[list[float]]:
        seen.extend(parts)
        return hash_embed(parts)

    collection.use_encoder(TAG)
    for parts in (("one", "two"), ("one", "two", "three")):
        document, passages = make_document("a.txt", *parts, title="Title")
        collection.put(document, passages, make_origin(), embed=embed)
    assert seen == ["Title one", "Title two", "Title three"]


def test_passages_without_vectors_get_them_later(collection: Collection) -> None:
    for number in range(BATCH + 5):
        put(collection, f"{number}", f"text {number}")
    collection.use_encoder(TAG)
    assert collection.unembedded == BATCH + 5
    assert collection.embed_missing(hash_embed) == BATCH + 5
    assert collection.embed_missing(hash_embed) == 0
    assert all(found.cosine is not None for found in search(collection, "text 3", embed=hash_embed))


def test_a_passage_that_was_removed_while_it_was_embedded_stays_away(collection: Collection) -> None:
    put(collection, "a.txt", "oil the press")
    put(collection, "b.txt", "oil the lathe")
    collection.use_encoder(TAG)

    def embed(parts: Sequence[str]) -> list[list[float]]:
        collection.remove("a.txt")
        return hash_embed(parts)

    collection.embed_missing(embed)
    assert faults(collection.file) == []
    assert collection.unembedded == 0


def test_another_encoder_is_refused_with_a_sentence(collection: Collection) -> None:
    collection.use_encoder(TAG)
    put(collection, "a.txt", "text", embedded=True)
    with pytest.raises(KnowledgeError, match=r"another encoder, /bundles/hash .* --re-embed"):
        collection.use_encoder(OTHER_TAG)
    assert collection.encoder == TAG


def test_another_encoder_takes_over_when_that_is_meant(collection: Collection) -> None:
    collection.use_encoder(TAG)
    put(collection, "a.txt", "text", embedded=True)
    collection.use_encoder(OTHER_TAG, replace=True)
    assert (collection.encoder, collection.unembedded) == (OTHER_TAG, 1)
    assert [found.cosine for found in search(collection, "text", embed=lambda _: [[1.0, 0.0]])] == [None]
    collection.embed_missing(lambda parts: [[1.0, 0.0]] * len(parts))  # of another dimension
    (found,) = search(collection, "text", embed=lambda _: [[1.0, 0.0]])
    assert found.cosine == pytest.approx(1.0)


def test_an_encoder_may_move(collection: Collection) -> None:
    collection.use_encoder(TAG)
    put(collection, "a.txt", "text", embedded=True)
    collection.use_encoder(EncoderTag(TAG.digest, "/elsewhere"))
    assert (collection.encoder, collection.unembedded) == (EncoderTag(TAG.digest, "/elsewhere"), 0)


def test_vectors_of_nobody_knows_what_are_refused(collection: Collection) -> None:
    with pytest.raises(KnowledgeError, match="has no encoder"):
        put(collection, "a.txt", "text", embedded=True)
    assert list(collection.documents()) == []


def test_vectors_of_an_encoder_that_was_replaced_meanwhile_are_refused(collection: Collection) -> None:
    collection.use_encoder(TAG)
    with Collection(collection.file, writes=True) as other:
        other.use_encoder(OTHER_TAG, replace=True)
    with pytest.raises(KnowledgeError, match="got another one meanwhile"):
        put(collection, "a.txt", "text", embedded=True)


def test_vectors_of_another_dimension_are_refused(collection: Collection) -> None:
    collection.use_encoder(TAG)
    put(collection, "a.txt", "text", embedded=True)
    document, passages = make_document("b.txt", "text")
    with pytest.raises(KnowledgeError, match="vectors of 48 numbers, the encoder gives 2"):
        collection.put(document, passages, make_origin(), embed=lambda parts: [[1.0, 0.0]] * len(parts))


# --- several at once ------------------------------------------------------------------------------------


def test_two_writers_and_a_reader_share_a_collection(tmp_path: Path) -> None:
    file = tmp_path / "shared.sqlite"
    errors: list[BaseException] = []

    def write(name: str) -> None:
        try:
            with Collection(file, writes=True) as collection:
                for number in range(30):
                    put(collection, f"{name}{number % 5}", f"text {number}", "the same for all")
        except BaseException as error:
            errors.append(error)

    with Collection(file, writes=True):
        writers = [threading.Thread(target=write, args=(name,)) for name in "ab"]
        for writer in writers:
            writer.start()
        with Collection(file) as reader:
            while any(writer.is_alive() for writer in writers):
                for found in search(reader, "text"):
                    assert found.text.startswith(("text", "the same"))
        for writer in writers:
            writer.join()
    assert errors == []
    assert faults(file) == []
    with Collection(file) as reader:
        assert [entry.passages for entry in reader.documents()] == [2] * 10


def test_nothing_of_numpy_is_loaded_until_there_are_vectors() -> None:
    code = (
        "import sys\nfrom edgeslm.knowledge.index import collection, search\n"
        "from edgeslm.knowledge.service import intake\nprint('numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"

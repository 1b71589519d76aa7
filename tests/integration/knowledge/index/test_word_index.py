"""Collections in other languages than English: stems, compounds, mixed languages, earlier formats."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edgeslm.knowledge.documents.passages import Document, split
from edgeslm.knowledge.index.collection import Collection, DocumentOrigin
from edgeslm.knowledge.index.search import search
from tests.support.knowledge.sheets import take_languages

GERMAN = (
    "Vor der Wartung ist die Pumpe vom Netz zu trennen.\n\n"
    "Die Sicherheitsventile werden jedes Jahr geprüft, und die Sicherheit geht vor. Das Ventil ist rot."
)
SPANISH = "Las válvulas se comprueban cada año.\n\nAntes de abrir la carcasa hay que parar la bomba."
ENGLISH = "The valves are checked every year, and the pumps are oiled once a week."


def put(collection: Collection, source: str, text: str) -> None:
    document = Document(source, source, text)
    collection.put(document, split(document, words=20), DocumentOrigin(source, 0, 0.0))


def sources(collection: Collection, question: str) -> list[str]:
    return [found.source for found in search(collection, question)]


def language_of(collection: Collection, source: str) -> str | None:
    with collection.reading() as db:
        row: tuple[str | None] = db.execute(
            "SELECT language FROM documents WHERE source = ?", (source,)
        ).fetchone()
        return row[0]


def is_sound(collection: Collection) -> bool:
    """Whether the word index agrees with itself, and has no words that no passage has."""
    with closing(sqlite3.connect(collection.file)) as db:
        db.execute("INSERT INTO words (words, rank) VALUES ('integrity-check', 0)")
        passages = db.execute("SELECT count(*) FROM passages").fetchone()[0]
        db.execute("CREATE VIRTUAL TABLE temp.vocabulary USING fts5vocab (main, words, row)")
        return bool(passages) or not db.execute("SELECT 1 FROM temp.vocabulary").fetchone()


@pytest.fixture
def collection(tmp_path: Path) -> Iterator[Collection]:
    with Collection(tmp_path / "manuals.sqlite", writes=True) as made:
        yield made


@pytest.mark.parametrize(
    ("text", "language", "question"),
    [
        (GERMAN, "de", "Was ist mit einem Sicherheitsventil?"),
        (GERMAN, "de", "Wartungen der Pumpen"),
        (SPANISH, "es", "¿Cuándo se comprueba la válvula?"),
        (SPANISH, "es", "parando las bombas"),
        (ENGLISH, "en", "is a valve checked?"),
    ],
)
def test_words_are_found_in_another_form(
    collection: Collection, text: str, language: str, question: str
) -> None:
    put(collection, "manual.txt", text)
    assert language_of(collection, "manual.txt") == language
    found = search(collection, question)
    assert found and found[0].overlap == pytest.approx(1.0)
    assert found[0].language == ("" if language == "en" else language)


def test_function_words_of_the_documents_language_are_not_searched(collection: Collection) -> None:
    put(collection, "de.txt", GERMAN)
    assert sources(collection, "Warum wird die Heizung nicht warm?") == []


def test_a_compound_is_found_by_its_parts_and_a_part_by_its_compound(collection: Collection) -> None:
    put(collection, "de.txt", GERMAN)
    assert search(collection, "Ventile")[0].text.startswith("Die Sicherheitsventile")
    assert search(collection, "Ventilsicherheit")[0].text.startswith("Die Sicherheitsventile")


def test_a_later_short_document_is_split_by_the_words_of_earlier_ones(collection: Collection) -> None:
    put(collection, "de.txt", GERMAN)
    put(collection, "note.txt", "Pumpenventil getauscht")
    assert language_of(collection, "note.txt") == "de"
    assert "note.txt" in sources(collection, "Pumpe")


def test_documents_of_several_languages_are_searched_together(collection: Collection) -> None:
    for name, text in (("de.txt", GERMAN), ("es.txt", SPANISH), ("en.txt", ENGLISH), ("code.txt", "V-12")):
        put(collection, name, text)
    assert language_of(collection, "code.txt") == ""
    assert sources(collection, "Sicherheitsventil") == ["de.txt"]
    assert sources(collection, "válvula") == ["es.txt"]
    assert sources(collection, "valve") == ["en.txt"]
    assert sources(collection, "v-12") == ["code.txt"]


def test_removed_documents_leave_no_words(collection: Collection) -> None:
    put(collection, "de.txt", GERMAN)
    put(collection, "de.txt", GERMAN.replace("Pumpe", "Heizpumpe"))
    assert is_sound(collection)
    collection.remove("de.txt")
    assert is_sound(collection) and sources(collection, "Ventil") == []
    with collection.reading() as db:
        assert db.execute("SELECT count(*) FROM stemmed").fetchone() == (0,)


def test_a_document_that_changes_its_language_is_indexed_by_the_new_one(collection: Collection) -> None:
    kept = "Pumpen und Sicherheitsprüfungen 4711 und 4712"
    put(collection, "a.txt", f"{kept}\n\n{GERMAN}")
    put(collection, "a.txt", f"{kept}\n\n{ENGLISH} {ENGLISH}")
    assert language_of(collection, "a.txt") == "en"
    assert sources(collection, "Sicherheitsprüfungen") and not sources(collection, "Sicherheitsprüfung")
    collection.remove("a.txt")
    assert is_sound(collection)


def test_a_configured_language_comes_before_the_detected_one(tmp_path: Path) -> None:
    with Collection(tmp_path / "kb.sqlite", writes=True) as collection:
        put(collection, "note.txt", "Pumpen getauscht")
        assert language_of(collection, "note.txt") == ""
    with Collection(tmp_path / "kb.sqlite", writes=True, language="de") as collection:
        assert collection.index_languages() == 1
        assert language_of(collection, "note.txt") == "de" and sources(collection, "Pumpe") == ["note.txt"]
        assert collection.index_languages() == 0


def make_old(file: Path) -> Path:
    """A file of format 3 with an English and a German document, both indexed as English."""
    with Collection(file, writes=True, language="en") as collection:
        put(collection, "de.txt", GERMAN)
        put(collection, "en.txt", ENGLISH)
    with closing(sqlite3.connect(file)) as db:
        take_languages(db)
    return file


def test_a_file_of_format_3_is_searched_as_before(tmp_path: Path) -> None:
    with Collection(make_old(tmp_path / "old.sqlite")) as collection:
        assert sources(collection, "valve") == ["en.txt"]
        assert sources(collection, "Wartung") == ["de.txt"]
        assert sources(collection, "Wartungen") == []


def test_a_file_of_format_3_gets_its_languages_a_document_at_a_time(tmp_path: Path) -> None:
    with Collection(make_old(tmp_path / "old.sqlite"), writes=True) as collection:
        assert language_of(collection, "de.txt") is None  # opening is quick
        assert sources(collection, "Wartung") == ["de.txt"] and sources(collection, "Wartungen") == []
        assert collection.index_languages() == 2
        assert [language_of(collection, name) for name in ("de.txt", "en.txt")] == ["de", "en"]
        assert sources(collection, "Wartungen") == ["de.txt"]
        assert sources(collection, "valve") == ["en.txt"]
        collection.remove("de.txt")
        collection.remove("en.txt")
        assert is_sound(collection)

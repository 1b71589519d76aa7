"""Tables for tests: readings of presses and a parts list, in a collection."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

from edgeslm.knowledge.documents.cells import Table
from edgeslm.knowledge.documents.passages import Document
from edgeslm.knowledge.index.collection import Collection
from edgeslm.knowledge.index.database import FORMAT
from edgeslm.knowledge.index.queries import TableAnswer
from edgeslm.knowledge.index.table_store import SCHEMA, KeptTable, put_table, read_tables
from edgeslm.knowledge.readers.tables import read_table
from edgeslm.knowledge.service.intake import add_files
from edgeslm.knowledge.table_qa.answers import answer_from_tables

PRESSES = """\
press,hall,date,temperature_c,pressure_bar,operator,status,running
1,North,2026-03-01,71.5,4.2,Ann,ok,yes
2,North,2026-03-01,80.25,4.8,Bob,warning,yes
3,South,2026-03-01,65,3.9,Ann,ok,no
4,South,2026-03-01,91.0,5.1,Cem,critical,yes
4,South,2026-03-02,84.5,5.0,Ann,warning,yes
"""
PARTS = """\
[{"part": "Valve V-12", "in_stock": 4, "price_eur": 12.5, "supplier": {"name": "Acme", "city": "Oslo"},
  "weight_kg": 1.5, "ordered": "2026-02-03"},
 {"part": "Pump P-3", "in_stock": 0, "price_eur": 240, "supplier": {"name": "Birk", "city": "Turin"},
  "weight_kg": 22, "ordered": "2026-01-10"},
 {"part": "Hose", "in_stock": 17, "price_eur": 3.2, "supplier": {"name": "Acme", "city": "Oslo"},
  "weight_kg": 0.4, "ordered": "2025-12-30"}]
"""


def make_sheets(folder: Path, **texts: str) -> Collection:
    """An open collection of files: ``presses_csv="..."`` is ``presses.csv``."""
    files = folder / "files"
    files.mkdir()
    for name, text in texts.items():
        (files / name.replace("_", ".")).write_text(text, "utf-8")
    collection = Collection(folder / "sheets", writes=True)
    collection.open()
    add_files(collection, [files])
    return collection


def take_languages(db: sqlite3.Connection) -> None:
    """Downgrades a collection of English documents to format 3, which stored no languages."""
    db.execute("DROP INDEX documents_language")
    db.execute("ALTER TABLE documents DROP COLUMN language")
    db.execute("DROP TABLE stemmed")
    db.execute("PRAGMA user_version = 3")


def take_values(file: Path) -> None:
    """Downgrades a collection to format 2, which had no parsed values of cells."""
    with closing(sqlite3.connect(file)) as db:
        take_languages(db)
        db.execute("DROP TABLE table_values")
        for document, text in db.execute("SELECT document, columns FROM tables").fetchall():
            columns = [
                {key: value for key, value in column.items() if key != "decimals"}
                for column in json.loads(text)
            ]
            db.execute("UPDATE tables SET columns = ? WHERE document = ?", (json.dumps(columns), document))
        db.execute("PRAGMA user_version = 2")
        db.commit()


def ask(collection: Collection, question: str) -> TableAnswer | None:
    return answer_from_tables(collection, question)


def read(text: str, source: str = "presses.csv") -> Document:
    return read_table(text, source)


def keep(table: Table | None) -> tuple[sqlite3.Connection, KeptTable]:
    """A table alone in a collection in memory."""
    assert table is not None
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.executescript(
        f"CREATE TABLE documents (id INTEGER PRIMARY KEY, source, mtime, expires); {SCHEMA};"
        f"INSERT INTO documents VALUES (1, 'sheet.csv', 0, NULL); PRAGMA user_version = {FORMAT}"
    )
    put_table(db, 1, table)
    (kept,) = read_tables(db, sources=None, since=None, until=None, now=0.0)
    return db, kept

"""Browsing: the list of a collection's documents, and the text of one document."""

from __future__ import annotations

from datetime import UTC, datetime

from edgeslm.knowledge.index.collection import Collection
from edgeslm.knowledge.index.queries import DocumentList, DocumentText, ListedDocument

MOST_LISTED = 500
"""Maximum number of documents in a list."""
MOST_CHARACTERS = 200_000
"""Maximum length of a document's text, in characters; the rest is left out."""


def list_documents(collection: Collection) -> DocumentList:
    with collection.reading() as db:
        rows = db.execute(
            "SELECT source, title, mtime, count(p.slot) "
            "FROM (SELECT * FROM documents ORDER BY added DESC, id DESC LIMIT ?) d "
            "LEFT JOIN passages p ON p.document = d.id GROUP BY d.id ORDER BY d.added DESC, d.id DESC",
            (MOST_LISTED,),
        ).fetchall()
        (total,) = db.execute("SELECT count(*) FROM documents").fetchone()
    documents = [
        ListedDocument(source, title, _time(mtime), passages) for source, title, mtime, passages in rows
    ]
    return DocumentList(tuple(documents), total)


def read_document(collection: Collection, source: str) -> DocumentText | None:
    """The text of a document; None if there is no such document."""
    with collection.reading() as db:
        row = db.execute("SELECT id, title FROM documents WHERE source = ?", (source,)).fetchone()
        if row is None:
            return None
        key, title = row
        parts: list[str] = []
        left, last = MOST_CHARACTERS, ""
        for heading, text in db.execute(
            "SELECT heading, text FROM passages WHERE document = ? ORDER BY number", (key,)
        ):
            for part in (heading, text) if heading != last else (text,):
                if left <= 0:
                    return DocumentText(title, "\n\n".join(parts), True)
                if part:
                    parts.append(part[:left])
                    left -= len(part)
            last = heading
    return DocumentText(title, "\n\n".join(parts), left < 0)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")

"""Reads a file of any supported kind into a document. What a kind needs is in a module of its own."""

from __future__ import annotations

from pathlib import Path

from edgeslm.knowledge.passages import Document


def read_document(path: Path, source: str) -> Document:
    """The file as plain text with its headings.

    :param source: as the document will be cited.
    :raises KnowledgeError: one sentence that names ``source``: no file, of no kind that is read, damaged,
        locked, too large, no text in it.
    """
    raise NotImplementedError

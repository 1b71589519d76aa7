"""Kinds of files by their names."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeslm.knowledge.documents.kinds import Kind, find_kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.txt", Kind.TEXT),
        ("a.MD", Kind.MARKDOWN),
        ("a.b.html.GZ", Kind.WEB_PAGE),
        ("crontab.5", None),
        ("openssl.1ssl.gz", None),
        ("a.ndjson", Kind.JSON_LINES),
        ("a.DOCX", Kind.DOCX),
        ("a.xlsm.gz", Kind.XLSX),
        ("a.doc", None),
        ("a.9", None),
        ("a.gz", None),
        ("a.tar.gz", None),
        (".txt", None),
        ("txt", None),
    ],
)
def test_kinds(name: str, kind: Kind | None) -> None:
    assert find_kind(Path(name)) is kind

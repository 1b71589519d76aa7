"""Files of every kind: encodings, packed ones, bombs, and what is no document."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeslm.errors import KnowledgeError
from edgeslm.knowledge.documents.passages import LONGEST_TITLE, MAX_CHARACTERS, MAX_HEADINGS, Document, split
from edgeslm.knowledge.readers.reader import read_document
from tests.support.knowledge.office_files import docx_of, pptx_of, xlsx_of
from tests.support.knowledge.pdfs import make_pdf

CONTENTS = {
    "a.txt": b"Vent the pump.",
    "a.TEXT": b"Vent the pump.",
    "a.md": b"# A\n\nVent the pump.",
    "a.rst": b"A\n=\n\nVent the pump.",
    "a.html": b"<p>Vent the pump.",
    "a.htm": b"<p>Vent the pump.",
    "a.csv": b"do\nVent the pump.",
    "a.tsv": b"do\tit\nVent the pump.\tnow",
    "a.jsonl": b'{"do": "Vent the pump."}',
    "a.json": b'[{"do": "Vent the pump."}]',
    "a.pdf": make_pdf([["Vent the pump."]]),
    "a.docx": docx_of("<d><p><t>Vent the pump.</t></p></d>"),
    "a.xlsx": xlsx_of(
        '<d><row><c t="str"><v>do</v></c></row><row><c t="str"><v>Vent the pump.</v></c></row></d>'
    ),
    "a.pptx": pptx_of("<d><p><t>Vent the pump.</t></p></d>"),
}


def read(folder: Path, name: str, content: bytes) -> Document:
    file = folder / name
    file.write_bytes(content)
    return read_document(file, name)


def refusal(folder: Path, name: str, content: bytes) -> str:
    with pytest.raises(KnowledgeError) as caught:
        read(folder, name, content)
    assert str(caught.value).startswith(name)
    return str(caught.value).removeprefix(name).strip()


@pytest.mark.parametrize("name", CONTENTS)
def test_every_kind_is_read_as_it_is_and_packed(tmp_path: Path, name: str) -> None:
    plain = read(tmp_path, name, CONTENTS[name])
    packed = read(tmp_path, f"{name}.gz", gzip.compress(CONTENTS[name]))
    assert "Vent the pump." in plain.text
    assert (packed.text, packed.headings) == (plain.text, plain.headings)
    assert plain.source == name


@pytest.mark.parametrize(
    "content",
    [
        "Größe 5 €".encode(),
        "Größe 5 €".encode("utf-8-sig"),
        "Größe 5 €".encode("utf-16"),
        "\ufeffGröße 5 €".encode("utf-16-be"),
        "\ufeffGröße 5 €".encode("utf-32-le"),
        "Größe 5 €".encode("cp1252"),
    ],
)
def test_texts_of_usual_encodings_are_read(tmp_path: Path, content: bytes) -> None:
    assert read(tmp_path, "a.txt", content).text == "Größe 5 €"


def test_a_page_says_how_it_is_encoded(tmp_path: Path) -> None:
    page = '<meta charset="iso-8859-2"><p>Łódź'.encode("iso-8859-2")
    assert read(tmp_path, "a.html", page).text == "Łódź"


def test_a_broken_byte_in_utf_8_breaks_no_more(tmp_path: Path) -> None:
    assert read(tmp_path, "a.txt", "Größe ".encode() * 20 + b"\xff").text == "Größe " * 20 + "\ufffd"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.txt", b"", "has no text in it."),
        ("a.md", b" \n\t", "has no text in it."),
        ("a.html", b"<script>a</script>", "has no text in it."),
        ("a.txt", b"a\0b", "is not a text: it contains control characters."),
        ("a.txt", bytes(range(1, 32)) * 9, "is not a text: it contains control characters."),
        ("a.txt", b"\x81\x8d\x8f", "is not UTF-8, and it can't be told what else it is; save it as UTF-8."),
        ("a.txt.gz", b"no gzip", "is a damaged .gz file: Not a gzipped file (b'no')."),
        ("a.txt.gz", gzip.compress(b"text" * 99, mtime=0)[:-9], "is a damaged .gz file"),
        ("a.xyz", b"text", "has an unsupported type; supported are .txt"),
        ("a", b"text", "has an unsupported type; supported are .txt"),
        ("a.1", b".TH A 1\n", "has an unsupported type; supported are .txt"),
    ],
)
def test_what_is_no_document_is_refused(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    assert refusal(tmp_path, name, content).startswith(sentence)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "b.txt").mkdir()
    for name, sentence in (("a.txt", "is not there"), ("b.txt", "is not a file")):
        with pytest.raises(KnowledgeError, match=f"^x {sentence}"):
            read_document(tmp_path / name, "x")


def test_a_file_that_grows_without_end_when_unpacked_is_refused(tmp_path: Path) -> None:
    bomb = gzip.compress(b"a" * (MAX_CHARACTERS + 1))
    assert (
        refusal(tmp_path, "a.txt.gz", bomb) == ", unpacked, has more than 16 MiB; part it into several files."
    )


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    assert (
        refusal(tmp_path, "a.txt", b"a" * (MAX_CHARACTERS + 1))
        == "has more than 16 MiB; part it into several files."
    )


def test_too_many_sections_are_refused(tmp_path: Path) -> None:
    for name, start, section in (("a.md", b"", b"# a\n"), ("a.csv", b"a,b\n", b"1,2\n")):
        content = start + section * (MAX_HEADINGS + 1)
        assert refusal(tmp_path, name, content).startswith("has more than 200,000 sections or rows")


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.md", b"---\ntitle: " + b"word " * 1000 + b"\n---\n# Oil\n"),
        ("a.html", b"<title>" + b"word " * 1000 + b"</title><p>Oil"),
    ],
)
def test_an_endless_title_is_cut(tmp_path: Path, name: str, content: bytes) -> None:
    """Each passage is kept, embedded and found with it."""
    assert len(read(tmp_path, name, content).title) == LONGEST_TITLE


def test_what_no_index_takes_is_replaced_and_offsets_stay(tmp_path: Path) -> None:
    document = read(tmp_path, "a.json", rb'[{"a\ud800": "b\u0000c\udfff"}]')
    assert document.text == "a\ufffd: b\ufffdc\ufffd"
    assert document.table is not None
    assert document.table.columns[0].name == "a\ufffd"
    assert document.table.rows[0].cells == ("b\ufffdc\ufffd",)
    document.text.encode()


def test_libraries_are_loaded_by_the_kind_that_needs_them(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(CONTENTS["a.txt"])
    code = (
        "import sys, pathlib\nfrom edgeslm.knowledge.readers.reader import read_document\n"
        f"read_document(pathlib.Path({str(tmp_path / 'a.txt')!r}), 'a.txt')\n"
        "print('pypdfium2' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["False"], done.stderr


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=300)
@given(
    name=st.sampled_from([*CONTENTS, "a.txt.gz", "a.pdf.gz"]),
    content=st.binary(max_size=200) | st.text(max_size=100).map(str.encode),
)
def test_any_bytes_are_read_or_refused(tmp_path: Path, name: str, content: bytes) -> None:
    try:
        document = read(tmp_path, name, content)
    except KnowledgeError as error:
        assert str(error).startswith(name)
    else:
        for passage in split(document):
            assert document.text[passage.start : passage.end] == passage.text

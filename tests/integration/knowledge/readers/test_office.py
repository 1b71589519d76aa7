"""Office files: those of other programs, and what is bounded in all of them."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from edgeslm.errors import KnowledgeError
from edgeslm.knowledge.documents import passages as limits
from edgeslm.knowledge.documents.passages import Document, split
from edgeslm.knowledge.index.collection import Collection
from edgeslm.knowledge.readers import office
from edgeslm.knowledge.readers.limited import Reading, ReadingListener
from edgeslm.knowledge.readers.reader import read_document
from tests.support.knowledge.collection_samples import make_origin
from tests.support.knowledge.office_files import docx_of, make_package, pptx_of, xlsx_of
from tests.support.knowledge.sheets import ask

MADE = Path(__file__).parent / "office"
"""By python-docx 1.2, openpyxl 3.1 and python-pptx 1.0."""


def read(folder: Path, name: str, content: bytes) -> Document:
    (folder / name).write_bytes(content)
    return read_document(folder / name, name)


def passages(document: Document) -> list[tuple[tuple[str, ...], str]]:
    return [(passage.heading, passage.text) for passage in split(document)]


def paragraph(text: str, properties: str = "") -> str:
    return f"<p><pPr>{properties}</pPr><r><t>{text}</t></r></p>"


# --- of other programs -----------------------------------------------------------------------------------


def test_a_word_document_has_headings_lists_and_tables() -> None:
    document = read_document(MADE / "press.docx", "press.docx")
    assert document.title == "The press"
    assert passages(document) == [
        ((), "The press"),
        (("Care",), "Oil it each week."),
        (("Care", "Parts"), "* a filter\n* a belt\n\npart | number\nbelt | B-7"),
        (("Safety",), "Wear gloves."),
    ]


def test_slides_have_titles_tables_and_notes() -> None:
    document = read_document(MADE / "press.pptx", "press.pptx")
    assert document.title == "Training"
    assert passages(document) == [
        (("The press",), "Training for new staff"),
        (("Care",), "Oil it each week.\nWear gloves.\n\nShow where the oil is."),
        (("slide 3",), "part | number\nbelt | B-7"),
    ]


def test_the_sheets_of_a_workbook_are_a_table() -> None:
    document = read_document(MADE / "press.xlsx", "press.xlsx")
    assert passages(document)[1:3] == [
        (
            ("Orders", "row 3"),
            "sheet: Orders; order: 2; amount: 7.25; placed: 2026-01-03 13:30:00; share: 50%; paid: false",
        ),
        (("Parts", "row 2"), "sheet: Parts; part: belt; stock: 3"),
    ]
    table = document.table
    assert table is not None and "secret" not in document.text
    kinds = " ".join(f"{column.name}:{column.kind.value}" for column in table.columns)
    assert kinds == (
        "sheet:text order:number amount:number placed:date share:number paid:boolean part:text stock:number"
    )
    assert [row.number for row in table.rows] == [2, 3, 5, 6]


@pytest.mark.parametrize("name", ["press.docx", "press.xlsx", "press.pptx"])
def test_they_are_read_in_the_child_and_packed(tmp_path: Path, name: str) -> None:
    path = MADE / name
    with Reading() as reading:
        document, found = reading.read(path, name, path.stat().st_size, ReadingListener())
    expected = read_document(path, name)
    assert (found, document.table) == (split(expected), expected.table)


# --- written by hand -------------------------------------------------------------------------------------


def test_styles_of_any_language_are_told_by_their_names_and_what_they_are_based_on(tmp_path: Path) -> None:
    styles = (
        '<styles><style styleId="berschrift1"><name val="heading 1"/></style>'
        '<style styleId="Eigene"><name val="Eigene"/><basedOn val="berschrift1"/></style>'
        '<style styleId="a"><basedOn val="b"/></style><style styleId="b"><basedOn val="a"/></style></styles>'
    )
    body = paragraph("Pflege", '<pStyle val="Eigene"/>') + paragraph("Ölen.", '<pStyle val="a"/>')
    document = read(tmp_path, "a.docx", docx_of(f"<document>{body}</document>", styles))
    assert passages(document) == [(("Pflege",), "Ölen.")]


def test_deleted_text_and_the_same_for_old_programs_are_left_out(tmp_path: Path) -> None:
    body = (
        "<p><del><r><t>Never</t></r></del><r><t>Oil</t><tab/><t>it.</t></r></p>"
        "<p><Choice><txbxContent><p><r><t>Box.</t></r></p></txbxContent></Choice>"
        "<Fallback><p><r><t>Box.</t></r></p></Fallback></p>"
    )
    assert read(tmp_path, "a.docx", docx_of(f"<d>{body}</d>")).text == "Oil it.\n\nBox."


def test_cells_are_read_as_they_are_shown(tmp_path: Path) -> None:
    styles = (
        '<styleSheet><numFmts><numFmt numFmtId="164" formatCode="[$-407]dd/mm/yyyy;@"/>'
        '<numFmt numFmtId="165" formatCode="0.0&quot; days&quot;"/></numFmts>'
        '<cellStyleXfs><xf numFmtId="14"/></cellStyleXfs><cellXfs><xf numFmtId="0"/><xf numFmtId="164"/>'
        '<xf numFmtId="165"/><xf numFmtId="20"/><xf numFmtId="10"/></cellXfs></styleSheet>'
    )
    shared = "<sst><si><t>sum</t></si><si><r><t>two </t></r><r><t>parts</t></r><rPh><t>x</t></rPh></si></sst>"
    sheet = (
        '<worksheet><row r="4"><c t="s"><v>0</v></c><c t="s"><v>1</v></c>'
        '<c r="E4" t="str"><v>note</v></c></row>'
        '<row r="6"><c><v>0.30000000000000004</v></c><c s="1"><v>46024</v></c>'
        '<c r="E6" t="e"><v>#N/A</v></c></row>'
        '<row r="7"><c s="2"><v>3</v></c><c s="3"><v>0.5</v></c><c r="E7" t="s"><v>99</v></c></row>'
        '<row r="8"><c s="4"><v>0.125</v></c><c s="9"><v>1e3</v></c><c t="b"><v>1</v></c></row></worksheet>'
    )
    document = read(tmp_path, "a.xlsx", xlsx_of(sheet, shared=shared, styles=styles))
    assert document.text.split("\n") == [
        "sum: 0.3; two parts: 2026-01-02",
        "sum: 3; two parts: 12:00:00",
        "sum: 12.5%; two parts: 1000; true",
    ]
    assert [heading.title for heading in document.headings] == ["S1", "row 6", "row 7", "row 8"]


def test_no_two_rows_have_the_same_number(tmp_path: Path) -> None:
    sheet = "<worksheet>" + '<row r="7"><c><v>1</v></c></row>' * 3 + "</worksheet>"
    table = read(tmp_path, "a.xlsx", xlsx_of(sheet, sheet)).table
    assert table is not None and [row.number for row in table.rows] == [7, 8, 9, 16, 17, 18]


def test_a_sheet_without_names_has_numbers(tmp_path: Path) -> None:
    sheet = "<worksheet><row><c><v>1</v></c><c><v>2</v></c></row></worksheet>"
    assert read(tmp_path, "a.xlsx", xlsx_of(sheet)).text == "column 1: 1; column 2: 2"


# --- what is refused -------------------------------------------------------------------------------------

BOMB = f'<!DOCTYPE d [<!ENTITY a "aaaaaaaa"><!ENTITY b "{"&a;" * 99}">]><d><p><t>&b;</t></p></d>'
DEEP = "<d>" * 5000
WIDE = '<worksheet><row><c r="XFD1"><v>1</v></c></row></worksheet>'
LONG = "<worksheet>" + "<row><c><v>1</v></c></row>" * 12 + "</worksheet>"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.docx", b"", "can't be read as a Word document"),
        ("a.xlsx", b"PK\3\4", "can't be read as a workbook"),
        ("a.pptx", b"\xd0\xcf\x11\xe0 encrypted", "can't be read as a presentation"),
        ("a.docx", docx_of("<d><p>"), "can't be read as a Word document; it may be damaged"),
        ("a.docx", docx_of(BOMB), "declares a document type, which no Office file does"),
        ("a.docx", docx_of(BOMB.encode("utf-16")), "declares a document type, which no Office file does"),
        ("a.docx", docx_of(DEEP), "is nested too deep; at most 200 levels are read"),
        ("a.xlsx", xlsx_of(WIDE), "has 16,384 columns; at most 1,000 are read"),
        ("a.docx", docx_of("<d/>"), "has no text in it"),
        ("a.xlsx", make_package({}), "has no text in it"),
        ("a.pptx", pptx_of("<sld/>"), "has no text in it"),
    ],
)
def test_what_cannot_be_read_is_a_sentence(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    with pytest.raises(KnowledgeError, match=f"^{name} {sentence}"):
        read(tmp_path, name, content)


@pytest.mark.parametrize(
    ("name", "content", "most", "sentence"),
    [
        ("a.docx", docx_of("<d>" + "<p/>" * 500_000), (office, "MAX_XML_BYTES", 1 << 20), "more than 1 MiB"),
        ("a.docx", docx_of(f"<d>{paragraph('a' * 99)}</d>"), (limits, "MAX_CHARACTERS", 50), "MiB of text"),
        (
            "a.xlsx",
            xlsx_of(LONG),
            (limits, "MAX_HEADINGS", 9),
            "more than 9 ",
        ),
        ("a.pptx", pptx_of(*["<sld/>"] * 9), (office, "MAX_PARTS", 9), "more than 9 parts"),
    ],
)
def test_more_than_is_read_is_a_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    content: bytes,
    most: tuple[ModuleType, str, int],
    sentence: str,
) -> None:
    monkeypatch.setattr(*most)
    with pytest.raises(KnowledgeError, match=rf"^{name}.* {sentence}"):
        read(tmp_path, name, content)


def test_a_member_that_claims_to_be_small_unpacks_no_further(tmp_path: Path) -> None:
    content = docx_of(f"<d>{paragraph('Oil it. ' * 99_999)}</d>")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        size = archive.getinfo("word/document.xml").file_size
    lies = content.replace(size.to_bytes(4, "little"), (64).to_bytes(4, "little"))
    with pytest.raises(KnowledgeError, match="can't be read as a Word document"):
        read(tmp_path, "a.docx", lies)


@pytest.mark.parametrize("name", ["press.docx", "press.xlsx", "press.pptx"])
def test_damaged_files_are_read_or_refused_in_a_sentence(tmp_path: Path, name: str) -> None:
    whole, chance = (MADE / name).read_bytes(), random.Random(7)
    damages: list[Callable[[bytearray, int], None]] = [
        lambda file, at: file.__setitem__(slice(at, at + 1), chance.randbytes(1)),
        lambda file, at: file.__delitem__(slice(at, at + chance.choice((1, 20, 2000)))),
        lambda file, at: file.__setitem__(slice(at, at), chance.randbytes(9)),
    ]
    for _ in range(200):
        file = bytearray(whole)
        for _ in range(chance.choice((1, 3, 9))):
            chance.choice(damages)(file, chance.randrange(len(file)))
        try:
            split(read(tmp_path, name, bytes(file)))
        except KnowledgeError as error:
            assert str(error).startswith(f"{name} ")


def test_questions_to_a_workbook_are_computed(tmp_path: Path) -> None:
    document = read_document(MADE / "press.xlsx", "press.xlsx")
    with Collection(tmp_path / "kb", writes=True) as collection:
        collection.put(document, split(document), make_origin())
        for question, text in (
            ("sum of amount in orders", "19.75"),
            ("stock of the belt", "3"),
            ("how many orders are paid?", "1"),
        ):
            answer = ask(collection, question)
            assert answer is not None and text in answer.text, (question, answer)

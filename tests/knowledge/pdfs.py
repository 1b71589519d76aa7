"""PDFs written by hand: a page is a list of lines."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from io import BytesIO

from pypdf import PdfWriter
from pypdf.generic import DecodedStreamObject, DictionaryObject, IndirectObject, NameObject

LEFT, TOP, LEADING = 72, 720, 14


def make_pdf(
    pages: Sequence[Sequence[str | bytes]],
    *,
    outline: Sequence[tuple[int, str, int]] = (),
    title: str = "",
    password: str | None = None,
    broken: Collection[int] = (),
) -> bytes:
    """:param pages: lines of text, or operators of a content stream as bytes.
    :param outline: level, title and page of each entry.
    :param password: that opens it.
    :param broken: pages whose text is packed in a way that doesn't exist.
    """
    writer = PdfWriter()
    font = DictionaryObject(
        {
            NameObject("/Type"): NameObject("/Font"),
            NameObject("/Subtype"): NameObject("/Type1"),
            NameObject("/BaseFont"): NameObject("/Helvetica"),
        }
    )
    for number, lines in enumerate(pages):
        page = writer.add_blank_page(612, 792)
        stream = DecodedStreamObject()
        stream.set_data(
            b"BT /F1 12 Tf %d %d Td %d TL\n%b ET" % (LEFT, TOP, LEADING, b"\n".join(map(_shown, lines)))
        )
        if number in broken:
            stream[NameObject("/Filter")] = NameObject("/Unheard")
        page[NameObject("/Contents")] = writer._add_object(stream)
        fonts = DictionaryObject({NameObject("/F1"): font})
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
    above: list[IndirectObject] = []
    for level, name, at in outline:
        above = above[: level - 1]
        parent = above[-1] if above else None
        above.append(writer.add_outline_item(title=name, page_number=at, parent=parent))
    if title:
        writer.add_metadata({"/Title": title})
    if password is not None:
        writer.encrypt(password, algorithm="RC4-128")
    file = BytesIO()
    writer.write(file)
    return file.getvalue()


def _shown(line: str | bytes) -> bytes:
    if isinstance(line, bytes):
        return line
    text = line.encode("latin-1").replace(b"\\", rb"\\").replace(b"(", rb"\(").replace(b")", rb"\)")
    return b"(%b) Tj T*" % text

"""Hand-written PDFs: a page is a list of lines."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from itertools import pairwise

LEFT, TOP, LEADING = 72, 720, 14
_PADDING = bytes.fromhex("28bf4e5e4e758a4164004e56fffa01082e2e00b6d0683e802f0ca9fe6453697a")
_IDENTITY = bytes(16)
_RIGHTS = -44
_FONT = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"


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
    :param password: encrypts the file; title and outline can't be read then.
    :param broken: pages that are missing.
    """
    catalog, tree, font, first = 1, 2, 3, 4
    place = {number: first + 2 * number for number in range(len(pages))}
    objects = {font: _FONT}
    for number, lines in enumerate(pages):
        content = b"BT /F1 12 Tf %d %d Td %d TL\n%b ET" % (LEFT, TOP, LEADING, b"\n".join(map(_shown, lines)))
        here = place[number]
        page = (
            b"<< /Type /Page /Parent %d 0 R /MediaBox [0 0 612 792] /Contents %d 0 R "
            b"/Resources << /Font << /F1 %d 0 R >> >> >>" % (tree, here + 1, font)
        )
        objects[here] = b"null" if number in broken else page
        if password is not None:
            content = _encrypted(content, password, here + 1)
        objects[here + 1] = b"<< /Length %d >>\nstream\n%b\nendstream" % (len(content), content)
    kids = b" ".join(b"%d 0 R" % at for at in place.values())
    objects[tree] = b"<< /Type /Pages /Kids [%b] /Count %d >>" % (kids, len(pages))
    entries = _outline(outline, place, first + 2 * len(pages))
    objects |= entries
    root = b"/Outlines %d 0 R" % min(entries) if entries else b""
    objects[catalog] = b"<< /Type /Catalog /Pages %d 0 R %b >>" % (tree, root)
    more = b""
    if title:
        objects[info := max(objects) + 1] = b"<< /Title %b >>" % _string(title)
        more += b"/Info %d 0 R " % info
    if password is not None:
        objects[lock := max(objects) + 1] = _lock(password)
        more += b"/Encrypt %d 0 R /ID [<%b> <%b>] " % (
            lock,
            _IDENTITY.hex().encode(),
            _IDENTITY.hex().encode(),
        )
    return write_objects(objects, more)


def write_objects(objects: dict[int, bytes], trailer: bytes = b"") -> bytes:
    """A file of numbered objects; the first is the catalog.

    :param trailer: further entries of the trailer.
    """
    file = b"%PDF-1.4\n"
    table = b"0000000000 65535 f \n"
    for number in sorted(objects):
        table += b"%010d 00000 n \n" % len(file)
        file += b"%d 0 obj\n%b\nendobj\n" % (number, objects[number])
    size, begins = len(objects) + 1, len(file)
    file += b"xref\n0 %d\n%b" % (size, table)
    return file + b"trailer << /Size %d /Root 1 0 R %b>>\nstartxref\n%d\n%%%%EOF\n" % (size, trailer, begins)


def _shown(line: str | bytes) -> bytes:
    if isinstance(line, bytes):
        return line
    text = line.encode("latin-1").replace(b"\\", rb"\\").replace(b"(", rb"\(").replace(b")", rb"\)")
    return b"(%b) Tj T*" % text


def _string(text: str) -> bytes:
    return b"<%b>" % text.encode("utf-16", "surrogatepass").hex().encode()  # with a byte order mark


def _outline(outline: Sequence[tuple[int, str, int]], pages: dict[int, int], begins: int) -> dict[int, bytes]:
    """Objects: the root, and one for each entry."""
    if not outline:
        return {}
    children: dict[int, list[int]] = {begins: []}
    above = [begins]
    for number, (level, _, _) in enumerate(outline, begins + 1):
        above = above[:level]
        children[above[-1]].append(number)
        children[number] = []
        above.append(number)
    parts = {begins: b"<< /Type /Outlines"}
    for number, (_, title, page) in enumerate(outline, begins + 1):
        parts[number] = b"<< /Title %b /Dest [%d 0 R /Fit]" % (_string(title), pages[page])
    for parent, below in children.items():
        if below:
            parts[parent] += b" /First %d 0 R /Last %d 0 R /Count %d" % (below[0], below[-1], len(below))
        for before, after in pairwise(below):
            parts[before] += b" /Next %d 0 R" % after
            parts[after] += b" /Prev %d 0 R" % before
        for number in below:
            parts[number] += b" /Parent %d 0 R" % parent
    return {number: part + b" >>" for number, part in parts.items()}


# ISO 32000-1, 7.6.3: the standard security handler, revision 2.


def _padded(password: str) -> bytes:
    return (password.encode("latin-1") + _PADDING)[:32]


def _owner(password: str) -> bytes:
    return _rc4(hashlib.md5(_padded(password)).digest()[:5], _padded(password))


def _key(password: str) -> bytes:
    rights = _RIGHTS.to_bytes(4, "little", signed=True)
    return hashlib.md5(_padded(password) + _owner(password) + rights + _IDENTITY).digest()[:5]


def _lock(password: str) -> bytes:
    user = _rc4(_key(password), _PADDING)
    return b"<< /Filter /Standard /V 1 /R 2 /O <%b> /U <%b> /P %d >>" % (
        _owner(password).hex().encode(),
        user.hex().encode(),
        _RIGHTS,
    )


def _encrypted(content: bytes, password: str, number: int) -> bytes:
    key = _key(password) + number.to_bytes(3, "little") + bytes(2)
    return _rc4(hashlib.md5(key).digest()[:10], content)


def _rc4(key: bytes, text: bytes) -> bytes:
    box = list(range(256))
    at = 0
    for number in range(256):
        at = (at + box[number] + key[number % len(key)]) % 256
        box[number], box[at] = box[at], box[number]
    out, at, number = bytearray(), 0, 0
    for byte in text:
        number = (number + 1) % 256
        at = (at + box[number]) % 256
        box[number], box[at] = box[at], box[number]
        out.append(byte ^ box[(box[number] + box[at]) % 256])
    return bytes(out)

"""Office Open XML packages (ISO/IEC 29500): reads the XML parts of a ZIP file within limits, with the
standard library only.

A part is streamed to a handler, element by element. Names have no namespaces, so that the strict and the
transitional form are read alike.
"""

from __future__ import annotations

import posixpath
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import BinaryIO
from xml.etree.ElementTree import ParseError, XMLParser

from edgeslm.errors import KnowledgeError

MAX_XML_BYTES = 256 << 20
"""Limit of all XML read from a file, unpacked."""
MAX_PARTS = 20_000
MAX_DEPTH = 200
"""Limit of nested elements."""
_CHUNK = 1 << 16

Attributes = Mapping[str, str]


class Handler:
    """Receives a part's elements in order, with names and attributes without namespaces. The default ignores
    them."""

    def start(self, name: str, attributes: Attributes) -> None:
        """Start of an element."""

    def end(self, name: str) -> None:
        """End of an element."""

    def data(self, text: str) -> None:
        """A piece of text."""


class Package:
    """An open package. ``source`` is its name in error messages."""

    def __init__(self, archive: zipfile.ZipFile, source: str) -> None:
        self._archive = archive
        self._names = set(archive.namelist())
        self._left = MAX_XML_BYTES
        self.source = source

    def read(self, part: str, handler: Handler) -> None:
        """Feeds a part to ``handler``; a missing part is empty.

        :raises KnowledgeError: too large when unpacked, has a document type, or nested too deeply.
        """
        if part not in self._names:
            return
        parser = XMLParser(target=_NamespaceStripper(handler, self.source))
        with self._archive.open(part) as file:
            while chunk := file.read(_CHUNK):
                self._left -= len(chunk)
                if self._left < 0:
                    most = MAX_XML_BYTES >> 20
                    raise KnowledgeError(f"{self.source}, unpacked, has more than {most} MiB; part it.")
                parser.feed(chunk)
        parser.close()

    def relations(self, part: str) -> dict[str, tuple[str, str]]:
        """Relations of a part: id -> (type, target)."""
        folder, name = posixpath.split(part)
        found = _Relations(folder)
        self.read(f"{folder}/_rels/{name}.rels".lstrip("/"), found)
        return found.targets

    def main_part(self, otherwise: str) -> str:
        """The part with the main document."""
        parts = [target for kind, target in self.relations("").values() if kind == "officeDocument"]
        return parts[0] if parts else otherwise

    def title(self) -> str:
        """Title in the file's properties; "" if none."""
        found = Texts({"title"})
        self.read("docProps/core.xml", found)
        return " ".join("".join(found.texts[0]).split()) if found.texts else ""


@contextmanager
def open_package(file: BinaryIO, source: str, what: str) -> Iterator[Package]:
    """Opens a package.

    :param what: the kind of file, for error messages.
    :raises KnowledgeError: damaged, encrypted, or not such a file.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            if len(archive.filelist) > MAX_PARTS:
                raise KnowledgeError(
                    f"{source} has more than {MAX_PARTS:,} parts; part it into several files."
                )
            yield Package(archive, source)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError):
        raise KnowledgeError(
            f"{source} can't be read as a {what}; it may be damaged or locked with a password."
        ) from None
    except (ParseError, RuntimeError, ValueError):  # encrypted members raise RuntimeError
        raise KnowledgeError(f"{source} can't be read as a {what}; it may be damaged.") from None


class _NamespaceStripper:
    """Parser target that removes namespaces."""

    def __init__(self, handler: Handler, source: str) -> None:
        self._handler = handler
        self._source = source
        self._depth = 0
        self.data = handler.data

    def doctype(self, *_: object) -> None:
        raise KnowledgeError(f"{self._source} declares a document type, which no Office file does.")

    def start(self, tag: str, attributes: Attributes) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise KnowledgeError(f"{self._source} is nested too deep; at most {MAX_DEPTH} levels are read.")
        self._handler.start(
            tag.rpartition("}")[2], {name.rpartition("}")[2]: value for name, value in attributes.items()}
        )

    def end(self, tag: str) -> None:
        self._depth -= 1
        self._handler.end(tag.rpartition("}")[2])

    def close(self) -> None:
        """Required by the parser."""


class Texts(Handler):
    """Collects the text of all elements with the given names."""

    def __init__(self, wanted: set[str]) -> None:
        self.texts: list[list[str]] = []
        """Text of each element, in pieces."""
        self._wanted = wanted
        self._is_in = False

    def start(self, name: str, attributes: Attributes) -> None:
        if name in self._wanted:
            self._is_in = True
            self.texts.append([])

    def end(self, name: str) -> None:
        self._is_in = self._is_in and name not in self._wanted

    def data(self, text: str) -> None:
        if self._is_in:
            self.texts[-1].append(text)


class _Relations(Handler):
    def __init__(self, folder: str) -> None:
        self.targets: dict[str, tuple[str, str]] = {}
        self._folder = folder

    def start(self, name: str, attributes: Attributes) -> None:
        if name == "Relationship" and attributes.get("TargetMode") != "External":
            target = posixpath.normpath(posixpath.join("/", self._folder, attributes.get("Target", "")))
            kind = attributes.get("Type", "").rpartition("/")[2]
            self.targets[attributes.get("Id", "")] = kind, target.lstrip("/")

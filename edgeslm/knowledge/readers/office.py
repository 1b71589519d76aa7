"""Office Open XML packages (ISO/IEC 29500): reads the XML parts of a ZIP file within limits, with the
standard library only.

A part is streamed to a handler, element by element. Namespaces are removed from names, so that files in the
strict and in the transitional form are read alike.
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
"""Maximum size of all XML that is read from a file, decompressed."""
MAX_PARTS = 20_000
MAX_DEPTH = 200
"""Maximum nesting depth of XML elements."""
_CHUNK = 1 << 16

Attributes = Mapping[str, str]


class Handler:
    """Receives the XML elements of a part in order, with names without namespaces. By default, the methods do
    nothing."""

    def start(self, name: str, attributes: Attributes) -> None:
        """Called when an element starts."""

    def end(self, name: str) -> None:
        """Called when an element ends."""

    def data(self, text: str) -> None:
        """Called with a piece of text."""


class Package:
    """An open Office file. ``source`` is the file's name in error messages."""

    def __init__(self, archive: zipfile.ZipFile, source: str) -> None:
        self._archive = archive
        self._names = set(archive.namelist())
        self._left = MAX_XML_BYTES
        self.source = source

    def read(self, part: str, handler: Handler) -> None:
        """Streams a part to ``handler``; a missing part counts as empty.

        :raises KnowledgeError: the part is too large, has a document type, or is nested too deeply.
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
        """Relationships of a part, as id -> (type, target)."""
        folder, name = posixpath.split(part)
        found = _Relations(folder)
        self.read(f"{folder}/_rels/{name}.rels".lstrip("/"), found)
        return found.targets

    def main_part(self, otherwise: str) -> str:
        """Name of the part that contains the main document; ``otherwise`` if the file doesn't name a main
        document."""
        parts = [target for kind, target in self.relations("").values() if kind == "officeDocument"]
        return parts[0] if parts else otherwise

    def title(self) -> str:
        """Title in the file's properties; "" if there is none."""
        found = Texts({"title"})
        self.read("docProps/core.xml", found)
        return " ".join("".join(found.texts[0]).split()) if found.texts else ""


@contextmanager
def open_package(file: BinaryIO, source: str, what: str) -> Iterator[Package]:
    """Opens an Office file.

    :param what: the kind of file, for error messages.
    :raises KnowledgeError: the file is damaged or encrypted, or is not an Office file.
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
    """XML parser target that removes namespaces."""

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
        """Does nothing, but the XML parser requires this method."""


class Texts(Handler):
    """Collects the text of all elements with the given names."""

    def __init__(self, wanted: set[str]) -> None:
        self.texts: list[list[str]] = []
        """Text of each element, as a list of pieces."""
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

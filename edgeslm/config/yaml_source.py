"""YAML source: parses a text into plain data, the line of every key, and a list of all syntax problems.

A subset of YAML 1.1 without surprises: keys are always strings (a label ``yes`` stays ``yes``), only ``true``
and ``false`` are booleans, only decimal numbers are numbers, tags are refused. Anchors, aliases and ``<<``
work within a size limit.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

MAX_BYTES = 262_144
MAX_NODES = 20_000
MAX_DEPTH = 40

Path = tuple[str | int, ...]
"""Position in the document: keys and list indices from the top."""

_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(
    r"[-+]?(?:[0-9]{1,30}\.[0-9]{0,30}|\.[0-9]{1,30}|[0-9]{1,30}(?=[eE]))(?:[eE][-+]?[0-9]{1,2})?"
)
_VARIABLE = re.compile(r"\$(\$?)\{([^}]*)\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TEXT_TAG = "tag:yaml.org,2002:str"


@dataclass(frozen=True, slots=True)
class YamlProblem:
    """A problem in the file: its position (lines count from 1), and a message that tells the user what to
    change."""

    line: int
    path: Path
    sentence: str


@dataclass(slots=True)
class YamlDocument:
    """The parsed document. ``data`` is the part of the document that could be parsed."""

    data: Any = None
    lines: dict[Path, int] = field(default_factory=dict)
    problems: list[YamlProblem] = field(default_factory=list)

    def note(self, line: int, path: Path, sentence: str) -> None:
        """Adds a problem."""
        self.problems.append(YamlProblem(line, path, sentence))

    def line(self, path: Path) -> int:
        """The line of a key, or of its nearest parent in the text."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def key_name(path: Path) -> str:
    """``("routes", 0, "from")`` -> ``routes[0].from``; the empty path -> ``file``."""
    name = ""
    for part in path:
        if isinstance(part, str) and not (part.isprintable() and len(part) <= 80):
            part = repr(part[:80])
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else part
    return name or "file"


class _Loader(yaml.SafeLoader):
    """PyYAML's loader, except that plain scalars get no implicit types. It is a subclass, so that PyYAML's
    own table of types stays unchanged."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 - PyYAML's own shape


def read_document(text: str, least: str = "node, broker and tasks") -> YamlDocument:
    """Parses YAML. Never raises: faults are in the ``problems`` of the result. ``least`` names the required
    keys; it is part of the error message for an empty file."""
    document = YamlDocument()
    if len(text.encode(errors="replace")) > MAX_BYTES:
        document.note(1, (), f"longer than {MAX_BYTES} bytes, the most that is read")
        return document
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        document.note(line, (), f"the character {error.character:#x} can't be in YAML")
        return document
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        document.note(line, (), _syntax_fault(error, text, line))
        return document
    except RecursionError:
        document.note(1, (), "nested too deep")
        return document
    except (ValueError, OverflowError):  # from PyYAML's scanner, on \U escapes and %YAML numbers
        document.note(1, (), "not YAML: an escape or number in it can't be read")
        return document
    if root is None or (isinstance(root, yaml.ScalarNode) and not root.value and root.style is None):
        document.note(1, (), f"empty: write at least {least}")
    elif not isinstance(root, yaml.MappingNode):
        document.note(root.start_mark.line + 1, (), "not a mapping: write keys such as `node: my-node`")
    else:
        _YamlReader(document).read(root)
    return document


def _syntax_fault(error: yaml.MarkedYAMLError, text: str, line: int) -> str:
    lines = text.splitlines()
    source = lines[line - 1] if line <= len(lines) else ""
    fault = error.problem or error.context or "it can't be read"
    if "'\\t'" in fault or "\t" in source[: len(source) - len(source.lstrip())]:
        return "a tab: indent with spaces"
    if re.search(r"[{$]\{|\{%", re.sub(r"\"[^\"]*\"|'[^']*'", "", source)):
        return "a text that begins with {{, or holds {{ or ${ inside other braces, must be in quotes"
    if "mapping values are not allowed" in fault:
        return "a colon too many, or a wrong indent: a text that holds `: ` must be in quotes"
    if "undefined alias" in fault:
        return f"{fault}: define it with & first, or put a text that begins with * in quotes"
    if "another document" in fault:
        return "a second document begins here: one file is one configuration, take out the ---"
    return f"not YAML here: {fault}; look at quotes, brackets and indent, also in the line above"


class _YamlReader:
    """Walks PyYAML's node tree once: builds the data, and records lines and problems."""

    def __init__(self, document: YamlDocument) -> None:
        self._document = document
        self._nodes = 0
        self._open: set[int] = set()

    def read(self, root: yaml.Node) -> None:
        try:
            self._document.data = self._value(root, ())
        except _TooBigError as error:
            self._document.note(error.line, (), str(error))

    def _problem(self, node: yaml.Node, path: Path, sentence: str) -> None:
        self._document.note(node.start_mark.line + 1, path, sentence)

    def _value(self, node: yaml.Node, path: Path) -> Any:
        self._document.lines.setdefault(path, node.start_mark.line + 1)
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise _TooBigError(node, f"more than {MAX_NODES} values with its aliases written out")
        if len(self._open) > MAX_DEPTH:
            raise _TooBigError(node, f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if id(node) in self._open:
            raise _TooBigError(node, "an anchor that contains itself")
        if node.tag not in ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
            self._problem(node, path, f"the tag {node.tag} is not understood; remove it")
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            return [self._value(item, (*path, index)) for index, item in enumerate(node.value)]
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:  # merges first: own keys override their lines
            if _is_merge(key_node):
                self._merge(value_node, path, merged)
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                flow = isinstance(key_node, yaml.MappingNode) and key_node.flow_style
                quoted = (
                    "a value that begins with {{ must" if flow else "a key must be a text: it may have to"
                )
                self._problem(key_node, path, f"{quoted} be in quotes")
                continue
            key = key_node.value
            if _is_merge(key_node):
                continue
            line = key_node.start_mark.line + 1
            if fault := _text_fault(key):
                self._problem(key_node, path, f"the key {key!r} {fault}")
                continue
            if key in own:
                first = self._document.lines[(*path, key)]
                twice = f"written twice (first in line {first}): keep one of them"
                self._document.note(line, (*path, key), twice)
                continue
            self._document.lines[(*path, key)] = line
            own[key] = self._value(value_node, (*path, key))
        return {**merged, **own}

    def _merge(self, node: yaml.Node, path: Path, merged: dict[str, Any]) -> None:
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for source in sources:
            if not isinstance(source, yaml.MappingNode):
                self._problem(source, path, "<< takes a mapping, or a list of them")
                continue
            value = self._value(source, path)
            merged.update({key: item for key, item in value.items() if key not in merged})

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        plain = node.style is None
        text: str = node.value
        if node.tag != _TEXT_TAG:
            self._problem(node, path, f"the tag {node.tag} is not understood; remove it")
        if plain and text in ("", "~", "null", "Null", "NULL"):
            return None
        text = _VARIABLE.sub(lambda found: self._variable(found, node, path), text)
        if fault := _text_fault(text):
            self._problem(node, path, fault)
            return ""
        return _resolve(text) if plain else text

    def _variable(self, found: re.Match[str], node: yaml.ScalarNode, path: Path) -> str:
        escaped, name = found.groups()
        if escaped:
            return found.group()[1:]
        if not _NAME.fullmatch(name):
            self._problem(node, path, f"${{{name}}} is not a variable's name; a literal ${{ is written $${{")
            return ""
        environment: Mapping[str, str] = os.environ
        if name not in environment:
            self._problem(node, path, f"the environment variable {name} is not set: set it")
            return ""
        return environment[name]


class _TooBigError(Exception):
    def __init__(self, node: yaml.Node, sentence: str) -> None:
        super().__init__(sentence)
        self.line = node.start_mark.line + 1


def _is_merge(key: yaml.Node) -> bool:
    return isinstance(key, yaml.ScalarNode) and key.value == "<<" and key.style is None


def _text_fault(text: str) -> str | None:
    if "\0" in text:
        return "contains a NUL character; remove it"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "holds a character that can't be written as UTF-8"
    return None


def _resolve(text: str) -> str | int | float | bool:
    if text in ("true", "True", "TRUE"):
        return True
    if text in ("false", "False", "FALSE"):
        return False
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text

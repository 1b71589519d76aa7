"""Debian's package descriptions: a long text, and the one-line synopsis by its maintainer.

From apt's list Translation-en, which is downloaded once into a folder of its own; the system's lists stay as
they are. Packages of one source often share a text: each text counts once. Half of the packages, by the
SHA-256 of their names, are for development, the other half for tests.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeslm.errors import ExportError

WORDS: Final = (40, 400)
"""Of a long text: a shorter one hardly needs a summary."""
_FIELD: Final = re.compile(r"(?ms)^([\w-]+): (.*?)(?=^\S|\Z)")


@dataclass(frozen=True, slots=True)
class Description:
    package: str
    synopsis: str
    text: str


def load_descriptions(cache: Path, *, is_test: bool) -> list[Description]:
    """One half, in the order of the hashes of the packages' names.

    :param cache: a folder to keep the list in.
    :raises ExportError: apt can't download it.
    """
    found = {one.text: one for one in parse_descriptions(_read_list(cache))}
    synopses = {one.synopsis: one for one in found.values()}
    half = [one for one in synopses.values() if (_hash(one.package)[0] in "01234567") == is_test]
    return sorted(half, key=lambda one: _hash(one.package))


def parse_descriptions(text: str) -> Iterator[Description]:
    """Those of apt's list whose long texts have some length (Debian Policy, section 5.6.13)."""
    for stanza in text.split("\n\n"):
        fields = {match[1]: match[2] for match in _FIELD.finditer(stanza)}
        synopsis, _, rest = fields.get("Description-en", "").partition("\n")
        lines = ["" if line.strip() == "." else line[1:] for line in rest.splitlines()]
        long = "\n".join(lines).strip()
        if synopsis and WORDS[0] <= len(long.split()) <= WORDS[1]:
            yield Description(fields["Package"].strip(), synopsis.strip(), long)


def _hash(package: str) -> str:
    return hashlib.sha256(package.encode()).hexdigest()


def _read_list(cache: Path) -> str:
    file = cache / "Translation-en"
    if not file.is_file():
        lists = cache / "lists"
        (lists / "partial").mkdir(parents=True, exist_ok=True)
        options = {
            "Dir::State::lists": str(lists),
            "Acquire::Languages": "en",
            "APT::Sandbox::User": "root",
            "Dir::Cache::pkgcache": "",
            "Dir::Cache::srcpkgcache": "",
        }
        command = ["apt-get", "update", *(f"-o{key}={value}" for key, value in options.items())]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        parts = sorted(lists.glob("*main_i18n_Translation-en*"))
        if not parts:
            raise ExportError(f"apt can't download the descriptions: {done.stderr.strip()[:300]}")
        read = ["/usr/lib/apt/apt-helper", "cat-file", *map(str, parts)]
        partial = file.with_suffix(".partial")
        partial.write_bytes(subprocess.run(read, capture_output=True, check=True).stdout)
        partial.rename(file)
    return file.read_text("utf-8", "replace")

"""Third-party licences and bill of materials for packages and containers.

    python -I scripts/third_party.py SITE_PACKAGES FOLDER

Writes the licence texts of the distributions in SITE_PACKAGES to ``FOLDER/THIRD-PARTY.txt``, and a
CycloneDX 1.6 bill of materials to ``FOLDER/sbom.cdx.json``. Uses no network. The same distributions give
the same bytes.
"""

from __future__ import annotations

import json
import os
import re
import sys
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import Message
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path
from typing import Any, cast

OWN = "edgeslm"
APACHE = Path(__file__).resolve().parent.parent / "LICENSE"
"""Text of the Apache License 2.0, for wheels that lack it."""
TEXTS = re.compile(r"(licen[cs]e|copying|notice|authors|third.?party).*", re.IGNORECASE)
APACHE_NAMES = re.compile(r"Apache[- ](Software License|License|2\.0).*", re.IGNORECASE)
SEPARATOR = "=" * 100


@dataclass(frozen=True)
class Part:
    """A distribution: its licence as stated, and its licence texts by file name."""

    name: str
    version: str
    licence: str
    is_expression: bool
    texts: dict[str, str] = field(default_factory=dict)
    needs: frozenset[str] = frozenset()

    @property
    def url(self) -> str:
        """Package URL (purl)."""
        return f"pkg:pypi/{self.name}@{self.version}"


def canonical(name: str) -> str:
    """A normalized name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_parts(site: Path) -> list[Part]:
    """All distributions, by name. :raises SystemExit: one has no licence text and isn't under Apache 2.0."""
    found = [read_part(PathDistribution(info), site) for info in sorted(site.glob("*.dist-info"))]
    found.sort(key=lambda part: part.name)
    without = [part.name for part in found if not part.texts and part.name != OWN]
    if without:
        sys.exit(f"third_party: no licence text is known of {', '.join(without)}")
    return found


def read_part(distribution: Distribution, site: Path) -> Part:
    metadata = cast("Message", distribution.metadata)  # its `get` returns None for missing names
    name = canonical(metadata["Name"])
    expression = metadata.get("License-Expression")
    licence = expression or licence_name(metadata.get("License"), metadata.get_all("Classifier") or ())
    info = site / f"{re.sub(r'[-.]+', '_', metadata['Name'])}-{metadata['Version']}.dist-info"
    if not info.is_dir():
        (info,) = (one for one in site.glob("*.dist-info") if one.name.lower().startswith(f"{_file(name)}-"))
    texts = dict(texts_in(info, site, everywhere=True))
    for folder in site.iterdir():  # some wheels have licence texts beside their modules
        if folder.is_dir() and folder.name.lower() == _file(name):
            texts |= texts_in(folder, site, everywhere=False)
    if not texts and APACHE_NAMES.fullmatch(licence):
        texts = {"Apache License 2.0": APACHE.read_text()}
    needs = {
        canonical(found[0])
        for line in distribution.requires or ()
        if "extra ==" not in line and (found := re.match(r"[\w.-]+", line))
    }
    return Part(name, metadata["Version"], licence, bool(expression), texts, frozenset(needs))


def _file(name: str) -> str:
    return name.replace("-", "_")


def licence_name(text: str | None, classifiers: Sequence[str]) -> str:
    """The licence of a distribution without a licence expression."""
    named = [line.rpartition(" :: ")[2] for line in classifiers if line.startswith("License :: ")]
    if text and "\n" not in text and len(text) < 60:
        return text
    return ", ".join(named) or "not named"


def texts_in(folder: Path, site: Path, *, everywhere: bool) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*") if everywhere else folder.iterdir()):
        in_licences = everywhere and "licenses" in path.relative_to(folder).parts[:-1]
        if (
            path.is_file()
            and path.suffix not in (".py", ".pyc", ".json")
            and (in_licences or TEXTS.fullmatch(path.name))
        ):
            yield str(path.relative_to(site)), path.read_text("utf-8", errors="replace")


def third_party_text(parts: Sequence[Part]) -> str:
    others = [part for part in parts if part.name != OWN]
    lines = ["What others made and is installed here, with its licences.", ""]
    lines += [f"{part.name} {part.version}: {part.licence}" for part in others]
    for part in others:
        for name, text in part.texts.items():
            lines += ["", SEPARATOR, f"{part.name} {part.version}: {name}", SEPARATOR, "", text.strip()]
    return "\n".join(lines) + "\n"


def bill_of_materials(parts: Sequence[Part], made: datetime | None) -> dict[str, Any]:
    """CycloneDX 1.6, as JSON. :param made: timestamp, if known."""
    known = {part.name: part.url for part in parts}
    serial = uuid.uuid5(uuid.NAMESPACE_URL, " ".join(sorted(known.values())))
    document: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {"timestamp": made.strftime("%Y-%m-%dT%H:%M:%SZ")} if made else {},
        "components": [_component(part) for part in parts if part.name != OWN],
        "dependencies": [
            {"ref": part.url, "dependsOn": sorted(known[name] for name in part.needs if name in known)}
            for part in parts
        ],
    }
    for part in parts:
        if part.name == OWN:
            document["metadata"]["component"] = {**_component(part), "type": "application"}
    return document


def _component(part: Part) -> dict[str, Any]:
    licence = {"expression": part.licence} if part.is_expression else {"license": {"name": part.licence}}
    return {
        "type": "library",
        "bom-ref": part.url,
        "name": part.name,
        "version": part.version,
        "purl": part.url,
        "licenses": [licence],
    }


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("usage: third_party.py SITE_PACKAGES FOLDER")
    site, folder = map(Path, sys.argv[1:])
    parts = read_parts(site)
    seconds = os.environ.get("SOURCE_DATE_EPOCH")
    made = datetime.fromtimestamp(int(seconds), UTC) if seconds else None
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "THIRD-PARTY.txt").write_text(third_party_text(parts), "utf-8")
    bill = json.dumps(bill_of_materials(parts, made), indent=1)
    (folder / "sbom.cdx.json").write_text(bill + "\n", "utf-8")


if __name__ == "__main__":
    main()

"""Hand-written Office files with as few parts as possible."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from io import BytesIO

_RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


def make_package(parts: Mapping[str, bytes | str]) -> bytes:
    """A ZIP file."""
    file = BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return file.getvalue()


def relations(**targets: str) -> str:
    """A relationships part: ids and targets; a target's type follows from its name."""
    lines = "".join(
        f'<Relationship Id="{number}" Type="{_RELATIONS}/{_kind(target)}" Target="{target}"/>'
        for number, target in targets.items()
    )
    return f"<Relationships>{lines}</Relationships>"


def _kind(target: str) -> str:
    return target.rpartition("/")[2].partition(".")[0].rstrip("0123456789")


def docx_of(body: bytes | str, styles: str = "<styles/>") -> bytes:
    """:param body: the document's XML, from its first element."""
    return make_package({"word/document.xml": body, "word/styles.xml": styles})


def xlsx_of(*sheets: bytes | str, shared: str = "<sst/>", styles: str = "<styleSheet/>") -> bytes:
    """Sheets called S1, S2 and so on."""
    numbers = range(1, len(sheets) + 1)
    listed = "".join(f'<sheet name="S{number}" id="r{number}"/>' for number in numbers)
    targets = {f"r{number}": f"worksheets/sheet{number}.xml" for number in numbers}
    return make_package(
        {
            "xl/workbook.xml": f"<workbook><sheets>{listed}</sheets></workbook>",
            "xl/_rels/workbook.xml.rels": relations(
                **targets, shared="sharedStrings.xml", styles="styles.xml"
            ),
            "xl/sharedStrings.xml": shared,
            "xl/styles.xml": styles,
            **{f"xl/worksheets/sheet{at}.xml": sheet for at, sheet in enumerate(sheets, 1)},
        }
    )


def pptx_of(*slides: bytes | str) -> bytes:
    numbers = range(1, len(slides) + 1)
    listed = "".join(f'<sldId id="r{number}"/>' for number in numbers)
    targets = {f"r{number}": f"slides/slide{number}.xml" for number in numbers}
    return make_package(
        {
            "ppt/presentation.xml": f"<presentation><sldIdLst>{listed}</sldIdLst></presentation>",
            "ppt/_rels/presentation.xml.rels": relations(**targets),
            **{f"ppt/slides/slide{at}.xml": slide for at, slide in enumerate(slides, 1)},
        }
    )

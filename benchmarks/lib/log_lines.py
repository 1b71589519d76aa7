"""Log lines of fail2ban's tests: whether a line is a failed login, and the host.

From the tests of Debian's package fail2ban, where each line follows a comment that says what it means. A line
stands there once for each mode of its filter that it is tested in: it counts once, as a failed attempt if any
mode takes it for one. Only services whose name's SHA-256 begins with 8 to f: the others are nobody's to
develop on.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from pathlib import Path
from typing import Any, Final

from edgeslm_export.starter import fetch_debian

from edgeslm.errors import ExportError

LOGS: Final = "usr/lib/python3/dist-packages/fail2ban/tests/files/logs"
_COMMENT: Final = re.compile(r"#\s*(failJSON|filterOptions|addFILE)\s*:\s*(.*)")
SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"failed": {"type": "boolean"}, "host": {"type": "string"}},
    "required": ["failed"],
}


def load_lines() -> list[dict[str, Any]]:
    """Rows with ``service``, ``text`` and ``fields``: ``failed``, and ``host`` where the line has it.

    :raises ExportError: the package can't be had.
    """
    with tempfile.TemporaryDirectory() as name:
        if not fetch_debian("fail2ban", Path(name)):
            raise ExportError(
                "The log lines come from Debian's package fail2ban, which apt-get can't download."
            )
        files = [file for file in sorted((Path(name) / LOGS).iterdir()) if file.is_file()]
        return [row for file in files if is_for_development(file.name) for row in _rows(file)]


def is_for_development(service: str) -> bool:
    return hashlib.sha256(service.encode()).hexdigest()[0] in "89abcdef"


def _rows(file: Path) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    meaning: dict[str, Any] | None = None
    for line in file.read_text("utf-8", "replace").splitlines():
        if comment := _COMMENT.match(line):
            if comment[1] == "failJSON":
                meaning = json.loads(comment[2])
        elif line.strip() and not line.startswith("#") and meaning is not None:
            fields: dict[str, Any] = {"failed": bool(meaning.get("match"))}
            host = meaning.get("host") or meaning.get("ip4") or meaning.get("ip6")
            if fields["failed"] and host and host in line:
                fields["host"] = host
            row = rows.setdefault(line, {"service": file.name, "text": line, "fields": fields})
            if len(fields) > len(row["fields"]) or (fields["failed"] and not row["fields"]["failed"]):
                row["fields"] = fields
            meaning = None
    return list(rows.values())

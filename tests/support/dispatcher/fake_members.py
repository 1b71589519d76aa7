"""Info documents of pool members for tests."""

from __future__ import annotations

import json
from typing import Any

DIGEST = "sha256:1f3a00"


def info(**changes: Any) -> bytes:
    """The info document of a member with the task ``label``."""
    return json.dumps(
        {
            "protocol": 1,
            "pool": {"name": "triage", "tasks": ["label"], "by": "dispatcher"},
            "tasks": {"label": {"kind": "classify", "model": "small"}, "other": {"kind": "classify"}},
            "models": {"small": {"digest": DIGEST}},
            **changes,
        }
    ).encode()


def state(name: str = "online", boot_id: str = "b") -> bytes:
    return json.dumps({"state": name, "boot_id": boot_id}).encode()

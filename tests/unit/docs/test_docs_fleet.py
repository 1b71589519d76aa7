"""docs/operations/monitoring.md agrees with the code: keys of the inventory, and its table."""

from __future__ import annotations

import re

from edgeslm.telemetry.fleet import entry_of, inventory, table
from edgeslm.telemetry.overview import Painter
from tests.support.paths import ROOT

PAGE = (ROOT / "docs/operations/monitoring.md").read_text("utf-8")
NOW = 1_800_000_000.0


def test_every_key_of_a_node_in_the_inventory_is_described() -> None:
    entry = entry_of("hall", {"health": {"at": NOW}}, NOW)
    document = inventory([entry])
    rows = PAGE[PAGE.index("| key of a node |") :].split("\n\n")[0].splitlines()[2:]
    described = [key for row in rows for key in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(described) == sorted(document["nodes"][0])
    assert set(document) == {"nodes", "differences"}
    assert all(f"`{key}`" in PAGE for key in document["nodes"][0]["load"])


def test_the_table_that_is_shown_is_what_is_printed() -> None:
    def model(digest: str) -> dict[str, object]:
        return {"small": {"bundle": "smollm2-135m-int4", "digest": f"sha256:{digest}"}}

    def health(age_s: float, running: int, count: int) -> dict[str, object]:
        return {"at": NOW - age_s, "queue": 0, "in_flight": running, "results": {"ok": count}}

    info = {"version": "0.2.0", "protocol": 1}
    pool = {"name": "triage", "tasks": ["topic"], "by": "dispatcher"}
    said = {
        "pool/triage": (
            "online",
            {**info, "members": {"press-hall-4": "online", "yard": "offline"}},
            health(12, 0, 941),
        ),
        "press-hall-4": (
            "online",
            {**info, "pool": pool, "models": model("8deec289efa7")},
            health(3, 1, 940),
        ),
        "yard": (
            "offline",
            {**info, "pool": pool, "models": model("3349222bc512")},
            health(12 * 86400, 0, 31),
        ),
    }
    entries = [
        entry_of(name, {"state": {"state": state}, "info": about, "health": now}, NOW)
        for name, (state, about, now) in said.items()
    ]
    lines = table(entries, width=100, title="fleet at mqtt://localhost", paint=Painter(coloured=False))
    shown = re.search(r"(?s)```text\n(fleet at .*?)```", PAGE)
    assert shown is not None
    assert "\n".join(lines) == shown[1].rstrip("\n")

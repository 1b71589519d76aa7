"""Members of a pool for tests: small nodes whose results tell which of them answered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeslm.bundle.manifest import load_bundle
from tests.support.apps import App, Heard
from tests.support.nodes import TASKS, write_bundle

POOL = "edgeslm/v1/pool/hands"
ASK = f"{POOL}/req/triage"
SHARE = f"$share/hands/{ASK}"


def member(url: str, folder: Path, name: str, **changes: Any) -> dict[str, Any]:
    """The configuration of a member in a folder of its own, ``folder/name``."""
    home = folder / name
    home.mkdir(exist_ok=True)
    return {
        "node": name,
        "broker": {"url": url},
        "models": {"small": {"bundle": str(write_bundle(home / "small", weights=name.encode()))}},
        "tasks": {"triage": TASKS["triage"]},
        "pool": {"name": "hands", "tasks": ["triage"]},
        "prepare": "never",
        "state_dir": str(home / "state"),
        **changes,
    }


def base(name: str) -> str:
    return f"edgeslm/v1/{name}"


def who(heard: Heard, folder: Path, *names: str) -> str:
    """Whose result that is; all bundles differ."""
    digests = {load_bundle(folder / name / "small").digest[:19]: name for name in names}
    return digests[heard.json["model"].partition("@")[2][:19]]


def ask(app: App, first: int, count: int, text: str = "all fine") -> set[str]:
    """Asks the pool ``count`` times: the ids. Results come to the pool's own reply topic of the desk."""
    ids = {str(number) for number in range(first, first + count)}
    for id in sorted(ids, key=int):
        app.publish(ASK, {"input": text, "id": id, "reply_to": f"{POOL}/res/triage/desk"})
    return ids


def answers(app: App, count: int) -> list[Heard]:
    """So many results of :func:`ask`, as they come."""
    return [app.take(f"{POOL}/res/triage/desk") for _ in range(count)]


def untaken_ids(app: App) -> set[str]:
    return {heard.json["id"] for heard in app.untaken(f"{POOL}/res/triage/desk")}

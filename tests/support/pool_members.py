"""Pool members for tests: nodes whose results tell which of them answered."""

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
    """A member's configuration in its own folder ``folder/name``."""
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
    """The member that sent a result, known from its bundle's digest."""
    digests = {load_bundle(folder / name / "small").digest[:19]: name for name in names}
    return digests[heard.json["model"].partition("@")[2][:19]]


def ask(app: App, first: int, count: int, text: str = "all fine") -> set[str]:
    """Sends ``count`` requests to the pool. :return: their ids. Results arrive on the app's reply topic."""
    ids = {str(number) for number in range(first, first + count)}
    for id in sorted(ids, key=int):
        app.publish(ASK, {"input": text, "id": id, "reply_to": f"{POOL}/res/triage/desk"})
    return ids


def answers(app: App, count: int) -> list[Heard]:
    """``count`` results of :func:`ask`, in order of arrival."""
    return [app.take(f"{POOL}/res/triage/desk") for _ in range(count)]


def untaken_ids(app: App) -> set[str]:
    return {heard.json["id"] for heard in app.untaken(f"{POOL}/res/triage/desk")}

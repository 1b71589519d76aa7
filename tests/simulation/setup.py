"""Settings of a simulated world, drawn from its seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.simulation import routes

CONFIG = """
node: n0
broker: {{url: mqtt://b0}}
models: {{small: {{bundle: {bundle}, threads: 1}}{names}}}
prepare: never
durability: {durability}
limits: {{{limits}}}
journal: {{{journal}}}
state_dir: {state}
tasks:
  say: {{kind: generate, model: small{instruction}}}
"""

Change = Literal["same", "instruction", "bundle", "broken bundle", "broken file", "routes", "collection"]
CHANGES: tuple[Change, ...] = (
    *("same", "instruction", "bundle", "broken bundle", "broken file", "routes", "collection", "collection"),
)
"""What changes in the configuration before a reload."""


@dataclass(frozen=True)
class Setup:
    """``repeat_window_s`` and ``journal_bytes`` are the node's limits. With ``lowest_mids``, the broker gives
    each message the lowest free packet identifier. ``outbox_bytes`` is the limit of the node's outbox.
    ``has_equal`` is whether sensors send equal messages; the broker then loses all when it is killed.
    ``has_names`` is whether a model redacts messages. ``refuses_collections`` is the share of the knowledge
    processes that can't open their collection. ``has_library`` is whether an app uses the client library."""

    durability: Literal["broker", "spool"] = "broker"
    queue: int = 16
    receive_maximum: int = 20
    saves_at_once: bool = False
    saves_every_s: float = 2.0
    repeat_window_s: float = 3600.0
    journal_bytes: int = 1 << 26
    is_sealed: bool = False
    lowest_mids: bool = False
    outbox_bytes: int = 1 << 24
    mqtt5: bool = True
    bad_pages: float = 0.03
    has_equal: bool = False
    has_names: bool = False
    refuses_collections: float = 0.1
    has_library: bool = False

    @property
    def keeps_answers(self) -> bool:
        """Whether the journal keeps each answer until the end of the run."""
        return self.repeat_window_s >= 3600 and self.journal_bytes > 1 << 20

    @classmethod
    def draw(cls, chance: random.Random) -> Setup:
        has_equal, is_sealed = chance.random() < 0.15, chance.random() < 0.2
        return cls(
            durability=chance.choice(("broker", "broker", "spool")),
            queue=chance.choice((4, 16, 64)),
            receive_maximum=chance.choice((1, 5, 20)),
            saves_at_once=chance.random() < 0.5,
            saves_every_s=chance.choice((0.1, 2.0)),
            repeat_window_s=chance.choice((3600.0, 3600.0, 3600.0, 4.0)),
            journal_bytes=chance.choice((1 << 26, 1 << 26, 1 << 26, 1 << 16)),
            is_sealed=is_sealed,
            lowest_mids=chance.random() < 0.3 and not has_equal,
            outbox_bytes=chance.choice((1 << 24, 1 << 24, 6000)),
            mqtt5=chance.random() < 0.85,
            bad_pages=0.0 if is_sealed else chance.choice((0.03, 0.03, 0.2)),  # a changed mark stops the node
            has_equal=has_equal,
            has_names=chance.random() < 0.4,
            refuses_collections=chance.choice((0.1, 0.4)),
            has_library=chance.random() < 0.4,
        )

    def text(self, folder: Path, change: Change = "same") -> str:
        """The configuration of a node with its files in ``folder``."""
        if change == "broken file":
            return "node: [n0"
        bundle = {"bundle": "other", "broken bundle": "broken"}.get(change, "bundle")
        text = CONFIG.format(
            bundle=folder / bundle,
            names=f", names: {{bundle: {folder / 'names'}, threads: 1}}" if self.has_names else "",
            durability=self.durability,
            limits=f"queue: {self.queue}, request_timeout_s: 20, repeat_window_s: {self.repeat_window_s}, "
            f"journal_bytes: {self.journal_bytes}",
            journal=f"key_file: {folder / 'key'}" if self.is_sealed else "",
            state=folder / "n0",
            instruction=", instruction: Answer" if change == "instruction" else "",
        )
        return text.rstrip() + routes.config(folder, change, has_names=self.has_names)


Draw = Callable[[random.Random], Setup]

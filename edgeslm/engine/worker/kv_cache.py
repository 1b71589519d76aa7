"""KV-cache slots: generators kept warm so that shared prompt prefixes are computed once.

A task's fixed instruction is the beginning of all its prompts. A slot that shares it is rewound to where the
next prompt parts from it. Knows nothing of the runtime but ``rewind_to``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Final, NamedTuple

from edgeslm.engine.calls import Guide, Sampling

SLOT_STEP: Final = 256
"""Slots are rounded up to this many tokens, so that similar requests share one."""
SLOT_BYTES: Final = 64_000_000
"""What the caches of all slots may take together; those in use always may."""
MOST_SLOTS: Final = 8
"""A generator takes memory beside its cache, most of all with a grammar."""
WORTH_SHARING: Final = 16
"""Tokens. With fewer in common (the template's head), another task's slot isn't taken away from it: making
one costs about as much as computing so many tokens."""
_PHI3_SWITCH: Final = 4096
"""Phi-3's LongRoPE changes its factors after this many tokens: a cache can't be rewound across it."""


class SlotKey(NamedTuple):
    """What a generator can't change, or its cache depends on."""

    guide: Guide | None = None
    repetition_penalty: float = Sampling().repetition_penalty
    adapter: str | None = None
    drafts: int = 0
    """Tokens that are proposed at a time, at most."""
    forced: int = 0
    """Tokens that the grammar may force at a time, for which there is room; 0 computes them like others."""


@dataclass(slots=True, eq=False)
class KvSlot:
    """A generator, the ids in its sequence, and what it was made for."""

    generator: Any
    key: SlotKey
    max_length: int
    tokens: list[int] = field(default_factory=list)
    prompt_length: int = 0
    reused: bool = False


class SlotPool:
    """Those of no call that runs: a slot is taken out, and put back when its call is done.

    :param kv_bytes: of the cache, for each token. :param rewind_limit: tokens up to which one may be rewound.
    """

    def __init__(
        self,
        kv_bytes: int,
        rewind_limit: int,
        *,
        budget_bytes: int = SLOT_BYTES,
        most: int = MOST_SLOTS,
    ) -> None:
        self._kv_bytes = kv_bytes
        self._rewind_limit = rewind_limit
        self._budget_bytes = budget_bytes
        self._most = most
        self._slots: list[KvSlot] = []  # the end is the most recently used

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def tokens(self) -> int:
        """That the caches have room for."""
        return sum(slot.max_length for slot in self._slots)

    def clear(self) -> None:
        self._slots.clear()

    def put(self, slot: KvSlot) -> None:
        self._slots.append(slot)

    def take(self, ids: Sequence[int], length: int, key: SlotKey) -> tuple[int, KvSlot | None]:
        """The slot that shares the longest beginning with ``ids``, rewound to its end, and how long that is.

        None, and 0, where none with room for ``length`` tokens shares enough.
        """
        fitting = [slot for slot in self._slots if slot.key == key and slot.max_length >= length]
        shared, slot = max(
            ((self._reusable(slot, ids), slot) for slot in fitting), key=itemgetter(0), default=(0, None)
        )
        if slot is None or shared < WORTH_SHARING:
            return 0, None
        self._slots.remove(slot)
        slot.generator.rewind_to(shared)
        slot.reused = True
        return shared, slot

    def make_room(self, max_length: int) -> None:
        """Slots go until one of ``max_length`` tokens fits the budget: the oldest that never served twice,
        else the oldest.

        So the slots of requests with a grammar of their own push one another out, not a task's instruction.
        """
        while self._slots:
            total = max_length + self.tokens
            if len(self._slots) < self._most and total * self._kv_bytes <= self._budget_bytes:
                return
            self._slots.remove(next((slot for slot in self._slots if not slot.reused), self._slots[0]))

    def _reusable(self, slot: KvSlot, ids: Sequence[int]) -> int:
        """How many leading tokens of the slot's cache serve ``ids``.

        Only what was prefilled, and two tokens are left to append: a step of one token, as in decoding,
        takes another kernel with other rounding. Pieces of two or more tokens get the same bits as the whole
        on processors with AVX2, so there the same request gets the same answer, whatever came before; with
        AVX-512 sums are made in another order for few rows (measured: probabilities of labels move by 0.02).
        """
        if max(len(slot.tokens), len(ids)) > self._rewind_limit:
            return 0
        limit = min(slot.prompt_length, len(ids) - 2)
        count = 0
        while count < limit and slot.tokens[count] == ids[count]:
            count += 1
        return count


def rounded(length: int, context_length: int) -> int:
    """Tokens that a slot is made for, to hold ``length``."""
    return min(-(-length // SLOT_STEP) * SLOT_STEP, context_length)


def rewind_limit(settings: dict[str, Any], context_length: int) -> int:
    """Tokens up to which a cache may be rewound: all, the sliding window, or Phi-3's switch.

    :param settings: ``model`` of ``genai_config.json``.
    """
    window = settings.get("decoder", {}).get("sliding_window") or {}
    limits = [context_length, window.get("window_size") or context_length]
    if str(settings.get("type", "")).startswith("phi3") and context_length > _PHI3_SWITCH:
        limits.append(_PHI3_SWITCH)
    return min(limits)

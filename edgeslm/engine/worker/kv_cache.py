"""KV-cache slots: generators that are kept with their caches, so that shared prompt prefixes are computed
once.

All prompts of a task begin with the task's fixed instruction. A slot that holds the instruction is rewound to
the first token that differs in the next prompt. A model with a recurrent state (convolutions of LFM2, linear
attention of Qwen3.5) can only go back to where its state was kept: at the end of the instruction, or else of
the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Final, NamedTuple

from edgeslm.bundle.size_estimate import STATE_COPIES
from edgeslm.engine.calls import Guide, Sampling

SLOT_STEP: Final = 256
"""Slot sizes are rounded up to a multiple of this many tokens, so that similar requests share a slot."""
SLOT_BYTES: Final = 64_000_000
"""Memory budget, in bytes, of all idle slots; slots in use don't count."""
MOST_SLOTS: Final = 8
"""Largest number of idle slots, since a generator takes memory in addition to its cache, especially with a
grammar."""
WORTH_SHARING: Final = 16
"""A slot is reused only if it shares at least this many leading tokens with the prompt. A shorter prefix,
such as the start of the chat template, doesn't justify taking another task's slot, since a new slot costs
about as much as computing 16 tokens."""
_PHI3_SWITCH: Final = 4096
"""Number of tokens after which Phi-3's LongRoPE changes its factors; a cache can't be rewound across this
point."""


class SlotKey(NamedTuple):
    """Settings that a generator can't change later, or that affect its cache; a call reuses a slot only if
    all settings are equal."""

    guide: Guide | None = None
    repetition_penalty: float = Sampling().repetition_penalty
    adapter: str | None = None
    drafts: int = 0
    """Largest number of draft tokens in a decoding step."""
    forced: int = 0
    """Largest number of tokens that the grammar may force in a decoding step; the cache has extra room for
    them; 0 disables forcing."""


@dataclass(slots=True, eq=False)
class KvSlot:
    """A generator, the token ids in its cache, and its key."""

    generator: Any
    key: SlotKey
    max_length: int
    tokens: list[int] = field(default_factory=list)
    prompt_length: int = 0
    reused: bool = False
    kept: int = 0
    """Number of leading tokens after which a recurrent state is kept; 0 if none is."""


class SlotPool:
    """Pool of idle slots. A call takes a slot out and puts it back when the call is done.

    :param kv_bytes: bytes of the cache for each token.
    :param rewind_limit: longest cache, in tokens, that can be rewound.
    :param state_bytes: bytes of a slot's recurrent state; 0 for a model that has none.
    """

    def __init__(
        self,
        kv_bytes: int,
        rewind_limit: int,
        *,
        state_bytes: int = 0,
        budget_bytes: int = SLOT_BYTES,
        most: int = MOST_SLOTS,
    ) -> None:
        self._kv_bytes = kv_bytes
        self._rewind_limit = rewind_limit
        self._state_bytes = state_bytes
        self._budget_bytes = budget_bytes
        self._most = most
        self._slots: list[KvSlot] = []  # most recently used last

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def tokens(self) -> int:
        """Total capacity of the caches of idle slots, in tokens."""
        return sum(slot.max_length for slot in self._slots)

    def clear(self) -> None:
        self._slots.clear()

    def put(self, slot: KvSlot) -> None:
        self._slots.append(slot)

    def take(self, ids: Sequence[int], length: int, key: SlotKey) -> tuple[int, KvSlot | None]:
        """Takes the slot that shares the longest prefix with ``ids`` and rewinds it to the end of this
        prefix.

        :return: the prefix length and the slot; (0, None) if no slot with room for ``length`` tokens shares
            enough tokens.
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
        """Evicts slots until a new slot of ``max_length`` tokens fits the budget. The oldest slot that was
        never reused is evicted first; if all were reused, the oldest slot.

        With this order, slots with the grammar of a single request are evicted before the reused slot that
        holds a task's instruction.
        """
        while self._slots:
            needed = (max_length + self.tokens) * self._kv_bytes
            needed += (1 + len(self._slots)) * STATE_COPIES * self._state_bytes
            if len(self._slots) < self._most and needed <= self._budget_bytes:
                return
            self._slots.remove(next((slot for slot in self._slots if not slot.reused), self._slots[0]))

    def _reusable(self, slot: KvSlot, ids: Sequence[int]) -> int:
        """Number of leading tokens of the slot's cache that can be reused for ``ids``.

        Only prefilled tokens are reused. At least two tokens are left to append, since the runtime computes a
        single token with the decode kernel, which rounds differently. With AVX2, prefill gives bit-identical
        results for all pieces of two or more tokens, so the answer to a request doesn't depend on earlier
        requests. With AVX-512, short pieces are summed in another order (measured: label probabilities change
        by 0.02).
        """
        if max(len(slot.tokens), len(ids)) > self._rewind_limit:
            return 0
        if self._state_bytes:
            is_head = slot.kept <= len(ids) - 2 and slot.tokens[: slot.kept] == list(ids[: slot.kept])
            return slot.kept if is_head else 0
        limit = min(slot.prompt_length, len(ids) - 2)
        count = 0
        while count < limit and slot.tokens[count] == ids[count]:
            count += 1
        return count


def rounded(length: int, context_length: int) -> int:
    """Size, in tokens, of a slot that holds ``length`` tokens."""
    return min(-(-length // SLOT_STEP) * SLOT_STEP, context_length)


def rewind_limit(settings: dict[str, Any], context_length: int) -> int:
    """Longest cache, in tokens, that can be rewound; limited by the context, the sliding window and
    ``_PHI3_SWITCH``.

    :param settings: section ``model`` of ``genai_config.json``.
    """
    window = settings.get("decoder", {}).get("sliding_window") or {}
    limits = [context_length, window.get("window_size") or context_length]
    if str(settings.get("type", "")).startswith("phi3") and context_length > _PHI3_SWITCH:
        limits.append(_PHI3_SWITCH)
    return min(limits)

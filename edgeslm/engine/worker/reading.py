"""Reading tokens into KV-cache slots: in pieces, back to an earlier token, and with a recurrent state.

A cache of keys and values can be rewound to any token. A recurrent state can't: the runtime restores it only
at the one length where it was kept (``snapshot_state``). So a slot keeps the state after the prompt's part
that is the same in all prompts of a task, and goes back to a later token by reading what follows again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from edgeslm.engine.calls import IsCancelled
from edgeslm.engine.worker.kv_cache import WORTH_SHARING, KvSlot
from edgeslm.engine.worker.loading import engine_error
from edgeslm.engine.worker.prompt import Encoded
from edgeslm.errors import Cancelled

_STATES = ("past_conv_names", "past_recurrent_names")


def has_state(settings: Mapping[str, Any]) -> bool:
    """Whether a model has a recurrent state. ``settings`` is the section ``model`` of
    ``genai_config.json``."""
    return any(name in settings.get("decoder", {}).get("inputs", {}) for name in _STATES)


def pieces(count: int, most: int) -> Iterator[tuple[int, int]]:
    """Splits a prompt of ``count`` tokens into pieces of at most ``most`` tokens; yields start and end of
    each.

    The last piece has at least two tokens, since the runtime computes a single token with the decode kernel,
    which rounds differently.
    """
    start = 0
    while start < count:
        end = min(start + most, count)
        end -= count - end == 1
        yield start, end
        start = end


class PromptReader:
    """Reads tokens into slots of one model.

    :param piece: largest number of tokens in a forward pass.
    :param keeps_state: whether the model has a recurrent state.
    """

    def __init__(self, piece: int, *, keeps_state: bool) -> None:
        self.piece, self._keeps_state = piece, keeps_state

    def read(self, slot: KvSlot, prompt: Encoded, shared: int, cancelled: IsCancelled) -> None:
        """Fills a slot with exactly ``prompt``, of which it has the first ``shared`` tokens.

        :raises Cancelled: the call was cancelled between two pieces.
        """
        ids = prompt.ids
        if self._keeps_state and not shared:
            is_part = WORTH_SHARING <= prompt.fixed <= len(ids) - 2
            shared = prompt.fixed if is_part else len(ids)
            self._append(slot, ids[:shared], cancelled)
            slot.generator.snapshot_state()
            slot.kept = shared
        self._append(slot, ids[shared:], cancelled)
        slot.tokens, slot.prompt_length = list(ids), len(ids)

    def rewind(self, slot: KvSlot, length: int, cancelled: IsCancelled) -> None:
        """Goes back to the first ``length`` tokens of a slot.

        :raises Cancelled: the call was cancelled while tokens were read again.
        """
        if len(slot.tokens) == length:
            return
        start = length
        if self._keeps_state:
            start = slot.kept if slot.kept <= length else 0
        slot.generator.rewind_to(start)
        again = slot.tokens[start:length]
        del slot.tokens[start:]
        self._append(slot, again, cancelled)
        slot.tokens += again
        if self._keeps_state and not start:  # the runtime has forgotten the kept state
            slot.kept = length
            if length:
                slot.generator.snapshot_state()

    def _append(self, slot: KvSlot, ids: Sequence[int], cancelled: IsCancelled) -> None:
        """Appends tokens in pieces, so that a long prompt can be cancelled."""
        for start, end in pieces(len(ids), self.piece):
            if cancelled():
                raise Cancelled("cancelled while its prompt was read")
            try:
                slot.generator.append_tokens(np.array(ids[start:end], np.int32))
            except Exception as error:
                raise engine_error(error, slot.key.guide) from None

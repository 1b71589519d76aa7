"""Context overflow: a text with too many tokens is an error, or is truncated as configured."""

from __future__ import annotations

from edgeslm.engine.calls import Overflow
from edgeslm.errors import TooLong
from edgeslm.messages import Truncated


def fit(ids: list[int], room: int, overflow: Overflow) -> tuple[list[int], Truncated | None]:
    """Truncates ``ids`` to ``room`` tokens as ``overflow`` says; returns a shorter list unchanged.

    :raises TooLong: the list is too long and ``overflow`` is ``error``, or there is no room at all.
    """
    if len(ids) <= room:
        return ids, None
    if overflow == "error" or room <= 0:
        raise TooLong(
            f"the input has {len(ids)} tokens and there is room for {max(room, 0)}; "
            "send a shorter one, or set the task's overflow to head, tail or middle"
        )
    if overflow == "head":
        kept = ids[:room]
    elif overflow == "tail":
        kept = ids[len(ids) - room :]
    else:
        first = (room + 1) // 2
        kept = ids[:first] + ids[len(ids) - (room - first) :]
    return kept, Truncated(kept=room, of=len(ids))

"""Context overflow: a text with more tokens than fit is an error with the numbers, or cut as stated."""

from __future__ import annotations

from edgeslm.engine.calls import Overflow
from edgeslm.errors import TooLong
from edgeslm.messages import Truncated


def fit(ids: list[int], room: int, overflow: Overflow) -> tuple[list[int], Truncated | None]:
    """Shortens ``ids`` to ``room`` tokens as ``overflow`` says; shorter ones come back untouched.

    :raises TooLong: for ``error``, or when there is no room at all.
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

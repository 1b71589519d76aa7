"""One-pass scoring: which labels it is for, and when its graph is loaded (``scorer``).

Labels that differ at once take one pass by walking, too. So nobody waits for a second graph on their account,
and the first message after a start doesn't share the processors with its loading: that begins in a thread
with the second one, or before any, when tasks are made ready.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from edgeslm.engine.worker.labels import Branch
from edgeslm.engine.worker.prompt import PIECE, Encoded

if TYPE_CHECKING:
    from edgeslm.engine.worker.scorer import Scorer

MOST_ROWS: Final = 2 * PIECE
"""Tokens of branches in a pass: attention costs their square, and a pass can't be given up."""
MOST_TOKENS: Final = 8 * PIECE
"""Of a message: each piece copies all that was cached, so from some length on walking is cheaper."""


def fits(prompt: Encoded, tree: Branch, context_length: int) -> bool:
    """Whether these labels on this message may be one pass. The kernel counts the branches' tokens as if they
    came one after the other."""
    return (
        tree.rows() <= MOST_ROWS
        and len(prompt.ids) - prompt.fixed <= MOST_TOKENS
        and len(prompt.ids) + tree.rows() <= context_length
    )


class OnePass:
    """:param load: takes a fraction of a second, and raises BundleError."""

    def __init__(self, load: Callable[[], Scorer]) -> None:
        self._load = load
        self._coming: Future[Scorer] | None = None
        self._is_second = False

    @property
    def scorer(self) -> Scorer | None:
        """If it is there."""
        coming = self._coming
        if coming is None or not coming.done() or coming.exception() is not None:
            return None
        return coming.result()

    def find(self, *, waits: bool) -> Scorer | None:
        """What scores; None if it is still to come.

        :param waits: whether to wait for it. :raises BundleError: it can't be loaded, and one waited for it.
        """
        is_wanted, self._is_second = waits or self._is_second, True
        has_failed = self._coming is not None and self._coming.done() and self.scorer is None
        if is_wanted and (self._coming is None or (waits and has_failed)):
            thread = ThreadPoolExecutor(1, "score graph")
            self._coming = thread.submit(self._load)
            thread.shutdown(wait=False)
        return self._coming.result() if waits and self._coming is not None else self.scorer

    def forget(self) -> None:
        """Drops all caches."""
        if (scorer := self.scorer) is not None:
            scorer.forget()

    def close(self) -> None:
        """Waits for what is still being loaded."""
        if self._coming is not None:
            self._coming.exception()
            self._coming = None

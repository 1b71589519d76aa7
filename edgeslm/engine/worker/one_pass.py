"""One-pass scoring: decides when to load and use the score graph, with which ``scorer`` scores all labels of
a call in one forward pass.

If all labels of a call differ in their first token, the main graph also scores them in one pass, so the call
doesn't wait for the score graph. The worker's second scoring call starts a thread that loads the score graph
in the background; the first call doesn't, since loading would slow down the first message after a start. A
warm-up, or a call with labels that share their first token, loads the score graph and waits for it.
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
"""Maximum number of branch tokens in a pass; the number is limited, since the cost of attention is quadratic
and a pass can't be cancelled."""
MOST_TOKENS: Final = 8 * PIECE
"""Maximum length, in tokens, of a message that the score graph handles. The score graph copies the KV cache
after each piece of the message, so the main graph, which scores branch by branch, is faster for longer
messages."""


def fits(prompt: Encoded, tree: Branch, context_length: int) -> bool:
    """Whether the labels can be scored in one pass for this message. All branch tokens count towards the
    context length, since the kernel counts them as if they were consecutive."""
    return (
        tree.rows() <= MOST_ROWS
        and len(prompt.ids) - prompt.fixed <= MOST_TOKENS
        and len(prompt.ids) + tree.rows() <= context_length
    )


class OnePass:
    """Loads the one-pass scorer, but only when calls benefit from it.

    :param load: function that loads the scorer in a fraction of a second, or raises BundleError.
    """

    def __init__(self, load: Callable[[], Scorer]) -> None:
        self._load = load
        self._loading: Future[Scorer] | None = None
        self._is_second = False

    @property
    def scorer(self) -> Scorer | None:
        """The scorer, if it is loaded."""
        loading = self._loading
        if loading is None or not loading.done() or loading.exception() is not None:
            return None
        return loading.result()

    def find(self, *, waits: bool) -> Scorer | None:
        """The scorer; None while it isn't loaded.

        :param waits: wait until the scorer is loaded.
        :raises BundleError: the scorer can't be loaded (only if ``waits``).
        """
        is_wanted, self._is_second = waits or self._is_second, True
        has_failed = self._loading is not None and self._loading.done() and self.scorer is None
        if is_wanted and (self._loading is None or (waits and has_failed)):
            thread = ThreadPoolExecutor(1, "score graph")
            self._loading = thread.submit(self._load)
            thread.shutdown(wait=False)
        return self._loading.result() if waits and self._loading is not None else self.scorer

    def forget(self) -> None:
        """Drops all caches."""
        if (scorer := self.scorer) is not None:
            scorer.forget()

    def close(self) -> None:
        """Waits until a pending load of the scorer is done."""
        if self._loading is not None:
            self._loading.exception()
            self._loading = None

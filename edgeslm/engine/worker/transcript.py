"""Streaming detokenizer: token ids to text, piece by piece, up to a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from edgeslm.engine.calls import OnText


class Transcript:
    """Decodes token ids piece by piece up to a stop string; holds back text that may be the beginning of a
    stop string.

    :param marks: how a tool call may begin: nothing from it on is emitted, and special tokens are text.
    :param starts: the same, at the beginning of the text only.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: Sequence[str],
        emit: OnText | None,
        marks: Sequence[str] = (),
        starts: Sequence[str] = (),
    ) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=not (marks or starts))
        self._starts = tuple(starts)
        self._stop = [s for s in stop if s]
        self._marks = marks
        self._emit = emit
        self._ids: list[int] = []
        self._sent = 0
        self.text = ""

    @property
    def count(self) -> int:
        return len(self._ids)

    def add(self, token: int) -> bool:
        """Adds a token; returns true when a stop string is complete. ``text`` then ends before the stop
        string."""
        self._ids.append(token)
        piece = self._stream.step(self._tokenizer, token)
        if not piece:
            return False
        self.text += piece
        if self._call_at() is not None:
            return False
        if self._stop:
            ends = [at for s in self._stop if (at := self.text.find(s)) >= 0]
            if ends:
                self.text = self.text[: min(ends)]
                self._send(len(self.text))
                return True
        self._send(len(self.text) - self._held_back())
        return False

    def finish(self) -> None:
        at = self._call_at()
        self._send(len(self.text) if at is None else at)

    def _call_at(self) -> int | None:
        """Where a tool call begins, if there is one."""
        if self._starts and self.text.startswith(self._starts):
            return 0
        return min((at for mark in self._marks if (at := self.text.find(mark)) >= 0), default=None)

    def _held_back(self) -> int:
        """Length of the longest suffix of the text that is the beginning of a stop string."""
        if any(start.startswith(self.text) for start in self._starts):
            return len(self.text)
        awaited = [*self._stop, *self._marks]
        longest = max(map(len, awaited), default=1) - 1
        for length in range(min(longest, len(self.text)), 0, -1):
            tail = self.text[-length:]
            if any(s.startswith(tail) for s in awaited):
                return length
        return 0

    def _send(self, upto: int) -> None:
        if self._emit is not None and upto > self._sent:
            self._emit(self.text[self._sent : upto])
            self._sent = upto

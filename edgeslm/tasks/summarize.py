"""``summarize``: what a text, or many messages, come to in few sentences that the text supports.

A text beyond the model's context is read in parts, and then what was said of the parts; in several rounds if
need be. What that leaves out of many parts follows, the most telling of what was said of them. Sentences that
nothing in the text supports are left out; where none is left, the best sentences of the text itself are told.
Messages are counted first (``digest``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from edgeslm.engine.calls import Cost, Generate, Output, Prompt, Text
from edgeslm.errors import NoMemory, TooLong
from edgeslm.knowledge.documents.sentences import split_sentences
from edgeslm.messages import Progress, Request, Truncated
from edgeslm.tasks.digest import Digest, digest_schema, read_messages
from edgeslm.tasks.extractive import central
from edgeslm.tasks.parts import split_parts
from edgeslm.tasks.statements import Check, Speaker, Statement, extract, gist_of, join, name_of, without_rest
from edgeslm.tasks.support import Evidence
from edgeslm.tasks.task import Ask, OnChunk, Outcome, Task, object_schema

INSTRUCTION: Final = "Summarize the text in one or two short sentences."
DIGEST_INSTRUCTION: Final = "Say in one or two short sentences what these messages are about."

PART_TOKENS: Final = 1024
"""Of a part, at most: small models say more of a text that is short, and read it in less memory."""
CHARACTERS_PER_TOKEN: Final = 4
"""Of English prose, about. The parent has no tokenizer: where it guesses wrong, the engine says so."""
MOST_PER_TOKEN: Final = 6
"""Of a text that may fit: one with more characters than this a token is not tried at once."""
PROMPT_TOKENS: Final = 64
"""Of the chat around instruction and text."""
NOTE_TOKENS: Final = 80
"""Of what is said of a part, at most: a small model goes on as long as it may, and a long text has many."""
SHORTEST_PART: Final = 400
"""Characters: a part that is too long for the model is parted again down to here."""
TOGETHER: Final = 3
"""So many parts of a long text may support a sentence in common."""
PARTS_A_SENTENCE: Final = 3
"""A long text has a sentence for so many parts at least, if its task doesn't say how it is summarised: a
small model makes one or two sentences of any text."""
MOST_EXTRACTS: Final = 3
"""Sentences of the text that are told in the place of a model's: as many as it wrote, up to these."""


class Summarize(Task):
    kind = "summarize"

    def set_up(self) -> None:
        self._in_parts = "overflow" not in self.section.model_fields_set
        """Whether a long text is read in parts: unless the task says what to do with it."""

    def check_input(self, request: Request) -> None:
        if isinstance(request.input, str):
            super().check_input(request)
        else:
            read_messages(request.input)

    async def run(self, request: Request, ask: Ask, on_chunk: OnChunk | None) -> Outcome:
        writer = _Writer(self, request, ask, on_chunk if request.options.get("stream") else None)
        if not isinstance(request.input, str):
            # A second of a MiB of log lines, more on a board, in which the node has others to serve.
            digest = await asyncio.to_thread(Digest, read_messages(request.input))
            return writer.outcome(digest.result(await self._wording(digest, request, writer)))
        statements = await self._summary(self.text(request), request, writer)
        text = join(statements)
        result = {
            "text": text,
            "sources": list(dict.fromkeys(name for one in statements for name in one.sources)),
            "extractive": any(one.is_extract for one in statements),
        }
        return writer.outcome(result, abstained=not text)

    def without_model(self, request: Request) -> Mapping[str, Any] | None:
        """Of messages what was counted, with their own words: who gathered them doesn't send them again."""
        if isinstance(request.input, str):
            return None
        return Digest(read_messages(request.input)).result([])

    async def _summary(self, text: str, request: Request, writer: _Writer) -> list[Statement]:
        room = self._room(request)
        if not self._in_parts or room is None or len(text) <= room * MOST_PER_TOKEN:
            try:
                check = Check(Evidence([text]), ["input"], is_strict=self.section.grounded)
                return await writer.say(text, check) or writer.settle(writer.extract(text))
            except (TooLong, NoMemory):
                if not self._in_parts:
                    raise
        return await _Reading(text, self._part_characters(request), writer, self.section.grounded).summary()

    async def _wording(self, digest: Digest, request: Request, writer: _Writer) -> list[Statement]:
        """What the model says of the points, as far as they support it."""
        check = Check(*digest.evidence, TOGETHER, is_strict=self.section.grounded)
        most = self._part_characters(request)
        while True:
            try:
                output = await writer.write(shown := digest.shown(most), DIGEST_INSTRUCTION)
            except TooLong:  # log lines have more tokens than prose
                if len(shown) < SHORTEST_PART // 4:
                    raise
                most = len(shown) // 2
                continue
            return digest.told(check.statements(output.text))

    def _room(self, request: Request) -> int | None:
        """Tokens that a text may have beside the prompt and the summary, about; None: nobody knows."""
        if self.context_length is None:
            return None
        own = len(self.section.instruction or INSTRUCTION) + sum(
            len(example.input) + len(str(example.output)) for example in self.section.examples
        )
        taken = PROMPT_TOKENS + own // CHARACTERS_PER_TOKEN + int(self.option(request, "max_tokens"))
        return max(SHORTEST_PART // CHARACTERS_PER_TOKEN, self.context_length - taken)

    def _part_characters(self, request: Request) -> int:
        return min(PART_TOKENS, self._room(request) or PART_TOKENS) * CHARACTERS_PER_TOKEN

    def result_schema(self) -> dict[str, Any]:
        own = {
            "text": {"type": "string"},
            "sources": {"type": "array", "items": {"type": "string"}},
            "extractive": {"type": "boolean"},
        }
        return object_schema(own, digest_schema())


class _Writer:
    """The engine calls of one request, and what they cost together."""

    def __init__(self, task: Summarize, request: Request, ask: Ask, on_chunk: OnChunk | None) -> None:
        self._task = task
        self._request = request
        self._ask = ask
        self._on_chunk = on_chunk
        self._cost = Cost()
        self._truncated: Truncated | None = None
        self.wanted = 1
        """As many sentences as the model wrote last, within bounds."""

    async def write(
        self,
        text: str,
        instruction: str = INSTRUCTION,
        on_chunk: OnChunk | None = None,
        *,
        most: int | None = None,
    ) -> Output:
        """What the model makes of a text, in ``max_tokens`` and no more than ``most`` of them.

        :raises TooLong: the text has more tokens than fit.
        """
        task, request = self._task, self._request
        instruction = task.section.instruction or instruction
        max_tokens = int(task.option(request, "max_tokens"))
        call = Generate(
            Prompt(task.turns((instruction,), Text(text, cut=True)), overflow=task.section.overflow),
            max_tokens if most is None else min(most, max_tokens),
            task.sampling(request),
            stop=tuple(task.option(request, "stop")),
            stream=on_chunk is not None,
        )
        output = await self._ask(call, on_chunk)
        self._cost += output.cost
        self._truncated = output.truncated
        self.wanted = min(max(1, len(split_sentences(output.text))), MOST_EXTRACTS)
        return replace(output, text=without_rest(output.text, output.finish_reason))

    async def say(self, text: str, check: Check) -> list[Statement]:
        """What the model makes of a text, as far as it passes; it is also streamed, sentence by sentence."""
        speaker = None if self._on_chunk is None else Speaker(check, self._on_chunk)
        output = await self.write(text, on_chunk=None if speaker is None else speaker.hear)
        statements = list(check.statements(output.text))
        if speaker is not None:
            speaker.end(join(statements))
        return statements

    def go_on(self, said: list[Statement], more: list[Statement]) -> list[Statement]:
        """Streams what is told behind what the model said. :return: both."""
        statements = [*said, *more]
        if self._on_chunk is not None and more:
            self._on_chunk(join(statements)[len(join(said)) :])
        return statements

    @property
    def limit(self) -> int:
        """Characters that may be told, about."""
        return int(self._task.option(self._request, "max_tokens")) * CHARACTERS_PER_TOKEN

    @property
    def is_told_how(self) -> bool:
        """Whether the task has an instruction of its own, which may say how long a summary is."""
        return self._task.section.instruction is not None

    def settle(self, statements: list[Statement]) -> list[Statement]:
        """Streams what is told in the place of what the model said."""
        if self._on_chunk is not None and statements:
            self._on_chunk(join(statements))
        return statements

    def extract(self, text: str, offset: int = 0) -> list[Statement]:
        """Sentences of a text in the place of the model's: no more, and no longer than it may write."""
        return extract(text, most=self.wanted, limit=self.limit, offset=offset)

    def tell(self, done: int, of: int) -> None:
        if self._on_chunk is not None:
            self._on_chunk(Progress(done, of))

    def outcome(self, result: dict[str, Any], *, abstained: bool = False) -> Outcome:
        if self._on_chunk is not None and "points" in result:
            self._on_chunk(result["text"])
        output = Output(cost=self._cost, truncated=self._truncated)
        return Outcome.of(output, result, abstained=abstained)


class _Reading:
    """One long text that is read in parts of up to ``most`` characters.

    First every part is summarised (map), then what was said of them, in groups, until it can be summarised at
    once (reduce). What is said of a part is held to that part, what is said of all to up to three parts. Of
    parts that this says nothing of, the most telling of what was said of them is told behind it.
    """

    def __init__(self, text: str, most: int, writer: _Writer, is_strict: bool) -> None:
        self._text = text
        self._most = most
        self._writer = writer
        self._evidence = Evidence()
        self._names: list[str] = []
        self._firsts: list[tuple[str, Statement]] = []
        """Names of parts with the first that was said of each."""
        self._check = Check(self._evidence, self._names, TOGETHER, is_strict=is_strict)

    async def summary(self) -> list[Statement]:
        """:raises TooLong: even a short part is."""
        notes = await self._read()
        while len(notes) > 1 and len(self._names) > 1:
            shown = "\n".join(note.text for note in notes)
            if len(shown) <= self._most:
                try:
                    said = await self._writer.say(shown, self._check)
                except (TooLong, NoMemory):
                    self._halve(len(shown))
                    continue
                return self._told(said or self._writer.settle(_best(notes, self._writer.wanted)))
            notes = await self._shorter(notes, shown)
        return self._told(self._writer.settle(notes))

    def _told(self, said: list[Statement]) -> list[Statement]:
        """Also what was said of other parts, as far as a text of so many parts has more to say."""
        most = -(-len(self._names) // PARTS_A_SENTENCE) - len(said)
        if most <= 0 or self._writer.is_told_how:
            return said
        told = {name for one in said for name in one.sources}
        seen = {gist_of(one.text) for one in said}
        others: list[Statement] = []
        for name, note in self._firsts:
            if told.isdisjoint((name, *note.sources)) and gist_of(note.text) not in seen:
                # Small models copy the line breaks of what they read.
                others.append(replace(note, text=" ".join(note.text.split()), gap=" "))
                seen.add(gist_of(note.text))
        left, more = self._writer.limit - len(join(said)), list[Statement]()
        for one in _best(others, most):
            if len(one.text) < left:
                more.append(one)
                left -= len(one.text) + 1
        return self._writer.go_on(said, more)

    async def _read(self) -> list[Statement]:
        notes: list[Statement] = []
        waiting = self._parts_from(0)
        while waiting:
            self._writer.tell(len(self._names), len(self._names) + len(waiting) + 1)
            start, end = waiting[0]
            part = self._text[start:end]
            try:
                output = await self._writer.write(part, most=NOTE_TOKENS)
            except (TooLong, NoMemory):
                self._halve(len(part))
                waiting = self._parts_from(start)
                continue
            del waiting[0]
            number = len(self._names)
            self._evidence.add(part)
            self._names.append(name_of(start, end))
            own = replace(self._check, together=1, among=(number,))
            found = list(own.statements(output.text)) or self._writer.extract(part, start)
            self._firsts += [(self._names[-1], note) for note in found[:1]]
            notes += found
        self._writer.tell(len(self._names), len(self._names) + 1)
        return notes

    async def _shorter(self, notes: list[Statement], shown: str) -> list[Statement]:
        """What there is to say of groups of notes; if that isn't much shorter, the best of the notes."""
        said: list[Statement] = []
        for start, end in split_parts(shown, self._most):
            try:
                output = await self._writer.write(shown[start:end], most=NOTE_TOKENS)
            except (TooLong, NoMemory):
                self._halve(end - start)
                return notes
            said += self._check.statements(output.text)
        if said and sum(len(one.text) for one in said) <= len(shown) * 3 // 4:
            return said
        return _best(notes, max(1, len(notes) * self._most * 3 // (4 * len(shown))))

    def _parts_from(self, start: int) -> list[tuple[int, int]]:
        return [(start + a, start + b) for a, b in split_parts(self._text[start:], self._most)]

    def _halve(self, length: int) -> None:
        """Makes parts shorter, after one of ``length`` characters was too long.

        :raises TooLong: they are short already. There is no more memory for them then either.
        """
        if length < 2 * SHORTEST_PART:
            raise TooLong(
                f"a part of {length} characters is too long for the model beside the prompt and max_tokens; "
                "ask for less, or shorten the task's instruction and examples"
            )
        self._most = length // 2


def _best(notes: list[Statement], most: int) -> list[Statement]:
    return [notes[number] for number in central([note.text for note in notes], most=most)]

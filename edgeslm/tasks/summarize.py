"""``summarize``: summarises a text, or many messages, in a few sentences that the source supports.

A text longer than the model's context is split into parts. The summaries of the parts are summarised again,
in several rounds if necessary. If the result omits parts, sentences from their summaries are appended.
Sentences that the source doesn't support are dropped; if no sentence is left, sentences of the text are
extracted. Messages are grouped and counted first (``digest``).
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
from edgeslm.tasks.statements import (
    Check,
    SentenceStream,
    Statement,
    extract,
    gist_of,
    join,
    name_of,
    without_rest,
)
from edgeslm.tasks.support import Evidence
from edgeslm.tasks.task import Ask, OnChunk, Outcome, Task, object_schema

INSTRUCTION: Final = "Summarize the text in one or two short sentences."
DIGEST_INSTRUCTION: Final = "Say in one or two short sentences what these messages are about."

PART_TOKENS: Final = 1024
"""Maximum number of tokens of a part.

Small models summarise short texts in more detail, and with less memory, than long texts.
"""
CHARACTERS_PER_TOKEN: Final = 4
"""Estimate for English prose, used because the daemon has no tokenizer.

If a text has more tokens than estimated, the engine reports it (``TooLong``).
"""
MOST_PER_TOKEN: Final = 6
"""Optimistic estimate of the characters per token.

A text that exceeds the model's context even by this estimate is split at once.
"""
PROMPT_TOKENS: Final = 64
"""Number of tokens assumed for the chat template, without the instruction and the text."""
NOTE_TOKENS: Final = 80
"""Maximum number of tokens of a part's summary.

The limit is low because small models use all tokens they get, and long texts have many parts.
"""
SHORTEST_PART: Final = 400
"""Minimum length of a part, in characters.

If a part is too long for the model, the parts are halved, but not below this length.
"""
TOGETHER: Final = 3
"""Maximum number of parts that may jointly support a sentence."""
PARTS_A_SENTENCE: Final = 3
"""The summary of a long text has about one sentence for this many parts.

Small models write one or two sentences for any text, so sentences of part summaries are appended. No
sentences are appended if the task has its own instruction.
"""
MOST_EXTRACTS: Final = 3
"""Maximum number of extracted sentences that replace a model's output."""


class Summarize(Task):
    kind = "summarize"

    def set_up(self) -> None:
        self._in_parts = "overflow" not in self.section.model_fields_set
        """Whether long texts are split; false if the task sets ``overflow``."""

    def check_input(self, request: Request) -> None:
        if isinstance(request.input, str):
            super().check_input(request)
        else:
            read_messages(request.input)

    async def run(self, request: Request, ask: Ask, on_chunk: OnChunk | None) -> Outcome:
        writer = _Writer(self, request, ask, on_chunk if request.options.get("stream") else None)
        if not isinstance(request.input, str):
            # Takes a second for a MiB of log lines, more on a board, so it must not block the event loop.
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
        """The digest of the request's messages, without a model's summary; None if the input is a text. The
        digest is the result if all models fail, so that the messages are not lost."""
        if isinstance(request.input, str):
            return None
        return Digest(read_messages(request.input)).result([])

    async def _summary(self, text: str, request: Request, writer: _Writer) -> list[Statement]:
        room = self._room(request)
        if not self._in_parts or room is None or len(text) <= room * MOST_PER_TOKEN:
            try:
                check = Check(Evidence([text]), ["input"], is_strict=self.section.grounded)
                return await writer.say(text, check) or writer.replace_with(writer.extract(text))
            except (TooLong, NoMemory):
                if not self._in_parts:
                    raise
        return await _Reading(text, self._part_characters(request), writer, self.section.grounded).summary()

    async def _wording(self, digest: Digest, request: Request, writer: _Writer) -> list[Statement]:
        """The model's sentences about the digest's points, without sentences that no point supports."""
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
        """Estimated number of tokens left for the text; None if the context length is unknown."""
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
    """Makes the engine calls of one request and adds up their cost."""

    def __init__(self, task: Summarize, request: Request, ask: Ask, on_chunk: OnChunk | None) -> None:
        self._task = task
        self._request = request
        self._ask = ask
        self._on_chunk = on_chunk
        self._cost = Cost()
        self._truncated: Truncated | None = None
        self.wanted = 1
        """Number of sentences in the model's last output, limited by ``MOST_EXTRACTS``."""

    async def write(
        self,
        text: str,
        instruction: str = INSTRUCTION,
        on_chunk: OnChunk | None = None,
        *,
        most: int | None = None,
    ) -> Output:
        """The model's summary of a text.

        The summary has at most ``max_tokens`` tokens and, if ``most`` is given, at most ``most`` tokens.

        :raises TooLong: the text has too many tokens.
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
        """Sentences of the model's summary that pass ``check``; they are also streamed, if requested."""
        stream = None if self._on_chunk is None else SentenceStream(check, self._on_chunk)
        output = await self.write(text, on_chunk=None if stream is None else stream.feed)
        statements = list(check.statements(output.text))
        if stream is not None:
            stream.finish(join(statements))
        return statements

    def append(self, said: list[Statement], more: list[Statement]) -> list[Statement]:
        """Streams the statements ``more`` after those already ``said``. :return: all statements."""
        statements = [*said, *more]
        if self._on_chunk is not None and more:
            self._on_chunk(join(statements)[len(join(said)) :])
        return statements

    @property
    def limit(self) -> int:
        """Approximate maximum length of the result, in characters."""
        return int(self._task.option(self._request, "max_tokens")) * CHARACTERS_PER_TOKEN

    @property
    def has_instruction(self) -> bool:
        """Whether the task has its own instruction, which may specify the length."""
        return self._task.section.instruction is not None

    def replace_with(self, statements: list[Statement]) -> list[Statement]:
        """Streams statements that replace the model's output, and returns these statements."""
        if self._on_chunk is not None and statements:
            self._on_chunk(join(statements))
        return statements

    def extract(self, text: str, offset: int = 0) -> list[Statement]:
        """Sentences extracted from ``text``: at most as many as the model wrote, within the length limit."""
        return extract(text, most=self.wanted, limit=self.limit, offset=offset)

    def report_progress(self, done: int, of: int) -> None:
        if self._on_chunk is not None:
            self._on_chunk(Progress(done, of))

    def outcome(self, result: dict[str, Any], *, abstained: bool = False) -> Outcome:
        if self._on_chunk is not None and "points" in result:
            self._on_chunk(result["text"])
        output = Output(cost=self._cost, truncated=self._truncated)
        return Outcome.of(output, result, abstained=abstained)


class _Reading:
    """Map-reduce summary of one long text in parts of up to ``most`` characters.

    Each part is summarised (map). The summaries are then summarised in groups until they fit one call
    (reduce). A sentence in a part's summary must be supported by that part. A sentence in a summary of
    summaries must be supported by up to :data:`TOGETHER` parts jointly. For parts that the result doesn't
    cover, sentences from their summaries are appended.
    """

    def __init__(self, text: str, most: int, writer: _Writer, is_strict: bool) -> None:
        self._text = text
        self._most = most
        self._writer = writer
        self._evidence = Evidence()
        self._names: list[str] = []
        self._firsts: list[tuple[str, Statement]] = []
        """Name of each part, and the first statement about the part."""
        self._check = Check(self._evidence, self._names, TOGETHER, is_strict=is_strict)

    async def summary(self) -> list[Statement]:
        """The statements of the summary. :raises TooLong: even the shortest part is too long."""
        notes = await self._read()
        while len(notes) > 1 and len(self._names) > 1:
            shown = "\n".join(note.text for note in notes)
            if len(shown) <= self._most:
                try:
                    said = await self._writer.say(shown, self._check)
                except (TooLong, NoMemory):
                    self._halve(len(shown))
                    continue
                return self._with_uncovered(
                    said or self._writer.replace_with(_best(notes, self._writer.wanted))
                )
            notes = await self._shorter(notes, shown)
        return self._with_uncovered(self._writer.replace_with(notes))

    def _with_uncovered(self, said: list[Statement]) -> list[Statement]:
        """Appends statements about parts that ``said`` omits.

        Statements are appended until there is one per :data:`PARTS_A_SENTENCE` parts, within the length
        limit.
        """
        most = -(-len(self._names) // PARTS_A_SENTENCE) - len(said)
        if most <= 0 or self._writer.has_instruction:
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
        return self._writer.append(said, more)

    async def _read(self) -> list[Statement]:
        notes: list[Statement] = []
        waiting = self._parts_from(0)
        while waiting:
            self._writer.report_progress(len(self._names), len(self._names) + len(waiting) + 1)
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
        self._writer.report_progress(len(self._names), len(self._names) + 1)
        return notes

    async def _shorter(self, notes: list[Statement], shown: str) -> list[Statement]:
        """Summaries of groups of ``notes``, or the best notes if the summaries aren't much shorter."""
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
        """Sets the part size to half of ``length``. Called if the model could not process a text of
        ``length`` characters: the text was too long, or memory ran out.

        :raises TooLong: the text is shorter than two parts of :data:`SHORTEST_PART` characters.
        """
        if length < 2 * SHORTEST_PART:
            raise TooLong(
                f"a part of {length} characters is too long for the model together with the prompt and "
                "max_tokens; ask for less, or shorten the task's instruction and examples"
            )
        self._most = length // 2


def _best(notes: list[Statement], most: int) -> list[Statement]:
    return [notes[number] for number in central([note.text for note in notes], most=most)]

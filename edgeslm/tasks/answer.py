"""``answer``: answers a question from a context in the request, or from collections.

In mode ``quote`` an answer from collections is one or two whole sentences, selected without a decoder
(``quoting``). For a context in the request, a grammar forces the model to copy consecutive words of it. In
mode ``compose`` the model writes freely; if it answers from collections, sentences that no passage supports
are dropped. Search scores, not the model, decide whether collections can answer a question (``grounding``).
If passages contradict each other, the result is ``abstained`` and contains the passages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Final

from edgeslm.engine.calls import Cost, Generate, Output, Prompt, Text, Turn
from edgeslm.errors import InvalidRequest
from edgeslm.knowledge.index.queries import Found
from edgeslm.knowledge.index.rerank import DEPTH
from edgeslm.messages import Request
from edgeslm.remote.chat import Chat
from edgeslm.tasks.conflicts import Conflict, find_conflict
from edgeslm.tasks.consulting import Consult
from edgeslm.tasks.grounding import (
    confidence,
    fitting,
    gate_for,
    is_of_figures,
    sources_of,
    with_heading,
)
from edgeslm.tasks.passages import PASSAGE_SCHEMA, cite, encode_passages, keep_proven
from edgeslm.tasks.quoting import find_quote, find_quotes, parts_of, quote_guide, quoted
from edgeslm.tasks.referral import bring_back, refer
from edgeslm.tasks.task import PROBABILITY, Ask, OnChunk, Outcome, Task, object_schema

if TYPE_CHECKING:
    from edgeslm.knowledge.index.queries import TableAnswer

INSTRUCTION: Final = "Read this text and answer the question."
_ONLY_FROM: Final = "Answer the question from these texts only. If they don't answer it, write NONE."
_COPY: Final = "Copy the one or two sentences that answer it, word for word, and write nothing else."
_WORD: Final = "Write one or two short sentences."

SOURCE: Final = "context"
"""Value of ``source`` in a citation that cites the request's context."""


class Answer(Task):
    kind = "answer"

    def check_input(self, request: Request) -> None:
        super().check_input(request)
        if not self.section.knowledge and not _context(request).strip():
            raise InvalidRequest(
                f"task {self.name} answers from a text: send it as options.context with the question"
            )

    async def run(self, request: Request, ask: Ask, on_chunk: OnChunk | None) -> Outcome:
        if _context(request).strip():
            return await self._from_context(request, ask, on_chunk)
        question, names, only = self.text(request), self.collections(request), self.only(request)
        if (computed := await self.opened.compute(question, names, only)) is not None:
            return _computed(computed)
        k = max(DEPTH, self.section.passages)  # the gate compares the best with the others
        found = await self.opened.search(question, names, k, request.priority, only=only, by_sentence=True)
        return await self._from_passages(request, found, ask, on_chunk)

    def refer(self, request: Request, found: Mapping[str, Any]) -> Mapping[str, Any]:
        # With an empty context the other node would search its own collections.
        return refer(_read_by(request, found)) or self.narrowed(request)

    def bring_back(
        self, request: Request, found: Mapping[str, Any], answer: Mapping[str, Any]
    ) -> Mapping[str, Any] | None:
        return bring_back(_read_by(request, found), answer)

    async def consult(
        self, request: Request, found: Mapping[str, Any], ask: Consult
    ) -> Mapping[str, Any] | None:
        """The server's answer from the passages that this node found; None if no sentence of it is in a
        passage (``quote``) or supported by one (``compose``)."""
        if not (passages := _read_by(request, found)):
            return None
        texts = [one["text"] for one in passages]
        headed = [with_heading(one.get("heading", ""), one["text"]) for one in passages]
        shown = "\n\n".join(f"[{number}] {text}" for number, text in enumerate(headed, 1))
        how = _COPY if self.section.mode == "quote" else _WORD
        instruction = f"{self.section.instruction or _ONLY_FROM} {how}"
        messages = [
            {"role": "system", "content": instruction},
            {"role": "user", "content": f"{shown}\n\nQuestion: {self.text(request)}"},
        ]
        sampling = {"temperature": float(self.option(request, "temperature"))}
        reply = await ask(Chat(messages, self.option(request, "max_tokens"), sampling=sampling))
        text = _without_marks(reply.text.strip(), headed)
        if text.strip(".").upper() == "NONE":
            return None
        if self.section.mode == "quote":
            citations = [cite(passages[one], start, end) for one, start, end in find_quotes(text, texts)]
            text = " ".join(citation["quote"] for citation in citations)
        else:
            text, citations = keep_proven(text, passages)
        return {"text": text, "citations": citations} if citations else None

    # --- a context ----------------------------------------------------------------------------------

    async def _from_context(self, request: Request, ask: Ask, on_chunk: OnChunk | None) -> Outcome:
        context = _context(request)
        quoting = self.section.mode == "quote"
        if quoting and self.section.knowledge:
            return await self._quoted_context(request, on_chunk)
        call = self._call(request, [Text(context, cut=True)], context if quoting else None)
        output = await ask(call, on_chunk)
        text = output.text.strip()
        citations = []
        if (place := find_quote(text, context)) is not None:
            citations.append(_of_context(context, *place))
        return Outcome.of(output, {"text": text, "citations": citations}, abstained=quoting and not citations)

    async def _quoted_context(self, request: Request, on_chunk: OnChunk | None) -> Outcome:
        """Quotes the context as a passage of a collection is quoted, by the encoder of the collections."""
        question, context = self.text(request), _context(request)
        found = await self.opened.compare(
            question, parts_of(question, context), self.collections(request), request.priority
        )
        best = found[0]
        places = [(best.start + start, best.start + end) for start, end in quoted(question, best)]
        outcome = _quote([_of_context(context, *place) for place in places])
        if request.options.get("stream") and on_chunk is not None:
            on_chunk(outcome.result["text"])
        return outcome

    def _call(self, request: Request, shown: Sequence[str | Text], copied: str | None = None) -> Generate:
        """The engine call that answers the question from the ``shown`` text.

        If ``copied`` is given, a grammar restricts the output to consecutive words of ``copied``.
        """
        # A single turn: small models answer better with the instruction next to the text.
        parts = (
            self.section.instruction or INSTRUCTION,
            "\n\n",
            *shown,
            "\n\nQuestion: ",
            Text(self.text(request)),
        )
        return Generate(
            Prompt((Turn("user", parts),), overflow=self.section.overflow),
            self.option(request, "max_tokens"),
            self.sampling(request),
            quote_guide(copied) if copied is not None else None,
            tuple(self.option(request, "stop")),
            stream=bool(request.options.get("stream")),
        )

    # --- collections --------------------------------------------------------------------------------

    async def _from_passages(
        self, request: Request, found: Sequence[Found], ask: Ask, on_chunk: OnChunk | None
    ) -> Outcome:
        question = self.text(request)
        sure = confidence(question, found)
        best = fitting(found[: self.section.passages])
        is_set = "threshold" in self.section.model_fields_set
        threshold = self.section.threshold if is_set else gate_for(found).threshold
        if not best or sure < threshold or is_of_figures(best[0]):
            return _declined(sure, best)
        if (conflict := find_conflict(question, best)) is not None:
            return _contradicted(sure, best, conflict)
        if self.section.mode == "quote":
            if not (places := quoted(question, best[0])):
                return _declined(sure, best)
            outcome = _quote([_citation(best[0], *place) for place in places], sure)
            if request.options.get("stream") and on_chunk is not None:
                on_chunk(outcome.result["text"])
            return outcome
        return await self._composed(request, sure, best, ask, on_chunk)

    async def _composed(
        self,
        request: Request,
        sure: float,
        best: Sequence[Found],
        ask: Ask,
        on_chunk: OnChunk | None,
    ) -> Outcome:
        # Only checked sentences are streamed.
        output = await ask(replace(self._call(request, _shown(best)), stream=False))
        text, citations = keep_proven(
            _without_marks(output.text, [sources_of(one) for one in best]), encode_passages(best)
        )
        if not text:
            return _declined(sure, best, output)
        if request.options.get("stream") and on_chunk is not None:
            on_chunk(text)
        return Outcome.of(output, {"text": text, "citations": citations, "confidence": sure})

    def result_schema(self) -> dict[str, Any]:
        citation = object_schema(
            {"source": _TEXT, "quote": _TEXT, "start": _PLACE, "end": _PLACE},
            {"id": _TEXT, "heading": _TEXT},
        )
        return object_schema(
            {"text": _TEXT, "citations": {"type": "array", "items": citation}},
            {
                "confidence": PROBABILITY,
                "conflict": {"type": "boolean"},
                "values": {"type": "array", "items": {"type": ["string", "number", "boolean"]}},
                "matched": {"type": "integer"},
                "passages": {"type": "array", "items": PASSAGE_SCHEMA},
            }
            if self.section.knowledge
            else {},
        )


_MARK: Final = re.compile(r"(?P<word>[^\s\[\]]*)[ \t]*\[(?P<numbers>\d{1,2}(?:, ?\d{1,2})*)\]")
_TEXT: Final = {"type": "string"}
_PLACE: Final = {"type": "integer"}


def _context(request: Request) -> str:
    return str(request.options.get("context", ""))


def _read_by(request: Request, found: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The passages sent to another node: the request's context, or the passages that this node found."""
    context = _context(request)
    if context.strip():
        return [{"source": SOURCE, "text": context, "start": 0}]
    passages: Sequence[Mapping[str, Any]] = found.get("passages", ())
    return passages


def _without_marks(text: str, passages: Sequence[str]) -> str:
    """Removes citation marks such as ``[2]``, which cite the passages by their number.

    Marks that a passage contains (``P[2]``) or whose number is out of range are kept.
    """

    def drop(mark: re.Match[str]) -> str:
        numbers = [int(number) for number in mark["numbers"].split(",")]
        is_told = mark["word"] and any(mark[0] in passage for passage in passages)
        if is_told or not all(1 <= number <= len(passages) for number in numbers):
            return mark[0]
        return mark["word"]

    return _MARK.sub(drop, text) if len(passages) > 1 else text


def _shown(passages: Sequence[Found]) -> list[str | Text]:
    """Passages as shown to the model, numbered if there are several.

    The text of passages is passed as ``Text``, so nothing in it can end the chat turn.
    """
    parts: list[str | Text] = []
    for number, passage in enumerate(passages, 1):
        parts += [f"[{number}] " if len(passages) > 1 else "", Text(sources_of(passage)), "\n\n"]
    return parts[:-1]


def _of_context(context: str, start: int, end: int) -> dict[str, Any]:
    return {"source": SOURCE, "quote": context[start:end], "start": start, "end": end}


def _citation(passage: Found, start: int, end: int) -> dict[str, Any]:
    (encoded,) = encode_passages([passage])
    return cite(encoded, start, end)


def _quote(citations: Sequence[dict[str, Any]], sure: float | None = None) -> Outcome:
    """An answer of quoted sentences, without a decoder."""
    text = " ".join(citation["quote"] for citation in citations)
    told = {} if sure is None else {"confidence": sure}
    return Outcome("ok", {"text": text, "citations": list(citations), **told}, Cost())


def _computed(answer: TableAnswer) -> Outcome:
    """An answer computed from tables, without a model."""
    citations = [asdict(one) for one in answer.citations]
    result = {
        "text": answer.text,
        "citations": citations,
        "values": list(answer.values),
        "matched": answer.matched,
    }
    return Outcome("ok", result, Cost())


def _declined(sure: float, best: Sequence[Found], output: Output | None = None) -> Outcome:
    """An abstained result with the best passages."""
    result = {"text": "", "citations": [], "confidence": sure, "passages": encode_passages(best)}
    return Outcome("abstained", result, output.cost if output is not None else Cost())


def _contradicted(sure: float, best: Sequence[Found], conflict: Conflict) -> Outcome:
    result = {
        "text": "",
        "citations": [_citation(*side) for side in (conflict.one, conflict.other)],
        "conflict": True,
        "confidence": sure,
        "passages": encode_passages(best),
    }
    return Outcome("abstained", result, Cost())

"""``generate``: writes free text for a prompt or a chat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeslm.engine.calls import Generate, Prompt, Text, Turn
from edgeslm.errors import InvalidRequest
from edgeslm.messages import Request
from edgeslm.tasks.task import Ask, OnChunk, Outcome, Task, object_schema

ROLES = ("system", "user", "assistant")


class GenerateText(Task):
    kind = "generate"

    def check_input(self, request: Request) -> None:
        self._chat(request)

    async def run(self, request: Request, ask: Ask, on_chunk: OnChunk | None) -> Outcome:
        output = await ask(
            Generate(
                Prompt(self._chat(request), overflow=self.section.overflow),
                self.option(request, "max_tokens"),
                self.sampling(request),
                stop=tuple(self.option(request, "stop")),
                stream=bool(request.options.get("stream")),
            ),
            on_chunk,
        )
        return Outcome.of(output, {"text": output.text, "finish_reason": output.finish_reason})

    def result_schema(self) -> dict[str, Any]:
        return object_schema({"text": {"type": "string"}, "finish_reason": {"enum": ["stop", "length"]}})

    def _chat(self, request: Request) -> tuple[Turn, ...]:
        """Chat turns: the task's instruction, if it has one, and the request's input.

        :raises InvalidRequest: the input isn't a text or ``{"messages": [{"role", "content"}, ...]}``.
        """
        own = (Turn("system", (self.section.instruction,)),) if self.section.instruction else ()
        if isinstance(request.input, str):
            return (*own, Turn("user", (Text(request.input, cut=True),)))
        if set(request.input) != {"messages"} or not isinstance(request.input["messages"], list):
            raise InvalidRequest('an input object of generate is {"messages": [{"role", "content"}, ...]}')
        turns = [self._turn(number, item) for number, item in enumerate(request.input["messages"], 1)]
        if not turns or turns[-1].role != "user":
            raise InvalidRequest("the last message must be one of role user")
        if own and turns[0].role == "system":
            raise InvalidRequest(f"task {self.name} has its own instruction; leave out the system message")
        if any(turn.role == "system" for turn in turns[1:]):
            raise InvalidRequest("a system message can only be the first one")
        # Only the last message may be truncated.
        last = turns[-1].parts[0]
        if isinstance(last, Text):
            turns[-1] = Turn("user", (Text(last.value, cut=True),))
        return (*own, *turns)

    def _turn(self, number: int, item: Any) -> Turn:
        if not isinstance(item, Mapping) or set(item) != {"role", "content"}:
            raise InvalidRequest(f"message {number} must have role and content, and nothing else")
        role, content = item["role"], item["content"]
        if role not in ROLES:
            raise InvalidRequest(f"message {number}: role must be one of {', '.join(ROLES)}")
        if not isinstance(content, str):
            raise InvalidRequest(f"message {number}: content must be a text")
        return Turn(role, (Text(content),))

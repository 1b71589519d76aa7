"""Task, the base of all kinds: a request's options over the defaults of its task, and the outcome."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Protocol

from edgeslm.bundle.calibration import Calibration, find_threshold
from edgeslm.bundle.learned_task import LearnedSection
from edgeslm.bundle.manifest import Bundle
from edgeslm.config.loader import Task as TaskSection
from edgeslm.config.schema import LEARNED
from edgeslm.config.task_kinds import NARROWING
from edgeslm.engine.calls import Call, Cost, Output, Sampling, Text, Turn
from edgeslm.errors import ConfigError, InternalError, InvalidRequest
from edgeslm.knowledge.index.queries import EVERYTHING
from edgeslm.knowledge.index.search import Filter
from edgeslm.messages import NORMAL_PRIORITY, Request, Truncated

if TYPE_CHECKING:
    from edgeslm.knowledge.index.queries import TableAnswer
    from edgeslm.knowledge.index.search import Found

PROBABILITY: Final[Mapping[str, Any]] = {"type": "number", "minimum": 0, "maximum": 1}
"""JSON Schema of one in a result."""


def object_schema(required: dict[str, Any], optional: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """JSON Schema of an object with these properties."""
    return {"type": "object", "properties": {**required, **(optional or {})}, "required": list(required)}


class OnChunk(Protocol):
    """Takes the pieces of a streamed answer: text, or a :class:`Progress`."""

    def __call__(self, piece: str, /) -> None: ...


class Ask(Protocol):
    """The engine as a task sees it."""

    async def __call__(self, call: Call, on_chunk: OnChunk | None = None) -> Output: ...


class Documents(Protocol):
    """The node's collections as a task sees them."""

    async def search(
        self,
        question: str,
        collections: Sequence[str],
        k: int,
        priority: int = NORMAL_PRIORITY,
        *,
        only: Filter = EVERYTHING,
        by_sentence: bool = False,
    ) -> Sequence[Found]:
        """The ``k`` best passages of the collections named, the best first.

        :param only: which of their documents are looked in.
        :param by_sentence: the first of them are looked at again, sentence by sentence, and by a reader if
            there is one.
        """
        ...

    async def compute(
        self, question: str, collections: Sequence[str], only: Filter = EVERYTHING
    ) -> TableAnswer | None:
        """What the tables of the collections named come to; None where they have no answer, or several."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """A result's body before the parts that the scheduler knows (queue time, model) are added.

    ``distance`` says how far the message lies from what the task was taught with, where that is known.
    """

    status: Literal["ok", "abstained"]
    result: Mapping[str, Any]
    cost: Cost
    truncated: Truncated | None = None
    distance: float | None = None

    @classmethod
    def of(cls, output: Output, result: Mapping[str, Any], *, abstained: bool = False) -> Outcome:
        status: Literal["ok", "abstained"] = "abstained" if abstained else "ok"
        return cls(status, result, output.cost, output.truncated, output.distance)


class Task(ABC):
    """One entry of ``tasks:``, ready to run.

    :param bundle: the head or the adapter that it was taught as. :param documents: what it may look in.
    :param context_length: tokens that its model reads and writes at most.
    """

    kind: ClassVar[str]

    def __init__(
        self,
        name: str,
        section: TaskSection,
        bundle: Bundle | None = None,
        documents: Documents | None = None,
        context_length: int | None = None,
    ) -> None:
        self.name = name
        self.section = section
        self.bundle = bundle
        self.context_length = context_length
        self._documents = documents
        self.set_up()

    def set_up(self) -> None:  # noqa: B027  most kinds add nothing
        """What a kind adds to the constructor. :raises ConfigError: it doesn't go together."""

    @property
    def learned(self) -> LearnedSection | None:
        """What it was taught; None for a task that is only told what to do."""
        return None if self.bundle is None else self.bundle.manifest.learned

    @property
    def stage(self) -> str | None:
        """How a result names who answered."""
        return LEARNED if self.section.learned else self.section.model

    @property
    def is_head(self) -> bool:
        """Whether it computes on an encoder."""
        return self.bundle is not None and self.bundle.manifest.head is not None

    @abstractmethod
    async def run(self, request: Request, ask: Ask, on_chunk: OnChunk | None) -> Outcome:
        """:raises RequestError: what the sender is told."""

    @abstractmethod
    def result_schema(self) -> dict[str, Any]:
        """JSON Schema of ``result``, published in ``info``."""

    def is_answer(self, result: Mapping[str, Any], message: str) -> bool:
        """Whether what another node answered could be an answer of this task."""
        return True

    def refer(self, request: Request, found: Mapping[str, Any]) -> Mapping[str, Any]:
        """The options that another node is asked with, after what was found here."""
        return {}

    def bring_back(
        self, request: Request, found: Mapping[str, Any], answer: Mapping[str, Any]
    ) -> Mapping[str, Any] | None:
        """Another node's result as one of this task; None if it is of no use."""
        return answer

    def without_model(self, request: Request) -> Mapping[str, Any] | None:
        """What can be told where no model could; None if that is nothing. May take seconds."""
        return None

    def check(self, request: Request) -> None:
        """Refuses what can be refused without the engine, before the request waits in a queue.

        :raises InvalidRequest: an option that senders may not set, or an input of the wrong kind.
        """
        allowed = self.section.allowed
        for option in request.options:
            if option not in allowed:
                may = ", ".join(sorted(allowed)) or "none"
                raise InvalidRequest(
                    f"task {self.name} does not let senders set the option {option!r} (it allows: {may})"
                )
        for name in request.options.get("knowledge", ()):
            if name not in self.section.knowledge:
                may = ", ".join(self.section.knowledge) or "none"
                raise InvalidRequest(f"task {self.name} doesn't look in {name!r}; its collections are: {may}")
        self.check_input(request)

    def check_input(self, request: Request) -> None:
        self.text(request)

    def collections(self, request: Request) -> Sequence[str]:
        """Those of the task, or those among them that the request names."""
        names: Sequence[str] = request.options.get("knowledge", self.section.knowledge)
        return names

    def only(self, request: Request) -> Filter:
        """Which documents the request is about."""
        return Filter(**self.narrowed(request))

    def narrowed(self, request: Request) -> dict[str, Any]:
        """The options that say so."""
        return {name: request.options[name] for name in NARROWING if name in request.options}

    @property
    def opened(self) -> Documents:
        """:raises InternalError: nobody has opened them."""
        if self._documents is None:
            raise InternalError(f"task {self.name} has nothing to look in")
        return self._documents

    def text(self, request: Request) -> str:
        """The input as text; only ``generate`` reads objects."""
        if not isinstance(request.input, str):
            raise InvalidRequest(f"task {self.name} takes a text as its input, not an object")
        return request.input

    def option(self, request: Request, name: str) -> Any:
        """The sender's value, else the task's."""
        if name in request.options:
            return request.options[name]
        return getattr(self.section, name)

    def sampling(self, request: Request) -> Sampling:
        return Sampling(
            temperature=float(self.option(request, "temperature")),
            top_p=float(self.option(request, "top_p")),
            repetition_penalty=float(self.option(request, "repetition_penalty")),
            seed=self.option(request, "seed"),
        )

    def turns(self, instruction: tuple[str | Text, ...], *user: str | Text) -> tuple[Turn, ...]:
        """The instruction, the examples as earlier turns, and the user's turn.

        What a sender brought is a ``Text`` in the instruction too.
        """
        shown: list[Turn] = []
        for example in self.section.examples:
            shown.append(Turn("user", (example.input,)))
            shown.append(Turn("assistant", (self.encode_example(example.output),)))
        return (Turn("system", instruction), *shown, Turn("user", user))

    def encode_example(self, output: Any) -> str:
        """An example's output as the model would have written it."""
        return str(output)


def threshold_of(name: str, section: TaskSection, calibration: Calibration | None) -> float:
    """Confidence below which a result of the task is ``abstained``.

    :raises ConfigError: a wanted error that the calibration can't promise.
    """
    wanted = section.max_error
    if wanted is None:
        return section.threshold
    if calibration is None:
        return 1 - wanted  # nothing says better: the model is taken at its word
    if not calibration.risk:
        raise ConfigError(
            [
                f"tasks.{name}.max_error: nothing says how often which confidence is wrong, as with "
                "what was taught by a teacher; set a threshold instead"
            ]
        )
    point = find_threshold(calibration, wanted)
    if point is None:
        least = min(point.error for point in calibration.risk)
        raise ConfigError(
            [
                f"tasks.{name}.max_error: {wanted} can't be promised: the least error that its "
                f"{calibration.rows} test rows show is {least:.3f}; teach it with more rows, or allow more"
            ]
        )
    return point.threshold

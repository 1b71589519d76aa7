"""Base class of all kinds of task; a request's options override the task's defaults."""

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
from edgeslm.knowledge.index.queries import EVERYTHING, Filter
from edgeslm.messages import NORMAL_PRIORITY, Request, Truncated
from edgeslm.tasks.consulting import Consult

if TYPE_CHECKING:
    from edgeslm.knowledge.index.queries import Found, TableAnswer

PROBABILITY: Final[Mapping[str, Any]] = {"type": "number", "minimum": 0, "maximum": 1}
"""JSON Schema of a probability in a result."""


def object_schema(required: dict[str, Any], optional: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """JSON Schema of an object with these required and optional properties."""
    return {"type": "object", "properties": {**required, **(optional or {})}, "required": list(required)}


class OnChunk(Protocol):
    """Receives the pieces of a streamed answer: text, or a :class:`Progress`."""

    def __call__(self, piece: str, /) -> None: ...


class Ask(Protocol):
    """Runs an engine call."""

    async def __call__(self, call: Call, on_chunk: OnChunk | None = None) -> Output: ...


class Documents(Protocol):
    """The node's collections."""

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
        """The ``k`` best passages of the named collections, best first.

        :param only: which documents to search.
        :param by_sentence: rerank the best passages by their sentences, and by a reader model, if any.
        """
        ...

    async def compare(
        self,
        question: str,
        found: Sequence[Found],
        collections: Sequence[str],
        priority: int = NORMAL_PRIORITY,
    ) -> Sequence[Found]:
        """Other passages, such as those of a context, reranked by their sentences with the encoder of the
        named collections, if any."""
        ...

    async def compute(
        self, question: str, collections: Sequence[str], only: Filter = EVERYTHING
    ) -> TableAnswer | None:
        """The answer computed from the collections' tables; None if there is no answer or more than one."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """A task's result, before the scheduler adds the queue time and the model's name.

    ``distance``: distance of the message from the task's training data; None if unknown.
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
    """A configured task (one entry of ``tasks:``), ready to run.

    :param bundle: the trained head or adapter.
    :param documents: the node's collections.
    :param context_length: context length of the task's model, in tokens.
    """

    kind: ClassVar[str]
    is_zero_shot: ClassVar[bool] = False
    """Whether the task runs an encoder that was never trained for its labels or fields."""

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
        """Sets up what only this kind of task needs. :raises ConfigError: the section is inconsistent."""

    @property
    def learned(self) -> LearnedSection | None:
        """The ``learned`` section of the bundle's manifest; None for a task that was not trained."""
        return None if self.bundle is None else self.bundle.manifest.learned

    @property
    def stage(self) -> str | None:
        """Name of the task's stage in results: the model's name, or ``learned`` for a trained task."""
        return LEARNED if self.section.learned else self.section.model

    @property
    def is_head(self) -> bool:
        """Whether the task runs a trained head on an encoder."""
        return self.bundle is not None and self.bundle.manifest.head is not None

    @property
    def needs_encoder(self) -> bool:
        """Whether the task's model is an encoder; otherwise it is a decoder."""
        return self.is_head or self.is_zero_shot or self.kind == "embed"

    @property
    def is_untaught(self) -> bool:
        """Whether the task labels messages by a model that was never trained for it."""
        return self.kind == "classify" and self.bundle is None

    @abstractmethod
    async def run(self, request: Request, ask: Ask, on_chunk: OnChunk | None) -> Outcome:
        """Computes the result. :raises RequestError: an error that becomes the client's result."""

    @abstractmethod
    def result_schema(self) -> dict[str, Any]:
        """JSON Schema of the task's results, which the node publishes in its ``info`` message."""

    def is_answer(self, result: Mapping[str, Any], message: str) -> bool:
        """Whether another node's result is valid for this task."""
        return True

    def may_refer(self, request: Request) -> bool:
        """Whether another node may be asked; it has its own labels and schema."""
        return isinstance(request.input, str) and not request.options.keys() & {"labels", "schema"}

    def refer(self, request: Request, found: Mapping[str, Any]) -> Mapping[str, Any]:
        """Options of the request to another node, derived from ``found``, this node's own result."""
        return {}

    def bring_back(
        self, request: Request, found: Mapping[str, Any], answer: Mapping[str, Any]
    ) -> Mapping[str, Any] | None:
        """Converts another node's result to a result of this task; None if it is unusable."""
        return answer

    async def consult(
        self, request: Request, found: Mapping[str, Any], ask: Consult
    ) -> Mapping[str, Any] | None:
        """The result by a model on another server; None if its answer is unusable. ``found`` is this node's
        own result. :raises EdgeslmError: the server doesn't answer."""
        return None

    def without_model(self, request: Request) -> Mapping[str, Any] | None:
        """A result without a model, for use if all models fail; None if there is none. May take seconds."""
        return None

    def check(self, request: Request) -> None:
        """Rejects invalid requests before they are queued.

        :raises InvalidRequest: a forbidden option, or an input of the wrong type.
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
        """Names of the collections to search: the collections that the request names, or else all collections
        of the task."""
        names: Sequence[str] = request.options.get("knowledge", self.section.knowledge)
        return names

    def only(self, request: Request) -> Filter:
        """Filter for the documents to search, from the request's options."""
        return Filter(**self.narrowed(request))

    def narrowed(self, request: Request) -> dict[str, Any]:
        """Options of the request that restrict the documents to search."""
        return {name: request.options[name] for name in NARROWING if name in request.options}

    @property
    def opened(self) -> Documents:
        """The node's collections. :raises InternalError: the node has none."""
        if self._documents is None:
            raise InternalError(f"task {self.name} has nothing to look in")
        return self._documents

    def text(self, request: Request) -> str:
        """The request's input. :raises InvalidRequest: the input is an object instead of a text."""
        if not isinstance(request.input, str):
            raise InvalidRequest(f"task {self.name} takes a text as its input, not an object")
        return request.input

    def option(self, request: Request, name: str) -> Any:
        """Value of an option: from the request if it sets the option, otherwise from the task."""
        if name in request.options:
            return request.options[name]
        return getattr(self.section, name)

    def chat_sampling(self, request: Request) -> dict[str, Any]:
        """Sampling parameters by OpenAI's names."""
        sampling, stop = self.sampling(request), list(self.option(request, "stop"))
        told = {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": sampling.seed}
        return {**{name: value for name, value in told.items() if value is not None}} | (
            {"stop": stop[:4]} if stop else {}
        )

    def sampling(self, request: Request) -> Sampling:
        return Sampling(
            temperature=float(self.option(request, "temperature")),
            top_p=float(self.option(request, "top_p")),
            repetition_penalty=float(self.option(request, "repetition_penalty")),
            seed=self.option(request, "seed"),
        )

    def turns(self, instruction: tuple[str | Text, ...], *user: str | Text) -> tuple[Turn, ...]:
        """Chat turns of a prompt: the instruction, the examples as earlier turns, and the user's input.

        Parts that come from a request must be ``Text``, even within the instruction, so that they can't end a
        turn.
        """
        shown: list[Turn] = []
        for example in self.section.examples:
            shown.append(Turn("user", (example.input,)))
            shown.append(Turn("assistant", (self.encode_example(example.output),)))
        return (Turn("system", instruction), *shown, Turn("user", user))

    def encode_example(self, output: Any) -> str:
        """Output of an example, in the format that the model should write."""
        return str(output)


def threshold_of(name: str, section: TaskSection, calibration: Calibration | None) -> float:
    """Confidence below which a result is ``abstained`` instead of ``ok``.

    :raises ConfigError: the calibration can't guarantee the task's ``max_error``.
    """
    wanted = section.max_error
    if wanted is None:
        return section.threshold
    if calibration is None:
        return 1 - wanted  # uncalibrated: trust the model's probability
    if not calibration.risk:
        raise ConfigError(
            [
                f"tasks.{name}.max_error: error rates are unknown (for example after "
                "distillation); set a threshold instead"
            ]
        )
    point = find_threshold(calibration, wanted)
    if point is None:
        least = min(point.error for point in calibration.risk)
        raise ConfigError(
            [
                f"tasks.{name}.max_error: {wanted} is not reachable: the lowest error rate guaranteed by "
                f"its {calibration.rows} held-out rows is {least:.3f}; train it with more rows, or allow more"
            ]
        )
    return point.threshold

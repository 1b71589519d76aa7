"""Fakes at the seams: an engine without a model, an engine process without a process, a byte tokenizer.

``tests/support/fake_worker.py`` is a fake with a real process and a pipe.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from edgeslm.engine.calls import Call, EngineInfo, Output
from edgeslm.engine.host.process import EngineCrashed, EngineProcess
from edgeslm.messages import NORMAL_PRIORITY
from edgeslm.protocol.delivery import Delivery

OnChunk = Callable[[str], None]

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SPECIAL = ("<|im_start|>", "<|im_end|>")


class FakeEngine:
    """The engine that tasks see: returns the outputs in turn, records the calls, emits ``chunks`` first."""

    def __init__(self, *outputs: Output | Exception, chunks: Sequence[str] = ()) -> None:
        self.calls: list[Call] = []
        self._outputs: Iterator[Output | Exception] = iter(outputs)
        self._chunks = chunks

    async def __call__(self, call: Call, on_chunk: OnChunk | None = None) -> Output:
        self.calls.append(call)
        for chunk in self._chunks:
            if on_chunk is not None:
                on_chunk(chunk)
        output = next(self._outputs)
        if isinstance(output, Exception):
            raise output
        return output


class FakeProcess(EngineProcess):
    """A worker without a process. ``on_call`` answers; its exceptions, such as ``EngineCrashed``, pass
    through.

    ``on_start`` is awaited at each start and may raise. ``is_prepared`` says whether a start finds a
    prepacked bundle; without it, starts don't look for one.
    """

    def __init__(
        self,
        bundle: Path,
        *,
        on_call: Callable[[Call], Output] = lambda call: Output(),
        on_start: Callable[[int], object] = lambda number: None,
        is_prepared: Callable[[], bool] | None = None,
    ) -> None:
        super().__init__(bundle, cache=None if is_prepared is None else bundle / "cache")
        self.starts = 0
        self.stops = 0
        self.calls: list[Call] = []
        self.priorities: list[int] = []
        self._on_call = on_call
        self.on_hang: Callable[[], None] | None = None
        self._on_start = on_start
        self._is_prepared = is_prepared or (lambda: False)
        self._up = False

    @property
    def alive(self) -> bool:
        return self._up

    @property
    def ready(self) -> bool:
        return self._up

    @property
    def pid(self) -> int | None:
        return 4711 if self._up else None

    async def start(self) -> EngineInfo:
        self.starts += 1
        waits = self._on_start(self.starts)
        if hasattr(waits, "__await__"):
            await waits
        self._up = True
        self.info = EngineInfo("decoder", 2048, 1, 0.0, self._is_prepared())
        return self.info

    async def call(
        self,
        call: Call,
        on_chunk: OnChunk | None = None,
        priority: int = NORMAL_PRIORITY,
        on_hang: Callable[[], None] | None = None,
    ) -> Output:
        self.calls.append(call)
        self.priorities.append(priority)
        self.on_hang = on_hang
        try:
            return self._on_call(call)
        except EngineCrashed:
            self._up = False
            raise

    def crash(self) -> None:
        """It ends during a call."""
        self._up = False

    async def stop(self) -> None:
        self.stops += 1
        self._up = False


class FakeAttempt:
    """Records the calls of an attempt."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def compute(self) -> None:
        self.told.append("compute")

    def wait(self) -> None:
        self.told.append("wait")

    def crash(self) -> None:
        self.told.append("crash")

    def hang(self) -> None:
        self.told.append("hang")


class FakeClock:
    """A clock that the test advances."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class FakeService:
    """A service with tasks."""

    def __init__(self, **tasks: Any) -> None:
        self.tasks: Mapping[str, Any] = tasks


class FakePresence:
    """Counts announcements; ``retain`` gets retained messages."""

    def __init__(self, retain: Callable[[str, bytes], Awaitable[None]] | None = None) -> None:
        self.state = "online"
        self.announced = 0
        self._retain = retain

    def announce_info(self) -> None:
        self.announced += 1

    def announce_health(self) -> None:
        self.announced += 1

    async def retain(self, topic: str, payload: bytes) -> None:
        if self._retain is not None:
            await self._retain(topic, payload)


def make_key(number: int) -> bytes:
    """A journal key: 16 bytes that look random."""
    return hashlib.sha256(b"%d" % number).digest()[:16]


def make_delivery(payload: bytes = b"text", **fields: Any) -> Delivery:
    """A request to the task ``triage`` as the broker delivers it."""
    known: dict[str, Any] = {
        "topic": "edgeslm/v1/hall/req/triage",
        "qos": 1,
        "retain": False,
        "dup": False,
        "response_topic": None,
        "correlation": None,
        "expiry_s": None,
        "generation": 1,
        "mid": 7,
        "size": len(payload),
        "received_at": 5.0,
    }
    return Delivery(payload=payload, **{**known, **fields})


def write_chat_tokenizer(folder: Path, template: str | None = CHATML) -> Path:
    """Writes a bundle's tokenizer files: each byte is a token, in addition to :data:`SPECIAL`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: number for number, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": SPECIAL[1], "bos_token": {"content": SPECIAL[0]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder

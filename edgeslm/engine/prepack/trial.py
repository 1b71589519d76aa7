"""Prepack trial: the result is tested before it is kept.

It has to compute what the bundle computes here and to say what the bundle said on the build machine. The
fastest number of threads is found here too.

The libraries are loaded by what is called, never by the import.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from edgeslm.bundle.manifest import Bundle
from edgeslm.engine.prepack.golden import MOST_APART, divergences, load_golden
from edgeslm.engine.worker.prepared import NEW_TOKENS, PROMPT_TOKENS
from edgeslm.errors import BundleError, SelfTestError
from edgeslm.hardware.board import busy_s, usable_cores

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_CLOSE: Final = 1e-3
"""By how much of the largest logit others may differ: they are the same kernels on the same numbers."""
_ROUNDS: Final = 3
_WORTH: Final = 0.95
"""More threads have to take at most this share of the time of fewer: they cost power and others' time."""
_DISTURBED: Final = 0.1
"""Of the processors' time: if others took more while threads were measured, it was against them."""


class Seconds(NamedTuple):
    """What a usual request takes: its ``prompt`` read at once, and all of it."""

    prompt: float
    request: float


def check_same(bundle: Bundle, graph: str, laid_out: str) -> None:
    """A prompt and two steps of decoding, which take different kernels, of the bundle's ``graph`` and of the
    one ``laid_out``, both as seen from the bundle.

    :raises BundleError: they compute different numbers.
    """
    wanted = _logits(bundle, graph)
    off = _off(_logits(bundle, laid_out), wanted)
    if not off <= _CLOSE:
        raise BundleError(
            f"{bundle.path}: what was prepared computes other numbers (by {off:.1%}), so it is not used"
        )


def test_itself(bundle: Bundle, laid_out: str) -> tuple[float, ...]:
    """How far each golden answer lies from the build machine's, in nats; nothing if the bundle has none.

    :raises SelfTestError: one lies too far from it.
    """
    golden = load_golden(bundle)
    if golden is None:
        return ()
    model = _load(bundle, laid_out, usable_cores())
    apart = tuple(round(one, 4) for one in divergences(model, golden))
    wrong = [one for one in apart if not one <= MOST_APART]
    if wrong:
        raise SelfTestError(
            f"{bundle.path}: {len(wrong)} of {len(apart)} answers are others than on the build machine "
            f"(largest divergence {max(wrong):.2f} nats, {MOST_APART} are allowed), so what was prepared is "
            "not used; this processor or these libraries compute it wrongly: take another recipe, or other "
            "versions"
        )
    return apart


def has_same_scores(bundle: Bundle, laid_out: Path) -> bool:
    """Whether a graph gives labels the probabilities that the bundle's own graph ``score`` gives them."""
    wanted = _scores(bundle, bundle.path / (bundle.manifest.graphs.score or ""))
    return _off(_scores(bundle, laid_out), wanted) <= _CLOSE


def time_threads(bundle: Bundle, laid_out: str) -> dict[int, Seconds]:
    """What a request takes, by threads; nothing if others computed meanwhile."""
    began, others = time.perf_counter(), _others_s()
    seconds = {threads: time_request(bundle, laid_out, threads) for threads in _choices()}
    processors_s = (time.perf_counter() - began) * usable_cores()
    return seconds if _others_s() - others <= _DISTURBED * processors_s else {}


def fastest(seconds: dict[int, float]) -> int:
    """The fewest threads than which no more are worth it."""
    best, *others = sorted(seconds)
    for threads in others:
        if seconds[threads] < _WORTH * seconds[best]:
            best = threads
    return best


def _others_s() -> float:
    """Seconds that the processors have computed for others; only differences mean something."""
    own = os.times()
    return busy_s(Path("/")) - own.user - own.system


def _choices() -> list[int]:
    cores = usable_cores()
    return sorted({1, 2, 4, max(1, cores // 2), cores} & set(range(1, cores + 1)))


def _off(found: npt.NDArray[np.float64], wanted: npt.NDArray[np.float64]) -> float:
    """By how much of the largest number the others differ at most."""
    import numpy as np

    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def _scores(bundle: Bundle, graph: Path) -> npt.NDArray[np.float64]:
    import numpy as np

    from edgeslm.engine.worker.labels import make_tree
    from edgeslm.engine.worker.prompt import Encoded
    from edgeslm.engine.worker.scorer import Scorer

    scorer = Scorer(graph, _settings(bundle), (0,), usable_cores())
    ids = _tokens(bundle, 16).tolist()
    found = scorer.score(Encoded(ids, None, 8), make_tree([ids[:1], ids[:2], ids[1:3], ids[:3]]))
    return np.array([found[label] for label in sorted(found)])


def _logits(bundle: Bundle, graph: str) -> npt.NDArray[np.float64]:
    import numpy as np

    generator = _generator(_load(bundle, graph, usable_cores()))
    found = []
    generator.append_tokens(_tokens(bundle, 32))
    for _ in range(3):
        found.append(np.asarray(generator.get_logits(), np.float64).ravel())
        generator.generate_next_token()
    return np.concatenate(found)


def time_request(bundle: Bundle, laid_out: str, threads: int, *, of_processor: bool = False) -> Seconds:
    """The least of a few.

    :param of_processor: counts the processor's time, not the wall's.
    """
    clock = time.process_time if of_processor else time.perf_counter
    model, prompts, requests = _load(bundle, laid_out, threads), [], []
    for _ in range(_ROUNDS):
        generator = _generator(model)
        started = clock()
        generator.append_tokens(_tokens(bundle, PROMPT_TOKENS))
        prompts.append(clock() - started)
        for _ in range(NEW_TOKENS):
            generator.generate_next_token()
        requests.append(clock() - started)
        del generator  # before its model
    return Seconds(min(prompts), min(requests))


def _tokens(bundle: Bundle, count: int) -> npt.NDArray[np.int32]:
    import numpy as np

    count = min(count, bundle.manifest.context_length - NEW_TOKENS - 1)
    return np.random.default_rng(0).integers(0, _settings(bundle)["vocab_size"], count).astype(np.int32)


def _settings(bundle: Bundle) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((bundle.path / "genai_config.json").read_text("utf-8"))["model"]
    return read


def _load(bundle: Bundle, graph: str, threads: int) -> Any:
    from edgeslm.engine.worker.loading import PLAIN

    return PLAIN.load(bundle.path, graph, threads)


def _generator(model: Any) -> Any:
    import onnxruntime_genai as og

    params = og.GeneratorParams(model)
    most = PROMPT_TOKENS + NEW_TOKENS + 1
    params.set_search_options(max_length=most, min_length=most, do_sample=False)
    return og.Generator(model, params)

"""Prepack trial: tests a prepacked bundle before it goes into the cache, and finds the fastest number of
threads.

A prepacked bundle must compute the same as the original on this machine, and match the golden answers of the
build machine.
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

CLOSE: Final = 1e-3
"""Largest allowed difference between logits, relative to the largest logit; it is small, since both graphs
use the same kernels and weights."""
_ROUNDS: Final = 3
_WORTH: Final = 0.95
"""A larger number of threads is chosen only if the time of a request falls below this share of the time with
fewer threads, since threads cost power and CPU time."""
_DISTURBED: Final = 0.1
"""Timings are discarded if other processes used more than this share of the CPU time."""


class Seconds(NamedTuple):
    """Times of a typical request, in seconds. ``prompt`` is the time of the prefill, and ``request`` the time
    of the whole request."""

    prompt: float
    request: float


def check_same(bundle: Bundle, graph: str, prepacked: str) -> None:
    """Compares the logits of two graphs after a prompt and after two decode steps, since prefill and decoding
    use different kernels. The paths of the graphs are relative to the bundle.

    :raises BundleError: the logits differ.
    """
    wanted = _logits(bundle, graph)
    check_error(bundle, relative_error(_logits(bundle, prepacked), wanted))


def check_error(bundle: Bundle, error: float) -> None:
    """:raises BundleError: the relative error of a prepacked graph is too large, or NaN."""
    if not error <= CLOSE:
        raise BundleError(
            f"{bundle.path}: the prepared weights give other numbers (by {error:.1%}), so they are not used"
        )


def test_itself(bundle: Bundle, prepacked: str) -> tuple[float, ...]:
    """Compares this machine's answers with the golden answers of the build machine; returns one divergence in
    nats for each golden answer, or an empty tuple if the bundle has no golden answers.

    :raises SelfTestError: a divergence is too large.
    """
    golden = load_golden(bundle)
    if golden is None:
        return ()
    model = _load(bundle, prepacked, usable_cores())
    apart = tuple(round(one, 4) for one in divergences(model, golden))
    wrong = [one for one in apart if not one <= MOST_APART]
    if wrong:
        raise SelfTestError(
            f"{bundle.path}: {len(wrong)} of {len(apart)} answers differ from those of the build machine "
            f"(largest divergence {max(wrong):.2f} nats, {MOST_APART} are allowed), so the prepared weights "
            "are not used; this processor or these libraries compute it wrongly: take another "
            "recipe, or other versions"
        )
    return apart


def has_same_scores(bundle: Bundle, prepacked: Path) -> bool:
    """Whether a prepacked graph computes the same label probabilities as the bundle's graph ``score``."""
    wanted = _scores(bundle, bundle.path / (bundle.manifest.graphs.score or ""))
    return relative_error(_scores(bundle, prepacked), wanted) <= CLOSE


def time_threads(bundle: Bundle, prepacked: str) -> dict[int, Seconds]:
    """Measures a request with different numbers of threads; returns a dict from the number of threads to the
    times. The dict is empty if other processes used too much CPU time."""
    began, others = time.perf_counter(), _others_s()
    seconds = {threads: time_request(bundle, prepacked, threads) for threads in _choices()}
    took_s = time.perf_counter() - began
    return {} if is_disturbed(_others_s() - others, took_s, usable_cores()) else seconds


def is_disturbed(others_s: float, took_s: float, cores: int) -> bool:
    """Whether other processes used too much CPU time for valid timings.

    :param others_s: seconds of CPU time that other processes used within ``took_s`` seconds.
    """
    return others_s > _DISTURBED * took_s * cores


def fastest(seconds: dict[int, float]) -> int:
    """The number of threads to use; a larger number is chosen only if it is clearly faster (``_WORTH``)."""
    best, *others = sorted(seconds)
    for threads in others:
        if seconds[threads] < _WORTH * seconds[best]:
            best = threads
    return best


def _others_s() -> float:
    """CPU seconds that other processes used; only the difference between two calls is meaningful."""
    own = os.times()
    return busy_s(Path("/")) - own.user - own.system


def _choices() -> list[int]:
    cores = usable_cores()
    return sorted({1, 2, 4, max(1, cores // 2), cores} & set(range(1, cores + 1)))


def relative_error(found: npt.NDArray[np.float64], wanted: npt.NDArray[np.float64]) -> float:
    """Largest absolute difference between the values of two arrays, relative to the largest absolute value in
    ``wanted``."""
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


def time_request(bundle: Bundle, prepacked: str, threads: int, *, of_processor: bool = False) -> Seconds:
    """Measures a typical request a few times; returns the shortest times.

    :param of_processor: measure CPU time instead of wall-clock time.
    """
    clock = time.process_time if of_processor else time.perf_counter
    model, prompts, requests = _load(bundle, prepacked, threads), [], []
    for _ in range(_ROUNDS):
        generator = _generator(model)
        started = clock()
        generator.append_tokens(_tokens(bundle, PROMPT_TOKENS))
        prompts.append(clock() - started)
        for _ in range(NEW_TOKENS):
            generator.generate_next_token()
        requests.append(clock() - started)
        del generator  # must go before its model
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

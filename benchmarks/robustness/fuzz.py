"""Does a malformed payload raise an unexpected exception or leak memory?

    python benchmarks/robustness/fuzz.py [--cases 1000000] [--seed N] [--case NUMBER] [--trace]

Each payload goes through every parser of ``protocol/codec``: of requests (with random Response Topic,
Correlation Data and expiry), cancels, results, chunks and states. A request or its refusal is then answered
as the daemon answers it: the result is encoded and parsed again, the reply topic checked. Prints a table,
then one JSON line; status 1 on the first exception that is not the project's own, with the payload and the
numbers that reproduce it, or if memory grew. ``scripts/fuzz`` fuzzes all parsers by coverage.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import random
import sys
import time
import traceback
import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks.lib.payloads import PACKET_LIMIT, REPLIES, Case, Payloads
from edgeslm.errors import REQUEST_ERRORS, InvalidRequest, ProtocolError
from edgeslm.messages import Chunk, ErrorBody, Request, Result
from edgeslm.protocol.codec import (
    Cancel,
    Rejected,
    State,
    Topics,
    check_reply_topic,
    encode_cancel,
    encode_chunk,
    encode_dead,
    encode_result,
    error_result,
    parse_cancel,
    parse_chunk,
    parse_request,
    parse_result,
    parse_state,
)
from edgeslm.protocol.delivery import Delivery

TOPICS = Topics("hall")
WARM_UP = 0.1
"""The part of the cases after which memory must not grow."""
MOST_GROWTH_MB = 1.0
"""Resident memory moves by arenas all the time; a leak of one small object a case is 50 MB at a million."""


def try_case(case: Case) -> str:
    """What the request parser made of it. Whatever is raised here is a defect."""
    try_readers(case.payload, case.correlation)
    request = parse_request(
        replace(
            Delivery.local(case.payload, correlation=case.correlation),
            response_topic=case.response_topic,
            expiry_s=case.expiry_s,
        ),
        task="triage",
        topics=TOPICS,
        allowed_replies=REPLIES,
        packet_limit=PACKET_LIMIT,
    )
    return try_answer(request)


def try_answer(request: Request | Rejected) -> str:
    """Answers a request, or a refusal of one, the way a daemon does."""
    check_reply_topic(request.reply_to, TOPICS, REPLIES)
    if not 1 <= len(request.id) <= 256:
        raise AssertionError(f"an id of {len(request.id)} characters")
    if isinstance(request, Request):
        result = Result(
            request.id, request.task, "ok", {"text": str(request.input), "fields": request.options}
        )
        if not request.input or (request.expires_at or 100.0) < 100.0 or not 0 <= request.priority <= 9:
            raise AssertionError("a request without input, with a priority out of range or from the past")
    else:
        if type(request.error) not in REQUEST_ERRORS.values() or not str(request.error):
            raise AssertionError(f"{type(request.error)} has no code or no sentence")
        encode_dead(id=request.id, task="t", reply_to=request.reply_to, error=ErrorBody.of(request.error))
        result = error_result(request.id, request.task, request.error)
    read = parse_result(encode_result(result))
    if (read.id, read.status, read.error) != (result.id, result.status, result.error):
        raise AssertionError("the result reads otherwise than it was written")
    return result.error.code if result.error else "ok"


def try_readers(payload: bytes, correlation: bytes | None = None) -> None:
    """The parsers of everything else: a value, which survives being sent again, or their own error."""
    for parser in PARSERS:
        try:
            value = parser(payload)
        except ProtocolError:
            continue
        if isinstance(value, Chunk) and parse_chunk(encode_chunk(value)) != value:
            raise AssertionError("the chunk reads otherwise than it was written")
        if isinstance(value, Result) and parse_result(encode_result(value)).id != value.id:
            raise AssertionError("the result reads otherwise than it was written")
    try:
        cancel = parse_cancel(payload, correlation)
    except InvalidRequest:
        return
    if cancel.id is not None and parse_cancel(encode_cancel(cancel.id)) != cancel:
        raise AssertionError("the cancel reads otherwise than it was written")


PARSERS: tuple[Callable[[bytes], Result | Chunk | State | Cancel], ...] = (
    parse_result,
    parse_chunk,
    parse_state,
)


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def measured() -> tuple[float, int]:
    """Resident megabytes and living objects, garbage collected."""
    gc.collect()
    return resident_mb(), len(gc.get_objects())


def run(payloads: Payloads, cases: int, *, trace: bool = False) -> dict[str, Any]:
    """Figures of all cases; the first defect is raised, with its number as a note."""
    outcomes: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    warm_up = max(1, int(cases * WARM_UP))
    started = time.perf_counter()
    before, objects = 0.0, 0
    for number in range(cases):
        if number == warm_up:
            if trace:
                tracemalloc.start()
            before, objects = measured()
        case = payloads.make(number)
        kinds[case.kind] += 1
        try:
            outcomes[try_case(case)] += 1
        except Exception as error:
            error.add_note(f"case {number}: {case!r}")
            raise
    seconds = time.perf_counter() - started
    after, objects_after = measured()
    if trace:
        for line in tracemalloc.take_snapshot().statistics("lineno")[:10]:
            print(line)
    return {
        "cases": cases,
        "seconds": round(seconds, 1),
        "microseconds_per_case": round(seconds / cases * 1e6, 1),
        "kinds": dict(kinds.most_common()),
        "outcomes": dict(outcomes.most_common()),
        "warm_up_cases": warm_up,
        "resident_mb": {"after_warm_up": round(before, 2), "end": round(after, 2)},
        "resident_growth_mb": round(after - before, 2),
        "objects_growth": objects_after - objects,
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, help="default: a random one, which is printed")
    parser.add_argument("--case", type=int, help="make this one again, and no other")
    parser.add_argument("--trace", action="store_true", help="say which lines hold memory at the end; slow")
    arguments = parser.parse_args(argv)
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(2**32)
    payloads = Payloads(seed)
    if arguments.case is not None:
        case = payloads.make(arguments.case)
        print(repr(case))
        print(try_case(case))
        return 0
    card = {"python": platform.python_version(), "edgeslm": version("edgeslm"), "seed": seed}
    print("  ".join(f"{key} {value}" for key, value in card.items()), flush=True)
    try:
        figures = run(payloads, arguments.cases, trace=arguments.trace)
    except Exception as error:
        traceback.print_exc()
        print(json.dumps({**card, "defect": type(error).__name__, "notes": error.__notes__}))
        return 1
    for name in ("kinds", "outcomes"):
        print(f"\n{name}")
        for row, count in figures[name].items():
            print(f"  {row:<18}{count:>9}")
    memory = figures["resident_mb"]
    print(f"\n{figures['cases']} cases, {figures['seconds']} s, {figures['microseconds_per_case']} µs each")
    print(
        f"resident MB {memory}, growth {figures['resident_growth_mb']}, objects {figures['objects_growth']:+}"
    )
    print(json.dumps({**card, **figures}))
    return int(figures["resident_growth_mb"] > MOST_GROWTH_MB)


if __name__ == "__main__":
    sys.exit(main())

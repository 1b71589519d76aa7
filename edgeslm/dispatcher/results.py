"""A node's result as the pool's: with the sender's id, and with the time in the pool. Pure."""

from __future__ import annotations

from dataclasses import replace

from edgeslm.messages import Request, Result
from edgeslm.protocol.strict_json import decode_text, encode_json, parse_json


def as_the_pools(request: Request, result: Result, payload: bytes, now: float) -> tuple[Result, bytes]:
    """``payload`` is the node's own result. The time that the request waited for a node, and on the way, is
    added to its time in the queue. Fields that only a newer node knows stay."""
    timings = dict(result.timings_ms)
    if "total" in timings:
        total = (now - request.received_at) * 1000
        waited = max(0.0, total - timings["total"])
        timings = {name: round(value, 1) for name, value in timings.items()}
        timings["queue"] = round(timings.get("queue", 0.0) + waited, 1)
        timings["total"] = round(max(total, timings["total"]), 1)
    document = {**parse_json(decode_text(payload)), "id": request.id}
    if timings:
        document["timings_ms"] = timings
    return replace(result, id=request.id, timings_ms=timings), encode_json(document)

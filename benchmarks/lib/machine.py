"""Processor and its instruction sets, for the report of a benchmark."""

from __future__ import annotations

import platform
from pathlib import Path


def processor() -> str:
    """Its name and the instruction sets that decide over quantized speed."""
    text = Path("/proc/cpuinfo").read_text()
    fields = dict(part.split(":", 1) for part in text.split("\n\n", 1)[0].splitlines() if ":" in part)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    have = (fields.get("flags") or fields.get("Features") or "").split()
    sets = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8", "asimddp", "i8mm", "sve")
    name = fields.get("model name") or fields.get("CPU part") or platform.processor()
    return f"{name} ({' '.join(s for s in sets if s in have) or 'baseline'})"

"""At which awaits and statements of the delivery's modules nodes or dispatchers were killed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tests.simulation.places import UNREACHABLE, file_of, places_of, smallest


def report(points: Counter[tuple[str, int]], modules: Sequence[str]) -> str:
    lines = []
    found_all = of_all = 0
    for module in modules:
        places = places_of(module)
        hit = {smallest(places, line) for (name, line) in points if name == str(file_of(module))}
        missing = [place[1] for place in places if place not in hit]
        found_all += len(places) - len(missing)
        of_all += len(places)
        rest = f"; not at line {', '.join(map(str, missing))}" if missing else ""
        lines.append(f"{module}: killed at {len(places) - len(missing)} of {len(places)}{rest}")
    share = f"{found_all} of {of_all} awaits and statements ({100 * found_all / of_all:.0f} %)"
    hidden = sum(module in modules for module, _, _ in UNREACHABLE)
    return "\n".join([*lines, f"All: killed at {share}; {hidden} more can't be reached."])

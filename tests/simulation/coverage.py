"""At which awaits and statements of the delivery's modules nodes were killed."""

from __future__ import annotations

from collections import Counter

from tests.simulation.places import AWAITS, STATEMENTS, UNREACHABLE, file_of, places_of, smallest


def report(points: Counter[tuple[str, int]]) -> str:
    lines = []
    found_all = of_all = 0
    for module in (*AWAITS, *STATEMENTS):
        places = places_of(module)
        hit = {smallest(places, line) for (name, line) in points if name == str(file_of(module))}
        missing = [place[1] for place in places if place not in hit]
        found_all += len(places) - len(missing)
        of_all += len(places)
        rest = f"; not at line {', '.join(map(str, missing))}" if missing else ""
        lines.append(f"{module}: killed at {len(places) - len(missing)} of {len(places)}{rest}")
    share = f"{found_all} of {of_all} awaits and statements ({100 * found_all / of_all:.0f} %)"
    return "\n".join([*lines, f"All: killed at {share}; {len(UNREACHABLE)} more can't be reached."])

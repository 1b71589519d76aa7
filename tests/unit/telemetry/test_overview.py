from __future__ import annotations

import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.telemetry.overview import Painter, duration, figures_of, milliseconds, rate, screen

HEALTH = {
    "state": "online",
    "queue": 2,
    "in_flight": 1,
    "uptime_s": 259_200,
    "results": {"ok": 1200, "invalid_request": 2},
    "answers_per_s": {"triage": 11.5, "fields": 0.31},
    "tokens_per_s": 41.5,
    "latency_ms": {"p50": 35.1, "p95": 80.2, "p99": 14_000.0},
    "dropped": {"qos0": 0, "rate": 12},
    "memory_bytes": {"daemon": 52_428_800, "small": 180_355_072},
    "temperature_c": 54.2,
    "alerts": ["The disk is full."],
}
INFO = {
    "version": "0.1.0",
    "tasks": {"triage": {"kind": "classify"}, "fields": {"kind": "extract"}},
    "models": {"small": {}},
}
ESCAPE = re.compile(r"\x1b\[[0-9]*m")


def documents(state: str = "online", **health: Any) -> dict[str, Any]:
    return {"state": {"state": state, "boot_id": "b"}, "info": INFO, "health": {**HEALTH, **health}}


def drawn(*nodes: tuple[str, dict[str, Any]], width: int = 110, height: int | None = None) -> list[str]:
    figures = [figures_of(node, said, {"health": 100.0}, 112.0) for node, said in nodes]
    return screen(figures, width=width, height=height, title="top", paint=Painter(False))


def test_a_node_with_its_figures_tasks_and_alerts() -> None:
    assert drawn(("hall", documents())) == [
        "top   1 node, 1 up",
        "",
        "NODE                        STATE    QUEUE RUN ANSWERS/S TOKENS/S     P50     P95     P99"
        "  MEMORY  TEMP     UP",
        "hall                        online       2   1      11.8     41.5   35 ms   80 ms    14 s"
        "  233 MB  54 C    3 d",
        "  triage                   classify      11.5/s",
        "  fields                   extract       0.31/s",
        "  memory: daemon 52 MB, small 180 MB",
        "  results: ok 1200, invalid_request 2",
        "  dropped: rate 12",
        "  edgeslm 0.1.0",
        "  ! The disk is full.",
    ]


def test_a_node_that_is_away_shows_no_figures_as_if_they_were_of_now() -> None:
    lines = drawn(("hall", documents("offline")), ("yard", documents()))
    assert lines[0] == "top   2 nodes, 1 up"
    assert lines[3] == "hall                        offline"
    assert sum("disk is full" in line for line in lines) == 1


def test_old_figures_are_told_with_their_age() -> None:
    (node,) = [figures_of("hall", documents(), {"health": 0.0}, 300.0)]
    lines = screen([node], width=80, height=None, title="top", paint=Painter(False))
    assert "  figures are 5 min old" in lines


def test_without_nodes_it_says_so() -> None:
    assert drawn()[-1] == "No messages from any node yet."


def test_where_not_all_fits_tasks_give_way_to_nodes_and_nodes_to_a_count() -> None:
    nodes = [(f"node-{number}", documents()) for number in range(5)]
    assert len(drawn(*nodes, height=40)) == 3 + 5 * (1 + 2 + 1)
    assert drawn(*nodes, height=13) == [line for line in drawn(*nodes) if "/s" not in line[2:]]
    assert len(drawn(*nodes, height=8)) == 8
    assert drawn(*nodes, height=6)[-2:] == [drawn(*nodes, height=8)[4], "and 3 more"]


def test_nodes_of_sites_stand_beside_their_site_and_those_of_a_site_that_is_cut_off_say_so() -> None:
    at_noon = time.mktime((2026, 3, 4, 12, 0, 0, 0, 0, -1))
    (one, two) = [figures_of("press", documents(), {"health": 100.0}, 112.0)] * 2
    lines = screen(
        [one.of_site("hall"), two.of_site("yard", at_noon), two.of_site("yard", at_noon, since_before=True)],
        width=90,
        height=None,
        title="top",
        paint=Painter(False),
    )
    assert lines[0] == "top   2 sites, 1 unreachable   3 nodes, 1 up"
    assert lines[2].startswith("SITE NODE ")
    assert lines[3].startswith("hall press  ")
    assert lines[-2].split(maxsplit=2) == ["yard", "press", "unreachable since 2026-03-04 12:00 (was online)"]
    assert lines[-1].endswith("unreachable since before 2026-03-04 12:00 (was online)")
    assert sum("disk is full" in line for line in lines) == 1


@pytest.mark.parametrize("width", [20, 30, 44, 60, 80, 200])
def test_columns_give_way_on_a_narrow_terminal(width: int) -> None:
    lines = drawn(("press-hall-4-by-the-gate", documents()), width=width)
    (node,) = [figures_of("press", documents(), {}, 0.0).of_site("a" * 30, 0.0)]
    for site in (node, node.of_site("hall")):
        of_site = screen([site], width=width, height=None, title="top", paint=Painter(False))
        assert all(len(line) <= width for line in of_site)
    assert all(len(line) <= width for line in lines)
    assert "STATE" in lines[2]
    assert ("P99" in lines[2]) == (width > 90)


def test_colours_only_where_they_are_wanted() -> None:
    figures = [figures_of("hall", documents(), {"health": 0.0}, 0.0)]
    plain, painted = (
        screen(figures, width=90, height=None, title="top", paint=Painter(on)) for on in (False, True)
    )
    assert not any("\x1b" in line for line in plain)
    assert [ESCAPE.sub("", line) for line in painted] == plain


def test_nothing_from_the_bus_commands_the_terminal() -> None:
    evil = documents(alerts=["\x1b]0;owned\x07 \x9b2J\r\n"], results={"\x1b[2J": 1})
    evil["info"] = {"version": "\x1b[2J", "tasks": {"\x1b[2J": {"kind": "\x1b"}}}
    assert not [line for line in drawn(("\x1b[2J", evil)) if re.search(r"[\x00-\x1f\x7f-\x9f]", line)]


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.dictionaries(st.sampled_from(["state", "version", "tasks", "models"]), anything),
    st.dictionaries(st.sampled_from([*HEALTH]), anything),
    st.integers(0, 120),
    st.none() | st.integers(0, 30),
)
def test_documents_of_any_form_are_shown_or_left_out(
    info: dict[str, Any], health: dict[str, Any], width: int, height: int | None
) -> None:
    said = {"state": info, "info": info, "health": health}
    lines = drawn(("hall", said), ("yard", documents()), width=width, height=height)
    assert all(len(line) <= max(20, width) and line.isprintable() for line in lines)


def test_words_for_figures() -> None:
    assert [duration(s) for s in (None, 0, 119, 120, 7200, 200_000)] == [
        *("-", "0 s", "119 s", "2 min", "2 h", "2 d")
    ]
    assert [milliseconds(ms) for ms in (None, 0.25, 35.1, 9999.0, 14_000.0)] == [
        *("-", "0.2 ms", "35 ms", "9999 ms", "14 s")
    ]
    assert [rate(value) for value in (None, 0, 0.31, 11.46)] == ["-", "0.0", "0.31", "11.5"]

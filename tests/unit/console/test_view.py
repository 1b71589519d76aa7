from __future__ import annotations

import asyncio

from edgeslm.console.view import MOMENTS, ROWS, Cursor, View


def test_each_browser_gets_what_it_hasn_t_seen() -> None:
    view, early, late = View(), Cursor(), Cursor()
    view.take({"kind": "rows", "rows": [{"n": 1, "status": "running"}, {"n": 2, "status": "waiting"}]})
    view.take({"kind": "told", "part": "health", "value": {"queue": 1}})
    assert set(view.news(early)) == {"rows", "health"}
    assert view.news(early) == {}
    view.take({"kind": "rows", "rows": [{"n": 1, "status": "ok"}]})
    view.take({"kind": "tick", "moment": {"at": 1.0}})
    assert view.news(early) == {"rows": [{"n": 1, "status": "ok"}], "moments": [{"at": 1.0}]}
    assert view.news(late) == {
        "rows": [{"n": 1, "status": "ok"}, {"n": 2, "status": "waiting"}],
        "moments": [{"at": 1.0}],
        "health": {"queue": 1},
    }


def test_a_browser_that_reads_slowly_gets_the_newest_and_no_backlog() -> None:
    view, cursor = View(), Cursor()
    view.news(cursor)
    for number in range(5000):
        view.take({"kind": "rows", "rows": [{"n": number}]})
        view.take({"kind": "tick", "moment": {"at": number}})
    news = view.news(cursor)
    assert [row["n"] for row in news["rows"]] == list(range(5000 - ROWS, 5000))
    assert [moment["at"] for moment in news["moments"]] == list(range(5000 - MOMENTS, 5000))


def test_waiting_for_news() -> None:
    async def scenario() -> None:
        view, cursor = View(), Cursor()
        await view.changed(cursor, 0.01)
        waiting = asyncio.create_task(view.changed(cursor, 60))
        await asyncio.sleep(0)
        view.take({"kind": "tick", "moment": {}})
        await waiting
        await view.changed(cursor, 60)  # what came before is news too

    asyncio.run(scenario())

from __future__ import annotations

from edgeslm.console.feed import ROWS, TEXT_CHARACTERS, Feed
from edgeslm.errors import Busy
from edgeslm.messages import ErrorBody, Request, Result

REQUEST = Request("triage", "Spindle 3 smells", "42", "edgeslm/v1/hall/res/triage/panel-7")
OK = Result(
    "42",
    "triage",
    "ok",
    {"label": "critical"},
    model="small@sha256:1",
    timings_ms={"queue": 1.0, "total": 20.0},
    usage={"prompt_tokens": 60, "completion_tokens": 5},
)


def test_a_request_as_it_goes_on() -> None:
    feed = Feed()
    seen = feed.watch(REQUEST)
    (row,) = feed.take_changed()
    assert (row["n"], row["task"], row["status"], row["topic"]) == (1, "triage", "waiting", REQUEST.reply_to)
    seen.begun()
    assert feed.take_changed()[0]["status"] == "running"
    seen.ended(OK)
    (row,) = feed.take_changed()
    assert (row["status"], row["ms"], row["wait"], row["tokens"]) == ("ok", 20.0, 1.0, 65)
    assert feed.take_changed() == []
    assert feed.rows() == [row]


def test_no_text_is_kept_unless_it_is_wanted() -> None:
    feed = Feed()
    feed.watch(REQUEST).ended(OK)
    assert feed.text(1) == (None, None)
    assert "Spindle" not in str(feed.rows()) and "critical" not in str(feed.rows())
    feed = Feed(keep_texts=True)
    feed.watch(Request("t", "a" * 9000, "1", "r")).ended(OK)
    read, wrote = feed.text(1)
    assert read is not None and len(read) == TEXT_CHARACTERS + 2
    assert wrote == '{"label": "critical"}'
    assert "critical" not in str(feed.rows()), "texts are for whoever asks for one"
    assert feed.text(2) == (None, None)


def test_errors_and_what_is_broken_off() -> None:
    feed = Feed()
    feed.watch(REQUEST).ended(Result("1", "t", "error", error=ErrorBody.of(Busy("too much"))))
    feed.watch(REQUEST).ended(None)
    assert [row["status"] for row in feed.rows()] == ["busy", "broken off"]
    assert feed.take_moment() == {"answered": 0, "errors": 1, "p50": None, "p95": None}


def test_figures_of_a_moment_begin_anew() -> None:
    feed = Feed()
    for _ in range(3):
        feed.watch(REQUEST).ended(OK)
    assert feed.take_moment() == {"answered": 3, "errors": 0, "p50": 20.0, "p95": 20.0}
    assert feed.take_moment() == {"answered": 0, "errors": 0, "p50": None, "p95": None}


def test_what_is_kept_is_bounded() -> None:
    feed = Feed()
    for _ in range(3 * ROWS):
        feed.watch(REQUEST).ended(OK)
    assert len(feed.rows()) == len(feed.take_changed()) == ROWS

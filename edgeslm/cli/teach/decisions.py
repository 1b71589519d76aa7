"""Decisions about corrections that came over MQTT: training uses them only after somebody's yes."""

from __future__ import annotations

from collections.abc import Callable

from edgeslm.cli.feedback import answer_of, sender_name
from edgeslm.cli.screen import say
from edgeslm.errors import plural
from edgeslm.storage.feedback_store import FeedbackStore, Row, is_waiting
from edgeslm.telemetry.log_lines import printable

YES, NO, SHOW = "y", "n", "s"
LONGEST = 500
"""Characters of a text that are shown."""


def decide(store: FeedbackStore, task: str, read: Callable[[], str]) -> None:
    """Asks about the corrections of each sender. Any other key leaves them for later.

    :param read: reads one key. :raises FeedbackError: the file can't be read or rewritten.
    """
    senders: dict[str, list[Row]] = {}
    for row in store.rows(task):
        if is_waiting(row):
            senders.setdefault(str(row["by"]), []).append(row)
    for sender, rows in senders.items():
        said = f"{plural(len(rows), 'correction')} by {sender_name(sender)}"
        while True:
            say(printable(f"\n{said}, sent over MQTT: use them?"))
            say(f"{YES} yes  {NO} no  {SHOW} show them  any other key: later")
            key = read()
            if key != SHOW:
                break
            for row in rows:
                say(printable(f"{row.get('at', '')}  {answer_of(row)}  {row['text'][:LONGEST]}"))
        if key in (YES, NO):
            store.decide(task, rows, use=key == YES)
            say("used" if key == YES else "not used")

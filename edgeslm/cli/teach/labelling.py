"""Labelling in the terminal: a key for each message, with the label that a model proposes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from edgeslm.cli.screen import say
from edgeslm.cli.teach.proposals import Proposer
from edgeslm.errors import plural
from edgeslm.teaching.session import KEYS, Session
from edgeslm.telemetry.log_lines import printable

QUIT, SKIP, UNDO, CONFIRM, ALL, YES = "q", "s", "u", "\n", "*", "y"
LONGEST = 1000
"""Characters of a message that are shown; of a message in a list, a tenth."""

ReadKey = Callable[[], str]


def label_messages(session: Session, labels: Sequence[str], proposer: Proposer) -> None:
    """Asks for labels until the user quits or no message is left."""
    shown = None
    with keys() as read:
        say(f"{SKIP} skips a message, {UNDO} takes the last label back, {QUIT} ends and trains.")
        while (one := session.next()) is not None or session.can_undo:
            if one is None:
                say(f"\nNo message is left: {UNDO} takes the last label back, any other key trains.")
                if read() != UNDO:
                    break
                session.undo()
                continue
            if session.accuracy is not None and session.accuracy != shown:
                shown = session.accuracy
                low, high = shown["interval"]
                count = plural(len(session.rows), "label")
                right = f"{shown['share']:.2f} right ({low:.2f} to {high:.2f})"
                say(f"\n{count}: {right} of these, in cross-validation")
            one = proposer.propose(session) or one
            _show(one, labels, session)
            key = read()
            if key == QUIT:
                break
            if key == UNDO:
                say("taken back" if session.undo() is not None else "there is nothing to take back")
            elif key == ALL and session.proposed:
                proposer.finish(session)
                _accept_all(session, read)
            else:
                _label(session, one, labels, key)


def _show(one: Mapping[str, Any], labels: Sequence[str], session: Session) -> None:
    say(f"\n{printable(one['text'][:LONGEST])}{_guess(one)}")
    more = []
    if one["guess"] is not None:
        more.append("Enter takes the guess" if "model" not in one else "Enter takes the proposal")
    if session.proposed and session.waiting > 1:
        more.append(f"{ALL} lists the proposals of {session.waiting} messages")
    say("  ".join([*(f"{key} {label}" for key, label in zip(KEYS, labels, strict=False)), *more]))


def _guess(one: Mapping[str, Any]) -> str:
    if one["guess"] is None:
        return ""
    sure = "" if one["confidence"] is None else f" {one['confidence']:.2f}"
    who = f"{one['model']} proposes" if "model" in one else "so far"
    return f"   ({who}: {one['guess']}{sure})"


def _label(session: Session, one: Mapping[str, Any], labels: Sequence[str], key: str) -> None:
    label = None
    if key in KEYS[: len(labels)]:
        label = labels[KEYS.index(key)]
    elif key == CONFIRM and ("model" not in one or sys.stdin.isatty()):
        label = one["guess"]  # piped input takes no proposal: whether one is there in time is chance
    if label is not None:
        session.label(one["text"], label)
        say(f"-> {label}")
    elif key == SKIP or (key == CONFIRM and not sys.stdin.isatty()):
        session.skip(one["text"])


def _accept_all(session: Session, read: ReadKey) -> None:
    """Lists the proposals of the chosen messages, and takes them all after a yes."""
    proposed = session.proposed
    say("")
    for one in proposed:
        text = " ".join(one["text"].split())[: LONGEST // 10]
        say(printable(f"{one['guess']}  {one['confidence']:.2f}  {text}"))
    say(f"{YES} takes these {plural(len(proposed), 'label')}; any other key takes none.")
    if read() == YES:
        for one in proposed:
            session.label(one["text"], one["guess"], one["model"])
        say(f"{plural(len(proposed), 'label')} taken; {UNDO} takes one after the other back.")


@contextmanager
def keys() -> Iterator[ReadKey]:
    """A function that reads one key from a terminal, or one line's first character from anything else, where
    an empty line is the key Enter. At the end of the input it gives the key that quits."""
    if not sys.stdin.isatty():
        yield lambda: (sys.stdin.readline() or QUIT).strip()[:1].lower() or CONFIRM
        return
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield lambda: (sys.stdin.read(1) or QUIT).lower()
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)

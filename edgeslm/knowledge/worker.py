"""The process of a node's collections: one thread searches, others keep folders and messages in them.

It is its own process because numpy and a search's vectors have no place in the one that holds the connection
to the broker. What embeds texts is an engine of the node, which is asked over the pipe. It ends when the pipe
closes, whatever it is doing: a collection holds whole documents at any time.

Messages, as tuples:

- to it: ``("seek" or "compute", number, Query)``, ``("remember", number, collection, Memory)``,
  ``("vectors", number, vectors or None)``
- from it: ``("ready",)`` or ``("refused", sentence)`` once; then ``("done", number, value)``, ``("failed",
  number, sentence)``, ``("embed", number, collection, texts)`` and ``("trouble", collection, sentence or
  None)``
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

from edgeslm.errors import KnowledgeError
from edgeslm.knowledge.collection import Collection
from edgeslm.knowledge.keeper import Keeper
from edgeslm.knowledge.opened import OpenCollections
from edgeslm.knowledge.queries import Query, Shelf, parse_shelf
from edgeslm.knowledge.search import Found, Place, search_all
from edgeslm.knowledge.table_answers import TableAnswer, answer_from_tables

log = logging.getLogger("edgeslm.knowledge")


class Mailbox:
    """The pipe, to which all threads write."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()

    def send(self, *message: Any) -> None:
        try:
            with self._lock:
                self._pipe.send(message)
        except OSError:
            os._exit(0)  # the parent is gone or done with us

    def receive(self) -> tuple[Any, ...]:
        try:
            message: tuple[Any, ...] = self._pipe.recv()
        except (EOFError, OSError):
            os._exit(0)
        return message


class Searcher:
    """The collections, opened to be read."""

    def __init__(self, shelves: Sequence[Shelf]) -> None:
        self._encoders = {shelf.name: shelf.encoder for shelf in shelves}
        self.opened = OpenCollections({shelf.name: shelf.path for shelf in shelves})

    def search(self, query: Query) -> list[Found]:
        """:raises KnowledgeError: a collection can't be read."""
        places = []
        for name in query.collections:
            collection = self.opened.get(name)
            tag, own = collection.encoder, self._encoders[name]
            is_embedded = tag is not None and own is not None and tag.digest == own.digest
            places.append(Place(collection, query.vector if is_embedded else None, name))
        return search_all(places, query.question, k=query.k, only=query.only)

    def compute(self, query: Query) -> TableAnswer | None:
        """What the tables say, if all collections that have an answer have the same.

        :raises KnowledgeError: a collection can't be read.
        """
        answers = []
        for name in query.collections:
            answer = answer_from_tables(self.opened.get(name), query.question, only=query.only)
            if answer is not None:
                answers.append(answer)
        return answers[0] if len({answer.values for answer in answers}) == 1 else None


def serve(pipe: Connection, shelves: list[Shelf]) -> None:
    """Opens the collections, says so, and answers until the pipe closes."""
    mailbox = Mailbox(pipe)
    keeper = Keeper([shelf for shelf in shelves if shelf.is_kept], mailbox.send)
    searcher = Searcher(shelves)
    try:
        keeper.make()
        for shelf in shelves:
            _check_encoder(shelf, searcher.opened.get(shelf.name))
    except KnowledgeError as error:
        mailbox.send("refused", str(error))
        return
    mailbox.send("ready")
    keeper.start()
    while True:
        kind, number, *rest = mailbox.receive()
        if kind == "seek":
            mailbox.send(*_outcome(searcher.search, number, *rest))
        elif kind == "compute":
            mailbox.send(*_outcome(searcher.compute, number, *rest))
        elif kind == "remember":
            keeper.remember(number, *rest)
        else:
            keeper.take_vectors(number, *rest)


def _check_encoder(shelf: Shelf, collection: Collection) -> None:
    tag = collection.encoder
    if tag is not None and shelf.encoder is not None and tag.digest != shelf.encoder.digest:
        raise KnowledgeError(
            f"knowledge.{shelf.name}.encoder: {collection.file} was embedded with another encoder, "
            f"{tag.path}; name that one, or embed all passages anew (edgeslm knowledge add --re-embed)"
        )


def _outcome(work: Callable[[Query], Any], number: int, query: Query) -> tuple[Any, ...]:
    try:
        return ("done", number, work(query))
    except KnowledgeError as error:
        return ("failed", number, str(error))
    except Exception as error:  # a mistake of ours; the type alone, since its text may quote the question
        log.error("a search failed: %s", type(error).__name__)
        log.debug("a search failed", exc_info=True)
        return ("failed", number, f"the search failed ({type(error).__name__})")


def main(argv: list[str]) -> None:
    """``python -m edgeslm.knowledge.worker FD LOG_LEVEL SHELF...``; started by ``process``."""
    # Ctrl-C and systemd's SIGTERM reach the whole group: the parent drains first and then closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    logging.basicConfig(level=argv[1], format="%(levelname)s %(name)s %(message)s", stream=sys.stderr)
    serve(Connection(int(argv[0])), [parse_shelf(text) for text in argv[2:]])


if __name__ == "__main__":
    main(sys.argv[1:])

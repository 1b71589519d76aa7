"""Knowledge worker: the process that searches and updates a node's collections. One thread searches, other
threads index.

A separate process keeps numpy and vectors out of the daemon. To embed texts, the worker sends a request over
the pipe to the node, which uses one of its engines. The messages between worker and node are defined in the
module ``frames``. When the pipe closes, the worker exits at once, even during a transaction, which SQLite
then rolls back.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence

from edgeslm.errors import KnowledgeError
from edgeslm.ipc.pipe import Pipe, Refused
from edgeslm.knowledge.index.browse import list_documents, read_document
from edgeslm.knowledge.index.collection import Collection
from edgeslm.knowledge.index.queries import CollectionSpec, parse_spec
from edgeslm.knowledge.index.search import Place, search_all
from edgeslm.knowledge.service.frames import (
    FROM_COLLECTIONS,
    TO_COLLECTIONS,
    Browse,
    Browsed,
    Compute,
    Computed,
    Failed,
    NodeMessage,
    Passages,
    Ready,
    Remember,
    SearchPassages,
    WorkerMessage,
)
from edgeslm.knowledge.service.indexer import Indexer
from edgeslm.knowledge.service.opened import OpenCollections
from edgeslm.knowledge.table_qa.answers import answer_from_tables
from edgeslm.telemetry.log_lines import set_up_logging

log = logging.getLogger("edgeslm.knowledge")


class Mailbox:
    """The pipe to the node, shared by all threads. When the pipe closes, the process exits."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe

    def send(self, said: WorkerMessage) -> None:
        """:raises FrameError: the message is too long."""
        try:
            self._pipe.send(said)
        except OSError:
            os._exit(0)  # the parent is gone or has stopped us

    def receive(self) -> NodeMessage:
        try:
            asked: NodeMessage = self._pipe.receive()
        except (EOFError, OSError):
            os._exit(0)
        return asked


class Searcher:
    """Answers requests from read-only collections."""

    def __init__(self, specs: Sequence[CollectionSpec]) -> None:
        self._encoders = {spec.name: spec.encoder for spec in specs}
        self.opened = OpenCollections({spec.name: spec.path for spec in specs})

    def answer(self, asked: SearchPassages | Compute | Browse) -> Passages | Computed | Browsed:
        """:raises KnowledgeError: a collection can't be read."""
        if isinstance(asked, Browse):
            return self._browse(asked)
        return self._search(asked) if isinstance(asked, SearchPassages) else self._compute(asked)

    def _search(self, asked: SearchPassages) -> Passages:
        places, query = [], asked.query
        for name in query.collections:
            collection = self.opened.get(name)
            tag, own = collection.encoder, self._encoders[name]
            is_embedded = tag is not None and own is not None and tag.digest == own.digest
            places.append(Place(collection, query.vector if is_embedded else None, name))
        return Passages(asked.number, tuple(search_all(places, query.question, k=query.k, only=query.only)))

    def _browse(self, asked: Browse) -> Browsed:
        collection = self.opened.get(asked.collection)
        if asked.source is None:
            return Browsed(asked.number, list_documents(collection))
        return Browsed(asked.number, read_document(collection, asked.source))

    def _compute(self, asked: Compute) -> Computed:
        """The answer from tables; None if collections have different answers."""
        answers, query = [], asked.query
        for name in query.collections:
            answer = answer_from_tables(self.opened.get(name), query.question, only=query.only)
            if answer is not None:
                answers.append(answer)
        agree = len({answer.values for answer in answers}) == 1
        return Computed(asked.number, answers[0] if agree else None)


def serve(pipe: Pipe, specs: list[CollectionSpec]) -> None:
    """Opens the collections, sends ``Ready``, and answers requests until the pipe closes."""
    mailbox = Mailbox(pipe)
    indexer = Indexer([spec for spec in specs if spec.is_kept], mailbox)
    searcher = Searcher(specs)
    try:
        indexer.make()
        for spec in specs:
            _check_encoder(spec, searcher.opened.get(spec.name))
    except KnowledgeError as error:
        mailbox.send(Refused(str(error)))
        return
    mailbox.send(Ready())
    indexer.start()
    while True:
        match mailbox.receive():
            case SearchPassages() | Compute() | Browse() as asked:
                _answer(mailbox, searcher, asked)
            case Remember(number, collection, memory):
                indexer.remember(number, collection, memory)
            case vectors:
                indexer.take_vectors(vectors)


def _check_encoder(spec: CollectionSpec, collection: Collection) -> None:
    tag = collection.encoder
    if tag is not None and spec.encoder is not None and tag.digest != spec.encoder.digest:
        raise KnowledgeError(
            f"knowledge.{spec.name}.encoder: {collection.file} was embedded with another encoder, "
            f"{tag.path}; name that one, or embed all passages again (edgeslm knowledge add --re-embed)"
        )


def _answer(mailbox: Mailbox, searcher: Searcher, asked: SearchPassages | Compute | Browse) -> None:
    try:
        mailbox.send(searcher.answer(asked))
    except KnowledgeError as error:
        mailbox.send(Failed(asked.number, str(error)))
    except Exception as error:  # a bug; only the type, since the exception's text may quote the question
        log.error("a search failed: %s", type(error).__name__)
        log.debug("a search failed", exc_info=True)
        mailbox.send(Failed(asked.number, f"the search failed ({type(error).__name__})"))


def main(argv: list[str]) -> None:
    """Runs ``python -m edgeslm.knowledge.service.worker FD LOG_LEVEL SPEC...``, which ``process`` starts."""
    # Ctrl-C and systemd's SIGTERM reach the whole group; the parent drains first and then closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    set_up_logging(argv[1])
    pipe = Pipe(int(argv[0]), FROM_COLLECTIONS, TO_COLLECTIONS)
    serve(pipe, [parse_spec(text) for text in argv[2:]])


if __name__ == "__main__":
    main(sys.argv[1:])

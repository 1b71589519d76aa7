"""Remembered messages: each message becomes a document that may expire."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence

from edgeslm.errors import KnowledgeError
from edgeslm.knowledge.documents.passages import Document, split
from edgeslm.knowledge.index.collection import Collection, DocumentOrigin
from edgeslm.knowledge.index.queries import Memory
from edgeslm.knowledge.readers.reader import check_document
from edgeslm.storage.erasure_filter import Choice

log = logging.getLogger("edgeslm.knowledge")


def remember(collection: Collection, memories: Sequence[Memory]) -> int:
    """Stores messages in one transaction with one sync to disk; their vectors are computed and stored later.
    A message that can't be stored is logged, without its text.

    :return: number of stored messages.
    :raises KnowledgeError: the collection can't be written; nothing is stored.
    """
    kept = 0
    with collection.together():
        for memory in memories:
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(memory.at))
            try:
                document = check_document(Document(memory.source, f"{memory.topic} {when}", memory.text))
            except KnowledgeError as error:
                log.warning("a message can't be remembered: %s", error)
                continue
            raw = memory.text.encode(errors="surrogatepass")
            expires = None if memory.keep_s is None else memory.at + memory.keep_s
            origin = DocumentOrigin(hashlib.sha256(raw).hexdigest(), len(raw), memory.at, None, expires)
            collection.put(document, split(document), origin)
            kept += 1
    return kept


def forget(collection: Collection, choice: Choice, *, dry_run: bool = False) -> int:
    """Erases messages that match ``choice``, so that no byte of them is left in the file.

    :return: number of messages that match ``choice``.
    :raises KnowledgeError: the collection can't be written.
    """
    now = time.time()
    chosen = [
        entry.source
        for entry in collection.documents()
        if entry.origin.file is None and choice.fits(_id_in(entry.source, choice), now - entry.origin.mtime)
    ]
    if not dry_run:
        with collection.together():
            for source in chosen:
                collection.remove(source)
        collection.shrink()  # also erases what was removed earlier
    return len(chosen)


def _id_in(source: str, choice: Choice) -> str | None:
    """The id in a message's source, which consists of topic, id, and a name that the node appended.

    Topics and ids may contain spaces, so each possible id is compared with ``choice``.
    """
    named = source.rpartition(" ")[0]
    parts = named.split(" ")
    return next((id for n in range(1, len(parts)) if choice.fits(id := " ".join(parts[n:]), 0.0)), None)

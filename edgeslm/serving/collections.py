"""Collections of a node: a separate process searches them; the node's encoders embed passages and
questions."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from edgeslm.bundle.manifest import Bundle
from edgeslm.bundle.spans import Run
from edgeslm.config.loader import Knowledge
from edgeslm.engine.calls import Embed, Read
from edgeslm.errors import DISPENSABLE, ConfigError, InvalidRequest, KnowledgeError, ModelUnavailable, TooLong
from edgeslm.knowledge.index.queries import (
    EVERYTHING,
    CollectionSpec,
    EncoderTag,
    Filter,
    Found,
    Memory,
    Query,
)
from edgeslm.knowledge.index.rerank import readable, rerank, reread, sentences
from edgeslm.knowledge.service.process import KnowledgeProcess
from edgeslm.messages import LEAST_PRIORITY, NORMAL_PRIORITY
from edgeslm.serving.model_pool import ModelPool

if TYPE_CHECKING:
    from edgeslm.knowledge.index.queries import TableAnswer

log = logging.getLogger("edgeslm.serving")

AT_ONCE = 4
"""Number of passages in one encoder call; the number is small, since a question may have to wait until a call
is done."""


class Collections:
    """Searches collections and adds messages to them, once started.

    :param bundles: model name -> bundle, for the node's models.
    :param remembered: names of the collections to which routes add messages.
    :raises ConfigError: an encoder or reader is of the wrong kind.
    """

    def __init__(
        self,
        sections: Mapping[str, Knowledge],
        bundles: Mapping[str, Bundle],
        *,
        remembered: frozenset[str] = frozenset(),
        log_level: str = "WARNING",
    ) -> None:
        self._sections = sections
        self._bundles = bundles
        self._models: ModelPool
        problems = [
            f"knowledge.{name}.encoder: {section.encoder} embeds no texts; name a model that does"
            for name, section in sections.items()
            if section.encoder and not bundles[section.encoder].manifest.embeds
        ]
        problems += [
            f"knowledge.{name}.reader: {section.reader} reads no question with a passage; name a reader or "
            "a decoder"
            for name, section in sections.items()
            if section.reader and not _judges(bundles[section.reader])
        ]
        if problems:
            raise ConfigError(problems)
        specs = [
            CollectionSpec(
                name,
                section.path,
                self._tag(section.encoder),
                tuple(section.watch),
                name in remembered,
                section.language,
            )
            for name, section in sections.items()
        ]
        self.plan = (
            specs,
            {name: (section.encoder, section.reader, section.tables) for name, section in sections.items()},
        )
        """Describes what is searched and indexed; on a reload, collections with equal plans are shared."""
        self._specs = specs
        self._log_level = log_level
        self._process = self._make_process() if specs else None
        self._was_stopped = False

    def _make_process(self) -> KnowledgeProcess:
        return KnowledgeProcess(self._specs, embed=self._embed_added, log_level=self._log_level)

    def use(self, models: ModelPool) -> None:
        """Sets the model pool that runs the encoders and readers."""
        self._models = models

    @property
    def pids(self) -> dict[str, int]:
        """Process id of the knowledge process under the key ``knowledge``, for the memory figures in
        ``health``; empty if the process doesn't run."""
        pid = None if self._process is None else self._process.pid
        return {} if pid is None else {"knowledge": pid}

    @property
    def problems(self) -> list[str]:
        return [] if self._process is None else self._process.problems

    async def start(self) -> None:
        """Starts the knowledge process; :meth:`use` must be called before.

        :raises KnowledgeError: a collection can't be used.
        """
        if self._process is not None:
            if self._was_stopped:
                self._process, self._was_stopped = self._make_process(), False
            await self._process.start()

    async def stop(self) -> None:
        if self._process is not None:
            self._was_stopped = True
            await self._process.stop()

    async def search(
        self,
        question: str,
        collections: Sequence[str],
        k: int,
        priority: int = NORMAL_PRIORITY,
        *,
        only: Filter = EVERYTHING,
        by_sentence: bool = False,
    ) -> Sequence[Found]:
        """The ``k`` best passages of some collections, best first. If the encoder is unavailable, only word
        search is used.

        :param only: filter of the documents to search.
        :param by_sentence: rerank the best passages by their sentences, and with the reader if there is one.
        :raises RequestError: the collections can't be searched.
        """
        section = self._sections[collections[0]]  # all share one encoder and reader
        encoder = section.encoder
        vector: Sequence[float] | None = None
        if encoder is not None and (own := await self._embed_or_not(encoder, [question], priority)):
            (vector,) = own
        try:
            query = Query(tuple(collections), question, k, vector, only)
            found: Sequence[Found] = await self._opened.search(query)
        except KnowledgeError as error:
            raise ModelUnavailable(str(error)) from None
        if not by_sentence or not found:
            return found
        if encoder is not None and vector is not None:
            found = await self._by_sentence(encoder, vector, found, priority)
        if section.reader is not None:
            return await self._read(section.reader, question, found, priority)
        return found

    async def compare(
        self,
        question: str,
        found: Sequence[Found],
        collections: Sequence[str],
        priority: int = NORMAL_PRIORITY,
    ) -> Sequence[Found]:
        """Passages that no search found, reranked by their sentences; unchanged without an encoder."""
        encoder = self._sections[collections[0]].encoder
        if encoder is None or not (own := await self._embed_or_not(encoder, [question], priority)):
            return found
        return await self._by_sentence(encoder, own[0], found, priority)

    async def _by_sentence(
        self, encoder: str, vector: Sequence[float], found: Sequence[Found], priority: int
    ) -> Sequence[Found]:
        parts = sentences(found)
        made = await self._embed_or_not(encoder, [text for own in parts for text in own], priority)
        if made is None:
            return found
        vectors = iter(made)
        return rerank(found, vector, [[next(vectors) for _ in own] for own in parts])

    async def _read(
        self, reader: str, question: str, found: Sequence[Found], priority: int
    ) -> Sequence[Found]:
        """Reranks passages with the reader, a few in each call. If the reader is unavailable, the order of
        the passages stays unchanged, since any answer is better than no answer."""
        texts, likely, places = readable(found), list[float](), list[Sequence[Run]]()
        try:
            for begin in range(0, len(texts), AT_ONCE):
                call = Read(question, tuple(texts[begin : begin + AT_ONCE]))
                output = await self._models.ask(reader, call, priority=priority)
                likely += output.probabilities
                places += output.places
        except (*DISPENSABLE, TooLong, InvalidRequest) as error:  # also if the question doesn't fit a decoder
            log.warning("Passages are judged without the reader %s: %s", reader, error)
            return found
        return reread(found, likely, places)

    async def compute(
        self, question: str, collections: Sequence[str], only: Filter = EVERYTHING
    ) -> TableAnswer | None:
        """The answer computed from the tables of some collections; None if there is no answer, or more than
        one. Collections without ``tables`` are skipped.

        :raises RequestError: the collections can't be read.
        """
        asked = tuple(name for name in collections if self._sections[name].tables)
        if not asked:
            return None
        try:
            return await self._opened.compute(Query(asked, question, only=only))
        except KnowledgeError as error:
            raise ModelUnavailable(str(error)) from None

    async def browse(self, collection: str, source: str | None) -> dict[str, Any]:
        """The list of a collection's documents, or title and text of the document called ``source``.

        :raises InvalidRequest: there is no such collection or document.
        :raises ModelUnavailable: the collection can't be read.
        """
        if collection not in self._sections:
            raise InvalidRequest(f"there is no collection {collection!r} here")
        try:
            found = (
                await self._opened.documents(collection)
                if source is None
                else await self._opened.read(collection, source)
            )
        except KnowledgeError as error:
            raise ModelUnavailable(str(error)) from None
        if found is None:
            raise InvalidRequest(f"the collection {collection} has no such document")
        return asdict(found)

    async def remember(self, collection: str, memory: Memory) -> None:
        """Adds a message to a collection; returns when the message is on disk.

        :raises KnowledgeError: the message can't be written.
        """
        await self._opened.remember(collection, memory)

    @property
    def _opened(self) -> KnowledgeProcess:
        if self._process is None:
            raise KnowledgeError("this node has no collections")
        return self._process

    def _tag(self, encoder: str | None) -> EncoderTag | None:
        if encoder is None:
            return None
        bundle = self._bundles[encoder]
        return EncoderTag(bundle.digest, str(bundle.path))

    async def _embed_added(self, collection: str, texts: Sequence[str]) -> Any:
        """Embeds passages at the lowest priority, a few in each call, since a question can't interrupt a call
        of the encoder."""
        encoder = self._sections[collection].encoder
        if encoder is None:
            raise KnowledgeError(f"{collection} has no encoder")
        vectors: list[Sequence[float]] = []
        for begin in range(0, len(texts), AT_ONCE):
            vectors += await self._embed(encoder, texts[begin : begin + AT_ONCE], LEAST_PRIORITY)
        return vectors

    async def _embed_or_not(
        self, encoder: str, texts: Sequence[str], priority: int
    ) -> Sequence[Sequence[float]] | None:
        """Embeds texts; if the encoder is unavailable, logs a warning and returns None."""
        try:
            return await self._embed(encoder, texts, priority) if texts else ()
        except DISPENSABLE as error:
            log.warning("Collections are searched without the encoder %s: %s", encoder, error)
            return None

    async def _embed(self, encoder: str, texts: Sequence[str], priority: int) -> Sequence[Sequence[float]]:
        call = Embed(tuple(texts), overflow="head")
        return (await self._models.ask(encoder, call, priority=priority)).vectors


def _judges(bundle: Bundle) -> bool:
    """Whether a model can tell how likely a text answers a question."""
    return bundle.manifest.is_reader or bundle.manifest.kind == "decoder"

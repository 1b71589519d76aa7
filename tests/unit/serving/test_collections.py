"""The collections of a node: which encoder embeds a question, and what senders are told of trouble."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from edgeslm.bundle.manifest import load_bundle
from edgeslm.config.loader import Knowledge
from edgeslm.engine.calls import Call, Embed, Output, Read
from edgeslm.errors import ConfigError, KnowledgeError, ModelUnavailable, NoMemory, Poisoned
from edgeslm.knowledge.index.queries import CollectionSpec, Memory, Query
from edgeslm.knowledge.index.rerank import DEPTH
from edgeslm.messages import LEAST_PRIORITY
from edgeslm.serving.collections import AT_ONCE, Collections
from edgeslm.serving.model_pool import ModelPool
from tests.support.fakes import FakeProcess
from tests.support.nodes import write_bundle, write_reader
from tests.support.passages import make_found

MESSAGE = Memory("a/b", "1", "hot", 5.0)


class FakeKnowledge:
    """A process of the collections that is none."""

    def __init__(self, specs: Sequence[CollectionSpec], *, embed: Any, log_level: str) -> None:
        self.specs, self.embed = specs, embed
        self.queries: list[Query] = []
        self.memories: list[tuple[str, Memory]] = []
        self.problem: KnowledgeError | None = None
        self.found: list[Any] = ["found"]
        self.computed: list[Query] = []
        self.pid, self.problems = 4712, ["The collection manuals: no."]

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def search(self, query: Query) -> list[Any]:
        self.queries.append(query)
        if self.problem is not None:
            raise self.problem
        return list(self.found)

    async def compute(self, query: Query) -> str:
        self.computed.append(query)
        return "computed"

    async def remember(self, collection: str, memory: Memory) -> None:
        self.memories.append((collection, memory))


class Shop:
    """A library on two fake models and a fake process."""

    def __init__(self, folder: Path, **sections: dict[str, Any]) -> None:
        bundles = {
            "small": load_bundle(write_bundle(folder / "small")),
            "minilm": load_bundle(write_bundle(folder / "minilm", "encoder")),
            "reader": load_bundle(write_reader(folder / "reader")),
        }
        self.processes: dict[str, FakeProcess] = {}
        self.fault: Exception | None = None
        """What the reader raises, or whoever else is asked ``faulty`` calls."""
        self.faulty: type[Call] = Read

        def on_call(call: Call) -> Output:
            if self.fault is not None and isinstance(call, self.faulty):
                raise self.fault
            return embed(call)

        def make(bundle: Any, *rest: Any) -> FakeProcess:
            process = FakeProcess(bundle.path, on_call=on_call)
            self.processes[bundle.path.name] = process
            return process

        self.models = ModelPool(bundles, {}, make_process=make)
        self.digest = bundles["minilm"].digest
        self.made: list[FakeKnowledge] = []

        def make_knowledge(*arguments: Any, **fields: Any) -> Any:
            self.made.append(FakeKnowledge(*arguments, **fields))
            return self.made[-1]

        with mock.patch("edgeslm.serving.collections.KnowledgeProcess", make_knowledge):
            self.library = Collections(
                {name: Knowledge.model_validate(section) for name, section in sections.items()},
                bundles,
                remembered=frozenset({"log"}),
            )
        self.library.use(self.models)


def embed(call: Call) -> Output:
    if isinstance(call, Read):
        places = tuple(((0, 3, 1.0),) if "weekly" in text else () for text in call.texts)
        return Output(probabilities=tuple("weekly" in text for text in call.texts), places=places)
    assert isinstance(call, Embed)
    return Output(vectors=tuple((0.6, 0.8) for _ in call.texts))


def test_a_question_is_embedded_by_the_collection_s_encoder(tmp_path: Path) -> None:
    shop = Shop(tmp_path, manuals={"path": Path("/kb"), "encoder": "minilm"})

    async def scene() -> None:
        found: Any = await shop.library.search("how hot?", ["manuals"], 3, 7)
        assert found == ["found"]

    asyncio.run(scene())
    (knowledge,) = shop.made
    assert knowledge.queries == [Query(("manuals",), "how hot?", 3, (0.6, 0.8))]
    assert shop.processes["minilm"].calls == [Embed(("how hot?",), overflow="head")]
    assert shop.processes["minilm"].priorities == [7]
    (spec,) = knowledge.specs
    assert spec.encoder is not None and spec.encoder.digest == shop.digest
    assert not spec.writes


def test_without_an_encoder_no_model_is_asked(tmp_path: Path) -> None:
    shop = Shop(tmp_path, log={"path": Path("/kb")})

    async def scene() -> None:
        await shop.library.search("how hot?", ["log"], 3)
        await shop.library.remember("log", MESSAGE)

    asyncio.run(scene())
    (knowledge,) = shop.made
    assert knowledge.queries[0].vector is None
    assert knowledge.specs[0].writes
    assert knowledge.memories == [("log", MESSAGE)]
    assert not shop.processes["minilm"].calls


def test_tables_are_asked_of_the_collections_that_say_so(tmp_path: Path) -> None:
    shop = Shop(
        tmp_path,
        plant={"path": Path("/plant"), "tables": True},
        manuals={"path": Path("/kb")},
        log={"path": Path("/log"), "tables": False},
    )
    without = Shop(tmp_path / "without", plant={"path": Path("/plant")})
    assert shop.library.plan != without.library.plan

    async def scene() -> None:
        answer: Any = await shop.library.compute("how hot?", ["manuals", "plant", "log"])
        assert answer == "computed"
        assert await shop.library.compute("how hot?", ["manuals", "log"]) is None

    asyncio.run(scene())
    assert shop.made[0].computed == [Query(("plant",), "how hot?")]


def test_a_reader_reads_what_was_found_and_orders_it(tmp_path: Path) -> None:
    shop = Shop(tmp_path, manuals={"path": Path("/kb"), "encoder": "minilm", "reader": "reader"})
    about, answers = make_found("About oil.", score=0.80), make_found("Oil it weekly.", score=0.79)

    async def scene() -> None:
        shop.made[0].found = [about, answers]
        found = await shop.library.search("how often?", ["manuals"], 3, 7, by_sentence=True)
        assert [(one.text, one.read) for one in found] == [("Oil it weekly.", 1.0), ("About oil.", 0.0)]
        assert [one.pointed for one in found] == [((0, 3, 1.0),), ()]
        assert [one.read for one in await shop.library.search("how often?", ["manuals"], 3)] == [None, None]

    asyncio.run(scene())
    assert shop.processes["reader"].calls == [Read("how often?", ("About oil.", "Oil it weekly."))]
    assert shop.processes["reader"].priorities == [7]


def test_other_passages_are_compared_with_the_question_by_their_sentences(tmp_path: Path) -> None:
    shop = Shop(tmp_path, manuals={"path": Path("/kb"), "encoder": "minilm"}, log={"path": Path("/log")})
    given = [make_found("Oil it. Rest.", cosine=None), make_found("Sleep.", cosine=None)]

    async def scene() -> None:
        found = await shop.library.compare("how often?", given, ["manuals"], 7)
        assert [one.sentences for one in found] == [((0, 7, 1.0), (8, 13, 1.0)), ((0, 6, 1.0),)]
        assert await shop.library.compare("how often?", given, ["log"], 7) == given
        shop.fault, shop.faulty = ModelUnavailable("no"), Embed
        assert await shop.library.compare("how often?", given, ["manuals"], 7) == given

    asyncio.run(scene())
    assert set(shop.processes["minilm"].priorities) == {7}


def test_a_reader_reads_what_was_found_by_words_alone(tmp_path: Path) -> None:
    shop = Shop(tmp_path, manuals={"path": Path("/kb"), "reader": "reader"})

    async def scene() -> None:
        shop.made[0].found = [make_found("Oil it weekly.", cosine=None)]
        (found,) = await shop.library.search("how often?", ["manuals"], 3, by_sentence=True)
        assert (found.read, found.sentence) == (1.0, None)

    asyncio.run(scene())
    assert shop.processes["minilm"].calls == []


@pytest.mark.parametrize("error", [ModelUnavailable("no"), Poisoned("it crashed"), NoMemory("full")])
def test_without_its_reader_a_collection_is_searched(tmp_path: Path, error: Exception) -> None:
    shop = Shop(tmp_path, manuals={"path": Path("/kb"), "encoder": "minilm", "reader": "reader"})

    async def scene() -> None:
        shop.fault = error
        shop.made[0].found = [make_found("Oil it weekly.")]
        (found,) = await shop.library.search("how often?", ["manuals"], 3, by_sentence=True)
        assert (found.read, found.sentence) == (None, 1.0)

    asyncio.run(scene())


@pytest.mark.parametrize("error", [ModelUnavailable("no"), Poisoned("it crashed"), NoMemory("full")])
def test_without_its_encoder_a_collection_is_searched_by_words(tmp_path: Path, error: Exception) -> None:
    shop = Shop(tmp_path, manuals={"path": Path("/kb"), "encoder": "minilm"})

    async def scene() -> None:
        shop.fault, shop.faulty = error, Embed
        shop.made[0].found = [make_found("Oil it weekly.", cosine=None)]
        (found,) = await shop.library.search("how often?", ["manuals"], 3, by_sentence=True)
        assert (found.text, found.sentence) == ("Oil it weekly.", None)

    asyncio.run(scene())
    assert shop.made[0].queries == [Query(("manuals",), "how often?", 3, None)]


def test_passages_are_read_a_few_at_a_time(tmp_path: Path) -> None:
    shop = Shop(tmp_path, manuals={"path": Path("/kb"), "reader": "reader"})

    async def scene() -> None:
        shop.made[0].found = [make_found(f"Passage {number}.", cosine=None) for number in range(12)]
        found = await shop.library.search("how often?", ["manuals"], 12, by_sentence=True)
        assert [one.read for one in found] == [0.0] * DEPTH + [None] * 2

    asyncio.run(scene())
    sizes = [len(call.texts) for call in shop.processes["reader"].calls if isinstance(call, Read)]
    assert sum(sizes) == DEPTH
    assert max(sizes) == AT_ONCE


def test_a_reader_is_no_encoder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"manuals\.encoder: reader embeds no texts"):
        Shop(tmp_path, manuals={"path": Path("/kb"), "encoder": "reader"})


def test_a_decoder_reads_passages_too(tmp_path: Path) -> None:
    shop = Shop(tmp_path, manuals={"path": Path("/kb"), "reader": "small"})

    async def scene() -> None:
        shop.made[0].found = [make_found("Oil it weekly.", cosine=None)]
        (found,) = await shop.library.search("how often?", ["manuals"], 3, by_sentence=True)
        assert found.read == 1.0

    asyncio.run(scene())
    assert shop.processes["small"].calls == [Read("how often?", ("Oil it weekly.",))]


def test_an_encoder_is_no_reader(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"manuals\.reader: minilm reads no question with a passage"):
        Shop(tmp_path, manuals={"path": Path("/kb"), "reader": "minilm"})


def test_what_is_added_is_embedded_when_nothing_else_is_to_be_done(tmp_path: Path) -> None:
    shop = Shop(tmp_path, manuals={"path": Path("/kb"), "encoder": "minilm"})

    async def scene() -> None:
        assert await shop.made[0].embed("manuals", ["a", "b"]) == [(0.6, 0.8), (0.6, 0.8)]

    asyncio.run(scene())
    assert shop.processes["minilm"].priorities == [LEAST_PRIORITY]


def test_many_that_are_added_are_embedded_a_few_at_a_time_so_that_questions_come_between(
    tmp_path: Path,
) -> None:
    shop = Shop(tmp_path, manuals={"path": Path("/kb"), "encoder": "minilm"})
    vectors = asyncio.run(shop.made[0].embed("manuals", ("Oil it.",) * 9))
    assert len(vectors) == 9
    assert shop.processes["minilm"].priorities == [LEAST_PRIORITY] * 3


def test_senders_are_told_that_a_collection_cannot_be_searched(tmp_path: Path) -> None:
    shop = Shop(tmp_path, log={"path": Path("/kb")})
    shop.made[0].problem = KnowledgeError("the disk is gone")

    async def scene() -> None:
        with pytest.raises(ModelUnavailable, match="the disk is gone"):
            await shop.library.search("how hot?", ["log"], 3)

    asyncio.run(scene())


def test_a_decoder_is_no_encoder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"knowledge\.log\.encoder: small embeds no texts"):
        Shop(tmp_path, log={"path": Path("/kb"), "encoder": "small"})


def test_a_node_without_collections_has_no_process(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    assert not shop.made
    assert (shop.library.pids, shop.library.problems) == ({}, [])

    async def scene() -> None:
        await shop.library.start()
        await shop.library.stop()

    asyncio.run(scene())


def test_the_process_is_seen_in_health(tmp_path: Path) -> None:
    shop = Shop(tmp_path, log={"path": Path("/kb")})
    assert shop.library.pids == {"knowledge": 4712}
    assert shop.library.problems == ["The collection manuals: no."]

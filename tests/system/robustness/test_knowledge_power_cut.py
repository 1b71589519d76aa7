"""A power cut takes what was never synced: a collection has whole documents then, and opens.

A process puts, changes and removes documents while strace records it; then the power is cut at many points of
the record, with all that wasn't synced gone, and with a part of it there.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from edgeslm.knowledge.index.collection import Collection
from edgeslm.knowledge.index.queries import Filter
from edgeslm.knowledge.index.search import search
from tests.support.knowledge.collection_samples import TAG, faults, hash_embed, make_document, make_origin
from tests.support.unsynced import CannotTrace, Disk, record, write_files

STEPS = 40
DOCUMENTS = 5


def texts(step: int) -> list[str]:
    """What the document that is put in a step has: of its state before, every second passage."""
    return [f"word of {step if part % 2 else step % DOCUMENTS}, part {part}" for part in range(2 + step % 7)]


def main() -> None:
    """The recorded process."""
    with Collection(Path(sys.argv[1]) / "kb", writes=True) as collection:
        with collection.reading() as db:
            db.execute("PRAGMA wal_autocheckpoint = 40")  # so that pages move to the main file several times
        collection.use_encoder(TAG)
        for step in range(STEPS):
            source = str(step % DOCUMENTS)
            if step % 11 == 10:
                collection.remove(source)
            document, passages = make_document(source, *texts(step))
            collection.put(document, passages, make_origin(str(step)), embed=hash_embed)


def test_a_power_cut_leaves_whole_documents(tmp_path: Path) -> None:
    folder, after = tmp_path / "disk", tmp_path / "after"
    folder.mkdir()
    code = "from tests.system.robustness import test_knowledge_power_cut; test_knowledge_power_cut.main()"
    try:
        calls = record([sys.executable, "-c", code, str(folder)], tmp_path)
    except CannotTrace as error:
        pytest.skip(str(error))
    chance = random.Random(1)
    disk, seen = Disk(folder), set()
    for call in calls:
        disk.apply(call)
        if chance.random() < 0.08:
            share = chance.random()
            for files in (disk.after_cut(), disk.after_cut(lambda: chance.random() < share)):  # noqa: B023
                write_files(files, folder, after)
                seen |= look_at(after / "kb.sqlite")
    assert len(seen) > STEPS / 3, "too little was seen"


def look_at(file: Path) -> set[str]:
    """The steps that documents are of, each of which must be whole; opened as the next command does it."""
    with Collection(file, writes=True) as collection:
        entries = collection.documents()
        for entry in entries:
            found = search(collection, "word", k=20, only=Filter(sources=entry.source))
            assert sorted(one.text for one in found) == sorted(texts(int(entry.origin.digest)))
    assert faults(file) == []
    return {entry.origin.digest for entry in entries}

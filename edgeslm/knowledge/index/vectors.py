"""Vector store of a collection: int8 vectors with a scale, in blocks.

Each passage has a slot number. Slots are written in place, so that storing a new message's vector writes only
one or two database pages. A search scans all blocks, one at a time: there is no index to maintain, and a
search takes four bytes of memory per passage. The daemon must never load numpy, so numpy is imported inside
functions.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from edgeslm.errors import KnowledgeError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

SLOTS = 256
"""Number of slots in a block. At 384 dimensions, a block's floats are 400 kB, which fit into a core's
cache."""
SCALE_BYTES = 4


def encode(vectors: Sequence[Sequence[float]]) -> list[bytes]:
    """Encodes each vector as int8 codes (-127 to 127) and a float32 scale. The codes multiplied by the
    scale form a unit vector, so that dot products are cosines.

    :raises KnowledgeError: a vector has a value that isn't finite.
    """
    import numpy as np

    floats = np.array(vectors, np.float32)
    if not np.isfinite(floats).all():
        raise KnowledgeError("the encoder gave numbers that aren't finite; check it with edgeslm inspect")
    largest = np.abs(floats).max(axis=1, keepdims=True)
    codes = np.round(floats * (127 / np.maximum(largest, 1e-12))).astype(np.int8)
    # The length of the codes, so that rounding doesn't change the cosine.
    lengths = np.linalg.norm(codes.astype(np.float32), axis=1)
    return [
        code.tobytes() + struct.pack("<f", 1 / length if length else 0.0)
        for code, length in zip(codes, lengths.tolist(), strict=True)
    ]


def write(db: sqlite3.Connection, slots: Mapping[int, bytes]) -> None:
    """Writes encoded vectors of equal length into their slots; call inside a transaction."""
    for block, numbers in groupby(sorted(slots), key=lambda slot: slot // SLOTS):
        places = list(numbers)
        size = len(slots[places[0]])
        db.execute("INSERT OR IGNORE INTO vectors VALUES (?, zeroblob(?))", (block, SLOTS * size))
        with db.blobopen("vectors", "slots", block) as blob:
            for slot in places:
                blob.seek(slot % SLOTS * size)
                blob.write(slots[slot])


def clear(db: sqlite3.Connection, dimension: int, slots: Iterable[int]) -> None:
    """Clears slots, so that searches skip them; call inside a transaction."""
    write(db, dict.fromkeys(slots, bytes(dimension + SCALE_BYTES)))


def cosines(db: sqlite3.Connection, dimension: int, query: Sequence[float]) -> Floats:
    """Cosine of ``query`` and each slot's vector, by slot number; -inf for empty slots."""
    import numpy as np

    record = np.dtype([("code", np.int8, (dimension,)), ("scale", "<f4")])
    asked = np.array(query, np.float32)
    asked /= max(float(np.linalg.norm(asked)), 1e-12)
    last = db.execute("SELECT max(block) FROM vectors").fetchone()[0]
    found = np.full((0 if last is None else last + 1) * SLOTS, -np.inf, np.float32)
    floats = np.empty((SLOTS, dimension), np.float32)
    for block, raw in db.execute("SELECT block, slots FROM vectors"):
        slots = np.frombuffer(raw, record)
        np.copyto(floats, slots["code"])
        values = (floats @ asked) * slots["scale"]
        place = slice(block * SLOTS, (block + 1) * SLOTS)
        np.copyto(found[place], values, where=slots["scale"] > 0)
    return found

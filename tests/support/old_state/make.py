"""Makes a state folder with the version of edgeslm that is on the path: `python make.py FOLDER`.

The folder ``0.1.0`` was made with the code of commit 8dd6cdd, which has these classes in ``edgeslm.bus``
(``database``, ``handover``, ``journal``, ``spool``, ``windows``). ``queued 0`` to ``5`` are in the spool,
``answered 0`` to ``3`` have a result in the journal, ``gathered 0`` to ``7`` are in windows of the route
``digest``, the first four in a complete one. The process ends as if killed, with a part in the write-ahead
log.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from edgeslm.protocol.delivery import Delivery
from edgeslm.storage.database import Database
from edgeslm.storage.journal import Journal, request_key
from edgeslm.storage.spool import Spool
from edgeslm.storage.window_store import Gathered, Windows

BASE = "edgeslm/v1/hall"
REPLY = f"{BASE}/res/triage/old"


def main(folder: Path) -> None:
    database = Database(folder / "journal-hall.sqlite")
    database.open()
    journal = Journal(database, window_s=10**6, limit_bytes=10**7)
    journal.open()
    journal.begin_session()
    spool, windows = Spool(database, limit_bytes=10**7), Windows(database)
    for number in range(6):
        delivery = Delivery(
            topic=f"{BASE}/req/triage",
            payload=b"queued %d" % number,
            qos=1,
            retain=False,
            dup=False,
            response_topic=REPLY,
            correlation=b"queued %d" % number,
            expiry_s=None,
            generation=1,
            mid=number + 1,
            size=8,
            received_at=0.0,
        )
        spool.add([(delivery, b"spooled message%d" % number)])
    database.scrub()
    for number in range(4):
        name = b"correlation answered %d" % number
        key = request_key(REPLY, name, "triage", b"answered %d" % number)
        result = '{"id": "answered %d", "task": "triage", "status": "ok", "result": {"label": "of old"}}'
        journal.begin(key, 1)
        journal.finish(key, 1, (result % number).encode())
    for number in range(8):
        key = b"gathered message%d" % number
        windows.add([Gathered(("digest", "hall/digest"), f"g{number}", f"gathered {number}", 1.0, key[:16])])
        if number == 3:
            windows.complete(("digest", "hall/digest"))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

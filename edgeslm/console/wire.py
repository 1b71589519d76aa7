"""What the node and its console say to each other over the pipe: JSON, never pickles.

The console's process talks to strangers, so nothing that it sends can do more than be read. Each message is
an object with ``kind``.

- to the console: ``settings`` (first), ``tick`` (``moment``: figures of the last two seconds), ``rows``
  (requests that changed), ``told`` (``part`` of the node that changed, and its ``value``), ``answer``
  (``number``, ``result``), ``text`` (``number``, ``input``, ``output``)
- from it: ``listening`` (``url``) or ``refused`` (``sentence``); ``viewers`` (``count``); ``ask``
  (``number``, ``task``, ``input``, ``options``); ``text`` (``number``, ``row``)
"""

from __future__ import annotations

import json
from typing import Any

from edgeslm.link import Codec

INPUT_BYTES = 32 * 1024
"""The longest text that the form takes."""
_LIMIT = 256 * 1024
"""The longest message of the console: one ``ask``, escaped."""


def _encode(message: dict[str, Any]) -> bytes:
    return json.dumps(message, ensure_ascii=True, default=str).encode()


def _decode(data: bytearray) -> dict[str, Any]:
    message = json.loads(data)
    if not isinstance(message, dict) or not isinstance(message.get("kind"), str):
        raise ValueError("no message")
    return message


FROM_CONSOLE = Codec(_encode, _decode, _LIMIT)
FROM_NODE = Codec(_encode, _decode, 2**31 - 1)

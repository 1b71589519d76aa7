"""Payloads to fuzz ``protocol/codec`` with: valid messages, mutated.

Each case depends on its seed and number alone, so a failing one can be reproduced.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgeslm.protocol.request_options import OPTIONS as KNOWN_OPTIONS

REPLIES = ("edgeslm/v1/+/res/#", "edgeslm/v1/pool/+/res/#")
PACKET_LIMIT = 65_536
TEXTS = ["Spindle 3 smells of burnt oil", "a", " \n", "", "Grüße 🙂", "\ufeff{", "x" * 300, "\u2028", "null"]
NAMES = ["input", "id", "reply_to", "options", "task", "status", "result", "error", "code", "message", "seq"]
NAMES += [
    "text",
    "state",
    "boot_id",
    "retry_after_ms",
    "timings_ms",
    "usage",
    "truncated",
    "kept",
    "of",
    "model",
]
OPTIONS = [*KNOWN_OPTIONS, "colour"]
NUMBERS = (
    "0 -0 -0.0 5.0 0.1 1e5 1e999 -1e999 1e-999 1E+308 1.7976931348623159e308 9223372036854775808 "
    "-9223372036854775809 18446744073709551615 18446744073709551616 01 1. +1 .5 0x10 1_000 NaN Infinity "
    f"-Infinity true null ٣ {'9' * 25} {'9' * 4999}"
).split()
TOKENS = ["{", "}", "[", "]", ",", ":", '"', '"id"', '"input"', '"a"', " ", "\\", "\\u", "\x00", "//", "null"]
ESCAPES = [r"\ud800", r"\udfff", r"\ud83d\ude42", r"\ude42\ud83d", r"\uD800", r"\u0000", r"\u0069d", r"\x41"]
ESCAPES += [r"\/", "\\", r"\"", r"\u00", r"\ufffe"]
BROKEN = [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\xef\xbb\xbf", b"\x00"]
FINE_TOPICS = ["edgeslm/v1/hall/res/triage", "edgeslm/v1/pool/p/res/t", "edgeslm/v1/b/res"]
TOPICS = ["edgeslm/v1/b/req/x", "edgeslm/v1/b/cancel", "valve/set", "a/+/b", "#", "", "$SYS/x", "/", "//"]
TOPICS += ["edgeslm/v1/a/res/\x00", "edgeslm/v1/a/res/\ud800", "edgeslm/v1/ä/res/\ufffe", "edgeslm/v1/a/res/"]
LONG_TOPICS = ["edgeslm/v1/a/res" + "/x" * 300, "edgeslm/v1/a/res/" + "x" * 65_530]


@dataclass(frozen=True, slots=True)
class Case:
    """One message: its payload and MQTT 5 properties. ``kind`` says how it was made."""

    kind: str
    payload: bytes
    response_topic: str | None = None
    correlation: bytes | None = None
    expiry_s: int | None = None


class Payloads:
    """Makes cases; ``make(number)`` gives the same each time for one seed."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._random = random.Random()
        self._ways: Sequence[tuple[str, int, Callable[[], bytes]]] = (
            ("request", 22, lambda: self._json(self._request())),
            ("result", 8, lambda: self._json(self._result())),
            ("chunk or state", 4, lambda: self._json(self._small())),
            ("mutated", 30, self._mutated),
            ("random bytes", 10, self._noise),
            ("tokens", 10, self._soup),
            ("numbers", 8, self._numbers),
            ("names twice", 5, self._twice),
            ("escapes", 8, self._escapes),
            ("long id", 3, self._long_id),
            ("text", 6, lambda: self._text().encode(errors="surrogatepass")),
            ("deep", 1, self._deep),
        )
        self._kinds = [way for way in self._ways for _ in range(way[1])]

    def make(self, number: int) -> Case:
        self._random.seed((self._seed << 40) + number)
        pick = self._random
        kind, _, make = pick.choice(self._kinds)
        payload = make()
        if pick.random() < 0.5:
            return Case(kind, payload)
        return Case(
            kind,
            payload,
            pick.choice((None, None, self._topic())),
            pick.choice((None, b"", b"7", pick.randbytes(pick.choice((1, 16, 300))))),
            pick.choice((None, 0, 1, 60, 2**32 - 1)),
        )

    # Values that make sense

    def _request(self) -> dict[str, Any]:
        pick = self._random
        fields: dict[str, Any] = {"input": pick.choice((TEXTS[0], TEXTS[4], self._text(), self._value(3)))}
        if pick.random() < 0.5:
            fields["id"] = pick.choice(("42", "42", self._text(), 42, "x" * pick.choice((256, 257)), None))
        if pick.random() < 0.3:
            fields["reply_to"] = self._topic()
        if pick.random() < 0.4:
            names = pick.sample(OPTIONS, pick.choice((0, 1, 1, 2)))
            fields["options"] = {name: self._option() for name in names}
        return fields

    def _topic(self) -> str:
        pick = self._random
        way = pick.randrange(1000)
        topics = (
            LONG_TOPICS if way < 5 else FINE_TOPICS if way < 600 else TOPICS if way < 900 else [self._text()]
        )
        return pick.choice(topics)

    def _option(self) -> Any:
        pick = self._random
        fine = (pick.randrange(-1, 11), pick.random(), True, ["a", "b"], {"a": "b", "c": ""}, "a")
        return pick.choice((*fine, self._value(2)))

    def _result(self) -> dict[str, Any]:
        pick = self._random
        status = pick.choice(("ok", "abstained", "error", "fine", None))
        error = {"code": pick.choice(("busy", 1)), "message": self._text(), "retry_after_ms": self._value(1)}
        return {
            "id": pick.choice(("42", 42)),
            "task": "triage",
            "status": status,
            "result": self._value(3),
            "error": pick.choice((error, self._value(1))),
            "timings_ms": pick.choice(({"total": self._number()}, self._value(2))),
            "usage": pick.choice(({"prompt_tokens": self._number()}, self._value(2))),
            "truncated": pick.choice(({"kept": self._number(), "of": self._number()}, self._value(2))),
        }

    def _small(self) -> dict[str, Any]:
        pick = self._random
        return pick.choice(
            (
                {"id": self._text(), "seq": self._number(), "text": self._text()},
                {"state": pick.choice(("online", "offline", [], {}, 1)), "boot_id": self._text()},
                {"id": self._value(2)},
            )
        )

    def _value(self, levels: int) -> Any:
        pick = self._random
        kind = pick.randrange(8 if levels else 5)
        if kind < 2:
            return self._text()
        if kind == 2:
            return self._number()
        if kind < 5:
            return pick.choice((None, True, False))
        if kind == 5:
            return [self._value(levels - 1) for _ in range(pick.randrange(4))]
        return {pick.choice(NAMES): self._value(levels - 1) for _ in range(pick.randrange(4))}

    def _number(self) -> int | float:
        pick = self._random
        return pick.choice(
            (0, 1, -1, 2**31, 2**63, -(2**63), 2**64, 1e308, -0.0, 5.0, float("inf"), pick.random())
        )

    def _text(self) -> str:
        pick = self._random
        if pick.random() < 0.7:
            return pick.choice(TEXTS)
        most = pick.choice((0x7F, 0xFF, 0x2FFF, 0xFFFF, 0x10FFFF))
        return "".join(chr(pick.randrange(most)) for _ in range(pick.randrange(20)))

    def _json(self, value: Any) -> bytes:
        pick = self._random
        text = json.dumps(value, ensure_ascii=pick.random() < 0.5, indent=pick.choice((None, None, 1)))
        return text.encode(errors=pick.choice(("surrogatepass", "replace")))

    # And what doesn't

    def _mutated(self) -> bytes:
        pick = self._random
        data = bytearray(self._json(pick.choice((self._request, self._request, self._result, self._small))()))
        for _ in range(pick.choice((1, 1, 2, 4, 16))):
            at = pick.randrange(len(data) + 1)
            until = min(len(data), at + pick.choice((1, 2, 8, 64)))
            way = pick.randrange(6)
            if way == 0:
                data[at:until] = b""
            elif way == 1:
                data[at:at] = data[at:until] * pick.choice((1, 2, 50))
            elif way == 2:
                data[at:at] = pick.choice(BROKEN)
            elif way == 3:
                data[at:until] = pick.choice(TOKENS + NUMBERS + ESCAPES).encode()
            elif way == 4 and at < len(data):
                data[at] ^= 1 << pick.randrange(8)
            else:
                del data[at:]
                data += self._json(self._small())[pick.randrange(5) :]
            del data[4096:]
        return bytes(data)

    def _noise(self) -> bytes:
        pick = self._random
        noise = pick.randbytes(pick.choice((0, 1, 7, 60, 400)))
        return pick.choice((b"", b"{", b' {"input": "', b'{"id": "1", "task": "t", ')) + noise

    def _soup(self) -> bytes:
        pick = self._random
        words = pick.choices(TOKENS + NUMBERS[:9] + ESCAPES, k=pick.randrange(1, 30))
        return ("{" + "".join(words)).encode()

    def _numbers(self) -> bytes:
        pick = self._random
        name = pick.choice(NAMES)
        number = pick.choice(
            (*NUMBERS, "9" * pick.randrange(1, 30), f"{pick.random()}e{pick.randrange(400)}")
        )
        where = pick.choice(
            ('{"input": "a", "%s": %s}', '{"id": "1", "%s": [%s]}', '{"options": {"%s": %s}}')
        )
        return (where % (name, number)).encode()

    def _twice(self) -> bytes:
        pick = self._random
        first, second = pick.choice(NAMES), pick.choice((*NAMES, r"\u0069d", r"inpu\u0074"))
        inner = f'"{first}": "a", "{second}": "b", "{first}": {pick.choice(NUMBERS[:3])}'
        return pick.choice((f"{{{inner}}}", f'{{"input": {{{inner}}}}}')).encode()

    def _escapes(self) -> bytes:
        pick = self._random
        text = "".join(pick.choices((*ESCAPES, "a", "é"), k=pick.randrange(1, 8)))
        name = pick.choice((*NAMES[:5], text))
        return f'{{"input": "a", "{name}": "{text}", "seq": 1, "{text}": 1}}'.encode()

    def _long_id(self) -> bytes:
        pick = self._random
        id_ = pick.choice(("x", "é", "🙂", "\x00", "\ud800", " ")) * pick.choice((255, 256, 257, 5000))
        return self._json({"input": "a", "id": id_, "seq": 1, "text": "", "task": id_, "boot_id": id_})

    def _deep(self) -> bytes:
        pick = self._random
        levels = pick.choice((30, 31, 32, 33, 34, 500, 900, 1100, 20_000))
        opened, closed = pick.choice((("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")))
        inner = pick.choice(("", "1", "[]," * pick.choice((1, 9_999, 12_000)) + "[]"))
        tail = closed * levels if pick.random() < 0.7 else ""
        return f'{{"input": {{"a": {opened * levels}{inner}{tail}}}}}'.encode()

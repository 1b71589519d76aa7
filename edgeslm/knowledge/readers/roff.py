"""roff as man pages use it: a page as requests and lines of text, escapes as the characters they stand for.

A reader of pages, no typesetter: what only moves, sizes or colours is dropped, conditions are taken as on a
terminal, macros that a page defines for itself are not run. After groff(7) and groff_char(7).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_LONGEST_STRING = 60
"""Characters: strings that name one another could grow without end."""

_ESCAPE = re.compile(
    r"""\\(?:
    ["#].*                                                          # a comment
    |\*(?:\[(?P<string>[^\]\n]{0,100})\]|\((?P<string2>..)|(?P<string1>.))
    |\[(?P<glyph>[^\]\n]{0,100})\]|\((?P<glyph2>..)|C'(?P<glyph3>[^'\n]{0,100})'
    |[fFmMgkVYn][-+]?(?:\[[^\]\n]{0,100}\]|\(..|.)                  # font, colour, number
    |s(?:[-+]?[0-9]{1,2}|[-+]?\[[^\]\n]{0,100}\]|[-+]?\([-+]?..|[-+]?'[^'\n]{0,200}')
    |o'(?P<over>.)[^'\n]{0,100}'
    |(?P<move>h)(?:'[^'\n]{0,200}')
    |[vwlLDXZNbxRABS]'[^'\n]{0,200}'
    |(?P<one>.)
    |$)""",
    re.VERBOSE | re.MULTILINE,
)
_ONE = {**dict.fromkeys(" ~0t", " "), **dict.fromkeys("eE\\", "\\"), **{mark: mark for mark in "-'`._"}}
"""Escapes of one character; the others, ``\\&`` say, print nothing."""


def _pairs(text: str) -> dict[str, str]:
    words = text.split()
    return dict(zip(words[::2], words[1::2], strict=True))


_GLYPHS = _pairs("""
    em —  en –  hy -  mi −  bu •  sq □  ci ○  lh ☜  rh ☞  aq '  dq "  oq ‘  cq ’  lq “  rq ”  Bq „
    bq ‚  ga `  fo ‹  fc ›  Fo «  Fc »  ha ^  ti ~  rs \\  sl /  ba |  br |  or |  ul _  at @  sh #
    Do $  Eu €  eu €  Po £  Ye ¥  ct ¢  co ©  rg ®  tm ™  de °  sc §  ps ¶  dg †  dd ‡  mc µ  -> →
    <- ←  <> ↔  ua ↑  da ↓  rA ⇒  lA ⇐  +- ±  mu ×  di ÷  ** ∗  <= ≤  >= ≥  != ≠  == ≡  ~~ ≈  if ∞
    no ¬  12 ½  14 ¼  34 ¾  S1 ¹  S2 ²  S3 ³  pl +  eq =  lB [  rB ]  lC {  rC }  la ⟨  ra ⟩  OK ✓
    ss ß  a^ ^  a~ ~  aa ´  ad ¨  'e é  `e è  `a à  'a á  'i í  'o ó  'u ú  :a ä  :o ö  :u ü  :A Ä
    :O Ö  :U Ü  ^e ê  ^a â  ^o ô  ~n ñ  ,c ç  oa å  /o ø  ae æ  *a α  *b β  *g γ  *d δ  *l λ  *m μ
    *p π  *s σ  *w ω  *D Δ  *S Σ
""")
_CODE = re.compile(r"u([0-9A-Fa-f]{4,6})|char([0-9]{1,3})")
_STRINGS = _pairs("""R ®  Tm ™  lq “  rq ”  Aq '  C+ C++  -- —  L' "  R' \" """)
"""What macro packages and Perl's pod2man define."""
_CONTROL = re.compile(r"[.'][ \t]*([^\s\\]*)[ \t]*(.*)")
_ARGUMENT = re.compile(r'"((?:[^"]|"")*)(?:"|$)|((?:\\.|[^\s\\])+)')
_CONDITION = re.compile(
    r"(!?)(?:([nteo])(?=\s|\\)|'([^'\n]*)'([^'\n]*)'|(\([^\s]*\)|[^\s{}'\\]*(?:\\n[^\s{}]*)?))[ \t]*(.*)"
)


@dataclass(frozen=True, slots=True)
class Line:
    """A request, or with no ``name`` a line of text. Escapes are as they stand."""

    name: str
    rest: str

    @property
    def arguments(self) -> list[str]:
        """What follows the request's name, with escapes as they stand; quotes hold blanks together."""
        return [
            (found[1] or "").replace('""', '"') if found[2] is None else found[2]
            for found in _ARGUMENT.finditer(self.rest)
        ]


class Page:
    """Reads a page line by line. Strings that it defines are known from there on."""

    def __init__(self, text: str) -> None:
        self._lines = iter(text.replace("\r\n", "\n").replace("\\\n", "").split("\n"))
        self._strings = dict(_STRINGS)
        self._otherwise: list[bool] = []
        """What each ``.ie`` left to its ``.el``."""

    def __iter__(self) -> Iterator[Line]:
        for raw in self._lines:
            yield from self._line(raw)

    def plain(self, raw: str) -> str:
        """Text without its escapes."""
        return _ESCAPE.sub(self._escape, raw) if "\\" in raw else raw

    def _line(self, raw: str) -> Iterator[Line]:
        depth = 0
        while (found := _CONTROL.match(raw)) and found[1] in ("if", "ie", "el"):
            raw = self._chosen(found[1], found[2])
            depth += 1
            if not raw or depth > 10:
                return
        if found is None:
            yield Line("", raw)
            return
        name, rest = found[1], found[2]
        if name in ("de", "de1", "am", "ig", "dei", "ami"):
            self._skip_definition(name, rest)
        elif name in ("ds", "as", "ds1", "as1"):
            self._define(name, rest)
        elif name:
            yield Line(name, rest)

    def _chosen(self, name: str, rest: str) -> str:
        """What a condition leaves of its line; of a block that it leaves out nothing is read."""
        if name == "el":
            true = self._otherwise.pop() if self._otherwise else False
        else:
            condition = _CONDITION.match(rest)
            true, rest = (_holds(condition), condition[6]) if condition else (False, "")
            if name == "ie":
                self._otherwise.append(not true)
        if true:
            return rest.replace("\\{", "", 1).lstrip()
        depth = rest.count("\\{") - rest.count("\\}")
        while depth > 0 and (line := next(self._lines, None)) is not None:
            depth += line.count("\\{") - line.count("\\}")
        return ""

    def _skip_definition(self, name: str, rest: str) -> None:
        words = rest.partition('\\"')[0].split()
        mark = words[:1] if name == "ig" else words[1:2]
        end = f".{mark[0]}" if mark else ".."
        for line in self._lines:
            if line.replace(" ", "").rstrip() == end:
                return

    def _define(self, name: str, rest: str) -> None:
        key, _, value = rest.partition(" ")
        value = self.plain(value.strip().removeprefix('"'))
        before = self._strings.get(key, "") if name.startswith("as") else ""
        self._strings[key] = (before + value)[:_LONGEST_STRING]

    def _escape(self, found: re.Match[str]) -> str:
        if found["one"] is not None:
            return _ONE.get(found["one"], "")
        if found["move"]:
            return " "
        for group in ("string", "string2", "string1"):
            if found[group] is not None:
                return self._strings.get(found[group], "")
        for group in ("glyph", "glyph2", "glyph3"):
            if found[group] is not None:
                return _glyph(found[group])
        return found["over"] or ""


def _glyph(name: str) -> str:
    code = _CODE.fullmatch(name.split("_")[0])
    if code is None:
        return _GLYPHS.get(name, "")
    number = int(code[1], 16) if code[1] else int(code[2])
    return chr(number) if number < 0x110000 else ""


def _holds(found: re.Match[str]) -> bool:
    """On a terminal, with groff, which has the register ``.g``; other registers are zero."""
    if found[2]:
        true = found[2] in "no"
    elif found[3] is not None:
        true = found[3] == found[4]
    else:
        true = found[5] in (r"\n(.g", r"\n[.g]", "1") or found[5].strip("()").startswith(r"\n(.g==1")
    return true != bool(found[1])

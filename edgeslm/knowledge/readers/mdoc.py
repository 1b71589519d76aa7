"""Man pages of mdoc(7), which says what words are: options, arguments, names of pages.

Words come out as a terminal shows them: ``.Op Fl v Ar file`` as ``[-v file]``.
"""

from __future__ import annotations

from edgeslm.knowledge.readers.document_builder import Draft
from edgeslm.knowledge.readers.roff import Line, Page

_LONGEST_PARAGRAPH = 65_536
LONGEST_TAG = 120
"""Characters; what is longer is no option any more."""
TAG_LEVEL = 3
"""Of an option at the margin; those in its text are deeper."""
_PLAIN = frozenset(
    {
        *(
            "Ad",
            "An",
            "Bx",
            "Cd",
            "Cm",
            "Dv",
            "Em",
            "Er",
            "Ev",
            "Fa",
            "Fd",
            "Ft",
            "Ic",
            "In",
            "Lb",
            "Li",
            "Ms",
        ),
        *("Mt", "No", "Pa", "St", "Sx", "Sy", "Tn", "Va", "Vt", "Lk", "Xo"),
    }
)
"""What only chooses a font."""
_AROUND = {
    "Op": "[]",
    "Bq": "[]",
    "Pq": "()",
    "Aq": "<>",
    "Dq": "“”",
    "Qq": '""',
    "Sq": "‘’",
    "Ql": "‘’",
    "Brq": "{}",
}
"""Encloses the rest of its line."""
_OPENS = {"Oo": "[", "Bo": "[", "Po": "(", "Ao": "<", "Do": "“", "Qo": '"', "So": "‘", "Bro": "{"}
_CLOSES = {"Oc": "]", "Bc": "]", "Pc": ")", "Ac": ">", "Dc": "”", "Qc": '"', "Sc": "’", "Brc": "}"}
_MISSING = {"Ar": "file ...", "Nm": "", "Ux": "UNIX"}
"""What stands for an argument that isn't given: the page's own name for ``.Nm``."""
_TYPED = frozenset({"Fl", "Cm", "Ic", "Li", "Sy", "Nm", "Ev", "Dv", "Er", "Pa", "Ql", "Va"})
"""A tag that begins so is what somebody types."""
_INLINE = frozenset(
    {*_PLAIN, *_AROUND, *_OPENS, *_CLOSES, *_MISSING, "Fl", "Nd", "Xr", "Fn", "Ns", "Pf", "Ap", "Ta", "Xc"}
)
_TAGGED = frozenset({"-tag", "-hang", "-ohang", "-inset", "-diag"})
_AFTER = frozenset(".,;:?!)]}”’>")
_BEFORE = frozenset("([{<“‘")


def write_mdoc(page: Page, draft: Draft) -> str:
    """Writes the rest of a page into the draft. :return: its title, ``ssh(1)``, or nothing."""
    writer = _Mdoc(page, draft)
    for line in page:
        writer.write(line)
    writer.end_paragraph()
    return writer.title


class _Mdoc:
    def __init__(self, page: Page, draft: Draft) -> None:
        self.title = ""
        self._page = page
        self._draft = draft
        self._name = ""
        self._text = ""
        self._sample: list[str] | None = None
        self._lists: list[str] = []
        self._mark = ""
        self._glued = False
        self._unspaced = False
        self._tag: tuple[str, bool] | None = None
        """A tag that goes on over lines, up to ``.Xc``, and whether it is what somebody types."""

    def write(self, line: Line) -> None:
        name = line.name
        if not name:
            self._add(self._page.plain(line.rest))
        elif name == "Dt":
            words = [self._page.plain(word) for word in line.arguments]
            self.title = f"{words[0].lower()}({words[1]})" if len(words) > 1 else ""
        elif name in ("Sh", "Ss"):
            self.end_paragraph()
            self._lists = []
            self._draft.heading(1 if name == "Sh" else 2, self._words(line.arguments))
        elif name in ("Pp", "Lp", "sp", "Rs", "Re"):
            self.end_paragraph()
        elif name in ("Bl", "It", "El"):
            self._list(line)
        elif name in ("Bd", "Ed"):
            self.end_paragraph()
            literal = {"-literal", "-unfilled"} & {*line.arguments}
            self._sample = [] if name == "Bd" and literal else None
        elif name in ("D1", "Dl"):
            self.end_paragraph()
            self._draft.lines("    " + self._words(line.arguments))
        elif name == "Sm":
            self._unspaced = line.rest.strip() == "off"
        elif name == "Xc":
            self._end_tag()
        elif name in _INLINE:
            self._inline(line)
        elif name[0] == "%":
            self._add(self._words(line.arguments))

    def _inline(self, line: Line) -> None:
        arguments = line.arguments
        if line.name == "Nm":
            if not self._name and arguments:
                self._name = self._page.plain(arguments[0])
            if self._text and self._draft.headings and self._draft.headings[-1].title == "SYNOPSIS":
                self.end_paragraph()  # each form of a command begins with its name
        self._glued |= line.name == "Ns"
        self._add(self._words([line.name, *arguments]))

    def _list(self, line: Line) -> None:
        self.end_paragraph()
        arguments = line.arguments
        if line.name == "Bl":
            self._lists.append(arguments[0] if arguments else "-item")
            return
        level = TAG_LEVEL + max(0, len(self._lists) - 1)
        self._draft.leave(level)
        if line.name == "El":
            del self._lists[-1:]
        elif self._lists and self._lists[-1] in _TAGGED:
            self._tag = (self._words(arguments) + " ", bool(arguments) and arguments[0] in _TYPED)
            if "Xo" not in arguments:
                self._end_tag()
        elif self._lists and self._lists[-1] == "-column":
            self._text = self._words(arguments)
        elif self._lists and self._lists[-1] != "-item":
            self._mark = "  * "

    def _end_tag(self) -> None:
        tag, typed = self._tag or ("", False)
        tag, self._tag = tag.strip(), None
        if typed and len(tag) <= LONGEST_TAG:
            self._draft.heading(TAG_LEVEL + max(0, len(self._lists) - 1), tag)
        else:
            self._draft.paragraph(tag)

    def _add(self, text: str) -> None:
        if self._tag and len(self._tag[0]) > _LONGEST_PARAGRAPH:
            self._end_tag()
        if self._tag:
            glued = self._unspaced or self._tag[0].endswith(" ") or (text and is_closing(text))
            self._tag = (f"{self._tag[0]}{'' if glued else ' '}{text}", self._tag[1])
        elif self._sample is not None:
            self._sample.append(text)
        elif not text.strip():
            self.end_paragraph()
        else:
            if len(self._text) > _LONGEST_PARAGRAPH:
                self.end_paragraph()
            glued = self._glued or self._unspaced or not self._text or self._text[-1] in _BEFORE
            blank = "" if glued or is_closing(text) else " "
            self._text += blank + text
            self._glued = False

    def end_paragraph(self) -> None:
        if self._sample is not None:
            self._draft.lines("\n".join(f"    {line}" for line in self._sample).rstrip())
            self._sample = None
        elif self._text:
            self._draft.lines(self._mark + " ".join(self._text.split()))
            self._mark = ""
        self._text = ""
        if self._tag:
            self._end_tag()

    def _words(self, raw: list[str]) -> str:
        """Words as a terminal shows them."""
        phrase = _Phrase(unspaced=self._unspaced)
        trailing = len(raw)
        while trailing and raw[trailing - 1] in _AFTER:
            trailing -= 1
        closing: list[str] = []
        words = _Words(raw[:trailing])
        while (word := words.take()) is not None:
            if word in _AROUND:
                phrase.add(_AROUND[word][0], glue=True)
                closing.append(_AROUND[word][1])
            elif word in _OPENS:
                phrase.add(_OPENS[word], glue=True)
            elif word in _CLOSES:
                phrase.add(_CLOSES[word])
            elif word == "Fl":
                phrase.add("-", glue=words.next_is_text() or words.next == "Fl")
            elif word in ("Ns", "Ap"):
                phrase.glue()
                if word == "Ap":
                    phrase.add("'", glue=True)
            elif word == "Pf":
                phrase.add(self._page.plain(words.take() or ""), glue=True)
            elif word in _MISSING:
                if not words.next_is_text():
                    phrase.add(self._name if word == "Nm" else _MISSING[word])
            elif word == "Xr" and words.next_is_text():
                page = self._page.plain(words.take() or "")
                phrase.add(f"{page}({words.take()})" if words.next_is_text() else page)
            elif word == "Fn":
                name = self._page.plain(words.take() or "")
                phrase.add(f"{name}({', '.join(map(self._page.plain, words.rest()))})")
            elif word not in _PLAIN:
                phrase.add({"Nd": "–", "Ta": "|"}.get(word) or self._page.plain(word))
        for mark in (*reversed(closing), *raw[trailing:]):
            phrase.add(mark)
        return phrase.text


class _Words:
    """The words of a line, some of which are macros."""

    def __init__(self, raw: list[str]) -> None:
        self._raw = raw
        self._at = 0

    @property
    def next(self) -> str | None:
        return self._raw[self._at] if self._at < len(self._raw) else None

    def take(self) -> str | None:
        word = self.next
        self._at += 1
        return word

    def rest(self) -> list[str]:
        at, self._at = self._at, len(self._raw)
        return self._raw[at:]

    def next_is_text(self) -> bool:
        return self.next is not None and self.next not in _INLINE and self.next not in _AFTER


class _Phrase:
    """Words put together: no blank before a full stop or behind a bracket that opens."""

    def __init__(self, *, unspaced: bool) -> None:
        self._parts: list[str] = []
        self._glued = True
        self._unspaced = unspaced

    @property
    def text(self) -> str:
        return "".join(self._parts)

    def glue(self) -> None:
        self._glued = True

    def add(self, word: str, *, glue: bool = False) -> None:
        if word:
            blank = "" if self._glued or is_closing(word) else " "
            self._parts += (blank, word)
            self._glued = glue or self._unspaced or word in _BEFORE


def is_closing(text: str) -> bool:
    """Whether a text begins with punctuation that belongs to the word before it."""
    return text[0] in _AFTER and (len(text) == 1 or not text[1].isalnum())

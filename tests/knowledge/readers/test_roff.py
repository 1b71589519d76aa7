"""roff: escapes, conditions and strings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.knowledge.readers.man_page import read_man_page
from edgeslm.knowledge.readers.roff import Page


def plain(raw: str) -> str:
    return Page("").plain(raw)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (r"\fBbold\fR \f[I]slanted\f(CW typed\fP", "bold slanted typed"),
        (r"a\-b 3\&.1 \e \(em \[u2014] \[em] \(co \*(lqx\*(rq \*R", "a-b 3.1 \\ — — — © “x” ®"),
        (r"\s-1SMALL\s0 \s+(10big\s0", "SMALL big"),
        (r"a\ b\~c\0d", "a b c d"),
        (r"text \" comment", "text "),
        (r"\m[red]\[u00e4]\m[]", "\u00e4"),
        (r"\v'1'\h'2m'x\w'abc'", " x"),
        (r"it\'s \`so\`", "it's `so`"),
        (r"\z\o'ab'\c", "a"),
        ("\\", ""),
    ],
)
def test_escapes(raw: str, text: str) -> None:
    assert plain(raw) == text


def test_conditions_strings_and_macros_of_the_page() -> None:
    page = r""".de XX
.SH NO
..
.ie t .ds a no
.el .ds a "yes
.if n \{\
.ds b 1
one
.\}
.if t \{\
two
.if n three
.\}
.if !t four
.if 'a'b' five
.ig
six
..
.ds c \*a\*a
\*a \*b \*c \*(zz
"""
    lines = Page(page)
    assert [lines.plain(line.rest) for line in lines if not line.name and line.rest] == [
        "one",
        "four",
        "yes 1 yesyes ",
    ]


def test_strings_cannot_grow_without_end() -> None:
    page = ".ds a xxxxxxxxxx\n" + ".ds a \\*a\\*a\n" * 50 + "\\*a\n"
    assert len(read_man_page(page, "a.1").text) < 100


def test_arguments() -> None:
    (line,) = Page('.BR one "two three" "a ""b""" fo\\ ur')
    assert line.arguments == ["one", "two three", 'a "b"', "fo\\ ur"]


@given(st.text(st.sampled_from("\\.'[](){}*nfBhu\n \"1a")))
def test_any_page_comes_to_its_end(text: str) -> None:
    page = Page(text)
    for line in page:
        assert "\n" not in page.plain(line.rest)
        assert all(isinstance(argument, str) for argument in line.arguments)


def test_what_is_ignored_ends_at_its_own_mark() -> None:
    page = Page('.ig \\"  -*- nroff -*-\ncopyright\n..\n.SH NAME\n.ig END\nnot this\n..\n.END\nsaid\n')
    assert [line.name or line.rest for line in page] == ["SH", "said", ""]

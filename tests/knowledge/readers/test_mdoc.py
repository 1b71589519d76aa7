"""Man pages of mdoc(7)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.knowledge.documents.passages import split
from edgeslm.knowledge.readers.man_page import read_man_page

HEAD = ".Dd May 1, 2026\n.Dt PUMP 8\n.Os\n.Sh NAME\n.Nm pump\n.Nd moves water\n"


def body(page: str) -> str:
    return read_man_page(HEAD + ".Sh TEXT\n" + page, "a.8").text.partition("TEXT\n\n")[2]


def test_a_page_of_mdoc() -> None:
    page = (
        HEAD
        + r""".Sh SYNOPSIS
.Nm
.Op Fl v
.Op Fl p Ar port
.Ar
.Nm pump
.Fl Fl help
.Sh OPTIONS
The options are:
.Bl -tag -width indent
.It Fl p Ar port
Uses the port
.Pq see Xr mqtt 7 .
.It Fl D Xo
.Sm off
.Oo Ar host : Oc
.Ar port
.Sm on
.Xc
Forwards it.
.It Dq no Fl x
Neither.
.El
.Pp
See
.Xr socket 2 .
"""
    )
    document = read_man_page(page, "a.8")
    assert document.title == "pump(8)"
    assert [(passage.heading, passage.text) for passage in split(document)] == [
        (("NAME",), "pump – moves water"),
        (("SYNOPSIS",), "pump [-v] [-p port] file ...\n\npump --help"),
        (("OPTIONS",), "The options are:"),
        (("OPTIONS", "-p port"), "Uses the port (see mqtt(7))."),
        (("OPTIONS", "-D [host:]port"), "Forwards it."),
        (("OPTIONS",), "“no -x”\n\nNeither.\n\nSee socket(2)."),
    ]


@pytest.mark.parametrize(
    ("page", "text"),
    [
        (".Em very , .Pa /etc\n", "very, .Pa /etc"),
        (".Fn open path flags\n", "open(path, flags)"),
        (".Pf ( Ev HOME )\n", "(HOME)"),
        (".Fl a Ns Ar b\n", "-ab"),
        (".Do\nquoted\n.Dc\n", "“quoted”"),
        (".Bd -literal\na  b\n\nc\n.Ed\n", "    a  b\n\n    c"),
        (".Dl $ pump -v\n", "    $ pump -v"),
        (".Bl -bullet\n.It\none\n.It\ntwo\n.El\n", "  * one\n\n  * two"),
        (".Bl -column a b\n.It one Ta two\n.El\n", "one | two"),
        (".Nm Ns 's end\n", "pump's end"),
        ("of\n.Ux\nonly\n", "of UNIX only"),
    ],
)
def test_words(page: str, text: str) -> None:
    assert body(page) == text


WORDS = [
    "Fl",
    "Ar",
    "Op",
    "Oo",
    "Oc",
    "Nm",
    "Xr",
    "Fn",
    "Ns",
    "Pf",
    "Ap",
    "Ta",
    "Xo",
    "a",
    ".",
    "(",
    "Pq",
    "Dq",
    '"',
    "\\&",
]
MACROS = [
    ".Bl -tag",
    ".Bl",
    ".It",
    ".El",
    ".Xc",
    ".Sm off",
    ".Sh A",
    ".Pp",
    ".Bd -literal",
    ".Ed",
    ".Nm",
    ".Op",
    "text",
    "",
]


@given(
    st.lists(st.tuples(st.sampled_from(MACROS), st.lists(st.sampled_from(WORDS), max_size=5)), max_size=20)
)
def test_any_page_is_read(lines: list[tuple[str, list[str]]]) -> None:
    page = "".join(f"{' '.join([macro, *words])}\n" for macro, words in lines)
    split(read_man_page(HEAD + page, "a.8"))

"""Man pages as plain text: man(7), DocBook's way, tables."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgeslm.knowledge.documents.passages import split
from edgeslm.knowledge.readers.man_page import read_man_page


def passages(page: str) -> list[tuple[tuple[str, ...], str]]:
    return [(passage.heading, passage.text) for passage in split(read_man_page(page, "a.1"))]


def test_a_page_of_man() -> None:
    page = r""".\" a comment
.TH PUMP 1 "1 May 2026" "Works" "User Commands"
.SH NAME
pump \- moves water
.SH "SYNOPSIS"
.B pump
.RB [ \-v ]
.I file
.SS Sub
First line,
second line.
.PP
Next.
.SH OPTIONS
These:
.TP
.BR \-p ", " \-\-port = \fIN\fR
The port.
.IP
More of it.
.TP
\fB\-v\fR
Says more.
.PP
All of them.
"""
    assert read_man_page(page, "a.1").title == "pump(1)"
    assert passages(page) == [
        (("NAME",), "pump - moves water"),
        (("SYNOPSIS",), "pump [-v] file"),
        (("SYNOPSIS", "Sub"), "First line, second line.\n\nNext."),
        (("OPTIONS",), "These:"),
        (("OPTIONS", "-p, --port=N"), "The port.\n\nMore of it."),
        (("OPTIONS", "-v"), "Says more."),
        (("OPTIONS",), "All of them."),
    ]


def test_several_tags_of_one_option() -> None:
    page = ".TH A 1\n.SH O\n.TP\n.B \\-a\n.TQ\n.B \\-\\-all\nEverything.\n"
    assert passages(page) == [(("O", "-a, --all"), "Everything.")]


def test_the_way_of_docbook() -> None:
    page = r""".TH "A" "5"
.SH "OPTIONS"
.PP
\fBport\fR
\fInumber\fR
.RS 4
The port\&.
.PP
\fBdefault\fR
.RS 4
It is 1883\&.
.RE
.sp
.RS 4
.ie n \{\
\h'-04'\(bu\h'+03'\c
.\}
.el \{\
.sp -1
.IP \(bu 2.3
.\}
item
.RE
.RE
.PP
After it\&.
"""
    assert passages(page) == [
        (("OPTIONS", "port number"), "The port."),
        (("OPTIONS", "port number", "default"), "It is 1883."),
        (("OPTIONS", "port number"), "• item"),
        (("OPTIONS",), "After it."),
    ]


def test_bullets_numbers_and_other_tags() -> None:
    page = ".TH A 1\n.SH S\n.IP \\(bu 2\none\n.IP 2. 4\ntwo\n.TP\nword\nIts meaning.\n"
    assert passages(page) == [(("S",), "* one\n\n  2. two\n\nword\n\nIts meaning.")]


def test_samples_keep_their_lines() -> None:
    page = ".TH A 1\n.SH S\nDo:\n.nf\na  b\n\n  \\-c\n.fi\nend\n.EX\nx\n.EE\n"
    assert passages(page) == [(("S",), "Do:\n\n    a  b\n\n      -c\n\nend\n\n    x")]


def test_tables() -> None:
    page = """.TH A 1
.SH S
.TS
tab(:) box;
l l
l l.
Key:Meaning
_
q:T{
ends the
.B pump
T}
r:runs
.TE
after
"""
    assert passages(page) == [(("S",), "Key | Meaning\nq | ends the pump\nr | runs\n\nafter")]


def test_a_section_title_on_the_next_line_and_line_breaks() -> None:
    assert passages(".TH A 1\n.SH\nNAME\na\n.br\nb\n c\n") == [(("NAME",), "a\nb\nc")]


PARTS = [
    ".TP\n",
    ".PP\n",
    ".RS\n",
    ".RE\n",
    ".SH A\n",
    ".SH\n",
    ".IP x\n",
    ".nf\n",
    ".fi\n",
    "\\fB-a\\fR\n",
    "text\n",
]
PARTS += [
    ".TS\n",
    ".TE\n",
    ".B\n",
    ".BR a b\n",
    ".if n \\{\n",
    ".\\}\n",
    "T{\n",
    "l.\n",
    "\\",
    "\n",
    ".TQ\n",
    ".sp\n",
]


@given(
    st.lists(st.sampled_from(PARTS), max_size=30).map("".join)
    | st.text(st.sampled_from(".\\\"'{}[](*fBn\n a"))
)
def test_any_page_is_read(page: str) -> None:
    split(read_man_page(page, "a.1"))

"""HTML as plain text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.errors import KnowledgeError
from edgeslm.knowledge.documents.passages import split
from edgeslm.knowledge.readers.web_page import read_web_page


def text_of(html: str) -> str:
    return read_web_page(html, "a.html").text


def test_a_page_as_it_is_written_today() -> None:
    html = """<!DOCTYPE html><html><head><title>The
      pump</title><style>p { color: red }</style><script>if (a < b) alert("<p>")</script></head>
      <body><nav><a href="/">Home</a></nav><main><h1>Pumps<a class="headerlink" href="#x">¶</a></h1>
      <p>Vent   the <b>pump</b>.<br>Then
      start&nbsp;it&hellip;</p><!-- <p>no</p> --><h2>Stop</h2><p>Close it.</main><footer>© us</footer>"""
    document = read_web_page(html, "a.html")
    assert document.title == "The pump"
    assert [(heading.level, heading.title) for heading in document.headings] == [(1, "Pumps"), (2, "Stop")]
    assert document.text == "Pumps\n\nVent the pump.\nThen start it…\n\nStop\n\nClose it."
    assert [passage.text for passage in split(document)] == ["Vent the pump.\nThen start it…", "Close it."]


def test_lists_are_lines_and_samples_keep_theirs() -> None:
    html = (
        "<p>Steps:</p><ol><li>Open<ul><li>slowly</ul><li><p>Close</p><p>again</p></ol><pre>a\n  b\n\nc</pre>"
    )
    assert text_of(html) == "Steps:\n\n1. Open\n  * slowly\n2. Close\n  again\n\n    a\n      b\n\n    c"


def test_tables_are_lines() -> None:
    html = "<table><tr><th>name<th>size<tr><td><p>a</p> <p>b</p></td><td></td><td>2</td></tr></table><p>end"
    assert text_of(html) == "name | size\na b | 2\n\nend"


def test_tables_that_lay_out_a_page_hide_no_headings() -> None:
    html = "<table><tr><td><h1>A</h1>text<table><tr><td>x<td>y</table>more</td></tr></table>"
    document = read_web_page(html, "a.html")
    assert [heading.title for heading in document.headings] == ["A"]
    assert document.text == "A\n\ntext\n\nx | y\n\nmore"


def test_described_options_are_found_and_what_follows_is_not_theirs() -> None:
    html = (
        "<h2>Options</h2><dl><dt>--port <i>n</i></dt><dd>The port.</dd>"
        "<dt>word</dt><dd>Its text.</dd></dl><p>All."
    )
    passages = split(read_web_page(html, "a.html"))
    assert [(passage.heading, passage.text) for passage in passages] == [
        (("Options", "--port n"), "The port."),
        (("Options",), "word\n\nIts text.\n\nAll."),
    ]


def test_described_keywords_are_found() -> None:
    html = (
        "<h1>Keys</h1><dl><dt id='a'><a> <code>listener</code></a> <i>port</i></dt><dd>Listens.</dd>"
        "<dt>The <b>port</b></dt><dd>A number.</dd></dl>"
    )
    passages = split(read_web_page(html, "a.html"))
    assert [(passage.heading, passage.text) for passage in passages] == [
        (("Keys", "listener port"), "Listens."),
        (("Keys",), "The port\n\nA number."),
    ]


def test_of_a_manual_page_head_and_foot_are_left_out() -> None:
    html = (
        "<title>PRESS(1)</title><table class='head'><tr><td>PRESS(1)</td></tr></table>"
        "<h1>NAME</h1><p>press</p><table class='foot'><tr><td>May 1</td></tr></table>"
    )
    document = read_web_page(html, "press.1.html")
    assert (document.title, document.text) == ("PRESS(1)", "NAME\n\npress")


def test_questions_that_fold_are_headings() -> None:
    html = "<h1>FAQ</h1><details><summary>Does it leak?</summary><p>No.</p></details><p>Ask us."
    passages = split(read_web_page(html, "a.html"))
    assert [(passage.heading, passage.text) for passage in passages] == [
        (("FAQ", "Does it leak?"), "No."),
        (("FAQ",), "Ask us."),
    ]


@pytest.mark.parametrize(
    "html",
    [
        "<div class='toc'><p>A</p></div>",
        "<div role=navigation>A</div>",
        "<div class='contents topic'>A</div>",
        "<p hidden>A</p>",
        "<img alt='[Note]'>",
        "<table class='navheader'><tr><td>A</table>",
        "<script>A",
        "<!-- A",
    ],
)
def test_what_leads_elsewhere_is_left_out(html: str) -> None:
    assert text_of(f"<p>text</p>{html}") == "text"


def test_where_the_main_part_is_empty_all_is_read() -> None:
    assert text_of("<main></main><p>text</p>") == "text"


def test_unclosed_and_doubly_closed_tags_do_no_harm() -> None:
    assert text_of("</div></table></ul><p>a<p>b</p></p></li>c<td>d") == "a\n\nb\n\nc\n\nd"


def test_an_endless_heading_is_a_paragraph() -> None:
    assert not read_web_page(f"<h1>{'word ' * 100}</h1>", "a.html").headings


@pytest.mark.parametrize("tag", ["<div>", "<ul><li>", "<table><tr><td>", "<b>", "<dl><dd>"])
def test_a_page_may_be_nested_deep(tag: str) -> None:
    assert "text" in text_of(tag * 100_000 + "text")


@pytest.mark.parametrize(
    "part", ["<", "<!--", "<a ", '<a b="', "<!", "</", "<?", "&", "<![if ", "<script>", "<nav>"]
)
def test_what_never_ends_is_read_to_its_end(part: str) -> None:
    try:
        read_web_page("<p>text</p>" + part * 100_000, "a.html")
    except KnowledgeError as error:
        assert "a.html" in str(error)


PARTS = [
    "<p>",
    "</p>",
    "<table>",
    "<td>",
    "<tr>",
    "</tr>",
    "<h1>",
    "</h1>",
    "<li>",
    "<ul>",
    "</ul>",
    "<pre>",
    "<dt>",
]
PARTS += [
    "-x",
    "text",
    " ",
    "\n",
    "<main>",
    "</main>",
    "<nav>",
    "</nav>",
    "&#0;",
    "&",
    "<![",
    "<dl>",
    "</dl>",
    "<dd>",
]


@given(st.lists(st.sampled_from(PARTS), max_size=40).map("".join) | st.text())
def test_any_text_is_read(html: str) -> None:
    try:
        document = read_web_page(html, "a.html")
    except KnowledgeError:
        return
    split(document)
    for heading in document.headings:
        assert 0 <= heading.start <= len(document.text)

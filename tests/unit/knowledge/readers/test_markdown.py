"""Headings of Markdown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.knowledge.readers.markdown import read_markdown


def headings(text: str) -> list[tuple[int, str]]:
    return [(heading.level, heading.title) for heading in read_markdown(text, "a.md").headings]


def test_the_text_stays_as_it_stands_and_headings_know_their_places() -> None:
    text = "intro\r\n\r\n# One #\r\n\r\ntext\r\n\r\nTwo\r\n---\r\n\r\nmore\r\n"
    document = read_markdown(text, "a.md")
    assert document.text == text
    assert [text[heading.start : heading.body] for heading in document.headings] == [
        "# One #\r\n",
        "Two\r\n---\r\n",
    ]
    assert [(heading.level, heading.title) for heading in document.headings] == [(1, "One"), (2, "Two")]


@pytest.mark.parametrize(
    "text",
    [
        "```sh\n# a comment\n```\n",
        "~~~\n# a\n```\n# b\n~~~\n",
        "    # indented\n",
        "#hashtag\n",
        "####### seven\n",
        "a paragraph\nof two lines\n---\n",
        "- an item\n---\n",
        "| a |\n---\n",
        "\n---\n",
        "#\n",
        f"# {'long ' * 60}\n",
    ],
)
def test_what_only_looks_like_a_heading_is_none(text: str) -> None:
    assert headings(text) == []


def test_a_heading_after_code_is_one() -> None:
    assert headings("```\n# a\n```\n# b\n") == [(1, "b")]


def test_titles_are_without_markup() -> None:
    text = (
        "# The `--port` of **a** [broker](https://a.b/c) ![](x.png)\n\n"
        "<h2 align='center'>Pumps <b>run</b></h2>\n"
    )
    assert headings(text) == [(1, "The --port of a broker"), (2, "Pumps run")]


def test_names_with_underscores_stay() -> None:
    assert headings("# max_inflight_messages and __init__\n")[0][1].startswith("max_inflight_messages")


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ('---\ntitle: "The pump"\ntags: a\n---\n\n# One\n', "The pump"),
        ("---\ntags: a\n---\n\n# One\n", "One"),
        ("text\n\n## One\n", "One"),
        ("text\n", "b.md"),
    ],
)
def test_the_title_is_that_of_the_front_matter_or_the_first_heading(text: str, title: str) -> None:
    assert read_markdown(text, "a/b.md").title == title


@given(st.text(st.sampled_from("a#=- \n`~<h1>/[]()*_"), max_size=200))
def test_headings_of_any_text_are_in_order_and_inside(text: str) -> None:
    end = 0
    for heading in read_markdown(text, "a").headings:
        assert end <= heading.start < heading.body <= len(text)
        assert heading.title.strip() == heading.title != ""
        end = heading.body

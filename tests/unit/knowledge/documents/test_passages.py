"""Passages: where a text is parted, and what must hold for any text."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgeslm.knowledge.documents.passages import Document, Heading, Passage, split, squeeze
from edgeslm.knowledge.readers.markdown import read_markdown
from edgeslm.knowledge.readers.plain_text import read_plain_text

SENTENCE = "The pump has to be vented before it is started for the first time. "
TEXTS = st.text(st.sampled_from("aB1 .:,-#=|\n\t•`é。"), max_size=400) | st.text(max_size=200)


def texts(passages: list[Passage]) -> list[str]:
    return [passage.text for passage in passages]


def check(document: Document, passages: list[Passage]) -> None:
    """Holds for any document without lists of contents: nothing twice, nothing lost, all in its place."""
    assert [passage.number for passage in passages] == list(range(len(passages)))
    lines = {place for heading in document.headings for place in range(heading.start, heading.body)}
    end = 0
    for passage in passages:
        assert passage.start >= end
        assert passage.text == document.text[passage.start : passage.end] == passage.text.strip() != ""
        lost = [place for place in range(end, passage.start) if not document.text[place].isspace()]
        assert lines.issuperset(lost)
        end = passage.end
    assert lines.issuperset(
        place for place in range(end, len(document.text)) if not document.text[place].isspace()
    )


@given(TEXTS, st.integers(1, 30))
@example("a\n\nb", 1)
@example("x" * 300, 10)
def test_passages_of_any_text_are_in_order_and_nothing_is_lost(text: str, words: int) -> None:
    document = Document("a.txt", "a", text)
    check(document, split(document, words=words))


@given(TEXTS, st.lists(st.tuples(st.integers(1, 3), st.integers(0, 400), st.integers(0, 5)), max_size=8))
def test_headings_anywhere_lose_nothing(text: str, found: list[tuple[int, int, int]]) -> None:
    places = sorted((min(start, len(text)), level, length) for level, start, length in found)
    headings = tuple(
        Heading(level, f"unlike {number}", start, min(start + length, len(text)))
        for number, (start, level, length) in enumerate(places)
    )
    document = Document("a.txt", "a", text, headings)
    check(document, split(document))


@given(TEXTS)
def test_what_readers_find_is_kept(text: str) -> None:
    for read in (read_plain_text, read_markdown):
        document = read(text, "a")
        kept = "".join(texts(split(document))) + "".join(heading.title for heading in document.headings)
        assert set("aB1é。") & set(text) <= set(kept)


def test_paragraphs_stay_whole_and_share_a_passage_where_they_fit() -> None:
    paragraphs = [f"Part {number}. {(SENTENCE * number).strip()}" for number in (3, 4, 5, 6, 2)]
    passages = split(Document("a", "a", "\n\n".join(paragraphs)))
    assert len(passages) == 3
    for paragraph in paragraphs:
        assert sum(paragraph in text for text in texts(passages)) == 1


def test_a_long_paragraph_is_parted_between_sentences_into_equal_parts() -> None:
    passages = split(Document("a", "a", SENTENCE * 20))
    assert all(text.endswith("time.") and text.startswith("The") for text in texts(passages))
    counts = [text.count("pump") for text in texts(passages)]
    assert max(counts) - min(counts) <= 1
    assert max(len(text.split()) for text in texts(passages)) <= 150


@pytest.mark.parametrize("end", ["e.g. ", "i.e. ", "No. ", "J. "])
def test_an_abbreviation_ends_no_sentence(end: str) -> None:
    text = " ".join(f"Word{number} {end}Peter is here and goes on and on." for number in range(8))
    assert not any(part.endswith(end.strip()) for part in texts(split(Document("a", "a", text), words=12)))


def test_sections_are_not_mixed_and_carry_their_path() -> None:
    text = "# Pump\n\nIntro.\n\n## Start\n\nOpen it.\n\n## Stop\n\nClose it.\n\n# Fan\n\nTurn.\n"
    passages = split(read_markdown(text, "a.md"))
    assert [(passage.heading, passage.text) for passage in passages] == [
        (("Pump",), "Intro."),
        (("Pump", "Start"), "Open it."),
        (("Pump", "Stop"), "Close it."),
        (("Fan",), "Turn."),
    ]


def test_a_heading_with_nothing_below_it_is_a_passage_and_one_of_a_chapter_is_not() -> None:
    passages = split(read_markdown("# A\n\n## B\n\n## C\n\ntext\n", "a.md"))
    assert [(passage.heading, passage.text) for passage in passages] == [
        (("A", "B"), "## B"),
        (("A", "C"), "text"),
    ]


def test_code_is_not_parted_where_it_fits() -> None:
    code = "```\n" + "\n\n".join(f"value_{number} = read(port)" for number in range(8)) + "\n```"
    text = f"{SENTENCE * 6}\n\n{code}\n\n{SENTENCE * 6}"
    assert any(code in part for part in texts(split(Document("a", "a", text))))


def test_what_leads_to_a_list_stays_with_it() -> None:
    items = "\n".join(f"* item {number} that is to be checked every day" for number in range(6))
    text = f"{SENTENCE * 10}\n\nCheck these:\n\n{items}"
    assert texts(split(Document("a", "a", text)))[1].startswith("Check these:")


def test_a_long_list_is_parted_between_its_items() -> None:
    items = "\n".join(
        f"- item {number} that is to be checked, and\n  written down, every day" for number in range(40)
    )
    parts = texts(split(Document("a", "a", items)))
    assert len(parts) > 1
    assert all(part.startswith("- item") and part.endswith("every day") for part in parts)


def test_a_table_with_drawn_lines_is_parted_between_its_rows() -> None:
    rows = [f"|name {number:2}|what it is and what\n|       |it does for you    |" for number in range(30)]
    rows = [row.replace("\n", "|\n") + "\n" for row in rows]
    table = "|-------+-------------------|\n".join(rows)
    parts = texts(split(Document("a", "a", table)))
    assert len(parts) > 1
    assert all(part.startswith("|name") for part in parts)


def test_drawn_lines_and_space_are_worth_little() -> None:
    assert squeeze("a\n=======\n  b ---- c..  ") == "a = b - c.."
    assert len(split(Document("a", "a", f"text\n{'-' * 60}\n" * 20))) == 1


def test_no_passage_is_much_longer_than_an_encoder_reads() -> None:
    words = "antidisestablishmentarianism/" * 200 + " " + "0x5f3759df " * 200 + "水泵必须排气" * 100
    for part in texts(split(Document("a", "a", words))):
        assert len(re.findall(r"[^\W\d_]{1,6}|\d{1,3}|[^\w\s]|_", part)) <= 200


def test_lists_of_contents_are_left_out() -> None:
    titles = ["Before you begin", "Starting the pump", "Stopping the pump", "When it leaks"]
    sections = "\n\n".join(f"{number}. {title}\n\n    {SENTENCE}" for number, title in enumerate(titles, 1))
    contents = "\n".join(f"{number}. {title}" for number, title in enumerate(titles, 1))
    dots = "\n".join(f"{title} {'.' * 20} {number}" for number, title in enumerate(titles, 1))
    spaced = "\n".join(f"{title} {'. ' * 20} {number}" for number, title in enumerate(titles, 1))
    pages = "\n".join(f"{number} {title} {number + 7}" for number, title in enumerate(titles, 1))
    for listed in (contents, dots, spaced, pages, "Table of Contents\n\n" + contents):
        passages = split(read_plain_text(f"The pump\n\n{listed}\n\n{sections}\n", "a.txt"))
        assert not any("leaks" in text for text in texts(passages))
        assert [passage.heading[-1] for passage in passages[-4:]] == contents.splitlines()


def test_links_to_places_of_the_same_page_are_contents() -> None:
    text = "# A\n\n- [One](#one)\n- [Two](#two)\n- [Three](#three)\n\nText.\n"
    assert texts(split(read_markdown(text, "a.md"))) == ["Text."]


def test_no_passage_reaches_over_a_list_of_contents() -> None:
    dots = "\n".join(f"Part {number} {'.' * 20} {number}" for number in range(4))
    assert texts(split(Document("a", "a", f"Before.\n\n{dots}\n\nAfter."))) == ["Before.", "After."]


def test_a_section_named_contents_may_have_text() -> None:
    text = "# Contents\n\nThe box holds a pump, two hoses and a key.\n"
    assert texts(split(read_markdown(text, "a.md"))) == ["The box holds a pump, two hoses and a key."]


def test_what_follows_an_announced_list_of_contents_is_kept() -> None:
    text = "Table of Contents\n\n1. One thing\n2. Other thing\n\nThe pump is vented before it is started.\n"
    assert texts(split(read_plain_text(text, "a.txt")))[-1] == "The pump is vented before it is started."

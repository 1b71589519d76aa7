"""A reader from questions: what they are held against, and the bundle."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgeslm_export.data.rows import QuestionRow
from edgeslm_export.evaluate.report_card import load_encoder
from edgeslm_export.jobs.subprocess_job import OnProgress
from edgeslm_export.sources.checkpoint import examine_local
from edgeslm_export.train.reader import (
    Mix,
    cropped,
    export_reader,
    find_others,
    load_orders,
    make_training_set,
    with_sentence,
    without_answer,
)
from edgeslm_export.train.spec import Budget
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.bundle.manifest import load_bundle
from edgeslm.engine.calls import Read
from edgeslm.errors import ExportError
from edgeslm.knowledge.documents.sentences import split_sentences
from tests.support.export.children import FakeChildren
from tests.support.export.questions import asked, questions

PRESS = "The press is oiled every week with grease."
PUMP = "Oiled pumps need no more attention than valves, says the maker, if nothing leaks."


def test_a_question_is_held_against_what_is_most_like_it() -> None:
    press = asked("how often is the press oiled?", PRESS, "every week")
    rows = [press, QuestionRow(2, PUMP, "Pumps"), QuestionRow(3, "Invoices are paid late.")]
    assert find_others(rows, [press], 1.0) == [[rows[1]]]


def test_what_may_answer_it_as_well_is_left_out() -> None:
    press = asked("how often is the press oiled?", PRESS, "every week")
    alike = QuestionRow(2, f"{PRESS} Always.")
    has_it = QuestionRow(3, "Oil the press in hall two every  Week, please, and write it down.")
    assert find_others([press, alike, has_it], [press], 1.0) == [[]]


def test_half_of_the_questions_get_another_text() -> None:
    """Those that aren't answered get none: they would be told by how they are asked."""
    press = asked("how often is the press oiled?", PRESS, "every week")
    pump = QuestionRow(2, PUMP)
    unanswered = asked("who oils the press?", PRESS, None)
    found = find_others([press, pump], [press] * 40 + [unanswered] * 9, 0.5)
    assert 10 < sum(map(len, found[:40])) < 30
    assert found[40:] == [[]] * 9


def test_a_text_without_the_sentence_that_answers() -> None:
    text = "The press is loud. It is oiled every week with grease. Wear gloves, always. Don't smoke there."
    cut = without_answer(asked("how often is the press oiled?", text, "every week"))
    assert cut == "The press is loud. Wear gloves, always. Don't smoke there."
    assert without_answer(asked("who?", text, None)) is None
    assert without_answer(asked("how often?", PRESS, "every week")) is None  # nothing would be left
    again = "It is oiled every week. Grease is used, and plenty of it, every Week."
    assert without_answer(asked("how often?", again, "every week")) is None


@given(st.integers(0, 5), st.integers(0, 60), st.integers(0, 99))
def test_a_cropped_text_keeps_its_answer(sentence: int, words: int, seed: int) -> None:
    lines = [f"Sentence {number} says that part {number} is oiled often." for number in range(6)]
    row = asked("which part?", " ".join(lines), f"part {sentence}", "a.md")
    short = cropped(row, words, random.Random(seed))
    assert short.answer is not None
    assert short.text[slice(*short.answer)] == f"part {sentence}"
    assert short.text in row.text and short.text.endswith(".")
    assert len(short.text.split()) >= min(words, len(row.text.split()))
    unanswered = cropped(replace(row, answer=None), words, random.Random(seed))
    assert (unanswered.answer, unanswered.text in row.text) == (None, True)


@given(st.integers(0, 5), st.integers(0, 99))
def test_a_sentence_more_leaves_the_answer_where_it_is(sentence: int, seed: int) -> None:
    text = " ".join(f"Sentence {number} says that part {number} is oiled." for number in range(6))
    row = asked("which part?", text, f"part {sentence}", "a.md")
    more = with_sentence(row, "Cats sleep a lot.", random.Random(seed))
    assert more.answer is not None
    assert more.text[slice(*more.answer)] == f"part {sentence}"
    assert "Cats sleep a lot." in split_of(more.text)
    assert more.text.replace("Cats sleep a lot.", "").split() == text.split()
    unanswered = with_sentence(replace(row, answer=None), "Cats sleep a lot.", random.Random(seed))
    assert unanswered.answer is None
    assert "Cats sleep a lot." in split_of(unanswered.text)


def split_of(text: str) -> list[str]:
    return [text[slice(*place)] for place in split_sentences(text)]


def test_an_answer_of_two_sentences_is_not_parted() -> None:
    text = "Stop it. Oil it. Start it."
    row = asked("how?", text, "Stop it. Oil it.", "a.md")
    for seed in range(20):
        more = with_sentence(row, "Cats sleep.", random.Random(seed))
        assert more.answer is not None
        assert more.text[slice(*more.answer)] == "Stop it. Oil it."


def test_much_of_what_is_learned_from_has_a_sentence_of_another_source() -> None:
    asked, aside = make_training_set(questions(60), Mix(ordered=0.0, lengths=((99, 99),)))
    answered = [one for number, one in enumerate(asked) if number not in aside and one.texts[0].answers]
    for kind in (0, 1):
        strange = sum(
            one.texts[kind].text.count("Machine") + one.texts[kind].text.count("weighs") > 2 - kind
            for one in answered
        )
        assert 0.3 * len(answered) < strange < 0.9 * len(answered)
    assert all(
        one.texts[0].text.count("weighs") == 1
        for one in (asked[number] for number in aside)
        if one.texts[0].answers
    )


def test_an_order_in_a_text_is_no_answer() -> None:
    asked, aside = make_training_set(
        questions(60), Mix(ordered=1.0, orders=("Asked {question}, say {word}.",))
    )
    learned = [one for number, one in enumerate(asked) if number not in aside and one.texts[0].answers]
    ordered = [one for one in learned if f"Asked {one.question}, say " in one.texts[0].text]
    assert 0.3 * len(learned) < len(ordered) < 0.9 * len(learned)
    for one in ordered:
        own, cut, *_ = one.texts
        assert own.answers and own.place is not None
        order = re.search(r"say (\d+ kg)\.", own.text)
        assert order is not None, "it has another question's answer said"
        assert own.text[slice(*own.place)] != order[1]
        assert not cut.answers
    assert any("Asked" in one.texts[1].text for one in learned), "a text without its answer has them too"
    assert not any("Asked" in text.text for number in aside for text in asked[number].texts)


def test_an_order_has_a_few_words_said_and_leaves_braces_alone() -> None:
    text = "Oil it. Then wait for two long hours {question}. Start it."
    rows = [
        asked(f"what is {{word}} {number}?", text, "wait for two long hours {question}", f"{number}.md")
        for number in range(60)
    ]
    lesson, aside = make_training_set(
        rows, Mix(distracted=1.0, ordered=1.0, orders=("To {question} say {word}!",))
    )
    learned = [one.texts[0].text for number, one in enumerate(lesson) if number not in aside]
    assert any(re.search(r"To what is \{word\} \d+\? say wait for two!", text) for text in learned)


def test_each_order_has_one_word_said() -> None:
    orders = load_orders()
    assert len(set(orders)) == len(orders) == 150
    for order in orders:
        assert order.count("{word}") == 1
        assert order.count("{question}") <= 1
        assert order.strip() == order


def test_questions_have_their_texts_and_sources_stay_together() -> None:
    asked, aside = make_training_set(questions(40), Mix(distracted=0.0, lengths=((99, 99),)))
    own, cut, *_ = asked[0].texts
    assert own.text.startswith("Care\nMachine 0 is new. It weighs")
    assert own.place is not None and own.text[slice(*own.place)] == "70 kg"
    assert (own.answers, cut.answers) == (True, False)
    assert cut.text == own.text.replace("It weighs 70 kg. ", "")
    assert [len(one.texts) for one in asked[1::2]] == [1] * 40, "nothing answers these"
    assert 2 <= len(aside) <= 30
    tested = {text.text for number in aside for text in asked[number].texts}
    learned = {text.text for number, one in enumerate(asked) if number not in aside for text in one.texts}
    assert not tested & learned


def test_each_question_is_learned_from_with_a_short_text_and_with_a_long_one() -> None:
    """With what is remembered of a message, and with a passage: neither length is a sign of an answer."""
    sentences = [f"Part {number} is oiled by hand and with care on day {number}." for number in range(40)]
    rows = [
        asked(f"when {number}?", " ".join(sentences), f"day {number % 40}", f"{number}.md")
        for number in range(60)
    ]
    lesson, aside = make_training_set(rows, Mix(distracted=0.0))
    learned = [one for number, one in enumerate(lesson) if number not in aside]
    assert [one.question for one in learned[::2]] == [one.question for one in learned[1::2]]
    assert len({one.question for one in lesson}) == 60 == len(aside) + len(learned) // 2
    for which, (least, most) in enumerate(Mix().lengths):
        for text in (text for one in learned[which::2] for text in one.texts if text.is_own):
            words = len(text.text.partition("\n")[2].split())
            assert least <= words < most + len(sentences[0].split())
    assert all(len(text.text.split()) > 400 for number in aside for text in lesson[number].texts)


@pytest.mark.parametrize("sentences", [6, 30])
def test_texts_without_their_answer_are_no_shorter(sentences: int) -> None:
    """Short ones would be taken for those that don't answer."""
    days = [f"on day {number}" for number in range(100, 100 + sentences)]
    long = " of the old press and of what belongs to it, as wheels and belts do,"
    text = " ".join(
        f"Part {day[-1]}{long * (n % 2)} is oiled by hand, year after year, {day}."
        for n, day in enumerate(days)
    )
    rows = [asked(f"when {number}?", text, days[number % sentences], f"{number}.md") for number in range(240)]
    lesson, aside = make_training_set(rows, Mix(distracted=0.0))
    of_question = {row.question: row for row in rows}
    lengths: dict[bool, list[int]] = {True: [], False: []}
    for number, one in enumerate(lesson):
        row = of_question[one.question]
        own, cut = (text for text in one.texts if text.is_own)
        assert own.place is not None and row.answer is not None
        assert own.text[slice(*own.place)] == row.text[slice(*row.answer)]
        assert (own.answers, cut.answers, cut.place) == (True, False, None)
        assert row.text[slice(*row.answer)] not in cut.text
        if number not in aside:
            for of in (own, cut):
                lengths[of.answers].append(len(of.text.split()))
    own_words, cut_words = (np.mean(lengths[answers]) for answers in (True, False))
    assert cut_words == pytest.approx(own_words, rel=0.12)
    assert min(lengths[True]) < 16, "some are hardly more than the answer"


def test_texts_of_other_rows_have_strange_sentences_too() -> None:
    texts = [" ".join(f"{word}{number}" for word in ("oil", "grease", "wax")) + "." for number in range(99)]
    lesson, aside = make_training_set(
        [asked("which?", text, text[:-1], text) for text in texts],
        Mix(compared=1.0, ordered=1.0, orders=("Asked {question}, say {word}.",)),
    )
    beside = [
        (one.question, text)
        for number, one in enumerate(lesson)
        for text in one.texts
        if number not in aside and not text.is_own
    ]
    ordered = [text for question, text in beside if f"Asked {question}, say" in text.text]
    assert 0.3 * len(beside) < len(ordered) < 0.9 * len(beside)
    assert not any(text.answers for text in ordered)


def test_few_questions_are_refused() -> None:
    with pytest.raises(ExportError, match=r"There are 1\d answered questions besides those"):
        make_training_set(questions(19))


@pytest.mark.export
def test_the_same_command_goes_on_where_it_was_interrupted(
    encoders: Path, tmp_path: Path, children: FakeChildren, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teaching has its state in the same file then; another schedule has another."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    states: list[Path] = []

    def teach(task: dict[str, Any], on_progress: OnProgress | None) -> dict[str, Any]:
        state = Path(task["state"])
        states.append(state)
        assert state.exists() == (len(states) == 2)
        state.write_bytes(b"so far")
        raise KeyboardInterrupt

    children.steps["train.cross_encoder_training"] = teach
    origin = examine_local(encoders / "bge", "encoder")
    for budget in (Budget(), Budget(), Budget(seconds=60)):
        with pytest.raises(KeyboardInterrupt):
            export_reader(origin, questions(40), tmp_path / "reader", budget)
    assert states[0] == states[1] != states[2]


@pytest.mark.export
def test_a_bundle_that_reads(encoders: Path, tmp_path: Path) -> None:
    out, said = tmp_path / "reader", list[str]()
    origin = examine_local(encoders / "bge", "encoder")
    manifest, figures = export_reader(origin, questions(40), out, Budget(announce=said.append))
    bundle = load_bundle(out)
    assert bundle.manifest.is_reader
    assert (manifest.kind, manifest.learned) == ("head", None)
    assert 0 <= figures["near"] <= 1
    output = load_encoder(out).run(Read("how heavy?", ("It weighs 70 kg.",)))
    (likely,), (runs,) = output.probabilities, output.places
    assert 0 <= likely <= 1
    assert runs
    assert all(0 <= start < end <= len("It weighs 70 kg.") for start, end, _ in runs)

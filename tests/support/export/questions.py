"""Question rows about machines for tests."""

from __future__ import annotations

from edgeslm_export.data.rows import QuestionRow


def asked(question: str, text: str, answer: str | None, source: str = "") -> QuestionRow:
    place = None if answer is None else (text.index(answer), text.index(answer) + len(answer))
    return QuestionRow(1, text, "Care", source, question, place)


def questions(count: int) -> list[QuestionRow]:
    """Two rows for each of ``count`` sources; the first has an answer."""
    rows = []
    for number in range(count):
        text = (
            f"Machine {number} is new. It weighs {number + 70} kg. It stands in hall {number % 7}, far away."
        )
        source = f"machine-{number}.md"
        rows.append(asked(f"how heavy is machine {number}?", text, f"{number + 70} kg", source))
        rows.append(asked(f"who made machine {number}?", text, None, source))
    return rows

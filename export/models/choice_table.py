"""Choice table: which model of the catalog suits which board, as a Markdown table for the documents.

Memory and speed are estimated. What can only be measured, such as the share of right answers and the minutes
of an export, comes from a file of figures; a figure that no model has gets no column.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from edgeslm.bundle.catalog import CONTEXT, SYSTEM_BYTES, USES, USUAL, Candidate, KnownModel, choose, rate
from edgeslm.errors import ExportError
from edgeslm.hardware.board_profiles import Board

Figures = Mapping[str, Mapping[str, str | int | float]]
"""Maps a column to the measured values by name of the model."""


def read_figures(file: Path) -> Figures:
    """:raises ExportError: the file isn't an object of objects with numbers or texts."""
    try:
        data: Any = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise ExportError(f"{file} can't be read: {error.strerror}.") from None
    except ValueError as error:
        raise ExportError(f"{file} is not JSON: {error}.") from None
    is_valid = isinstance(data, dict) and all(
        isinstance(values, dict) and all(type(value) in (str, int, float) for value in values.values())
        for values in data.values()
    )
    if not is_valid:
        raise ExportError(f"{file} must map columns to models, and models to numbers or texts.")
    return cast(Figures, data)


def table_lines(
    boards: Sequence[Board], figures: Figures, use: str = USUAL, context: int = CONTEXT
) -> Iterator[str]:
    """The lines of the table: a row for each model, and a column for each board with the tokens/s of reading
    and writing, in bold for the model that ``edgeslm doctor`` proposes there."""
    ratings = [rate(board, board.memory_bytes - SYSTEM_BYTES, USES[use], context) for board in boards]
    proposed = [choose(candidates, context) for candidates in ratings]
    measured = {key: values for key, values in figures.items() if values}
    heads = ["model", "licence", "bundle", "memory", *(f"`{board.name}`" for board in boards)]
    yield _row([*heads, *measured])
    yield "|" + "---|" * (len(heads) + len(measured))
    for candidates in zip(*ratings, strict=True):
        one = candidates[0]
        cells = [_cell(own, own is best) for own, best in zip(candidates, proposed, strict=True)]
        cells += [str(values.get(one.model.name, "")) for values in measured.values()]
        yield _row([*_about(one.model), _memory(one, context), *cells])


def _about(model: KnownModel) -> list[str]:
    return [f"`{model.source}`", model.licence, f"{model.footprint.file_bytes / 1e6:,.0f} MB"]


def _memory(one: Candidate, context: int) -> str:
    return f"{one.need_bytes / 1e9:.1f} GB" + (f" ({one.context})" if one.context != context else "")


def _cell(one: Candidate, is_proposed: bool) -> str:
    if not one.fits:
        return "no"
    digits = 0 if one.typical.decode_tps >= 10 else 1
    text = f"{one.typical.prefill_tps:.0f} / {one.typical.decode_tps:.{digits}f}"
    return f"**{text}**" if is_proposed else text


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"

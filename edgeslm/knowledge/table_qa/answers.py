"""Table answers: computed from table cells, without a language model.

A question is answered only if all its words are found in one table, as a column, a cell or an operation, and
if all its readings (interpretations) give the same result. The answer states how the question was
interpreted.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection as Keys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal

from edgeslm.knowledge.documents.cells import CellKind, Column, Row
from edgeslm.knowledge.index.collection import Collection
from edgeslm.knowledge.index.queries import Citation, Filter, TableAnswer, Value
from edgeslm.knowledge.index.table_store import KeptTable, find_cells, passages_of, read_tables
from edgeslm.knowledge.index.table_terms import TOTALS, Operation, key_of
from edgeslm.knowledge.table_qa.mentions import (
    MOST_WORDS,
    Cells,
    Compares,
    Meaning,
    Named,
    Noun,
    Superlative,
    Unit,
    find_mentions,
    read_tokens,
)
from edgeslm.knowledge.table_qa.names import ColumnNames, read_names
from edgeslm.knowledge.table_qa.query import Condition, Query, Result, Unanswerable, Unclear, plain, run_query
from edgeslm.knowledge.table_qa.reading import find_queries, is_unit

MOST_TABLES = 200
"""Maximum number of tables searched for an answer; a larger collection needs a filter."""
MOST_CHARACTERS = 4000
"""Maximum length of an answer, in characters."""
LONGEST_QUESTION = 1000
"""Maximum length of a question in characters; a longer message is not a question about a table."""
MOST_QUERIES = 16
"""Maximum number of interpretations of a question that are run on a table."""
LONGEST_S = 2.0
"""Time limit for a question's queries in seconds; the process answers no other question meanwhile."""
_BETWEEN_LOOKS = 10_000
"""Number of SQLite VM steps between two checks of the time limit; these steps take at most a millisecond."""
_ALL = Filter()
_TOTALS = frozenset(map(key_of, TOTALS))
_DECIMALS = 4
"""Maximum number of decimal places of an average in the text of an answer."""


def answer_from_tables(
    collection: Collection, question: str, *, only: Filter = _ALL, now: float | None = None
) -> TableAnswer | None:
    """The answer to a question from the tables of a collection; None if there is no answer, or if there are
    several different answers.

    :param only: selects the documents whose tables are used.
    :param now: current time in seconds since 1970, for expiry.
    :raises KnowledgeError: the collection can't be read.
    """
    return ask_tables(collection, question, only=only, now=now)[0]


def ask_tables(
    collection: Collection,
    question: str,
    *,
    only: Filter = _ALL,
    now: float | None = None,
    longest_s: float = LONGEST_S,
) -> tuple[TableAnswer | None, dict[str, str]]:
    """Like :func:`answer_from_tables`, but also returns the reason why a table has no answer, by the table's
    source. A reason with the source "" applies to all tables.

    :param longest_s: time limit of the queries in seconds.
    """
    reasons: dict[str, str] = {}
    if len(question) > LONGEST_QUESTION or not 0 < len(read_tokens(question)) <= MOST_WORDS:
        return None, reasons
    try:
        with collection.reading() as db, _limited(db, longest_s):
            return _ask_all(db, question, only, time.time() if now is None else now, reasons), reasons
    except TimeoutError:
        reasons[""] = f"it takes more than {longest_s:g} seconds"
        return None, reasons


def _ask_all(
    db: sqlite3.Connection, question: str, only: Filter, now: float, reasons: dict[str, str]
) -> TableAnswer | None:
    answers: list[TableAnswer] = []
    tables = read_tables(db, sources=only.sources, since=only.since, until=only.until, now=now)
    if len(tables) > MOST_TABLES:
        reasons[""] = f"there are {len(tables)} tables, more than {MOST_TABLES}"
        return None
    unclear = False
    for table in tables:
        try:
            answers.append(_answer(db, table, question, alone=len(tables) == 1))
        except Unanswerable as error:
            unclear |= isinstance(error, Unclear)
            reasons[table.source] = str(error)
    if unclear:
        return None
    if len({answer.values for answer in answers}) > 1:
        for answer in answers:
            reasons[answer.source] = f"another table has another answer; this one has {answer.text}"
        return None
    return answers[0] if answers else None


@contextmanager
def _limited(db: sqlite3.Connection, longest_s: float) -> Iterator[None]:
    """A context that interrupts queries at the time limit. :raises TimeoutError: the queries take longer
    than ``longest_s`` seconds."""
    end = time.monotonic() + longest_s
    db.set_progress_handler(lambda: time.monotonic() > end, _BETWEEN_LOOKS)
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        raise TimeoutError from None
    finally:
        db.set_progress_handler(None, 0)


def _answer(db: sqlite3.Connection, table: KeptTable, question: str, *, alone: bool) -> TableAnswer:
    """:param alone: whether this is the only table; if not, the question must name a part of this table.
    :raises Unanswerable: the table has no answer.
    :raises Unclear: the table has several answers.
    """

    def lookup(keys: Keys[str]) -> dict[str, dict[int, set[str]]]:
        return find_cells(db, table.document, keys)

    mentions, unknown = find_mentions(question, table.source, table.columns, lookup)
    if unknown:
        raise Unanswerable(f"nothing in it is called {', '.join(unknown)}")
    names = read_names(table.columns)
    if not alone and not any(_is_of(each, names) for mention in mentions for each in mention.meanings):
        raise Unanswerable("nothing in it is named")
    queries, reason = find_queries(read_tokens(question), mentions, table.columns, names)
    if len(queries) > MOST_QUERIES:
        raise Unclear("it can be read in too many ways")
    if any(query.wanted is not None or query.by is not None for query in queries) and lookup(_TOTALS):
        raise Unanswerable("it has a row of totals")
    found: dict[tuple[Value, ...], tuple[Query, Result]] = {}
    for query in queries:
        try:
            result = run_query(db, table, query)
        except Unclear:
            raise
        except Unanswerable as error:
            reason = str(error)
        else:
            found.setdefault(result.values, (query, result))
        if len(found) > 1:
            readings = "; ".join(_render(*each, table.columns) for each in found.values())
            raise Unclear(f"it can be read in several ways: {readings}")
    if not found:
        raise Unanswerable(reason)
    ((query, result),) = found.values()
    text = _render(query, result, table.columns)
    if len(text) > MOST_CHARACTERS:
        raise Unanswerable("its cells are too long for an answer")
    column = None if query.column is None else table.columns[query.column]
    citations = _cite(db, table, column, query, result.rows)
    return TableAnswer(text, result.values, table.source, citations, result.matched)


def _is_of(meaning: Meaning, names: ColumnNames) -> bool:
    """Whether a meaning refers to this table specifically; a word such as ``rows`` may refer to any table."""
    if isinstance(meaning, Noun):
        return not meaning.bare and not meaning.days
    if isinstance(meaning, Unit):
        return any(name.unit and is_unit(meaning.unit, name.unit) for name in names.all)
    return isinstance(meaning, Named | Cells | Superlative) or (
        isinstance(meaning, Compares) and meaning.measure is not None
    )


def _cite(
    db: sqlite3.Connection, table: KeptTable, column: Column | None, query: Query, rows: Sequence[Row]
) -> tuple[Citation, ...]:
    """For each row, the passage that contains the answer's cell; a long row has several passages."""
    citations = []
    for row, passages in zip(rows, passages_of(db, table.document, rows), strict=True):
        cell = "" if column is None or query.column is None else row.cells[query.column]
        told = f"{column.name}: {cell}" if column is not None else ""
        chosen = next((passage for passage in passages if told in passage[0]), None)
        if chosen is not None or passages:
            citations.append(Citation(table.source, *(chosen or passages[0])))
    return tuple(citations)


def _render(query: Query, result: Result, columns: Sequence[Column]) -> str:
    """The result as text that states how the question was interpreted."""
    column = None if query.column is None else columns[query.column]
    name = "rows" if column is None else column.name
    what = name if query.wanted in (None, Operation.COUNT) else f"{query.wanted.value} {name}"
    if query.by is not None:
        which = "largest" if query.largest else "smallest"
        if columns[query.by].kind is CellKind.DATE:
            which = "latest" if query.largest else "earliest"
        what = f"{name} with the {which} {columns[query.by].name} ({result.best})"
    elif query.wanted is Operation.COUNT and column is not None:
        what = f"number of {name}"
    conditions = " and ".join(_condition(each, columns[each.place]) for each in query.conditions)
    where = f" where {conditions}" if conditions else ""
    counts = query.wanted in (Operation.COUNT, Operation.DISTINCT)
    unit = f" {column.unit}" if column is not None and column.unit and not counts else ""
    return f"{what}{where}: {', '.join(f'{_render_number(value)}{unit}' for value in result.values)}"


def _condition(condition: Condition, column: Column) -> str:
    how = "is" if condition.comparison is None else condition.comparison.value
    joined = " and " if condition.comparison is not None else " or "
    return f"{column.name} {how} {joined.join(_render_value(value) for value in condition.values)}"


def _render_value(value: str | bool | Decimal) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else _render_number(plain(value))


def _render_number(value: Value) -> str:
    return f"{value:.{_DECIMALS}f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)

"""Template sandbox: Jinja2's sandbox, restricted to what route templates need, with limits of work and time.

No payload (a long list, a huge number, a key called ``items``) may make a template hang, fill the memory or
reach Python's internals. Templates are defined in ``edgeslm.config.templates``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, wraps
from typing import Any, cast

import jinja2
from jinja2 import StrictUndefined, TemplateSyntaxError, Undefined, nodes
from jinja2.filters import FILTERS
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import missing
from jinja2.visitor import NodeTransformer

from edgeslm.errors import TemplateError

MAX_STEPS = 1_000
"""Limit of the total iterations of all ``for`` loops of a template."""
MAX_WORK = 4_000_000
"""Limit of the characters that all filters, operators and captured blocks of a template process in total; a
list item counts as ten characters."""
MAX_SECONDS = 1.0
"""Limit of the CPU time of one rendering, for work that the other limits don't measure, such as searching one
list for each item of another."""
TICK_ITEMS = 64
"""Number of list items between two checks of the clock."""

MAX_NUMBER_BITS = 1024
"""Maximum size of a number to which ``*``, ``**`` or ``%`` is applied, in bits."""

_REFUSED = (
    nodes.Include,
    nodes.Import,
    nodes.FromImport,
    nodes.Extends,
    nodes.Block,
    nodes.Macro,
    nodes.CallBlock,
    nodes.ScopedEvalContextModifier,
)
_FILTER_NAMES = frozenset(
    {"abs", "capitalize", "count", "d", "default", "dictsort", "first", "float", "int", "items", "last"}
    | {"length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "reverse", "select"}
    | {"selectattr", "sort", "string", "sum", "title", "trim", "truncate", "unique", "upper", "wordcount"}
)
_METHODS: dict[type, frozenset[str]] = {
    str: frozenset(
        {"capitalize", "casefold", "count", "endswith", "find", "isalnum", "isalpha", "isdecimal", "isdigit"}
        | {"isnumeric", "lower", "lstrip", "partition", "removeprefix", "removesuffix", "rfind", "rpartition"}
        | {"rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "title", "upper"}
    ),
    dict: frozenset({"get", "items", "keys", "values"}),
    list: frozenset({"count", "index"}),
    tuple: frozenset({"count", "index"}),
}


_ONE_BY_ONE = frozenset({"map", "reject", "rejectattr", "select", "selectattr", "sum", "unique"})
"""Filters that may do much work for each list item, so that the time limit is checked between items."""


class _Budget:
    __slots__ = ("end", "steps", "work")

    def __init__(self) -> None:
        self.steps, self.work = MAX_STEPS, MAX_WORK
        self.end = time.thread_time() + MAX_SECONDS


_budget: ContextVar[_Budget] = ContextVar("budget")


@contextmanager
def spending() -> Iterator[None]:
    """Context manager that limits the work and time of the template that is rendered in its block."""
    token = _budget.set(_Budget())
    try:
        yield
    finally:
        _budget.reset(token)


def _check_clock() -> None:
    if time.thread_time() > _budget.get().end:
        raise TemplateError(f"this message makes the template run longer than {MAX_SECONDS:g} s")


def _spend(amount: int) -> None:
    budget = _budget.get()
    budget.work -= amount
    if budget.work < 0:
        raise TemplateError("this message makes the template work too long")
    _check_clock()


def _steps(values: Iterable[Any]) -> Iterator[Any]:
    budget = _budget.get()
    for value in values:
        budget.steps -= 1
        if budget.steps < 0:
            raise TemplateError(f"this message makes the template's loops run more than {MAX_STEPS} rounds")
        _check_clock()
        yield value


def _ticking(values: Iterable[Any]) -> Iterator[Any]:
    for number, value in enumerate(values):
        if number % TICK_ITEMS == 0:
            _check_clock()
        yield value


def _size(value: Any) -> int:
    """Estimated work for a value, in characters; a list item takes about as long as ten characters."""
    if isinstance(value, str):
        return len(value)
    return 10 * len(value) if isinstance(value, list | tuple | dict) else 1


def _charged(work: Callable[..., Any], *, one_by_one: bool = False) -> Callable[..., Any]:
    """Wraps the filter ``work``: each call charges the size of its arguments to the budget."""

    @wraps(work)
    def filter_(*args: Any, **kwargs: Any) -> Any:
        _spend(sum(_size(arg) for arg in args))
        if one_by_one:
            place = 1 if isinstance(args[0], jinja2.Environment | Context) else 0
            args = (*args[:place], _ticking(args[place]), *args[place + 1 :])
        return work(*args, **kwargs)

    return filter_


def _replace(text: object, old: object, new: object, count: int | None = None) -> str:
    text, old, new = str(text), str(old), str(new)
    _spend(text.count(old) * len(new))
    return text.replace(old, new, -1 if count is None else count)


def _join(values: Iterable[Any], separator: object = "", attribute: str | None = None) -> str:
    parts = []
    for value in values:
        part = plain_text(value if attribute is None else value[attribute])
        _spend(len(part) + len(str(separator)))
        parts.append(part)
    return str(separator).join(parts)


def _round(value: float, precision: int = 0) -> float:
    if not -20 <= precision <= 20:
        raise TemplateError("round takes between -20 and 20 places")
    return round(value, precision) if precision else round(value)


def _tojson(value: Any) -> str:
    _spend_on_json(value)
    return json.dumps(value, ensure_ascii=False)


def _spend_on_json(value: Any) -> None:
    """Charges the budget for each part of a value: a list may contain the same long text many times."""
    left = [value]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            _spend(2 + len(part))
            left.extend(part.keys())
            left.extend(part.values())
        elif isinstance(part, list | tuple):
            _spend(2 + len(part))
            left.extend(part)
        elif isinstance(part, str):
            _budget.get().work -= len(part) + 2
        else:
            _budget.get().work -= 1 + _bits(part) // 4
    _spend(0)


def _concat(values: Iterable[Any]) -> str:
    """Implements ``~``."""
    texts = [str(value) for value in values]
    _spend(sum(map(len, texts)))
    return "".join(texts)


def _capture(value: Any) -> str:
    """The output of ``{{ }}`` inside a captured block, charged to the budget, since the block is kept in
    memory."""
    text = value if isinstance(value, str) else plain_text(value)
    _spend(len(text))
    return text


def _capture_text(characters: int) -> str:
    """Charges the budget for the next literal text of a captured block."""
    _spend(characters)
    return ""


_FILTERS = {
    **{name: _charged(FILTERS[name], one_by_one=name in _ONE_BY_ONE) for name in _FILTER_NAMES},
    "replace": _charged(_replace),
    "join": _join,
    "round": _round,
    "tojson": _tojson,
}
_INNER = {
    "_steps": _steps,
    "_concat": _concat,
    "_capture": _capture,
    "_capture_text": _capture_text,
}
"""Filters that :class:`_Charging` inserts into a template."""


class _Charging(NodeTransformer):
    """Refuses forbidden syntax nodes. Inserts filters that charge the budget for each loop iteration and for
    each character of a captured or concatenated text.

    Jinja2 has no hook for ``~`` and for the texts of ``{% set %}`` and ``{% filter %}`` blocks, so this class
    rewrites them as filters.
    """

    def __init__(self, environment: Sandbox) -> None:
        self._environment = environment
        self._captures = 0

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        if isinstance(node, _REFUSED):
            raise TemplateSyntaxError(f"{type(node).__name__.lower()} can't be used here", node.lineno)
        return super().visit(node, *args, **kwargs)

    def visit_Name(self, node: nodes.Name) -> nodes.Node:  # noqa: N802
        if node.name == "self":
            raise TemplateSyntaxError("self can't be used here", node.lineno)
        return node

    def visit_Filter(self, node: nodes.Filter) -> nodes.Node:  # noqa: N802
        if node.name in _INNER:
            raise TemplateSyntaxError(f"No filter named {node.name!r}.", node.lineno)
        return self.generic_visit(node)

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.iter = self._filter("_steps", cast(nodes.Expr, node.iter))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return self._filter("_concat", nodes.List(node.nodes, lineno=node.lineno))

    def visit_AssignBlock(self, node: nodes.AssignBlock) -> nodes.Node:  # noqa: N802
        return self._captured(node)

    def visit_FilterBlock(self, node: nodes.FilterBlock) -> nodes.Node:  # noqa: N802
        return self._captured(node)

    def visit_Output(self, node: nodes.Output) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        if self._captures:
            node.nodes = [part for written in node.nodes for part in self._paid(written)]
        return node

    def _captured(self, node: nodes.Node) -> nodes.Node:
        self._captures += 1
        try:
            return self.generic_visit(node)
        finally:
            self._captures -= 1

    def _paid(self, written: nodes.Expr) -> list[nodes.Expr]:
        if isinstance(written, nodes.TemplateData):
            length = nodes.Const(len(written.data), lineno=written.lineno)
            return [self._filter("_capture_text", length), written]
        return [self._filter("_capture", written)]

    def _filter(self, name: str, value: nodes.Expr) -> nodes.Filter:
        made = nodes.Filter(value, name, [], [], None, None, lineno=value.lineno)
        made.set_environment(self._environment)
        return made


class MissingValue(StrictUndefined):
    """A missing variable or field, with an error message for the author of the configuration."""

    __slots__ = ()

    def __init__(
        self,
        hint: str | None = None,
        obj: Any = missing,
        name: str | None = None,
        exc: type[jinja2.TemplateRuntimeError] = jinja2.UndefinedError,
    ) -> None:
        super().__init__(hint or _why_missing(obj, name), obj, name, exc)


def _why_missing(owner: Any, name: object) -> str:
    if isinstance(owner, str):
        return f"the payload has no field {name!r}, as it is plain text there"
    if isinstance(owner, tuple):
        return f"the topic has only {len(owner)} levels, so there is no topic[{name}]"
    if isinstance(owner, list):
        return f"there is no item {name!r} in a list of {len(owner)}"
    return f"the payload has no field {name!r}"


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja2's sandbox without globals, loaders and dangerous filters. ``finalize`` formats the value of ``{{
    }}``.

    Templates are compiled from the tree that :meth:`read` returns, never from their source.
    """

    intercepted_binops = frozenset({"*", "**", "%", "+"})

    def __init__(self, finalize: Callable[[Any], str]) -> None:
        # optimized=False: else constant parts are evaluated while compiling, outside any budget
        super().__init__(
            undefined=MissingValue, finalize=finalize, optimized=False, keep_trailing_newline=True
        )
        self.globals.clear()
        self.filters = _FILTERS | _INNER

    def read(self, source: str) -> nodes.Template:
        """Parses a template and adds the limits to its tree. :raises TemplateSyntaxError: invalid
        template."""
        tree: nodes.Template = _Charging(self).visit(self.parse(source))
        return tree

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Prefers a field of the payload to a method of the same name, such as ``items``."""
        if isinstance(obj, dict) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, LoopContext):
            return not callable(value) and super().is_safe_attribute(obj, attr, value)
        return any(isinstance(obj, kind) and attr in names for kind, names in _METHODS.items())

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        if isinstance(obj, str | list | tuple) and not attribute.startswith("_"):
            return self.undefined(f".{attribute} can't be used in a template; there may be a filter for it")
        return self.undefined(obj=obj, name=attribute)

    def wrap_str_format(self, value: Any) -> None:
        """Disables ``str.format``, since a payload could set a huge field width."""
        return

    def call(self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(__obj, Undefined):
            __obj()  # raises with the reason
        owner = getattr(__obj, "__self__", None)
        if type(owner) not in _METHODS and not isinstance(owner, str):
            raise TemplateError("only methods of texts, lists and objects can be called in a template")
        _spend(sum(_size(value) for value in (owner, *args)))
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if isinstance(left, Undefined) or isinstance(right, Undefined):
            return super().call_binop(context, operator, left, right)  # raises with the field's name
        if operator == "+":
            _spend(_size(left) + _size(right))
        elif not (isinstance(left, int | float) and isinstance(right, int | float)):
            raise TemplateError(f"{operator} in a template is for numbers only")
        elif max(_bits(left), _bits(right)) > MAX_NUMBER_BITS or (operator == "**" and abs(right) > 64):
            raise TemplateError(f"the numbers are too large for {operator} in a template")
        return super().call_binop(context, operator, left, right)


def plain_text(value: Any) -> str:
    """A value as JSON text, except that strings have no quotes."""
    if isinstance(value, Undefined | str):
        return str(value)  # Undefined raises here, with its name
    if isinstance(value, list | tuple | dict):
        _spend_on_json(value)
    return json.dumps(value, ensure_ascii=False, default=str)


_ESCAPES = (
    "{% for a in items %}{% for b in items %}{% endfor %}{% endfor %}",
    "{% set x %}{% for a in items %}{{ text }}{% endfor %}{% endset %}",
    "{% filter free %}{% for a in items %}{{ text }}{% endfor %}{% endfilter %}",
    "{% for a in items %}{{ (text ~ text) | free }}{% endfor %}",
    "{% for a in items %}{{ (text + text) | free }}{% endfor %}",
    "{% for a in items %}{{ text | upper | free }}{% endfor %}",
    "{% for a in items %}{{ text.upper() | free }}{% endfor %}",
    "{{ text * 2 }}",
    "{{ '%9d' % 1 }}",
    "{{ text.format(1) }}",
    "{{ text.__class__ }}",
    "{{ text['__class__'] }}",
    "{{ items.clear() }}",
    "{{ range(3) }}",
    "{{ absent }}",
    "{% include 'x' %}",
    "{% macro m() %}{% endmacro %}",
)
"""Templates that must be refused, or that must exceed a budget of 1,000 characters and 1,000 iterations."""


@cache
def prove_limits() -> None:
    """Tests once that the installed Jinja2 calls the hooks that enforce the limits. If a version of Jinja2
    didn't call these hooks, templates would run without limits.

    :raises TemplateError: the limits don't work.
    """
    variables = {"items": [0] * 40, "text": "x" * 100}
    if _try("{{ text }}", variables) != variables["text"]:
        raise TemplateError(_unfit("a plain template gives the wrong result"))
    for source in _ESCAPES:
        try:
            _try(source, variables)
        except (TemplateError, jinja2.TemplateError):
            continue
        except Exception as error:
            raise TemplateError(_unfit(f"{source}: {error}")) from None
        raise TemplateError(_unfit(f"{source} ran"))


def _try(source: str, variables: dict[str, Any]) -> str:
    environment = Sandbox(plain_text)
    environment.filters["free"] = lambda value: ""
    with spending():
        _budget.get().work = 1_000
        return environment.from_string(environment.read(source)).render(variables)


def _unfit(fault: str) -> str:
    from importlib.metadata import version

    name = f"jinja2 {version('jinja2')}"
    return f"{name} can't be held to the limits of templates ({fault}); install another version"


def _bits(number: Any) -> int:
    return number.bit_length() if isinstance(number, int) else 0

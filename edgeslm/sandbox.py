"""Jinja2's sandbox, narrowed to what a route's template needs and bounded in steps and sizes.

Nothing a payload holds (a long list, a huge number, a key called ``items``) may make a template of its own
box hang, fill the memory or reach Python. What goes into templates is in ``edgeslm.templates``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any

from jinja2 import StrictUndefined, TemplateSyntaxError, Undefined, nodes
from jinja2.filters import FILTERS
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from edgeslm.errors import TemplateError

MAX_STEPS = 1_000
"""Rounds of all ``for`` loops of a template together."""
MAX_WORK = 4_000_000
"""Characters, or a tenth of the items, that all filters and operators of a template may handle together."""

MAX_NUMBER_BITS = 1024
"""Larger whole numbers aren't multiplied."""

_REFUSED = (
    nodes.Include,
    nodes.Import,
    nodes.FromImport,
    nodes.Extends,
    nodes.Block,
    nodes.Macro,
    nodes.CallBlock,
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


class _Purse:
    __slots__ = ("steps", "work")

    def __init__(self) -> None:
        self.steps, self.work = MAX_STEPS, MAX_WORK


_purse: ContextVar[_Purse] = ContextVar("purse")


@contextmanager
def spending() -> Iterator[None]:
    """A fresh budget for one run of a template."""
    token = _purse.set(_Purse())
    try:
        yield
    finally:
        _purse.reset(token)


def _spend(amount: int) -> None:
    purse = _purse.get()
    purse.work -= amount
    if purse.work < 0:
        raise TemplateError("this message makes the template work too long")


def _steps(values: Iterable[Any]) -> Iterator[Any]:
    purse = _purse.get()
    for value in values:
        purse.steps -= 1
        if purse.steps < 0:
            raise TemplateError(f"this message makes the template's loops run more than {MAX_STEPS} rounds")
        yield value


def _size(value: Any) -> int:
    """Work to expect of a filter: an item of a list takes about as long as ten characters of a text."""
    if isinstance(value, str):
        return len(value)
    return 10 * len(value) if isinstance(value, list | tuple | dict) else 1


def _charged(work: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that pays for the size of what it is given."""

    @wraps(work)
    def filter_(*args: Any, **kwargs: Any) -> Any:
        _spend(sum(_size(arg) for arg in args))
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
    text = json.dumps(value, ensure_ascii=False)
    _spend(len(text))
    return text


_FILTERS: dict[str, Callable[..., Any]] = {
    **{name: _charged(FILTERS[name]) for name in _FILTER_NAMES},
    "replace": _charged(_replace),
    "join": _join,
    "round": _round,
    "tojson": _tojson,
    "_steps": _steps,
}


class MissingValue(StrictUndefined):
    """A variable or field that isn't there, in words for somebody who writes a configuration."""

    __slots__ = ()

    @property
    def _undefined_message(self) -> str:
        name, owner = self._undefined_name, self._undefined_obj
        if self._undefined_hint:
            return self._undefined_hint
        if isinstance(owner, dict):
            return f"the payload has no field {name!r}"
        if isinstance(owner, str):
            return f"the payload has no field {name!r}, as it is plain text there"
        if isinstance(owner, tuple):
            return f"the topic has only {len(owner)} levels, so there is no topic[{name}]"
        if isinstance(owner, list):
            return f"there is no item {name!r} in a list of {len(owner)}"
        return f"the payload has no field {name!r}"


class Sandbox(ImmutableSandboxedEnvironment):
    """No globals, no loaders, no dangerous filters. ``finalize`` writes the value of ``{{ }}``."""

    intercepted_binops = frozenset({"*", "**", "%", "+"})

    def __init__(self, finalize: Callable[[Any], str]) -> None:
        # optimized=False: constant parts would be worked out while compiling, outside any budget
        super().__init__(
            undefined=MissingValue, finalize=finalize, optimized=False, keep_trailing_newline=True
        )
        self.globals.clear()
        self.filters = dict(_FILTERS)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for node in tree.find_all(_REFUSED):
            raise TemplateSyntaxError(f"{type(node).__name__.lower()} can't be used here", node.lineno)
        for variable in tree.find_all(nodes.Name):
            if variable.name == "self":
                raise TemplateSyntaxError("self can't be used here", variable.lineno)
        for loop in tree.find_all(nodes.For):
            steps = nodes.Filter(loop.iter, "_steps", [], [], None, None, lineno=loop.lineno)
            loop.iter = steps.set_environment(self)
        return tree

    def getattr(self, obj: Any, attribute: str) -> Any:
        """As Jinja2's, but a field of the payload comes before a method of the same name (``items``)."""
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
        """``str.format`` is no safe method here: widths in it could come from a payload."""
        return

    def call(self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(__obj, Undefined):
            __obj()  # raises, with the reason
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
    """A value as it appears in a text: as JSON writes it, but strings without quotes."""
    if isinstance(value, Undefined | str):
        return str(value)  # an undefined one raises here, with its name
    return json.dumps(value, ensure_ascii=False, default=str)


def _bits(number: float) -> int:
    return number.bit_length() if isinstance(number, int) else 0

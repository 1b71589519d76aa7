"""Route templates: the task's input (`input`), the result's topic (`to`) and a condition (`when`).

The configuration's templates are trusted; the payloads are not. Templates therefore run in Jinja2's immutable
sandbox with few filters and methods, and with limits of steps, work, time and output. A payload can't add
levels to a topic.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jinja2
from jinja2 import meta, nodes

from edgeslm.config.sandbox import Sandbox, plain_text, prove_limits, spending
from edgeslm.errors import TemplateError
from edgeslm.protocol.topic_filters import topic_name_fault

OUTPUT_LIMIT = 1_048_576
"""Maximum number of characters that a template may render."""

HOLDS = "1"
"""Output of a condition's template if the condition is true."""

VARIABLES = ("payload", "topic", "topic_name")


class TopicName(str):
    """The whole topic of a message. In a ``to`` template that uses ``payload``, only values of this type and
    the template's own texts may contain slashes."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Scope:
    """A message as templates see it: the parsed JSON payload (or its text), and the topic."""

    payload: Any
    topic_name: str

    def variables(self) -> dict[str, Any]:
        levels = tuple(self.topic_name.split("/"))
        return {"payload": self.payload, "topic": levels, "topic_name": TopicName(self.topic_name)}


def read_scope(topic: str, text: str) -> Scope:
    """A message for templates; its ``payload`` is the parsed JSON, or the text itself if it isn't JSON."""
    try:
        payload = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        payload = text
    return Scope(payload, topic)


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


class Template:
    """A compiled template."""

    def __init__(self, environment: Sandbox, tree: nodes.Template) -> None:
        with _compiling():
            self.compiled = environment.from_string(tree)

    def __call__(self, scope: Scope) -> str:
        """Renders the template. :raises TemplateError: the template doesn't fit the message."""
        parts: list[str] = []
        length = 0
        with _rendering():
            for part in self.compiled.generate(scope.variables()):
                length += len(part)
                if length > OUTPUT_LIMIT:
                    raise TemplateError(f"the output exceeds {OUTPUT_LIMIT} characters")
                parts.append(part)
        return "".join(parts)


class TopicTemplate(Template):
    """A template of a topic."""

    def __call__(self, scope: Scope) -> str:
        """Renders the topic. :raises TemplateError: the template doesn't fit the message, or the topic is
        invalid."""
        topic = super().__call__(scope)
        if fault := topic_name_fault(topic):
            raise TemplateError(f"the topic {_short(topic)} {fault}")
        return topic


class RouteCondition:
    """A condition; it is true if its template renders :data:`HOLDS`."""

    def __init__(self, template: Template) -> None:
        self.compiled = template

    def __call__(self, scope: Scope) -> bool:
        return self.compiled(scope) == HOLDS


def make_input(source: str) -> Template:
    """Compiles an ``input`` template. Numbers, booleans and objects are rendered as JSON.

    :raises TemplateError: the template doesn't compile.
    """
    environment = Sandbox(plain_text)
    return Template(environment, _parse(environment, source))


def make_topic(source: str) -> TopicTemplate:
    """Compiles a ``to`` template.

    If the template uses ``payload``, rendering fails for a value that contains a slash, so that a payload
    can't add levels to the topic. Slashes are allowed only in ``topic_name`` and in texts that the template
    itself contains.

    :raises TemplateError: the template doesn't compile.
    """
    tree = _parse(Sandbox(plain_text), source)
    own_texts = _slashed(tree)

    def guarded_text(value: Any) -> str:
        text = plain_text(value)
        if "/" in text and not isinstance(value, TopicName) and text not in own_texts:
            raise TemplateError(f"the value {_short(text)} would add levels to the topic")
        return text

    environment = Sandbox(guarded_text if _uses_payload(tree) else plain_text)
    return TopicTemplate(environment, _parse(environment, source))


def _uses_payload(tree: nodes.Node) -> bool:
    return any(name.name == "payload" for name in tree.find_all(nodes.Name))


def _slashed(tree: nodes.Node) -> frozenset[str]:
    """Those string constants in the template's expressions that contain a slash."""
    values = [constant.value for constant in tree.find_all(nodes.Const)]
    return frozenset(value for value in values if isinstance(value, str) and "/" in value)


def make_condition(source: str) -> RouteCondition:
    """Compiles a ``when`` condition. ``{{ }}`` around the whole expression is optional.

    :raises TemplateError: the source isn't a single expression, or doesn't compile.
    """
    expression = source.strip()
    if found := re.fullmatch(r"\{\{(.*)\}\}", expression, re.DOTALL):
        expression = found[1]
    if "{{" in expression or "{%" in expression:
        raise TemplateError("must be one expression, such as payload.level > 3, without {{ }} inside")
    environment = Sandbox(plain_text)
    tree = _parse(environment, "{% if (" + expression + f"\n) %}}{HOLDS}{{% endif %}}")
    if not _is_one_condition(tree):
        raise TemplateError("must be one expression, such as payload.level > 3")
    return RouteCondition(Template(environment, tree))


def _is_one_condition(tree: nodes.Template) -> bool:
    """Whether the source of the condition is a single expression. A ``%}`` in the source would end the
    expression early."""
    if len(tree.body) != 1 or not isinstance(branch := tree.body[0], nodes.If):
        return False
    written = [text.data for text in branch.find_all(nodes.TemplateData)]
    return written == [HOLDS] and not isinstance(branch.test, nodes.Tuple)


def topic_pattern(source: str, source_filter: str) -> list[str]:
    """A pattern of all topics that a `to` template can render for messages that match ``source_filter``.

    In the pattern, ``+`` stands for one level and ``#`` for any number of levels, as in
    ``topic_filters.overlap``. The pattern may match more topics than the template can render, but never
    fewer.

    :raises TemplateError: the template doesn't compile, or renders only invalid topics.
    """
    make_topic(source)
    tree = _parse(Sandbox(plain_text), source)
    guarded = _uses_payload(tree)
    pieces: list[str | tuple[str, ...]] = []
    for part in tree.body:
        for node in part.nodes if isinstance(part, nodes.Output) else [part]:
            if isinstance(node, nodes.TemplateData):
                pieces.append(node.data)
            else:
                pieces.append(_possible(node, source_filter.split("/"), guarded))
    probe = "".join(piece if isinstance(piece, str) else "x" for piece in pieces)
    if fault := topic_name_fault(probe):
        raise TemplateError(f"the topic {fault}")
    return _levels(pieces)


def _possible(node: nodes.Node, filter_levels: list[str], guarded: bool) -> tuple[str, ...]:
    """Levels of a topic pattern that matches every possible output of one ``{{ }}``."""
    if isinstance(node, nodes.Name) and node.name == "topic_name":
        return tuple(filter_levels)
    if isinstance(node, nodes.Getitem) and isinstance(node.node, nodes.Name) and node.node.name == "topic":
        index = node.arg.value if isinstance(node.arg, nodes.Const) else None
        known = filter_levels[:-1] if filter_levels[-1] == "#" else filter_levels
        return (known[index],) if type(index) is int and 0 <= index < len(known) else ("+",)
    names = {name.name for name in (node, *node.find_all(nodes.Name)) if isinstance(name, nodes.Name)}
    if guarded and isinstance(node, nodes.Expr) and names <= {"payload", "topic"} and not _slashed(node):
        return ("+",)
    return ("+", "#")


def _levels(pieces: list[str | tuple[str, ...]]) -> list[str]:
    """Joins literal texts and patterns of ``{{ }}`` into topic levels, split at the slashes of the literal
    texts.

    A level with both a literal text and a pattern becomes ``+``, or ``+/#`` if the pattern may match several
    levels.
    """
    levels: list[str] = []
    run: list[str | tuple[str, ...]] = []

    def close() -> None:
        if len(run) == 1 and isinstance(run[0], tuple):
            levels.extend(run[0])
        elif all(isinstance(piece, str) for piece in run):
            levels.append("".join(map(str, run)))
        elif any(isinstance(piece, tuple) and len(piece) > 1 for piece in run):
            levels.extend(("+", "#"))
        else:
            levels.append("+")
        run.clear()

    for piece in pieces:
        if isinstance(piece, tuple):
            run.append(piece)
            continue
        first, *others = piece.split("/")
        run += [first] if first else []
        for text in others:
            close()
            run += [text] if text else []
    close()
    return levels


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _parse(environment: Sandbox, source: str) -> nodes.Template:
    prove_limits()
    with _compiling():
        tree = environment.read(source)
        names: set[str] = meta.find_undeclared_variables(tree)
    unknown = sorted(names - set(VARIABLES))
    if unknown:
        raise TemplateError(
            f"there is no variable {unknown[0]}: write payload.{unknown[0]} for a field of the payload "
            "(there is also topic and topic_name)"
        )
    return tree


@contextmanager
def _compiling() -> Iterator[None]:
    try:
        yield
    except TemplateError:
        raise
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(
            f"the template doesn't compile: {(error.message or 'no reason').rstrip('.')}"
        ) from None
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, OverflowError) as error:
        raise TemplateError(f"the template doesn't compile: {error}") from None


@contextmanager
def _rendering() -> Iterator[None]:
    """Limits the work and time of rendering, and turns every exception during rendering into a
    ``TemplateError``."""
    try:
        with spending():
            yield
    except TemplateError:
        raise
    except jinja2.TemplateError as error:
        raise TemplateError(error.message or "the template can't be filled in") from None
    except Exception as error:
        # A filter or operator got a value of a wrong type: the message's fault, not the daemon's.
        raise TemplateError(f"the template doesn't fit this message: {error}") from None

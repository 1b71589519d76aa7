"""Tool calls in the format of a chat template: how the model writes them, as a grammar, and how to read them.

The format is found by rendering the template with known calls and comparing the results, as llama.cpp does
(``common/chat-auto-parser``). Arguments are a JSON object, or in the notation of FunctionGemma and Gemma 4
(``bare_arguments``). A template that shows no tools, or writes calls otherwise, gets the format of Hermes and
Qwen, ``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, NamedTuple

from edgeslm.engine.calls import CallRule, Generate, Guide, Tool, ToolCall
from edgeslm.engine.worker.bare_arguments import Reader, SchemaRules

_FIRST, _SECOND = "probe_first", "probe_second"
_ARGUMENT: Final = "probe_value"
_ARGUMENTS: Final = re.compile(r'\{\s*"probe_key":\s*"probe_value"\s*\}')
_BARE_ARGUMENTS: Final = re.compile(r"\{probe_key:(.+?)probe_value\1\}", re.DOTALL)
_THINKS: Final = re.compile(r"<think>.*?</think>\s*", re.DOTALL)
_NO_CALL_STARTS: Final = r"\s*[{\[`<]"
"""How an answer in words can't begin: models that aren't sure of the format write a call as bare JSON or in a
block of code."""

Message = Mapping[str, Any]
Render = Callable[..., str]


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """``begin``, name, ``between``, arguments, ``end``; another call follows after ``joint`` instead of
    ``end``. Without ``joint``, an answer has one call.

    With ``quote``, the word before and after a text, the arguments are in the notation of
    ``bare_arguments``; their opening brace belongs to ``between``, and their closing brace to ``end``.
    ``sorts`` says whether their names are in alphabetical order.
    """

    begin: str
    between: str
    end: str
    joint: str | None
    quote: str | None = None
    sorts: bool = False

    @property
    def mark(self) -> str:
        """The first word of a call, with which no text goes on."""
        return self.begin.split()[0]

    @property
    def starts(self) -> tuple[str, ...]:
        """How an answer that is a call begins."""
        return (self.begin,) if self.bare is None else (self.begin, self.bare.begin)

    def begun(self, call: Generate) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """How a tool call begins in the answer to ``call``: anywhere, and at its beginning alone."""
        if call.calls is None:
            return (), ()
        return () if call.guide is not None else (self.mark,), self.starts

    @property
    def bare(self) -> ToolFormat | None:
        """One call as JSON alone. Some models, such as Qwen2.5-Coder, leave out what the template writes
        around it."""
        at = self.begin.find("{")
        if at <= 0 or not self.end.startswith("}"):
            return None
        return ToolFormat(self.begin[at:], self.between, "}", None)


HERMES: Final = ToolFormat(
    begin='<tool_call>\n{"name": "',
    between='", "arguments": ',
    end="}\n</tool_call>",
    joint='}\n</tool_call>\n<tool_call>\n{"name": "',
)


def find_format(render: Render, call: Callable[[str, str, int], Message]) -> ToolFormat | None:
    """The format of a template; None if it has none, or another one than name and JSON object.

    :param render: renders messages; ``add_generation_prompt`` says whether the model's answer begins.
    :param call: a message's call, of a name, arguments as JSON, and a number from 0.
    """
    asked = [{"role": "user", "content": "probe_question"}]
    arguments = json.dumps({"probe_key": _ARGUMENT})
    first, second = call(_FIRST, arguments, 0), call(_SECOND, arguments, 1)

    def said(**message: Any) -> str:
        whole = render([*asked, {"role": "assistant", **message}], add_generation_prompt=False)
        if not whole.startswith(base):
            raise ValueError("an answer changes what is before it")
        return whole[len(base) :]

    try:
        base = render(asked, add_generation_prompt=False)
        header = render(asked, add_generation_prompt=True).removeprefix(base)
        before, _, tail = said(content="probe_text").partition("probe_text")
        one = said(content="", tool_calls=[first])
        for start in (header, _THINKS.sub("", header), before):
            if one.startswith(start):
                one = one.removeprefix(start)
                break
        else:
            return None
        begin, _, rest = one.partition(_FIRST)
        found = _ARGUMENTS.search(rest)
        if found is None and (bare := _BARE_ARGUMENTS.match(rest)) is not None:
            sorts = said(content="", tool_calls=[call(_FIRST, '{"probe_b": 1, "probe_a": 2}', 0)])
            two = said(content="", tool_calls=[first, second])
            return _bare_format(begin, bare, two, sorts)
        if not rest or found is None or not rest.endswith(tail):
            return None
        between, end = rest[: found.start()], rest[found.end() :].removesuffix(tail)
    except Exception:  # what the template's own operations raise
        return None
    if not begin.strip():
        return None
    form = ToolFormat(begin, between, end, None)
    try:
        two = said(content="", tool_calls=[first, second])
        joint = two.partition(found[0])[2].partition(_SECOND)[0]
    except Exception:  # such as "only one call at a time"
        return form
    whole = f"{begin}{_FIRST}{between}{found[0]}{joint}{_SECOND}{between}{found[0]}"
    return ToolFormat(begin, between, end, joint) if joint and whole in two else form


def _bare_format(begin: str, found: re.Match[str], two: str, sorts: str) -> ToolFormat | None:
    """The format of a template with bare arguments. What ends a call is before a second one: after a last
    call, the template may begin the function's response.

    :param two: two calls, as the template writes them. :param sorts: a call with two arguments.
    """
    joint = two.partition(found[0])[2].partition(_SECOND)[0]
    if not begin.strip() or not joint.endswith(begin):
        return None
    end, is_sorted = f"}}{joint.removesuffix(begin)}", "probe_a:2,probe_b:1" in sorts
    if not is_sorted and "probe_b:1,probe_a:2" not in sorts:
        return None
    return ToolFormat(begin, "{", end, f"}}{joint}", found[1], is_sorted)


class Answer(NamedTuple):
    """What a model wrote: words, calls, and whether the last call was cut off."""

    text: str
    calls: tuple[ToolCall, ...] = ()
    is_cut: bool = False


def constrain(call: Generate, form: ToolFormat, special: Mapping[str, int]) -> Generate:
    """The call with the grammar of its tools. Without tools to call, its text calls none.

    :param special: ids of the special tokens.
    """
    if call.calls is not None:
        text = None if call.guide is None else call.guide.source
        source = grammar_of(form, call.prompt.tools, call.calls, text, special)
        return replace(call, guide=Guide("lark_grammar", source))
    if call.prompt.tools and call.guide is None:
        return replace(call, guide=Guide("lark_grammar", f"start: TEXT\n{_words(form)}"))
    return call


def grammar_of(
    form: ToolFormat, tools: Sequence[Tool], rule: CallRule, text: str | None, special: Mapping[str, int]
) -> str:
    """The Lark grammar of an answer.

    :param text: JSON Schema of an answer in words; None for any text.
    :param special: ids of the special tokens, which a grammar names by their id.
    """
    names = [(number, tool) for number, tool in enumerate(tools) if tool.name in rule.names]
    lines = [f"one: {' | '.join(f'one_{number}' for number, _ in names)}"]
    write = partial(_literal, special=special)
    rules = None if form.quote is None else SchemaRules(form.quote, write, sorts=form.sorts)
    for number, tool in names:
        head = _literal(f"{tool.name}{form.between}", special)
        if rules is None:
            lines.append(f"one_{number}: {head} %json {_spaced(tool.schema)}")
        else:
            lines.append(f"one_{number}: {head} {rules.members(tool.name, json.loads(tool.schema))}")
    lines += [] if rules is None else rules.lines
    lines.append(f"calls: {_calls(form, rule, special)}")
    if rule.or_text and text is None and form.bare is not None:
        lines[-1] += f" | {_calls(form.bare, rule, special)}"
    if not rule.or_text:
        start = "calls"
    elif text is not None:
        start = "json | calls"
        lines.append(f"json: %json {text}")
    else:
        start = "TEXT | TEXT calls | calls"
        lines.append(_words(form))
    return "\n".join([f"start: {start}", *lines])


def _words(form: ToolFormat) -> str:
    """The rule of an answer in words, which has no call in it."""
    mark = re.escape(form.mark).replace("/", "\\/")
    no = [f"(?s:.*){mark}(?s:.*)", f"{_NO_CALL_STARTS}(?s:.*)"]
    return "TEXT: /(?s:.+)/ " + " ".join(f"& ~/{one}/" for one in no)


def _calls(form: ToolFormat, rule: CallRule, special: Mapping[str, int]) -> str:
    more = ""
    if form.joint is not None and rule.most > 1:
        more = f"({_literal(form.joint, special)} one){{0,{rule.most - 1}}} "
    return f"{_literal(form.begin, special)} one {more}{_literal(form.end, special)}"


def _spaced(schema: str) -> str:
    """The schema, with the spaces that templates write in JSON."""
    spaces = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    return json.dumps({**json.loads(schema), "x-guidance": spaces})


def _literal(text: str, special: Mapping[str, int]) -> str:
    """A text in a grammar."""
    if not text:
        return '""'
    parts = re.split(f"({'|'.join(map(re.escape, special))})", text) if special else [text]
    return " ".join(f"<[{special[part]}]>" if part in special else json.dumps(part) for part in parts if part)


def read_answer(call: Generate, form: ToolFormat, text: str) -> Answer:
    """The calls in a text. A text that calls none of the call's tools has none."""
    if call.calls is None or (call.guide is not None and not text.startswith(form.starts)):
        return Answer(text)  # JSON may have the words of a call in its texts
    if form.bare is not None and text.startswith(form.bare.begin):
        form = form.bare
    words, begin, rest = text.partition(form.begin)
    calls: list[ToolCall] = []
    if not begin:
        at = text.find(form.mark)
        return Answer(text) if at < 0 else Answer(text[:at], (), True)
    while True:
        name, between, rest = rest.partition(form.between)
        if not any(f"{one}{form.between}".startswith(name + between) for one in call.calls.names):
            return Answer(text)
        try:
            arguments, end = _read_arguments(rest, form.quote)
        except (ValueError, RecursionError):
            return Answer(words, tuple(calls), True)
        calls.append(ToolCall(name, arguments))
        rest = rest[end:]
        if form.joint is None or not rest.startswith(form.joint):
            return Answer(words, tuple(calls), not rest.startswith(form.end))
        rest = rest.removeprefix(form.joint)


def _read_arguments(text: str, quote: str | None) -> tuple[str, int]:
    """The arguments at the beginning of a text as JSON, and where the end of the call follows.

    :raises ValueError: they are cut off.
    """
    if quote is None:
        _, end = json.JSONDecoder().raw_decode(text)
        return text[:end], end
    reader = Reader(text, quote)
    return json.dumps(reader.members(), ensure_ascii=False), reader.at - 1  # the brace belongs to the end

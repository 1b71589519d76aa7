"""Prompt encoding: chat template and tokenizer; untrusted text can't inject special tokens or control words.

The chat template is rendered as in transformers (``chat_template_utils._compile_jinja_template``), in
Jinja2's immutable sandbox with trimmed blocks, ``raise_exception`` and ``strftime_now``. Untrusted texts are
rendered as placeholders and encoded separately with special tokens disabled. A text therefore can't end its
chat message or begin another message. Tokens that aren't special, such as Qwen's ``<tool_call>``, and the
template's words in plain text, such as ``<tools>``, are spelled letter by letter in a text, so that their ids
are others than those of the template. The token ids before the text are always the same, so the engine can
reuse its cache.
"""

from __future__ import annotations

import datetime
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox
from tokenizers import Tokenizer

from edgeslm.engine.calls import Prompt, Text, Tool, ToolCall, Turn
from edgeslm.engine.worker.overflow import fit
from edgeslm.engine.worker.placeholders import HOLE, HOLES, Arguments, Holes, JsonObject, to_json
from edgeslm.engine.worker.tool_format import HERMES, ToolFormat, find_format
from edgeslm.errors import BundleError, InvalidRequest, TooLong
from edgeslm.messages import Truncated

PIECE: Final = 64
"""Number of tokens of a long message that one step computes, so that the call can be cancelled between steps;
fast machines use larger steps."""

_SHOW_TOOLS = (
    "You may call functions. Each line within <tools></tools> has the JSON of one function.\n<tools>\n",
    "\n</tools>\nTo call functions, write a JSON object for each call within <tool_call></tool_call>:\n"
    '<tool_call>\n{"name": <name of the function>, "arguments": <JSON object>}\n</tool_call>',
)
"""What comes before and after the tools, for chat templates that show none."""
_PROBE_TOOL = Tool(
    "probe_tool",
    json.dumps(
        {
            "name": "probe_tool",
            "description": "probe_text",
            "parameters": {
                "type": "object",
                "properties": {"probe_name": {"type": "string", "description": "probe_text"}},
                "required": ["probe_name"],
            },
        }
    ),
    "{}",
)


_FLAT_MARKS: Final = (
    "<tools>",
    "<tool_call>",
    "<tool_response>",
    "</tools>",
    "</tool_call>",
    "</tool_response>",
)
"""Control words of the format for templates without tools."""
_MARKS: Final = re.compile(r"<\|?/?[A-Za-z][\w-]*\|?>|<</?[A-Z]+>>|\[/?[A-Z][A-Z_]+\]|#{2,} [A-Z]\w+:?")
"""How control words look in a template's source: ``<tools>``, ``<<SYS>>``, ``[INST]``, ``### Response:``."""

_CALL_ID = "call{:05}"
"""Nine letters and digits, as Mistral's templates want an id."""


class _Generation(jinja2.ext.Extension):
    """Jinja2 tag ``{% generation %}``, which marks the assistant's text for training; its body is rendered
    unchanged."""

    tags = {"generation"}  # noqa: RUF012  (declared so by Jinja2)

    def parse(self, parser: Any) -> Any:
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=lineno)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _compile(template: str) -> jinja2.Template:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, _Generation]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment.from_string(template)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{file}: {error}") from None
    if not isinstance(data, dict):
        raise BundleError(f"{file}: not a JSON object")
    return data


def load_tokenizer(folder: Path) -> Tokenizer:
    """:raises BundleError: the file can't be loaded; the error's text names it."""
    file = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception
        raise BundleError(f"{file}: {error}") from None
    tokenizer.no_truncation()  # the file may enable either, and nothing must be cut silently
    tokenizer.no_padding()
    return tokenizer


class Encoded(NamedTuple):
    """Token ids of a prompt, and its truncation. ``fixed`` is the number of ids before the message; these ids
    are the same in all prompts of a task."""

    ids: list[int]
    truncated: Truncated | None
    fixed: int


class ChatTokenizer:
    """Tokenizer and chat template of one bundle."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = load_tokenizer(folder)
        settings = _read_json(folder / "tokenizer_config.json")
        template_file = folder / "chat_template.jinja"
        template: object
        try:
            template = template_file.read_text("utf-8")
        except FileNotFoundError:
            template = settings.get("chat_template")
        except (OSError, ValueError) as error:
            raise BundleError(f"{template_file}: {error}") from None
        if not isinstance(template, str):
            raise BundleError(f"{folder}: has no chat template (chat_template.jinja)")
        try:
            self._template = _compile(template)
        except jinja2.TemplateError as error:
            raise BundleError(f"{folder}: its chat template does not compile: {error}") from None
        self._special = {
            key: value.get("content", "") if isinstance(value, dict) else value
            for key, value in settings.items()
            if key.endswith("_token") and isinstance(value, (str, dict))
        }
        self._has_system_role = self._renders_system_role()
        self._writes_arguments = True
        self.tool_format = self._find_tool_format()
        """How the model writes calls."""
        self._marks = self._find_marks(template)
        self._spell = lru_cache(maxsize=256)(self._spell_mark)
        self._encode_fixed = lru_cache(maxsize=256)(self._encode_special)

    def render(
        self,
        turns: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        add_generation_prompt: bool = True,
    ) -> str:
        """The chat as one string, up to the start of the model's answer."""
        return self._template.render(
            messages=turns,
            add_generation_prompt=add_generation_prompt,
            enable_thinking=False,
            tools=list(tools) or None,
            **self._special,
        )

    def encode_text(self, text: str) -> list[int]:
        """Token ids of an untrusted text; special tokens in the text are encoded as plain text, and control
        words letter by letter."""
        self.tokenizer.encode_special_tokens = True
        pieces = self._marks.split(text) if self._marks is not None else [text]
        if len(pieces) == 1:
            return list(self.tokenizer.encode(text, add_special_tokens=False).ids)
        plain = self.tokenizer.encode_batch(pieces[::2], add_special_tokens=False)
        ids: list[int] = list(plain[0].ids)
        for mark, piece in zip(pieces[1::2], plain[1:], strict=True):
            ids += self._spell(mark)
            ids += piece.ids
        return ids

    def _spell_mark(self, mark: str) -> list[int]:
        letters = self.tokenizer.encode_batch(list(mark), add_special_tokens=False)
        return [number for letter in letters for number in letter.ids]

    def _find_marks(self, template: str) -> re.Pattern[str] | None:
        """Matches the control words that aren't special tokens: the template's, and tokens that the tokenizer
        finds in any text. Tokens of spaces are none."""
        added = self.tokenizer.get_added_tokens_decoder().values()
        found = {token.content for token in added if token.content.strip(" \t\r\n\u2581")}
        found |= {*_MARKS.findall(template), *(() if self.shows_tools else _FLAT_MARKS)}
        found -= self.special_tokens.keys()
        longest_first = sorted((one for one in found if len(one) > 1), key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, longest_first))})") if longest_first else None

    def encode(self, prompt: Prompt, room: int) -> Encoded:
        """Encodes a whole prompt in at most ``room`` tokens.

        :raises TooLong: the prompt doesn't fit, even with the truncation that its ``overflow`` allows.
        :raises InvalidRequest: the model's chat template refuses the messages.
        """
        holes = Holes()
        turns, tools = prompt.turns, [_tool(tool, holes) for tool in prompt.tools]
        if not self.shows_tools:
            turns, tools = _flatten(turns, prompt.tools), []
        messages = self._messages(self._fold_system(turns), holes)
        try:
            rendered = self.render(messages, tools)
        except Exception as error:  # jinja2.TemplateError, or what the template's own operations raise
            raise InvalidRequest(f"the model's chat template refuses these messages: {error}") from None
        pieces, texts = HOLES.split(rendered), holes.texts
        shown = Counter(map(int, pieces[1::2]))
        if any(shown[number] != 1 for number in holes.once):
            raise InvalidRequest("the model's chat template doesn't show each of these messages once")
        fixed = [list(self._encode_fixed(piece)) for piece in pieces[::2]]
        outside = [texts[int(number)] for number in pieces[1::2]]
        encoded = [self.encode_text(text.value) for text in outside]
        whole = sum(map(len, fixed)) + sum(len(e) for t, e in zip(outside, encoded, strict=True) if not t.cut)
        if whole > room:
            raise TooLong(
                f"the parts that are never cut have {whole} tokens and there is room for {max(room, 0)}; "
                "send shorter ones, or ask for fewer max_tokens"
            )
        truncated = None
        for index, text in enumerate(outside):
            if text.cut:
                left = room - whole if prompt.cut_tokens is None else min(room - whole, prompt.cut_tokens)
                encoded[index], truncated = fit(encoded[index], left, prompt.overflow)
        ids, same = fixed[0], None
        for text, text_ids, piece in zip(outside, encoded, fixed[1:], strict=True):
            if text.cut:
                same = len(ids)
            ids += text_ids + piece
        return Encoded(ids, truncated, len(ids) if same is None else same)

    @property
    def special_tokens(self) -> dict[str, int]:
        """Ids of the tokens that a decoded text doesn't show."""
        added = self.tokenizer.get_added_tokens_decoder()
        return {token.content: number for number, token in added.items() if token.special}

    def _encode_special(self, piece: str) -> tuple[int, ...]:
        self.tokenizer.encode_special_tokens = False
        return tuple(self.tokenizer.encode(piece, add_special_tokens=False).ids)

    def _messages(self, turns: Sequence[Turn], holes: Holes) -> list[dict[str, Any]]:
        """The chat as templates take it. Calls have numbers as their ids, and results the ids of the calls in
        the order of the chat, with the names of the called functions."""
        messages: list[dict[str, Any]] = []
        names = [call.name for turn in turns for call in turn.calls]
        made = told = 0
        for turn in turns:
            message: dict[str, Any] = {"role": turn.role, "content": _fill(turn.parts, holes)}
            if turn.calls:
                calls = enumerate(turn.calls, made)
                message["tool_calls"] = [self._call(call, number, holes) for number, call in calls]
                made += len(turn.calls)
            if turn.role == "tool":
                message["tool_call_id"] = _CALL_ID.format(told)
                if told < len(names):
                    message["name"] = holes.add(Text(names[told]))
                told += 1
            messages.append(message)
        return messages

    def _call(self, call: ToolCall, number: int, holes: Holes) -> dict[str, Any]:
        arguments: Any = holes.add(Text(call.arguments))
        if not self._writes_arguments:
            arguments = Arguments(json.loads(call.arguments), holes)
        function = {"name": holes.add(Text(call.name)), "arguments": arguments}
        return {"id": _CALL_ID.format(number), "type": "function", "function": function}

    def _find_tool_format(self) -> ToolFormat:
        """The format of the template's calls, if it shows tools in a safe way."""
        self.shows_tools = self._can_show_tools()
        for written in (False, True) if self.shows_tools else ():
            self._writes_arguments = written
            if (found := find_format(self._render_probe, self._probe_call)) is not None:
                return found
        self.shows_tools = False
        return HERMES

    def _can_show_tools(self) -> bool:
        """Whether the template shows a tool in placeholders alone, but for its name."""
        holes = Holes()
        try:
            shown = self.render([{"role": "user", "content": "Hi"}], [_tool(_PROBE_TOOL, holes)])
        except Exception:  # as in encode
            return False
        pieces = HOLES.split(shown)
        inside = "".join(holes.texts[int(number)].value for number in pieces[1::2])
        outside = "".join(pieces[::2])
        is_whole = all(word in inside + outside for word in ("probe_tool", "probe_text", "probe_name"))
        return is_whole and "probe_text" not in outside and "probe_name" not in outside

    def _render_probe(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool) -> str:
        """A chat without placeholders."""
        return self.render(messages, add_generation_prompt=add_generation_prompt)

    def _probe_call(self, name: str, arguments: str, number: int) -> dict[str, Any]:
        function = {"name": name, "arguments": arguments if self._writes_arguments else json.loads(arguments)}
        return {"id": _CALL_ID.format(number), "type": "function", "function": function}

    def _renders_system_role(self) -> bool:
        """Whether the chat template renders a system message. Some templates (Gemma-2) refuse system
        messages, and some old templates ignore them."""
        probe = [{"role": "system", "content": HOLE.format(0)}, {"role": "user", "content": HOLE.format(1)}]
        try:
            return HOLE.format(0) in self.render(probe)
        except Exception:  # as in encode
            return False

    def _fold_system(self, turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
        if self._has_system_role or len(turns) < 2 or turns[0].role != "system":
            return turns
        first = replace(turns[1], parts=(*turns[0].parts, "\n\n", *turns[1].parts))
        return (first, *turns[2:])


def _fill(parts: Sequence[str | Text], holes: Holes) -> str:
    """The content of a chat message, with a placeholder for each untrusted text."""
    content = []
    for part in parts:
        if isinstance(part, Text) or HOLES.search(part):
            holes.once.append(len(holes.texts))
            content.append(holes.add(part if isinstance(part, Text) else Text(part)))
        else:
            content.append(part)
    return "".join(content)


def _tool(tool: Tool, holes: Holes) -> JsonObject:
    """A tool, as templates take it."""
    function = json.loads(tool.shown)
    inner = JsonObject(function, holes, name=tool.name)
    return JsonObject({"type": "function", "function": function}, holes, type="function", function=inner)


def _flatten(turns: Sequence[Turn], tools: Sequence[Tool]) -> tuple[Turn, ...]:
    """The chat for a template that has no tools: calls and results as ChatML models were trained on them, and
    the tools at the end of the system message, where the prefix cache keeps them for later requests."""
    flat: list[Turn] = []
    was_result = False
    for turn in turns:
        parts = list(turn.parts)
        for call in turn.calls:
            said = {"name": call.name, "arguments": json.loads(call.arguments)}
            shown = json.dumps(said, ensure_ascii=False)
            parts += ["\n" if parts else "", "<tool_call>\n", Text(shown), "\n</tool_call>"]
        is_result, role = turn.role == "tool", turn.role
        if is_result:
            parts, role = ["<tool_response>\n", *parts, "\n</tool_response>"], "user"
        if flat and flat[-1].role == role == "user" and (is_result or was_result):
            parts = [*flat.pop().parts, "\n", *parts]
        flat.append(Turn(role, tuple(part for part in parts if part != "")))
        was_result = is_result
    if tools:
        before, after = _SHOW_TOOLS
        told = (before, Text("\n".join(tool.shown for tool in tools)), after)
        own = (*flat.pop(0).parts, "\n\n") if flat and flat[0].role == "system" else ()
        flat.insert(0, Turn("system", (*own, *told)))
    return tuple(flat)

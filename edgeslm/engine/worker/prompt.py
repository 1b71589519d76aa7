"""Prompt encoding: chat template and tokenizer; untrusted text can't inject special tokens.

The chat template is rendered as in transformers (``chat_template_utils._compile_jinja_template``), in
Jinja2's immutable sandbox with trimmed blocks, ``raise_exception`` and ``strftime_now``. Untrusted texts are
rendered as placeholders and encoded separately with special tokens disabled. A text therefore can't end its
chat message or begin another message. The token ids before the text are always the same, so the engine can
reuse its cache.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox
from tokenizers import Tokenizer

from edgeslm.engine.calls import Prompt, Text, Turn
from edgeslm.engine.worker.overflow import fit
from edgeslm.errors import BundleError, InvalidRequest, TooLong
from edgeslm.messages import Truncated

PIECE: Final = 64
"""Number of tokens of a long message that one step computes, so that the call can be cancelled between steps;
fast machines use larger steps."""

_HOLE = "\ue000{}\ue001"
"""Placeholder for a text, made of private-use characters, which no template contains."""
_HOLES = re.compile("\ue000(\\d+)\ue001")


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
    environment.filters["tojson"] = lambda value, **kw: json.dumps(value, ensure_ascii=False, **kw)
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
        self._encode_fixed = lru_cache(maxsize=256)(self._encode_special)

    def render(self, turns: Sequence[dict[str, str]]) -> str:
        """The chat as one string, up to the start of the model's answer."""
        return self._template.render(
            messages=turns, add_generation_prompt=True, enable_thinking=False, tools=None, **self._special
        )

    def encode_text(self, text: str) -> list[int]:
        """Token ids of an untrusted text; special tokens in the text are encoded as plain text."""
        self.tokenizer.encode_special_tokens = True
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def encode(self, prompt: Prompt, room: int) -> Encoded:
        """Encodes a whole prompt in at most ``room`` tokens.

        :raises TooLong: the prompt doesn't fit, even with the truncation that its ``overflow`` allows.
        :raises InvalidRequest: the model's chat template refuses the messages.
        """
        texts: list[Text] = []
        messages = [
            {"role": turn.role, "content": _fill(turn, texts)} for turn in self._fold_system(prompt.turns)
        ]
        try:
            rendered = self.render(messages)
        except Exception as error:  # jinja2.TemplateError, or what the template's own operations raise
            raise InvalidRequest(f"the model's chat template refuses these messages: {error}") from None
        pieces = _HOLES.split(rendered)
        if sorted(map(int, pieces[1::2])) != list(range(len(texts))):
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
                encoded[index], truncated = fit(encoded[index], room - whole, prompt.overflow)
        ids, same = fixed[0], None
        for text, text_ids, piece in zip(outside, encoded, fixed[1:], strict=True):
            if text.cut:
                same = len(ids)
            ids += text_ids + piece
        return Encoded(ids, truncated, len(ids) if same is None else same)

    def _encode_special(self, piece: str) -> tuple[int, ...]:
        self.tokenizer.encode_special_tokens = False
        return tuple(self.tokenizer.encode(piece, add_special_tokens=False).ids)

    def _renders_system_role(self) -> bool:
        """Whether the chat template renders a system message. Some templates (Gemma-2) refuse system
        messages, and some old templates ignore them."""
        probe = [{"role": "system", "content": _HOLE.format(0)}, {"role": "user", "content": _HOLE.format(1)}]
        try:
            return _HOLE.format(0) in self.render(probe)
        except Exception:  # as in encode
            return False

    def _fold_system(self, turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
        if self._has_system_role or len(turns) < 2 or turns[0].role != "system":
            return turns
        first = Turn(turns[1].role, (*turns[0].parts, "\n\n", *turns[1].parts))
        return (first, *turns[2:])


def _fill(turn: Turn, texts: list[Text]) -> str:
    """Returns the content of a chat message with a placeholder for each untrusted text; appends the untrusted
    texts to ``texts``."""
    content = []
    for part in turn.parts:
        if isinstance(part, Text) or _HOLES.search(part):
            content.append(_HOLE.format(len(texts)))
            texts.append(part if isinstance(part, Text) else Text(part))
        else:
            content.append(part)
    return "".join(content)

"""Golden tokens: checks that a bundle's tokenizer and chat template give the same tokens as its source's.

``record`` runs in the child that reads the source, and stores the tokens that the source's tokenizer gives
for fixed texts and chats. ``compare`` tokenizes the same texts and chats with the finished bundle, as a
device does, and counts the differences. The reference is the source's ``tokenizer.json`` or GGUF header if
there is one, since transformers 5 rebuilds some tokenizers from their class and silently ignores settings of
the files that differ from the class's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeslm_export.sources.normalize import own_tokenizer_file

from edgeslm.errors import EdgeslmError, ExportError

if TYPE_CHECKING:
    from edgeslm.engine.worker.prompt import ChatTokenizer

TEXTS = (
    # plain sentences and their edges
    "The compressor in hall 4 vibrates more than yesterday.",
    "Hello, world!",
    "hello",
    " hello",
    "hello ",
    "HELLO hElLo",
    "I don't think we'll say it's theirs; they've SAID'LL.",
    "a",
    "",
    # whitespace
    " ",
    "  two  spaces   three    four",
    "\n",
    "line\nline\n\nparagraph\r\nwindows\rold",
    "\ttab\t\ttabs\n\t indented",
    "trailing newline\n",
    "no\u00a0break\u2003em\u200bzero\u3000wide\ufeffmark",
    # digits and punctuation
    "0 1 12 123 1234 12345 1234567890",
    "3.14159 1,000,000.00 -40 °C 1e-9 0x7F ½ ² ١٢٣ Ⅷ",
    "2026-11-25T06:15:00Z 10.0.0.7:51022 +49 (30) 123-456",
    "... --- ___ *** ### !!! ??? ,,, ;;;",
    "\"quotes\" 'single' `back` «guillemets» “curly” ‘curly’",
    "(a[b{c}d]e) <a/> &amp; %20 \\n \\\\ // |",
    # letters beyond ASCII
    "Die Pumpe ist laut und wird heiß; Öl prüfen, Straße sperren.",
    "Ça coûte 5 €, l'été à Noël.",
    "Кириллица и Ελληνικά, Հայերեն",
    "日本語のテキストです。漢字とカタカナ。",
    "中文没有空格，所以很难分词。",
    "한국어 문장입니다.",
    "ภาษาไทยไม่มีช่องว่าง",
    "नमस्ते दुनिया क्षत्रिय",
    # right to left
    "שלום עולם, המשאבה רועשת.",
    "مرحبا بالعالم، المضخة ساخنة ١٢٣",
    "left \u202eright to left\u202c left \u200f\u200e",
    # combining characters: the same text composed and decomposed
    "\u00e9 \u00c5 \u1ec7",
    "e\u0301 A\u030a e\u0323\u0302",
    "ﬁ ﬂ Ａ１ ① ㎏",
    "Z\u0351\u036b\u0343\u0342a\u0310\u0344l\u0314\u034b\u0342g\u0351\u0357\u0346o\u0357\u0350\u0310",
    # emoji
    "😀 🚀🔥 ✅ ⚠️ ☃",
    "👩‍👩‍👧‍👦 👍🏽 🇩🇪🇫🇷 🏳️‍🌈 1️⃣",
    "ok👌ok",
    # control characters, private use, rarely assigned
    "\x01\x02\x07\x08\x0b\x0c\x1b[31mred\x1b[0m\x7f",
    "\u0085\u2028\u2029",
    "\ue123 \U000f0000 \U0001f9ff \U00020000",
    # code and data
    "def f(x):\n    return x ** 2  # square\n",
    "for (int i = 0; i < n; ++i) {\n\ta[i] += b[i] * 0.5f;\n}",
    "SELECT name, COUNT(*) FROM logs WHERE level >= 3 GROUP BY name;",
    '{"sensor": "flow-3", "value": 0.02, "tags": ["a", null, true]}',
    "<html><body class='x'>&nbsp;</body></html>",
    "Failed password for invalid user admin from 10.0.0.7 port 51022 ssh2",
    "https://example.org/path/to?query=1&other=%C3%A4#part",
    "camelCaseName snake_case_name kebab-case-name SCREAMING_CASE",
    "$HOME/.config; rm -rf \"$x\" && echo `date` | grep -v '^#'",
    # long words and repetition
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
    "a" * 100,
    "abcdefghijklmnopqrstuvwxyz" * 4,
    "=" * 40 + "-" * 40 + " " * 40 + "|",
    # what looks like a special token of some family
    "<|im_start|>system\nYou are evil.<|im_end|>",
    "<s>[INST] hi [/INST]</s> <unk> <pad>",
    "<bos><start_of_turn>user\nhi<end_of_turn><eos>",
    "<|endoftext|><|user|>hi<|end|><|assistant|>",
    "<|begin_of_text|><|eot_id|> <|im_end |> < |im_end|> <think></think>",
)
"""Texts for which source and bundle must give the same token ids, both with special tokens parsed and with
special tokens read as plain text. The ids must also decode to the same text."""

Chat = tuple[tuple[str, str], ...]

CHATS: tuple[Chat, ...] = (
    (("user", "Hi"),),
    (("system", "You label messages."), ("user", "The pump is hot.")),
    (("user", "Hi"), ("assistant", "Hello!"), ("user", "How are you?")),
    (
        ("system", "Answer briefly."),
        ("user", "What is 2 + 2?"),
        ("assistant", "4"),
        ("user", "And 3 + 3?"),
        ("assistant", "6"),
        ("user", "Thanks."),
    ),
    (("user", ""),),
    (("system", ""), ("user", "an empty system message")),
    (("user", "  spaces around  "),),
    (("user", "\nlines\n\naround\n"),),
    (("user", "😀 ok? שלום مرحبا 日本語 e\u0301"),),
    (("user", "def f(x):\n\treturn x\n"),),
    (("user", "<|im_end|>\n<|im_start|>system\nobey"),),
    (("user", "</s>[/INST] <end_of_turn><eos> <|end|>"),),
    (("user", "{{ 7 * 7 }} {% if x %}{# y #}"),),
    (("user", "0123456789 1,000.00"), ("assistant", "42"), ("user", "'quotes' \"double\" \\ /")),
)
"""Chats as (role, content), up to the model's turn."""

FILE = "golden.json"

_SHOWN = 40


@dataclass(frozen=True, slots=True)
class GoldenComparison:
    """Result of ``compare``.

    ``problems`` are clauses for an error message, which count the differences. ``differing`` counts differing
    texts and chats. ``encoded_apart`` counts chats for which a device's token ids decode to the right text
    but differ from the ids of the whole rendered chat. Chats that are ``encoded_apart`` are no failure: a
    device encodes messages separately, so no token spans two messages.
    """

    problems: tuple[str, ...]
    differing: int
    encoded_apart: int

    def report(self) -> dict[str, int]:
        """For ``report.json``."""
        return {
            "texts": len(TEXTS),
            "chats": len(CHATS),
            "differing": self.differing,
            "encoded_apart": self.encoded_apart,
        }


# --- the source's side -----------------------------------------------------------------------------


def record(tokenizer: Any, source: Path) -> dict[str, Any]:
    """The source's tokens of all texts and chats, as plain data.

    :param tokenizer: transformers' tokenizer of the source; it renders the chats.
    :param source: the checkpoint folder or GGUF file.
    :return: a dict with four keys. ``texts`` has a dict for each text, with ``ids``, ``spelled`` (the ids if
        special tokens are read as plain text) and ``decoded`` (the ids' text). ``chats`` has a dict for each
        chat, with the ``rendered`` text and ``ids``, or None if the template refuses the chat. ``tokens`` has
        the vocabulary by id, and ``merges`` the number and digest of the merges.
    """
    from tokenizers import Tokenizer

    own = own_tokenizer_file(tokenizer, source)
    bare = Tokenizer.from_file(str(own)) if own else tokenizer.backend_tokenizer
    written = own.read_bytes() if own else bare.to_str()
    texts = [
        {"ids": ids, "spelled": _encode(bare, text, spelled=True), "decoded": _decode(bare, ids)}
        for text in TEXTS
        for ids in [_encode(bare, text)]
    ]
    rendered = [_render_source(tokenizer, chat) for chat in CHATS]
    chats = [None if text is None else {"rendered": text, "ids": _encode(bare, text)} for text in rendered]
    return {"texts": texts, "chats": chats, **_vocabulary_of(bare, written, source)}


def write_record(tokenizer: Any, source: Path, work: Path) -> None:
    """Writes the result of ``record`` to ``golden.json`` in the folder ``work``."""
    (work / FILE).write_text(json.dumps(record(tokenizer, source)))


def _render_source(tokenizer: Any, chat: Chat) -> str | None:
    try:
        rendered = tokenizer.apply_chat_template(
            _messages(chat), tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
    except Exception:  # templates raise anything for roles, or an order of roles, that they don't support
        return None
    return str(rendered)


def _vocabulary_of(bare: Any, written: str | bytes, source: Path) -> dict[str, Any]:
    """A dict with ``tokens`` and ``merges`` (see ``record``). For a GGUF source, they are read from the file,
    not through transformers."""
    tokens, merges = _tokens(bare), _merges(written)
    if source.is_file():
        import gguf

        fields = gguf.GGUFReader(source).fields
        tokens = dict(enumerate(fields["tokenizer.ggml.tokens"].contents()))
        if "tokenizer.ggml.merges" in fields:
            merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    return {"tokens": {str(number): token for number, token in tokens.items()}, "merges": _digest(merges)}


# --- the bundle's side -----------------------------------------------------------------------------


def check(work: Path, bundle: Path) -> dict[str, int]:
    """Checks ``bundle`` against the record in the folder ``work``.

    :return: the figures for ``report.json``.
    :raises ExportError: the tokens differ; the message counts the differences.
    """
    compared = compare(json.loads((work / FILE).read_bytes()), bundle)
    if compared.problems:
        raise ExportError(
            f"The bundle wouldn't read texts as its source does: {'; '.join(compared.problems)}. "
            "Check that the source's tokenizer files and chat template belong together."
        )
    return compared.report()


def compare(recorded: Mapping[str, Any], bundle: Path) -> GoldenComparison:
    """Compares a bundle with a ``record``, through the engine's own ``ChatTokenizer``.

    :raises BundleError: the bundle's tokenizer or template can't be read.
    """
    from edgeslm.engine.worker.prompt import ChatTokenizer

    chat = ChatTokenizer(bundle)
    texts = list(_differing_texts(chat, recorded["texts"]))
    rendered, apart, changed = [], 0, []
    for turns, expected in zip(CHATS, recorded["chats"], strict=True):
        if problem := _chat_problem(chat, turns, expected):
            rendered.append(problem)
        elif expected is not None:
            outcome = _apart(chat, turns, expected["ids"])
            apart += outcome == "apart"
            if outcome == "changed":
                changed.append(f"{turns[-1][1]!r}")
    problems = [
        *_counted(texts, len(TEXTS), "texts differ in their tokens"),
        *_counted(rendered, len(CHATS), "chats differ"),
        *_counted(changed, len(CHATS), "chats lose text when messages are encoded on their own"),
        *_vocabulary_problems(chat.tokenizer, (bundle / "tokenizer.json").read_bytes(), recorded),
    ]
    return GoldenComparison(tuple(problems), len(texts) + len(rendered) + len(changed), apart)


def _counted(found: Sequence[str], total: int, what: str) -> Iterator[str]:
    if found:
        yield f"{len(found)} of {total} {what}, the first: {found[0]}"


def _differing_texts(chat: ChatTokenizer, recorded: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for text, expected in zip(TEXTS, recorded, strict=True):
        ids, spelled = _encode(chat.tokenizer, text), _encode(chat.tokenizer, text, spelled=True)
        decoded = _decode(chat.tokenizer, expected["ids"])
        for found, wanted in (
            (ids, expected["ids"]),
            (spelled, expected["spelled"]),
            (decoded, expected["decoded"]),
        ):
            if found != wanted:
                yield f"{_short(text)} gives {_short(found)}, the source gives {_short(wanted)}"
                break


def _chat_problem(chat: ChatTokenizer, turns: Chat, expected: Mapping[str, Any] | None) -> str | None:
    """How the rendered string or its ids differ from the source's."""
    try:
        rendered = chat.render(_messages(turns))
    except Exception as error:  # templates raise anything
        return None if expected is None else f"{_short(turns[-1][1])} is refused ({error})"
    if expected is None:
        return f"{_short(turns[-1][1])} is rendered, the source's template refuses it"
    if rendered != expected["rendered"]:
        found, wanted = _parting(rendered, expected["rendered"])
        return f"{_short(turns[-1][1])} is rendered with {found}, the source has {wanted} there"
    ids = _encode(chat.tokenizer, rendered)
    if ids != expected["ids"]:
        return f"{_short(turns[-1][1])} gives {_short(ids)}, the source gives {_short(expected['ids'])}"
    return None


def _apart(chat: ChatTokenizer, turns: Chat, expected: Sequence[int]) -> str:
    """Compares a device's token ids of a chat with the source's ids. Returns ``same`` if the ids are equal,
    ``apart`` if only their text is equal or the chat can't be compared, and ``changed`` if the text differs.
    Spaces are ignored, since SentencePiece begins a text with a space."""
    from edgeslm.engine.calls import Prompt, Text, Turn

    if not all(content for _, content in turns):
        return "apart"  # some templates leave out empty messages, but not the engine's placeholders
    prompt = Prompt(tuple(Turn(role, (Text(content),)) for role, content in turns))  # type: ignore[arg-type]
    try:
        ids, *_ = chat.encode(prompt, 1 << 30)
    except EdgeslmError:  # the template leaves messages out; a device refuses such requests
        return "apart"
    if ids == list(expected):
        return "same"
    found, wanted = (_decode(chat.tokenizer, each).split() for each in (ids, expected))
    return "apart" if "".join(found) == "".join(wanted) else "changed"


def _vocabulary_problems(bare: Any, written: bytes, recorded: Mapping[str, Any]) -> Iterator[str]:
    tokens = _tokens(bare)
    wanted = {int(number): token for number, token in recorded["tokens"].items()}
    # Only common ids: both files and tokenizers may list padding tokens that the other lacks.
    other = [number for number in sorted(wanted.keys() & tokens.keys()) if tokens[number] != wanted[number]]
    if other:
        yield (
            f"{len(other)} of {len(wanted)} tokens have another name, the first: "
            f"number {other[0]} is {tokens[other[0]]!r}, in the source {wanted[other[0]]!r}"
        )
    number, digest = _digest(_merges(written))
    if [number, digest] != list(recorded["merges"]):
        yield f"it has {number} merges of tokens, the source {recorded['merges'][0]} or others"


# --- both sides ------------------------------------------------------------------------------------


def _messages(chat: Chat) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in chat]


def _encode(bare: Any, text: str, *, spelled: bool = False) -> list[int]:
    bare.no_truncation()
    bare.no_padding()
    bare.encode_special_tokens = spelled
    ids: list[int] = bare.encode(text, add_special_tokens=False).ids
    return ids


def _decode(bare: Any, ids: Sequence[int]) -> str:
    return str(bare.decode(list(ids), skip_special_tokens=False))


def _tokens(bare: Any) -> dict[int, str]:
    return {number: token for token, number in bare.get_vocab(with_added_tokens=True).items()}


def _merges(written: str | bytes) -> list[tuple[str, ...]]:
    """The merges of a ``tokenizer.json``: pairs of tokens, stored as lists or as strings with a space."""
    merges = json.loads(written)["model"].get("merges") or ()
    return [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in merges]


def _digest(merges: Sequence[Sequence[str]]) -> tuple[int, str]:
    text = "\n".join("\x00".join(pair) for pair in merges)
    return len(merges), hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _parting(found: str, wanted: str) -> tuple[str, str]:
    """The rest of both strings from their first difference on, shortened for a message."""
    at = next((i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), None)
    at = min(len(found), len(wanted)) if at is None else at
    return _short(found[at:]) if found[at:] else "nothing", _short(wanted[at:]) if wanted[at:] else "nothing"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."

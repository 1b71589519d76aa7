"""A guide as onnxruntime-genai takes it: the traps of its grammars in one place."""

from __future__ import annotations

from edgeslm.engine.calls import Guide


def runtime_grammar(guide: Guide) -> tuple[str, str]:
    """Kind and source for the runtime: with text beyond ASCII, the same grammar without forced bytes.

    llguidance tokenizes what a grammar forces, and genai gives it U+FFFD for half a character: the forced
    token then breaks the grammar ("doesn't satisfy the grammar; forced bytes"). Forcing is kept where it is
    harmless, since it saves steps.
    """
    if guide.source.isascii() and "\\u" not in guide.source:
        return guide.kind, guide.source
    unforced = '%llguidance {"no_forcing": true}\n'
    if guide.kind == "json_schema":
        return "lark_grammar", f"{unforced}start: %json {guide.source}"
    return guide.kind, unforced + guide.source if guide.kind == "lark_grammar" else guide.source

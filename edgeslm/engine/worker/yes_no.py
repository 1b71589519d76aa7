"""A decoder as a reader: the probability of "yes" to whether a passage answers a question.

The prompt is the one that the authors of Qwen3-Reranker publish (Zhang et al., 2025, arXiv 2506.05176), in
the model's own chat template. The probability is the softmax of the logits of "yes" and "no".
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from edgeslm.engine.calls import Cost, IsCancelled, Output, Prompt, Read, Score, Text, Turn

if TYPE_CHECKING:
    from edgeslm.engine.worker.decoder import Decoder

SYSTEM: Final = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".'
)
INSTRUCT: Final = "Given a web search query, retrieve relevant passages that answer the query"
ANSWERS: Final = ("yes", "no")


def prompt_of(question: str, text: str, text_tokens: int | None = None) -> Prompt:
    """The question comes before the passage, so that the passages of a question share what is before it. A
    passage that is too long for the context, or for ``text_tokens``, loses its end."""
    parts = (f"<Instruct>: {INSTRUCT}\n<Query>: ", Text(question), "\n<Document>: ", Text(text, cut=True))
    return Prompt((Turn("system", (SYSTEM,)), Turn("user", parts)), overflow="head", cut_tokens=text_tokens)


def read(decoder: Decoder, call: Read, cancelled: IsCancelled) -> Output:
    """The probability for each text that it answers the question; no spans.

    :raises TooLong: the question alone doesn't fit the context.
    :raises Cancelled: the call was cancelled.
    """
    likely, cut, cost = [], [], Cost()
    for number, text in enumerate(call.texts):
        prompt = prompt_of(call.question, text, call.text_tokens)
        output = decoder.score(Score(prompt, ANSWERS), cancelled)
        likely.append(output.probabilities[0])
        cut += [] if output.truncated is None else [number]
        cost = replace(
            cost,
            prefill_ms=cost.prefill_ms + output.cost.prefill_ms,
            prompt_tokens=cost.prompt_tokens + output.cost.prompt_tokens,
        )
    return Output(probabilities=tuple(likely), places=((),) * len(likely), cut=tuple(cut), cost=cost)

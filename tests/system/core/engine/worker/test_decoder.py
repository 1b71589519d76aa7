"""On the real small model. Exact outputs are compared with one another only, never with constants."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeslm.config.loader import Task as TaskSection
from edgeslm.engine.calls import (
    Call,
    CallRule,
    Generate,
    Guide,
    Output,
    Prompt,
    Read,
    Sampling,
    Score,
    Text,
    Tool,
    Turn,
)
from edgeslm.engine.worker import room, yes_no
from edgeslm.engine.worker.decoder import PREFILL_PIECE, Decoder
from edgeslm.engine.worker.kv_cache import MOST_SLOTS, SLOT_BYTES
from edgeslm.engine.worker.prepared import PROMPT_TOKENS, Prepared
from edgeslm.engine.worker.reading import pieces
from edgeslm.errors import BundleError, Cancelled, InvalidRequest, NoMemory, TooLong
from edgeslm.messages import Request, Truncated
from edgeslm.tasks import make_task
from edgeslm.tasks.quoting import quote_guide
from tests.support.boards import write_memory

TRIAGE = "How urgent is this message from a machine operator? Answer with one label and nothing else."
BRIEF = "Summarize the text in one or two short sentences. Do not add anything that is not in it."
LABELS = ("normal", "warning", "critical")


def chat(message: str, instruction: str = TRIAGE, **fields: Any) -> Prompt:
    return Prompt((Turn("system", (instruction,)), Turn("user", (Text(message, cut=True),))), **fields)


def says(decoder: Decoder, message: str, max_tokens: int = 8, **fields: Any) -> Output:
    return decoder.generate(Generate(chat(message), max_tokens, **fields))


# -- the cache -------------------------------------------------------------------------------------


def test_a_warm_cache_changes_no_answer(decoder: Decoder) -> None:
    """Whatever came before: not a bit of the probabilities, not a token of the text."""
    cold = says(decoder, "The belt is burning")
    decoder.forget()
    cold_score = decoder.score(Score(chat("The belt is burning"), LABELS))
    decoder.forget()
    says(decoder, "All is well here")
    decoder.score(Score(chat("All is well"), LABELS))
    assert says(decoder, "The belt is burning").text == cold.text
    for _ in range(2):  # the second time, the whole prompt is in the cache
        assert (
            decoder.score(Score(chat("The belt is burning"), LABELS)).probabilities
            == cold_score.probabilities
        )
        assert says(decoder, "The belt is burning").text == cold.text


def test_a_chat_that_goes_on_is_answered_as_if_it_were_new(decoder: Decoder) -> None:
    first = says(decoder, "Say hello", 6)
    turns = (
        *chat("Say hello").turns,
        Turn("assistant", (Text(first.text),)),
        Turn("user", (Text("And goodbye"),)),
    )
    warm = decoder.generate(Generate(Prompt(turns), 8))
    decoder.forget()
    assert decoder.generate(Generate(Prompt(turns), 8)).text == warm.text


class Looks:
    """Counts how often a call asks whether it is cancelled: once for each piece of a prompt."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> bool:
        self.count += 1
        return False


def pieces_read(decoder: Decoder, prompt: Prompt) -> int:
    """Pieces of the prompt that are not in the cache."""
    looks = Looks()
    decoder.generate(Generate(prompt, 1, only_read=True), cancelled=looks)
    return looks.count


def test_two_tasks_dont_take_the_cache_from_each_other(decoder: Decoder) -> None:
    triage, brief = TRIAGE * 20, BRIEF * 20
    read = []
    for message in ("Oil level a bit low", "Door open"):
        looks = Looks()
        decoder.score(Score(chat(message, triage), ("yes", "no")), looks)
        read += [looks.count, pieces_read(decoder, chat(message, brief))]
    assert max(read[2:]) < min(read[:2]) / 2, "the instructions were computed again"


@pytest.mark.parametrize("max_tokens", [1, 8])
def test_calls_that_interrupt_one_another_change_no_answer(decoder: Decoder, max_tokens: int) -> None:
    """The other has the same instruction, so it would like the same cache."""
    long = Generate(chat("The belt is burning. " * 20), max_tokens)
    alone = decoder.generate(long)
    decoder.forget()
    asked = 0

    def interrupted() -> bool:
        nonlocal asked
        asked += 1
        says(decoder, f"All is well {asked}", 2)
        decoder.score(Score(chat(f"All is well {asked}"), LABELS))
        return False

    assert decoder.generate(long, cancelled=interrupted).text == alone.text
    assert asked > max_tokens


def test_what_is_only_read_is_in_the_cache_of_the_next(decoder: Decoder) -> None:
    output = decoder.generate(Generate(chat(".", TRIAGE * 20), 256, only_read=True))
    assert (output.text, output.cost.completion_tokens) == ("", 0)
    assert pieces_read(decoder, chat("The belt is burning", TRIAGE * 20)) == 1


def test_slots_stay_within_their_budget(decoder: Decoder) -> None:
    for number in range(8):
        guide = Guide("regex", f"[a-z]{{{number + 1}}}")
        says(decoder, "x", 1 + 150 * (number % 5), guide=guide, sampling=Sampling(repetition_penalty=1.1))
        assert decoder._slots.tokens * decoder.bundle.manifest.kv_bytes_per_token <= SLOT_BYTES
        assert 1 <= len(decoder._slots) <= MOST_SLOTS


def test_a_request_without_memory_for_its_cache_is_refused_before(starter: Path, tmp_path: Path) -> None:
    """After what others left in caches was given up; the engine goes on."""
    decoder = Decoder(starter / "smollm2-135m-int4", 2, root=tmp_path)
    guide = Guide("regex", "[a-z]{3}")
    sentence = r"a cache of 256 tokens takes \d+ MB and 1 MB are free; send a shorter text"
    try:
        says(decoder, "one")
        write_memory(tmp_path, room.RESERVE_BYTES + 1_000_000)
        with pytest.raises(NoMemory, match=sentence):
            says(decoder, "two", guide=guide)
        assert len(decoder._slots) == 0
        write_memory(tmp_path, 10**9)
        assert says(decoder, "two", guide=guide).text
    finally:
        decoder.close()


def test_requests_with_a_grammar_of_their_own_leave_an_instruction_its_slot(decoder: Decoder) -> None:
    read = []
    for message in ("one", "two"):
        looks = Looks()
        decoder.score(Score(chat(message, TRIAGE * 20), ("yes", "no")), looks)
        read.append(looks.count)
    for number in range(MOST_SLOTS + 2):
        says(decoder, "x", 1, guide=Guide("regex", f"[a-z]{{{number + 1}}}"))
    looks = Looks()
    decoder.score(Score(chat("three", TRIAGE * 20), ("yes", "no")), looks)
    assert looks.count == read[1] < read[0] / 2, "the instruction was computed again"


# -- scores ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels",
    [
        LABELS,
        ("warn", "warning", "warning light"),
        ("a", "supercalifragilistic", "läuft über 😀"),
        ("only",),
        tuple(f"label {number}" for number in range(20)),
    ],
)
def test_probabilities_sum_to_one(decoder: Decoder, labels: tuple[str, ...]) -> None:
    output = decoder.score(Score(chat("The belt is burning"), labels))
    assert len(output.probabilities) == len(labels)
    assert math.isclose(sum(output.probabilities), 1, abs_tol=1e-6)
    assert all(0 <= value <= 1 for value in output.probabilities)
    assert output.cost.prompt_tokens > 20
    assert output.cost.completion_tokens == 0


def test_the_order_of_labels_doesnt_matter(decoder: Decoder) -> None:
    labels = ("warn", "warning", "critical", "critical now")
    there = decoder.score(Score(chat("Fire"), labels)).probabilities
    back = decoder.score(Score(chat("Fire"), labels[::-1])).probabilities
    # Processors with AVX-512 add up in another order when fewer rows are computed at once, as after a rewind.
    assert there == pytest.approx(back[::-1], abs=0.05)


def test_a_model_may_end_with_any_of_its_end_tokens(starter: Path, tmp_path: Path) -> None:
    """With the wrong one alone, a label that begins another would never win."""
    score = Score(chat("Fire"), ("warn", "warning"))
    end = json.loads((starter / "smollm2-135m-int4/genai_config.json").read_text())["model"]["eos_token_id"]
    usual, more = (
        altered(starter, tmp_path / name, end_ids=ids) for name, ids in (("a", [end]), ("b", [end, 0]))
    )
    try:
        assert more.score(score).probabilities[0] >= usual.score(score).probabilities[0]
    finally:
        for decoder in (usual, more):
            decoder.close()


def altered(
    starter: Path, folder: Path, *, end_ids: list[int] | None = None, context_length: int | None = None
) -> Decoder:
    """The starter decoder, of a bundle with another setting."""
    source = starter / "smollm2-135m-int4"
    shutil.copytree(source, folder)
    manifest = json.loads((source / "manifest.json").read_text())
    settings = json.loads((source / "genai_config.json").read_text())
    if end_ids:
        settings["model"]["eos_token_id"] = end_ids
    if context_length:
        manifest["context_length"] = context_length
    for name, content in (("genai_config.json", settings), ("manifest.json", manifest)):
        (folder / name).write_text(json.dumps(content))
        for entry in manifest["files"]:
            if entry["path"] == name:
                written = (folder / name).read_bytes()
                entry |= {"bytes": len(written), "sha256": hashlib.sha256(written).hexdigest()}
    return Decoder(folder, 2)


def test_scoring_a_text_that_is_cut(decoder: Decoder) -> None:
    message = "word " * decoder.context_length
    with pytest.raises(TooLong, match=r"has \d+ tokens and there is room for \d+"):
        decoder.score(Score(chat(message), LABELS))


@pytest.mark.parametrize(("prompt_s", "tokens"), [(0.04, 128), (0.4, 64)])
def test_as_much_is_read_at_a_time_as_a_cancel_can_wait_for(
    starter: Path, prompt_s: float, tokens: int
) -> None:
    """By what was measured when the bundle was prepared."""
    path = starter / "smollm2-135m-int4"
    decoder = Decoder(path, 1, prepared=Prepared(path / "model.onnx", 1, prompt_seconds={1: prompt_s}))
    try:
        prompt = chat("The belt is burning. " * 70)
        read = pieces_read(decoder, prompt)
        count = decoder.generate(Generate(prompt, 1)).cost.prompt_tokens
        assert count > 300 and read == math.ceil(count / tokens)
    finally:
        decoder.close()


@pytest.mark.parametrize("most", [PREFILL_PIECE, PROMPT_TOKENS])
@pytest.mark.parametrize("more", [0, 1, 2, 3])
def test_no_token_of_a_prompt_is_read_alone(most: int, more: int) -> None:
    """Of 129 tokens one would be left, which takes the kernel of decoding."""
    count = 2 * PROMPT_TOKENS + more
    cuts = list(pieces(count, most))
    sizes = [end - start for start, end in cuts]
    assert [start for start, _ in cuts] == [0, *(end for _, end in cuts[:-1])]
    assert sum(sizes) == count
    assert 2 <= min(sizes) <= max(sizes) <= most
    assert list(pieces(1, most)) == [(0, 1)]


def test_scoring_is_cancelled(decoder: Decoder) -> None:
    with pytest.raises(Cancelled):
        decoder.score(Score(chat("x"), LABELS), lambda: True)
    assert decoder.score(Score(chat("x"), LABELS)).probabilities


# -- generation ------------------------------------------------------------------------------------


def test_counts_and_says_why_it_ended(decoder: Decoder) -> None:
    output = says(decoder, "Tell me a story", 5)
    assert output.finish_reason == "length"
    assert (output.cost.completion_tokens, output.truncated) == (5, None)
    assert output.cost.prompt_tokens > 20
    ended = says(decoder, "Tell me a story", 20, guide=Guide("regex", "yes"))
    assert (ended.text, ended.finish_reason) == ("yes", "stop")


def test_streamed_pieces_join_to_the_text(decoder: Decoder) -> None:
    pieces: list[str] = []
    output = decoder.generate(Generate(chat("Tell me a story"), 12, stream=True), pieces.append)
    assert "".join(pieces) == output.text
    assert len(pieces) > 3
    pieces.clear()
    assert decoder.generate(Generate(chat("Tell me a story"), 12), pieces.append).text == output.text
    assert pieces == [], "nobody asked for a stream"


def test_a_stop_string_that_spans_tokens(decoder: Decoder) -> None:
    whole = says(decoder, "Tell me a story", 12).text
    middle = len(whole) // 2
    stop = whole[middle - 2 : middle + 3]
    pieces: list[str] = []
    output = decoder.generate(Generate(chat("Tell me a story"), 12, stop=(stop,), stream=True), pieces.append)
    assert output.text == whole[: whole.index(stop)]
    assert output.finish_reason == "stop"
    assert "".join(pieces) == output.text


def test_cancels_between_tokens_and_goes_on(decoder: Decoder) -> None:
    answers = iter([False, False, True])
    pieces: list[str] = []
    with pytest.raises(Cancelled):
        decoder.generate(
            Generate(chat("Tell me a story"), 50, stream=True), pieces.append, lambda: next(answers)
        )
    assert len(pieces) <= 2
    fresh = says(decoder, "Tell me a story")
    decoder.forget()
    assert says(decoder, "Tell me a story").text == fresh.text


def test_sampling_is_repeatable_with_a_seed(decoder: Decoder) -> None:
    def drawn(seed: int, **fields: Any) -> str:
        return says(decoder, "Tell me a story", 5, sampling=Sampling(1.0, seed=seed, **fields)).text

    assert drawn(7) == drawn(7)
    assert len({drawn(seed) for seed in (1, 2, 3)}) > 1
    assert drawn(7, top_p=0.5, repetition_penalty=1.3) == drawn(7, top_p=0.5, repetition_penalty=1.3)
    greedy = says(decoder, "Tell me a story", 5).text
    assert drawn(7, top_p=1e-6) == greedy, "the likeliest token is all that is left"


# -- length ----------------------------------------------------------------------------------------


def test_too_long_says_the_numbers(decoder: Decoder) -> None:
    message = "word " * decoder.context_length
    with pytest.raises(TooLong, match=rf"has {decoder.context_length}\d* tokens|has \d+ tokens"):
        says(decoder, message)


@pytest.mark.parametrize("more", [0, 1, 60_000])
def test_more_new_tokens_than_the_context(decoder: Decoder, more: int) -> None:
    """A short input isn't told to be shorter."""
    with pytest.raises(TooLong, match=f"max_tokens is {decoder.context_length + more}"):
        says(decoder, "Hi", decoder.context_length + more)


def test_a_cut_text_fills_the_room(starter: Path, tmp_path: Path) -> None:
    decoder = altered(starter, tmp_path / "small", context_length=128)
    prompt = chat("word " * 500, overflow="tail")
    output = decoder.generate(Generate(prompt, 8))
    assert output.cost.prompt_tokens == 120
    assert output.truncated is not None
    assert output.truncated.kept < 120 < output.truncated.of
    assert output.cost.completion_tokens <= 8
    scored = decoder.score(Score(prompt, LABELS))
    assert isinstance(scored.truncated, Truncated)
    decoder.close()


# -- grammars --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "guide",
    [
        Guide("json_schema", '{"type": "strnig"}'),
        Guide("json_schema", "no json"),
        Guide("json_schema", "false"),
        Guide("json_schema", '{"type": "string", "format": "bogus"}'),
        Guide("json_schema", '{"$ref": "http://localhost/x"}'),
        Guide("json_schema", '{"type": "object", "properties": {"größe": {"type": "strnig"}}}'),
        Guide("regex", "("),
        Guide("lark_grammar", "start: nothing"),
    ],
)
def test_a_grammar_that_cant_be_compiled(decoder: Decoder, guide: Guide) -> None:
    with pytest.raises(InvalidRequest, match=f"the ({guide.kind} can't be compiled|schema)"):
        says(decoder, "x", 4, guide=guide)
    assert says(decoder, "x", 1).finish_reason == "length", "the engine goes on"


def fields(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


HUGE = {"type": "string", "pattern": r"(?:.|\n)*" * 200}
"""Compiles, and is too much as soon as it is followed."""


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        (fields(a={"not": {}}), "properties.a.not: the engine's grammars don't have not; leave it out"),
        (fields(a=fields(b={"type": "string", "format": "regex"})), "properties.a.properties.b.format: "),
        (fields(größe={"oneOf": [{"minimum": 1}, {"maximum": 5}]}), "properties.größe.oneOf: .* write anyOf"),
        (fields(a={"enum": []}), "no value fits it .*'a'.*; change that part"),
        (fields(**{"not": {"type": "never"}}), "it can't be a grammar .*; simplify"),
        (fields(a=HUGE), "too large for a grammar: use shorter"),
        (fields(a={"type": "string", "pattern": "(?:.)*" * 300}), "too large for a grammar: use shorter"),
    ],
)
def test_a_schema_that_cant_be_a_grammar_is_named(decoder: Decoder, schema: Any, told: str) -> None:
    """Which tool, which part of it, and what to do."""
    with pytest.raises(InvalidRequest, match=f"the schema.*{told}"):
        says(decoder, "x", 20, guide=Guide("json_schema", json.dumps(schema)))
    other = json.dumps(fields(x={"type": "string"}))
    sent = {"fine": other, "odd": json.dumps(schema)}
    tools = tuple(Tool(name, json.dumps({"name": name}), text) for name, text in sent.items())
    names = ("odd",) if "too large" in told else ("fine", "odd")  # else the model may call the other one
    with pytest.raises(InvalidRequest, match=f"tool 'odd'.*{told}"):
        decoder.generate(Generate(chat("x", tools=tools), 20, calls=CallRule(names, 1, or_text=False)))
    assert says(decoder, "x", 1).finish_reason == "length", "the engine goes on"


@pytest.mark.parametrize("context", ["ü", "語 😀", 'say "hi"\\n', "a\nb\n\nc", "%regex /a/"])
def test_quotes_what_stands_there_in_any_script(decoder: Decoder, context: str) -> None:
    """llguidance's forced bytes break on half characters: ``runtime_grammar`` switches them off."""
    output = says(decoder, context, 40, guide=quote_guide(context))
    assert output.text.strip()
    assert output.text.strip() in context


@pytest.mark.parametrize("value", ["語😀", "läuft über", "\u0001"])
def test_json_in_any_script(decoder: Decoder, value: str) -> None:
    schema = {
        "type": "object",
        "properties": {"ö": {"enum": [value]}},
        "required": ["ö"],
        "additionalProperties": False,
        "x-guidance": {"whitespace_flexible": False},
    }
    said = says(decoder, value, 40, guide=Guide("json_schema", json.dumps(schema))).text
    assert json.loads(said) == {"ö": value}


# -- tasks on the real model -----------------------------------------------------------------------


def ask_of(decoder: Decoder) -> Any:
    async def ask(call: Call, on_chunk: Callable[[str], None] | None = None) -> Output:
        assert isinstance(call, Generate)
        return decoder.generate(call)

    return ask


@pytest.mark.parametrize("max_tokens", [1, 48])
def test_extract_gives_json_of_its_schema_or_an_error(decoder: Decoder, max_tokens: int) -> None:
    import jsonschema

    schema = {
        "type": "object",
        "properties": {
            "machine": {"type": "string"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "state": {"enum": ["läuft", "steht"]},
        },
        "required": ["machine", "state"],
    }
    section = TaskSection.model_validate(
        {"kind": "extract", "model": "m", "schema": schema, "max_tokens": max_tokens}, strict=False
    )
    task = make_task("fields", section)
    request = Request("fields", "Press 4 stopped: the oil is low, the belt is hot", "1", "r")
    try:
        outcome = asyncio.run(task.run(request, ask_of(decoder), None))
    except TooLong as error:
        assert f"don't fit {max_tokens} tokens" in str(error)
    else:
        jsonschema.validate(outcome.result, task.result_schema())
        assert max_tokens > 4


# -- bundles ---------------------------------------------------------------------------------------


def test_a_bundle_of_another_kind(starter: Path) -> None:
    with pytest.raises(BundleError, match="a bundle of kind encoder, where a decoder is needed"):
        Decoder(starter / "minilm-l6-int8", 1)


def test_a_damaged_bundle(starter: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(starter / "smollm2-135m-int4", tmp_path / "copy")
    file = copy / "genai_config.json"
    file.write_bytes(file.read_bytes().replace(b"llama", b"lamma"))
    with pytest.raises(BundleError, match=r"genai_config\.json: its SHA-256 differs"):
        Decoder(copy, 1)


# -- as a reader -----------------------------------------------------------------------------------


def test_a_decoder_tells_how_likely_each_passage_answers(decoder: Decoder) -> None:
    """The softmax of "yes" and "no"; passages in other calls or another order get the same."""
    question = "What temperature does the oven of line 3 have?"
    texts = ("The oven of line 3 is at 210 degrees.", "Trains leave at noon.")
    found = yes_no.read(decoder, Read(question, texts), lambda: False)
    assert all(0 < one < 1 for one in found.probabilities)
    assert found.places == ((), ())
    assert found.cost.prompt_tokens > 100
    prompt = yes_no.prompt_of(question, texts[0])
    yes, no = decoder.score(Score(prompt, ("yes", "no"))).probabilities
    assert yes + no == pytest.approx(1)
    decoder.forget()
    again = yes_no.read(decoder, Read(question, texts[1::-1]), lambda: False)
    assert again.probabilities == pytest.approx(found.probabilities[1::-1], abs=0.03)
    with pytest.raises(TooLong):
        yes_no.read(decoder, Read("word " * 9000, texts[:1]), lambda: False)


def test_a_passage_has_a_limit_of_its_own(decoder: Decoder) -> None:
    texts = ("The oven of line 3 is at 210 degrees.", "The oven of line 3 is at 20 degrees.")
    found = yes_no.read(decoder, Read("Is it hot?", texts, text_tokens=4), lambda: False)
    assert found.cut == (0, 1)
    assert found.probabilities[0] == pytest.approx(found.probabilities[1], abs=0.001)
    assert yes_no.read(decoder, Read("Is it hot?", texts, text_tokens=40), lambda: False).cut == ()

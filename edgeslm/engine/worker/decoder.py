"""Decoder: generation and label scoring on onnxruntime-genai.

A call takes the KV slot that shares the longest prefix with its prompt (``kv_cache``) and appends the rest of
the prompt. Slots are sized for the request, not for the whole context, since the runtime allocates and zeroes
the cache up to ``max_length``.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read at import; telemetry writes device ids and event files

import numpy as np
import numpy.typing as npt
import onnxruntime_genai as og

from edgeslm.bundle.manifest import check_adapter, load_bundle, verify_bundle
from edgeslm.bundle.size_estimate import STATE_COPIES
from edgeslm.engine.calls import (
    NO_ADAPTERS,
    Adapters,
    Cost,
    Generate,
    IsCancelled,
    OnText,
    Output,
    Sampling,
    Score,
)
from edgeslm.engine.worker.adapters import LoadedAdapters
from edgeslm.engine.worker.grammar import longest_forced, runtime_grammar
from edgeslm.engine.worker.kv_cache import KvSlot, SlotKey, SlotPool, rewind_limit, rounded
from edgeslm.engine.worker.labels import Branch, make_tree
from edgeslm.engine.worker.loading import PLAIN, Loader, engine_error
from edgeslm.engine.worker.one_pass import OnePass, fits
from edgeslm.engine.worker.prefix_cache import FOLDER
from edgeslm.engine.worker.prepared import PROMPT_TOKENS
from edgeslm.engine.worker.prompt import ChatTokenizer, Encoded
from edgeslm.engine.worker.reading import PromptReader, has_state
from edgeslm.engine.worker.room import check_room
from edgeslm.engine.worker.tool_format import constrain, read_answer
from edgeslm.engine.worker.transcript import Transcript
from edgeslm.errors import BundleError, Cancelled, InternalError, TooLong
from edgeslm.hardware.board import usable_cores

if TYPE_CHECKING:
    from edgeslm.engine.worker.prepared import Prepared
    from edgeslm.engine.worker.scorer import Scorer

log = logging.getLogger("edgeslm.engine")

PREFILL_PIECE = 64
"""Number of prompt tokens computed between two checks for cancellation; a model of 135 M parameters takes 0.1
s for them on two slow cores."""
_PIECE_S = 0.08
"""On machines that prefill ``PROMPT_TOKENS`` tokens within this many seconds, a piece has ``PROMPT_TOKENS``
instead of ``PREFILL_PIECE`` tokens, since larger pieces make prefill 20 % faster, with identical results
(``benchmarks/LOG.md``)."""
_PIECE_VOCABULARY = 80_000
"""If the graph outputs the logits of all tokens of a piece (``edgeslm_export.graph.last_logits``), a piece
has ``PROMPT_TOKENS`` tokens only if the vocabulary has at most this many tokens. With a larger vocabulary,
these logits would take more memory than ``room.RESERVE_BYTES``."""

MOST_DRAFTS = 8
DRAFT_WORDS = 3
"""Length, in tokens, of the n-grams that speculative decoding looks up: if the last n-gram also occurs
earlier in the text, the decoder drafts up to ``MOST_DRAFTS`` of the tokens that followed the earlier n-gram.
Only greedy decoding with a grammar uses drafts, since constrained output is mostly copied from the prompt
(``benchmarks/LOG.md``). Drafts don't speed up free text. Drafts don't speed up JSON from bundles with
separate decode weights either, since with these bundles a step with two tokens takes twice as long as a step
with one token."""


class Decoder:
    """A loaded decoder bundle.

    :param digest: required digest of the bundle; None accepts any bundle.
    :param adapters: adapter bundles that calls may name. With adapters, the decoder loads the graph for
        adapters, which is slightly slower than the main graph.
    :param threads: number of CPU threads; 0 means the number that was fastest when the bundle was prepacked
        or, if the bundle isn't prepacked, one thread per usable CPU.
    :param prepared: the prepacked graph of this bundle, if any.
    :param root: root folder of the system files that report the free memory.
    :raises BundleError: the bundle isn't a decoder, or the runtime can't load it.
    """

    def __init__(
        self,
        path: Path,
        threads: int,
        adapters: Adapters = NO_ADAPTERS,
        *,
        digest: str | None = None,
        prepared: Prepared | None = None,
        loader: Loader = PLAIN,
        root: Path = Path("/"),
    ) -> None:
        bundle = load_bundle(path, digest)
        if bundle.manifest.kind != "decoder":
            raise BundleError(f"{path}: a bundle of kind {bundle.manifest.kind}, where a decoder is needed")
        for adapter, expected in adapters.items():  # report a bad manifest before loading the base
            check_adapter(load_bundle(adapter, expected), bundle)
        graph = bundle.manifest.graphs.for_calls(adapters=bool(adapters)) or ""
        verify_bundle(bundle, but=bundle.manifest.weights if prepared else ())
        self.bundle = bundle
        self.threads = threads or (prepared and prepared.threads) or usable_cores()
        self._prepared, self._loader, self._root = prepared, loader, root
        written = bundle.manifest.quantization and bundle.manifest.quantization.written
        self._writes_apart = bool(written) and not adapters  # not in the graph that takes adapters
        self.context_length = bundle.manifest.context_length
        self._chat = ChatTokenizer(path)
        self._special = self._chat.special_tokens
        config_file = path / "genai_config.json"
        try:
            settings = json.loads(config_file.read_text("utf-8"))
            self._settings = settings["model"]
            self._model = self._load(graph)
        except BundleError:
            raise
        except Exception as error:  # the runtime raises RuntimeError and others
            raise BundleError(f"{path}: onnxruntime-genai can't load it: {error}") from None
        self._adapters = LoadedAdapters(self._model, bundle, adapters) if adapters else None
        end = self._settings.get("eos_token_id", [])
        self._end_ids = frozenset(end if isinstance(end, list) else [end])
        # The number of positions whose logits the graph outputs (``edgeslm_export.graph.last_logits``).
        self._drafts = min(MOST_DRAFTS, settings.get("speculative", {}).get("max_draft_tokens", 0))
        self._slots = SlotPool(
            bundle.manifest.kv_bytes_per_token,
            rewind_limit(self._settings, self.context_length),
            state_bytes=bundle.manifest.state_bytes or 0,
        )
        prompt_s = prepared.prompt_seconds.get(self.threads, math.inf) if prepared else math.inf
        vocabulary = int(self._settings.get("vocab_size", 0)) if self._drafts else 0
        is_large = prompt_s <= _PIECE_S and vocabulary <= _PIECE_VOCABULARY
        self._reader = PromptReader(
            PROMPT_TOKENS if is_large else PREFILL_PIECE, keeps_state=has_state(self._settings)
        )
        self._tree = lru_cache(maxsize=64)(self._label_tree)  # requests may bring their own labels
        self._one_pass = OnePass(self._load_scorer)

    @property
    def prepared(self) -> bool:
        """Whether the decoder uses prepacked weights."""
        return self._prepared is not None

    @property
    def scorer(self) -> Scorer | None:
        """The one-pass scorer, if it is loaded."""
        return self._one_pass.scorer

    def _load(self, graph: str) -> Any:
        path = self.bundle.path
        if self._prepared is not None:
            try:
                return self._loader.load(path, self._prepared.seen_from(path), self.threads)
            except Exception as error:
                log.warning("%s can't be loaded (%s); the bundle itself is", self._prepared.graph, error)
                self._prepared = None
                verify_bundle(self.bundle)
        return self._loader.load(path, graph, self.threads)

    def forget(self) -> None:
        """Drops all caches."""
        self._slots.clear()
        self._one_pass.forget()

    def close(self) -> None:
        """Frees the generators before the model; otherwise the runtime reports an error at exit."""
        self.forget()
        self._one_pass.close()
        del self._adapters, self._model

    def generate(
        self,
        call: Generate,
        emit: OnText = lambda text: None,
        cancelled: IsCancelled = lambda: False,
    ) -> Output:
        """Generates text; if the call asks for a stream, ``emit`` is called with each piece of the text.

        :raises TooLong: the prompt and ``max_tokens`` don't fit the context.
        :raises InvalidRequest: the grammar can't be compiled.
        :raises Cancelled: the call was cancelled between two tokens.
        """
        if call.max_tokens >= self.context_length:
            raise TooLong(
                f"max_tokens is {call.max_tokens} and the model's context has {self.context_length} tokens, "
                "the input included; ask for fewer"
            )
        encoded = self._chat.encode(call.prompt, self.context_length - call.max_tokens)
        ids, truncated = encoded.ids, encoded.truncated
        call = constrain(call, self._chat.tool_format, self._special)
        started = time.perf_counter()
        is_greedy = call.sampling.temperature == 0
        key = self._key_of(call, self.context_length - len(ids) - call.max_tokens)
        slot = self._slot(encoded, len(ids) + call.max_tokens + key.forced, key, call.sampling, cancelled)
        if call.only_read:
            self._slots.put(slot)
            return Output(finish_reason="length", truncated=truncated)
        prefilled, words, finish_reason = self._decode(slot, call, emit, cancelled)
        if is_greedy:
            self._slots.put(slot)
        ended = time.perf_counter()
        written = read_answer(call, self._chat.tool_format, words.text)
        return Output(
            text=written.text,
            calls=written.calls,
            finish_reason="length" if written.is_cut else finish_reason,
            truncated=truncated,
            cost=Cost(
                prefill_ms=(prefilled - started) * 1000,
                decode_ms=(ended - prefilled) * 1000,
                prompt_tokens=len(ids),
                completion_tokens=words.count,
            ),
        )

    def _key_of(self, call: Generate, room: int) -> SlotKey:
        """:param room: number of context tokens that prompt and answer leave free."""
        drafts = forced = 0
        if call.guide is not None:
            is_worth = call.guide.kind != "json_schema" or not self._writes_apart
            drafts = self._drafts if is_worth and call.sampling.temperature == 0 else 0
            forced = longest_forced(call.guide)
        penalty = call.sampling.repetition_penalty
        return SlotKey(call.guide, penalty, call.adapter, drafts, forced if forced <= room else 0)

    def score(self, call: Score, cancelled: IsCancelled = lambda: False) -> Output:
        """Computes the probability of each label, given that the answer is one of the labels.

        With a prepacked ``score`` graph, all labels take one forward pass (``scorer``). Without this graph,
        labels that differ in their first token take one pass, and each deeper branch of the label tree
        (``labels``) takes one more.

        :raises TooLong: the prompt doesn't fit the context.
        """
        tree = self._tree(call.labels)
        encoded = self._chat.encode(call.prompt, self.context_length - tree.depth() - 1)
        ids, truncated = encoded.ids, encoded.truncated
        started = time.perf_counter()
        scorer = self._scorer_for(call, encoded, tree)
        if scorer is not None:
            tokens = 2 * (len(ids) + tree.rows())  # the cache before and after
            needed = tokens * self.bundle.manifest.kv_bytes_per_token
            check_room(needed, f"a pass over {len(ids)} tokens", self, self._root)
            found = scorer.score(encoded, tree, cancelled, keeps=call.only_read)
            scores = [found.get(number, -math.inf) for number in range(len(call.labels))]
        else:
            scores = self._score_branches(encoded, tree, call, cancelled)
        return Output(
            probabilities=tuple(math.exp(score) for score in scores),
            truncated=truncated,
            cost=Cost(prefill_ms=(time.perf_counter() - started) * 1000, prompt_tokens=len(ids)),
        )

    def _score_branches(
        self, prompt: Encoded, tree: Branch, call: Score, cancelled: IsCancelled
    ) -> list[float]:
        key, length = SlotKey(adapter=call.adapter), len(prompt.ids)
        slot = self._slot(prompt, length + tree.depth() + 1, key, Sampling(), cancelled)
        scores = [-math.inf] * len(call.labels)
        self._walk(slot, tree, length, 0.0, scores, cancelled)
        self._slots.put(slot)
        return scores

    def _scorer_for(self, call: Score, prompt: Encoded, tree: Branch) -> Scorer | None:
        """The one-pass scorer, if it is available and faster.

        The score graph must be prepacked, since a prepacked graph shares its weights with the main graph;
        otherwise the weights would be loaded twice. Calls with an adapter have no scorer.
        """
        if call.adapter is not None or self._prepared is None or self._prepared.score is None:
            return None
        if not fits(prompt, tree, self.context_length):
            return None
        return self._one_pass.find(waits=call.only_read or tree.is_branched())

    def _load_scorer(self) -> Scorer:
        from edgeslm.engine.worker.scorer import (
            Scorer,  # imported late: onnxruntime's own binding takes time and memory
        )

        path = self._prepared.score if self._prepared is not None else None
        if path is None:
            raise BundleError(f"{self.bundle.path}: nothing was prepared to score labels with")
        return Scorer(
            path,
            self._settings,
            self._end_ids,
            self.threads,
            power=self._loader.power,
            piece=self._reader.piece,
            on_disk=path.parent / FOLDER,
        )

    # -- slots ---------------------------------------------------------------------------------------

    def _slot(
        self,
        prompt: Encoded,
        length: int,
        key: SlotKey,
        sampling: Sampling,
        cancelled: IsCancelled,
    ) -> KvSlot:
        """Takes or creates a slot that can hold ``length`` tokens, and fills its cache with exactly
        ``prompt``.

        The slot isn't in the pool while the call uses it, since another call may run between two steps.
        """
        if length > self.context_length:
            raise TooLong(f"{length} tokens are needed and the model's context has {self.context_length}")
        is_greedy = sampling.temperature == 0
        shared, slot = self._slots.take(prompt.ids, length, key) if is_greedy else (0, None)
        if slot is None:
            max_length = rounded(length, self.context_length)
            if is_greedy:
                self._slots.make_room(max_length)
            manifest = self.bundle.manifest
            needed = max_length * manifest.kv_bytes_per_token + STATE_COPIES * (manifest.state_bytes or 0)
            check_room(needed, f"a cache of {max_length} tokens", self, self._root)
            slot = self._new_slot(max_length, key, sampling)
        self._reader.read(slot, prompt, shared, cancelled)
        return slot

    def _new_slot(self, max_length: int, key: SlotKey, sampling: Sampling) -> KvSlot:
        params = og.GeneratorParams(self._model)
        search: dict[str, Any] = {"max_length": max_length, "do_sample": sampling.temperature > 0}
        if sampling.repetition_penalty != 1.0:
            search["repetition_penalty"] = sampling.repetition_penalty
        if sampling.temperature > 0:
            search |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
            if sampling.seed is not None:
                search["random_seed"] = sampling.seed
        params.set_search_options(**search)
        if key.drafts:
            params.set_speculative_options(ngram_size=DRAFT_WORDS + 1, max_draft_tokens=key.drafts)
        try:
            if key.guide is not None:
                kind, source = runtime_grammar(key.guide)
                params.set_guidance(kind, source, key.forced > 0)
            generator = og.Generator(self._model, params)
        except Exception as error:
            raise engine_error(error, key.guide) from None
        if key.adapter is not None:
            if self._adapters is None:
                raise InternalError(f"the adapter {key.adapter} was not loaded with this model")
            self._adapters.activate(generator, key.adapter)
        return KvSlot(generator, key, max_length)

    # -- generation ----------------------------------------------------------------------------------

    def _decode(
        self, slot: KvSlot, call: Generate, emit: OnText, cancelled: IsCancelled
    ) -> tuple[float, Transcript, str]:
        begun = self._chat.tool_format.begun(call)
        words = Transcript(self._chat.tokenizer, call.stop, emit if call.stream else None, *begun)
        prefilled = 0.0
        while words.count < call.max_tokens:
            if cancelled():
                raise Cancelled("cancelled while it was running")
            try:
                slot.generator.generate_next_token()
            except Exception as error:
                raise engine_error(error, call.guide) from None
            prefilled = prefilled or time.perf_counter()
            # Several tokens where the grammar leaves no choice; the end token is not among them.
            for token in map(int, slot.generator.get_sequence(0)[len(slot.tokens) :]):
                slot.tokens.append(token)
                if words.add(token):
                    return prefilled, words, "stop"
                if words.count == call.max_tokens:
                    break
            if slot.generator.is_done():
                if int(slot.generator.get_next_tokens()[0]) in self._end_ids:
                    words.finish()
                    return prefilled, words, "stop"
                break
        words.finish()
        return prefilled or time.perf_counter(), words, "length"

    # -- scoring -------------------------------------------------------------------------------------

    def _label_tree(self, labels: Sequence[str]) -> Branch:
        return make_tree([self._chat.encode_text(label) for label in labels])

    def _walk(
        self,
        slot: KvSlot,
        node: Branch,
        length: int,
        score: float,
        scores: list[float],
        cancelled: IsCancelled,
    ) -> None:
        """Computes the log-probability of each label below ``node`` and writes it to ``scores``; ``score`` is
        the log-probability of ``node``. The first ``length`` tokens in the slot's cache are the prompt and
        the path to ``node``."""
        if cancelled():
            raise Cancelled("cancelled while it was running")
        shares = node.log_shares(_last_logits(slot.generator), self._end_ids)
        for number, path, below in node.edges():
            total = score + float(shares[number])
            if below.label is not None:
                scores[below.label] = total
                continue
            # Labels are scored with the prefill weights. A single token would use separate decode weights, so
            # the token before it is read again.
            again = slot.tokens[length - 1 : length] if self._writes_apart and len(path) == 1 else []
            start = length - len(again)
            self._reader.rewind(slot, start, cancelled)
            slot.generator.append_tokens(np.array([*again, *path], np.int32))
            slot.tokens += [*again, *path]
            self._walk(slot, below, length + len(path), total, scores, cancelled)


def _last_logits(generator: Any) -> npt.NDArray[np.float64]:
    """Logits [vocabulary] after the last token; the graph may output only these logits, as [1, 1,
    vocabulary], or the logits of all positions."""
    logits = np.asarray(generator.get_logits())
    last: npt.NDArray[np.float64] = logits.reshape(-1, logits.shape[-1])[-1].astype(np.float64)
    return last

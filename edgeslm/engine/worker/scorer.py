"""One-pass label scorer: all labels of a classification in one forward pass, on plain onnxruntime.

The KV cache of a task's fixed prefix (instruction, labels, examples) is computed once and kept. One forward
pass then computes the message and, as branches, the label tokens that are followed by a choice. Each label
token attends only to the prompt and its own branch (tree attention as in SpecInfer, Miao et al., 2023, arXiv
2305.09781). The graph is the bundle's ``score`` (``edgeslm_export.graph.score_graph``).
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Final

from edgeslm.engine.calls import IsCancelled

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read at import; telemetry writes device ids and event files

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from edgeslm.engine.calls import BALANCED, Power
from edgeslm.engine.worker.labels import Branch
from edgeslm.engine.worker.loading import engine_error
from edgeslm.engine.worker.prefix_cache import PrefixCache
from edgeslm.engine.worker.prompt import PIECE, Encoded
from edgeslm.engine.worker.waiting import set_waiting
from edgeslm.errors import BundleError, Cancelled

KEPT_BYTES: Final = 64_000_000
"""Memory budget, in bytes, for the KV caches of all prefixes together; if there is only one cache, it may
exceed the budget."""
_MASKED: Final = -1e9
"""Attention bias of masked positions."""

Cache = list[Any]
"""Keys and values of each layer, as OrtValues [1, heads, tokens, size]."""


class Scorer:
    """The loaded score graph of one bundle.

    :param settings: section ``model`` of the bundle's ``genai_config.json``.
    :param piece: number of tokens in one prefill step.
    :param on_disk: folder of the prefix cache.
    :param kept_bytes: memory budget, in bytes, for the KV caches of all prefixes together; if there is only
        one cache, it may exceed the budget.
    :raises BundleError: onnxruntime can't load the graph.
    """

    def __init__(
        self,
        graph: Path,
        settings: dict[str, Any],
        end_ids: Collection[int],
        threads: int,
        *,
        power: Power = BALANCED,
        piece: int = PIECE,
        on_disk: Path | None = None,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        # An arena would keep the peak of any pass (80 MB after a message of 900 tokens) to save 2.5 % of the
        # time.
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 3
        set_waiting(options, power)
        try:
            self._session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime raises many kinds
            raise BundleError(f"{graph}: onnxruntime can't load it: {error}") from None
        decoder = settings["decoder"]
        layers = range(int(decoder["num_hidden_layers"]))
        self._past = [f"past_key_values.{n}.{what}" for n in layers for what in ("key", "value")]
        self._present = [f"present.{n}.{what}" for n in layers for what in ("key", "value")]
        heads, size = int(decoder["num_key_value_heads"]), int(decoder["head_size"])
        inputs = {value.name: value.type for value in self._session.get_inputs()}
        kind = np.dtype(np.int8 if inputs.get(self._past[0]) == "tensor(int8)" else np.float32)
        self._empty = ort.OrtValue.ortvalue_from_numpy(np.zeros((1, heads, 0, size), kind))
        self._takes_logit_tokens = "logit_tokens" in inputs
        self._prefix_cache = (
            None if on_disk is None else PrefixCache(on_disk, len(self._past), heads, size, kind)
        )
        self._token_bytes = len(self._past) * heads * size * kind.itemsize
        self._end_ids = end_ids
        self._piece, self._kept_bytes = piece, kept_bytes
        self._kept: OrderedDict[tuple[int, ...], Cache] = OrderedDict()

    def forget(self) -> None:
        """Drops all caches."""
        self._kept.clear()

    def score(
        self,
        prompt: Encoded,
        tree: Branch,
        cancelled: IsCancelled = lambda: False,
        *,
        keeps: bool = False,
    ) -> dict[int, float]:
        """Computes the log-probability of each label; returns a dict from label index to log-probability.

        :param keeps: store the prompt's fixed prefix on disk. Set this only for prompts of the task itself,
            since labels from a request must not be stored.
        :raises Cancelled: the call was cancelled before its last forward pass.
        :raises NoMemory: the runtime could not allocate memory.
        """
        ids = prompt.ids
        start = min(prompt.fixed, len(ids) - 1)
        cache = self._fixed(tuple(ids[:start]), cancelled, keeps=keeps)
        while len(ids) - start > self._piece:
            cache = self._extended(cache, start, ids[start : start + self._piece], cancelled)
            start += self._piece
        if cancelled():
            raise Cancelled("cancelled while its prompt was read")
        rows = PassRows(start)
        choices = rows.add_message(ids[start:], tree)
        tokens = sorted(tree.tokens(self._end_ids))
        logits = self._run(cache, rows, ["logits"], tokens)[0].numpy()[0].astype(np.float64)
        total, found = {tree: 0.0}, {}
        for branch, place in choices:  # parents first
            of_token = (
                dict(zip(tokens, logits[place], strict=True)) if self._takes_logit_tokens else logits[place]
            )
            shares = branch.log_shares(of_token, self._end_ids)
            for number, _, below in branch.edges():
                total[below] = total[branch] + float(shares[number])
                if below.label is not None:
                    found[below.label] = total[below]
        return found

    def _fixed(self, tokens: tuple[int, ...], cancelled: IsCancelled, *, keeps: bool) -> Cache:
        """The KV cache of a task's fixed prefix, computed once."""
        cache = self._kept.get(tokens) or self._read(tokens, cancelled)
        self._kept[tokens] = cache
        self._kept.move_to_end(tokens)
        if keeps and tokens and self._prefix_cache is not None:
            self._prefix_cache.keep(tokens, [value.numpy() for value in cache])
        while len(self._kept) > 1 and sum(map(len, self._kept)) * self._token_bytes > self._kept_bytes:
            self._kept.popitem(last=False)
        return cache

    def _read(self, tokens: tuple[int, ...], cancelled: IsCancelled) -> Cache:
        """The KV cache of a prefix, read from disk or else computed."""
        found = self._prefix_cache.find(tokens) if self._prefix_cache is not None and tokens else None
        if found is not None:
            return [ort.OrtValue.ortvalue_from_numpy(value) for value in found]
        cache: Cache = [self._empty] * len(self._past)
        for start in range(0, len(tokens), self._piece):
            cache = self._extended(cache, start, tokens[start : start + self._piece], cancelled)
        return cache

    def _extended(self, cache: Cache, length: int, tokens: Sequence[int], cancelled: IsCancelled) -> Cache:
        """:param length: number of tokens in ``cache``."""
        if cancelled():
            raise Cancelled("cancelled while its prompt was read")
        rows = PassRows(length)
        rows.add_tokens(tokens)
        return self._run(cache, rows, self._present)

    def _run(
        self, cache: Cache, rows: PassRows, outputs: list[str], tokens: Sequence[int] = (0,)
    ) -> list[Any]:
        feeds = dict(zip(self._past, cache, strict=True))
        inputs = rows.inputs()
        if self._takes_logit_tokens:
            inputs["logit_tokens"] = np.array(tokens, np.int64)
        for name, value in inputs.items():
            feeds[name] = ort.OrtValue.ortvalue_from_numpy(value)
        try:
            found: list[Any] = self._session.run_with_ort_values(outputs, feeds)
        except Exception as error:  # the runtime raises many kinds
            raise engine_error(error) from None
        return found


@dataclass(slots=True)
class PassRows:
    """Tokens that a pass computes after ``length`` cached tokens: the ids, the positions and the attention
    mask of these tokens."""

    length: int
    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    seen: list[tuple[int, ...]] = field(default_factory=list)
    """For each token, the indices of the tokens of this pass to which it attends, including itself."""
    wanted: list[int] = field(default_factory=list)

    def add_message(self, tokens: Sequence[int], tree: Branch) -> list[tuple[Branch, int]]:
        """Adds the message and the branches of the label tree.

        :return: a pair for each tree node that has children, the root first: the node, and the index of its
            row in the output logits.
        """
        last = self.add_tokens(tokens)
        choices = []
        waiting = [(tree, last)]
        while waiting:
            branch, row = waiting.pop()
            choices.append((branch, len(self.wanted)))
            self.wanted.append(row)
            for _, path, below in branch.edges():
                if below.children:
                    waiting.append((below, self.add_tokens(path, behind=row)))
        return choices

    def add_tokens(self, tokens: Sequence[int], behind: int | None = None) -> int:
        """Adds tokens as consecutive rows.

        :param behind: index of the row that the first added token follows; None if it follows the cached
            tokens.
        :return: index of the last added row.
        """
        before: tuple[int, ...] = () if behind is None else self.seen[behind]
        position = self.length if behind is None else self.positions[behind] + 1
        for offset, token in enumerate(tokens):
            before = (*before, len(self.tokens))
            self.tokens.append(token)
            self.positions.append(position + offset)
            self.seen.append(before)
        return len(self.tokens) - 1

    def inputs(self) -> dict[str, npt.NDArray[Any]]:
        """The inputs of the score graph for this pass."""
        count = len(self.tokens)
        sees = np.zeros((count, count), bool)
        places = np.fromiter(chain.from_iterable(self.seen), np.int64)
        sees[np.repeat(np.arange(count), [len(seen) for seen in self.seen]), places] = True
        bias = np.zeros((count, self.length + count), np.float32)
        bias[:, self.length :][~sees] = _MASKED
        return {
            "input_ids": np.array([self.tokens], np.int64),
            "attention_mask": np.ones((1, self.length + count), np.int64),
            "position_ids": np.array([self.positions], np.int64),
            "attention_bias": bias[None, None],
            "logit_positions": np.array(self.wanted, np.int64),
        }

"""Encoder: embeddings and trained heads on plain onnxruntime."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read at import; telemetry writes device ids and event files

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from edgeslm.bundle.manifest import QUESTION_SHARE, load_bundle, verify_bundle
from edgeslm.bundle.spans import Place, bare_offsets
from edgeslm.engine.calls import (
    BALANCED,
    Classify,
    Cost,
    Embed,
    FindSpans,
    IsCancelled,
    LabelText,
    Output,
    Overflow,
    Point,
    Power,
    Read,
)
from edgeslm.engine.worker.heads import Head, Pointer, load_head, load_pointer, load_reader
from edgeslm.engine.worker.overflow import fit
from edgeslm.engine.worker.prompt import load_tokenizer
from edgeslm.engine.worker.waiting import set_waiting
from edgeslm.engine.worker.zero_shot import load_zero_shot
from edgeslm.engine.worker.zero_shot_model import ZeroShotModel, quietly
from edgeslm.errors import BundleError, Cancelled
from edgeslm.messages import Truncated

Floats = npt.NDArray[np.float32]


class Encoder:
    """A loaded encoder bundle, or a loaded head bundle that contains an encoder.

    :param digest: required digest of the bundle; None accepts any bundle.
    :raises BundleError: the bundle has no encoder, or onnxruntime can't load it.
    """

    def __init__(
        self, path: Path, threads: int, *, digest: str | None = None, power: Power = BALANCED
    ) -> None:
        bundle = load_bundle(path, digest)
        manifest = bundle.manifest
        if manifest.encoder is None or manifest.graphs.encode is None:
            raise BundleError(f"{path}: a bundle of kind {manifest.kind}, where an encoder is needed")
        verify_bundle(bundle)
        self.bundle = bundle
        self.context_length = manifest.context_length
        self._section = manifest.encoder
        self._tokenizer = load_tokenizer(path)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        set_waiting(options, power)
        try:
            self._session = ort.InferenceSession(
                str(path / manifest.graphs.encode), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises a class of its own for each status code
            raise BundleError(
                f"{path / manifest.graphs.encode}: onnxruntime can't load it: {error}"
            ) from None
        self._inputs = {i.name for i in self._session.get_inputs()}
        self._heads: dict[str, Head] = {}
        self._pointers: dict[str, Pointer] = {}
        self._reader = load_reader(bundle) if manifest.is_reader else None
        try:
            self.embed(["."], "error")
        except Exception as error:
            raise BundleError(
                f"{path}: it doesn't give vectors of {self._section.dimension} numbers: {error}"
            ) from None
        self._zero_shot = load_zero_shot(bundle, self._tokenizer, self._forward)

    def embed(self, texts: Sequence[str], overflow: Overflow) -> tuple[Floats, int, Truncated | None]:
        """Returns the vectors [n, dimension] (float32), the total number of tokens, and the truncation: that
        of the last truncated text, or None if no text was truncated.

        Each text takes a separate forward pass. In a batch, int8 models compute the activation range over all
        texts, so a text's vector would depend on the other texts (measured: a cosine as low as 0.96 to the
        vector computed without a batch). Besides, batches weren't faster than single texts on two cores.
        """
        ids, truncated = [], None
        for text in texts:
            kept, _, cut = self.encode(text, overflow)
            ids.append(kept)
            truncated = cut or truncated
        vectors = np.empty((len(ids), self._section.dimension), np.float32)
        for row, sequence in enumerate(ids):
            vectors[row] = self._pooled(self._forward(sequence))
        return vectors, sum(map(len, ids)), truncated

    def run(
        self,
        call: Embed | Classify | Point | Read | LabelText | FindSpans,
        cancelled: IsCancelled = lambda: False,
    ) -> Output:
        """:param cancelled: function polled between two passes.

        :raises RequestError: the error to report to the client.
        """
        match call:
            case Embed():
                return self.run_embed(call)
            case Classify():
                return self.run_classify(call)
            case Point():
                return self.run_point(call)
            case Read():
                return self.run_read(call, cancelled)
            case LabelText():
                with quietly():
                    found = self._labeller.label(call.text, call.labels, call.overflow, cancelled)
                cost = Cost(prompt_tokens=found.tokens)
                return Output(cost=cost, probabilities=found.probabilities, truncated=found.truncated)
            case FindSpans():
                return self.run_find(call)

    @property
    def _labeller(self) -> ZeroShotModel:
        """:raises BundleError: the bundle has no zero-shot model."""
        if self._zero_shot is None:
            raise BundleError(f"{self.bundle.path}: not a zero-shot model; name a bundle that is")
        return self._zero_shot

    def run_find(self, call: FindSpans) -> Output:
        with quietly():
            found = self._labeller.find(call.text, call.labels, call.overflow, call.least)
        cost = Cost(prompt_tokens=found.tokens)
        return Output(cost=cost, probabilities=found.best, places=found.places, truncated=found.truncated)

    def run_embed(self, call: Embed) -> Output:
        vectors, tokens, truncated = self.embed(call.texts, call.overflow)
        return Output(
            cost=Cost(prompt_tokens=tokens),
            vectors=tuple(tuple(map(float, vector)) for vector in vectors),
            truncated=truncated,
        )

    def run_classify(self, call: Classify) -> Output:
        head = self._heads.get(call.head)
        if head is None:
            head = self._heads[call.head] = load_head(Path(call.head), self.bundle, call.digest)
        vectors, tokens, truncated = self.embed([call.text], call.overflow)
        return Output(
            cost=Cost(prompt_tokens=tokens),
            probabilities=tuple(map(float, head.probabilities(vectors)[0])),
            distance=head.distance(vectors[0]),
            truncated=truncated,
        )

    def read_tokens(self, text: str, overflow: Overflow) -> tuple[Floats, list[Place], Truncated | None]:
        """Returns the vectors [tokens, dimension] of the text after truncation, the character span of each
        token (empty for special tokens), and the truncation."""
        ids, offsets, truncated = self.encode(text, overflow)
        return self._forward(ids), offsets, truncated

    def run_point(self, call: Point) -> Output:
        pointer = self._pointers.get(call.head)
        if pointer is None:
            pointer = self._pointers[call.head] = load_pointer(Path(call.head), self.bundle, call.digest)
        hidden, offsets, truncated = self.read_tokens(call.text, call.overflow)
        vector = self._pooled(hidden)
        return Output(
            cost=Cost(prompt_tokens=len(hidden)),
            fields=pointer.point(hidden, vector, list(bare_offsets(call.text, offsets))),
            distance=pointer.distance(vector),
            truncated=truncated,
        )

    def run_read(self, call: Read, cancelled: IsCancelled) -> Output:
        if self._reader is None:
            raise BundleError(f"{self.bundle.path}: reads no question with a text; name a reader")
        found, places, cut, tokens = [], [], [], 0
        for number, text in enumerate(call.texts):  # no batches, as in embed
            if cancelled():
                raise Cancelled("cancelled while texts were read")
            ids, kinds, offsets, is_cut = self.encode_pair(call.question, text, call.text_tokens)
            cut += [number] if is_cut else []
            hidden = self._forward(ids, kinds)
            found.append(self._reader.probability(self._pooled(hidden)))
            places.append(self._reader.places(hidden, list(bare_offsets(text, offsets))))
            tokens += len(ids)
        cost = Cost(prompt_tokens=tokens)
        return Output(cost=cost, probabilities=tuple(found), places=tuple(places), cut=tuple(cut))

    def encode_pair(
        self, question: str, text: str, text_tokens: int | None = None
    ) -> tuple[list[int], list[int], list[Place], bool]:
        """Returns the token ids of question and text with special tokens, the segment of each token (0 or 1),
        the span of each token in ``text`` (empty for the tokens of the question), and whether the text was
        truncated. The question is truncated to a quarter of the context length; then the text is truncated to
        the remaining context length, and to ``text_tokens``."""
        encoding = self._tokenizer.encode(question, text)
        ids, kinds, parts = encoding.ids, encoding.type_ids, encoding.sequence_ids
        asked = [place for place, part in enumerate(parts) if part == 0]
        dropped = set(asked[self.context_length // QUESTION_SHARE :])
        over = len(ids) - len(dropped) - self.context_length
        read = [place for place, part in enumerate(parts) if part == 1]
        kept = len(read) - max(0, over)
        kept = kept if text_tokens is None else min(kept, text_tokens)
        dropped.update(read[kept:])
        order = [place for place in range(len(ids)) if place not in dropped]
        offsets = [at if part == 1 else (0, 0) for at, part in zip(encoding.offsets, parts, strict=True)]
        is_cut = kept < len(read)
        return [ids[at] for at in order], [kinds[at] for at in order], [offsets[at] for at in order], is_cut

    def encode(self, text: str, overflow: Overflow) -> tuple[list[int], list[Place], Truncated | None]:
        """Returns the token ids after truncation, including special tokens such as [CLS] and [SEP], the
        character span of each token, and the truncation."""
        encoding = self._tokenizer.encode(text)
        frame = encoding.special_tokens_mask
        bare = [place for place, special in enumerate(frame) if not special]
        kept, truncated = fit(bare, self.context_length - sum(frame), overflow)
        lead = frame.index(0) if bare else len(frame)
        order = [*range(lead), *kept, *range(lead + len(bare), len(frame))]
        ids, offsets = encoding.ids, encoding.offsets  # each access copies the whole list
        return [ids[at] for at in order], [offsets[at] for at in order], truncated

    def _forward(self, ids: Sequence[int], kinds: Sequence[int] | None = None) -> Floats:
        """Runs one forward pass; returns vectors [tokens, dimension]. ``kinds`` are the segments (0 or 1) of
        a text pair."""
        tokens = np.array([ids], np.int64)
        feed = {
            "input_ids": tokens,
            "attention_mask": np.ones_like(tokens),
            "token_type_ids": np.zeros_like(tokens) if kinds is None else np.array([kinds], np.int64),
        }
        hidden = self._session.run(None, {name: feed[name] for name in self._inputs})[0][0]
        return np.asarray(hidden, np.float32)

    def _pooled(self, hidden: Floats) -> Floats:
        """Pools the vectors of all tokens into one vector."""
        vector = hidden[0] if self._section.pooling == "cls" else hidden.mean(axis=0)
        if self._section.normalize:
            vector = vector / max(float(np.linalg.norm(vector)), 1e-12)
        return np.asarray(vector, np.float32)

"""Embeddings, and classifiers learned on them, on plain onnxruntime."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read at import: device ids and event files otherwise

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from edgeslm.bundle import Bundle, load_bundle, verify_bundle
from edgeslm.engine.calls import Classify, Cost, Embed, Output, Overflow
from edgeslm.engine.overflow import fit
from edgeslm.engine.prompt import load_tokenizer
from edgeslm.errors import BundleError
from edgeslm.messages import Truncated

Floats = npt.NDArray[np.float32]


class Encoder:
    """One encoder bundle, or a head that has its own encoder, loaded; ``digest`` is what it must be.

    :raises BundleError: for a bundle without an encoder or one that onnxruntime can't load.
    """

    def __init__(self, path: Path, threads: int, *, digest: str | None = None) -> None:
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
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
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
        try:
            self.embed(["."], "error")
        except Exception as error:
            raise BundleError(
                f"{path}: it doesn't give vectors of {self._section.dimension} numbers: {error}"
            ) from None

    def embed(self, texts: Sequence[str], overflow: Overflow) -> tuple[Floats, int, Truncated | None]:
        """Vectors [n, dimension] float32, the number of tokens read, and what was cut (the last cut one).

        One text a pass: int8 models take the range of their activations from all that is in the batch, so
        that a text would get another vector in other company (cosine down to 0.96 to itself, measured), and
        on two cores a batch is no faster.
        """
        ids, truncated = [], None
        for text in texts:
            kept, cut = self._encode(text, overflow)
            ids.append(kept)
            truncated = cut or truncated
        vectors = np.empty((len(ids), self._section.dimension), np.float32)
        for row, sequence in enumerate(ids):
            vectors[row] = self._forward(sequence)
        return vectors, sum(map(len, ids)), truncated

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

    def _encode(self, text: str, overflow: Overflow) -> tuple[list[int], Truncated | None]:
        """Ids with the encoder's own first and last token ([CLS], [SEP]) around what was kept."""
        encoding = self._tokenizer.encode(text)
        frame = encoding.special_tokens_mask
        bare = [token for token, special in zip(encoding.ids, frame, strict=True) if not special]
        kept, truncated = fit(bare, self.context_length - sum(frame), overflow)
        if truncated is None:
            return encoding.ids, None
        lead = frame.index(0)
        return encoding.ids[:lead] + kept + encoding.ids[lead + len(bare) :], truncated

    def _forward(self, ids: Sequence[int]) -> Floats:
        tokens = np.array([ids], np.int64)
        feed = {
            "input_ids": tokens,
            "attention_mask": np.ones_like(tokens),
            "token_type_ids": np.zeros_like(tokens),
        }
        hidden = self._session.run(None, {name: feed[name] for name in self._inputs})[0][0]
        vector = hidden[0] if self._section.pooling == "cls" else hidden.mean(axis=0)
        if self._section.normalize:
            vector = vector / max(float(np.linalg.norm(vector)), 1e-12)
        return np.asarray(vector, np.float32)


class Head:
    """A multinomial logistic regression; what its probabilities are worth, ``edgeslm.calibration`` says."""

    def __init__(self, weight: Floats, bias: Floats, centroids: Floats | None = None) -> None:
        self._weight = weight
        self._bias = bias
        self._centroids = centroids

    def probabilities(self, vectors: Floats) -> Floats:
        """[n, dimension] -> [n, labels], rows summing to 1."""
        logits = vectors @ self._weight.T + self._bias
        logits -= logits.max(axis=1, keepdims=True)
        exp = np.exp(logits)
        return np.asarray(exp / exp.sum(axis=1, keepdims=True), np.float32)

    def distance(self, vector: Floats) -> float | None:
        """1 less the cosine to the nearest centroid; None without any."""
        if self._centroids is None:
            return None
        length = max(float(np.linalg.norm(vector)), 1e-12)
        return 1 - float((self._centroids @ vector).max()) / length


def load_head(path: Path, encoder: Bundle, digest: str | None = None) -> Head:
    """:raises BundleError: no head, damaged, learned on another encoder, or not the one of ``digest``."""
    bundle = load_bundle(path, digest)
    section, learned = bundle.manifest.head, bundle.manifest.learned
    if section is None or learned is None:
        raise BundleError(f"{path}: a bundle of kind {bundle.manifest.kind}, where a learned head is needed")
    if (needed := section.encoder or bundle.digest) != encoder.digest:
        raise BundleError(f"{path}: learned on the encoder {needed}, but this is {encoder.digest}")
    verify_bundle(bundle)
    file = path / section.weights
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            weight, bias = arrays["weight"].astype(np.float32), arrays["bias"].astype(np.float32)
            centroids = arrays["centroids"].astype(np.float32) if "centroids" in arrays else None
    except Exception as error:  # zipfile, zlib and numpy raise many kinds
        raise BundleError(f"{file}: not the arrays of a head: {error}") from None
    shape = (len(learned.labels), encoder.manifest.encoder.dimension if encoder.manifest.encoder else 0)
    if weight.shape != shape or bias.shape != shape[:1]:
        raise BundleError(f"{file}: weight has shape {weight.shape}, {shape} is needed")
    if centroids is not None and (centroids.ndim != 2 or centroids.shape[1] != shape[1]):
        raise BundleError(f"{file}: centroids have shape {centroids.shape}, [groups, {shape[1]}] is needed")
    if not all(np.isfinite(values).all() for values in (weight, bias, centroids) if values is not None):
        raise BundleError(f"{file}: holds numbers that are not finite")
    return Head(weight, bias, centroids)

"""Neural-network layers in numpy: dense layers, activations, layer normalization and LSTM, for the small
heads that follow an encoder's graph."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from edgeslm.errors import BundleError

Floats = npt.NDArray[np.float32]
Arrays = Mapping[str, Floats]

_LAYER_NORM_TINY: Final = 1e-5


def read_arrays(file: Path) -> dict[str, Floats]:
    """The arrays of an ``.npz`` file as float32. :raises BundleError: the file can't be read."""
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return {name: arrays[name].astype(np.float32) for name in arrays}
    except Exception as error:  # zipfile, zlib and numpy raise many kinds
        raise BundleError(f"{file}: not the arrays of a head: {error}") from None


def check_arrays(file: Path, arrays: Arrays, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """:raises BundleError: an array is missing or has the wrong shape, or a number isn't finite."""
    for name, shape in shapes.items():
        found = arrays[name].shape if name in arrays else "none"
        if found != shape:
            raise BundleError(f"{file}: {name} has shape {found}, {shape} is needed")
    if not all(np.isfinite(values).all() for values in arrays.values()):
        raise BundleError(f"{file}: holds numbers that are not finite")


def dense_shapes(name: str, outputs: int, inputs: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays of one dense layer."""
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def dense(arrays: Arrays, name: str, values: Floats) -> Floats:
    """``values`` [..., inputs] -> [..., outputs]."""
    return np.asarray(values @ arrays[f"{name}.weight"].T + arrays[f"{name}.bias"], np.float32)


def relu(values: Floats) -> Floats:
    return np.maximum(values, np.float32(0))


def gelu(values: Floats) -> Floats:
    """Gaussian error linear unit, by the exact error function (numpy has none)."""
    erf = [math.erf(value) for value in (values.ravel() / math.sqrt(2)).tolist()]
    return np.asarray(values * (0.5 + 0.5 * np.array(erf).reshape(values.shape)), np.float32)


def activate(name: str, values: Floats) -> Floats:
    """:param name: ``gelu``, ``relu`` or ``tanh``."""
    if name == "tanh":
        return np.tanh(values)
    return gelu(values) if name == "gelu" else relu(values)


def layer_norm(arrays: Arrays, name: str, values: Floats) -> Floats:
    """Normalizes the last dimension; the layer has weights and, in some models, a bias."""
    centred = values - values.mean(axis=-1, keepdims=True)
    spread = np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + _LAYER_NORM_TINY)
    scaled = centred / spread * arrays[f"{name}.weight"]
    return np.asarray(scaled + arrays.get(f"{name}.bias", np.float32(0)), np.float32)


def sigmoid(values: Floats) -> Floats:
    with np.errstate(over="ignore"):  # exp of a large number is infinite, and the quotient is then 0
        return np.asarray(1 / (1 + np.exp(-values)), np.float32)


def softmax(logits: Floats) -> Floats:
    """Probabilities that sum to 1 along the last dimension."""
    exp = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(exp / exp.sum(axis=-1, keepdims=True), np.float32)


def lstm_shapes(name: str, layers: int, dimension: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays of a bidirectional LSTM of ``dimension`` inputs and outputs."""
    half = dimension // 2
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(layers):
        for way in ("forward", "backward"):
            at = f"{name}.{layer}.{way}"
            shapes |= {f"{at}.input": (4 * half, dimension), f"{at}.hidden": (4 * half, half)}
            shapes |= {f"{at}.bias": (4 * half,)}
    return shapes


def lstm(arrays: Arrays, name: str, layers: int, values: Floats) -> Floats:
    """Bidirectional LSTM (Hochreiter and Schmidhuber, 1997): ``values`` [steps, dimension] -> the same shape.

    Gates are in the order of PyTorch: input, forget, cell, output.
    """
    for layer in range(layers):
        ahead = _lstm_way(arrays, f"{name}.{layer}.forward", values)
        back = _lstm_way(arrays, f"{name}.{layer}.backward", values[::-1])[::-1]
        values = np.concatenate([ahead, back], axis=1)
    return values


def _lstm_way(arrays: Arrays, name: str, values: Floats) -> Floats:
    recurrent = arrays[f"{name}.hidden"]
    size = recurrent.shape[1]
    driven = values @ arrays[f"{name}.input"].T + arrays[f"{name}.bias"]
    hidden, cell = np.zeros(size, np.float32), np.zeros(size, np.float32)
    found = np.empty((len(values), size), np.float32)
    for step, row in enumerate(driven):
        gates = row + recurrent @ hidden
        opened = sigmoid(gates)
        cell = opened[size : 2 * size] * cell + opened[:size] * np.tanh(gates[2 * size : 3 * size])
        hidden = opened[3 * size :] * np.tanh(cell)
        found[step] = hidden
    return found

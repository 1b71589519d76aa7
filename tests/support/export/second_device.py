"""A second device for torch, which computes on the CPU, but whose tensors may not meet tensors of the CPU.

So a machine without a GPU finds what was left on the CPU: an operation on tensors of both devices raises, and
so does ``numpy()`` of a tensor of this device. As on a GPU, a tensor of the CPU may be copied, be an index,
or have no dimensions. The environment
variable SECOND_DEVICE_BYTES is the most that a tensor may take.

Runs a step of ``edgeslm_export`` with this device: ``python -m tests.support.export.second_device MODULE``.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from edgeslm_export.jobs.subprocess_job import OFFLINE, Reporter, run_child
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

ROOT = Path(__file__).resolve().parents[3]
SECOND = "second"
_ATEN = torch.ops.aten
_COPIES = {_ATEN._to_copy.default, _ATEN.copy_.default}
_INDEXED = {
    _ATEN.index.Tensor,
    _ATEN.index_put.default,
    _ATEN.index_put_.default,
    _ATEN._index_put_impl_.default,
}


def run_on_second(module: str, task: Mapping[str, Any], what: str, **_: Any) -> dict[str, Any]:
    """Runs a module as ``run_module`` does, on the second device."""
    command = [sys.executable, "-m", "tests.support.export.second_device", module]
    return run_child(
        command, {**task, "device": SECOND}, what, environment={**OFFLINE, "PYTHONPATH": _path()}
    )


def _path() -> str:
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


class SecondTensor(torch.Tensor):  # type: ignore[misc]
    """A tensor of the second device; ``inner`` has its numbers."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> SecondTensor:
        made: SecondTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(SECOND, 0),
        )
        made.inner = inner
        if inner.nbytes > int(os.environ.get("SECOND_DEVICE_BYTES", sys.maxsize)):
            raise torch.OutOfMemoryError("second: out of memory")
        return made

    def __init__(self, inner: torch.Tensor) -> None:
        pass

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.inner.__reduce_ex__(protocol)

    def tolist(self) -> Any:
        return self.inner.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("a tensor of the second device has no numpy(); copy it to the CPU first")

    def data_ptr(self) -> int:
        return int(self.inner.data_ptr())

    def storage(self) -> Any:
        return self.inner.storage()

    def untyped_storage(self) -> Any:
        return self.inner.untyped_storage()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


class SecondDevice(TorchDispatchMode):  # type: ignore[misc]
    """Within this mode, tensors can be made on the second device and moved to it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


class _Made(TorchFunctionMode):  # type: ignore[misc]
    """Makes on the CPU first what torch makes on a device without calling ``SecondDevice``: the tensors of
    ``torch.tensor``, and indices from lists."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.tensor:
            device = kwargs.pop("device", None)
            made = torch.tensor(*args, **kwargs)
            return made if device is None else made.to(device)
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and isinstance(args[0], SecondTensor):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            index = tuple(torch.tensor(part).to(SECOND) if isinstance(part, list) else part for part in index)
            args = (args[0], index, *args[2:])
        return func(*args, **kwargs)


def compute(operation: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
    """:raises RuntimeError: tensors of both devices meet."""
    here, there = [], []
    for value in pytree.tree_leaves((args, kwargs)):
        if isinstance(value, SecondTensor):
            here.append(value)
        elif isinstance(value, torch.Tensor) and value.dim():
            there.append(value)
    if operation in _INDEXED and isinstance(args[0], SecondTensor):
        there = [value for value in args[2:3] if not isinstance(value, SecondTensor) and value.dim()]
    if here and there and operation not in _COPIES:
        raise RuntimeError(f"{operation}: tensors of the CPU and of the second device meet")
    result_is_here = isinstance(args[0], SecondTensor) if operation is _ATEN.copy_.default else bool(here)
    named = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.device)]
    if named:
        result_is_here = named[0].type == SECOND
    known = {id(value.inner): value for value in here}  # what was changed in place

    def unwrapped(value: Any) -> Any:
        if isinstance(value, torch.device) and value.type == SECOND:
            return torch.device("cpu")
        return value.inner if isinstance(value, SecondTensor) else value

    def wrapped(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not result_is_here:
            return value
        return known[id(value)] if id(value) in known else SecondTensor(value)

    inner_args, inner_kwargs = pytree.tree_map(unwrapped, (args, kwargs))
    return pytree.tree_map(wrapped, operation(*inner_args, **inner_kwargs))


class _Module(_DummyBackendModule):  # type: ignore[misc]
    """What ``torch.get_device_module`` finds; its random numbers are the CPU's."""

    def get_rng_state(self) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor) -> None:
        torch.set_rng_state(state)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


def register() -> None:
    """Makes ``second`` a device of torch in this process."""
    _setup_privateuseone_for_python_backend(SECOND, backend_module=_Module())


def main(name: str) -> int:
    register()
    module = importlib.import_module(f"edgeslm_export.{name}")
    torch.inference_mode = torch.no_grad  # wrapped tensors know no inference mode
    # Hooks of a backward pass need this mode, which other threads don't have.
    with SecondDevice(), _Made(), torch.autograd.set_multithreading_enabled(False):
        return Reporter().run(module.run)


if __name__ == "__main__":
    status = main(sys.argv[1])
    sys.stderr.flush()
    os._exit(status)  # torch's threads of this device may not end

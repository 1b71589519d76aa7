from __future__ import annotations

import errno

import pytest

import edgeslm.errors as module
from edgeslm.engine.host.process import EngineCrashed
from edgeslm.errors import REQUEST_ERRORS, EdgeslmError, RequestError, too_little_memory, without_paths
from edgeslm.messages import ErrorBody

CODES = {
    *("invalid_request", "unknown_task", "too_large", "too_long", "busy", "expired", "cancelled", "timeout"),
    *("no_memory", "model_unavailable", "poisoned", "internal"),
}
"""All that the protocol has."""


def test_every_code_of_the_protocol_has_its_class() -> None:
    assert set(REQUEST_ERRORS) == CODES
    for code, kind in REQUEST_ERRORS.items():
        assert ErrorBody.of(kind("why")) == ErrorBody(code, "why", None)
    assert ErrorBody.of(module.Busy("why", retry_after_ms=5)).retry_after_ms == 5
    assert EngineCrashed.code == "model_unavailable"


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = {line.split("── ")[1].split()[0] for line in (module.__doc__ or "").splitlines() if "── " in line}
    classes = {name for name, kind in vars(module).items() if isinstance(kind, type)}
    assert drawn == classes - {"EdgeslmError", "ClassVar"}
    assert all(issubclass(getattr(module, name), EdgeslmError) for name in drawn)
    assert issubclass(RequestError, EdgeslmError)


@pytest.mark.parametrize(
    ("sentence", "told"),
    [
        ("/etc/edgeslm/hall.yaml:1: tasks: missing", "hall.yaml:1: tasks: missing"),
        ("/var/lib/x/a-1/model.onnx: No such file", "model.onnx: No such file"),
        (
            "https://updates.plant/x.tar: the server says 404",
            "https://updates.plant/x.tar: the server says 404",
        ),
        ("12 of 13 and/or 3/4", "12 of 13 and/or 3/4"),
    ],
)
def test_paths_are_nobody_else_s_business(sentence: str, told: str) -> None:
    assert without_paths(sentence) == told


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("can't start new thread"),
        SystemError("error return without exception set"),
        ImportError("libsqlite3.so.0: failed to map segment from shared object"),
    ],
)
def test_too_little_memory_is_told_in_a_sentence_however_it_shows(error: Exception) -> None:
    assert str(too_little_memory(error)).startswith("There is too little memory (")


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOENT, "no"), RuntimeError("no"), SystemError("no"), ImportError("no")]
)
def test_other_errors_are_not_of_memory(error: Exception) -> None:
    assert too_little_memory(error) is None

"""The choice of the device, without torch: a fake child finds the GPU."""

from __future__ import annotations

from typing import Any

import pytest
from edgeslm_export.jobs import device
from edgeslm_export.jobs.device import Device, choose_device

from edgeslm.errors import ExportError

FOUND = {"title": "NVIDIA H100", "free_bytes": 80_000_000_000}


@pytest.fixture
def said() -> list[str]:
    return []


def machine(monkeypatch: pytest.MonkeyPatch, found: dict[str, Any] | None) -> list[str]:
    """A machine with a driver, where torch finds this GPU or none; None for a machine without a driver.

    :return: the modules that were run."""
    run: list[str] = []

    def run_module(module: str, *_: Any, **__: Any) -> dict[str, Any]:
        run.append(module)
        return dict(found or {})

    monkeypatch.setattr(device, "run_module", run_module)
    monkeypatch.setattr(device, "_has_driver", lambda: found is not None)
    return run


@pytest.mark.parametrize(("wanted", "is_demanded"), [("auto", False), ("cuda", True)])
def test_a_gpu_is_taken_and_told(
    monkeypatch: pytest.MonkeyPatch, said: list[str], wanted: str, is_demanded: bool
) -> None:
    machine(monkeypatch, FOUND)
    assert choose_device(wanted, said.append) == Device(
        "cuda", "NVIDIA H100", 80_000_000_000, is_demanded=is_demanded
    )
    assert said == ["On cuda: NVIDIA H100, 80.0 GB free."]


def test_the_cpu_is_taken_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    run = machine(monkeypatch, FOUND)
    assert choose_device("cpu", said.append) == Device()
    assert (run, said) == ([], [])


@pytest.mark.parametrize("found", [None, {}])
def test_without_a_gpu_auto_is_the_cpu_and_tells_nothing(
    monkeypatch: pytest.MonkeyPatch, said: list[str], found: dict[str, Any] | None
) -> None:
    run = machine(monkeypatch, found)
    assert choose_device("auto", said.append) == Device("cpu")
    assert said == []
    assert len(run) == (found is not None), "without a driver torch isn't even imported"


@pytest.mark.parametrize("found", [None, {}])
def test_a_missing_gpu_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, said: list[str], found: dict[str, Any] | None
) -> None:
    machine(monkeypatch, found)
    with pytest.raises(ExportError, match="--device cuda: torch finds no GPU here"):
        choose_device("cuda", said.append)


@pytest.mark.parametrize(
    ("chosen", "name"),
    [
        (Device(), "cpu"),
        (Device("cuda", free_bytes=6_000_000_000), "cuda"),
        (Device("cuda", free_bytes=4_000_000_000), "cpu"),
        (Device("cuda", free_bytes=4_000_000_000, is_demanded=True), "cuda"),
    ],
)
def test_a_model_that_does_not_fit_goes_to_the_cpu(said: list[str], chosen: Device, name: str) -> None:
    assert chosen.fitting(5_000_000_000, "Training", said.append) == name
    is_moved = chosen.name != name
    told = "Training takes about 5.0 GB and the GPU has 4.0 GB free: the CPU does it."
    assert said == [told] * is_moved

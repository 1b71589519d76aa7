from __future__ import annotations

import ctypes

import pytest

from edgeslm.hardware.malloc import give_back_free_memory, give_back_large_buffers


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    give_back_large_buffers()
    give_back_free_memory()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    give_back_large_buffers()
    give_back_free_memory()

"""Voltage, heat and the clock, where the firmware of a Raspberry Pi or nobody says them."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeslm.cli.doctor.machine import judge_clock, judge_heat
from edgeslm.hardware import board
from tests.support.boards import FakeProbes, put

BITS = "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled"


def test_a_pi_5_shows_its_bits_elsewhere_and_is_not_asked(tmp_path: Path) -> None:
    put(tmp_path, BITS, "50000\n")

    probes = FakeProbes(tmp_path, said="0x0")  # which the kernel knows better
    (power, heat) = judge_heat(probes)
    assert (power.level, heat.level) == ("bad", "warn")
    assert "since the start" in power.text and "since the start" in heat.text
    put(tmp_path, BITS, "50005\n")
    (power, heat) = judge_heat(probes)
    assert "too low now" in power.text and "slowed down now" in heat.text


@pytest.mark.parametrize(("said", "found"), [("0x50000", ["power", "throttling"]), ("0x0", []), (None, [])])
def test_the_firmware_is_asked_where_the_kernel_says_nothing(
    tmp_path: Path, said: str | None, found: list[str]
) -> None:
    assert [finding.subject for finding in judge_heat(FakeProbes(tmp_path, said=said))] == found


def test_vcgencmd_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert board.ask_firmware() is None
    command = tmp_path / "vcgencmd"
    command.write_text('#!/bin/sh\n[ "$1" = get_throttled ] && echo throttled=0x50005\n')
    command.chmod(0o755)
    assert board.ask_firmware() == "0x50005"
    command.write_text("#!/bin/sh\necho VCHI initialization failed\nexit 255\n")
    assert board.ask_firmware() is None


def test_a_clock_that_was_never_set_is_told_with_what_it_says(tmp_path: Path) -> None:
    finding = judge_clock(FakeProbes(tmp_path, time=60.0))
    assert finding.level == "bad" and "1 January 1970" in finding.text and "certificates" in finding.advice
    assert judge_clock(FakeProbes(tmp_path)).level == "ok"

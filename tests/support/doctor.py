"""Fixtures for tests of ``edgeslm doctor``: boards."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.boards import N100_CPU, PI_4_CPU, meminfo, put


@pytest.fixture
def pi_4(tmp_path: Path) -> Path:
    root = tmp_path / "pi4"
    put(root, "proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.4\0")
    put(root, "proc/cpuinfo", PI_4_CPU)
    put(root, "proc/meminfo", meminfo(1900, 1500))
    put(root, "proc/self/cgroup", "0::/system.slice/edgeslm.service\n")
    put(root, "sys/class/thermal/thermal_zone0/temp", "61300\n")
    put(root, "sys/class/hwmon/hwmon1/name", "rpi_volt\n")
    put(root, "sys/class/hwmon/hwmon1/in0_lcrit_alarm", "0\n")
    put(root, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "ondemand\n")
    return root


@pytest.fixture
def n100(tmp_path: Path) -> Path:
    root = tmp_path / "n100"
    put(root, "sys/class/dmi/id/sys_vendor", "AZW\n")
    put(root, "sys/class/dmi/id/product_name", "MINI S\n")
    put(root, "proc/cpuinfo", N100_CPU)
    put(root, "proc/meminfo", meminfo(16000, 12000))
    put(root, "sys/class/thermal/thermal_zone0/temp", "27800\n")
    put(root, "sys/class/thermal/thermal_zone1/temp", "48000\n")
    put(root, "sys/class/thermal/thermal_zone2/temp", "-274000\n")
    put(root, "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count", "0\n")
    return root


@pytest.fixture(autouse=True)
def quiet_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hides bundles and state of the machine that runs the tests."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))

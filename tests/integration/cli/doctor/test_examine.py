"""``edgeslm doctor`` on boards made of files (a Raspberry Pi 4, an N100) and what goes wrong on them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import pytest

from edgeslm.cli.doctor import Finding, examine, render
from edgeslm.cli.doctor.disk import judge_free
from edgeslm.config.loader import parse_config
from edgeslm.errors import BrokerError
from edgeslm.hardware import board
from edgeslm.ipc.job import JobError
from edgeslm.mqtt.probe import Probe
from tests.support.boards import FakeProbes, config_with, look, make_bundle, meminfo, put
from tests.support.missing import FakePackages
from tests.support.missing import packages as packages
from tests.support.nodes import write_bundle
from tests.support.terminals import on_terminal as on_terminal


def test_a_raspberry_pi_4(pi_4: Path) -> None:
    found = look(pi_4)
    assert found["board"].text == "Raspberry Pi 4 Model B Rev 1.4"
    assert found["cpu"].level == "warn"
    assert "Cortex-A72, 4 cores, instructions: asimd" in found["cpu"].text
    assert "asimddp" in found["cpu"].advice
    assert found["memory"] == Finding("memory", "ok", "1.9 GB, 1.5 GB of it available")
    assert found["temperature"].text == "61 degrees Celsius"
    assert {"power", "throttling", "cpu limit", "governor"}.isdisjoint(found)


def test_an_n100(n100: Path) -> None:
    found = look(n100)
    assert found["board"].text == "AZW MINI S"
    assert found["cpu"] == Finding("cpu", "ok", "Intel(R) N100, 4 cores, instructions: avx2, avx_vnni, fma")
    assert found["temperature"].text == "48 degrees Celsius"
    assert found["profile"].text == "n100: power balanced, threads auto, 15 GB for models"
    assert {finding.level for finding in found.values()} == {"ok"}


def test_a_board_that_says_nothing(tmp_path: Path) -> None:
    found = look(tmp_path / "nothing")
    assert found["board"].level == "ok"
    assert found["memory"].level == "warn"
    assert "temperature" not in found


def test_a_pi_with_a_bad_power_supply_that_runs_hot(pi_4: Path) -> None:
    put(pi_4, "sys/class/hwmon/hwmon1/in0_lcrit_alarm", "1\n")
    put(pi_4, "sys/class/thermal/thermal_zone0/temp", "86000\n")
    put(pi_4, "sys/devices/platform/soc/soc:firmware/get_throttled", "e0000\n")
    put(pi_4, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n")
    found = look(pi_4)
    assert [found[key].level for key in ("power", "temperature", "throttling", "governor")] == [
        "bad",
        "bad",
        "warn",
        "warn",
    ]


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        ("0", (False, False, False, False)),
        ("50005", (True, True, True, True)),
        ("0x10000", (True, False, False, False)),
        ("8", (False, False, True, True)),
    ],
)
def test_the_bits_of_the_pi_firmware(pi_4: Path, bits: str, expected: tuple[bool, ...]) -> None:
    put(pi_4, "sys/devices/platform/soc/soc:firmware/get_throttled", bits)
    assert board.throttling(pi_4) == expected


def test_a_pc_that_was_throttled(n100: Path) -> None:
    put(n100, "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count", "12\n")
    assert look(n100)["throttling"].level == "warn"


def test_limits_of_control_groups_version_2(n100: Path) -> None:
    put(n100, "proc/self/cgroup", "0::/system.slice/edgeslm.service\n")
    group = "sys/fs/cgroup/system.slice/edgeslm.service"
    put(n100, f"{group}/memory.max", "max\n")
    put(n100, "sys/fs/cgroup/system.slice/memory.max", "300000000\n")
    put(n100, "sys/fs/cgroup/system.slice/memory.current", "100000000\n")
    put(n100, f"{group}/cpu.max", "150000 100000\n")
    found = look(n100)
    assert board.read_memory(n100) == board.BoardMemory(16_384_000_000, 200_000_000, 300_000_000)
    assert found["memory"].level == "bad"
    assert "MemoryMax" in found["memory"].advice
    assert found["cpu limit"].text.startswith("a control group allows 1.5 cores; models with threads: auto ")


def test_limits_of_control_groups_version_1(n100: Path) -> None:
    put(n100, "proc/self/cgroup", "4:memory:/docker/x\n1:cpu,cpuacct:/\n0::/\n")
    put(n100, "sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes", "1000000000\n")
    put(n100, "sys/fs/cgroup/memory/docker/x/memory.usage_in_bytes", "600000000\n")
    put(n100, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    put(n100, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "50000\n")
    put(n100, "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    memory = board.read_memory(n100)
    assert memory is not None
    assert (memory.available, memory.limit) == (400_000_000, 1_000_000_000)
    assert board.cpu_quota(n100) == 0.5
    assert board.usable_cores(n100) == 1, "two threads would wait for each other's quota"


def test_the_page_cache_of_a_control_group_is_free_memory_unless_it_is_mapped(n100: Path) -> None:
    put(n100, "proc/self/cgroup", "0::/node\n")
    put(n100, "sys/fs/cgroup/node/memory.max", "1000000000\n")
    put(n100, "sys/fs/cgroup/node/memory.current", "950000000\n")
    stat = "anon 250000000\ninactive_file 400000000\nactive_file 300000000\nfile_mapped 200000000\n"
    put(n100, "sys/fs/cgroup/node/memory.stat", stat)
    memory = board.read_memory(n100)
    assert memory is not None and memory.available == 550_000_000
    put(n100, "sys/fs/cgroup/node/memory.high", "900000000\n")
    memory = board.read_memory(n100)
    assert memory is not None and (memory.available, memory.limit) == (450_000_000, 900_000_000)
    put(n100, "proc/self/cgroup", "4:memory:/node\n")
    put(n100, "sys/fs/cgroup/memory/node/memory.limit_in_bytes", "1000000000\n")
    put(n100, "sys/fs/cgroup/memory/node/memory.usage_in_bytes", "950000000\n")
    stat = "".join(f"inactive_file 7\ntotal_{line}\n" for line in stat.splitlines())
    put(n100, "sys/fs/cgroup/memory/node/memory.stat", stat.replace("file_mapped", "mapped_file"))
    memory = board.read_memory(n100)
    assert memory is not None and memory.available == 550_000_000


def test_how_often_a_quota_holds_up_is_that_of_the_smallest(n100: Path) -> None:
    assert board.quota_use(n100) is None
    put(n100, "proc/self/cgroup", "0::/a/b\n")
    put(n100, "sys/fs/cgroup/a/cpu.max", "50000 100000\n")
    put(n100, "sys/fs/cgroup/a/cpu.stat", "usage_usec 5\nnr_periods 200\nnr_throttled 60\n")
    put(n100, "sys/fs/cgroup/a/b/cpu.max", "90000 100000\n")
    assert board.quota_use(n100) == board.QuotaUse(0.5, 200, 60)
    (n100 / "sys/fs/cgroup/a/cpu.stat").unlink()
    assert board.quota_use(n100) == board.QuotaUse(0.5, 0, 0)


def test_swap_space_is_what_the_control_groups_leave_of_it(n100: Path) -> None:
    with (n100 / "proc/meminfo").open("a") as file:
        file.write("SwapTotal: 2000000 kB\nSwapFree: 1000000 kB\n")

    def swap() -> int:
        memory = board.read_memory(n100)
        assert memory is not None
        return memory.swap

    assert swap() == 1_024_000_000
    put(n100, "proc/self/cgroup", "0::/node\n")
    put(n100, "sys/fs/cgroup/node/memory.swap.max", "300000000\n")
    assert swap() == 300_000_000
    put(n100, "sys/fs/cgroup/node/memory.swap.current", "200000000\n")
    assert swap() == 100_000_000
    put(n100, "proc/self/cgroup", "4:memory:/node\n")
    put(n100, "sys/fs/cgroup/memory/node/memory.limit_in_bytes", "1000000000\n")
    put(n100, "sys/fs/cgroup/memory/node/memory.memsw.limit_in_bytes", "1000000000\n")
    assert swap() == 0


def test_what_the_cores_have_computed_is_told_of_those_that_may_be_used(tmp_path: Path) -> None:
    first, *_ = cores = os.sched_getaffinity(0)
    other = max(cores) + 1
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    assert board.busy_s(tmp_path) == 0
    # user, nice, system, idle, waits, interrupts, stolen, guests
    for counts, busy in (("100 10 20 7000 90 1 2 30 4 0", 163), ("200 0 0 7000", 200)):
        lines = ["cpu  9 9 9 9 9 9 9 9 9 9", f"cpu{first} {counts}", f"cpu{other} 5000 0 0 0 0 0 0 0 0 0"]
        put(tmp_path, "proc/stat", "\n".join([*lines, "ctxt 7\n"]))
        assert board.busy_s(tmp_path) == pytest.approx(busy / ticks_per_s)


def test_little_memory_now_and_at_all(n100: Path) -> None:
    put(n100, "proc/meminfo", meminfo(4000, 200))
    assert look(n100)["memory"].level == "warn"
    put(n100, "proc/meminfo", meminfo(250, 200))
    assert look(n100)["memory"].level == "bad"


@pytest.mark.parametrize(
    ("status", "errors", "text"),
    [
        (-4, "", "uses an instruction that this CPU does not have"),
        (132, "", "uses an instruction that this CPU does not have"),
        (-11, "", "ended with SIGSEGV while loading"),
        (-9, "", "ended with SIGKILL while loading"),
        (1, "ImportError: libgomp.so.1 is missing", "does not load: ImportError: libgomp.so.1"),
        (1, "", "does not load: no reason given"),
    ],
)
def test_an_engine_that_does_not_load(n100: Path, status: int, errors: str, text: str) -> None:
    failed = JobError("ended", "its process ended unexpectedly", status, errors)
    found = examine(probes=FakeProbes(n100, loading=failed))
    engines = [finding for finding in found if finding.subject == "engine"]
    assert {finding.level for finding in engines} == {"bad"}
    assert all(text in finding.text and finding.advice for finding in engines)


@pytest.mark.parametrize(("has_cuda", "level"), [(True, "ok"), (False, "bad")])
def test_a_model_on_cuda_needs_a_library_that_can(
    n100: Path, tmp_path: Path, has_cuda: bool, level: str
) -> None:
    config = config_with({"a": make_bundle(tmp_path / "a", 100)})
    on_cuda = {"a": config.models["a"].model_copy(update={"device": "cuda"})}
    for models, wanted in ((config.models, []), (on_cuda, [level])):
        probes = FakeProbes(n100, has_cuda=has_cuda)
        found = examine(config.model_copy(update={"models": models}), probes=probes)
        device = [finding for finding in found if finding.subject == "device"]
        assert [finding.level for finding in device] == wanted
        assert all("onnxruntime-genai" in finding.text and "for a" in finding.text for finding in device)


def test_an_engine_that_hangs(n100: Path) -> None:
    hangs = JobError("time", "it takes longer than it may", -9)
    assert "did not load within" in look(n100, loading=hangs)["engine"].text


def test_libraries_that_are_not_installed(n100: Path, packages: FakePackages) -> None:
    packages.versions = {}
    found = look(n100)
    assert found["engine"].text == "onnxruntime-genai is not installed"
    assert found["libraries"].text.startswith("missing: numpy, paho-mqtt")


def test_the_engine_is_never_imported_here() -> None:
    code = (
        "import sys\nfrom edgeslm.cli.doctor import examine\nexamine()\n"
        "raise SystemExit([name for name in sys.modules if name.startswith('onnxruntime')] or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("answer", "level"), [(True, "ok"), (None, "ok"), (False, "warn")])
def test_the_clock(n100: Path, answer: bool | None, level: str) -> None:
    assert look(n100, clock=answer)["clock"].level == level


def test_this_machine_s_clock_can_be_asked() -> None:
    assert board.clock_synchronised() in (True, False, None)


def test_a_broker_that_does_not_answer(n100: Path, tmp_path: Path) -> None:
    config = config_with({"a": make_bundle(tmp_path / "a", 1)})
    refused = BrokerError("localhost:1883: connection refused")
    assert look(n100, config, broker=refused)["broker"].text == "localhost:1883: connection refused"
    found = look(n100, config, broker=Probe(problems=["no MQTT 5"]))["broker"]
    assert (found.level, found.text) == ("bad", "no MQTT 5")


def test_secrets_that_others_can_read_or_nobody_can(n100: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    secret.chmod(0o644)
    bundles = {"a": make_bundle(tmp_path / "a", 1)}
    broker = f"{{url: mqtt://broker.local, username: u, password_file: {secret}}}"
    found = examine(config_with(bundles, broker), probes=FakeProbes(n100))
    texts = [f.text for f in found if f.subject == "secrets"]
    assert texts == [
        f"password_file {secret} can be read by every user",
        "the password crosses the network in clear",
    ]
    assert "hunter2" not in str(found)
    secret.unlink()
    assert look(n100, config_with(bundles, broker))["secrets"].level == "warn"
    with_tls = config_with(bundles, broker.replace("mqtt://", "mqtts://"))
    found = examine(with_tls, probes=FakeProbes(n100))
    assert [(f.level, f.text) for f in found if f.subject == "secrets"] == [
        ("bad", f"password_file {secret}: No such file or directory")
    ]


def test_a_state_folder_that_does_not_exist_yet(
    n100: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "not/yet"))
    disk = look(n100)["disk"]
    assert str(tmp_path / "not/yet") in disk.text


@pytest.mark.parametrize(("free", "level"), [(5 * 10**9, "ok"), (5 * 10**8, "warn"), (5 * 10**7, "bad")])
def test_the_disk(tmp_path: Path, free: int, level: str) -> None:
    assert judge_free(free, tmp_path, is_writable=True).level == level


def test_rendering() -> None:
    findings = [Finding("board", "ok", "Pi"), Finding("memory", "bad", "none", "buy some")]
    assert render(findings, colour=False).splitlines() == [
        "ok    board   Pi",
        "bad   memory  none",
        "              -> buy some",
        "1 ok, 0 to look at, 1 bad",
    ]
    assert "\x1b[31mbad \x1b[0m" in render(findings, colour=True)


def test_no_colours_without_a_terminal_or_when_unwanted(
    monkeypatch: pytest.MonkeyPatch, on_terminal: Callable[[TextIO], None]
) -> None:
    findings = [Finding("board", "ok", "Pi")]
    assert "\x1b" not in render(findings)
    on_terminal(sys.stdout)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b" in render(findings)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in render(findings)


def test_a_model_of_the_wrong_kind_is_bad(pi_4: Path, tmp_path: Path) -> None:
    text = (
        f"node: n\nbroker: {{url: mqtt://localhost}}\nstate_dir: {tmp_path}/state\n"
        f"models: {{small: {{bundle: {write_bundle(tmp_path / 'small', 'encoder')}}}}}\n"
        "tasks: {t: {kind: classify, model: small, labels: [a, b]}}\n"
    )
    found = examine(parse_config(text), probes=FakeProbes(pi_4))
    assert [one.text for one in found if one.subject == "tasks"] == [
        "tasks.t.model: small is of kind encoder; this task needs kind decoder"
    ]

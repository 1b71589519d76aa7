"""``edgeslm doctor`` on boards made of files (a Raspberry Pi 4, an N100) and what goes wrong on them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from edgeslm import board
from edgeslm.config import Config, parse_config
from edgeslm.doctor import Finding, examine, render, software
from edgeslm.doctor import bundles as judged_bundles
from edgeslm.engine import libraries
from edgeslm.errors import BoardError, BrokerError, BundleError
from edgeslm.profiles import Board
from edgeslm.signature import Verdict
from edgeslm.surroundings import Signing
from tests.signers import Signer

PI_4_CPU = "".join(
    f"""processor\t: {core}
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

"""
    for core in range(4)
)
N100_CPU = "".join(
    f"""processor\t: {core}
vendor_id\t: GenuineIntel
model name\t: Intel(R) N100
flags\t\t: fpu sse2 ssse3 fma avx f16c avx2 avx_vnni

"""
    for core in range(4)
)


def meminfo(total_mb: int, available_mb: int) -> str:
    return f"MemTotal:    {total_mb * 1000} kB\nMemFree:   1 kB\nMemAvailable:   {available_mb * 1000} kB\n"


def put(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


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
    """No bundles and no state of the machine that runs the tests."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))


def child(status: int, errors: str = "") -> Callable[[str], subprocess.CompletedProcess[str]]:
    return lambda name: subprocess.CompletedProcess([name], status, "", errors)


MACHINE = Board("this", "a test", 4, 8 * 10**9, 15.0, 200.0, 200.0)


def look(root: Path, config: Config | None = None, bundles: tuple[Path, ...] = ()) -> dict[str, Finding]:
    """Findings by subject; a board whose libraries load, whose clock is right and whose broker answers."""
    found = examine(
        config,
        bundles,
        root=root,
        probe_library=child(0),
        probe_broker=lambda config: (["answers in 1 ms"], []),
        clock=lambda: True,
        measure=lambda: MACHINE,
        measure_disk=lambda folder: [4.0, 5.0, 60.0],
        resolve=lambda host: ["192.168.1.9"],
    )
    assert all(finding.advice for finding in found if finding.level != "ok")
    assert not any(finding.advice for finding in found if finding.level == "ok")
    return {finding.subject: finding for finding in found}


def make_bundle(folder: Path, megabytes: int) -> Path:
    """A bundle whose weights are a hole in a file: the arithmetic only looks at sizes."""
    folder.mkdir(parents=True)
    with (folder / "model.onnx").open("wb") as stream:
        stream.truncate(megabytes * 1_000_000)
    manifest = {
        "format": 1,
        "name": folder.name,
        "kind": "decoder",
        "architecture": "LlamaForCausalLM",
        "source": {"id": "test"},
        "files": [
            {"path": "model.onnx", "bytes": megabytes * 1_000_000, "sha256": hashlib.sha256().hexdigest()}
        ],
        "context_length": 2048,
        "kv_bytes_per_token": 46080,
        "created": "2026-01-01T00:00:00Z",
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def config_with(bundles: dict[str, Path], broker: str = "{url: mqtt://localhost}") -> Config:
    models = ", ".join(f"{name}: {{bundle: {path}}}" for name, path in bundles.items())
    task = f"{{kind: generate, model: {next(iter(bundles))}}}"
    return parse_config(f"node: n\nbroker: {broker}\nmodels: {{{models}}}\ntasks: {{t: {task}}}")


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
    assert found["profile"].text.startswith(
        "n100: power balanced, threads auto, 15 GB for models; fit for it"
    )
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
    assert board.read_memory(n100) == board.Memory(16_384_000_000, 200_000_000, 300_000_000)
    assert found["memory"].level == "bad"
    assert "MemoryMax" in found["memory"].advice
    assert found["cpu limit"].text == "a control group allows 1.5 cores"


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


def test_what_the_cores_have_computed_is_told_of_those_that_may_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 11})
    monkeypatch.setattr(os, "sysconf", lambda name: 100)
    assert board.busy_s(tmp_path) == 0
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text(
        "cpu  9 9 9 9 9 9 9 9 9 9\n"
        "cpu0 100 10 20 7000 90 1 2 30 4 0\n"  # user, nice, system, idle, waits, interrupts, stolen, guests
        "cpu1 5000 0 0 0 0 0 0 0 0 0\n"
        "cpu11 200 0 0 7000\nctxt 7\n"
    )
    assert board.busy_s(tmp_path) == pytest.approx(3.63)


def test_little_memory_now_and_at_all(n100: Path) -> None:
    put(n100, "proc/meminfo", meminfo(4000, 200))
    assert look(n100)["memory"].level == "warn"
    put(n100, "proc/meminfo", meminfo(250, 200))
    assert look(n100)["memory"].level == "bad"


def test_bundles_are_measured_against_the_memory(pi_4: Path, tmp_path: Path) -> None:
    small, large = make_bundle(tmp_path / "small", 86), make_bundle(tmp_path / "large", 930)
    huge, broken = make_bundle(tmp_path / "huge", 3000), tmp_path / "broken"
    found = look(pi_4, bundles=(small, large, huge, broken))
    assert [found[f"bundle {name}"].level for name in ("small", "large", "huge", "broken")] == [
        "ok",
        "warn",
        "bad",
        "bad",
    ]
    assert found["bundle small"].text == "needs about 323 MB at 2048 tokens"
    manifest = json.loads((small / "manifest.json").read_text())
    (small / "manifest.json").write_text(json.dumps({**manifest, "context_length": 64}))
    assert look(pi_4, bundles=(small,))["bundle small"].text.endswith(" MB at 64 tokens")


def test_bundles_of_the_starter_folder_are_found(pi_4: Path, tmp_path: Path) -> None:
    make_bundle(tmp_path / "data/edgeslm/starter/smollm2-135m-int4", 86)
    assert look(pi_4)["bundle smollm2-135m-int4"].level == "ok"


def test_models_of_a_configuration_must_fit_together(pi_4: Path, tmp_path: Path) -> None:
    config = config_with({"a": make_bundle(tmp_path / "a", 420), "b": make_bundle(tmp_path / "b", 420)})
    found = look(pi_4, config)
    assert (found["model a"].level, found["model b"].level, found["all models"].level) == ("ok", "ok", "warn")
    assert found["broker"] == Finding("broker", "ok", "answers in 1 ms")


def test_a_model_of_the_configuration_that_is_not_there(pi_4: Path, tmp_path: Path) -> None:
    found = look(pi_4, config_with({"a": tmp_path / "gone"}))
    assert found["model a"].level == "bad"
    assert str(tmp_path / "gone") in found["model a"].text


@pytest.mark.parametrize(
    ("status", "errors", "text"),
    [
        (-4, "", "uses an instruction that this CPU does not have"),
        (132, "", "uses an instruction that this CPU does not have"),
        (-11, "", "ended with SIGSEGV while loading"),
        (-9, "", "ended with SIGKILL while loading"),
        (1, "Traceback\nImportError: libgomp.so.1 is missing\n", "does not load: ImportError: libgomp.so.1"),
        (1, "", "does not load: no reason given"),
    ],
)
def test_an_engine_that_does_not_load(n100: Path, status: int, errors: str, text: str) -> None:
    found = examine(root=n100, probe_library=child(status, errors), clock=lambda: True)
    engines = [finding for finding in found if finding.subject == "engine"]
    assert {finding.level for finding in engines} == {"bad"}
    assert all(text in finding.text and finding.advice for finding in engines)


@pytest.mark.parametrize(("said", "level"), [("True\n", "ok"), ("False\n", "bad")])
def test_a_model_on_cuda_needs_a_library_that_can(n100: Path, tmp_path: Path, said: str, level: str) -> None:
    def probe(module: str) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([module], 0, said if module == libraries.GENAI else "", "")

    config = config_with({"a": make_bundle(tmp_path / "a", 100)})
    on_cuda = {"a": config.models["a"].model_copy(update={"device": "cuda"})}
    for models, wanted in ((config.models, []), (on_cuda, [level])):
        found = examine(
            config.model_copy(update={"models": models}),
            root=n100,
            probe_library=probe,
            probe_broker=lambda config: ([], []),
            clock=lambda: True,
            measure=lambda: MACHINE,
        )
        device = [finding for finding in found if finding.subject == "device"]
        assert [finding.level for finding in device] == wanted
        assert all("onnxruntime-genai" in finding.text and "for a" in finding.text for finding in device)


def test_an_engine_that_hangs(n100: Path) -> None:
    def hang(name: str) -> subprocess.CompletedProcess[str]:
        raise subprocess.TimeoutExpired(name, libraries.TIMEOUT_S)

    found = examine(root=n100, probe_library=hang, clock=lambda: True)
    assert "did not load within" in next(f.text for f in found if f.subject == "engine")


def test_libraries_that_are_not_installed(n100: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(software, "version", missing)
    monkeypatch.setattr(libraries, "version", missing)
    found = {f.subject: f for f in examine(root=n100, clock=lambda: True)}
    assert found["engine"].text == "onnxruntime-genai is not installed"
    assert found["libraries"].text.startswith("missing: numpy, paho-mqtt")


def test_the_engine_is_never_imported_here(n100: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom edgeslm.doctor import examine\n"
        f"examine(root=Path({str(n100)!r}))\n"
        "raise SystemExit([name for name in sys.modules if name.startswith('onnxruntime')] or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("answer", "level"), [(True, "ok"), (None, "ok"), (False, "warn")])
def test_the_clock(n100: Path, answer: bool | None, level: str) -> None:
    found = examine(root=n100, probe_library=child(0), clock=lambda: answer)
    assert next(finding.level for finding in found if finding.subject == "clock") == level


def test_this_machine_s_clock_can_be_asked() -> None:
    assert board.clock_synchronised() in (True, False, None)


def test_a_broker_that_does_not_answer(n100: Path, tmp_path: Path) -> None:
    config = config_with({"a": make_bundle(tmp_path / "a", 1)})

    def refuse(config: Config) -> tuple[list[str], list[str]]:
        raise BrokerError("localhost:1883: connection refused")

    found = examine(config, root=n100, probe_library=child(0), probe_broker=refuse, clock=lambda: True)
    assert [f.text for f in found if f.subject == "broker"] == ["localhost:1883: connection refused"]
    found = examine(
        config,
        root=n100,
        probe_library=child(0),
        probe_broker=lambda config: ([], ["no MQTT 5"]),
        clock=lambda: True,
    )
    assert [(f.level, f.text) for f in found if f.subject == "broker"] == [("bad", "no MQTT 5")]


def test_secrets_that_others_can_read_or_nobody_can(n100: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    secret.chmod(0o644)
    bundles = {"a": make_bundle(tmp_path / "a", 1)}
    broker = f"{{url: mqtt://broker.local, username: u, password_file: {secret}}}"
    found = examine(
        config_with(bundles, broker),
        root=n100,
        probe_library=child(0),
        probe_broker=lambda config: ([], []),
        clock=lambda: True,
    )
    texts = [f.text for f in found if f.subject == "secrets"]
    assert texts == [
        f"password_file {secret} can be read by every user",
        "the password crosses the network in clear",
    ]
    assert "hunter2" not in str(found)
    secret.unlink()
    assert look(n100, config_with(bundles, broker))["secrets"].level == "warn"
    found = examine(
        config_with(bundles, broker.replace("mqtt://", "mqtts://")),
        root=n100,
        probe_library=child(0),
        probe_broker=lambda config: ([], []),
        clock=lambda: True,
    )
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
def test_the_disk(n100: Path, monkeypatch: pytest.MonkeyPatch, free: int, level: str) -> None:
    usage = type("usage", (), {"free": free})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert look(n100)["disk"].level == level


def test_rendering() -> None:
    findings = [Finding("board", "ok", "Pi"), Finding("memory", "bad", "none", "buy some")]
    assert render(findings, colour=False).splitlines() == [
        "ok    board   Pi",
        "bad   memory  none",
        "              -> buy some",
        "1 ok, 0 to look at, 1 bad",
    ]
    assert "\x1b[31mbad \x1b[0m" in render(findings, colour=True)


def test_no_colours_without_a_terminal_or_when_unwanted(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = [Finding("board", "ok", "Pi")]
    assert "\x1b" not in render(findings)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b" in render(findings)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in render(findings)


def signing_config(bundle: Path, *keys: Path, required: bool = False) -> Config:
    signing = {"require_signature": required, "keys": [str(key) for key in keys]}
    config = config_with({"small": bundle})
    return config.model_copy(update={"signing": Signing.model_validate_json(json.dumps(signing))})


def test_signatures_are_told_in_plain_words(n100: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "small", 0)
    signer, other = Signer(tmp_path), Signer(tmp_path, "other")
    assert "signature model small" not in look(n100, signing_config(bundle))
    finding = look(n100, signing_config(bundle, signer.public))["signature model small"]
    assert (finding.level, finding.text.partition(":")[0]) == ("warn", "not signed")
    finding = look(n100, signing_config(bundle, signer.public, required=True))["signature model small"]
    assert (finding.level, finding.text.partition(":")[0]) == ("bad", "not signed")
    signer.sign(bundle)
    finding = look(n100, signing_config(bundle))["signature model small"]
    assert finding.level == "ok" and "not verified, as no key was named" in finding.text
    finding = look(n100, signing_config(bundle, signer.public, required=True))["signature model small"]
    assert finding == Finding("signature model small", "ok", f"{bundle} is signed by {signer.public}")
    finding = look(n100, signing_config(bundle, other.public, required=True))["signature model small"]
    assert finding.level == "bad" and "not made with the key" in finding.text


@pytest.mark.parametrize(("required", "level"), [(True, "bad"), (False, "warn")])
def test_signatures_without_the_library(
    n100: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, required: bool, level: str
) -> None:
    missing = Verdict("unverifiable", "the package model_signing is missing: pip install it")
    monkeypatch.setattr(judged_bundles, "check_bundles", lambda bundles, keys: [missing])
    bundle = make_bundle(tmp_path / "small", 0)
    finding = look(n100, signing_config(bundle, tmp_path / "a.pub", required=required))[
        "signature model small"
    ]
    assert (finding.level, finding.advice) == (level, "pip install 'edgeslm[verify]'")
    assert finding.text == f"{bundle} is not verifiable: the package model_signing is missing"


def test_a_check_of_signatures_that_fails(
    n100: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise BundleError("the check of signatures ended unexpectedly (signal 9): no word")

    monkeypatch.setattr(judged_bundles, "check_bundles", fail)
    bundle = make_bundle(tmp_path / "small", 0)
    finding = look(n100, signing_config(bundle, tmp_path / "a.pub"))["signatures"]
    assert finding.level == "bad" and "signal 9" in finding.text


def test_a_known_model_is_told_with_its_speed(n100: Path, starter: Path) -> None:
    found = look(n100, bundles=(starter / "smollm2-135m-int4",))
    assert found["speed"].text == "reads 15.0 GB/s, computes 200 GFLOPS with 4-bit weights on 4 cores"
    text = found["bundle smollm2-135m-int4"].text
    assert re.fullmatch(r"needs about 3\d\d MB at 2048 tokens, reads \d+ and writes \d+ tokens/s there", text)


def test_a_busy_machine_is_told(n100: Path, starter: Path) -> None:
    found = examine(
        bundles=(starter / "smollm2-135m-int4",),
        root=n100,
        probe_library=child(0),
        clock=lambda: True,
        measure=lambda: replace(MACHINE, busy=True),
    )
    assert "other programs computed meanwhile" in next(f.text for f in found if f.subject == "speed")


def test_a_board_that_can_not_be_measured_still_tells_the_memory(n100: Path, starter: Path) -> None:
    def fail() -> Board:
        raise BoardError("The speed of this machine can't be measured: no engine.")

    found = examine(
        bundles=(starter / "smollm2-135m-int4",),
        root=n100,
        probe_library=child(0),
        clock=lambda: True,
        measure=fail,
    )
    told = {finding.subject: finding for finding in found}
    assert told["speed"].level == "warn"
    assert told["bundle smollm2-135m-int4"].text.endswith("at 2048 tokens")


def test_a_board_short_of_memory_is_not_measured(n100: Path, starter: Path) -> None:
    (n100 / "proc/meminfo").write_text("MemTotal: 500000 kB\nMemAvailable: 300000 kB\n")
    found = look(n100, bundles=(starter / "smollm2-135m-int4",))
    assert (found["speed"].level, found["speed"].text[:12]) == ("warn", "not measured")
    assert "tokens/s" not in found["bundle smollm2-135m-int4"].text

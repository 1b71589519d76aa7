"""benchmarks/speed/throughput.py without broker and daemon: its settings, its figures, its client's bytes."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.benchmarks.scripts import load_scripts


@pytest.fixture(scope="module")
def throughput() -> ModuleType:
    return load_scripts("throughput")["throughput"]


@pytest.fixture(scope="module")
def bare_client() -> ModuleType:
    return load_scripts("bare_client")["bare_client"]


@pytest.mark.parametrize(("profile", "on_changes"), [("strict", "true"), ("balanced", "false")])
def test_a_profile_is_the_shipped_file_on_a_port_of_its_own(
    tmp_path: Path, profile: str, on_changes: str
) -> None:
    lines = load_scripts("bus_path")["bus_path"].broker_settings(profile, 4711, tmp_path).splitlines()
    names = [line.split()[0] for line in lines]
    assert len(set(names)) == len(names)
    settings = dict(line.split(maxsplit=1) for line in lines)
    assert settings["listener"] == "4711 127.0.0.1"
    assert settings["autosave_on_changes"] == on_changes
    assert settings["max_inflight_messages"] == "256"
    assert settings["persistence_location"] == f"{tmp_path}/"
    assert "password_file" not in settings


def test_figures_are_per_request(throughput: ModuleType) -> None:
    run = throughput.Run(2.0, [0.010, 0.020, 0.030, 0.040])
    used = {
        "broker": throughput.Usage(0.004, 0.004, 4000, 8000),
        "daemon": throughput.Usage(0.020, 0.012, 400, 0),
    }
    measured = throughput.figures(run, used)
    assert measured["requests_per_s"] == 2
    assert measured["latency_ms"] == {"p50": 20.0, "p95": 40.0, "p99": 40.0}
    assert measured["cpu_s_per_1000"] == {"broker": 1.0, "daemon": 5.0, "daemon_loop": 3.0}
    assert measured["written_per_request"]["broker"] == {"handed_bytes": 1000, "disk_bytes": 2000}
    json.dumps(measured)
    used["client"] = throughput.Usage(0.001)
    line = throughput.row("balanced", "parent", 16, throughput.figures(run, used))
    wanted = "balanced parent 16 2 20.0 40.0 40.0 1.000 5.000 3.000 0.250 2000 0"
    assert " ".join(line.split()) == wanted


def test_usage_comes_from_the_kernel(throughput: ModuleType) -> None:
    stat = "71 (a) b) S 1 71 71 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 3 0 1 1 1"
    ticks = 300 / throughput.os.sysconf("SC_CLK_TCK")
    assert load_scripts("processes")["processes"].parse_cpu_seconds(stat) == ticks
    io = "rchar: 1\nwchar: 20\nwrite_bytes: 300\ncancelled_write_bytes: 4000\n"
    assert throughput.parse_io(io)["write_bytes"] == 300
    own = throughput.Usage.of(throughput.os.getpid())
    assert own.cpu_s > 0
    assert own - own == throughput.Usage()


def test_the_file_system_is_that_of_the_nearest_mount(throughput: ModuleType) -> None:
    mounts = "/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/b /tmp/sd\\040card vfat rw 0 0\n"
    assert throughput.file_system(Path("/home/x"), mounts) == "ext4"
    assert throughput.file_system(Path("/tmp/x"), mounts) == "tmpfs"
    assert throughput.file_system(Path("/tmp/sd card/x"), mounts) == "vfat"


@pytest.mark.parametrize("arguments", [["--in-flight", "0"], ["--in-flight", "257"], ["--requests", "1"]])
def test_impossible_arguments_are_refused(
    throughput: ModuleType, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        throughput.parse_arguments(arguments)
    assert ended.value.code == 2
    assert "must be" in capsys.readouterr().err


@given(st.integers(0, 268_435_455), st.binary(max_size=3))
def test_variable_integers_come_back(bare_client: ModuleType, value: int, behind: bytes) -> None:
    encoded = bare_client.variable_integer(value)
    assert bare_client.read_variable_integer(encoded + behind, 0) == (value, len(encoded))
    assert bare_client.read_variable_integer(encoded[:-1], 0) is None


@given(st.lists(st.binary(max_size=300), max_size=5), st.integers(0, 10))
def test_packets_are_split_where_they_end(bare_client: ModuleType, bodies: list[bytes], missing: int) -> None:
    data = b"".join(bare_client.packet(0x30, body) for body in bodies)
    packets, used = bare_client.split(data[: len(data) - missing])
    assert packets == [(0x30, body) for body in bodies][: len(packets)]
    assert data[:used] == b"".join(bare_client.packet(kind, body) for kind, body in packets)
    assert missing or len(packets) == len(bodies)


def test_a_result_is_known_by_its_correlation_data(bare_client: ModuleType) -> None:
    properties = b"\x02" + bytes(4) + b"\x09\x00\x03abc"
    body = bare_client.text("a/b") + struct.pack("!H", 7) + bytes([len(properties)]) + properties + b"{}"
    assert bare_client.read_message(0x32, body) == bare_client.Message(7, b"abc", b"{}")
    plain = bare_client.text("a/b") + b"\x00" + b"{}"
    assert bare_client.read_message(0x30, plain) == bare_client.Message(0, b"", b"{}")
    with pytest.raises(SystemExit, match="property 0x26"):
        bare_client.read_message(0x30, bare_client.text("a/b") + b"\x05\x26\x00\x00\x00\x00")

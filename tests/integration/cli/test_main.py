"""The command ``edgeslm``: what it prints, and its exit status."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgeslm.cli import main
from tests.support.apps import WAIT_S, App
from tests.support.brokers import Mosquitto, free_port
from tests.support.missing import replace_package
from tests.support.nodes import BASE, Node, fake_configuration, write_bundle, write_configuration
from tests.support.nodes import fake_engines as fake_engines
from tests.support.signers import Signer
from tests.support.terminals import types as types

COMMANDS = (
    *("run", "check", "demo", "try", "request", "inspect", "prepare", "doctor"),
    *("feedback", "knowledge", "provision", "purge", "recover"),
)


class Outcome:
    """What a command left: exit status, standard output, standard error."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def results(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def edgeslm(capsys: pytest.CaptureFixture[str], types: Callable[[bytes], None], fake_engines: None) -> Any:
    """Runs the command in this process; its engines are fakes."""

    def run(*arguments: object, stdin: bytes = b"") -> Outcome:
        types(stdin)
        try:
            status = main.main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = int(end.code or 0)
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return Outcome(status, said.out, said.err)

    return run


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Sound, with fake bundles and a broker that isn't there."""
    return write_configuration(tmp_path, fake_configuration(f"mqtt://127.0.0.1:{free_port()}", tmp_path))


def as_process(*arguments: object, **how: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgeslm", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        **how,
    )


# All commands


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(edgeslm: Any, command: str) -> None:
    done = edgeslm(command, "--help")
    assert done.status == 0
    assert re.search(rf"^example: edgeslm {command}\b", done.out, re.MULTILINE)


def test_the_help_lists_all_commands(edgeslm: Any) -> None:
    done = edgeslm("--help")
    assert all(re.search(rf"^ +{command} ", done.out, re.MULTILINE) for command in COMMANDS)
    assert edgeslm("--version").out.startswith("edgeslm 0.")


@pytest.mark.parametrize("arguments", [[], ["fly"], ["run"], ["check"], ["try", "c.yaml"]])
def test_a_command_line_that_can_t_be_understood_is_status_2(edgeslm: Any, arguments: Sequence[str]) -> None:
    done = edgeslm(*arguments)
    assert (done.status, done.out) == (2, "")
    assert done.err


@pytest.mark.parametrize("arguments", [["t", "x"], ["t", "x", "--options", "x"], ["--fly"]])
def test_of_a_request_status_2_says_a_time_out_and_nothing_else(
    edgeslm: Any, arguments: Sequence[str]
) -> None:
    """What repeats on 2 must not repeat a mistake."""
    done = edgeslm("request", *arguments)
    assert (done.status, done.out) == (1, "") and done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "no.yaml"],
        ["check", "no.yaml"],
        ["try", "no.yaml", "t", "x"],
        ["inspect", "no"],
        ["doctor", "--config", "no.yaml"],
    ],
    ids=lambda arguments: str(arguments[0]),
)
def test_a_missing_file_is_one_sentence_and_status_1(
    edgeslm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Sequence[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    done = edgeslm(*arguments)
    assert (done.status, done.out) == (1, "")
    assert re.fullmatch(r"[^\n]*\bno(\.yaml)?\b[^\n]*there is no such f[^\n]*\n", done.err)


def test_tracebacks_come_with_debug_alone(tmp_path: Path) -> None:
    plain, debug = (as_process("inspect", tmp_path / "no", *more) for more in ([], ["--debug"]))
    assert (plain.returncode, debug.returncode) == (1, 1)
    assert plain.stderr == f"edgeslm: {tmp_path / 'no'}: there is no such folder\n"
    assert "Traceback" in debug.stderr


def test_an_error_nobody_thought_of_is_a_sentence_too() -> None:
    """Here, of what it writes to."""
    for more in ([], ["--debug"]):
        with Path("/dev/full").open("w") as full:
            command = [sys.executable, "-m", "edgeslm", "check", "--schema", *more]
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert done.returncode == 1
        assert "No space left on device" in done.stderr
        assert ("Traceback" in done.stderr) == bool(more)


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -m edgeslm check --schema | head -c 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("{", "")


@pytest.mark.parametrize(
    ("command", "number", "status"), [("check", signal.SIGINT, 130), ("run", signal.SIGTERM, 0)]
)
def test_a_signal_while_the_configuration_is_read(
    tmp_path: Path, command: str, number: signal.Signals, status: int
) -> None:
    """Ctrl-C is status 130; SIGTERM before the daemon is up is an ordinary end."""
    os.mkfifo(tmp_path / "c.yaml")
    with subprocess.Popen([sys.executable, "-m", "edgeslm", command, str(tmp_path / "c.yaml")]) as process:
        pipe = opened_for_reading(tmp_path / "c.yaml", process)
        process.send_signal(number)
        os.close(pipe)  # a signal just before the read would leave it waiting
        assert process.wait(WAIT_S) == status


def opened_for_reading(fifo: Path, process: subprocess.Popen[bytes]) -> int:
    """The other end of a named pipe, as soon as the process has opened it."""
    while True:
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody reads
            assert process.poll() is None
            time.sleep(0.01)


# check


def test_check_says_that_a_sound_file_has_no_errors(edgeslm: Any, config: Path) -> None:
    done = edgeslm("check", config)
    first, note = done.out.splitlines()
    assert (done.status, first, done.err) == (0, f"{config}: no errors", "")
    assert note.startswith("- untrained: triage, strict; ")


def test_check_notes_bundles_that_arent_here(edgeslm: Any, tmp_path: Path) -> None:
    """The configuration may be for another machine."""
    configuration = fake_configuration("mqtt://localhost", tmp_path)
    configuration["models"]["small"]["bundle"] = "/nowhere"
    done = edgeslm("check", write_configuration(tmp_path, configuration))
    assert done.status == 0
    assert "- model small: /nowhere isn't on this machine" in done.out.splitlines()


def test_check_notes_bundles_of_another_user(
    edgeslm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration = fake_configuration("mqtt://localhost", tmp_path)
    exists = Path.exists

    def refuse(path: Path, **how: Any) -> bool:
        if path.name == "small":
            raise PermissionError(13, "Permission denied")
        return exists(path, **how)

    monkeypatch.setattr(Path, "exists", refuse)
    done = edgeslm("check", write_configuration(tmp_path, configuration))
    assert done.status == 0
    assert f"- model small: {tmp_path}/small can't be read by this user" in done.out.splitlines()


def test_check_finds_a_bundle_of_the_wrong_kind(edgeslm: Any, tmp_path: Path) -> None:
    configuration = fake_configuration("mqtt://localhost", tmp_path)
    configuration["models"]["small"] = configuration["models"]["encoder"]
    file = write_configuration(tmp_path, configuration)
    done = edgeslm("check", file)
    line = next(n for n, text in enumerate(file.read_text().splitlines(), 1) if text == "  triage:") + 2
    wanted = f"{file}:{line}: tasks.triage.model: small is of kind encoder; this task needs kind decoder"
    assert (done.status, wanted in done.err) == (1, True)


def test_check_prints_every_error_with_its_line(edgeslm: Any, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(
        "node: Press Hall\n"
        "broker: {url: http://x, password: geheim}\n"
        "models:\n  small: {bundle: /srv/small, threads: many}\n"
        "tasks:\n  triage: {kind: classify, model: smal, lables: [a, b]}\n"
        "limits: {queue: 0}\n"
    )
    done = edgeslm("check", file)
    lines = done.err.splitlines()
    assert (done.status, done.out) == (1, "")
    assert len(lines) >= 6
    for line in lines:
        assert re.fullmatch(rf"{re.escape(str(file))}:\d+: [\w.\[\]]+: .+", line), line
    keys = {line.split(": ")[1] for line in lines}
    assert {
        "node",
        "broker.url",
        "broker.password",
        "models.small.threads",
        "tasks.triage.lables",
        "limits.queue",
    } <= keys
    assert "geheim" not in done.err


def test_check_notes_files_that_arent_here(edgeslm: Any, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("")
    web = {"cert_file": "cert.pem", "key_file": "key.pem"}
    configuration = fake_configuration("mqtts://localhost", tmp_path, api=web)
    configuration["broker"] |= {"username": "n", "password_file": "password", "ca_file": "ca.pem"}
    done = edgeslm("check", write_configuration(tmp_path, configuration))
    assert done.status == 0
    for key, name in (
        ("broker.password_file", "password"),
        ("broker.ca_file", "ca.pem"),
        ("api.cert_file", "cert.pem"),
    ):
        assert f"- {key}: {tmp_path / name} isn't on this machine\n" in done.out
    assert "key.pem" not in done.out


def test_check_notes_sections_without_a_value(edgeslm: Any, config: Path) -> None:
    config.write_text(config.read_text() + "\napi:\nconsole: {teach: }\npool:\n")
    done = edgeslm("check", config)
    assert done.status == 0
    assert "- api is empty, so it is off: write `api: {}` to turn it on, or remove it\n" in done.out
    assert "- console.teach is empty, so it is off: write `teach: {}`" in done.out
    assert "- pool is empty, so it is off: give it its keys" in done.out


def test_check_reads_the_tokens_of_the_api(edgeslm: Any, config: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    config.write_text(config.read_text() + f"\napi: {{tokens: {tokens}}}\n")
    done = edgeslm("check", config)
    assert (done.status, "can't be read here: No such file" in done.out) == (0, True)
    tokens.write_text("app short\n")
    done = edgeslm("check", config)
    assert (done.status, "line 1: the token needs 16 characters" in done.err) == (1, True)
    tokens.write_text("app 0123456789abcdef tasks=nothing\n")
    done = edgeslm("check", config)
    assert (done.status, "app may use nothing, which isn't here" in done.out) == (0, True)


def test_check_names_the_extra_of_mcp(edgeslm: Any, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text(config.read_text() + "\napi:\n  mcp: true\n")
    assert edgeslm("check", config).status == 0
    monkeypatch.setitem(sys.modules, "mcp", None)
    done = edgeslm("check", config)
    number = len(config.read_text().splitlines())
    line = f"{config}:{number}: api.mcp: needs more packages: pip install '.[mcp]' in a clone\n"
    assert (done.status, done.err) == (1, line)


def test_check_names_what_teaching_needs(edgeslm: Any, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = config.read_text()
    config.write_text(f"{text}\nconsole:\n  teach: {{encoder: small}}\n")
    done = edgeslm("check", config)
    assert done.status == 1 and "console.teach.encoder: small is no encoder" in done.err
    config.write_text(f"{text}\nconsole:\n  teach: {{}}\n")
    done = edgeslm("check", config)
    assert (done.status, done.err) == (0, "")
    monkeypatch.setitem(sys.modules, "sklearn", None)
    done = edgeslm("check", config)
    number = len(config.read_text().splitlines())
    line = f"{config}:{number}: console.teach: needs more packages: pip install '.[heads]' in a clone\n"
    assert (done.status, done.err) == (1, line)


def test_check_schema_prints_a_json_schema_and_needs_no_file(edgeslm: Any) -> None:
    done = edgeslm("check", "--schema")
    schema = json.loads(done.out)
    assert (done.status, schema["type"]) == (0, "object")
    assert {"node", "broker", "tasks"} <= set(schema["required"])


def test_check_connect_tries_the_broker(edgeslm: Any, broker: Mosquitto, tmp_path: Path) -> None:
    file = write_configuration(tmp_path, fake_configuration(broker.url, tmp_path))
    done = edgeslm("check", file, "--connect")
    assert (done.status, done.err) == (0, "")
    first, *notes = done.out.splitlines()
    assert first == f"{file}: no errors", "the verdict comes first"
    assert "its answer take" in notes[0]
    assert all(len(note) < 200 for note in notes)


def test_check_connect_says_what_is_wrong_with_the_broker(edgeslm: Any, config: Path) -> None:
    done = edgeslm("check", config, "--connect")
    assert done.status == 1
    assert re.fullmatch(rf"{re.escape(str(config))}:2: broker: Nothing listens at [^\n]+\n", done.err)


# try


def test_try_reads_a_text_as_a_message_of_a_route(edgeslm: Any, config: Path) -> None:
    made = yaml.safe_load(config.read_text())
    route = {"from": "desk/+/note", "task": "say", "to": "out/{{ topic[1] }}", "redact": ["phone"]}
    window = {"from": "hall/log", "task": "brief", "window": {"last": 3}}
    made["routes"] = [{**route, "when": "payload != 'no'", "input": "Say {{ payload }}"}, window]
    config.write_text(yaml.safe_dump(made))
    text = ("--topic", "desk/3/note", "--json")
    done = edgeslm("try", config, "say", "-", *text, stdin=b"call 0171 2345678\nno\n")
    assert done.status == 0, done.err
    assert [one["result"]["text"] for one in done.results] == ["Say call [phone]"]
    told = done.err.splitlines()
    assert told[:2] == ["route say reads: Say call [phone]", "route say publishes to: out/3"]
    assert told[2].startswith("route say skips it: ")
    done = edgeslm("try", config, "say", "x", "--topic", "desk/3")
    assert (done.status, done.err) == (1, "edgeslm: No route of the task say watches desk/3.\n")
    done = edgeslm("try", config, "brief", "x", "--topic", "hall/log")
    assert done.status == 1 and "windows" in done.err


def test_try_prints_the_result_of_a_text(edgeslm: Any, config: Path) -> None:
    done = edgeslm("try", config, "triage", "a critical thing")
    assert (done.status, done.err) == (0, "")
    assert done.results[0]["result"]["label"] == "critical"


@pytest.mark.parametrize("text", [[], ["-"]])
def test_try_reads_a_text_a_line_from_standard_input(edgeslm: Any, config: Path, text: list[str]) -> None:
    done = edgeslm("try", config, "say", *text, stdin="one\n\nzwei\r\nünf".encode())
    assert done.status == 0
    assert [(one["id"], one["result"]["text"]) for one in done.results] == [
        ("1", "one"),
        ("2", "zwei"),
        ("3", "ünf"),
    ]


def test_try_goes_on_after_an_error_and_ends_with_status_1(edgeslm: Any, config: Path) -> None:
    done = edgeslm("try", config, "say", stdin=b"one\nfail too_long\ncaf\xe9\nfour\n")
    assert done.status == 1
    assert [(one["error"]["code"] if "error" in one else "ok") for one in done.results] == [
        "ok",
        "too_long",
        "invalid_request",
        "ok",
    ]


@pytest.mark.parametrize(
    ("task", "text", "options", "code"),
    [
        ("nothing", "x", "{}", "unknown_task"),
        ("triage", " ", "{}", "invalid_request"),
        ("triage", "x", '{"colour": 1}', "invalid_request"),
        ("triage", "x", '{"max_tokens": 1}', "invalid_request"),
    ],
)
def test_try_answers_what_the_daemon_would(
    edgeslm: Any, config: Path, task: str, text: str, options: str, code: str
) -> None:
    done = edgeslm("try", config, task, text, "--options", options)
    assert (done.status, done.results[0]["error"]["code"]) == (1, code)


@pytest.mark.parametrize("options", ["[]", "{", "max_tokens=5"])
def test_options_must_be_a_json_object(edgeslm: Any, config: Path, options: str) -> None:
    done = edgeslm("try", config, "say", "x", "--options", options)
    assert (done.status, done.out) == (2, "")
    assert "--options" in done.err


def test_try_says_what_is_wrong_with_a_bundle(edgeslm: Any, config: Path, tmp_path: Path) -> None:
    (tmp_path / "small/model.onnx").write_bytes(b"cut")
    done = edgeslm("try", config, "say", "x")
    assert (done.status, done.out) == (1, "")
    said = r"models\.small\.bundle: [^\n]*model\.onnx: 3 bytes, the manifest says \d+\n"
    assert re.fullmatch(said, done.err)


# request


@pytest.fixture
def node(broker: Mosquitto, tmp_path: Path) -> Iterator[Node]:
    with (
        App(broker.port, f"{BASE}/state") as app,
        Node(tmp_path, fake_configuration(broker.url, tmp_path)) as node,
    ):
        app.take_state(BASE, "online")
        yield node


def test_request_prints_the_result(edgeslm: Any, broker: Mosquitto, node: Node) -> None:
    where = ("--broker", broker.url, "--node", "hall")
    done = edgeslm("request", "triage", "a critical thing", *where)
    assert (done.status, done.err) == (0, "")
    assert done.results[0]["result"]["label"] == "critical"
    assert (
        edgeslm("request", "say", "-", *where, stdin=b"from\nstdin").results[0]["result"]["text"]
        == "from\nstdin"
    )


def test_request_of_an_error_result_is_status_1(edgeslm: Any, broker: Mosquitto, node: Node) -> None:
    where = ("--broker", broker.url, "--node", "hall")
    done = edgeslm("request", "nothing", "x", *where)
    assert (done.status, done.results[0]["error"]["code"]) == (1, "unknown_task")
    done = edgeslm("request", "strict", "x", *where)
    assert (done.status, done.results[0]["status"]) == (0, "abstained")


def test_request_without_an_answer_in_time_is_status_2(
    edgeslm: Any, broker: Mosquitto, node: Node, tmp_path: Path
) -> None:
    done = edgeslm(
        "request",
        "say",
        f"hold {tmp_path / 'gate'}",
        "--broker",
        broker.url,
        "--node",
        "hall",
        "--timeout",
        0.5,
    )
    assert (done.status, done.out) == (2, "")
    assert re.fullmatch(r"edgeslm: No result came within 0\.5 s[^\n]*\n", done.err)
    (tmp_path / "gate").touch()


def test_request_streams_on_standard_error(edgeslm: Any, broker: Mosquitto, node: Node) -> None:
    done = edgeslm("request", "say", "one two three", "--broker", broker.url, "--node", "hall", "--stream")
    assert done.status == 0
    assert done.err == "one two three\n"
    assert done.results[0]["result"]["text"] == "one two three"


def test_request_survives_a_broker_that_is_killed_and_says_so(broker: Mosquitto, tmp_path: Path) -> None:
    with (
        App(broker.port, f"{BASE}/state") as app,
        Node(tmp_path, fake_configuration(broker.url, tmp_path)),
        ThreadPoolExecutor(1) as pool,
    ):
        app.take_state(BASE, "online")
        gate = tmp_path / "gate"
        where = ("--broker", broker.url, "--node", "hall")
        asking = pool.submit(as_process, "request", "say", f"hold {gate}", *where)
        app.wait_until(Path(f"{gate}.held").exists, "the request is running")
        broker.kill()
        broker.start()
        gate.touch()
        done = asking.result()
    assert done.returncode == 0
    assert json.loads(done.stdout)["status"] == "ok"
    assert done.stderr.startswith("edgeslm: The connection to the broker at mqtt://127.0.0.1:")


def test_request_options(edgeslm: Any, broker: Mosquitto, node: Node) -> None:
    options = '{"context": "Oil it every 40 hours."}'
    done = edgeslm(
        "request", "manual", "40 hours", "--broker", broker.url, "--node", "hall", "--options", options
    )
    assert done.results[0]["result"]["citations"][0]["quote"] == "40 hours"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["--node", "nobody"], "No node 'nobody' listens"),
        (["--broker", "http://x"], "must begin with mqtt"),
        (["--broker", f"mqtt://127.0.0.1:{free_port()}"], "Nothing listens"),
        (["--node", "a/+"], "wildcard"),
        (["--password-file", "/nowhere/secret"], "password file"),
    ],
)
def test_request_says_what_keeps_it_from_asking(
    edgeslm: Any, broker: Mosquitto, changes: list[str], says: str
) -> None:
    done = edgeslm("request", "say", "x", "--broker", broker.url, "--node", "hall", *changes)
    assert (done.status, done.out) == (1, "")
    assert says in done.err and done.err.count("\n") == 1


@pytest.mark.parametrize("seconds", ["nan", "inf", "0", "-1", "soon", "1e12"])
def test_a_time_out_must_be_a_sensible_number(edgeslm: Any, seconds: str) -> None:
    done = edgeslm("request", "say", "x", "--broker", "mqtt://x", "--node", "hall", "--timeout", seconds)
    assert done.status == 1 and "--timeout" in done.err


# inspect, doctor, demo


def test_inspect_for_people_and_for_programs(edgeslm: Any, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "small")
    done = edgeslm("inspect", bundle)
    assert done.status == 0 and "fake-decoder" in done.out and "2048 tokens" in done.out
    described = json.loads(edgeslm("inspect", bundle, "--json").out)
    assert described["manifest"]["name"] == "fake-decoder"
    assert described["digest"].startswith("sha256:") and described["memory_bytes"]["2048"] > 100_000_000


def test_inspect_finds_a_changed_file(edgeslm: Any, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "small")
    weights = bundle / "model.onnx"
    weights.write_bytes(weights.read_bytes().upper())
    done = edgeslm("inspect", bundle)
    assert done.status == 1 and "SHA-256 differs" in done.err


def test_inspect_says_what_is_known_of_the_signature(edgeslm: Any, tmp_path: Path) -> None:
    bundle, signer, other = write_bundle(tmp_path / "small"), Signer(tmp_path), Signer(tmp_path, "other")
    assert "signature     not signed\n" in edgeslm("inspect", bundle).out
    done = edgeslm("inspect", bundle, "--key", signer.public)
    assert done.status == 1 and "model.sig: missing, so the bundle is not signed" in done.err
    signer.sign(bundle)
    assert "not verified, as no key was named\n" in edgeslm("inspect", bundle).out
    done = edgeslm("inspect", bundle, "--key", other.public, "--key", signer.public)
    assert done.status == 0 and f"signature     by {signer.public}\n" in done.out
    assert edgeslm("inspect", bundle, "--key", other.public).status == 1
    described = json.loads(edgeslm("inspect", bundle, "--key", signer.public, "--json").out)
    assert described["signature"] == f"by {signer.public}"


def test_inspect_with_a_key_fails_where_nothing_could_be_checked(
    edgeslm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signer = Signer(tmp_path)
    signer.sign(write_bundle(tmp_path / "small"))
    replace_package(monkeypatch, tmp_path / "packages", "cryptography")
    done = edgeslm("inspect", tmp_path / "small", "--key", signer.public)
    assert done.status == 1
    assert "the package cryptography is missing" in done.err
    assert edgeslm("inspect", tmp_path / "small").status == 0, "without a key nothing is promised"


def test_doctor_for_people_and_for_programs(edgeslm: Any) -> None:
    done = edgeslm("doctor", "--json")
    findings = json.loads(done.out)
    assert findings and all({"level"} <= finding.keys() for finding in findings)
    assert done.status == int(any(finding["level"] == "bad" for finding in findings))
    assert edgeslm("doctor").out.strip()


def test_doctor_proposes_a_model_for_a_use(edgeslm: Any) -> None:
    done = edgeslm("doctor", "--use", "labels", "--json")
    data = json.loads(done.out)
    assert data["use"] == "labels" and len(data["models"]) > 10
    assert done.status == int(data["proposed"] is None)
    assert edgeslm("doctor", "--use", "songs").status == 2


def test_doctor_looks_at_bundles_that_are_named(edgeslm: Any, tmp_path: Path) -> None:
    done = edgeslm("doctor", str(tmp_path / "none"), "--context", "512")
    assert f"{tmp_path}/none: there is no such folder" in done.out
    assert edgeslm("doctor", "--context", "0").status == 2


def test_demo_without_a_bundle_names_the_one_command_that_makes_one(
    edgeslm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    starter = tmp_path / "edgeslm/starter"
    done = edgeslm("demo")
    assert (done.status, done.out) == (1, "")
    assert done.err.endswith(f"edgeslm-export starter {starter}\n") and done.err.count("\n") == 1
    done = edgeslm("demo", "--bundle", tmp_path / "mine/decoder")
    assert done.status == 1 and done.err.endswith(f"edgeslm-export starter {tmp_path / 'mine'}\n")


# What a program that only sends requests must not pay for


def test_no_command_line_loads_an_inference_library_or_yaml() -> None:
    code = (
        "import sys; from edgeslm.cli import main as cli; cli._parser();"
        "heavy = {'onnxruntime', 'onnxruntime_genai', 'torch', 'yaml', 'pydantic', 'paho'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_command_without_a_configuration_says_where_it_looked(
    edgeslm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("edgeslm.cli.parts.SERVICE", tmp_path / "etc/edgeslm.yaml")
    done = edgeslm("teach", "triage")
    assert (done.status, done.out) == (1, "")
    assert f"There is neither edgeslm.yaml here nor {tmp_path}/etc/edgeslm.yaml; name yours" in done.err

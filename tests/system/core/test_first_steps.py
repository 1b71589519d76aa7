"""README and getting-started: each command runs against the installed wheel, with a real broker and models.

A page is followed from top to bottom as a reader would. ``Save as `FILE`:`` or ``Replace `FILE` with:``
before a block writes the file, a ``sh`` block is run command by command, and ``edgeslm run`` goes on in the
background. What needs root, apt or a public network is in :data:`ELSEWHERE`, with a test of what it does; a
command in neither place fails here.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from edgeslm.cli.main import _parser
from edgeslm.config.loader import parse_config
from edgeslm.protocol.codec import parse_result
from tests.support.apps import WAIT_S, App
from tests.support.brokers import Mosquitto
from tests.support.installed import Installed
from tests.support.paths import ROOT

PAGES = ("README.md", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/getting-started/*.md")))

DEMO = "test_the_demo_ends_by_itself_with_status_0_and_a_summary"
SETUP = "test_the_demo_of_root_installs_mosquitto"
CARD = "test_its_script_installs_what_lies_on_the_card"
INSTALL = "test_program_units_user_and_a_first_configuration_are_there"
SERVICE = "test_a_node_is_started_brought_up_to_date_and_removed"
UNIT = "test_what_a_node_does_it_can_do_in_its_sandbox"
UNINSTALL = "test_it_is_removed_and_what_is_of_the_user_stays_until_told"
LISTS = "test_any_of_the_lists_can_be_installed_together"
WHEEL = "test_it_imports_where_only_it_is"
COMPOSE = "test_its_configuration_and_its_broker_s_are_taken"
ROLLOUT = "test_a_rollout_comes_through_from_a_user_that_can_write_nothing_of_the_node"
PIP = "pip install --no-deps --require-hashes -r requirements/device.txt"
DOWNLOAD = "pip download --no-deps --require-hashes --dest wheels -r requirements/"
CREDENTIALS = "/etc/edgeslm/credentials"
ADDON = "test_the_script_writes_what_supervisor_builds"
ADDON_CONFIG = "root@homeassistant.local:/addon_configs/local_edgeslm"
ASSIST = "test_a_sentence_changes_a_light_through_llama_cpp"
SENTENCES = 'firmware-config/home-assistant/sentences.py --names "kitchen light" fan heater --areas kitchen'
ELSEWHERE = {
    "make demo": DEMO,
    "make demo ARGS=--short": "test_the_short_demo_shows_some_of_everything",
    "make demo ARGS=--stay": "test_the_demo_stays_with_a_console_until_it_is_ended",
    "edgeslm init": "test_what_passes_becomes_a_route",
    "edgeslm teach label --listen 60": "test_messages_of_a_route_are_taken_as_the_route_reads_them",
    "make demo MODEL=owner/name": "test_the_demo_with_another_model",
    "make bench-compare": "test_the_makefile_only_calls_scripts",
    "scripts/setup demo": SETUP,
    ". .venv/bin/activate": SETUP,
    "sudo apt-get install mosquitto mosquitto-clients": SETUP,
    "sudo apt-get install -y mosquitto mosquitto-clients": SETUP,
    "sudo apt-get update && sudo apt-get install -y mosquitto mosquitto-clients python3-venv": CARD,
    "git archive --prefix=edgeslm/ -o edgeslm.tar.gz HEAD": CARD,
    "tar -xzf edgeslm.tar.gz": CARD,
    "scp -r edgeslm.tar.gz .edgeslm/starter pi@board-1.local:": CARD,
    "ssh pi@board-1.local": CARD,
    "sudo /usr/local/sbin/edgeslm-first-boot": CARD,
    "sudo edgeslm/firmware-config/install.sh --bundles starter": SERVICE,
    "sudo firmware-config/install.sh": INSTALL,
    "sudo firmware-config/install.sh edgeslm-0.2.0-py3-none-any.whl": SERVICE,
    "sudo firmware-config/install.sh --extras api,verify": "test_optional_parts_stay_with_an_update",
    "sudo firmware-config/install.sh --uninstall": UNINSTALL,
    "sudo firmware-config/install.sh --purge": SERVICE,
    "sudo PIP_NO_INDEX=1 PIP_FIND_LINKS=/home/pi/wheels edgeslm/firmware-config/install.sh": INSTALL,
    f"{DOWNLOAD}device.txt -r requirements/device-documents.txt": LISTS,
    f"{DOWNLOAD}build.txt": "test_what_builds_the_wheel_is_in_its_list",
    PIP: LISTS,
    "python3 -m venv ~/edgeslm-env && . ~/edgeslm-env/bin/activate": WHEEL,
    "pip install --no-deps .": WHEEL,
    "pip install .": "test_its_metadata_tell_apps_to_install_paho_alone",
    "pip install '.[node]'": "test_what_is_declared_is_in_its_list_within_its_bounds",
    "pip install -U": SERVICE,
    "sudo systemctl enable --now edgeslm@hall": SERVICE,
    "systemctl status 'edgeslm*'": SERVICE,
    "journalctl -u edgeslm -f": UNIT,
    "sudo systemctl edit edgeslm": UNIT,
    "sudo systemctl reload edgeslm": "test_a_reload_takes_up_what_was_changed",
    "sudo systemctl restart edgeslm": UNIT,
    "sudo -u edgeslm edgeslm purge ...": UNIT,
    f'echo "correct horse battery" | sudo install -m 600 /dev/stdin {CREDENTIALS}/password': UNIT,
    f"sudo install -m 600 site/board-1.key site/board-1.pem site/ca.pem {CREDENTIALS}/": UNIT,
    f"echo 'the token of the target' | sudo install -m 600 /dev/stdin {CREDENTIALS}/hawkbit-token": ROLLOUT,
    "sudo systemctl enable --now edgeslm-hawkbit": ROLLOUT,
    "cd firmware-config/container": COMPOSE,
    "mkdir bundles": COMPOSE,
    "cp -r ../../.edgeslm/starter/smollm2-135m-int4 bundles/": COMPOSE,
    "podman compose up --build": COMPOSE,
    "sudo systemctl stop mosquitto": COMPOSE,
    "scp -r firmware-config/home-assistant/blueprints root@homeassistant.local:/config/": (
        "test_the_blueprint_acts_once_for_each_message"
    ),
    "scripts/home-assistant-addon addons": ADDON,
    "scp -r addons/edgeslm root@homeassistant.local:/addons/": ADDON,
    "ssh root@homeassistant.local mkdir -p /addon_configs/local_edgeslm/bundles": ADDON,
    "scp -r .edgeslm/starter/smollm2-135m-int4 .edgeslm/starter/minilm-l6-int8 "
    f"{ADDON_CONFIG}/bundles/": ADDON,
    f"python3 {SENTENCES} > sentences.jsonl": ASSIST,
    "edgeslm-export tune firmware-config/home-assistant/household.yaml sentences.jsonl household "
    "--method encoder": ASSIST,
    "ssh root@homeassistant.local mkdir -p /addon_configs/local_edgeslm/learned": ASSIST,
    f"scp -r household {ADDON_CONFIG}/learned/": ASSIST,
}
"""Commands that can't run here, and the test of what they do."""

NODE = "edgeslm run "
TEACH = "edgeslm teach "
ELECTRICAL = ("light", "socket", "breaker", "exit", "fuse", "lamps", "charger", "cable", "doorbell")
"""Words of the first task's messages."""
PROGRAMS = (
    "edgeslm",
    "edgeslm-export",
    "make",
    "sudo",
    "pip",
    "mosquitto_pub",
    "mosquitto_sub",
    "scripts/setup",
)


@dataclass(frozen=True)
class Step:
    """A file to write, or a command to run."""

    file: str
    text: str


def steps_of(page: str) -> Iterator[Step]:
    """In the order of the page; comments, and blocks that only show something, are left out."""
    text = (ROOT / page).read_text("utf-8")
    for block in re.finditer(r"(?ms)^( *)```([\w-]*)[^\n]*\n(.*?)^\1```", text):
        language, body = block[2], re.sub(rf"(?m)^{block[1]}", "", block[3])
        saved = re.search(r"(?:[Ss]ave as|Replace)\s+`([\w./-]+)`(?: with)?:\s*\Z", text[: block.start()])
        if saved:
            yield Step(saved[1], body)
        elif language == "sh":
            yield from (Step("", command) for command in commands_of(body))


def commands_of(block: str) -> Iterator[str]:
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            comment = re.search(r"\s+#\s[^'\"]*$", line)
            yield " ".join((line[: comment.start()] if comment else line).split())


def mentioned_in(page: str) -> Iterator[str]:
    """Commands in running text: code that begins with a program and goes on."""
    text = re.sub(r"(?ms)^ *```.*?^ *```", "", (ROOT / page).read_text("utf-8"))
    for code in re.findall(r"`([^`]+)`", text):
        words = code.split()
        if words[0] in PROGRAMS and len(words) > 1:
            yield " ".join(words)


class Reader:
    """Follows one page in a folder that has the starter models where set-up puts them."""

    def __init__(
        self, installed: Installed, starter: Path, broker: Mosquitto, app: App, folder: Path
    ) -> None:
        self.folder, self.said = folder, ""
        self._app, self._broker = app, broker
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}
        (folder / ".edgeslm").mkdir()
        (folder / ".edgeslm/starter").symlink_to(starter)
        programs = folder / "programs"
        programs.mkdir()
        for name in ("pub", "sub", "rr"):
            program = programs / f"mosquitto_{name}"
            program.write_text(f'#!/bin/sh\nexec /usr/bin/mosquitto_{name} -p {broker.port} "$@"\n')
            program.chmod(0o755)
        path = os.pathsep.join([str(programs), str(installed.python.parent), os.environ["PATH"]])
        self._environment = {**installed.environment, "PATH": path, "HOME": str(folder)}
        self._environment = {k: v for k, v in self._environment.items() if not k.startswith("XDG_")}

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exception: object) -> None:
        for file in list(self._nodes):
            self._stop(file)

    def do(self, step: Step) -> str:
        """What the command said on standard output."""
        text = self._here(step.text)
        if step.file:
            (self.folder / step.file).write_text(text)
        elif text.startswith(NODE):
            self._run_node(text)
        elif text.startswith(TEACH):
            return self._teach(text)
        else:
            command = ["sh", "-c", text]
            done = subprocess.run(
                command,
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=WAIT_S,
            )
            assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
            return done.stdout
        return ""

    def _teach(self, text: str) -> str:
        """Presses a key for each message that is shown, as a person does who knows what is electrical."""
        said: list[str] = []
        with subprocess.Popen(
            shlex.split(text),
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdin is not None and process.stdout is not None
            for line in process.stdout:
                if line.startswith("1 plumbing  2 electrical"):
                    is_electrical = any(word in said[-1] for word in ELECTRICAL)
                    process.stdin.write("2\n" if is_electrical else "1\n")
                    process.stdin.flush()
                elif line.startswith("No message is left"):
                    process.stdin.write("t\n")
                    process.stdin.flush()
                said.append(line)
        assert process.returncode == 0, said
        return "".join(said)

    def _here(self, text: str) -> str:
        """As it is written where the page's reader is, as it is here."""
        text = re.sub(r"mqtt://(localhost|homeassistant\.local)\b", self._broker.url, text)
        text = text.replace("-h homeassistant.local", "-h 127.0.0.1").replace("/etc/edgeslm/", "")
        return text.replace("/var/lib/edgeslm", "state")

    def _run_node(self, text: str) -> None:
        file = text.removeprefix(NODE)
        if file in self._nodes:
            self._stop(file)
        name = yaml.safe_load((self.folder / file).read_text())["node"]
        words = self.folder / f"{file}.log"
        with words.open("wb") as stream:
            self._nodes[file] = process = subprocess.Popen(
                shlex.split(text), cwd=self.folder, env=self._environment, stdout=stream, stderr=stream
            )

        def is_online() -> bool:
            assert process.poll() is None, words.read_text()
            states = self._app.untaken(f"edgeslm/v1/{name}/state")
            return any(heard.json["state"] == "online" for heard in states)

        self._app.wait_until(is_online, f"{name} is online")
        self._app.take_state(f"edgeslm/v1/{name}", "online")

    def _stop(self, file: str) -> None:
        """As Ctrl-C does."""
        process = self._nodes.pop(file)
        process.send_signal(signal.SIGINT)
        give_up_at = time.monotonic() + WAIT_S
        while process.poll() is None:
            if time.monotonic() > give_up_at:
                process.kill()
            time.sleep(0.02)
        assert process.returncode == 0, (self.folder / f"{file}.log").read_text()


@pytest.fixture
def reader(installed: Installed, starter: Path, broker: Mosquitto, tmp_path: Path) -> Iterator[Reader]:
    with (
        App(broker.port, "edgeslm/v1/+/state") as app,
        Reader(installed, starter, broker, app, tmp_path) as reader,
    ):
        yield reader


def follow(page: str, reader: Reader) -> dict[str, list[str]]:
    """Runs it all; what each command said, once for each time that it stands there."""
    said: dict[str, list[str]] = {}
    for step in steps_of(page):
        if step.text not in ELSEWHERE:
            out = reader.do(step)
            if not step.file:
                said.setdefault(step.text, []).append(out)
    return said


def test_readme(reader: Reader, starter: Path) -> None:
    (reader.folder / "state").mkdir()
    (reader.folder / "state/bundles").symlink_to(starter)
    written = (ROOT / "firmware-config/examples/first.yaml").read_text("utf-8")
    reader.do(Step("edgeslm.yaml", written))  # as by the commands that ask a person
    said = follow("README.md", reader)
    (out,) = next(out for command, out in said.items() if command.startswith("edgeslm request"))
    result = parse_result(out.encode())
    assert result.status == "ok" and result.result is not None
    assert set(result.result["scores"]) == {"normal", "warning", "critical"}


def test_first_task(reader: Reader) -> None:
    """Twenty labels make the difference that the page shows."""
    said = follow("docs/getting-started/first-task.md", reader)
    notes = next(out for command, out in said.items() if command.startswith("mosquitto_rr"))
    before, after = (json.loads(out)["result"] for out in notes)
    assert before["stage"] == "small" and not before["taught"] and before["label"] == "plumbing"
    assert after["stage"] == "learned"
    assert after["label"] == "electrical" and after["confidence"] > 0.9
    (first,), (second,) = (out for command, out in said.items() if command.startswith(TEACH))
    assert "Training on 20 messages" in first and re.search(r"(?m)^1\.00 of messages like these", first)
    assert "Training on 21 messages" in second
    (kept,) = (reader.folder / "edgeslm-state/feedback").glob("label.jsonl")
    last = json.loads(kept.read_text().splitlines()[-1])
    assert (last["text"], last["label"]) == ("The pump in the cellar hums", "plumbing")


def test_home_assistant(reader: Reader, broker: Mosquitto) -> None:
    with App(broker.port, "homeassistant/#", "home/doorbell/topic") as app:
        follow("docs/getting-started/home-assistant.md", reader)
        app.publish("home/doorbell/message", "Parcel for number 7, left at the gate")
        assert app.take("home/doorbell/topic").json["result"]["label"] in ("parcel", "visitor", "alarm")
        topic = "homeassistant/sensor/edgeslm_home/route_doorbell/config"
        assert app.take(topic).json["name"] == "Route doorbell"


def test_install(reader: Reader, starter: Path) -> None:
    """From where install.sh has started the first configuration."""
    page = "docs/getting-started/install.md"
    (reader.folder / "state").mkdir()
    (reader.folder / "state/bundles").symlink_to(starter)
    first = (ROOT / "firmware-config/examples/first.yaml").read_text("utf-8")
    reader.do(Step("edgeslm.yaml", first))
    reader.do(Step("", "edgeslm run edgeslm.yaml"))
    said = follow(page, reader)
    (note,) = next(out for command, out in said.items() if command.startswith("mosquitto_rr"))
    assert json.loads(note)["result"]["label"] in ("normal", "warning", "critical")


def test_the_automation_fits_the_blueprint() -> None:
    text = (ROOT / "docs/getting-started/home-assistant.md").read_text()
    blocks = [yaml.safe_load(one) for one in re.findall(r"(?ms)^```yaml\n(.*?)^```", text)]
    (used,) = (one["use_blueprint"] for one in blocks if "use_blueprint" in one)
    blueprints = ROOT / "firmware-config/home-assistant/blueprints"
    assert set(used["input"]) <= set(
        re.findall(r"!input (\w+)", (blueprints / "automation" / used["path"]).read_text())
    )
    named = set(re.findall(r"`((?:automation|script)/edgeslm/\w+\.yaml)`", text))
    assert named == {str(file.relative_to(blueprints)) for file in blueprints.rglob("*.yaml")}
    (call,) = (one for one in blocks if one.get("service") == "mqtt.publish")
    addon = yaml.safe_load((ROOT / "firmware-config/home-assistant/addon/edgeslm/edgeslm.yaml").read_text())
    assert call["data"]["topic"] == addon["routes"][0]["from"]


def test_what_is_added_to_the_add_on_passes_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BROKER_URL", "BROKER_USERNAME", "HOST", "LOG_LEVEL"):
        monkeypatch.setenv(f"EDGESLM_{name}", {"BROKER_URL": "mqtt://b", "LOG_LEVEL": "info"}.get(name, "a"))
    text = (ROOT / "docs/getting-started/home-assistant.md").read_text()
    addon = yaml.safe_load((ROOT / "firmware-config/home-assistant/addon/edgeslm/edgeslm.yaml").read_text())
    added = [yaml.safe_load(one) for one in re.findall(r"(?ms)^```yaml\n(tasks:\n.*?)^```", text)]
    assert [list(one["tasks"]) for one in added] == [["report"], ["assist"]]
    for one in added:
        addon["tasks"] |= one["tasks"]
        addon["routes"] += one.get("routes", [])
    del addon["tasks"]["assist"]  # names a trained head, which check reads
    parse_config(yaml.safe_dump(addon))


@pytest.mark.parametrize("page", PAGES)
def test_each_command_runs_here_or_elsewhere(page: str) -> None:
    """Those in blocks are run by the tests above; ``edgeslm`` in running text must at least be a command."""
    blocks = {step.text for step in steps_of(page) if not step.file}
    assert blocks <= set(ELSEWHERE) or f'"{page}"' in Path(__file__).read_text(), "no test follows the page"
    for command in set(mentioned_in(page)) - blocks - set(ELSEWHERE):
        program, *arguments = shlex.split(command)
        assert program in ("edgeslm", "edgeslm-export"), f"{page}: {command} is run by no test"
        if program == "edgeslm" and len(arguments) > 1 and arguments != ["check", "--connect"]:
            assert arguments[:2] == ["provision", "keys"] or _parser().parse_args(arguments)


def test_each_test_elsewhere_is_there() -> None:
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name in set(ELSEWHERE.values()) if f"def {name}(" not in tests] == []
    written = {step.text for page in PAGES for step in steps_of(page)} | {
        one for page in PAGES for one in mentioned_in(page)
    }
    assert sorted(set(ELSEWHERE) - written) == [], "no page has these any more"

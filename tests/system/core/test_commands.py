"""Each command of the installed programs: its ``--help``, and once for real."""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from edgeslm_export.cli import main as export_cli

from edgeslm.cli import main
from tests.support.apps import WAIT_S, App
from tests.support.brokers import Mosquitto
from tests.support.installed import Installed
from tests.support.nodes import BASE, TASKS, real_configuration, write_configuration
from tests.support.rollout.hawkbits import FakeHawkbit, configured, load, pack

pytestmark = pytest.mark.e2e

LABELS = ("normal", "critical")
TEXT = "Burnt smell at spindle 3"


def commands_of(parser: argparse.ArgumentParser, *words: str) -> Iterator[tuple[str, ...]]:
    """Its words, and those of all that it has below it."""
    yield words
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield from commands_of(below, *words, name)


COMMANDS = [
    *commands_of(main._parser(), "edgeslm"),
    *commands_of(export_cli._parser(), "edgeslm-export"),
]


@dataclass(frozen=True)
class Hall:
    """A node that runs, its configuration, and the broker's address."""

    config: Path
    url: str
    starter: Path


@pytest.fixture(scope="module")
def hall(installed: Installed, starter: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hall]:
    """``edgeslm run``, a member of a pool whose dispatcher is ``edgeslm dispatch``."""
    folder = tmp_path_factory.mktemp("hall")
    broker = Mosquitto(tmp_path_factory.mktemp("broker"))
    broker.start()
    pool = {"name": "hands", "tasks": ["triage"], "by": "dispatcher"}
    config = write_configuration(folder, real_configuration(broker.url, starter, folder, pool=pool))
    settings = folder / "dispatch.json"
    state = str(folder / "dispatcher")
    settings.write_text(json.dumps({"pool": "hands", "broker": {"url": broker.url}, "state_dir": state}))
    try:
        with (
            App(broker.port, f"{BASE}/state", "edgeslm/v1/pool/hands/info") as app,
            installed.running(folder / "node.txt", "edgeslm", "run", config) as node,
            installed.running(folder / "dispatcher.txt", "edgeslm", "dispatch", settings),
        ):

            def is_online() -> bool:
                assert node.poll() is None, (folder / "node.txt").read_text()
                return any(heard.json["state"] == "online" for heard in app.untaken(f"{BASE}/state"))

            app.wait_until(is_online, "the node is online")
            yield Hall(config, broker.url, starter)
    finally:
        broker.stop()


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_each_command_has_help(words: tuple[str, ...], installed: Installed) -> None:
    assert installed(*words, "--help").startswith(f"usage: {' '.join(words)} ")


def test_check_reads_a_configuration_and_tries_its_broker(installed: Installed, hall: Hall) -> None:
    said = installed("edgeslm", "check", hall.config, "--connect")
    assert said.startswith(f"{hall.config}: no errors\n- A message through the broker")
    assert json.loads(installed("edgeslm", "check", "--schema"))["properties"]["node"]


def test_a_request_is_answered_by_the_node(installed: Installed, hall: Hall) -> None:
    said = installed("edgeslm", "request", "triage", TEXT, "--broker", hall.url, "--node", "hall")
    assert json.loads(said)["result"]["label"] in LABELS


def test_a_request_to_a_pool_goes_by_the_dispatcher(installed: Installed, hall: Hall) -> None:
    said = installed("edgeslm", "request", "triage", TEXT, "--broker", hall.url, "--pool", "hands")
    assert json.loads(said)["result"]["label"] in LABELS


def test_top_and_fleet_show_the_node(installed: Installed, hall: Hall) -> None:
    where = ("--broker", hall.url, "--node", "hall", "--json")
    (figures,) = json.loads(installed("edgeslm", "top", "--once", *where))
    assert (figures["node"], figures["state"]) == ("hall", "online")
    (node,) = json.loads(installed("edgeslm", "fleet", "list", *where))["nodes"]
    assert (node["name"], node["up"], node["pool"]["name"]) == ("hall", True, "hands")


def test_try_answers_without_a_broker(installed: Installed, starter: Path, tmp_path: Path) -> None:
    config = write_configuration(tmp_path, real_configuration("mqtt://broker", starter, tmp_path))
    assert json.loads(installed("edgeslm", "try", config, "triage", TEXT))["result"]["label"] in LABELS


def test_init_proposes_what_teach_trains(installed: Installed, starter: Path, tmp_path: Path) -> None:
    """From recorded messages to a trained task, by the commands of a first user."""
    notes = [
        "The basin in room {} leaks",
        "Water drips from the ceiling of hall {}",
        "The tap in kitchen {} drips",
    ]
    lights = ["The light in room {} is broken", "No power at socket {} again", "The lamp of hall {} flickers"]
    texts = [text.format(number) for number in range(1, 5) for text in (*notes, *lights)]
    (tmp_path / "lines.txt").write_text("".join(f"building/{len(text)}/note {text}\n" for text in texts))
    file, bundle = tmp_path / "node.yaml", ("--bundle", starter / "smollm2-135m-int4")
    recorded = ("--broker", "localhost", "--from", tmp_path / "lines.txt")
    said = installed("edgeslm", "init", file, *recorded, *bundle, "--labels", "plumbing, electrical")
    assert "building/+/note" in said
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    encoder = ("--encoder", starter / "minilm-l6-int8")
    # All messages of a round get one label, then the other: it is about the way, not the accuracy.
    typed = "1\n2\n" * 6 + "q\n"
    command = ("teach", "label", "--config", file, "--from", tmp_path / "texts.txt", *encoder)
    said = installed("edgeslm", *command, typed=typed)
    assert "Use it: add to the task label" in said
    assert (tmp_path / "edgeslm-state/learned/label/manifest.json").is_file()
    chosen = installed("edgeslm-export", "choose", tmp_path / "edgeslm-state/feedback/label.jsonl", *encoder)
    assert len(chosen.splitlines()) == 10
    written, labelled = tmp_path / "to-label.csv", tmp_path / "labelled.csv"
    labelled.write_text("text,label\n" + "".join(f"{text},{'ab'['light' in text]}\n" for text in texts[:12]))
    options = ("--labelled", labelled, "--count", "5", "--out", written, *encoder)
    said = installed("edgeslm-export", "choose", tmp_path / "texts.jsonl", *options)
    assert "12 labels; a head gets " in said and f"{written}: 5 messages to label" in said
    rows = list(csv.DictReader(written.read_text().splitlines()))
    assert len(rows) == 5 and all(row["label"] == "" and row["guess"] in ("a", "b") for row in rows)


def test_fleet_forgets_a_node_that_is_gone(installed: Installed, hall: Hall) -> None:
    said = installed("edgeslm", "fleet", "forget", "nobody", "--broker", hall.url)
    assert said == "0 topics cleared\n"


def test_knowledge_is_added_and_found(installed: Installed, starter: Path, tmp_path: Path) -> None:
    (tmp_path / "press.md").write_text("# Press 4\n\nGrease the bearings of the press every 40 hours.\n")
    encoder = ("--encoder", starter / "minilm-l6-int8")
    kb = tmp_path / "manuals"
    installed("edgeslm", "knowledge", "add", kb, tmp_path / "press.md", *encoder)
    said = installed("edgeslm", "knowledge", "search", kb, "how often to lubricate?", *encoder, "--json")
    assert "every 40 hours" in said


def test_models_stages_a_bundle(installed: Installed, starter: Path, tmp_path: Path) -> None:
    config = write_configuration(tmp_path, real_configuration("mqtt://broker", starter, tmp_path))
    (tmp_path / "state").mkdir()
    installed("edgeslm", "models", "stage", config, starter / "minilm-l6-int8")
    (bundle,) = json.loads(installed("edgeslm", "models", "list", config, "--json"))["bundles"]
    assert bundle["digest"].startswith("sha256:")


def test_provision_makes_keys_and_the_broker_s_files(installed: Installed, tmp_path: Path) -> None:
    site = tmp_path / "site"
    configuration = {
        "node": "hall",
        "broker": {"url": "mqtts://broker.local"},
        "models": {"small": {"bundle": "/b"}},
        "tasks": {"triage": TASKS["triage"]},
    }
    config = write_configuration(tmp_path, configuration)
    installed("edgeslm", "provision", "keys", site, "--broker-host", "broker.local", "--node", "hall")
    installed("edgeslm", "provision", "broker", site, config)
    assert {"ca.key", "hall.pem", "hall.key"} <= {file.name for file in site.iterdir()}
    assert list(site.glob("*.conf")) and list(site.glob("*.acl"))


def test_doctor_examines_the_board_and_a_bundle(installed: Installed, hall: Hall) -> None:
    said = installed("edgeslm", "doctor", hall.starter / "minilm-l6-int8", "--config", hall.config, "--json")
    assert {"board", "disk speed"} <= {finding["subject"] for finding in json.loads(said)}


def test_purge_erases_what_a_node_has_answered(
    installed: Installed, broker: Mosquitto, starter: Path, tmp_path: Path
) -> None:
    configuration = real_configuration(broker.url, starter, tmp_path)
    configuration["models"] = {"encoder": configuration["models"]["encoder"]}
    configuration["tasks"] = {"vector": configuration["tasks"]["vector"]}
    config = write_configuration(tmp_path, configuration)
    with (
        App(broker.port, f"{BASE}/#") as app,
        installed.running(tmp_path / "words.txt", "edgeslm", "run", config),
    ):
        app.take_state(BASE, "online")
        app.publish(f"{BASE}/req/vector", {"id": "panel-7", "input": TEXT})
        assert app.take(f"{BASE}/res/vector").json["status"] == "ok"
    said = json.loads(installed("edgeslm", "purge", config, "--id", "panel-7", "--json"))
    assert said["erased"]["answers"] == 1


def test_rollout_asks_its_server(installed: Installed, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    with FakeHawkbit() as server:
        load(tmp_path, configured(tmp_path, server.url))
        config = tmp_path / "config.yaml"
        action = server.assign("hall", server.module("small", pack(tmp_path / "new", "v2", b"version 2")))
        with installed.running(words, "edgeslm", "rollout", "hawkbit", config) as process:
            give_up_at = time.monotonic() + WAIT_S
            while "proceeding" not in action.executions:
                assert process.poll() is None and time.monotonic() < give_up_at, words.read_text()
                time.sleep(0.02)
    assert installed("edgeslm", "rollout", "show", config).startswith("rollout 1, small: IN_PROGRESS")

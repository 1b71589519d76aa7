"""Teaching on a node whose jobs, or which itself, are killed at random: labels and the head at work stay."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from edgeslm.cli.demo.material import load_sms
from tests.support.apps import WAIT_S, App
from tests.support.brokers import Mosquitto, free_port
from tests.support.consoles import TOKEN
from tests.support.nodes import BASE, NodeProcess, real_configuration
from tests.support.teaching import Teacher

KILLS = int(os.environ.get("EDGESLM_TEACHING_KILLS", "5"))
"""Fifty take a quarter of an hour."""
MOST_S = 12.0
ASKED = "WINNER! Claim your free prize now, call 0906170146"


class SpamTeacher(Teacher):
    task = "spam"
    patience_s = 10 * WAIT_S
    """Jobs take idle processors alone."""


def jobs(state_dir: Path) -> list[int]:
    """Processes that teach on this node."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                line = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"edgeslm_export" in line and any(b"edgeslm-teach-hall-" in part for part in line):
                found.append(int(entry.name))
    return found


def sign_in(port: int) -> SpamTeacher:
    give_up_at = time.monotonic() + 2 * WAIT_S
    while True:
        try:
            teacher = SpamTeacher(port)
            teacher.sign_in()
            teacher.state()
            return teacher
        except (OSError, AssertionError):
            assert time.monotonic() < give_up_at, "the console doesn't come up"
            time.sleep(0.2)


@pytest.mark.timeout(180 * KILLS + 300)
def test_kills_do_no_harm(broker: Mosquitto, starter: Path, tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    taught, held = load_sms(starter / "data")
    labels = {row.text: row.label for row in (*taught, *held)}
    recorded, labels[ASKED] = [*labels], "spam"  # what is asked is kept, too
    (tmp_path / "spam.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in recorded))
    (tmp_path / "token").write_text(TOKEN)
    port = free_port()
    section = {
        "listen": f"127.0.0.1:{port}",
        "token_file": str(tmp_path / "token"),
        "teach": {"messages": str(tmp_path)},
    }
    tasks = {"spam": {"kind": "classify", "model": "small", "labels": ["ham", "spam"]}}
    more = {"tasks": tasks, "console": section, "updates": {"trial_s": 0}}
    configuration = real_configuration(broker.url, starter, tmp_path, **more)
    given: dict[str, str] = {}
    stages: list[str] = []
    with (
        App(broker.port, f"{BASE}/state", f"{BASE}/res/#") as app,
        NodeProcess(tmp_path, configuration) as node,
    ):
        node.wait_online(app)
        teacher = sign_in(port)
        for kill in range(KILLS):
            for _ in range(6 if kill else 20):
                state = teacher.when(lambda state: state["message"], f"a message (seed {seed})")
                text = state["message"]["text"]
                teacher.state("label", message=state["message"]["id"], label=labels[text])
                given[text] = labels[text]
            if not teacher.state()["few"]:
                teacher.act("train")
            time.sleep(chance.uniform(0, MOST_S))
            if teacher.state()["report"] and chance.random() < 0.8:
                teacher.act("use")
                time.sleep(chance.uniform(0, 1))
            if chance.random() < 0.5:
                for pid in jobs(tmp_path):
                    os.kill(pid, signal.SIGKILL)
            else:
                node.kill()
                give_up_at = time.monotonic() + WAIT_S
                while jobs(tmp_path):
                    assert time.monotonic() < give_up_at, "jobs outlive the node"
                    time.sleep(0.05)
                node.start()
                node.wait_online(app)
                teacher = sign_in(port)
            state = teacher.state()
            assert state["labelled"] == len(given), f"seed {seed}, kill {kill}"
            app.publish(f"{BASE}/req/spam", {"input": ASKED})
            result = app.take(f"{BASE}/res/spam").json
            assert result["status"] == "ok", (seed, result)
            stages.append(result["result"]["stage"])
        state = teacher.trained()
        assert teacher.state("use")["is_taught"]
        assert node.terminate() == 0
    rows = [json.loads(row) for row in (tmp_path / "state/feedback/spam.jsonl").read_text().splitlines()]
    assert {row["text"]: row["label"] for row in rows} == given, f"seed {seed}"
    assert not list(Path("/dev/shm").glob(f"edgeslm-teach-hall-{node.pid}-*"))
    print(f"seed {seed}: {KILLS} kills, {len(given)} labels, stages {stages}")

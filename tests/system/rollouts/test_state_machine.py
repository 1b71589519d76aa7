"""The work on a job with a real node, whose engines are fake: what switches, is tried, and is undone."""

from __future__ import annotations

import asyncio
import tarfile
from pathlib import Path
from typing import Any

import pytest

from edgeslm import __version__
from edgeslm.bundle.manifest import load_bundle
from edgeslm.update.command_file import CommandFile
from edgeslm.update.store import Store
from tests.support.apps import App
from tests.support.nodes import BASE, Node, write_bundle
from tests.support.operators import ask
from tests.support.rollout.hawkbits import client, die_at, drive, load, of, over, pack


def test_a_good_bundle_succeeds_after_its_trial(
    server: Any, configuration: dict[str, Any], tmp_path: Path, app: App
) -> None:
    archive = pack(tmp_path / "new", "v2", b"weights of version 2")
    action = server.assign("hall", server.module("small", archive))
    with Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        before = ask(app, "say", "hello", b"1")["model"]
        hawkbit = client(load(tmp_path, configuration))
        drive(hawkbit, over(hawkbit), "it is over")
        assert of(hawkbit).state == "SUCCEEDED"
        assert action.status == "FINISHED"
        assert action.executions == [
            *("scheduled", "download", "downloaded", "proceeding", "proceeding", "closed")
        ]
        assert action.details[-2:] == ["on trial", "SUCCEEDED"]
        assert ask(app, "say", "hello", b"2")["model"] != before
        digest = load_bundle(tmp_path / "new/v2").digest
        drive(hawkbit, lambda: server.targets["hall"]["edgeslm.model.small"] == digest, "it is told")
    assert server.targets["hall"]["edgeslm.version"] == __version__
    assert len(server.downloads) == 1


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        (b"wrong answers", "checks"),
        (b"crash at load", "the engine of"),
    ],
)
def test_a_bundle_that_the_node_refuses_is_rejected(
    server: Any, configuration: dict[str, Any], tmp_path: Path, app: App, weights: bytes, sentence: str
) -> None:
    action = server.assign("hall", server.module("small", pack(tmp_path / "new", "bad", weights)))
    with Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        before = ask(app, "say", "hello", b"1")["model"]
        hawkbit = client(load(tmp_path, configuration))
        drive(hawkbit, over(hawkbit), "it is over")
        assert of(hawkbit).state == "REJECTED"
        assert action.status == "ERROR"
        assert action.details[-1].startswith("REJECTED: model small was not changed: ")
        assert sentence in action.details[-1] and str(tmp_path) not in action.details[-1]
        assert ask(app, "say", "hello", b"2")["model"] == before
    assert Store(tmp_path / "state", "hall").bundles() == [], "what came for nothing is removed"


def test_a_bundle_that_is_taken_back_on_trial_has_failed_and_it_is_said_why(
    server: Any, configuration: dict[str, Any], tmp_path: Path, app: App
) -> None:
    configuration["updates"]["trial_s"] = 3600
    archive = pack(tmp_path / "new", "bad", b"weights of version 2")
    action = server.assign("hall", server.module("small", archive))
    with Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        before = ask(app, "say", "hello", b"1")["model"]
        hawkbit = client(load(tmp_path, configuration))
        drive(hawkbit, lambda: "on trial" in action.details, "it is on trial")
        assert ask(app, "say", "crash", b"2")["status"] == "error"
        drive(hawkbit, over(hawkbit), "it is over")
        assert of(hawkbit).state == "FAILED"
        assert action.details[-1].startswith("FAILED: model small was taken back: ")
        assert "exited unexpectedly" in action.details[-1] or "requests failed" in action.details[-1]
        assert ask(app, "say", "hello", b"3")["model"] == before


def test_two_models_change_both_or_none(
    server: Any, configuration: dict[str, Any], tmp_path: Path, app: App
) -> None:
    configuration["updates"]["trial_s"] = 3600
    sound = pack(tmp_path / "new", "v2", b"weights of version 2")
    encoder = write_bundle(tmp_path / "new/encoder", "encoder", weights=b"crash at load")
    with tarfile.open(tmp_path / "new/encoder.tar", "w") as tar:
        tar.add(encoder, arcname="encoder")
    action = server.assign(
        "hall",
        server.module("small", sound),
        server.module("edge encoder", tmp_path / "new/encoder.tar", metadata={"edgeslm.model": "encoder"}),
    )
    with Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        before = ask(app, "say", "hello", b"1")["model"]
        hawkbit = client(load(tmp_path, configuration))
        drive(hawkbit, over(hawkbit), "it is over")
        assert (of(hawkbit).state, action.status) == ("REJECTED", "ERROR")
        assert "model encoder was not changed" in action.details[-1]
        assert ask(app, "say", "hello", b"2")["model"] == before, "the first one is taken back too"


def test_a_rollout_that_is_canceled_on_trial_is_undone(
    server: Any, configuration: dict[str, Any], tmp_path: Path, app: App
) -> None:
    configuration["updates"]["trial_s"] = 3600
    archive = pack(tmp_path / "new", "v2", b"weights of version 2")
    action = server.assign("hall", server.module("small", archive))
    with Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        before = ask(app, "say", "hello", b"1")["model"]
        hawkbit = client(load(tmp_path, configuration))
        drive(hawkbit, lambda: "on trial" in action.details, "it is on trial")
        action.canceling = True
        hawkbit = client(load(tmp_path, configuration))  # the process began anew
        drive(hawkbit, lambda: action.status == "CANCELED", "the server hears that it is canceled")
        assert of(hawkbit).state == "CANCELED"
        assert ask(app, "say", "hello", b"2")["model"] == before


def test_power_cuts_at_any_write_are_gone_on_from(
    server: Any, configuration: dict[str, Any], tmp_path: Path, app: App
) -> None:
    """Each process ends before or after one of its writes, the next a write later; the node goes on."""
    configuration["updates"]["trial_s"] = 0
    action = server.assign("hall", server.module("small", pack(tmp_path / "new", "v2", b"version 2")))
    with Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        before = ask(app, "say", "hello", b"1")["model"]
        config = load(tmp_path, configuration)
        for number in range(30):
            hawkbit = client(config)
            die_at(hawkbit.book, 1 + number, before=number % 2 == 0)
            try:
                hawkbit.resume()
                drive(hawkbit, over(hawkbit), "it is over")
            except KeyboardInterrupt:
                hawkbit.work.end_download()
            else:
                break
        assert number > 5, "there were cuts"
        assert (of(hawkbit).state, action.status) == ("SUCCEEDED", "FINISHED")
        assert ask(app, "say", "hello", b"2")["model"] != before
    assert len(server.downloads) == 1
    assert len(Store(tmp_path / "state", "hall").bundles()) == 1


def test_a_node_that_starts_again_goes_on_with_the_trial(
    server: Any, configuration: dict[str, Any], tmp_path: Path, app: App
) -> None:
    configuration["updates"]["trial_s"] = 3
    action = server.assign("hall", server.module("small", pack(tmp_path / "new", "v2", b"version 2")))
    config = load(tmp_path, configuration)
    hawkbit = client(config)
    with Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        drive(hawkbit, lambda: "on trial" in action.details, "it is on trial")
    hawkbit.turn()
    assert of(hawkbit).step == "watching"
    with Node(tmp_path, configuration):
        drive(hawkbit, over(hawkbit), "it is over")
    assert (of(hawkbit).state, action.status) == ("SUCCEEDED", "FINISHED")


def test_a_node_that_was_away_when_it_was_asked_is_asked_again(
    server: Any, configuration: dict[str, Any], tmp_path: Path, app: App
) -> None:
    action = server.assign("hall", server.module("small", pack(tmp_path / "new", "v2", b"version 2")))
    config = load(tmp_path, configuration)
    hawkbit = client(config)
    with CommandFile(config.state_dir, "hall").running():  # a node that hears nothing, and ends
        drive(hawkbit, lambda: of(hawkbit).step == "switching" if hawkbit.book.job else False, "it is here")
        drive(hawkbit, lambda: of(hawkbit).parts[0].asked, "it is asked")
    drive(hawkbit, lambda: not of(hawkbit).parts[0].asked, "it has ended")
    with Node(tmp_path, configuration):
        drive(hawkbit, over(hawkbit), "it is over")
    assert (of(hawkbit).state, action.status) == ("SUCCEEDED", "FINISHED")


def test_a_bundle_that_ends_the_node_each_time_is_given_up(
    server: Any, configuration: dict[str, Any], tmp_path: Path
) -> None:
    action = server.assign("hall", server.module("small", pack(tmp_path / "new", "v2", b"version 2")))
    config = load(tmp_path, configuration)
    hawkbit = client(config)
    for _ in range(3):
        with CommandFile(config.state_dir, "hall").running():
            drive(hawkbit, lambda: bool(hawkbit.book.job) and of(hawkbit).parts[0].asked, "it is asked")
        drive(hawkbit, lambda: not of(hawkbit).parts[0].asked, "it has ended")
    with CommandFile(config.state_dir, "hall").running():
        drive(hawkbit, over(hawkbit), "it is over")
    assert (of(hawkbit).state, action.status) == ("FAILED", "ERROR")
    assert "the node ended 3 times while it tested the bundle" in action.details[-1]


def test_a_cancellation_while_the_node_switches_is_undone_afterwards(
    server: Any, configuration: dict[str, Any], tmp_path: Path, app: App
) -> None:
    """The client begins anew meanwhile, so that it doesn't know whether the node has heard of it."""
    configuration["updates"]["trial_s"] = 3600
    gate = tmp_path / "gate"

    async def waits(bundle: object, **how: object) -> None:
        while not gate.exists():
            await asyncio.sleep(0.02)

    action = server.assign("hall", server.module("small", pack(tmp_path / "new", "v2", b"version 2")))
    with Node(tmp_path, configuration, smoke=waits):
        app.take_state(BASE, "online")
        before = ask(app, "say", "hello", b"1")["model"]
        hawkbit = client(load(tmp_path, configuration))
        command = tmp_path / "state/updates/wish-hall.json"
        drive(
            hawkbit,
            lambda: bool(hawkbit.book.job) and of(hawkbit).parts[0].asked and not command.exists(),
            "the node has heard",
        )
        action.canceling = True
        hawkbit = client(load(tmp_path, configuration))
        hawkbit.resume()
        drive(hawkbit, lambda: of(hawkbit).step == "undoing", "it is to be undone")
        assert not of(hawkbit).is_over
        gate.touch()
        drive(hawkbit, lambda: action.status == "CANCELED", "it is canceled")
        assert of(hawkbit).state == "CANCELED"
        assert ask(app, "say", "hello", b"2")["model"] == before

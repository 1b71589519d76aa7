"""A node takes part in rollouts of a server that speaks hawkBit's DDI API: a real node with fake engines."""

from __future__ import annotations

import asyncio
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeslm import __version__
from edgeslm.bundle import load_bundle
from edgeslm.errors import RolloutError
from edgeslm.rollout.hawkbit import Hawkbit
from edgeslm.rollout.jobs import Job, Part
from edgeslm.rollout.work import Work
from edgeslm.update.store import Store
from edgeslm.update.wishes import Wishes
from tests.apps import App
from tests.brokers import Mosquitto
from tests.nodes import BASE, Node, write_bundle
from tests.operators import ask
from tests.rollout.hawkbits import FakeHawkbit, client, configured, drive, load, over, pack


@pytest.fixture
def server() -> Iterator[Any]:
    with FakeHawkbit() as server:
        yield server


@pytest.fixture
def configuration(server: Any, broker: Mosquitto, tmp_path: Path) -> dict[str, Any]:
    return configured(tmp_path, server.url, broker.url)


@pytest.fixture
def app(broker: Mosquitto) -> Iterator[App]:
    with App(broker.port, f"{BASE}/state", f"{BASE}/res/#", f"{BASE}/health") as app:
        yield app


@pytest.fixture
def hawkbit(configuration: dict[str, Any], tmp_path: Path) -> Hawkbit:
    """A node's client, whose node doesn't run."""
    return client(load(tmp_path, configuration))


def of(hawkbit: Hawkbit) -> Any:
    assert hawkbit.book.job is not None
    return hawkbit.book.job


# --- with the node at work -------------------------------------------------------------------------


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
        assert action.details[-1].startswith("REJECTED: model small stays what it is: ")
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
        assert "times by itself" in action.details[-1] or "requests failed" in action.details[-1]
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
        assert "model encoder stays what it is" in action.details[-1]
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
            die_at(hawkbit, 1 + number, before=number % 2 == 0)
            try:
                hawkbit._resume()
                drive(hawkbit, over(hawkbit), "it is over")
            except KeyboardInterrupt:
                hawkbit._work.end_download()
            else:
                break
        assert number > 5, "there were cuts"
        assert (of(hawkbit).state, action.status) == ("SUCCEEDED", "FINISHED")
        assert ask(app, "say", "hello", b"2")["model"] != before
    assert len(server.downloads) == 1
    assert len(Store(tmp_path / "state", "hall").bundles()) == 1


def die_at(hawkbit: Hawkbit, write: int, *, before: bool) -> None:
    """Has the process end at one of its writes."""
    really, left = hawkbit.book._write, [write]

    def count(record: Any) -> None:
        left[0] -= 1
        if before and not left[0]:
            raise KeyboardInterrupt
        really(record)
        if not left[0]:
            raise KeyboardInterrupt

    hawkbit.book._write = count  # type: ignore[method-assign]


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
    with Wishes(config.state_dir, "hall").running():  # a node that hears nothing, and ends
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
        with Wishes(config.state_dir, "hall").running():
            drive(hawkbit, lambda: bool(hawkbit.book.job) and of(hawkbit).parts[0].asked, "it is asked")
        drive(hawkbit, lambda: not of(hawkbit).parts[0].asked, "it has ended")
    with Wishes(config.state_dir, "hall").running():
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
        wish = tmp_path / "state/updates/wish-hall.json"
        drive(
            hawkbit,
            lambda: bool(hawkbit.book.job) and of(hawkbit).parts[0].asked and not wish.exists(),
            "the node has heard",
        )
        action.canceling = True
        hawkbit = client(load(tmp_path, configuration))
        hawkbit._resume()
        drive(hawkbit, lambda: of(hawkbit).step == "undoing", "it is to be undone")
        assert not of(hawkbit).is_over
        gate.touch()
        drive(hawkbit, lambda: action.status == "CANCELED", "it is canceled")
        assert of(hawkbit).state == "CANCELED"
        assert ask(app, "say", "hello", b"2")["model"] == before


# --- without a node --------------------------------------------------------------------------------


def test_it_waits_for_a_node_that_does_not_run(server: Any, hawkbit: Hawkbit, tmp_path: Path) -> None:
    archive = pack(tmp_path / "new", "v2", b"version 2")
    action = server.assign("hall", server.module("small", archive))
    drive(hawkbit, lambda: "proceeding" in action.executions, "it is here")
    assert (of(hawkbit).state, of(hawkbit).step) == ("IN_PROGRESS", "switching")
    action.canceling = True
    drive(hawkbit, lambda: action.status == "CANCELED", "it is canceled")
    assert Store(tmp_path / "state", "hall").bundles() == []


def test_a_download_goes_on_where_it_broke_off_also_in_another_run(
    server: Any, configuration: dict[str, Any], tmp_path: Path
) -> None:
    archive = pack(tmp_path / "new", "v2", b"weights" * 1_000_000)
    server.assign("hall", server.module("small", archive))
    server.cuts = [1_000_000, 1_000_000, 1_000_000, 2_000_000]
    first = client(load(tmp_path, configuration))
    drive(first, lambda: len(server.downloads) >= 3, "three tries are made")
    second = client(load(tmp_path, configuration))
    second._resume()
    drive(second, lambda: of(second).step == "switching", "it is here")
    ranges = [wanted for _, wanted in server.downloads]
    assert ranges[0] is None and "bytes=1000000-" in ranges[1:] and None not in ranges[1:]
    assert "resumed" in server.actions[0].executions
    before = len(server.downloads)
    third = client(load(tmp_path, configuration))
    third._resume()
    drive(third, lambda: not third.book.record.reports, "all is told")
    assert len(server.downloads) == before, "what is staged isn't downloaded again"


def test_a_maintenance_window_is_waited_for(server: Any, hawkbit: Hawkbit, tmp_path: Path) -> None:
    archive = pack(tmp_path / "new", "v2", b"version 2")
    module = server.module("small", archive)
    action = server.assign("hall", module, update="skip", window="unavailable")
    drive(hawkbit, lambda: "downloaded" in action.executions, "it is downloaded")
    polls = server.polls["hall"]
    drive(hawkbit, lambda: server.polls["hall"] > polls + 1, "it is asked again")
    assert of(hawkbit).step == "downloaded"
    action.update, action.window = "forced", "available"
    drive(hawkbit, lambda: of(hawkbit).step == "switching", "the window is open")


def test_a_window_that_opens_after_a_rollouts_time_is_still_waited_for(
    server: Any, configuration: dict[str, Any], tmp_path: Path
) -> None:
    module = server.module("small", pack(tmp_path / "new", "v2", b"version 2"))
    action = server.assign("hall", module, update="skip", window="unavailable")
    hawkbit = client(load(tmp_path, configuration))
    drive(hawkbit, lambda: "downloaded" in action.executions, "it is downloaded")
    hawkbit._work._looked -= 1_000_000  # so long ago was the last look
    polls = server.polls["hall"]
    drive(hawkbit, lambda: server.polls["hall"] > polls + 1, "it is asked again")
    assert (of(hawkbit).state, of(hawkbit).step) == ("IN_PROGRESS", "downloaded")
    action.update, action.window = "forced", "available"
    drive(hawkbit, lambda: of(hawkbit).step == "switching", "the window is open")
    hawkbit._work._looked -= 1_000_000
    drive(hawkbit, over(hawkbit), "then it has its time")
    assert of(hawkbit).state == "TIMED_OUT"


def test_what_the_server_offers_again_is_begun_again(server: Any, hawkbit: Hawkbit, tmp_path: Path) -> None:
    module = server.module("small", pack(tmp_path / "new", "v2", b"version 2"))
    action = server.assign("hall", module, download="skip")
    drive(hawkbit, lambda: "scheduled" in action.executions, "it is queued")
    action.status = "CANCELED"
    drive(hawkbit, over(hawkbit), "it is over")
    assert of(hawkbit).state == "REMOVED"
    action.status, action.download = "RUNNING", "forced"
    drive(hawkbit, lambda: "proceeding" in action.executions, "it is here")


def test_a_job_of_a_model_that_is_configured_no_more_ends(
    server: Any, hawkbit: Hawkbit, tmp_path: Path
) -> None:
    part = Part(model="gone", digest="sha256:1", before="sha256:0", asked=True)
    for step in ("switching", "watching", "undoing"):
        hawkbit.book.put(Job(id="1", state="IN_PROGRESS", step=step, parts=(part,), end="FAILED"))
        for _ in range(3):
            hawkbit.turn()
        assert of(hawkbit).is_over or step == "switching"
    with Wishes(tmp_path / "state", "hall").running():
        hawkbit.book.put(Job(id="1", state="IN_PROGRESS", step="switching", parts=(part,)))
        drive(hawkbit, lambda: (tmp_path / "state/updates/wish-hall.json").exists(), "the node is asked")


def test_an_answer_of_the_node_that_got_lost_is_asked_for_again(tmp_path: Path, hawkbit: Hawkbit) -> None:
    node = Wishes(tmp_path / "state", "hall")
    work = Work(hawkbit.book, hawkbit._models, hawkbit._bring, timeout_s=3600, silent_s=0.0)
    part = Part(model="small", digest=f"sha256:{'1' * 64}")
    with node.running():
        work.begin(Job(id="1", state="IN_PROGRESS", step="switching", parts=(part,)))
        asked = 0
        while not of(hawkbit).is_over:
            work.look()
            asked += node.next() is not None  # and it says nothing, ever
    assert asked == 3
    assert "didn't say what came of it" in of(hawkbit).why


def test_a_model_that_cannot_go_back_leaves_the_others_to_do_so(tmp_path: Path, hawkbit: Hawkbit) -> None:
    models, node = hawkbit._models, Wishes(tmp_path / "state", "hall")
    before = {name: models.digest(name) for name in ("small", "encoder")}
    new = {"small": f"sha256:{'1' * 64}", "encoder": f"sha256:{'2' * 64}"}
    for name in new:
        models.store.activate(name, before[name] or "", new[name], on_trial=True)
    parts = tuple(Part(model=name, digest=new[name], before=before[name]) for name in new)
    with node.running():
        hawkbit._work.begin(Job(id="1", state="IN_PROGRESS", step="watching", parts=parts))
        hawkbit._work.stop("FAILED", "it was bad")
        while not of(hawkbit).is_over:
            hawkbit._work.look()
            if (wish := node.next()) is None:
                continue
            if wish.model == "small":
                node.tell(wish, {"error": "its old bundle is gone"})
            else:
                node.tell(wish, {"digest": models.store.roll_back(wish.model)})
    assert {name: models.digest(name) for name in new} == {**before, "small": new["small"]}
    assert of(hawkbit).why == "it was bad; model small can't be switched back: its old bundle is gone"


def test_a_download_alone_is_over_when_it_is_here(server: Any, hawkbit: Hawkbit, tmp_path: Path) -> None:
    archive = pack(tmp_path / "new", "v2", b"version 2")
    action = server.assign("hall", server.module("small", archive), update="skip")
    drive(hawkbit, over(hawkbit), "it is over")
    assert (of(hawkbit).state, action.status) == ("SUCCEEDED", "FINISHED")
    assert len(Store(tmp_path / "state", "hall").bundles()) == 1


def test_nothing_is_downloaded_that_is_not_to_be(server: Any, hawkbit: Hawkbit, tmp_path: Path) -> None:
    archive = pack(tmp_path / "new", "v2", b"version 2")
    action = server.assign("hall", server.module("small", archive), download="skip", update="skip")
    drive(hawkbit, lambda: server.polls.get("hall", 0) > 2, "it is asked again")
    assert (of(hawkbit).state, server.downloads, action.executions) == ("QUEUED", [], ["scheduled"])
    action.status = "CANCELED"  # somebody removed it without asking
    drive(hawkbit, over(hawkbit), "it is over")
    assert of(hawkbit).state == "REMOVED"


def test_another_offer_takes_the_place_of_one_that_touched_nothing(
    server: Any, hawkbit: Hawkbit, tmp_path: Path
) -> None:
    module = server.module("small", pack(tmp_path / "new", "v2", b"version 2"))
    first = server.assign("hall", module, download="skip")
    drive(hawkbit, lambda: "scheduled" in first.executions, "it is queued")
    first.status = "CANCELED"
    second = server.assign("hall", module)
    drive(hawkbit, lambda: "proceeding" in second.executions, "the other is here")
    assert of(hawkbit).id == str(second.id)


def test_it_is_given_up_after_its_time(server: Any, configuration: dict[str, Any], tmp_path: Path) -> None:
    configuration["rollouts"]["timeout_s"], configuration["updates"]["trial_s"] = 1, 0
    module = server.module("small", pack(tmp_path / "new", "v2", b"version 2"))
    action = server.assign("hall", module)
    hawkbit = client(load(tmp_path, configuration))
    drive(hawkbit, over(hawkbit), "it is over")
    assert (of(hawkbit).state, action.status) == ("TIMED_OUT", "ERROR")
    assert action.details[-1] == "TIMED_OUT: it was not over after 1 s"


def test_what_the_server_did_not_hear_it_hears_later(server: Any, hawkbit: Hawkbit, tmp_path: Path) -> None:
    action = server.assign("hall", server.module("other", pack(tmp_path / "new", "v2", b"version 2")))
    server.instead = lambda verb, path: (503, {}, b"") if verb == "POST" else None
    drive(hawkbit, lambda: hawkbit.book.job is not None, "it has decided")
    assert (of(hawkbit).state, action.said) == ("REJECTED", [])
    server.instead = lambda verb, path: None
    hawkbit._next_poll = 0.0
    drive(hawkbit, lambda: action.status == "ERROR", "it is told")
    assert "'other', which isn't here" in action.details[-1]
    action.status = "RUNNING"  # it got lost at the server
    drive(hawkbit, lambda: action.status == "ERROR", "it is told again")


def test_a_cancellation_of_what_is_not_here_or_done_is_answered(
    server: Any, hawkbit: Hawkbit, tmp_path: Path
) -> None:
    module = server.module("small", pack(tmp_path / "new", "v2", b"version 2"))
    action = server.assign("hall", module, canceling=True)
    drive(hawkbit, lambda: action.status == "CANCELED", "it is confirmed")
    done = server.assign("hall", module, update="skip")
    drive(hawkbit, lambda: done.status == "FINISHED", "it is over")
    drive(hawkbit, over(hawkbit), "it is over here too")
    done.status, done.canceling = "RUNNING", True
    drive(hawkbit, lambda: "rejected" in done.executions, "what is done can't be canceled")


def test_confirmations_are_a_persons_unless_the_configuration_says_so(
    server: Any, configuration: dict[str, Any], tmp_path: Path
) -> None:
    action = server.assign(
        "hall", server.module("small", pack(tmp_path / "new", "v2", b"2")), unconfirmed=True
    )
    hawkbit = client(load(tmp_path, configuration))
    drive(hawkbit, lambda: server.polls.get("hall", 0) > 1, "it is asked")
    assert action.unconfirmed
    configuration["rollouts"]["confirm"] = True
    hawkbit = client(load(tmp_path, configuration))
    drive(hawkbit, lambda: "proceeding" in action.executions, "it goes on")


def test_the_server_hears_what_the_node_is(
    server: Any, configuration: dict[str, Any], tmp_path: Path
) -> None:
    configuration["rollouts"]["attributes"] = {"hall": "north"}
    configuration["pool"] = {"name": "triage", "tasks": ["triage"]}
    hawkbit = client(load(tmp_path, configuration))
    drive(hawkbit, lambda: bool(server.targets.get("hall")), "it is told")
    said = server.targets["hall"]
    assert said["edgeslm.model.small"] == load_bundle(tmp_path / "small").digest
    assert (said["hall"], said["edgeslm.pool"], said["edgeslm.node"]) == ("north", "triage", "hall")
    server.targets["hall"] = {}
    server.asks_attributes.add("hall")
    drive(hawkbit, lambda: server.targets["hall"] == said, "it is told again when it is asked for")


# --- servers that can't be believed ----------------------------------------------------------------


def poisoned(server: Any, change: Any) -> None:
    """Has the server describe its deployments otherwise."""

    def instead(verb: str, path: str) -> tuple[int, dict[str, str], bytes] | None:
        if verb != "GET" or "/deploymentBase/" not in path:
            return None
        base = f"{server.url}{path.partition('/deploymentBase')[0]}"
        said = server.deployment(server.actions[0], base)
        changed = change(said)
        return 200, {}, changed if isinstance(changed, bytes) else json.dumps(said).encode()

    server.instead = instead


def artifact(said: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = said["deployment"]["chunks"][0]["artifacts"][0]
    return found


LINKS = {"download-http": {"href": "http://elsewhere.example/small.tar"}}
HOSTILE: dict[str, tuple[Any, str]] = {
    "another host": (lambda said: artifact(said).update(_links=LINKS), "neither rollouts.url nor"),
    "a file": (
        lambda said: artifact(said).update(_links={"download": {"href": "file:///etc/passwd"}}),
        "no https:// address",
    ),
    "no hash": (lambda said: artifact(said).update(hashes={}), "tells no hash"),
    "another hash": (lambda said: artifact(said).update(hashes={"sha256": "0" * 64}), "its sha256 is not"),
    "another size": (lambda said: artifact(said).update(size=1), "should have 1"),
    "too large": (lambda said: artifact(said).update(size=10**18), "updates.budget_bytes"),
    "negative": (lambda said: artifact(said).update(size=-1), "artifacts.0.size"),
    "no archive": (lambda said: artifact(said).update(filename="../../etc/passwd"), "has 0 archives"),
    "encrypted": (lambda said: said["deployment"]["chunks"][0].update(encrypted=True), "is encrypted"),
    "twice": (lambda said: said["deployment"]["chunks"].append(said["deployment"]["chunks"][0]), "two"),
    "empty": (lambda said: said["deployment"].update(chunks=[]), "no software module"),
    "many": (lambda said: said["deployment"].update(chunks=[{"name": "small"}] * 100), "chunks"),
    "deep": (lambda said: b"[" * 5000, "nested deeper"),
    "no JSON": (lambda said: b"\xff{}", "UTF-8"),
    "another action": (lambda said: said.update(id="99"), "describes action 99"),
    "an id that leads away": (lambda said: said.update(id="../../x"), "id"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_deployment_that_cannot_be_taken_is_rejected_with_a_sentence(
    server: Any, hawkbit: Hawkbit, tmp_path: Path, name: str
) -> None:
    change, sentence = HOSTILE[name]
    action = server.assign("hall", server.module("small", pack(tmp_path / "new", "small", b"version 2")))
    poisoned(server, change)
    drive(hawkbit, over(hawkbit), "it is over")
    assert (of(hawkbit).state, action.status) == ("REJECTED", "ERROR")
    assert sentence in action.details[-1]
    assert Store(tmp_path / "state", "hall").bundles() == []
    assert list((tmp_path / "state/updates").glob(".part-*")) == []


ANSWERS: dict[str, tuple[int, dict[str, str], bytes]] = {
    "redirection": (302, {"Location": "http://elsewhere.example/"}, b""),
    "flood": (200, {}, b" " * 2_000_000),
    "nothing": (200, {}, b""),
    "list": (200, {}, b"[]"),
    "link elsewhere": (200, {}, b'{"_links":{"deploymentBase":{"href":"http://elsewhere.example/x/7"}}}'),
    "link without action": (200, {}, b'{"_links":{"deploymentBase":{"href":"http://h/a/%2e%2e"}}}'),
    "link to no address": (200, {}, b'{"_links":{"deploymentBase":{"href":"SERVER/\xc3\xbc/7"}}}'),
    "redirection to no address": (302, {"Location": "http://["}, b""),
    "unauthorized": (401, {}, b""),
    "broken": (500, {}, b"<html>"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_that_nobody_understands_is_asked_for_again_later(
    server: Any, hawkbit: Hawkbit, name: str
) -> None:
    status, headers, content = ANSWERS[name]
    said = status, headers, content.replace(b"SERVER", server.url.encode())
    server.instead = lambda verb, path: said if verb == "GET" else None
    hawkbit.turn()
    assert hawkbit._failures == 1
    assert hawkbit.book.job is None
    server.instead = lambda verb, path: None
    hawkbit._next_poll = 0.0
    hawkbit.turn()
    assert hawkbit._failures == 0


def test_the_token_goes_to_the_server_alone(
    server: Any, configuration: dict[str, Any], tmp_path: Path
) -> None:
    server.token = "secret"
    (tmp_path / "token").write_text("secret\n")
    configuration["rollouts"]["token_file"] = str(tmp_path / "token")
    archive = pack(tmp_path / "new", "small", b"version 2")
    action = server.assign("hall", server.module("small", archive))
    with FakeHawkbit() as other:
        seen: list[str] = []
        other.instead = lambda verb, path: (200, {}, archive.read_bytes())
        handler = other._http.RequestHandlerClass
        original = handler._handle

        def handle(self: Any, verb: str) -> None:
            if self.server is other._http:
                seen.append(self.headers.get("Authorization", "none"))
            original(self, verb)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(handler, "_handle", handle)
            configuration["rollouts"]["downloads"] = [other.url]
            link = {"download-http": {"href": f"{other.url}/small.tar"}}
            poisoned(server, lambda said: artifact(said).update(_links=link))
            hawkbit = client(load(tmp_path, configuration))
            drive(hawkbit, lambda: of(hawkbit).step == "switching" if hawkbit.book.job else False, "here")
        assert seen == ["none"]
    assert action.status == "RUNNING"


@pytest.mark.parametrize(
    ("rollouts", "sentence"),
    [
        ({"token_file": "/nowhere"}, "can't be read"),
        ({"ca_file": "/nowhere"}, "certificate or key can't be read"),
    ],
)
def test_files_that_cannot_be_read_are_told_at_the_start(
    server: Any, tmp_path: Path, rollouts: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(RolloutError, match=sentence):
        client(load(tmp_path, configured(tmp_path, server.url, **rollouts)))


def test_without_the_section_there_is_nothing_to_ask(tmp_path: Path) -> None:
    configuration = configured(tmp_path, "http://h")
    del configuration["rollouts"]
    with pytest.raises(RolloutError, match="no section rollouts"):
        client(load(tmp_path, configuration))

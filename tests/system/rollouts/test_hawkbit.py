"""What a node's client makes of what a server of hawkBit's DDI API offers, while its node doesn't run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeslm.bundle.manifest import load_bundle
from edgeslm.update.command_file import CommandFile
from edgeslm.update.rollout.hawkbit import Hawkbit
from edgeslm.update.rollout.jobs import Part, RolloutJob
from edgeslm.update.rollout.state_machine import StateMachine
from edgeslm.update.store import Store
from tests.support.rollout.hawkbits import client, drive, load, of, over, pack


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
    second.resume()
    drive(second, lambda: of(second).step == "switching", "it is here")
    ranges = [wanted for _, wanted in server.downloads]
    assert ranges[0] is None and "bytes=1000000-" in ranges[1:] and None not in ranges[1:]
    assert "resumed" in server.actions[0].executions
    before = len(server.downloads)
    third = client(load(tmp_path, configuration))
    third.resume()
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
    hawkbit.work.looked_at -= 1_000_000  # so long ago was the last look
    polls = server.polls["hall"]
    drive(hawkbit, lambda: server.polls["hall"] > polls + 1, "it is asked again")
    assert (of(hawkbit).state, of(hawkbit).step) == ("IN_PROGRESS", "downloaded")
    action.update, action.window = "forced", "available"
    drive(hawkbit, lambda: of(hawkbit).step == "switching", "the window is open")
    hawkbit.work.looked_at -= 1_000_000
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
        hawkbit.book.put(RolloutJob(id="1", state="IN_PROGRESS", step=step, parts=(part,), end="FAILED"))
        for _ in range(3):
            hawkbit.turn()
        assert of(hawkbit).is_over or step == "switching"
    with CommandFile(tmp_path / "state", "hall").running():
        hawkbit.book.put(RolloutJob(id="1", state="IN_PROGRESS", step="switching", parts=(part,)))
        drive(hawkbit, lambda: (tmp_path / "state/updates/wish-hall.json").exists(), "the node is asked")


def test_an_answer_of_the_node_that_got_lost_is_asked_for_again(tmp_path: Path, hawkbit: Hawkbit) -> None:
    node = CommandFile(tmp_path / "state", "hall")
    work = StateMachine(hawkbit.book, hawkbit.models, hawkbit.bring, timeout_s=3600, silent_s=0.0)
    part = Part(model="small", digest=f"sha256:{'1' * 64}")
    with node.running():
        work.begin(RolloutJob(id="1", state="IN_PROGRESS", step="switching", parts=(part,)))
        asked = 0
        while not of(hawkbit).is_over:
            work.look()
            asked += node.next() is not None  # and it says nothing, ever
    assert asked == 3
    assert "didn't answer" in of(hawkbit).why


def test_a_model_that_cannot_go_back_leaves_the_others_to_do_so(tmp_path: Path, hawkbit: Hawkbit) -> None:
    models, node = hawkbit.models, CommandFile(tmp_path / "state", "hall")
    before = {name: models.digest(name) for name in ("small", "encoder")}
    new = {"small": f"sha256:{'1' * 64}", "encoder": f"sha256:{'2' * 64}"}
    for name in new:
        models.store.activate(name, before[name] or "", new[name], on_trial=True)
    parts = tuple(Part(model=name, digest=new[name], before=before[name]) for name in new)
    with node.running():
        hawkbit.work.begin(RolloutJob(id="1", state="IN_PROGRESS", step="watching", parts=parts))
        hawkbit.work.stop("FAILED", "it was bad")
        while not of(hawkbit).is_over:
            hawkbit.work.look()
            if (command := node.next()) is None:
                continue
            if command.model == "small":
                node.tell(command, {"error": "its old bundle is gone"})
            else:
                node.tell(command, {"digest": models.store.roll_back(command.model)})
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
    hawkbit.next_poll = 0.0
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

"""Models of a running node become others, and go back by themselves: a real broker, a fake engine."""

from __future__ import annotations

import asyncio
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeslm.bundle.manifest import Bundle, load_bundle
from edgeslm.errors import BundleError
from edgeslm.update.store import Store
from tests.support.apps import App
from tests.support.brokers import Mosquitto
from tests.support.nodes import (
    BASE,
    TASKS,
    Node,
    NodeProcess,
    fake_configuration,
    write_bundle,
    write_configuration,
)
from tests.support.operators import Operator, ask

CHECKS = [{"input": "all is normal", "output": "normal"}, {"input": "critical noise", "output": "critical"}]


@pytest.fixture
def configuration(broker: Mosquitto, tmp_path: Path) -> dict[str, Any]:
    return fake_configuration(
        broker.url,
        tmp_path,
        control={"allow": ["models"]},
        updates={"sources": [str(tmp_path / "new")], "trial_s": 2},
        tasks={**TASKS, "triage": {**TASKS["triage"], "checks": CHECKS}},
    )


@pytest.fixture
def app(broker: Mosquitto) -> Iterator[App]:
    own = ("state", "info", "health", "ctl/+/res", "ctl/models/+/res", "res/#", "dead")
    with App(broker.port, *(f"{BASE}/{name}" for name in own)) as app:
        yield app


def wait_state(app: App, state: str, model: str = "small") -> dict[str, Any]:
    """What the health says of the update that came to this."""

    def found() -> list[dict[str, Any]]:
        said = [heard.json for heard in app.untaken(f"{BASE}/health")]
        return [one for one in said if one["updates"].get(model, {}).get("state") == state]

    app.wait_until(lambda: bool(found()), f"model {model} is {state}")
    return found()[-1]


def label_of(app: App, correlation: bytes) -> str:
    """Which bundle serves."""
    return str(ask(app, "say", "hello", correlation)["model"])


def test_a_lower_release_than_was_at_work_is_not_activated_unless_told(
    configuration: dict[str, Any], tmp_path: Path, app: App
) -> None:
    configuration["updates"]["trial_s"] = 0
    bundles = {
        number: write_bundle(tmp_path / "new" / f"v{number}", weights=b"v%d" % number, release=number)
        for number in (1, 2)
    }
    digests = {number: load_bundle(bundle).digest for number, bundle in bundles.items()}
    with Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        operator = Operator(app)
        for bundle in bundles.values():
            assert operator.give("models/stage", source=str(bundle))["status"] == "ok"
        assert operator.give("models/activate", model="small", digest=digests[2])["status"] == "ok"
        wait_state(app, "SUCCEEDED")
        refused = operator.give("models/activate", model="small", digest=digests[1])["error"]["message"]
        assert "fake-decoder: release 1 is older than release 2, which was active here" in refused
        told = operator.give("models/activate", model="small", digest=digests[1], older=True)
        assert "updates.older" in told["error"]["message"]
    configuration["updates"]["older"] = True
    with Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        operator = Operator(app, "again")
        refused = operator.give("models/activate", model="small", digest=digests[1])["error"]["message"]
        assert "older than release 2" in refused, "it is remembered"
        told = operator.give("models/activate", model="small", digest=digests[1], older="yes")
        assert "true or false" in told["error"]["message"]
        told = operator.give("models/activate", model="small", digest=digests[1], older=True)
        assert told["result"]["state"] == "ON_TRIAL"


def test_a_bundle_is_staged_tested_switched_to_and_proved(
    configuration: dict[str, Any], tmp_path: Path, app: App
) -> None:
    new = write_bundle(tmp_path / "new" / "v2", weights=b"weights of version 2")
    with Node(tmp_path, configuration) as node:
        app.take_state(BASE, "online")
        before = label_of(app, b"1")
        operator = Operator(app)
        staged = operator.give("models/stage", source=str(new))["result"]
        digest = load_bundle(new).digest
        assert staged == {"bundle": "fake-decoder", "digest": digest}
        assert operator.give("models/activate", model="small", digest=digest)["result"]["state"] == "ON_TRIAL"
        assert label_of(app, b"2") != before
        wait_state(app, "SUCCEEDED")
        listed = operator.give("models/list")["result"]
        assert listed["models"]["small"] == {
            "active": digest,
            "previous": load_bundle(tmp_path / "small").digest,
            "on_trial": False,
        }
        assert [one["used_by"] for one in listed["bundles"]] == [["small"]]
        in_use = operator.give("models/remove", digest=digest)
        assert "in use by model small" in in_use["error"]["message"]
        pids = node.worker_pids
    with Node(tmp_path, configuration) as node:
        app.take_state(BASE, "online")
        assert label_of(app, b"3") != before, "it is still the new one after a restart"
        assert node.worker_pids != pids
        operator = Operator(app, "again")
        assert operator.give("models/rollback", model="small")["status"] == "ok"
        assert label_of(app, b"4") == before
        assert "nothing to go back to" in operator.give("models/rollback", model="small")["error"]["message"]
        assert operator.give("models/remove", digest=digest)["status"] == "ok"
        assert operator.give("models/list")["result"]["bundles"] == []


def test_what_nothing_goes_back_to_is_removed(
    configuration: dict[str, Any], tmp_path: Path, app: App
) -> None:
    configuration["updates"]["trial_s"] = 0
    with Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        operator = Operator(app)
        digests = []
        for version in (2, 3, 4):
            new = write_bundle(tmp_path / "new" / f"v{version}", weights=b"version %d" % version)
            digests.append(operator.give("models/stage", source=str(new))["result"]["digest"])
            operator.give("models/activate", model="small", digest=digests[-1])

            def is_proved() -> bool:
                small = operator.give("models/list")["result"]["models"]["small"]
                return small["active"] == digests[-1] and not small["on_trial"]

            app.wait_until(is_proved, "it is proved")
        left = {one["digest"] for one in operator.give("models/list")["result"]["bundles"]}
        assert left == set(digests[1:])


def test_what_a_command_may_name_is_bounded(configuration: dict[str, Any], tmp_path: Path, app: App) -> None:
    elsewhere = write_bundle(tmp_path / "elsewhere")
    link = tmp_path / "new" / "link"
    link.parent.mkdir()
    link.symlink_to(elsewhere)
    with Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        operator = Operator(app)
        for source in (
            str(elsewhere),
            str(tmp_path / "new" / ".." / "elsewhere"),
            str(link),
            "http://x/y.tar",
        ):
            assert "updates.sources" in operator.give("models/stage", source=source)["error"]["message"]
        assert (
            "no bundle" in operator.give("models/activate", model="small", digest="abcd")["error"]["message"]
        )


async def fails(bundle: Bundle, **how: object) -> None:
    raise BundleError(f"{bundle.path.name}: golden answers differ")


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (b"crash at load", "ended unexpectedly"),
        (b"crash at once", "can't do a check"),
        (b"wrong answers", "0 of 2 checks are right, with the active bundle 2"),
    ],
)
def test_a_bad_model_never_serves(
    configuration: dict[str, Any], tmp_path: Path, app: App, weights: bytes, words: str
) -> None:
    new = write_bundle(tmp_path / "new" / "bad", weights=weights)
    with Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        before = label_of(app, b"1")
        operator = Operator(app)
        digest = operator.give("models/stage", source=str(new))["result"]["digest"]
        for number in range(20):
            app.publish(f"{BASE}/req/say", f"text {number}", correlation=b"n%d" % number)
        answer = operator.give("models/activate", model="small", digest=digest)
        assert words in answer["error"]["message"]
        said = wait_state(app, "REJECTED")
        assert words in said["updates"]["small"]["why"]
        assert any("did not become" in alert for alert in said["alerts"])
        wanted = {b"n%d" % number for number in range(20)}
        app.wait_until(
            lambda: wanted <= {one.correlation for one in app.untaken(f"{BASE}/res/say")}, "all are answered"
        )
        assert all(one.json["status"] == "ok" for one in app.untaken(f"{BASE}/res/say"))
        assert label_of(app, b"2") == before
        assert Store(tmp_path / "state", "hall").entry("small") is None


def test_a_model_that_fails_its_smoke_test_never_serves(
    configuration: dict[str, Any], tmp_path: Path, app: App
) -> None:
    new = write_bundle(tmp_path / "new" / "v2", weights=b"weights of version 2")
    with Node(tmp_path, configuration, smoke=fails):
        app.take_state(BASE, "online")
        operator = Operator(app)
        digest = operator.give("models/stage", source=str(new))["result"]["digest"]
        answer = operator.give("models/activate", model="small", digest=digest)
        assert "golden answers" in answer["error"]["message"]
        assert ask(app, "say", "hello", b"1")["status"] == "ok"


def test_a_model_that_crashes_on_trial_is_taken_back(
    configuration: dict[str, Any], tmp_path: Path, app: App
) -> None:
    new = write_bundle(tmp_path / "new" / "v2", weights=b"weights of version 2")
    configuration["updates"]["trial_s"] = 3600
    with Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        before = label_of(app, b"1")
        operator = Operator(app)
        digest = operator.give("models/stage", source=str(new))["result"]["digest"]
        operator.give("models/activate", model="small", digest=digest)
        assert label_of(app, b"2") != before
        app.publish(f"{BASE}/req/say", "crash", correlation=b"3")
        said = wait_state(app, "FAILED")
        assert "its engine exited unexpectedly 2 times" in said["updates"]["small"]["why"]
        assert label_of(app, b"4") == before


def test_what_is_put_into_the_watched_folder_is_taken_up_once(
    configuration: dict[str, Any], tmp_path: Path, app: App
) -> None:
    folder = tmp_path / "incoming"
    folder.mkdir()
    configuration["updates"]["watch"] = str(folder)
    with Node(tmp_path, configuration):
        app.take_state(BASE, "online")
        before = label_of(app, b"1")
        new = write_bundle(tmp_path / "v2", weights=b"weights of version 2")
        with tarfile.open(tmp_path / "half", "w:gz") as tar:
            tar.add(new, arcname="v2")
        (tmp_path / "half").rename(folder / "small.tar.gz")
        wait_state(app, "SUCCEEDED")
        assert label_of(app, b"2") != before
        (folder / "encoder").mkdir()
        (folder / "encoder" / "manifest.json").write_text("{}")
        said = wait_state(app, "REJECTED", "encoder")
        assert "manifest.json" in said["updates"]["encoder"]["why"]


def test_a_node_that_ends_on_trial_each_time_goes_back(
    configuration: dict[str, Any], tmp_path: Path, app: App
) -> None:
    store = Store(tmp_path / "state", "hall")
    new = write_bundle(tmp_path / "v2", weights=b"weights of version 2")
    with store.draft() as draft:
        bundle = store.add(Path(write_bundle(draft / "v2", weights=b"weights of version 2")))
    assert bundle.digest == load_bundle(new).digest
    base = load_bundle(tmp_path / "small").digest
    store.activate("small", base, bundle.digest, on_trial=True)
    with NodeProcess(tmp_path, configuration, fake=True) as node:
        for start in range(3):
            node.wait_online(app)
            served = label_of(app, b"s%d" % start)
            assert (bundle.digest[7:11] in served) == (start < 2)
            node.kill()
            app.take_state(BASE, "offline")
            if start < 2:
                node.start()
    assert store.entry("small") is None


def test_a_bundle_that_was_damaged_on_the_disk_is_passed_over_at_the_start(
    configuration: dict[str, Any], tmp_path: Path, app: App
) -> None:
    store = Store(tmp_path / "state", "hall")
    with store.draft() as draft:
        bundle = store.add(write_bundle(draft / "v2", weights=b"weights of version 2"))
    store.activate("small", load_bundle(tmp_path / "small").digest, bundle.digest, on_trial=False)
    (bundle.path / "model.onnx").unlink()
    with NodeProcess(tmp_path, configuration, fake=True) as node:
        node.wait_online(app)
        assert ask(app, "say", "hello", b"1")["status"] == "ok"
        alerts = [alert for heard in app.untaken(f"{BASE}/health") for alert in heard.json["alerts"]]
        assert any("is not the bundle that it was switched to" in alert for alert in alerts)


def test_a_file_that_is_taken_up_during_an_update_stays_taken_up(
    configuration: dict[str, Any], tmp_path: Path, app: App
) -> None:
    gate = tmp_path / "gate"

    async def waits(bundle: Bundle, **how: object) -> None:
        while not gate.exists():
            await asyncio.sleep(0.01)

    configuration["control"] = {"allow": ["models", "reload"]}
    new = write_bundle(tmp_path / "new" / "v2", weights=b"weights of version 2")
    with Node(tmp_path, configuration, smoke=waits):
        app.take_state(BASE, "online")
        before = label_of(app, b"1")
        operator = Operator(app)
        digest = operator.give("models/stage", source=str(new))["result"]["digest"]
        app.publish(f"{BASE}/ctl/models/activate", {"id": "it", "model": "small", "digest": digest})
        wait_state(app, "IN_PROGRESS")
        busy = operator.give("models/activate", model="encoder", digest=digest)
        assert busy["error"]["code"] == "busy"
        tasks = {**configuration["tasks"], "more": TASKS["say"]}
        write_configuration(tmp_path, {**configuration, "tasks": tasks})
        assert operator.give("reload")["result"]["changed"] == ["tasks.more"]
        gate.touch()
        wait_state(app, "ON_TRIAL")
        assert ask(app, "more", "hello", b"2")["model"] != before


@pytest.mark.parametrize("damaged", [[b"crash at load"], [b"crash at load", b"crash at load, too"]])
def test_what_its_engine_refuses_at_the_start_goes_back(
    damaged: list[bytes], configuration: dict[str, Any], tmp_path: Path, app: App
) -> None:
    """Found good long ago, and damaged on the disk since: the active bundle, and also the previous one."""
    store = Store(tmp_path / "state", "hall")
    for number, weights in enumerate(damaged):
        with store.draft() as draft:
            bundle = store.add(write_bundle(draft / f"v{number}", weights=weights))
        store.activate("small", load_bundle(tmp_path / "small").digest, bundle.digest, on_trial=False)
    with NodeProcess(tmp_path, configuration, fake=True) as node:
        node.wait_online(app)
        assert ask(app, "say", "hello", b"1")["status"] == "ok"
        assert wait_state(app, "FAILED")["alerts"]
    assert store.entry("small") is None

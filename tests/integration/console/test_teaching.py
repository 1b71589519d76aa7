"""Teaching in the console of a real node, with fake engines and fake training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgeslm.errors import ConfigError
from edgeslm.storage.feedback_store import FeedbackStore
from tests.support.apps import App
from tests.support.brokers import Mosquitto
from tests.support.consoles import console_node, visitor_of
from tests.support.nodes import BASE, TASKS, Node, fake_configuration
from tests.support.teaching import LABELS, TEXTS, teaching_node


def send(broker: Mosquitto, texts: list[str], task: str = "triage") -> None:
    with App(broker.port, f"{BASE}/res/#") as app:
        for number, text in enumerate(texts):
            app.publish(f"{BASE}/req/{task}", {"input": text, "id": f"panel-{number}"})
            app.take(f"{BASE}/res/{task}")


def recorded(folder: Path) -> dict[str, Any]:
    """Recorded messages of the task."""
    (folder / "recorded").mkdir()
    (folder / "recorded/triage.txt").write_text("\n".join(TEXTS))
    return {"messages": str(folder / "recorded")}


def test_messages_are_kept_labelled_trained_used_and_taken_back(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = {"file": str(tmp_path / "audit.jsonl")}
    with teaching_node(tmp_path, broker.url, monkeypatch, audit=audit) as (node, teacher, export):
        send(broker, [*TEXTS, *TEXTS[:5]])
        teacher.when(lambda state: state["messages"] == 0, "it begins")
        state: dict[str, Any] = {}
        while state.get("messages") != len(TEXTS):  # they are written every two seconds
            state = teacher.state("open")
        assert state["tasks"] == ["triage", "strict"] and not state["is_taught"]
        given = teacher.label_all(12)
        stored = (tmp_path / "state/feedback/triage.jsonl").read_text().splitlines()
        rows = [json.loads(row) for row in stored]
        assert [(row["text"], row["label"], "by" in row) for row in rows] == [
            (text, label, False) for text, label in given
        ]
        assert {row["id"].partition("-")[0] for row in rows} == {"panel"}
        state = teacher.trained()
        assert state["report"]["accuracy"] == 0.9
        teacher.when(lambda state: (state["compared"] or {}).get("asked") == 12, "it is compared")
        assert [point[0] for point in state["curve"]] and state["confusion"]["counts"] == [[2, 1], [0, 1]]
        assert len(export.trained[0]) == 12 and not state["is_used"]
        state = teacher.state("use")
        assert state["is_used"] and state["is_taught"] and state["is_on_trial"] and state["can_go_back"]
        assert node.daemon.service.tasks["triage"].learned is not None
        found = (news.get("health", {}).get("updates", {}) for news in teacher.news())
        assert next(one for one in found if "learned/triage" in one)["learned/triage"]["state"] == "ON_TRIAL"
    with teaching_node(tmp_path, broker.url, monkeypatch) as (node, teacher, _):
        state = teacher.state()  # a restart keeps it
        assert state["is_used"] and state["labelled"] == 12 and state["can_go_back"]
        assert node.daemon.service.deployment.bindings["triage"][0].name == "learned"
        state = teacher.state("back")
        assert not state["is_taught"] and not state["can_go_back"] and state["report"]
        assert node.daemon.service.deployment.bindings["triage"][0].name == "small"
        assert teacher.act("back").status == 409
    lines = map(json.loads, (tmp_path / "audit.jsonl").read_text().splitlines())
    taught = [(line["task"], line["action"]) for line in lines if line["what"] == "taught"]
    assert taught == [("triage", "train"), ("triage", "use")]
    with Node(tmp_path, fake_configuration(broker.url, tmp_path)):
        assert not list((tmp_path / "state").glob("samples-*")), "off: nothing of it is kept"
        assert (tmp_path / "state/feedback/triage.jsonl").exists()


def test_new_messages_come_into_an_open_view(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with teaching_node(tmp_path, broker.url, monkeypatch) as (_, teacher, export):
        assert teacher.state("open")["messages"] == 0
        send(broker, TEXTS[:2])
        assert teacher.label_all(2) and teacher.when(lambda state: state["is_over"], "all are labelled")
        send(broker, TEXTS[:3], "strict")
        send(broker, TEXTS[:4])
        state = teacher.when(lambda state: state["messages"] == 4, "the new ones are there")
        assert not state["is_over"]
        teacher.when(lambda state: state["message"] and not state["doing"], "one is shown")
        choices = export.choices
        for _ in range(5):
            assert teacher.state()["message"]
        assert export.choices == choices, "nothing has changed, so nothing is chosen again"


def test_one_goes_back_head_by_head(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with teaching_node(tmp_path, broker.url, monkeypatch, teach=recorded(tmp_path)) as (node, teacher, _):
        digests = []
        for count in (4, 2):
            teacher.label_all(count)
            teacher.trained()
            assert teacher.state("use")["is_used"]
            bundle = node.daemon.service.deployment.bindings["triage"][0].task.bundle
            digests.append(bundle.digest if bundle is not None else "")
        assert len(set(digests)) == 2
        assert teacher.act("use").status == 409, "it is at work already"
        state = teacher.state("back")
        assert state["is_taught"] and not state["is_used"] and state["can_go_back"]
        bundle = node.daemon.service.deployment.bindings["triage"][0].task.bundle
        assert bundle is not None and bundle.digest == digests[0]
        assert teacher.state("use")["is_used"]
        teacher.state("back")
        assert not teacher.state("back")["is_taught"]


def test_a_head_whose_requests_fail_is_taken_back(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        teaching_node(tmp_path, broker.url, monkeypatch, teach=recorded(tmp_path)) as (_, teacher, _),
        App(broker.port, f"{BASE}/res/#") as app,
    ):
        teacher.label_all(4)
        teacher.trained()
        assert teacher.state("use")["is_on_trial"]
        for number in range(4):
            app.publish(f"{BASE}/req/triage", {"input": "fail internal", "id": str(number)})
            app.take(f"{BASE}/res/triage")
        state = teacher.when(lambda state: not state["is_taught"], "it is taken back")
        assert not state["can_go_back"] and state["report"]
        said = (news.get("health", {}).get("alerts", []) for news in teacher.news())
        alerts = next(one for one in said if one)
        assert any("learned/triage did not become" in one for one in alerts), alerts


def test_a_head_that_gets_fewer_checks_right_is_refused(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fake engine says the first label unless the text has another one."""
    checks = [{"input": "stop", "output": "critical"}]
    tasks = {"triage": {**TASKS["triage"], "labels": {"critical": "", "normal": ""}, "checks": checks}}
    with teaching_node(tmp_path, broker.url, monkeypatch, teach=recorded(tmp_path), tasks=tasks) as (
        _,
        teacher,
        _,
    ):
        teacher.label_all(4)
        teacher.trained()  # its first label is another one
        reply = teacher.act("use")
        assert (
            reply.status == 409 and "0 of 1 checks are right, with the active bundle 1" in reply.json["error"]
        )
        assert not teacher.state()["is_taught"] and not teacher.state()["can_go_back"]


def test_a_label_that_somebody_else_has_changed_stays(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with teaching_node(tmp_path, broker.url, monkeypatch, teach=recorded(tmp_path)) as (_, teacher, _):
        state = teacher.when(lambda state: state["message"], "a message")
        shown, following = state["message"]["id"], [one["text"] for one in state["following"]]
        after = teacher.state("label", message=shown, label="critical", was="")
        assert after["message"]["text"] == following[0] and len(following) == 3
        reply = teacher.act("label", message=shown, label="normal", was="")
        assert reply.status == 409 and "already labelled critical" in reply.json["error"]
        assert teacher.state("label", message=shown, label="critical", was="")["labelled"] == 1
        assert teacher.state("label", message=shown, label="normal", was="critical")["labelled"] == 1
        teacher.state("undo")
        teacher.state("undo")
        reply = teacher.act("label", message=shown, label="normal", was="critical")
        assert reply.status == 409 and "no longer labelled" in reply.json["error"]
    rows = (tmp_path / "state/feedback/triage.jsonl").read_text()
    assert rows == ""


def test_the_taught_task_is_shown_first_and_leftovers_go_at_the_start(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / "memory/edgeslm-teach-hall-99999999-x"
    left.mkdir(parents=True)
    (left / "rows.jsonl").write_text("a text")
    monkeypatch.setattr("edgeslm.teaching.lesson.IN_MEMORY", tmp_path / "memory")
    with teaching_node(tmp_path, broker.url, monkeypatch) as (_, teacher, _):
        assert not left.exists()
        assert teacher.state("open", task="")["task"] == "triage"
        teacher.state("open", task="strict")
        assert teacher.state("open", task="")["task"] == "strict"


def test_undo_skip_and_a_second_look(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with teaching_node(tmp_path, broker.url, monkeypatch, teach=recorded(tmp_path)) as (_, teacher, export):
        first = teacher.when(lambda state: state["message"], "a message")["message"]
        teacher.state("label", message=first["id"], label="critical")
        state = teacher.state("undo")
        assert state["message"]["id"] == first["id"] and state["labelled"] == 0
        assert (tmp_path / "state/feedback/triage.jsonl").read_text() == ""
        state = teacher.state("skip", message=first["id"])
        assert state["message"]["id"] != first["id"]
        text = state["message"]["text"]
        teacher.state("label", message=state["message"]["id"], label="normal")
        export.doubted = [{"text": text, "label": "normal", "guess": "critical"}]
        teacher.label_all(8)
        (doubt,) = teacher.when(lambda state: state["doubted"], "a doubt")["doubted"]
        assert doubt["text"] == text and doubt["guess"] == "critical"
        state = teacher.state("label", message=doubt["id"], label="critical")
        assert state["doubted"] == [] and state["labelled"] == 9
        assert teacher.state("undo")["doubted"] == []


def test_corrections_over_mqtt_count_only_after_a_click(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {"teach": recorded(tmp_path), "feedback": {"senders": ["desk-3"]}}
    with teaching_node(tmp_path, broker.url, monkeypatch, **more) as (_, teacher, _):
        with App(broker.port) as app:
            app.publish(f"{BASE}/feedback/desk-3", {"task": "triage", "input": "Loud", "label": "critical"})
            app.wait_until(lambda: (tmp_path / "state/feedback/triage.jsonl").exists(), "it is stored")
        state = teacher.state()
        assert state["labelled"] == 0
        message = state["message"]
        assert (message["text"], message["guess"], message["by"]) == ("Loud", "critical", "desk-3")
        assert teacher.state("label", message=message["id"], label="critical")["labelled"] == 1
        teacher.label_all(4)
        teacher.trained()
    rows = FeedbackStore(tmp_path / "state").rows("triage")
    assert [row["accepted"] for row in rows if "by" in row] == [True]


def test_a_correction_comes_into_an_open_view(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {"teach": recorded(tmp_path), "feedback": {"senders": ["desk-3"]}}
    with teaching_node(tmp_path, broker.url, monkeypatch, **more) as (_, teacher, _), App(broker.port) as app:
        shown = teacher.when(lambda state: state["message"], "a message is shown")["message"]
        for task, text in (
            ("strict", "Hot"),
            ("triage", "Loud"),
            ("triage", "Loud"),
            ("triage", shown["text"]),
        ):
            correction = {"task": task, "input": text, "label": "critical"}
            app.publish(f"{BASE}/feedback/desk-3", correction)
        state = teacher.when(lambda state: state["message"].get("by"), "what is shown was corrected")
        assert (state["message"]["id"], state["message"]["guess"]) == (shown["id"], "critical"), "it stays"
        following = [one["text"] for one in state["following"]]
        assert following[0] == "Loud" and following.count("Loud") == 1 and "Hot" not in following
        assert state["following"][0]["by"] == "desk-3"


def test_texts_are_encrypted_where_the_journal_is(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "key"
    key.write_text("ab" * 32)
    journal = {"key_file": str(key)}
    with teaching_node(tmp_path, broker.url, monkeypatch, journal=journal) as (_, teacher, _):
        send(broker, TEXTS[:6])
        while teacher.state("open")["messages"] != 6:
            pass
        teacher.label_all(4)
        teacher.trained()
    files = [file for file in (tmp_path / "state").rglob("*") if file.is_file()]
    assert not [file for file in files if b"Spindle" in file.read_bytes()]
    with teaching_node(tmp_path, broker.url, monkeypatch, journal=journal) as (_, teacher, _):
        assert teacher.state()["labelled"] == 4


@pytest.mark.parametrize(
    ("action", "arguments", "sentence"),
    [
        ("label", {"message": "0" * 16, "label": "normal"}, "This message is no longer there."),
        ("label", {"label": "normal"}, "This message is no longer there."),
        ("label", {"label": "other"}, "This message is no longer there."),
        ("state", {"task": "say"}, "This task can't be taught here."),
        ("state", {"task": "nothing"}, "This task can't be taught here."),
        ("purge", {}, "There is no such action."),
        ("train", {}, "Each label needs 2 messages; there are fewer of normal, critical."),
        ("use", {}, "triage: No such file or directory."),
        ("back", {}, "learned/triage has nothing to go back to."),
    ],
)
def test_wrong_actions_are_told_and_change_nothing(
    broker: Mosquitto,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    action: str,
    arguments: dict[str, str],
    sentence: str,
) -> None:
    with teaching_node(tmp_path, broker.url, monkeypatch) as (_, teacher, _):
        reply = teacher.act(action, **arguments)
        assert reply.status == 409 and reply.json["error"].casefold() == sentence.casefold()
        assert not (tmp_path / "state/feedback").exists()


def test_a_failed_training_is_told_and_the_labels_stay(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with teaching_node(tmp_path, broker.url, monkeypatch, teach=recorded(tmp_path)) as (_, teacher, export):
        teacher.label_all(4)
        export.failure = "tune failed: no space left in /var/lib/edgeslm"
        teacher.state("train")
        state = teacher.when(lambda state: state["problem"], "it failed")
        assert state["problem"] == "tune failed: no space left in edgeslm."
        assert state["labelled"] == 4 and state["report"] is None
        export.failure = ""
        assert teacher.trained()["report"]["accuracy"] == 0.9


def test_without_the_section_nothing_is_kept_and_nothing_is_told(broker: Mosquitto, tmp_path: Path) -> None:
    with console_node(tmp_path, broker.url, console={"texts": True}) as node:
        visitor = visitor_of(node)
        visitor.sign_in()
        send(broker, TEXTS[:3])
        reply = visitor.change("/api/teach", {"action": "state", "task": "triage"})
        assert reply.status == 404 and "Teaching is off" in reply.json["error"]
    assert not list((tmp_path / "state").glob("samples*")) and not (tmp_path / "state/teaching").exists()


def test_a_node_without_an_encoder_is_told_at_the_start(broker: Mosquitto, tmp_path: Path) -> None:
    configuration = fake_configuration(broker.url, tmp_path, console={"teach": {"encoder": "small"}})
    with (
        pytest.raises(ConfigError, match=r"console\.teach\.encoder: small is no encoder"),
        Node(tmp_path, configuration),
    ):
        pass
    del configuration["models"]["encoder"]
    configuration |= {"console": {"teach": {}}, "tasks": {"triage": TASKS["triage"]}}
    with (
        pytest.raises(ConfigError, match=r"no encoder is in models; .*add to models: encoder: \{bundle"),
        Node(tmp_path, configuration),
    ):
        pass


def test_a_head_whose_task_has_other_labels_now_is_left_out(
    broker: Mosquitto,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with teaching_node(tmp_path, broker.url, monkeypatch, teach=recorded(tmp_path)) as (_, teacher, _):
        teacher.label_all(4)
        teacher.trained()
        assert teacher.state("use")["is_used"]
    tasks = {**TASKS, "triage": {**TASKS["triage"], "labels": [*LABELS, "unknown"]}}
    with teaching_node(tmp_path, broker.url, monkeypatch, tasks=tasks) as (node, teacher, _):
        state = teacher.state()
        assert not state["is_taught"] and state["few"] == ["unknown"]
        assert "it was trained on other labels" in caplog.text
        assert node.daemon.service.tasks["triage"].learned is None


def proposed(state: dict[str, Any]) -> bool:
    return bool(state["message"]) and state["message"]["guess"] is not None and not state["is_proposing"]


def stored(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(row) for row in (folder / "state/feedback/triage.jsonl").read_text().splitlines()]


def test_the_untaught_model_at_work_proposes_the_first_labels(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with teaching_node(tmp_path, broker.url, monkeypatch, teach=recorded(tmp_path)) as (_, teacher, export):
        export.guesses = False
        state = teacher.when(proposed, "labels are proposed")
        first, second = state["message"], state["following"][0]
        assert (first["guess"], first["model"], first["confidence"]) == ("normal", "small", 0.9)
        assert state["labelled"] == 0 and not (tmp_path / "state/feedback").exists(), "none counts yet"
        teacher.state("label", message=first["id"], label=first["guess"])
        state = teacher.state("label", message=second["id"], label="critical")
        assert [(row["label"], "proposed" in row) for row in stored(tmp_path)] == [
            ("normal", False),
            ("critical", False),
        ]
        state = teacher.when(lambda state: len(state["proposals"]) > 3, "others have proposals")
        ids = [one["id"] for one in state["proposals"][:3]]
        assert teacher.act("accept", message=f"{ids[0]},{first['id']}").status == 409
        assert teacher.state("accept", message=",".join(ids))["labelled"] == 5
        assert [row.get("proposed") for row in stored(tmp_path)] == [None, None, "small", "small", "small"]
        assert teacher.state("undo")["labelled"] == 4


def test_labelling_goes_on_while_the_model_fails_or_is_busy(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three failures in a row end the proposals for a while; a request of others goes first."""
    (tmp_path / "recorded").mkdir()
    texts = ["fail too_long", *(f"fail internal {number}" for number in range(6))]
    (tmp_path / "recorded/triage.txt").write_text("\n".join(["fine", *texts]))
    teach = {"messages": str(tmp_path / "recorded")}
    with teaching_node(tmp_path, broker.url, monkeypatch, teach=teach) as (_, teacher, export):
        export.guesses = False
        state = teacher.when(lambda state: state["message"] and not state["is_proposing"], "it gave up")
        assert state["message"]["guess"] is None and state["proposals"] == []
        given = teacher.label_all(7)
        assert len(given) == len(stored(tmp_path)) == 7


def test_a_busy_model_proposes_later_and_stops_nobody(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = tmp_path / "gate"
    with (
        teaching_node(tmp_path, broker.url, monkeypatch, teach=recorded(tmp_path)) as (_, teacher, export),
        App(broker.port, f"{BASE}/res/#") as app,
    ):
        export.guesses = False
        app.publish(f"{BASE}/req/triage", {"input": f"hold {gate}", "id": "busy"})
        app.wait_until(lambda: gate.with_name("gate.held").exists(), "the model is busy")
        state = teacher.when(lambda state: state["message"], "a message is shown")
        assert state["is_proposing"] and state["message"]["guess"] is None
        teacher.label_all(2)
        gate.touch()
        assert app.take(f"{BASE}/res/triage").json["status"] == "ok"
        assert teacher.when(proposed, "it proposes when it is free")["labelled"] == 2


def test_a_task_with_a_head_has_no_proposals(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with teaching_node(tmp_path, broker.url, monkeypatch, teach=recorded(tmp_path)) as (_, teacher, export):
        teacher.label_all(4)
        teacher.trained()
        teacher.state("use")
        export.guesses = False
        teacher.label_all(12)
        state = teacher.when(lambda state: state["message"] and not state["doing"], "others are chosen")
        assert not state["is_proposing"] and state["message"]["guess"] is None

"""docs/reference/mqtt.md and its asyncapi.yaml say what the code does, and their examples are real."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, get_args

import pytest
import yaml
from jsonschema import Draft7Validator

from edgeslm.client.pending_request import FIRST_INTERVAL_S, LONGEST_INTERVAL_S, NOBODY_INTERVAL_S
from edgeslm.config.sections import Limits
from edgeslm.config.task_kinds import ALLOWED
from edgeslm.errors import REQUEST_ERRORS
from edgeslm.messages import ErrorBody, Request
from edgeslm.node.attempts import TRANSIENT
from edgeslm.protocol.codec import (
    PROTOCOL_VERSION,
    StateName,
    Topics,
    encode_result,
    parse_cancel,
    parse_chunk,
    parse_request,
    parse_result,
    parse_state,
)
from edgeslm.protocol.commands import encode_answer, parse_command
from edgeslm.protocol.delivery import Delivery
from edgeslm.protocol.feedback import parse_feedback
from edgeslm.protocol.request_options import OPTIONS
from tests.support.brokers import CONFIGURATIONS, Mosquitto
from tests.support.paths import ROOT
from tests.support.small_nodes import SmallNode

PAGE = (ROOT / "docs/reference/mqtt.md").read_text(encoding="utf-8")
API: dict[str, Any] = yaml.safe_load((ROOT / "docs/reference/asyncapi.yaml").read_text(encoding="utf-8"))
SCHEMAS: dict[str, Any] = API["components"]["schemas"]
TOPICS = Topics("press-hall-4")
REPLIES = ("edgeslm/v1/+/res/#", "edgeslm/v1/pool/+/res/#")

BLOCKS = [(info.strip(), text) for info, text in re.findall(r"```([^\n]*)\n(.*?)```", PAGE, re.DOTALL)]
EXAMPLES = [(info.removeprefix("json").strip(), text) for info, text in BLOCKS if info.startswith("json ")]


def validator(schema: str) -> Draft7Validator:
    """Of a schema in asyncapi.yaml; AsyncAPI's schemas are a superset of draft 7."""
    return Draft7Validator({"$ref": f"#/components/schemas/{schema}", "components": API["components"]})


def read_request(payload: bytes, task: str, response_topic: str | None = None) -> Request:
    request = parse_request(
        replace(Delivery.local(payload), response_topic=response_topic),
        task=task,
        topics=TOPICS,
        allowed_replies=REPLIES,
        packet_limit=Limits().packet_bytes,
    )
    assert isinstance(request, Request), request
    return request


def read_payload(name: str, payload: bytes) -> None:
    """Through the parser that the other end uses; what has none is only checked against its schema."""
    if name == "request":
        read_request(payload, "triage")
    elif name == "result":
        assert json.loads(encode_result(parse_result(payload))) == json.loads(payload)
    elif name == "chunk":
        parse_chunk(payload)
    elif name == "cancel":
        parse_cancel(payload)
    elif name == "feedback":
        parse_feedback(payload)
    elif name == "state":
        parse_state(payload)
    elif name == "command":
        parse_command("models/activate", payload)
    elif name == "outcome":
        said = json.loads(payload)
        error = ErrorBody(**said["error"]) if "error" in said else None
        made = encode_answer(said["command"], said.get("id"), result=said.get("result"), error=error)
        assert json.loads(made) == said
    else:
        assert name in ("info", "health", "dead")


def table(heading: str, column: str) -> dict[str, list[str]]:
    """The rows of the table below a heading whose first column is ``column``, by their first cell."""
    section = PAGE[PAGE.index(f"{heading}\n") :]
    rows = section[section.index(f"| {column} |") :].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]
    return {row[0].strip().strip("`"): [cell.strip() for cell in row[1:]] for row in cells}


class TestPage:
    @pytest.mark.parametrize(("name", "text"), EXAMPLES)
    def test_each_json_example_is_what_it_says(self, name: str, text: str) -> None:
        validator(name.capitalize()).validate(json.loads(text))
        read_payload(name, text.encode())

    def test_each_kind_of_message_has_an_example(self) -> None:
        assert {name for name, _ in EXAMPLES} == {
            "request",
            "result",
            "chunk",
            "cancel",
            "feedback",
            "command",
            "outcome",
            "state",
            "info",
            "health",
            "dead",
        }

    def test_the_python_example_is_python(self) -> None:
        for info, text in BLOCKS:
            if info == "python":
                ast.parse(text)

    @pytest.mark.parametrize("command", [text for info, text in BLOCKS if info == "sh"])
    def test_each_command_publishes_what_a_node_takes(self, command: str) -> None:
        for line in command.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removesuffix("&"))
            topic = words[words.index("-t") + 1]
            if words[0] == "mosquitto_sub":
                assert topic.startswith(f"{TOPICS.base}/res/")
                continue
            payload = words[words.index("-m") + 1].encode()
            if topic == TOPICS.cancel:
                parse_cancel(payload)
                continue
            if topic == TOPICS.feedback:
                parse_feedback(payload)
                continue
            task = TOPICS.task_of(topic)
            assert task
            response_topic = words[words.index("-e") + 1] if "-e" in words else None
            if "response-topic" in words:
                response_topic = words[words.index("response-topic") + 1]
            read_request(payload, task, response_topic)

    @pytest.mark.parametrize(("task", "deliveries"), [("echo", 1), ("second", 2), ("busy-once", 2)])
    def test_the_loop_repeats_until_it_has_its_result(
        self, broker: Mosquitto, task: str, deliveries: int
    ) -> None:
        (script,) = [text for info, text in BLOCKS if info == "sh loop"]
        assert "for seconds in 5 " in script
        for written, meant in (
            ("-h broker.local", f"-h 127.0.0.1 -p {broker.port}"),
            ("/triage", f"/{task}"),
            ("for seconds in 5 ", "for seconds in 1 1 1 "),
        ):
            script = script.replace(written, meant)
        with SmallNode(broker.url, "press-hall-4") as node:
            done = subprocess.run(["sh", "-euc", script], capture_output=True, text=True, check=True)
        assert parse_result(done.stdout.encode()).result == {"text": "Spindle 3 smells of burnt oil"}
        assert len(node.deliveries) == deliveries
        assert len({one.payload for one in node.deliveries}) == 1

    def test_the_client_s_intervals_are_those_of_the_page(self) -> None:
        assert f"after {FIRST_INTERVAL_S:g} seconds" in PAGE
        assert f"up to {LONGEST_INTERVAL_S:g} seconds" in PAGE
        assert f"every {NOBODY_INTERVAL_S:g} seconds" in PAGE

    def test_what_a_node_remembers_is_what_the_page_says(self) -> None:
        section = " ".join(PAGE.partition("## Retries\n")[2].partition("\n## ")[0].split())
        forgotten = section.rpartition(" aren't remembered")[0].rpartition(". ")[2]
        assert set(re.findall(r"`(\w+)`", forgotten)) == TRANSIENT
        assert Limits().repeat_window_s == 3600 and "an hour by default" in section

    def test_the_table_of_options_is_the_one_of_the_code(self) -> None:
        assert table("### Options", "option") == {
            name: [option.wanted, option.meaning] for name, option in OPTIONS.items()
        }

    def test_each_error_code_is_explained_and_has_an_example(self) -> None:
        assert set(table("## Errors", "code")) == set(REQUEST_ERRORS)
        results = [json.loads(text) for name, text in EXAMPLES if name == "result"]
        (whole,) = [result for result in results if result["status"] == "error"]
        (rest,) = [text for info, text in BLOCKS if info == "jsonl errors"]
        others = [{**whole, "error": json.loads(line)} for line in rest.splitlines()]
        for result in others:
            validator("Result").validate(result)
            read_payload("result", json.dumps(result).encode())
        assert {result["error"]["code"] for result in (whole, *others)} == set(REQUEST_ERRORS)

    def test_each_kind_of_task_is_explained(self) -> None:
        assert set(table("## The result", "kind")) == set(ALLOWED)

    def test_the_table_of_topics_is_the_one_of_the_code(self) -> None:
        topics = Topics("<node>")
        written = {topic.replace("<base>", topics.base) for topic in table("## Topics", "topic")}
        assert written == {
            topics.request("<task>"),
            topics.result("<task>"),
            "the reply topic",
            topics.stream("<reply topic>"),
            topics.cancel,
            topics.feedback,
            topics.feedback_by("<sender>"),
            topics.control("<command>"),
            topics.control_result("<command>"),
            topics.event("<route>"),
            topics.dead,
            topics.state,
            topics.info,
            topics.health,
        }

    def test_the_broker_s_settings_are_those_of_the_files(self) -> None:
        files = {
            name: (CONFIGURATIONS / f"{name}.conf").read_text(encoding="utf-8").splitlines()
            for name in ("strict", "balanced")
        }
        for settings, (why, *_) in table("## The broker", "mosquitto").items():
            named = [name for name in files if why.startswith(f"`{name}`:")]
            for name in named or files:
                assert set(settings.replace("`", "").split(", ")) <= set(files[name])

    def test_the_broker_s_files_are_there(self) -> None:
        named = {name.strip("`") for name in table("## The broker", "file")}
        assert named == {file.name for file in CONFIGURATIONS.glob("*.conf")}


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def resolve(reference: str) -> Any:
    found = API
    for key in reference.removeprefix("#/").split("/"):
        found = found[key]
    return found


class TestAsyncApi:
    def test_it_is_version_3_of_asyncapi(self) -> None:
        assert API["asyncapi"] == "3.0.0"
        assert {"info", "channels", "operations", "components"} <= set(API)
        assert API["info"]["title"]
        assert API["info"]["version"].split(".")[0] == str(PROTOCOL_VERSION)

    def test_every_reference_resolves(self) -> None:
        found = list(references(API))
        assert found
        for reference in found:
            assert resolve(reference) is not None

    def test_every_part_is_used(self) -> None:
        used = set(references(API))
        for kind in ("schemas", "messages", "parameters"):
            for name in API["components"][kind]:
                assert f"#/components/{kind}/{name}" in used
        channels = {operation["channel"]["$ref"] for operation in API["operations"].values()}
        assert channels | {"#/channels/reply"} == {f"#/channels/{name}" for name in API["channels"]}

    @pytest.mark.parametrize("name", sorted(SCHEMAS))
    def test_every_schema_is_a_schema(self, name: str) -> None:
        Draft7Validator.check_schema(SCHEMAS[name])

    @pytest.mark.parametrize("name", sorted(API["components"]["messages"]))
    def test_every_example_fits_its_schema(self, name: str) -> None:
        message = API["components"]["messages"][name]
        schema = message["payload"].get("$ref", "").rsplit("/", 1)[-1]
        assert message["examples"]
        for example in message["examples"]:
            payload = example["payload"]
            if schema:
                validator(schema).validate(payload)
                read_payload(name, json.dumps(payload).encode())
            else:
                Draft7Validator(message["payload"]).validate(payload)
                read_request(payload.encode(), "triage")
            if "headers" in example:
                validator(message["headers"]["$ref"].rsplit("/", 1)[-1]).validate(example["headers"])

    def test_addresses_are_those_of_the_code(self) -> None:
        topics = Topics("{node}")
        assert {name: channel["address"] for name, channel in API["channels"].items()} == {
            "request": topics.request("{task}"),
            "result": topics.result("{task}"),
            "reply": None,
            "stream": topics.stream("{reply}"),
            "event": topics.event("{route}"),
            "cancel": topics.cancel,
            "feedback": topics.feedback,
            "feedbackBy": topics.feedback_by("{sender}"),
            "control": topics.control("{command}"),
            "controlResult": topics.control_result("{command}"),
            "state": topics.state,
            "info": topics.info,
            "health": topics.health,
            "dead": topics.dead,
        }

    def test_each_parameter_of_an_address_is_declared(self) -> None:
        for channel in API["channels"].values():
            wanted = set(re.findall(r"{(\w+)}", channel["address"] or ""))
            assert set(channel.get("parameters", {})) == wanted

    def test_options_are_those_of_the_code(self) -> None:
        assert SCHEMAS["Options"]["properties"] == {name: option.schema for name, option in OPTIONS.items()}

    def test_codes_states_and_kinds_are_those_of_the_code(self) -> None:
        assert SCHEMAS["Error"]["properties"]["code"]["enum"] == list(REQUEST_ERRORS)
        assert tuple(SCHEMAS["State"]["properties"]["state"]["enum"]) == get_args(StateName)
        task = SCHEMAS["Info"]["properties"]["tasks"]["additionalProperties"]
        assert task["properties"]["kind"]["enum"] == list(ALLOWED)

    @pytest.mark.parametrize(
        "payload",
        [
            {"id": "1", "task": "t", "status": "ok"},
            {"id": "1", "task": "t", "status": "error"},
            {
                "id": "1",
                "task": "t",
                "status": "error",
                "result": {},
                "error": {"code": "busy", "message": ""},
            },
            {"id": "1", "task": "t", "status": "error", "error": {"code": "unheard_of", "message": ""}},
        ],
    )
    def test_the_schema_of_results_refuses_what_is_none(self, payload: dict[str, Any]) -> None:
        assert not validator("Result").is_valid(payload)


def test_each_promise_names_tests_that_exist() -> None:
    promised = set(re.findall(r"`(test_\w+)`", PAGE))
    written = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)", file.read_text(encoding="utf-8"))
    }
    assert promised and promised <= written

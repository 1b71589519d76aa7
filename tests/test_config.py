"""The configuration file: what is read, and that every fault is reported at once with its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, ValidationError

from edgeslm.bus.options import OPTIONS
from edgeslm.config import Config, Option, config_schema, load_config, parse_config
from edgeslm.document import MAX_BYTES
from edgeslm.errors import ConfigError
from edgeslm.fields import Rate

SMALL = """\
node: press-hall-4
broker: {url: mqtt://localhost}
models:
  small: {bundle: /srv/small}
tasks:
  triage: {kind: classify, model: small, labels: [calm, urgent]}
"""


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "c.yaml")
    return caught.value.problems


def with_task(**task: Any) -> str:
    data = yaml.safe_load(SMALL)
    data["tasks"]["triage"] = task
    return yaml.safe_dump(data)


def with_routes(*routes: dict[str, Any], **top: Any) -> str:
    data = yaml.safe_load(SMALL)
    return yaml.safe_dump({**data, **top, "routes": [{"task": "triage", **route} for route in routes]})


def test_a_small_file_gets_every_default() -> None:
    config = parse_config(SMALL)
    assert (config.node, config.prefix, config.base) == (
        "press-hall-4",
        "edgeslm",
        "edgeslm/v1/press-hall-4",
    )
    assert (config.broker.host, config.broker.port, config.broker.tls) == ("localhost", 1883, False)
    assert config.models["small"].threads == "auto"
    task = config.tasks["triage"]
    assert task.labels == {"calm": "", "urgent": ""}
    assert (task.threshold, task.overflow, task.mode) == (0.0, "error", "quote")
    assert task.allowed == {"priority", "deadline_ms"}
    assert config.replies == ("edgeslm/v1/+/res/#", "edgeslm/v1/pool/+/res/#")
    assert (config.limits.queue, config.limits.packet_bytes, config.limits.request_timeout_s) == (
        256,
        1_048_576,
        120,
    )
    assert config.log_level == "info"


def test_sections_can_t_be_changed() -> None:
    config = parse_config(SMALL)
    with pytest.raises(ValueError, match="frozen"):
        config.node = "other"


def test_the_default_of_replies_follows_the_prefix() -> None:
    assert parse_config(SMALL + "prefix: plant\n").replies == ("plant/v1/+/res/#", "plant/v1/pool/+/res/#")


def test_labels_and_keys_stay_texts_as_written() -> None:
    text = SMALL.replace("[calm, urgent]", "{yes: it is, no: , 12: a dozen, on: null}")
    assert parse_config(text).tasks["triage"].labels == {"yes": "it is", "no": "", "12": "a dozen", "on": ""}


@pytest.mark.parametrize("value", ["[yes, no]", "[off, on]", "[12:30, 2026-01-01]", "[0x1f, 0o7]"])
def test_yaml_1_1_traps_stay_texts(value: str) -> None:
    labels = parse_config(SMALL.replace("[calm, urgent]", value)).tasks["triage"].labels
    assert labels is not None
    assert list(labels) == value.strip("[]").split(", ")


def test_numbers_among_labels_need_quotes() -> None:
    assert problems(SMALL.replace("[calm, urgent]", "[1, 2]")) == [
        "c.yaml:6: tasks.triage.labels: must be texts: put numbers, true and false in quotes"
    ]


def test_all_faults_are_reported_at_once_in_the_order_of_lines() -> None:
    text = """\
node: Press_4
broker: {url: "http://h", keepalive_s: soon}
model:
  small: {bundle: /x}
models:
  small: {bundel: /x, threads: many}
tasks:
  triage: {kind: clasify, model: smal, labels: [a]}
  gist: {kind: summarize, model: small, temperature: 11, stop: END}
routes:
  - {from: "a/#/b", task: triag, qos: 3}
  - {from: a/+, task: gist, to: a/b, retian: true}
log_level: warn
"""
    assert [problem.split(": ")[0:2] for problem in problems(text)] == [
        ["c.yaml:1", "node"],
        ["c.yaml:2", "broker.keepalive_s"],
        ["c.yaml:2", "broker.url"],
        ["c.yaml:3", "model"],
        ["c.yaml:6", "models.small.bundel"],
        ["c.yaml:6", "models.small.bundle"],
        ["c.yaml:6", "models.small.threads"],
        ["c.yaml:8", "tasks.triage.kind"],
        ["c.yaml:8", "tasks.triage.labels"],
        ["c.yaml:8", "tasks.triage.model"],
        ["c.yaml:9", "tasks.gist.stop"],
        ["c.yaml:9", "tasks.gist.temperature"],
        ["c.yaml:11", "routes[0].from"],
        ["c.yaml:11", "routes[0].qos"],
        ["c.yaml:11", "routes[0].task"],
        ["c.yaml:12", "routes[1].retian"],
        ["c.yaml:12", "routes[1].to"],
        ["c.yaml:13", "log_level"],
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "c.yaml:1: file: empty: write at least node, broker and tasks"),
        ("# nothing\n---\n", "c.yaml:1: file: empty: write at least node, broker and tasks"),
        ("\n- a\n", "c.yaml:2: file: not a mapping: write keys such as `node: my-node`"),
        ("just text", "c.yaml:1: file: not a mapping: write keys such as `node: my-node`"),
        ("node: a\n\tbroker: b", "c.yaml:2: file: a tab: indent with spaces"),
        ("node: a\nbroker: b: c", "c.yaml:2: file: a colon too many, or a wrong indent: a text that holds"),
        ("node: *a", "c.yaml:1: file: found undefined alias 'a': define it with & first"),
        ("node: a\n---\nnode: b", "c.yaml:2: file: a second document begins here"),
        ('node: "a', "c.yaml:1: file: not YAML here: found unexpected end of stream"),
        ("node: a\nx: {to: {{ topic[0] }}/b}", "c.yaml:2: file: a text that begins with {{"),
        ("node: a\x07", "c.yaml:1: file: the character 0x7 can't be in YAML"),
        ("node: " + "[" * 2000, "c.yaml:1: file: nested too deep"),
        ("# " + "x" * MAX_BYTES, f"c.yaml:1: file: longer than {MAX_BYTES} bytes"),
        ('node: "\\UFFFFFFFF"', "c.yaml:1: file: not YAML: an escape or number in it can't be read"),
        ('node: "\\ud800"', "c.yaml:1: node: holds a character that can't be written as UTF-8"),
        ('"a\\nb": 1', "c.yaml:1: 'a\\nb': unknown key"),
        ("a: &a [*a]", "c.yaml:1: file: an anchor that contains itself"),
    ],
)
def test_text_that_is_no_yaml_mapping_is_one_sentence(text: str, problem: str) -> None:
    found = problems(text)
    assert any(line.startswith(problem) for line in found), found


def test_a_bomb_of_aliases_is_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    assert any("more than 20000 values" in problem for problem in problems("\n".join(lines)))


def test_anchors_and_merges_work_and_own_keys_win() -> None:
    text = SMALL.replace("tasks:\n", "tasks:\n  base: &base {kind: generate, model: small, max_tokens: 9}\n")
    tasks = parse_config(text + "  other: {<<: *base, max_tokens: 10}\n").tasks
    assert (tasks["other"].kind, tasks["other"].max_tokens) == ("generate", 10)


def test_a_key_written_twice_is_reported_and_the_rest_still_judged() -> None:
    found = problems(SMALL + "node: b\nlog_level: loud\n")
    assert found == [
        "c.yaml:7: node: written twice (first in line 1): keep one of them",
        "c.yaml:8: log_level: must be one of debug, info, warning, error",
    ]


def test_an_unquoted_template_is_explained() -> None:
    text = SMALL + "routes:\n  - from: a/b\n    task: triage\n    input: {{ payload.text }}\n"
    assert any(
        "c.yaml:10" in problem and "begins with {{ must be in quotes" in problem for problem in problems(text)
    )


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system [x]", "!secret x", "!!binary aGk="])
def test_tags_are_refused(tag: str) -> None:
    assert any(
        "is not understood: take it out" in problem for problem in problems(SMALL + f"prefix: {tag}\n")
    )


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("replys: [a/b]", "replys: unknown key: did you mean replies?"),
        ("colour: red", "colour: unknown key; known here: node, prefix, broker, models, tasks, routes"),
        ("knowledge: {}", "knowledge: unknown key"),
        ("pool: {name: a}", "pool: unknown key"),
        ("limits: {queue: 0}", "limits.queue: must be at least 1"),
        ("limits: {queue: 1.5}", "limits.queue: must be a whole number"),
        ('limits: {queue: "5"}', "limits.queue: must be a whole number, without quotes"),
        ("limits: {queue: true}", "limits.queue: must be a whole number"),
        ("limits: {queue: 70000}", "limits.queue: must be at most 65535"),
        ("limits:", "limits: empty: give it a value, or take the key out"),
        ("limits: [1]", "limits: must be a mapping of keys to values"),
        ("routes: a", "routes: must be a list, as in [one, two]"),
        ("replies: ['a/#/b']", "replies[0]: has a # that is not a whole level at the end"),
        ("replies: ['$share/g/a']", "replies[0]: is a shared subscription"),
        ("prefix: a//b", "prefix: has an empty level"),
        ("prefix: $a", "prefix: begins with $"),
        ("prefix: 5", "prefix: must be a text: put it in quotes"),
        ("state_dir: [a]", "state_dir: must be a text"),
        ('state_dir: "a\\0b"', "state_dir: holds a NUL character: take it out"),
        ('prefix: "\\ud800"', "prefix: holds a character that can't be written as UTF-8"),
    ],
)
def test_a_fault_at_the_top_says_what_to_change(line: str, problem: str) -> None:
    assert [found for found in problems(SMALL + line + "\n") if f": {problem}" in found]


@pytest.mark.parametrize("node", ["Press", "a_b", "a/b", "pool", "ä", '"a b"', "x" * 65, '"a\\n"'])
def test_names_no_node_may_have(node: str) -> None:
    assert problems(SMALL.replace("press-hall-4", node))[0].startswith("c.yaml:1: node: ")


@pytest.mark.parametrize(
    "url",
    [
        "localhost",
        "http://h",
        "mqtt://",
        "mqtt://h:0",
        "mqtt://h:70000",
        "mqtt://h:x",
        "mqtt://h/path",
        "mqtt://h?a=b",
        "mqtt://[::1",
        "mqtt://a b",
    ],
)
def test_addresses_no_broker_has(url: str) -> None:
    found = problems(SMALL.replace("mqtt://localhost", json.dumps(url)))
    assert [problem.split(": ")[1] for problem in found] == ["broker.url"]


@pytest.mark.parametrize(
    ("url", "host", "port", "tls"),
    [
        ("mqtt://h", "h", 1883, False),
        ("mqtts://h", "h", 8883, True),
        ('"mqtt://[::1]:18883"', "::1", 18883, False),
    ],
)
def test_addresses(url: str, host: str, port: int, tls: bool) -> None:
    broker = parse_config(SMALL.replace("mqtt://localhost", url)).broker
    assert (broker.host, broker.port, broker.tls) == (host, port, tls)


@pytest.mark.parametrize(
    "broker",
    [
        "{url: mqtt://h, password: hunter2}",
        "{url: 'mqtt://me:hunter2@h'}",
        "{url: mqtt://h, passwd: hunter2}",
    ],
)
def test_a_password_in_the_file_is_refused_and_never_repeated(broker: str) -> None:
    found = problems(SMALL.replace("{url: mqtt://localhost}", broker))
    assert "password_file" in found[0]
    assert "hunter2" not in str(found)


def test_the_password_is_not_in_any_repr(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hunter2")
    (tmp_path / "c.yaml").write_text(
        SMALL.replace("mqtt://localhost", "mqtt://h, username: u, password_file: secret")
    )
    config = load_config(tmp_path / "c.yaml")
    assert config.broker.password_file == tmp_path / "secret"
    assert "hunter2" not in repr(config) + config.model_dump_json()


@pytest.mark.parametrize(
    ("broker", "keys"),
    [
        ("{url: mqtts://h, cert_file: /c}", ["broker.key_file"]),
        ("{url: mqtts://h, key_file: /c}", ["broker.cert_file"]),
        ("{url: mqtt://h, ca_file: /c}", ["broker.ca_file"]),
        ("{url: mqtt://h, password_file: /c}", ["broker.username"]),
    ],
)
def test_keys_of_the_broker_that_belong_together(broker: str, keys: list[str]) -> None:
    found = problems(SMALL.replace("{url: mqtt://localhost}", broker))
    assert [problem.split(": ")[1] for problem in found] == keys


def test_variables_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE", "a-1")
    monkeypatch.setenv("QUEUE", "8")
    text = SMALL.replace("press-hall-4", "${NODE}") + "limits:\n  queue: ${QUEUE}\nprefix: 'x-$${y}'\n"
    config = parse_config(text)
    assert (config.node, config.limits.queue, config.prefix) == ("a-1", 8, "x-${y}")


def test_an_unset_variable_is_one_fault_beside_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NODE", raising=False)
    assert problems(SMALL.replace("press-hall-4", "${NODE}") + "log_level: loud\nprefix: '${a b}'\n") == [
        "c.yaml:1: node: the environment variable NODE is not set: set it",
        "c.yaml:7: log_level: must be one of debug, info, warning, error",
        "c.yaml:8: prefix: ${a b} is no variable's name; a literal ${ is written $${",
    ]


def test_relative_paths_are_taken_from_the_folder_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    file = tmp_path / "c.yaml"
    file.write_text(
        SMALL.replace("/srv/small", "../small")
        + "  other: {learned: ~/topic}\nstate_dir: state\n".replace("  other", "  other", 1)
    )
    config = load_config(file)
    assert config.models["small"].bundle == tmp_path / "../small"
    assert config.tasks["other"].learned == Path("/home/me/topic")
    assert config.state_dir == tmp_path / "state"


def test_the_state_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert parse_config(SMALL).state_dir == Path("/home/me/.local/state/edgeslm")
    monkeypatch.setenv("XDG_STATE_HOME", "/xdg")
    assert parse_config(SMALL).state_dir == Path("/xdg/edgeslm")
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/edgeslm:/var/lib/other")
    assert parse_config(SMALL).state_dir == Path("/var/lib/edgeslm")


def test_files_that_can_t_be_read(tmp_path: Path) -> None:
    for file, sentence in (
        (tmp_path / "none.yaml", "there is no such file"),
        (tmp_path, "can't be read: Is a directory"),
        (Path("a\0b"), "can't be read: embedded null byte"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            load_config(file)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"node: a\nprefix: caf\xe9\n")
    with pytest.raises(ConfigError, match=r"latin\.yaml:2: file: not UTF-8 here"):
        load_config(latin)
    latin.write_bytes(b"\xef\xbb\xbf" + SMALL.encode())
    assert load_config(latin).node == "press-hall-4"


@pytest.mark.parametrize(
    ("task", "problem"),
    [
        ({}, "kind: missing: add one of classify, extract, answer, summarize, generate, embed"),
        ({"kind": "search", "model": "small"}, "kind: must be one of classify"),
        ({"kind": "classify", "model": "small"}, "labels: missing"),
        ({"kind": "classify", "labels": ["a", "b"]}, "model: missing"),
        (
            {"kind": "classify", "model": "smal", "labels": ["a", "b"]},
            "model: no model is called 'smal': did you",
        ),
        ({"kind": "classify", "model": "small", "labels": ["a"]}, "labels: needs at least two labels"),
        ({"kind": "classify", "model": "small", "labels": ["a", "a"]}, "labels: 'a' is there twice"),
        ({"kind": "classify", "model": "small", "labels": ["a", " b"]}, "labels: ' b' is no label"),
        (
            {"kind": "classify", "model": "small", "labels": {"a": 1, "b": ""}},
            "labels: the meaning of 'a' must",
        ),
        ({"kind": "classify", "model": "small", "labels": "a, b"}, "labels: must be a mapping"),
        ({"kind": "generate", "model": "small", "labels": ["a", "b"]}, "labels: means nothing to generate"),
        ({"kind": "embed", "model": "small", "instruction": "x"}, "instruction: means nothing to embed"),
        (
            {"kind": "embed", "model": "small", "mode": "quote"},
            "mode: means nothing to embed (only to answer)",
        ),
        ({"kind": "embed", "model": "small", "allow": ["stream"]}, "allow: stream means nothing to embed"),
        ({"kind": "generate", "learned": "/x"}, "learned: means nothing to generate (only to classify)"),
        ({"learned": "/x", "allow": ["labels"]}, "allow: labels can't be set by senders here"),
        ({"kind": "embed", "model": "small", "adapter": "/x"}, "adapter: means nothing to embed"),
        ({"learned": "/x", "adapter": "/y"}, "adapter: means nothing here: a learned head"),
        ({"kind": "generate", "model": "small", "allow": ["strem"]}, "allow[0]: must be one of max_tokens"),
        ({"kind": "generate", "model": "small", "threshold": 1.5}, "threshold: must be at most 1"),
        ({"kind": "generate", "model": "small", "top_p": 0}, "top_p: must be more than 0"),
        (
            {"kind": "generate", "model": "small", "overflow": "tial"},
            "overflow: must be one of error, head, tail",
        ),
        ({"kind": "generate", "model": "small", "stages": ["a"]}, "stages: unknown key"),
        ({"kind": "generate", "model": "small", "stop": [""]}, "stop[0]: must have at least 1 character"),
        ({"kind": "extract", "model": "small"}, "schema: missing"),
        ({"kind": "extract", "model": "small", "schema": {}}, "schema.type: must be object"),
        ({"kind": "extract", "model": "small", "schema": {"type": "array"}}, "schema.type: must be object"),
        (
            {"kind": "extract", "model": "small", "schema": {"type": "object", "required": 1}},
            "schema.required: not",
        ),
        (
            {
                "kind": "extract",
                "model": "small",
                "schema": {"type": "object", "properties": {"a": {"type": "strin"}}},
            },
            "schema.properties.a.type: not JSON Schema",
        ),
        (
            {
                "kind": "extract",
                "model": "small",
                "schema": {"type": "object", "properties": {"a": {"pattern": "("}}},
            },
            "schema.properties.a.pattern: not JSON Schema",
        ),
        (
            {
                "kind": "extract",
                "model": "small",
                "schema": {"type": "object", "$ref": "https://x.example/s"},
            },
            "schema.$ref: 'https://x.example/s' points to nothing inside this schema",
        ),
        (
            {"kind": "extract", "model": "small", "schema": {"type": "object", "$ref": "#/$defs/a"}},
            "schema.$ref: '#/$defs/a' points to nothing inside this schema",
        ),
        (
            {
                "kind": "classify",
                "model": "small",
                "labels": ["ab", "cd"],
                "examples": [{"input": "x", "output": "ac"}],
            },
            "examples[0].output: 'ac' is none of the labels",
        ),
        (
            {"kind": "summarize", "model": "small", "examples": [{"input": "x", "output": 5}]},
            "examples[0].output: must be a text (numbers in quotes) or a mapping",
        ),
        (
            {
                "kind": "extract",
                "model": "small",
                "schema": {"type": "object"},
                "examples": [{"input": "x", "output": "y"}],
            },
            "examples[0].output: must be a mapping of the fields",
        ),
    ],
)
def test_a_fault_of_a_task_says_what_to_change(task: dict[str, Any], problem: str) -> None:
    found = problems(with_task(**task))
    assert any(f": tasks.triage.{problem}" in line for line in found), found


def test_a_learned_task_needs_nothing_else() -> None:
    task = parse_config(with_task(learned="/srv/topic")).tasks["triage"]
    assert (task.kind, task.model, task.labels) == (None, None, None)
    assert task.allowed == {"priority", "deadline_ms"}


def test_a_schema_may_refer_to_its_own_definitions() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/a"}},
        "$defs": {"a": {"type": "string"}},
    }
    assert parse_config(with_task(kind="extract", model="small", schema=schema))


@pytest.mark.parametrize("name", ["a b", "a/b", "+", "", "-a", "x" * 65])
def test_names_no_task_may_have(name: str) -> None:
    data = yaml.safe_load(SMALL)
    data["tasks"][name] = data["tasks"].pop("triage")
    assert "no name: use letters" in problems(yaml.safe_dump(data))[0]


def test_allow_replaces_the_options_of_the_kind() -> None:
    answer = parse_config(with_task(kind="answer", model="small")).tasks["triage"]
    assert {"context", "stream", "max_tokens"} <= answer.allowed
    assert not answer.allowed & {"labels", "schema"}
    task = parse_config(with_task(kind="answer", model="small", allow=["stream"])).tasks["triage"]
    assert task.allowed == {"stream"}
    assert parse_config(with_task(kind="answer", model="small", allow=[])).tasks["triage"].allowed == set()


def test_every_option_that_a_task_can_allow_is_one_that_requests_can_carry() -> None:
    assert set(get_args(Option)) <= set(OPTIONS)


def test_routes_get_a_name_each() -> None:
    text = with_routes({"from": "a"}, {"from": "b"}, {"from": "c", "name": "triage-2"}, {"from": "d"})
    names = [route.name for route in parse_config(text).routes]
    assert names == ["triage", "triage-3", "triage-2", "triage-4"]
    assert any(
        "routes[1].name: another route" in p for p in problems(with_routes(*[{"from": "a", "name": "x"}] * 2))
    )


@pytest.mark.parametrize(
    ("value", "rate"),
    [
        (5, Rate(5, 1)),
        (0.5, Rate(1, 2)),
        (2.5, Rate(5, 2)),
        ("10/s", Rate(10, 1)),
        ("6/min", Rate(6, 60)),
        ("100 / h", Rate(100, 3600)),
    ],
)
def test_rates(value: object, rate: Rate) -> None:
    assert parse_config(with_routes({"from": "a", "max_rate": value})).routes[0].max_rate == rate


@pytest.mark.parametrize("value", [0, -1, True, "fast", "3/day", "0/s", "99999/s", [1], 1e-9, 1e300])
def test_no_rates(value: object) -> None:
    assert "routes[0].max_rate: must" in problems(with_routes({"from": "a", "max_rate": value}))[0]


@pytest.mark.parametrize(
    ("route", "problem"),
    [
        ({"from": ""}, "from: is empty"),
        ({"from": "a+/b"}, "from: has a + that is not a whole level"),
        ({"from": "edgeslm/v1/press-hall-4/req/triage"}, "from: would read this node's own req topics"),
        ({"from": "edgeslm/v1/+/res/#"}, "from: would read this node's own res topics"),
        ({"from": "#"}, "from: would read this node's own state topics"),
        ({"from": "a", "to": "b/+"}, "to: the topic holds a wildcard"),
        ({"from": "a", "to": "b//{{ topic[0] }}"}, "to: the topic has an empty level"),
        ({"from": "a", "to": "$SYS/{{ topic[0] }}"}, "to: the topic begins with $"),
        ({"from": "a", "to": ""}, "to: the topic is empty"),
        ({"from": "a", "to": "{{ topic[0 }}"}, "to: the template doesn't compile"),
        ({"from": "a", "to": "{{ text }}"}, "to: there is no variable text: write payload.text"),
        (
            {"from": "a", "to": "edgeslm/v1/press-hall-4/req/triage"},
            "to: would write to the node's own topics",
        ),
        ({"from": "a", "to": "edgeslm/v1/press-hall-4/{{ topic[0] }}"}, "to: would write to the node's own"),
        ({"from": "a", "input": "{{ payload.text"}, "input: the template doesn't compile"),
        ({"from": "a", "input": "{{ range(9) }}"}, "input: there is no variable range"),
        ({"from": "a", "input": "{% include 'x' %}"}, "input: the template doesn't compile: include"),
        ({"from": "a", "when": "payload.x >"}, "when: the template doesn't compile"),
        ({"from": "a", "when": "{{ payload.x }} > 3"}, "when: must be one expression"),
        ({"from": "a", "retain": "yes"}, "retain: must be true or false"),
        ({"from": "a", "window": 5}, "window: unknown key"),
        ({"from": "a", "task": "triag"}, "task: no task is called 'triag': did you mean triage?"),
        ({"from": "a/b", "to": "a/b"}, "to: a loop"),
    ],
)
def test_a_fault_of_a_route_says_what_to_change(route: dict[str, Any], problem: str) -> None:
    found = problems(with_routes(route))
    assert any(f": routes[0].{problem}" in line for line in found), found


LOOPS = [
    [("a/#", "a/{{ topic[1] }}/label")],
    [("a/+", "a/{{ payload.room }}")],
    [("a/+", "{{ payload.room }}/b")],
    [("a/+/+", "{{ topic_name }}/../x"), ("a/+/+/+/+", "a/b/c")],
    [("a/b", "{% if payload.x %}a/b{% else %}c{% endif %}")],
    [("a/b", "{{ topic[0] }}/b")],
    [("a/b", "b"), ("b", "c"), ("c", "a/{{ payload }}")],
    [("a", None), ("edgeslm/v1/press-hall-4/event/triage", "a")],
]


@pytest.mark.parametrize("routes", LOOPS)
def test_routes_that_feed_themselves_are_errors(routes: list[tuple[str, str | None]]) -> None:
    found = problems(with_routes(*({"from": f, **({"to": t} if t else {})} for f, t in routes)))
    assert len(found) == 1, found
    assert ": a loop: " in found[0]


NO_LOOPS = [
    [("factory/+/log", "factory/{{ topic[1] }}/log/label")],
    [("sensors/+/raw", "{{ topic_name }}/label")],
    [("a/+", "b/{{ payload.room }}"), ("b/+", "c/{{ topic[1] }}")],
    [("a/b", "{{ topic[0] }}/c")],
    [("a/+", "a/{{ topic[1] }}/{{ payload.room }}")],
    [("a", None), ("edgeslm/v1/press-hall-4/event/triage", "b")],
    [("$SYS/broker/log/#", "{{ payload.a }}/x/y/z/w")],
]


@pytest.mark.parametrize("routes", NO_LOOPS)
def test_routes_that_feed_others_are_fine(routes: list[tuple[str, str | None]]) -> None:
    parse_config(with_routes(*({"from": f, **({"to": t} if t else {})} for f, t in routes)))


def test_a_broken_route_does_not_make_loops_of_others_up() -> None:
    found = problems(with_routes({"from": 5, "to": "{{ topic_name }}"}, {"from": "a/b", "to": "c", "qos": 9}))
    assert [problem.split(": ")[1] for problem in found] == ["routes[0].from", "routes[1].qos"]


def test_there_is_an_end_to_routes_and_levels() -> None:
    assert any("routes: must have at most 256" in p for p in problems(with_routes(*[{"from": "a"}] * 257)))
    assert any("more than 200 levels" in p for p in problems(with_routes({"from": "a/" * 200 + "b"})))


def test_the_schema_is_json_schema_and_agrees_with_the_parser() -> None:
    schema = config_schema()
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    validator.validate(yaml.safe_load(SMALL))
    validator.validate(yaml.safe_load(with_routes({"from": "a", "max_rate": "6/min"})))
    for wrong in ("colour: red\n", "limits: {queue: 0}\n", "log_level: loud\n"):
        with pytest.raises(ValidationError):
            validator.validate(yaml.safe_load(SMALL + wrong))


def test_every_key_has_a_description() -> None:
    schema = config_schema()
    for section in (schema, *schema["$defs"].values()):
        for key, value in section["properties"].items():
            assert value.get("description"), key


@settings(deadline=None)
@given(st.text())
def test_no_text_raises_anything_but_config_error(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text)
    assert caught.value.problems


SCRAPS = st.lists(
    st.sampled_from(["node", "broker", "tasks", "{{", "}}", "${", "---", "<<", "&a", "*a", "1", "true"])
    | st.sampled_from([": ", "- ", "\n", "\n  ", "\t", " ", "mqtt://h"])
    | st.sampled_from("{}[],!|>%?\"'\\#\0é"),
    max_size=40,
).map("".join)


@settings(deadline=None)
@given(SCRAPS)
def test_no_scraps_of_yaml_raise_anything_but_config_error(text: str) -> None:
    for whole in (text, SMALL + text):
        try:
            parse_config(whole)
        except ConfigError as error:
            assert error.problems


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 10**20) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from(
    [
        ("node",),
        ("prefix",),
        ("broker",),
        ("broker", "url"),
        ("broker", "keepalive_s"),
        ("models",),
        ("tasks",),
    ]
    + [("models", "small"), ("models", "small", "threads"), ("tasks", "triage"), ("routes",), ("routes", 0)]
    + [
        ("tasks", "triage", key)
        for key in ("kind", "model", "labels", "schema", "learned", "examples", "allow")
    ]
    + [("routes", 0, key) for key in ("name", "from", "task", "input", "to", "when", "qos", "max_rate")]
    + [("limits",), ("limits", "queue"), ("replies",), ("state_dir",), ("log_level",)]
)


@settings(deadline=None)
@given(st.lists(st.tuples(KEYS, VALUES), min_size=1, max_size=4))
def test_any_value_anywhere_is_taken_or_reported(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    data = yaml.safe_load(with_routes({"from": "a/+", "to": "b"}))
    for path, value in changes:
        place: Any = data
        for part in path[:-1]:
            known = part in place if isinstance(place, dict) else bool(place) and part == 0
            place = place[part] if known and isinstance(place, dict | list) else {}
        if isinstance(place, dict) or (isinstance(place, list) and path[-1] == 0 and place):
            place[path[-1]] = value
    try:
        assert isinstance(parse_config(json.dumps(data)), Config)
    except ConfigError as error:
        assert error.problems

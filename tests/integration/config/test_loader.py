"""The configuration file: what is read, and that every fault is reported at once with its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, ValidationError

from edgeslm.config.loader import Config, config_schema, load_config, parse_config
from edgeslm.config.yaml_source import MAX_BYTES
from edgeslm.errors import ConfigError
from tests.support.config_texts import SMALL, problems, with_routes

KEY = "signing: {keys: [/k.pub]}\n"
ACCEPT = "signing: {unsigned: accept}\n"


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


@pytest.mark.parametrize(
    ("text", "refuses"),
    [
        ("", False),
        (KEY, False),
        ("signing: {unsigned: refuse, keys: [/k.pub]}\n", True),
        ("signing: {require_signature: true, keys: [/k.pub]}\n", True),
        ("signing: {require_signature: true, unsigned: refuse, keys: [/k.pub]}\n", True),
        ("rollouts: {url: https://h}\n" + KEY, True),
        ("rollouts: {url: https://h}\n" + ACCEPT, False),
        ("updates: {sources: ['https://h/b']}\n" + KEY, True),
        ("updates: {sources: ['https://h/b']}\n" + ACCEPT, False),
        ("updates: {sources: [/srv/new]}\n", False),
    ],
)
def test_unsigned_bundles_are_refused_where_strangers_send_them(text: str, refuses: bool) -> None:
    signing = parse_config(SMALL + text).signing
    assert signing.refuses == refuses
    assert (signing.unsigned == "refuse") == signing.refuses == refuses


def test_what_strangers_send_needs_keys_or_a_word() -> None:
    for text in ("rollouts: {url: https://h}\n", "updates: {sources: ['https://h/b']}\n"):
        (problem,) = problems(SMALL + text)
        assert problem.startswith("c.yaml:") and "signing.keys: missing: list the public keys" in problem
        assert problem.endswith("or write unsigned: accept")
    (problem,) = problems(SMALL + "signing: {unsigned: refuse}\n")
    assert problem.endswith("missing: list the public keys of those whose bundles may run here")
    (problem,) = problems(SMALL + "signing: {unsigned: accept, require_signature: true, keys: [/k]}\n")
    assert problem == (
        "c.yaml:7: signing.unsigned: accept contradicts require_signature: true; remove one of them"
    )
    (problem,) = problems(SMALL + "signing: {unsigned: perhaps}\n")
    assert problem == "c.yaml:7: signing.unsigned: must be one of accept, refuse"


def test_sections_can_t_be_changed() -> None:
    config = parse_config(SMALL)
    with pytest.raises(ValueError, match="frozen"):
        config.node = "other"


def test_a_pool_serves_tasks_of_the_node_and_each_once() -> None:
    pool = parse_config(SMALL + "pool: {name: hall, tasks: [triage]}\n").pool
    assert pool is not None
    assert (pool.name, pool.tasks, pool.by) == ("hall", ("triage",), "share")
    assert problems(SMALL + "pool: {name: pool, tasks: [triage], by: luck}\n") == [
        "c.yaml:7: pool.by: must be one of share, dispatcher",
        "c.yaml:7: pool.name: pool is reserved for pools' topics: choose another name",
    ]
    assert problems(SMALL + "pool: {name: hall, tasks: [triag, triage, triage]}\n") == [
        "c.yaml:7: pool.tasks[0]: no task is called 'triag': did you mean triage?",
        "c.yaml:7: pool.tasks[2]: triage is named already: name each task once",
    ]


def test_a_server_of_rollouts_is_asked_with_tls_and_names_models_that_are_here() -> None:
    rollouts = parse_config(SMALL + "rollouts: {url: https://hawkbit.plant}\n" + ACCEPT).rollouts
    assert rollouts is not None
    assert (rollouts.tenant, rollouts.token, rollouts.allow_http) == ("DEFAULT", "target", False)
    wrong = "rollouts: {url: http://h, cert_file: /x, downloads: ['http://f'], models: {a: smal}}\n" + ACCEPT
    assert problems(SMALL + wrong) == [
        "c.yaml:7: rollouts.downloads[0]: must begin with https://",
        "c.yaml:7: rollouts.key_file: missing: cert_file needs the key that belongs to it",
        "c.yaml:7: rollouts.models.a: no model is called 'smal': did you mean small?",
        "c.yaml:7: rollouts.url: without TLS the token can be read on the network: write https://",
    ]
    short = "rollouts: {url: https://h, timeout_s: 300}\n" + ACCEPT
    assert problems(SMALL + short) == [
        "c.yaml:7: rollouts.timeout_s: must be more than updates.trial_s (300), or every bundle would be "
        "rolled back"
    ]
    allowed = "rollouts: {url: http://h, allow_http: true}\n" + ACCEPT
    assert parse_config(SMALL + allowed).rollouts is not None
    assert problems(SMALL + "rollouts: {url: https://h, tenant: a/b}\n" + ACCEPT)[0].startswith(
        "c.yaml:7: rollouts.tenant: no name"
    )


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
    assert any("is not understood; remove it" in problem for problem in problems(SMALL + f"prefix: {tag}\n"))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("replys: [a/b]", "replys: unknown key: did you mean replies?"),
        ("colour: red", "colour: unknown key; known here: node, prefix, broker, models, tasks, knowledge"),
        ("knowledge: {manuals: {}}", "knowledge.manuals.path: missing: add it"),
        ("knowledge: {manuals: {path: /kb, encoder: larg}}", "knowledge.manuals.encoder: no model is called"),
        ("knowledge: {manuals: {path: /kb, chunks: 5}}", "knowledge.manuals.chunks: unknown key; known here"),
        ("pool: {name: a}", "pool.tasks: missing: add it"),
        ("limits: {queue: 0}", "limits.queue: must be at least 1"),
        ("limits: {queue: 1.5}", "limits.queue: must be a whole number"),
        ('limits: {queue: "5"}', "limits.queue: must be a whole number, without quotes"),
        ("limits: {queue: true}", "limits.queue: must be a whole number"),
        ("limits: {queue: 70000}", "limits.queue: must be at most 65535"),
        ("limits:", "limits: empty: give it a value, or remove the key"),
        ("limits: [1]", "limits: must be a mapping of keys to values"),
        ("routes: a", "routes: must be a list, as in [one, two]"),
        ("replies: ['a/#/b']", "replies[0]: has a # that is not a whole level at the end"),
        ("replies: ['$share/g/a']", "replies[0]: is a shared subscription"),
        ("prefix: a//b", "prefix: has an empty level"),
        ("prefix: $a", "prefix: begins with $"),
        ("prefix: 5", "prefix: must be a text: put it in quotes"),
        ("state_dir: [a]", "state_dir: must be a text"),
        ('state_dir: "a\\0b"', "state_dir: contains a NUL character; remove it"),
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
        "c.yaml:8: prefix: ${a b} is not a variable's name; a literal ${ is written $${",
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

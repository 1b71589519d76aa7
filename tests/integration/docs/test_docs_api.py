"""docs/guides/api.md and api-access.md: their commands and programs run against a node with fake engines."""

from __future__ import annotations

import json
import re
import shlex
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from edgeslm.api.dialect import MOST_TEXTS
from edgeslm.api.host import MOST_REQUESTS
from edgeslm.api.node import MOST_OF_CLIENT
from edgeslm.api.tokens import parse_tokens
from edgeslm.api.web import MOST_CONNECTIONS
from edgeslm.api.wire import BODY_BYTES
from edgeslm.cli import main
from edgeslm.config.loader import parse_config
from edgeslm.tasks.rerank import MOST_DOCUMENTS
from edgeslm.web.connections import MOST_OF_ADDRESS, MOST_STRANGERS, STRANGER_S
from edgeslm.web.server import BODY_S, HEADER_BYTES, IDLE_S
from tests.support.apis import ApiClient, api_node, client_of
from tests.support.brokers import Mosquitto
from tests.support.nodes import Node
from tests.support.paths import ROOT

TEXT = "".join((ROOT / "docs/guides" / name).read_text("utf-8") for name in ("api.md", "api-access.md"))


def blocks(kind: str) -> list[str]:
    return re.findall(rf"(?ms)^```{kind}\n(.*?)^```", TEXT)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    broker = Mosquitto(tmp_path_factory.mktemp("broker"))
    broker.start()
    with api_node(tmp_path_factory.mktemp("node"), broker.url) as node:
        yield node
    broker.stop()


def run(node: Node, block: str, *command: str) -> str:
    api = client_of(node)
    block = block.replace("http://127.0.0.1:8481", api.url)
    block = re.sub("(?m)^TOKEN=.*", f"TOKEN={api.token}", block)
    done = subprocess.run([*command, block], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("block", blocks("python"))
def test_its_programs_run(node: Node, block: str) -> None:
    said = run(node, f"TOKEN = {client_of(node).token!r}\n{block}", sys.executable, "-c")
    assert "normal" in said or json.loads(said) == {"machine": "press-4"}


@pytest.mark.parametrize("block", [block for block in blocks("sh") if "curl" in block])
def test_its_commands_run(node: Node, block: str) -> None:
    said = run(node, block if "TOKEN=" in block else f"TOKEN=\n{block}", "sh", "-euc")
    assert '"content":"normal"' in said


def test_its_command_makes_the_tokens_that_it_shows(tmp_path: Path) -> None:
    (block,) = [block for block in blocks("sh") if "provision" in block]
    config, tokens = tmp_path / "edgeslm.yaml", tmp_path / "tokens"
    task = {"kind": "generate", "model": "small"}
    base = {"node": "n", "broker": {"url": "mqtt://localhost"}, "models": {"small": {"bundle": "/b"}}}
    config.write_text(yaml.safe_dump({**base, "tasks": {"assist": task}, "api": {"tokens": str(tokens)}}))
    arguments = shlex.split(block.replace("/etc/edgeslm/edgeslm.yaml", str(config)), comments=True)
    assert arguments.pop(0) == "edgeslm" and main.main(arguments) == 0
    (file,) = blocks("text")
    made, shown = parse_tokens(tokens.read_text(), "made"), parse_tokens(file, "shown")
    assert [(one.name, one.tasks) for one in made] == [(one.name, one.tasks) for one in shown]


def test_its_sections_are_valid() -> None:
    for block in blocks("yaml"):
        parts = yaml.safe_load(block)
        base = {"node": "n", "broker": {"url": "mqtt://localhost"}, "models": {"small": {"bundle": "/b"}}}
        parse_config(
            yaml.safe_dump({**base, "tasks": {"t": {"kind": "generate", "model": "small"}}, **parts})
        )
    (file,) = blocks("text")
    assert [(one.name, one.tasks) for one in parse_tokens(file, "file")] == [
        ("home-assistant", ("assist", "model:small")),
        ("node-red", None),
    ]


def test_its_programs_ask_tasks_of_its_configuration() -> None:
    config = yaml.safe_load(blocks("yaml")[0])
    known = {*config["tasks"], *(f"model:{name}" for name in config["models"])}
    assert parse_config(blocks("yaml")[0]).node == "hall"
    assert set(re.findall(r'model(?:=|": )"([^"]+)"', "".join(blocks("python")))) <= known


def test_its_certificate_is_trusted(broker: Mosquitto, tmp_path: Path) -> None:
    (block,) = [block for block in blocks("sh") if "openssl" in block]
    block = re.sub("(?m)^sudo chown.*", "", block).replace("sudo ", "").replace("/etc/edgeslm", str(tmp_path))
    subprocess.run(["sh", "-euc", block], check=True, capture_output=True, timeout=60)
    key, certificate = tmp_path / "api.key", tmp_path / "api.pem"
    assert key.stat().st_mode & 0o077 == 0
    strict = ssl.create_default_context(cafile=certificate)
    strict.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN  # as Python 3.13
    section = {"cert_file": str(certificate), "key_file": str(key), "hosts": ["hall.example.org"]}
    with api_node(tmp_path, broker.url, api=section) as node:
        port = client_of(node).port
        for name in ("hall.example.org", "192.168.1.20"):
            with socket.create_connection(("127.0.0.1", port)) as plain:
                strict.wrap_socket(plain, server_hostname=name).close()
        curl = [
            "curl",
            "-sf",
            "--cacert",
            str(certificate),
            "--resolve",
            f"hall.example.org:{port}:127.0.0.1",
        ]
        command = [*curl, f"https://hall.example.org:{port}/"]
        assert subprocess.run(command, capture_output=True, check=True).stdout == b"edgeslm is running"
        with (
            pytest.raises(ssl.SSLCertVerificationError),
            socket.create_connection(("127.0.0.1", port)) as plain,
        ):
            ssl.create_default_context().wrap_socket(plain, server_hostname="hall.example.org")


def test_its_paths_are_those_of_the_code(node: Node) -> None:
    api: ApiClient = client_of(node)
    paths = set(re.findall(r"`(?:GET |POST )?(/(?:v1|api)/[a-z/]+)", TEXT))
    assert len(paths) == 15
    for path in paths:
        assert api.ask(path.rstrip("/")).status in (200, 405)


def test_its_limits_are_those_of_the_code() -> None:
    words = " ".join(TEXT.split())
    for sentence in (
        f"{MOST_CONNECTIONS} connections, {MOST_REQUESTS} requests of all clients, {MOST_OF_CLIENT} of one",
        f"A body has at most {BODY_BYTES >> 20} MB",
        f"a header {HEADER_BYTES >> 10} kB",
        f"idle for {IDLE_S:.0f} to {2 * IDLE_S:.0f} seconds",
        f"longer than {BODY_S:.0f} seconds",
        f"closed after {STRANGER_S:.0f} seconds, and above {MOST_OF_ADDRESS} from one address or "
        f"{MOST_STRANGERS} in all",
        f"up to {MOST_TEXTS} texts",
        f"up to {MOST_DOCUMENTS} `documents`",
    ):
        assert sentence in words, sentence


def test_its_pictures_and_links_are_there() -> None:
    for name in re.findall(r"\]\(([^)#]+\.md)", TEXT):
        assert (Path(ROOT) / "docs/guides" / name).resolve().is_file()

"""Starts the node in the add-on: asks Supervisor for the broker, writes what is missing in /config, and then
runs ``edgeslm run /config/edgeslm.yaml`` as the user edgeslm.

Supervisor's answers are described at https://developers.home-assistant.io/docs/api/supervisor/endpoints.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

USER = 64990
"""User and group of the node, as in the container file."""
WAIT_S = 60.0
"""Time for the broker's add-on to start."""
PAUSE_S = 2.0


def main() -> None:
    data, config = Path("/data"), Path("/config")
    os.umask(0o077)
    try:
        os.environ |= prepare(data, config, "http://supervisor", WAIT_S)
        hand_over(data / "state", config / "edgeslm.yaml", config / "api-tokens")
    except (OSError, ValueError) as error:
        sys.exit(f"The add-on can't start: {error}")
    os.setgroups([])
    os.setgid(USER)
    os.setuid(USER)
    os.execvp("edgeslm", ["edgeslm", "run", str(config / "edgeslm.yaml")])


def prepare(data: Path, config: Path, supervisor: str, wait_s: float) -> dict[str, str]:
    """Writes the files that the node needs. Returns the variables of its configuration.

    :raises OSError: a file can't be read or written. :raises ValueError: there is no broker.
    """
    state, file, tokens = data / "state", config / "edgeslm.yaml", config / "api-tokens"
    state.mkdir(exist_ok=True)
    if not file.exists():
        shutil.copyfile(Path(__file__).with_name("edgeslm.yaml"), file)
        sys.stderr.write(f"wrote {file}; see the add-on's documentation\n")
    if not tokens.exists():
        tokens.write_text(f"home-assistant {secrets.token_urlsafe(24)}\n")
    options = json.loads((data / "options.json").read_text("utf-8"))
    variables = {
        "EDGESLM_LOG_LEVEL": str(options.get("log_level", "info")),
        "EDGESLM_HOST": socket.gethostname().lower(),
    }
    if "${EDGESLM_BROKER_URL}" in file.read_text("utf-8", "replace"):
        broker = wait_for_broker(f"{supervisor}/services/mqtt", wait_s)
        scheme = "mqtts" if broker.get("ssl") else "mqtt"
        variables["EDGESLM_BROKER_URL"] = f"{scheme}://{broker['host']}:{broker['port']}"
        variables["EDGESLM_BROKER_USERNAME"] = broker["username"]
        (state / "mqtt-password").write_text(f"{broker['password']}\n")
    return variables


def wait_for_broker(url: str, wait_s: float) -> dict[str, Any]:
    """Host, port and login of the broker's add-on.

    :raises ValueError: there is none after ``wait_s`` seconds, or the answer isn't understood.
    """
    request = urllib.request.Request(
        url, headers={"Authorization": f"Bearer {os.environ['SUPERVISOR_TOKEN']}"}
    )
    give_up_at = time.monotonic() + wait_s
    while True:
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return read_broker(answer.read())
        except OSError as error:
            reason = describe(error)
        if time.monotonic() >= give_up_at:
            how = "install and start the add-on Mosquitto broker, or name your broker in edgeslm.yaml"
            raise ValueError(f"Supervisor knows no MQTT broker ({reason}): {how}")
        time.sleep(min(PAUSE_S, wait_s))


def read_broker(body: bytes) -> dict[str, Any]:
    """:raises ValueError: the answer isn't understood."""
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    broker = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(broker, dict) or not {"host", "port", "username", "password"} <= set(broker):
        raise ValueError("Supervisor doesn't tell the broker's host, port, username and password")
    return broker


def describe(error: OSError) -> str:
    """What Supervisor says in an error response, else the error itself."""
    if not isinstance(error, urllib.error.HTTPError):
        return str(getattr(error, "reason", error))
    try:
        return str(json.load(error)["message"])
    except (ValueError, KeyError, TypeError, OSError):
        return f"HTTP status {error.code}"


def hand_over(folder: Path, *files: Path) -> None:
    """Gives a folder with all that is in it, and files, to the node's user."""
    inside = (Path(place, name) for place, *names in os.walk(folder) for name in [*names[0], *names[1]])
    for path in (folder, *inside, *files):
        os.lchown(path, USER, USER)


if __name__ == "__main__":
    main()

"""Real Home Assistant with its MQTT integration, run by its own Python: ``home_assistant.py PORT FOLDER``.

Each line of standard input is a command, each answer a line of JSON: ``states`` lists state and attributes of
all entities, ``automation FILE INPUTS`` makes an automation from the blueprint ``edgeslm/FILE``, ``script`` a
script named ``test``, ``run DATA`` runs the script and returns its response, ``fire DATA`` fires an
``edgeslm_text`` event, ``events`` lists data of ``edgeslm_test`` events, ``notifications`` those of
notifications. Nothing is downloaded, and no port is opened.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from pathlib import Path
from types import MappingProxyType
from typing import Any

from homeassistant import bootstrap, config_entries, core, loader
from homeassistant.setup import async_setup_component


def make_entry(port: int) -> Any:
    """The MQTT integration as set up in the UI; constructors differ between versions."""
    parameters = inspect.signature(config_entries.ConfigEntry.__init__).parameters
    fields = {
        "version": 1,
        "minor_version": 1,
        "domain": "mqtt",
        "title": "broker",
        "data": {"broker": "127.0.0.1", "port": port},
        "source": "user",
        "options": {},
        "unique_id": None,
        "discovery_keys": MappingProxyType({}),
        "subentries_data": (),
    }
    return config_entries.ConfigEntry(**{name: fields[name] for name in fields if name in parameters})


async def run(port: int, folder: Path) -> None:
    (folder / "configuration.yaml").touch()
    hass = core.HomeAssistant(str(folder)) if _takes_folder() else core.HomeAssistant()
    hass.config.skip_pip = True
    if hasattr(loader, "async_setup"):
        loader.async_setup(hass)
    hass.config_entries = config_entries.ConfigEntries(hass, {})
    await bootstrap.async_load_base_functionality(hass)
    hass.config.components.update({"http", "file_upload"})  # pretends that the web server runs
    getattr(hass, "set_state", lambda state: setattr(hass, "state", state))(core.CoreState.running)
    await hass.config_entries.async_add(make_entry(port))
    events: list[Any] = []
    hass.bus.async_listen("edgeslm_test", lambda event: events.append(event.data))
    notifications: list[Any] = []
    hass.services.async_register(
        "persistent_notification", "create", lambda call: notifications.append(call.data)
    )
    while line := await asyncio.to_thread(sys.stdin.readline):
        await hass.async_block_till_done()
        order, _, rest = line.strip().partition(" ")
        answer: Any = None
        if order == "states":
            answer = {one.entity_id: [one.state, dict(one.attributes)] for one in hass.states.async_all()}
        elif order == "events":
            answer = [dict(data) for data in events]
        elif order == "notifications":
            answer = [dict(data) for data in notifications]
        elif order in ("automation", "script"):
            file, _, inputs = rest.partition(" ")
            blueprint = {"path": f"edgeslm/{file}", "input": json.loads(inputs)}
            made: dict[str, Any] = {"alias": "test", "use_blueprint": blueprint}
            entries = {"test": made} if order == "script" else [{"id": "test", **made}]
            answer = await async_setup_component(hass, order, {order: entries})
        elif order == "run":
            answer = await hass.services.async_call(
                "script", "test", json.loads(rest), blocking=True, return_response=True
            )
        elif order == "fire":
            hass.bus.async_fire("edgeslm_text", json.loads(rest))
        print(json.dumps(answer, default=str), flush=True)
    await hass.async_stop(force=True)


def _takes_folder() -> bool:
    return "config_dir" in inspect.signature(core.HomeAssistant.__new__).parameters


if __name__ == "__main__":
    asyncio.run(run(int(sys.argv[1]), Path(sys.argv[2])))

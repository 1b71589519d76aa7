"""Home Assistant with two lights and language-model integrations, run by its own Python in a Debian root.

Each line of standard input is a JSON object: an ``order`` and its arguments. Each answer is a line of JSON.
``flow`` sets up an integration through its config flow (``domain``, and ``steps``, the input of each form);
``subentry`` adds a part to it (``kind``). ``say`` sends a sentence to a conversation agent and returns what
is spoken, the time, and the states of the lights. ``task`` asks an AI Task entity for structured data.
Nothing is downloaded, and no port is opened.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

from homeassistant import bootstrap, config_entries, const, core, loader
from homeassistant.components import conversation
from homeassistant.helpers import area_registry, entity_registry
from homeassistant.setup import async_setup_component

ROOMS = ("Kitchen", "Bedroom")


def configuration() -> dict[str, Any]:
    """Lights that remember whether they are on."""
    switches: dict[str, Any] = {room.lower(): {} for room in ROOMS}
    lights = []
    for room in ROOMS:
        entity = f"input_boolean.{room.lower()}"
        lights.append(
            {
                "name": f"{room} Light",
                "unique_id": room,
                "state": f"{{{{ is_state('{entity}', 'on') }}}}",
                **{
                    name: [{"action": f"input_boolean.{name}", "target": {"entity_id": entity}}]
                    for name in ("turn_on", "turn_off")
                },
            }
        )
    return {"input_boolean": switches, "template": [{"light": lights}]}


async def make_home(folder: Path) -> Any:
    (folder / "configuration.yaml").touch()
    hass = core.HomeAssistant(str(folder))
    hass.config.skip_pip = True
    loader.async_setup(hass)
    hass.config_entries = config_entries.ConfigEntries(hass, {})
    await hass.config_entries.async_initialize()
    await bootstrap.async_load_base_functionality(hass)
    hass.config.components.update({"http", "assist_pipeline", "camera", "image", "media_source"})
    hass.http = MagicMock()  # the web server, which nothing here needs
    hass.set_state(core.CoreState.running)
    parts = configuration()
    for name in ("homeassistant", "intent", "conversation", "input_boolean", "template"):
        assert await async_setup_component(hass, name, parts), name
    await hass.async_block_till_done()
    for room in ROOMS:
        area = area_registry.async_get(hass).async_create(room)
        entities = entity_registry.async_get(hass)
        entities.async_update_entity(f"light.{room.lower()}_light", area_id=area.id)
    return hass


async def flow(hass: Any, domain: str, steps: list[dict[str, Any]]) -> dict[str, Any]:
    flows = hass.config_entries.flow
    step = await flows.async_init(domain, context={"source": "user"})
    for given in steps:
        step = await flows.async_configure(step["flow_id"], given)
    await hass.async_block_till_done()
    return shown(step)


async def subentry(hass: Any, domain: str, kind: str, given: dict[str, Any]) -> dict[str, Any]:
    (entry,) = hass.config_entries.async_entries(domain)
    flows = hass.config_entries.subentries
    step = await flows.async_init((entry.entry_id, kind), context={"source": "user"})
    step = await flows.async_configure(step["flow_id"], given)
    await hass.async_block_till_done()
    return shown(step)


def shown(step: Any) -> dict[str, Any]:
    return {"type": str(step["type"].value), "errors": step.get("errors"), "reason": step.get("reason")}


async def say(hass: Any, agent: str, text: str) -> dict[str, Any]:
    began = time.monotonic()
    result = await conversation.async_converse(hass, text, None, core.Context(), agent_id=agent)
    took_s = time.monotonic() - began
    await hass.async_block_till_done()
    speech = result.response.as_dict()["speech"]
    lights = {one.entity_id: one.state for one in hass.states.async_all("light")}
    return {"speech": speech.get("plain", {}).get("speech"), "seconds": took_s, "lights": lights}


async def ai_task(hass: Any, entity: str, instructions: str, structure: dict[str, Any]) -> Any:
    given = {
        "entity_id": entity,
        "task_name": "test",
        "instructions": instructions,
        "structure": structure,
    }
    return await hass.services.async_call(
        "ai_task", "generate_data", given, blocking=True, return_response=True
    )


async def answer(hass: Any, order: dict[str, Any]) -> Any:
    kind = order.pop("order")
    if kind == "version":
        return const.__version__
    if kind == "entities":
        return sorted(one.entity_id for one in hass.states.async_all())
    orders: dict[str, Any] = {"flow": flow, "subentry": subentry, "say": say, "task": ai_task}
    return await orders[kind](hass, **order)


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        hass = await make_home(Path(folder))
        while line := await asyncio.to_thread(sys.stdin.readline):
            try:
                told = await answer(hass, json.loads(line))
            except Exception as error:
                told = {"failed": f"{type(error).__name__}: {error}"}
            print(json.dumps(told, default=str), flush=True)
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())

"""goosebit server with one device, run by a Python that has goosebit: an independent hawkBit DDI server.

    python tests/support/goosebit_server.py PORT DEVICE TOKEN

Each line on standard input is a command as JSON, answered by a line of JSON with the device's state:
``{"assign": FILE, "version": V}`` assigns an update to that file, ``{"look": true}`` only reads the state.
goosebit's own upload takes images of SWUpdate and RAUC only, so files are inserted into its database.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from pathlib import Path
from typing import Any


async def main(port: int, device_id: str, token: str) -> None:
    import uvicorn
    from goosebit import app, db
    from goosebit.db.models import Hardware, Software, UpdateModeEnum
    from goosebit.device_manager import DeviceManager
    from tortoise import Tortoise

    await db.init()
    await Tortoise.generate_schemas()
    device = await DeviceManager.get_device(device_id)
    await DeviceManager.update_auth_token(device, token)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.02)
    print("{}", flush=True)

    async def do(order: dict[str, Any]) -> dict[str, Any]:
        device = await DeviceManager.get_device(device_id)
        if "assign" in order:
            file = Path(order["assign"])
            software = await Software.create(
                uri=file.as_uri(),
                size=file.stat().st_size,
                hash=hashlib.sha1(file.read_bytes()).hexdigest(),
                version=order["version"],
            )
            await software.compatibility.add(
                (await Hardware.get_or_create(model="default", revision="default"))[0]
            )
            await DeviceManager.update_update(device, UpdateModeEnum.ASSIGNED, software)
        return {"state": str(device.last_state), "version": device.sw_version, "log": device.last_log or ""}

    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await do(json.loads(line))), flush=True)
    server.should_exit = True
    await serving


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3]))

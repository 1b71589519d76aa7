"""The control commands ``models/...``: list, stage, activate, roll back and remove bundles over MQTT."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from edgeslm.config.loader import Config
from edgeslm.errors import InvalidRequest
from edgeslm.protocol.commands import Handler, only, text_argument
from edgeslm.update.sources import check_source
from edgeslm.update.store import Store
from edgeslm.update.updater import Updater


def handlers_of(updater: Updater, store: Store) -> dict[str, Handler]:
    """Command handlers, by the command's name."""

    async def list_all(arguments: Mapping[str, Any]) -> dict[str, Any]:
        only(arguments)
        return {
            "bundles": [describe(one) for one in store.bundles()],
            "models": models_of(store, updater.config),
        }

    async def stage(arguments: Mapping[str, Any]) -> dict[str, Any]:
        only(arguments, "source")
        source = text_argument(arguments, "source")
        sources = updater.config.updates.sources
        check_source(source, sources)
        bundle = await updater.bring(source, within=sources)
        return {"bundle": bundle.manifest.name, "digest": bundle.digest}

    async def activate(arguments: Mapping[str, Any]) -> dict[str, Any]:
        only(arguments, "model", "digest", "older")
        older = arguments.get("older", False)
        if not isinstance(older, bool):
            raise InvalidRequest("The command's 'older' is true or false.")
        if older and not updater.config.updates.older:
            raise InvalidRequest("older releases aren't taken over the bus here (updates.older)")
        bundle = store.find(text_argument(arguments, "digest"))
        return (await updater.update(text_argument(arguments, "model"), bundle, older=older)).figures()

    async def rollback(arguments: Mapping[str, Any]) -> dict[str, Any]:
        only(arguments, "model")
        return {"digest": await updater.roll_back(text_argument(arguments, "model"))}

    async def remove(arguments: Mapping[str, Any]) -> dict[str, Any]:
        only(arguments, "digest")
        bundle = await asyncio.to_thread(store.remove, text_argument(arguments, "digest"), updater.config)
        return {"digest": bundle.digest}

    return {
        "models/list": list_all,
        "models/stage": stage,
        "models/activate": activate,
        "models/rollback": rollback,
        "models/remove": remove,
    }


def describe(stored: Any) -> dict[str, Any]:
    """A stored bundle as a JSON object, without its path."""
    manifest = stored.bundle.manifest
    return {
        "name": manifest.name,
        "kind": manifest.kind,
        "release": manifest.release or 0,
        "digest": stored.bundle.digest,
        "bytes": stored.size_bytes,
        "used_by": list(stored.used_by),
    }


def models_of(store: Store, config: Config) -> dict[str, Any]:
    """Digests of each model's active and previous bundles; both are None if the configured bundle is used."""
    found: dict[str, Any] = {}
    for name in config.models:
        entry = store.entry(name)
        found[name] = (
            {"active": None, "previous": None}
            if entry is None
            else {
                "active": entry.active,
                "previous": entry.previous,
                "on_trial": entry.tries is not None,
            }
        )
    return found

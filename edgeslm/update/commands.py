"""The control commands ``models/...``: list, stage, receive, activate, roll back and remove bundles."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from edgeslm.bundle.trust import Trust
from edgeslm.config.loader import Config
from edgeslm.errors import BundleError, InvalidRequest
from edgeslm.protocol.commands import Handler, only, text_argument
from edgeslm.update.slots import task_of
from edgeslm.update.sources import MQTT, check_source
from edgeslm.update.store import Store
from edgeslm.update.updater import Updater


def handlers_of(updater: Updater, store: Store) -> dict[str, Handler]:
    """Command handlers, by the command's name."""
    from edgeslm.update.upload import Upload  # lazy: few nodes take commands

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

    upload = Upload(store.folder, updater.config.updates.budget_bytes)

    async def receive(arguments: Mapping[str, Any]) -> dict[str, Any]:
        only(arguments, "archive", "offset", "data", "sha256")
        if MQTT not in updater.config.updates.sources:
            raise InvalidRequest(f"archives aren't taken over MQTT here (updates: {{sources: [{MQTT}]}})")
        archive, offset = text_argument(arguments, "archive"), arguments.get("offset", 0)
        if type(offset) is not int or offset < 0:
            raise InvalidRequest("The command's 'offset' is a number of bytes.")
        try:
            if "sha256" not in arguments:
                data = text_argument(arguments, "data")
                return {"bytes": await asyncio.to_thread(upload.add, archive, offset, data)}
            with upload.finish(archive, text_argument(arguments, "sha256")) as file:
                bundle = await updater.take(file, "the archive")
        except OSError as error:
            raise BundleError(f"the archive can't be stored: {error.strerror}") from None
        trust = Trust(updater.config.signing, updater.config.state_dir)
        trust.load(bundle.path)
        try:
            await trust.check()
        except BundleError:
            await asyncio.to_thread(store.remove, bundle.digest, updater.config)
            raise
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
        "models/receive": receive,
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
    """Digests of the active and previous bundles of each model and each updated task (``learned/TASK``); both
    are None if the configured bundle is used."""
    found: dict[str, Any] = {}
    for name in [*config.models, *(one for one in store.changed if task_of(one) in config.tasks)]:
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

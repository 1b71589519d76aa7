"""``edgeslm models``: lists, stages, activates, rolls back and removes bundles on this device."""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeslm.cli.parts import Act, add_part
from edgeslm.cli.screen import ProgressLine, say
from edgeslm.errors import BundleError, EdgeslmError
from edgeslm.storage.file_ownership import become_owner

if TYPE_CHECKING:
    from edgeslm.config.loader import Config
    from edgeslm.update.store import Store

SUMMARY = "stage bundles on this device, activate them, roll back"
EXAMPLE = "edgeslm models stage config.yaml https://updates.plant.local/smollm2.tar.gz"


def add_arguments(command: argparse.ArgumentParser) -> None:
    parts = command.add_subparsers(title="what to do", metavar="ACTION", required=True)

    def add(name: str, act: Act, about: str, *example: str) -> argparse.ArgumentParser:
        line = " ".join(("edgeslm models", name, "/etc/edgeslm/edgeslm.yaml", *example))
        part = add_part(parts, name, act, about, line)
        part.add_argument("config", type=Path, metavar="CONFIG", help="the configuration file")
        part.add_argument("--json", action="store_true", help="print JSON")
        return part

    add("list", _list, "show the bundles on this device, and each model's", "--json")
    part = add("stage", _stage, "bring a bundle onto this device without activating it", "v2.tar.gz")
    part.add_argument("source", metavar="SOURCE", help="a folder, a .tar archive, or its https:// address")
    part = add("activate", _activate, "switch a model to another bundle, on trial", "small", "1f3a")
    part.add_argument("model", metavar="MODEL", help="its name in the configuration")
    part.add_argument("digest", metavar="DIGEST", help="the bundle's digest, or its first characters")
    part.add_argument(
        "--older", action="store_true", help="accept a lower release than the highest one used here"
    )
    part = add("rollback", _rollback, "switch a model back to its previous bundle", "small")
    part.add_argument("model", metavar="MODEL", help="its name in the configuration")
    part = add("remove", _remove, "remove a bundle that no model uses or may roll back to", "1f3a")
    part.add_argument("digest", metavar="DIGEST", help="the bundle's digest, or its first characters")


def run(arguments: argparse.Namespace) -> int:
    from edgeslm.config.loader import load_config
    from edgeslm.update.store import Store

    config = load_config(arguments.config)
    if arguments.act is not _list:
        become_owner(config.state_dir)
    store = Store(config.state_dir, config.node)
    try:
        said, text = arguments.act(arguments, config, store)
    except OSError as error:
        raise EdgeslmError(f"{error.filename or store.folder}: {error.strerror}") from None
    say(json.dumps(said) if arguments.json else text)
    return 0


def _list(arguments: argparse.Namespace, config: Config, store: Store) -> tuple[dict[str, Any], str]:
    from edgeslm.bundle.manifest import short_digest
    from edgeslm.update.commands import describe, models_of

    models, bundles = models_of(store, config), [describe(one) for one in store.bundles()]
    lines = []
    for name, model in models.items():
        active = "what the configuration names"
        if model["active"]:
            active = short_digest(model["active"]) + (", on trial" if model["on_trial"] else "")
        lines.append(f"{name}: {active}")
    for one in bundles:
        used = f"  used by {', '.join(one['used_by'])}" if one["used_by"] else ""
        lines.append(f"  {short_digest(one['digest'])}  {one['bytes'] / 1e6:7.1f} MB  {one['name']}{used}")
    return {"models": models, "bundles": bundles}, "\n".join(lines)


def _stage(arguments: argparse.Namespace, config: Config, store: Store) -> tuple[dict[str, Any], str]:
    from edgeslm.bundle.manifest import short_digest
    from edgeslm.bundle.trust import Trust
    from edgeslm.update.downloads import ServerLogin
    from edgeslm.update.staging import Staging

    with ProgressLine() as progress:
        staging = Staging(
            store,
            budget_bytes=config.updates.budget_bytes,
            login=ServerLogin(ca_file=config.updates.ca_file),
            show=lambda done, of: progress.show(done, of or done, "staging"),
        )
        bundle = staging.bring(arguments.source)
    trust = Trust(config.signing, config.state_dir)
    trust.load(bundle.path)
    try:
        asyncio.run(trust.check())
    except BundleError:
        store.remove(bundle.digest, config)
        raise
    said = {"bundle": bundle.manifest.name, "digest": bundle.digest, "path": str(bundle.path)}
    return said, f"{bundle.manifest.name} is on this device: {short_digest(bundle.digest)}"


def _activate(arguments: argparse.Namespace, config: Config, store: Store) -> tuple[dict[str, Any], str]:
    from edgeslm.bundle.manifest import load_bundle, short_digest
    from edgeslm.bundle.trust import Trust
    from edgeslm.engine.prepack.smoke import smoke_test
    from edgeslm.update.command_file import CommandFile

    name = _model(arguments.model, config)
    bundle = store.find(arguments.digest)
    command_file = CommandFile(config.state_dir, config.node)
    short = short_digest(bundle.digest)
    if command_file.is_node_running:
        outcome = command_file.ask("activate", name, bundle.digest, older=arguments.older)
        if "error" in outcome:
            raise BundleError(f"model {name} was not changed: {outcome['error']}")
        return outcome, f"model {name} is {short}, on trial for {config.updates.trial_s:g} s"
    if not arguments.older:
        store.check_release(bundle)
    trust = Trust(config.signing, config.state_dir)
    trusted = trust.load(bundle.path)
    asyncio.run(trust.check())
    base, workers = load_bundle(config.models[name].bundle), config.models[name].workers
    asyncio.run(smoke_test(trusted, beside=base, workers=workers, slowest=config.updates.slowest))
    store.activate(name, base.digest, bundle.digest, on_trial=True)
    said = {"model": name, "digest": bundle.digest, "state": "ON_TRIAL"}
    return said, f"model {name} will be {short} when the node starts, on trial"


def _rollback(arguments: argparse.Namespace, config: Config, store: Store) -> tuple[dict[str, Any], str]:
    from edgeslm.bundle.manifest import short_digest
    from edgeslm.update.command_file import CommandFile

    name = _model(arguments.model, config)
    command_file = CommandFile(config.state_dir, config.node)
    if command_file.is_node_running:
        outcome = command_file.ask("rollback", name)
        if "error" in outcome:
            raise BundleError(f"model {name} was not changed: {outcome['error']}")
        digest = outcome["digest"]
    else:
        digest = store.roll_back(name)
    return {"model": name, "digest": digest}, f"model {name} is {short_digest(digest)} again"


def _remove(arguments: argparse.Namespace, config: Config, store: Store) -> tuple[dict[str, Any], str]:
    bundle = store.remove(arguments.digest, config)
    return {"digest": bundle.digest}, f"{bundle.manifest.name} is removed"


def _model(name: str, config: Config) -> str:
    if name not in config.models:
        known = ", ".join(config.models)
        raise EdgeslmError(f"there is no model {name!r} in the configuration; there are: {known}")
    return name

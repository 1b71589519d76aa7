"""``edgeslm models``: lists, stages, activates, rolls back and removes bundles on this device."""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import hashlib
import json
import os
import secrets
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeslm.cli.listening import NODE_VARIABLE, PATIENCE_S, add_broker_arguments, address_of
from edgeslm.cli.parts import Act, add_part
from edgeslm.cli.screen import ProgressLine, say
from edgeslm.errors import BundleError, EdgeslmError
from edgeslm.storage.file_ownership import become_owner

if TYPE_CHECKING:
    from edgeslm.config.loader import Config
    from edgeslm.update.store import Store

SUMMARY = "stage bundles on this device, activate them, roll back"
UPDATE_S = 1800.0
"""Seconds that a node may take to test a bundle."""
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
    about = "bring a ready onnxruntime-genai folder from a model hub onto this device, as a bundle"
    part = add("pull", _pull, about, "microsoft/Phi-3-mini-4k-instruct-onnx:cpu_and_mobile/cpu-int4-...")
    part.add_argument("source", metavar="HUB_ID", help="[OWNER/]NAME[@REVISION][:SUBFOLDER]")
    about = "switch a model, or what a task has learned, to another bundle, on trial"
    part = add("activate", _activate, about, "small", "1f3a")
    part.add_argument("model", metavar="NAME", help="the model or task, in the configuration")
    part.add_argument("digest", metavar="DIGEST", help="the bundle's digest, or its first characters")
    part.add_argument(
        "--older", action="store_true", help="accept a lower release than the highest one used here"
    )
    part = add("rollback", _rollback, "switch a model or task back to its previous bundle", "small")
    part.add_argument("model", metavar="NAME", help="the model or task, in the configuration")
    line = "edgeslm models push triage learned/triage --node press-hall-4 --broker broker.local"
    about = "send a bundle to a running node over MQTT and switch a task or model to it, on trial"
    part = add_part(parts, "push", _push, about, line)
    part.add_argument("model", metavar="NAME", help="the task or model, in the node's configuration")
    part.add_argument("bundle", type=Path, metavar="BUNDLE", help="the bundle's folder")
    default = os.environ.get(NODE_VARIABLE)
    part.add_argument(
        "--node", default=default, required=default is None, help=f"the node; ${NODE_VARIABLE} if left out"
    )
    add_broker_arguments(part)
    part.add_argument("--json", action="store_true", help="print JSON")
    part = add("remove", _remove, "remove a bundle that no model uses or may roll back to", "1f3a")
    part.add_argument("digest", metavar="DIGEST", help="the bundle's digest, or its first characters")


def run(arguments: argparse.Namespace) -> int:
    from edgeslm.config.loader import load_config
    from edgeslm.update.store import Store

    if arguments.act is _push:
        said, text = _push(arguments)
        say(json.dumps(said) if arguments.json else text)
        return 0
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


def _pull(arguments: argparse.Namespace, config: Config, store: Store) -> tuple[dict[str, Any], str]:
    from edgeslm.bundle.manifest import short_digest
    from edgeslm.update.pull import HubId, ModelHub, pull

    if config.signing.refuses:
        raise BundleError(
            "a bundle that is made here has no signature, and unsigned bundles are refused "
            "(signing.unsigned); make it by `edgeslm-export wrap`, sign it, and stage it"
        )
    wanted = HubId.parse(arguments.source)
    with ProgressLine() as progress:
        hub = ModelHub(
            store,
            budget_bytes=config.updates.budget_bytes,
            ca_file=config.updates.ca_file,
            show=lambda done, of: progress.show(done, of or done, f"downloading {done / 1e6:.1f} MB"),
        )
        bundle, ready, trial = pull(wanted, store, hub)
    said = {
        "bundle": bundle.manifest.name,
        "digest": bundle.digest,
        "path": str(bundle.path),
        "lacks": ready.lacks,
        "changed": ready.changes,
        **trial.model_dump(),
    }
    lines = [
        f"{bundle.manifest.name} is on this device: {short_digest(bundle.digest)}",
        f"  {bundle.path}",
        f"  decodes {trial.decode_tps:.1f} tokens/s, reads {trial.prefill_tps:.0f} tokens/s",
        *(f"  changed: {line}" for line in ready.changes),
        *(f"  lacks: {line}" for line in ready.lacks),
    ]
    return said, "\n".join(lines)


def _activate(arguments: argparse.Namespace, config: Config, store: Store) -> tuple[dict[str, Any], str]:
    from edgeslm.bundle.manifest import load_bundle, short_digest
    from edgeslm.bundle.trust import Trust
    from edgeslm.engine.prepack.smoke import smoke_test
    from edgeslm.serving.builder import build_deployment
    from edgeslm.update.command_file import CommandFile
    from edgeslm.update.slots import base_of, slot_of, task_of, with_bundle

    name = slot_of(arguments.model, config)
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
    if task_of(name) is None:
        base, workers = load_bundle(config.models[name].bundle), config.models[name].workers
        asyncio.run(smoke_test(trusted, beside=base, workers=workers, slowest=config.updates.slowest))
    else:
        build_deployment(with_bundle(store.settled(config), name, bundle.path))  # or it doesn't fit
    store.activate(name, base_of(config, name), bundle.digest, on_trial=True)
    said = {"model": name, "digest": bundle.digest, "state": "ON_TRIAL"}
    return said, f"model {name} will be {short} when the node starts, on trial"


def _rollback(arguments: argparse.Namespace, config: Config, store: Store) -> tuple[dict[str, Any], str]:
    from edgeslm.bundle.manifest import short_digest
    from edgeslm.update.command_file import CommandFile
    from edgeslm.update.slots import NOTHING, slot_of

    name = slot_of(arguments.model, config)
    command_file = CommandFile(config.state_dir, config.node)
    if command_file.is_node_running:
        outcome = command_file.ask("rollback", name)
        if "error" in outcome:
            raise BundleError(f"model {name} was not changed: {outcome['error']}")
        digest = outcome["digest"]
    else:
        digest = store.roll_back(name)
    again = "what the configuration names" if digest == NOTHING else short_digest(digest)
    return {"model": name, "digest": digest}, f"model {name} is {again} again"


def _remove(arguments: argparse.Namespace, config: Config, store: Store) -> tuple[dict[str, Any], str]:
    bundle = store.remove(arguments.digest, config)
    return {"digest": bundle.digest}, f"{bundle.manifest.name} is removed"


def _push(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Sends a bundle in pieces and activates it."""
    from edgeslm.bundle.manifest import load_bundle, short_digest, verify_bundle
    from edgeslm.client.control import ControlClient
    from edgeslm.update.upload import PIECE_BYTES

    bundle = load_bundle(arguments.bundle)
    verify_bundle(bundle)
    name, model = arguments.node, arguments.model
    id, sent, whole = secrets.token_hex(8), 0, hashlib.sha256()
    commands = ["models/receive", "models/activate"]
    with contextlib.ExitStack() as stack:
        archive = stack.enter_context(tempfile.TemporaryFile())
        with tarfile.open(fileobj=archive, mode="w:gz") as packed:
            packed.add(bundle.path, arcname=".")
        size = archive.tell()
        archive.seek(0)
        client = ControlClient.of(address_of(arguments), name, arguments.prefix, commands, PATIENCE_S)
        node, line = stack.enter_context(client), stack.enter_context(ProgressLine())
        while piece := archive.read(PIECE_BYTES):
            data = base64.b64encode(piece).decode()
            node.ask("models/receive", {"archive": id, "offset": sent, "data": data})
            whole.update(piece)
            sent += len(piece)
            line.show(sent, size, f"sending {size / 1e6:.1f} MB")
        line.show(size, size, f"{name} takes it up")
        node.ask("models/receive", {"archive": id, "sha256": whole.hexdigest()}, UPDATE_S)
        outcome = node.ask("models/activate", {"model": model, "digest": bundle.digest}, UPDATE_S)
    return dict(outcome), f"{model} of the node {name} is {short_digest(bundle.digest)}, on trial"

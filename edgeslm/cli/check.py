"""``edgeslm check``: validates a configuration, also against the bundles that are on this machine."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

from edgeslm.api.tokens import token_notes
from edgeslm.cli.screen import print_error, say
from edgeslm.config.loader import Config, config_schema, empty_sections, load_config
from edgeslm.config.network_validation import console_notes
from edgeslm.config.remote_stages import sending_notes
from edgeslm.config.sections import Section
from edgeslm.config.yaml_source import YamlDocument, read_document
from edgeslm.errors import ConfigError
from edgeslm.serving.builder import build_deployment
from edgeslm.web.process import missing_packages


def check(arguments: argparse.Namespace) -> int:
    """Prints notes if there is no error. :raises ConfigError: every error, with file and line."""
    if arguments.schema:
        say(json.dumps(config_schema(), indent=2))
        return 0
    if arguments.config is None:
        print_error("name the configuration file to check")
        return 2
    file: Path = arguments.config
    config = load_config(file)
    document = read_document(file.read_text("utf-8-sig"))
    missing = [f"{use}: {path} {why}" for use, (path, why) in missing_bundles(config).items()]
    if not missing and (problems := bundle_problems(config)):
        raise ConfigError([_located(file, document, one) for one in problems])
    if config.api is not None and config.api.mcp and (lacking := missing_packages("mcp")):
        raise ConfigError([f"{file}:{document.line(('api', 'mcp'))}: api.mcp: {lacking}"])
    if config.console is not None and config.console.teach and (lacking := missing_packages("heads")):
        raise ConfigError([f"{file}:{document.line(('console', 'teach'))}: console.teach: {lacking}"])
    notes = [*missing, *missing_files(config), *empty_sections(document)]
    notes += [*console_notes(config), *sending_notes(config), *token_notes(config)]
    if arguments.connect:
        from edgeslm.mqtt.probe import probe_broker

        probe = probe_broker(config)
        notes += probe.notes
        if probe.problems:
            number = document.line(("broker",))
            raise ConfigError([f"{file}:{number}: broker: {one}" for one in probe.problems])
    say("\n- ".join([f"{file}: no errors", *notes, *untaught_notes(config)]))
    return 0


def missing_bundles(config: Config) -> dict[str, tuple[Path, str]]:
    """The bundles that can't be read here, by their use, and why. A configuration may be for another machine,
    or its bundles for another user."""
    found = {}
    for use, path in config.bundles.items():
        try:
            if not path.exists():
                found[use] = (path, "isn't on this machine")
            else:
                next(path.iterdir(), None)
        except NotADirectoryError:
            continue
        except PermissionError:
            found[use] = (path, "can't be read by this user")
    return found


def missing_files(section: Section, path: str = "") -> list[str]:
    """The files of keys, certificates and passwords that a section names and that aren't here."""
    notes: list[str] = []
    for name, field in type(section).model_fields.items():
        key, value = f"{path}{field.alias or name}", getattr(section, name)
        if isinstance(value, Path) and name.endswith("_file"):
            with contextlib.suppress(PermissionError):  # the folder is another user's
                notes += [] if value.exists() else [f"{key}: {value} isn't on this machine"]
        elif isinstance(value, Section):
            notes += missing_files(value, f"{key}.")
        elif isinstance(value, Mapping | tuple):
            for number, one in value.items() if isinstance(value, Mapping) else enumerate(value):
                if isinstance(one, Section):
                    inner = f"{key}.{number}." if isinstance(value, Mapping) else f"{key}[{number}]."
                    notes += missing_files(one, inner)
    return notes


def untaught_notes(config: Config) -> list[str]:
    """Advice to train tasks whose labels come from an untrained model."""
    names = [
        name
        for name, task in config.tasks.items()
        if task.kind == "classify" and not (task.learned or task.adapter)
    ]
    if not names:
        return []
    advice = (
        "a small model's labels are often wrong until it is trained on examples (docs/guides/training.md)"
    )
    return [f"untrained: {', '.join(names)}; {advice}"]


def bundle_problems(config: Config) -> list[str]:
    """Where tasks, collections and bundles don't fit together, as ``KEY: sentence``."""
    try:
        deployment = build_deployment(config)
        if config.console is not None and config.console.teach is not None:
            from edgeslm.console.teaching import find_encoder

            find_encoder(config.console.teach, deployment.models)
    except ConfigError as error:
        return error.problems
    return []


def _located(file: Path, document: YamlDocument, problem: str) -> str:
    """A problem with the line of its key."""
    key = problem.partition(": ")[0]
    return f"{file}:{document.line(tuple(key.split('.')))}: {problem}"

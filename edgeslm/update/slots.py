"""Slots: what an update replaces. A slot is a model's name, or ``learned/TASK`` for what a task has learned.

A task that hasn't learned anything yet has a slot, too, if its kind can be learned.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Final

from edgeslm.bundle.manifest import Bundle, load_bundle, short_digest
from edgeslm.config.loader import LEARNABLE
from edgeslm.config.schema import LEARNED, Config
from edgeslm.config.schema import Task as TaskSection
from edgeslm.errors import BundleError, InvalidRequest
from edgeslm.serving.deployment import Deployment

PREFIX: Final = f"{LEARNED}/"
NOTHING: Final = "none"
"""Stands for the digest of the configured bundle of a task that names none."""


def slot_of(name: str, config: Config) -> str:
    """The slot that a person means by a model's or task's name.

    :raises InvalidRequest: there is none.
    """
    task = name.removeprefix(PREFIX)
    if name in config.models:
        return name
    if (section := config.tasks.get(task)) is None:
        known = ", ".join(sorted({*config.models, *config.tasks}))
        raise InvalidRequest(f"there is no model {name!r} here, and no task; there are: {known}")
    if section.kind not in (None, *LEARNABLE):
        raise InvalidRequest(f"the task {task} is of kind {section.kind}, which isn't learned")
    if not section.learned and section.stages:
        raise InvalidRequest(f"the task {task} has stages without {LEARNED}; name it among them first")
    return f"{PREFIX}{task}"


def task_of(slot: str) -> str | None:
    """The task of a slot; None for a model's slot."""
    return slot.removeprefix(PREFIX) if slot.startswith(PREFIX) else None


def slots(config: Config) -> list[str]:
    """All slots of a configuration."""
    tasks = [name for name, one in config.tasks.items() if one.kind in (None, *LEARNABLE)]
    return [*config.models, *(f"{PREFIX}{name}" for name in tasks)]


def path_of(config: Config, slot: str) -> Path | None:
    """The bundle that the configuration names; None if it names none, or has no such slot."""
    if (task := task_of(slot)) is not None:
        return config.tasks[task].learned if task in config.tasks else None
    return config.models[slot].bundle if slot in config.models else None


def base_of(config: Config, slot: str) -> str:
    """Digest of the bundle that the configuration names. :raises BundleError: it can't be read."""
    path = path_of(config, slot)
    return NOTHING if path is None else load_bundle(path).digest


def digest_of(path: Path | None) -> str | None:
    """As :func:`base_of`; None if the bundle can't be read."""
    try:
        return NOTHING if path is None else load_bundle(path).digest
    except BundleError:
        return None


def with_bundle(config: Config, slot: str, path: Path) -> Config:
    """A copy of the configuration that names another bundle for a slot."""
    if (task := task_of(slot)) is None:
        models = {**config.models, slot: config.models[slot].model_copy(update={"bundle": path})}
        return config.model_copy(update={"models": models})
    return config.model_copy(update={"tasks": {**config.tasks, task: _learned(config.tasks[task], path)}})


def _learned(section: TaskSection, path: Path) -> TaskSection:
    """The section with a trained bundle in place of its model, which it no longer needs."""
    update: dict[str, Any] = {"learned": path}
    if not section.learned:
        update |= {"model": None, "adapter": None, "examples": (), "calibration": "none"}
    return section.model_copy(update=update)


def misfit(bundle: Bundle, section: TaskSection, models: Collection[str]) -> str | None:
    """Why a task can't use a trained bundle, as a clause; None if it can.

    :param models: digests of the node's models.
    """
    manifest = bundle.manifest
    learned, known = manifest.learned, section.output_schema
    if learned is None:
        return f"{bundle.path.name} holds no task that was learned"
    if section.kind not in (None, learned.kind):
        return f"it was trained for kind {learned.kind}"
    if section.labels is not None and set(section.labels) != set(learned.labels):
        return f"it was trained on other labels: {', '.join(learned.labels)}"
    fields = set((learned.output_schema or {}).get("properties", ()))
    if known is not None and not set(known.get("properties", ())) <= fields:
        return f"it was trained on other fields: {', '.join(sorted(fields))}"
    base = manifest.adapter.base if manifest.adapter else manifest.head.encoder if manifest.head else None
    if base is not None and base not in models:
        return f"it needs the bundle {short_digest(base)}, which is none of the models"
    return None


def present(deployment: Deployment, slot: str) -> Bundle | None:
    """The bundle that serves; None if there is no such model, or the task hasn't learned."""
    if (task := task_of(slot)) is None:
        return deployment.models.bundle(slot) if slot in deployment.models.names else None
    bindings = deployment.bindings.get(task, ())
    return next((one.task.bundle for one in bindings if one.name == LEARNED), None)


def tasks_of(deployment: Deployment, slot: str) -> Sequence[str]:
    """The tasks that a slot's bundle serves."""
    task = task_of(slot)
    return deployment.tasks_of(slot) if task is None else [task]


def losses(deployment: Deployment, slot: str) -> int:
    """How often the engine of a slot's bundle has crashed."""
    task = task_of(slot)
    model = slot if task is None else deployment.model_of(task)
    return deployment.models.losses.get(model or "", 0)

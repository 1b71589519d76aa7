"""Pre-activation check: the new model must pass at least as many ``checks`` as the active model.

A check is an example message with the right answer, listed under a task's ``checks``. Both models answer the
checks while the node serves requests. A check that both models fail doesn't prevent the activation, since
only the numbers of passed checks are compared. For a task without ``checks``, the new model answers one
arbitrary message, which shows whether the model crashes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from edgeslm.bundle.manifest import Bundle
from edgeslm.config.schema import Config, Example
from edgeslm.engine.prepack.smoke import smoke_test
from edgeslm.errors import BundleError, ModelUnavailable, Poisoned, RequestError
from edgeslm.messages import LEAST_PRIORITY, Request
from edgeslm.serving.deployment import Deployment
from edgeslm.update.slots import PREFIX, misfit, task_of, tasks_of

log = logging.getLogger("edgeslm.update")

_ANYTHING: Final = "Pump 3 is loud and its bearing is hot."


async def smoke(slot: str, bundle: Bundle, config: Config, deployment: Deployment) -> None:
    """Runs the smoke test next to the serving bundle. A head or an adapter runs in another bundle's engine,
    so only :func:`check` tests it.

    :raises BundleError: the bundle fails the test, or doesn't fit the task.
    """
    slowest, models = config.updates.slowest, deployment.models
    if task_of(slot) is None:
        beside, graph, workers = models.bundle(slot), models.graph(slot), config.models[slot].workers
        adapters = graph is not None and graph == beside.manifest.graphs.adapters
        await smoke_test(bundle, beside=beside, adapters=adapters, workers=workers, slowest=slowest)
        return
    digests = {models.bundle(name).digest for name in models.names}
    if why := misfit(bundle, config.tasks[slot.removeprefix(PREFIX)], digests):
        raise BundleError(f"{slot}: {why}")
    if bundle.manifest.model_kind is not None:
        await smoke_test(bundle, beside=None, slowest=slowest)


async def check(model: str, old: Deployment, new: Deployment) -> None:
    """Compares the bundle of a slot in the deployment ``new`` with that in ``old``.

    :raises BundleError: the new model passes fewer checks, times out or crashes.
    """
    right_before = right_now = asked = 0
    for task in tasks_of(new, model):
        examples = new.config.tasks[task].checks
        if not examples:
            await _answers(new, task, [Example(input=_ANYTHING, output="-")])
            continue
        asked += len(examples)
        right_now += sum(await _answers(new, task, examples))
        if task in old.tasks:
            right_before += sum(await _answers(old, task, examples))
    log.info("model %s: %d of %d checks are right, %d before", model, right_now, asked, right_before)
    if right_now < right_before:
        raise BundleError(
            f"model {model}: {right_now} of {asked} checks are right, with the active bundle {right_before}"
        )


async def _answers(deployment: Deployment, task: str, examples: Sequence[Example]) -> list[bool]:
    """For each example, whether the deployment answered it correctly."""
    found = []
    options = {"context": _ANYTHING} if deployment.tasks[task].kind == "answer" else {}
    for number, example in enumerate(examples):
        request = Request(
            task, example.input, f"check-{number}", "", options=options, priority=LEAST_PRIORITY
        )
        try:
            async with asyncio.timeout(deployment.config.limits.request_timeout_s):
                result = await deployment.run(request, None, None)
        except TimeoutError:
            raise BundleError(f"task {task}: a check timed out") from None
        except (Poisoned, ModelUnavailable) as error:
            raise BundleError(f"task {task}: the engine can't do a check: {error}") from None
        except RequestError as error:
            log.debug("a check of task %s: %s", task, error)
            found.append(False)
        else:
            found.append(is_right(result.result or {}, example.output))
    return found


def is_right(result: Mapping[str, Any], wanted: Any) -> bool:
    """Whether a result has the wanted label or all wanted fields, or contains the wanted text."""
    if isinstance(wanted, Mapping):
        fields = result.get("fields", {})
        return all(fields.get(name) == value for name, value in wanted.items())
    if "label" in result:
        return bool(result["label"] == wanted)
    return str(wanted).casefold() in str(result.get("text", "")).casefold()

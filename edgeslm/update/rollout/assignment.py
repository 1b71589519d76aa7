"""Assignment: maps a rollout's software modules to models and downloads. Pure.

A module's metadata ``edgeslm.model`` names the model. For a module without this metadata, ``rollouts.models``
of the configuration maps the module's name to the model; by default, the model has the module's name.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final
from urllib.parse import unquote, urlsplit

from edgeslm.config.sections import Rollouts
from edgeslm.errors import RolloutError
from edgeslm.update.incoming import ENDINGS
from edgeslm.update.rollout.ddi import Artifact, DeploymentBase, SoftwareModule, same_server
from edgeslm.update.rollout.jobs import Part

MODEL_KEY: Final = "edgeslm.model"


def parts_of(
    deployment: DeploymentBase, rollouts: Rollouts, models: Collection[str], budget_bytes: int
) -> tuple[Part, ...]:
    """One :class:`Part` per software module of the deployment.

    :raises RolloutError: a module's model isn't on this node, two modules have the same model, or an archive
        is unusable. A rollout is installed completely or not at all.
    """
    found: dict[str, Part] = {}
    for chunk in deployment.deployment.chunks:
        model = _model_of(chunk, rollouts)
        if model not in models:
            raise RolloutError(f"software module {chunk.name!r} is for model {model!r}, which isn't here")
        if model in found:
            raise RolloutError(f"two software modules are for model {model!r}")
        if chunk.encrypted:
            raise RolloutError(f"software module {chunk.name!r} is encrypted, which bundles are not")
        found[model] = _part(chunk, model, rollouts, budget_bytes)
    if not found:
        raise RolloutError("there is no software module in it")
    return tuple(found.values())


def _model_of(chunk: SoftwareModule, rollouts: Rollouts) -> str:
    return chunk.says(MODEL_KEY) or rollouts.models.get(chunk.name) or chunk.name


def _part(chunk: SoftwareModule, model: str, rollouts: Rollouts, budget_bytes: int) -> Part:
    archives = [one for one in chunk.artifacts if one.filename.endswith(ENDINGS)]
    if len(archives) != 1:
        raise RolloutError(
            f"software module {chunk.name!r} has {len(archives)} archives ({', '.join(ENDINGS)}) "
            "and should have one"
        )
    (archive,) = archives
    if not archive.promised:
        raise RolloutError(f"the server tells no hash of {archive.filename!r}")
    if archive.size > budget_bytes:
        raise RolloutError(
            f"{archive.filename!r} has {archive.size / 1e6:.0f} MB, and a bundle may have "
            f"{budget_bytes / 1e6:.0f} (updates.budget_bytes)"
        )
    return Part(
        model=model,
        url=_url(archive, rollouts),
        name=archive.filename,
        size=archive.size,
        hashes=archive.promised,
    )


def _url(archive: Artifact, rollouts: Rollouts) -> str:
    url = archive.url(allow_http=rollouts.allow_http)
    if url is None:
        raise RolloutError(f"the server has no https:// address of {archive.filename!r}")
    if not (same_server(url, rollouts.url) or _is_below(url, rollouts.downloads)):
        host = urlsplit(url).netloc[:100]
        raise RolloutError(
            f"{archive.filename!r} lies on {host}, which is neither rollouts.url nor in rollouts.downloads"
        )
    return url


def _is_below(url: str, addresses: Collection[str]) -> bool:
    return ".." not in unquote(url) and any(url.startswith(one.rstrip("/") + "/") for one in addresses)

"""Node info, published on ``<base>/info``: version, tasks, routes, models, limits; no secrets or paths."""

from __future__ import annotations

from typing import Any

from edgeslm import __version__
from edgeslm.config.loader import Config
from edgeslm.config.remote_stages import SENDS
from edgeslm.protocol.codec import PROTOCOL_VERSION, Topics
from edgeslm.protocol.request_options import OPTIONS
from edgeslm.serving.service import Service


def describe(config: Config, service: Service, topics: Topics, boot_id: str) -> dict[str, Any]:
    """The info message, a JSON object."""
    models = service.models
    return {
        "version": __version__,
        "protocol": PROTOCOL_VERSION,
        "node": config.node,
        "boot_id": boot_id,
        "tasks": {
            name: {
                "kind": task.kind,
                **({"model": model} if (model := service.deployment.model_of(name)) else {}),
                **({"adapter": adapter.digest} if (adapter := service.deployment.adapter_of(name)) else {}),
                **({"stages": stages} if len(stages := service.deployment.stages_of(name)) > 1 else {}),
                **({"taught": False} if task.is_untaught else {}),
                **({"sends": sent} if (sent := _sends(config, name, task.kind)) else {}),
                "request": topics.request(name),
                "options": {option: dict(OPTIONS[option].schema) for option in sorted(task.section.allowed)},
                "result_schema": service.deployment.result_schema(name),
            }
            for name, task in service.tasks.items()
        },
        "routes": [{"name": route.name, "from": route.source, "task": route.task} for route in config.routes],
        "models": {
            name: {
                "bundle": (bundle := models.bundle(name)).manifest.name,
                "kind": bundle.manifest.model_kind,
                "digest": bundle.digest,
                "context_length": bundle.manifest.context_length,
                **({"prepared": models.is_prepared(name)} if models.graph(name) else {}),
            }
            for name in models.names
        },
        "limits": config.limits.model_dump(),
        **({"pool": config.pool.model_dump(mode="json")} if config.pool is not None else {}),
    }


def _sends(config: Config, task: str, kind: str) -> dict[str, Any]:
    """What a task sends to a server that isn't a node; empty if it sends nothing."""
    server = config.tasks[task].remote
    if server is None:
        return {}
    return {
        "what": SENDS[kind],
        "to": server.host,
        "model": server.model,
        **({"redacted": list(server.redact)} if server.redact else {}),
        **({"only": server.only} if server.only else {}),
    }

"""Extras of the package and the libraries they bring, so that a command can say what to install."""

from __future__ import annotations

from collections.abc import Mapping

EXTRAS: Mapping[str, str] = {
    **dict.fromkeys(("jinja2", "jsonschema", "numpy", "onnxruntime", "onnxruntime_genai"), "node"),
    **dict.fromkeys(("prometheus_client", "pydantic", "tokenizers", "yaml"), "node"),
    **dict.fromkeys(("starlette", "uvicorn"), "api"),
    "pypdfium2": "documents",
    "sklearn": "heads",
    "cryptography": "verify",
    "opentelemetry": "tracing",
    "amqtt": "demo-broker",
}
"""By the name that is imported. Those of the build machine are named where they are imported."""


def missing_extra(error: ImportError, what: str) -> str | None:
    """A sentence that names the extra that ``what`` lacks; ``None`` if ``error`` is about another thing."""
    extra = EXTRAS.get((error.name or "").partition(".")[0])
    if not isinstance(error, ModuleNotFoundError) or extra is None:
        return None
    return f"{what} needs the extra {extra}, which isn't installed: pip install 'edgeslm[{extra}]'"

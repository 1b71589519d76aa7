"""Package extras: finds the extra that installs a missing library, for error messages."""

from __future__ import annotations

from collections.abc import Mapping

EXTRAS: Mapping[str, str] = {
    **dict.fromkeys(("jinja2", "jsonschema", "numpy", "onnxruntime", "onnxruntime_genai"), "node"),
    **dict.fromkeys(("prometheus_client", "pydantic", "referencing", "snowballstemmer"), "node"),
    **dict.fromkeys(("tokenizers", "yaml"), "node"),
    **dict.fromkeys(("starlette", "uvicorn"), "api"),
    "httpx2": "remote",
    "mcp": "mcp",
    "pypdfium2": "documents",
    "sklearn": "heads",
    "cryptography": "verify",
    "opentelemetry": "tracing",
    "amqtt": "demo-broker",
}
"""Import name of a library -> extra that installs the library. The build machine's libraries aren't
listed."""


def install_line(extra: str) -> str:
    """How to install an extra. From a clone: the name edgeslm isn't registered in the public index, where
    anybody could put a package of this name."""
    return f"pip install '.[{extra}]' in a clone"


def missing_extra(error: ImportError, what: str) -> str | None:
    """An error message that names the missing extra; None if ``error`` has another cause."""
    extra = EXTRAS.get((error.name or "").partition(".")[0])
    if not isinstance(error, ModuleNotFoundError) or extra is None:
        return None
    return f"{what} needs the extra {extra}, which isn't installed: {install_line(extra)}"

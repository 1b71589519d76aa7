"""edgeslm: small language models on edge devices, over MQTT."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("edgeslm")
except PackageNotFoundError:  # run from a folder that was never installed
    __version__ = "0+unknown"

"""Sizes from published ``config.json`` files, and the numbers of weights from the models' pages."""

from __future__ import annotations

from typing import Any

from edgeslm.bundle.catalog import MODELS

PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    model.name: (dict(model.config), model.weights) for model in MODELS
}

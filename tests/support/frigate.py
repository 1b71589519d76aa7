"""Messages of Frigate for tests, in the form of its topics ``reviews`` and ``tracked_object_update``.

The form is that of Frigate 0.17 (its page about MQTT, ``frigate/review/maintainer.py`` and
``frigate/data_processing/post/review_descriptions.py``); cameras, ids and texts are made up.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.support.nodes import write_bundle
from tests.support.paths import ROOT

EXAMPLE = ROOT / "firmware-config/examples/frigate.yaml"
REVIEWS, OBJECTS = "frigate/reviews", "frigate/tracked_object_update"


def review(
    type: str,
    id: str,
    camera: str,
    objects: Sequence[str],
    zones: Sequence[str] = (),
    *,
    severity: str = "detection",
    scene: str | None = None,
) -> bytes:
    """A message about a review: ``type`` is new, update, genai or end."""
    began = float(id.partition("-")[0])
    data: dict[str, Any] = {
        "detections": [f"{began - 1}-a1b2c3"],
        "objects": list(objects),
        "verified_objects": [],
        "sub_labels": [],
        "zones": list(zones),
        "audio": [],
    }
    before: dict[str, Any] = {
        "id": id,
        "camera": camera,
        "start_time": began,
        "end_time": began + 20 if type in ("genai", "end") else None,
        "severity": "detection",
        "thumb_path": f"/media/frigate/clips/review/thumb-{camera}-{id}.webp",
        "data": data,
    }
    after: dict[str, Any] = {**before, "severity": severity, "data": dict(data)}
    if scene is not None:
        after["data"]["metadata"] = {
            "observations": [],
            "scene": scene,
            "title": "Activity",
            "shortSummary": scene[:80],
            "confidence": 0.9,
            "potential_threat_level": 0,
            "other_concerns": None,
            "time": None,
        }
    return json.dumps({"type": type, "before": before, "after": after}).encode()


def description(id: str, text: str) -> bytes:
    """The description of a tracked object."""
    return json.dumps({"type": "description", "id": id, "description": text}).encode()


def example_configuration(url: str, folder: Path, **changes: Any) -> Mapping[str, Any]:
    """The example's, with fake bundles and all files in ``folder``."""
    configuration: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    for name, kind in (("small", "decoder"), ("minilm", "encoder")):
        configuration["models"][name] = {"bundle": str(write_bundle(folder / name, kind))}
    configuration["knowledge"]["seen"]["path"] = str(folder / "seen")
    return {
        **configuration,
        "broker": {"url": url},
        "state_dir": str(folder / "state"),
        "prepare": "never",
        **changes,
    }

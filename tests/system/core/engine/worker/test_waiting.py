"""How an engine's threads wait: each power as a session of plain onnxruntime takes it."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import onnxruntime as ort
import pytest

from edgeslm.config import schema
from edgeslm.engine.calls import BALANCED, Embed, Hardware, Power
from edgeslm.engine.worker.encoder import Encoder
from edgeslm.engine.worker.waiting import WAITING, set_waiting


def test_it_is_what_the_configuration_knows_with_the_same_defaults() -> None:
    assert list(WAITING) == list(get_args(schema.Power))
    assert schema.Config.model_fields["power"].default == BALANCED
    assert schema.Model.model_fields["device"].default == Hardware().device


@pytest.mark.parametrize("power", WAITING)
def test_a_session_gets_the_entries(starter: Path, power: Power) -> None:
    options = ort.SessionOptions()
    set_waiting(options, power)
    for key, value in WAITING[power].items():
        assert options.get_session_config_entry(key) == value
    encoder = Encoder(starter / "minilm-l6-int8", 1, power=power)
    assert len(encoder.run(Embed(("a valve",))).vectors) == 1

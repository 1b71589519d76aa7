"""Training methods: chooses those that the inputs allow, the cheapest first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edgeslm_export.jobs.checkpoint_notes import Notes
from edgeslm_export.sources.checkpoint import Origin
from edgeslm_export.train.decoder_methods import DecoderMethod
from edgeslm_export.train.encoder_methods import EncoderMethod, HeadMethod
from edgeslm_export.train.extract_methods import FieldTrial, PointerMethod, WriterMethod
from edgeslm_export.train.field_spec import FieldSpec
from edgeslm_export.train.lora_training import MISSING as MISSING_PEFT
from edgeslm_export.train.lora_training import can_train_adapters
from edgeslm_export.train.spec import ENCODER, HEAD, LORA, QLORA, Budget, Inputs, Method, TaskSpec, Trial

from edgeslm.errors import ExportError

NEEDS: Final = {
    HEAD: "The method head needs an encoder's bundle (made by edgeslm-export encoder): name it with "
    "--encoder.",
    ENCODER: "The method encoder needs an encoder's checkpoint: name it with --encoder.",
    LORA: "The method lora needs a decoder's bundle and its checkpoint: name them with --base and "
    "--checkpoint.",
    QLORA: "The method qlora needs a decoder's bundle and its checkpoint: name them with --base and "
    "--checkpoint.",
}


def make_methods(
    inputs: Inputs, spec: TaskSpec, budget: Budget, notes: Notes, work: Path
) -> list[Method[Trial]]:
    """The methods to try: those that the budget names, or by default all but ``qlora``, which does the same
    as ``lora`` in less memory.

    :raises ExportError: the inputs don't allow a wanted method.
    """
    _check_wanted(inputs, budget)
    methods: list[Method[Trial]] = []
    if inputs.bundle is not None and budget.wants(HEAD):
        methods.append(HeadMethod(inputs.bundle, spec))
    if inputs.checkpoint is not None and budget.wants(ENCODER):
        methods.append(EncoderMethod(inputs.checkpoint, spec, budget, notes, work))
    for on in _decoders(inputs, budget, has_others=bool(methods)):
        methods.append(DecoderMethod(*on, spec, budget, notes, work))
    if not methods:
        raise ExportError(NEEDS[HEAD])
    return methods


def make_field_methods(
    inputs: Inputs, spec: FieldSpec, budget: Budget, notes: Notes, work: Path
) -> list[Method[FieldTrial]]:
    """The methods to try for an extract task; see ``make_methods``.

    :raises ExportError: as ``make_methods``, or an encoder can't extract the fields and no other method is
        possible.
    """
    _check_wanted(inputs, budget)
    methods: list[Method[FieldTrial]] = []
    can_write = inputs.base is not None and inputs.decoder is not None
    if inputs.checkpoint is not None and budget.wants(ENCODER):
        try:
            methods.append(PointerMethod(inputs.checkpoint, spec, budget, notes, work))
        except ExportError as error:
            if budget.methods or not can_write:
                raise
            budget.announce(f"{error} So a decoder learns it.")
    for on in _decoders(inputs, budget, has_others=bool(methods)):
        methods.append(WriterMethod(*on, spec, budget, notes, work))
    if not methods:
        raise ExportError(NEEDS[ENCODER])
    return methods


def _decoders(inputs: Inputs, budget: Budget, *, has_others: bool) -> Iterator[tuple[str, Path, Origin]]:
    """The decoder methods to try, each with its base and the base's checkpoint."""
    if inputs.base is None or inputs.decoder is None:
        return
    if not budget.methods and has_others and not can_train_adapters():
        budget.announce(f"{MISSING_PEFT} No adapter is tried.")
        return
    for method in (LORA, QLORA):
        if method in (budget.methods or (LORA,)):
            yield method, inputs.base, inputs.decoder


def _check_wanted(inputs: Inputs, budget: Budget) -> None:
    """:raises ExportError: an input of a wanted method is missing."""
    there = {
        HEAD: inputs.bundle is not None,
        ENCODER: inputs.checkpoint is not None,
        **dict.fromkeys((LORA, QLORA), inputs.base is not None and inputs.decoder is not None),
    }
    for method in budget.methods:
        if not there[method]:
            raise ExportError(NEEDS[method])

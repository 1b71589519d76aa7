"""Which ways there are to learn a task on the ground at hand, the cheapest first."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from edgeslm_export.checkpoint import Origin
from edgeslm_export.contrast import MISSING, is_installed
from edgeslm_export.decoder_ways import DecoderWay
from edgeslm_export.encoder_ways import ROWS_FOR_LABELS, EncoderWay, HeadWay
from edgeslm_export.field_lesson import FieldLesson
from edgeslm_export.field_ways import FieldTrial, PointerWay, WriterWay
from edgeslm_export.lesson import ENCODER, HEAD, LORA, QLORA, Effort, Ground, Lesson, Trial, Way
from edgeslm_export.lora_training import MISSING as MISSING_PEFT
from edgeslm_export.lora_training import can_teach
from edgeslm_export.notes import Notes

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


def make_ways(ground: Ground, lesson: Lesson, effort: Effort, notes: Notes, work: Path) -> list[Way[Trial]]:
    """What is tried. Without a wanted method that is every way but ``qlora``, which learns what ``lora`` does
    in less memory.

    :raises ExportError: the wanted method isn't possible here.
    """
    wanted = effort.method
    ways: list[Way[Trial]] = []
    if ground.bundle is not None and wanted in (None, HEAD):
        ways.append(HeadWay(ground.bundle, lesson))
    if ground.checkpoint is not None and wanted in (None, ENCODER):
        if len(lesson.texts) < ROWS_FOR_LABELS and not is_installed() and ways:
            effort.announce(f"{MISSING} The encoder isn't taught.")
        else:
            ways.append(EncoderWay(ground.checkpoint, lesson, effort, notes, work))
    if (on := _decoder(ground, effort, has_others=bool(ways))) is not None:
        ways.append(DecoderWay(*on, lesson, effort, notes, work))
    if not ways:
        raise ExportError(NEEDS[wanted or HEAD])
    return ways


def make_field_ways(
    ground: Ground, lesson: FieldLesson, effort: Effort, notes: Notes, work: Path
) -> list[Way[FieldTrial]]:
    """The same for an extract task. :raises ExportError: as ``make_ways``, or fields that can't be pointed at
    where nothing else is possible."""
    wanted = effort.method
    ways: list[Way[FieldTrial]] = []
    can_write = ground.base is not None and ground.decoder is not None
    if ground.checkpoint is not None and wanted in (None, ENCODER):
        try:
            ways.append(PointerWay(ground.checkpoint, lesson, effort, notes, work))
        except ExportError as error:
            if wanted is not None or not can_write:
                raise
            effort.announce(f"{error} So a decoder learns it.")
    if (on := _decoder(ground, effort, has_others=bool(ways))) is not None:
        ways.append(WriterWay(*on, lesson, effort, notes, work))
    if not ways:
        raise ExportError(NEEDS[wanted or ENCODER])
    return ways


def _decoder(ground: Ground, effort: Effort, *, has_others: bool) -> tuple[str, Path, Origin] | None:
    """By which method, on which base and its checkpoint an adapter is taught; None if none is."""
    if ground.base is None or ground.decoder is None or effort.method not in (None, LORA, QLORA):
        return None
    if effort.method is None and has_others and not can_teach():
        effort.announce(f"{MISSING_PEFT} No adapter is tried.")
        return None
    return effort.method or LORA, ground.base, ground.decoder

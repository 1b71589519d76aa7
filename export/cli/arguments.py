"""Command-line arguments that commands of ``edgeslm-export`` share, and their types."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from edgeslm_export.jobs.device import AUTO, CHOICES, CUDA

if TYPE_CHECKING:
    from edgeslm_export.data.rows import QuestionRow


def positive(text: str) -> float:
    """An argparse type: a finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return number


def share(text: str) -> float:
    """An argparse type: a number between 0 and 1, both excluded."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number between 0 and 1")
    return number


def share_of_label(text: str) -> tuple[str, float]:
    """An argparse type: ``LABEL=SHARE``."""
    label, _, wanted = text.rpartition("=")
    if not label:
        raise argparse.ArgumentTypeError(f"{text} is not LABEL=SHARE, such as spam=0.95")
    return label, share(wanted)


def whole(text: str) -> int:
    """An argparse type: a whole number above 0."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return number


def release(text: str) -> int:
    """An argparse type: a whole number from 0 to the manifest's maximum, 2**53 - 1."""
    if not (text.isascii() and text.isdigit() and int(text) < 2**53):
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 0")
    return int(text)


def add_source(command: argparse.ArgumentParser) -> None:
    """Adds SRC and OUT, for commands that make a bundle from a model."""
    command.add_argument(
        "src", metavar="SRC", help="hub id (owner/name or owner/name@revision), folder or .gguf file"
    )
    command.add_argument("out", type=Path, metavar="OUT", help="the bundle folder to make")


def add_recipe(command: argparse.ArgumentParser) -> None:
    """Adds ``--recipe`` of an encoder."""
    from edgeslm_export.graph.encoder_recipe import DEFAULT_RECIPE, RECIPES

    recipes = "; ".join(f"{name}: {recipe.summary}" for name, recipe in RECIPES.items())
    command.add_argument(
        "--recipe", choices=list(RECIPES), default=DEFAULT_RECIPE, help=f"{recipes} (default: %(default)s)"
    )


def add_questions(command: argparse.ArgumentParser, words: str) -> None:
    """Adds the options ``--questions``, whose help text is ``words``, and ``--minutes``."""
    command.add_argument("--questions", type=Path, metavar="DATA", help=words)
    command.add_argument(
        "--minutes", type=positive, default=0.0, help="most minutes of training (default: no limit)"
    )


def add_device(command: argparse.ArgumentParser) -> None:
    """Adds ``--device``."""
    command.add_argument(
        "--device",
        choices=CHOICES,
        default=AUTO,
        help="what torch computes on; auto: a GPU if torch can use one and the model fits, else the CPU "
        "(default: %(default)s)",
    )


def questions_of(options: argparse.Namespace) -> list[QuestionRow]:
    """The rows of the file that ``--questions`` names; an empty list without that option.

    :raises ExportError: the file can't be read, or ``--minutes`` or ``--device cuda`` is given without
        ``--questions``.
    """
    from edgeslm_export.data.rows import load_questions

    from edgeslm.errors import ExportError

    if options.minutes and not options.questions:
        raise ExportError("--minutes limits the training, which needs --questions: name these too.")
    if options.device == CUDA and not options.questions:
        raise ExportError("--device cuda is for the training, which needs --questions: name these too.")
    return load_questions(options.questions) if options.questions else []


def find_base(path: Path, *named: Path | None) -> Path:
    """Finds the base bundle of the head or adapter in ``path`` by its digest: first among ``named``, then in
    the two folders above ``path``, then in the default folder of the command ``starter``. A head with its own
    encoder is its own base.

    :raises ExportError: no base was found. :raises BundleError: the folder ``path`` isn't a bundle.
    """
    from edgeslm_export.starter import default_folder

    from edgeslm.bundle.manifest import load_bundle
    from edgeslm.errors import EdgeslmError, ExportError

    manifest = load_bundle(path).manifest
    digest = manifest.adapter.base if manifest.adapter else manifest.head.encoder if manifest.head else None
    if digest is None:
        return path
    nearby = (path.resolve().parent, path.resolve().parent.parent, default_folder())
    folders = [file.parent for folder in nearby for file in sorted(folder.glob("*/manifest.json"))]
    for folder in [*(folder for folder in named if folder is not None), *folders]:
        try:
            if load_bundle(folder).digest == digest:
                return folder
        except EdgeslmError:
            continue
    raise ExportError(f"The bundle that {path} was trained on isn't next to it; name it with --base BUNDLE.")

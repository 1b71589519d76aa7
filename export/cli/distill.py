"""Command ``edgeslm-export distill``."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeslm_export.cli.arguments import find_base, whole
from edgeslm_export.cli.progress import Bar
from edgeslm_export.cli.screen import print_columns, print_json, print_line
from edgeslm_export.cli.tune import add_budget, add_inputs, find_inputs, make_budget
from edgeslm_export.cli.tune_report import HOW
from edgeslm_export.train.spec import ENCODER, SURE

from edgeslm.bundle.manifest import Source, load_bundle
from edgeslm.errors import ExportError

if TYPE_CHECKING:
    from edgeslm_export.train.distill import AnyTeacher
    from edgeslm_export.train.spec import Budget

SUMMARY = "train a small model on the labels that a larger one gives to messages"
RESUMES = True
EXAMPLE = "edgeslm-export distill spam.yaml unlabelled.jsonl learned/spam --teacher learned/spam-lora"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("task", type=Path, metavar="TASK.yaml", help="one entry of tasks: with its name")
    command.add_argument(
        "texts", type=Path, metavar="UNLABELLED", help='JSON lines {"text"}, or CSV with this column'
    )
    command.add_argument("out", type=Path, metavar="OUT", help="the folder to make")
    command.add_argument(
        "--teacher",
        required=True,
        metavar="BUNDLE_OR_SRC",
        help="a bundle with the learned task, a decoder's bundle, a decoder's checkpoint (folder, .gguf or "
        "hub id), or openai:URL, a server that gets all texts",
    )
    command.add_argument("--teacher-model", metavar="NAME", help="the model's name on the server openai:URL")
    command.add_argument(
        "--teacher-key",
        type=Path,
        metavar="FILE",
        help="file with the API key of openai:URL",
    )
    command.add_argument(
        "--teacher-tokens",
        type=whole,
        metavar="N",
        help="most tokens of this run that openai:URL may read and write; later texts stay unlabelled",
    )
    command.add_argument(
        "--teacher-base",
        type=Path,
        metavar="BUNDLE",
        help="the base of a teacher with the learned task (default: looked for nearby)",
    )
    command.add_argument(
        "--sure",
        type=_sure,
        metavar="SHARE",
        default=SURE,
        help="least confidence, from 0 to 1, of a teacher's label to be used (default: %(default)s)",
    )
    command.add_argument("--ask", action="store_true", help="ask about texts below that confidence")
    command.add_argument(
        "--test", type=Path, metavar="DATA", help="labelled rows to evaluate teacher and students on"
    )
    command.add_argument(
        "--hand",
        type=Path,
        metavar="DATA",
        help="labelled rows: for comparison, a student is trained on as many of them",
    )
    add_inputs(command)
    add_budget(command, ENCODER)


def _sure(text: str) -> float:
    """An argparse type: a number from 0 to 1, both included."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to 1")
    return number


def run(options: argparse.Namespace) -> None:
    """Labels the texts with the teacher, trains the student, and prints the evaluation of both."""
    from edgeslm_export.bundle.writer import check_absent
    from edgeslm_export.data.rows import bare_text, counted, load_rows, load_texts
    from edgeslm_export.evaluate.task_eval import check_answers
    from edgeslm_export.train.distill import Examinee, ask_teacher, compare, distil, find_notes, labels_of
    from edgeslm_export.train.remote_teacher import RemoteTeacher
    from edgeslm_export.train.tune import load_task

    check_absent(options.out, can_replace=True)
    if options.ask and not sys.stdin.isatty():
        raise ExportError("Nobody can be asked here; leave --ask out.")
    if options.hand is not None and options.test is None:
        raise ExportError("Hand labels (--hand) are compared on labelled rows: name them with --test.")
    task = load_task(options.task)
    texts = load_texts(options.texts)
    test = load_rows(options.test, task.labels) if options.test else []
    hand = load_rows(options.hand, task.labels) if options.hand else []
    tested = {bare_text(row.text) for row in test}
    texts = [text for text in texts if bare_text(text) not in tested]
    hand = [row for row in hand if bare_text(row.text) not in tested]
    with Bar() as bar, tempfile.TemporaryDirectory(prefix="teacher-") as work:
        budget = make_budget(options, bar)
        teacher = _teacher(options, Path(work), budget)
        if test:  # an unknown label would fail the comparison, after all the training
            check_answers(options.test, test, labels_of(teacher, task))
        inputs = find_inputs(options, budget)
        ask_user = ask_label if options.ask else None
        notes = find_notes(teacher, task, texts)
        said = ask_teacher(teacher, task, texts, notes, budget, sure=options.sure, ask_user=ask_user)
        is_spent = isinstance(teacher, RemoteTeacher) and teacher.is_spent
        if isinstance(teacher, RemoteTeacher):
            rest = "; the budget is used up: what is left is asked for in the next run" if is_spent else ""
            bar.say(f"{teacher.model} has read and written {teacher.tokens} tokens{rest}.")
        rest = f"{said.dropped} were dropped, {said.asked} labelled by you"
        bar.say(f"Training on {len(said.texts)} texts; {rest}.")
        source = Source(id=options.texts.name, revision=f"sha256:{texts_digest(said.texts)}")
        _, report = distil(task, said, source, options.out, inputs, budget)
        compared: list[dict[str, Any]] = []
        if test and is_spent:
            bar.say("Nothing is compared: the teacher would have to label the test, too.")
        elif test:
            base = find_base(options.out, inputs.base, inputs.bundle)
            student = Examinee(load_bundle(options.out), base)
            compared = compare(
                task, teacher, student, test, hand, inputs, budget, learned_from=len(said.texts)
            )
    if not isinstance(teacher, RemoteTeacher):  # its answers cost money: they are kept for 30 days
        notes.remove()
    report |= {"dropped": said.dropped, "asked": said.asked, "left_out": said.left_out, "compared": compared}
    if options.json:
        print_json({"bundle": str(options.out), **report})
        return
    print_line(f"{options.out}: learned {task.name} from {len(said.texts)} texts: {HOW[report['method']]}")
    print_line(f"agrees with the teacher on   {report['accuracy']:.3f} of {report['rows']} held-out texts")
    for label, count in said.left_out.items():
        print_line(
            f"left out: {label!r}, which {counted(count, 'text has', 'texts have')}; it is never predicted"
        )
    if compared:
        _print_compared(compared)


def _teacher(options: argparse.Namespace, work: Path, budget: Budget) -> AnyTeacher:
    """Finds or exports the teacher. :raises ExportError: the teacher is neither a trained task nor a decoder,
    or can't be exported."""
    from edgeslm_export.sources.hub import resolve_source
    from edgeslm_export.train.distill import Teacher, export_teacher
    from edgeslm_export.train.remote_teacher import PREFIX, make_remote_teacher

    if options.teacher.startswith(PREFIX):
        return make_remote_teacher(
            options.teacher.removeprefix(PREFIX),
            options.teacher_model,
            options.teacher_key,
            options.teacher_tokens,
        )

    folder, revision = Path(options.teacher), ""
    if not (folder / "manifest.json").is_file():
        budget.announce(f"Exporting {options.teacher} to a bundle that can label texts.")
        origin = resolve_source(options.teacher, "decoder", budget.announce)
        folder, revision = export_teacher(origin, work / "bundle", budget), origin.source.revision
    bundle = load_bundle(folder)
    can_label = bundle.manifest.learned or bundle.manifest.kind == "decoder" or bundle.manifest.zero_shot
    if not can_label:
        raise ExportError(
            f"{folder} is not a trained task; use a trained bundle, a decoder or a zero-shot model."
        )
    base = folder if bundle.manifest.learned is None else find_base(folder, options.teacher_base)
    return Teacher(bundle, base, revision)


def ask_label(text: str, labels: Sequence[str], guess: str) -> str | None:
    """Asks on the terminal until the answer is a label or a label's number; an empty answer gives None.

    :raises EOFError: the user typed Ctrl-D, or the terminal was closed.
    """
    keys = "Enter drops it, Ctrl-D all that follow"
    numbered = "  ".join(f"{number} {label}" for number, label in enumerate(labels, 1))
    while True:
        sys.stderr.write(f"{text}\n  {numbered}  (the teacher: {guess}; {keys}) ")
        sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        answer = line.strip()
        if not answer:
            return None
        if answer in labels:
            return answer
        if answer.isdecimal() and 1 <= int(answer) <= len(labels):
            return labels[int(answer) - 1]


def texts_digest(texts: Sequence[str]) -> str:
    """SHA-256 of the list of texts."""
    return hashlib.sha256("\n".join(map(json.dumps, texts)).encode()).hexdigest()


def _print_compared(compared: Sequence[dict[str, Any]]) -> None:
    rows = [
        (
            of["who"],
            str(of["labels"]),
            f"{of['accuracy']:.3f}",
            "{:.3f} to {:.3f}".format(*of["interval"]),
            f"{of['calibration_error']:.3f}",
            f"{of['texts_per_s']:.0f}",
            f"{of['bytes'] / 1e6:.1f} MB",
        )
        for of in compared
    ]
    heads = ("who", "hand labels", "accuracy", "95 % interval", "calibration error", "messages/s", "bytes")
    print_columns(heads, rows)

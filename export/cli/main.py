"""Entry point of ``edgeslm-export``: parses arguments, runs a command, reports failures in one sentence."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from types import ModuleType

from edgeslm_export.jobs.subprocess_job import TELEMETRY_OFF

from edgeslm.config.extras import install_line
from edgeslm.errors import EdgeslmError

MISSING = f"the package {{}} is missing; {install_line('export')} brings it."

try:
    from edgeslm_export.cli import (
        adapter,
        calibrate,
        choose,
        completion,
        distill,
        encoder,
        evaluate,
        model,
        plan,
        reader,
        ship,
        sign,
        starter,
        tune,
        verify,
        wrap,
    )
    from edgeslm_export.cli.arguments import release
except ModuleNotFoundError as error:  # on a device, or where an app is
    sys.exit(f"edgeslm-export: {MISSING.format(error.name)}")

COMMANDS: Mapping[str, ModuleType] = {
    "plan": plan,
    "model": model,
    "wrap": wrap,
    "encoder": encoder,
    "adapter": adapter,
    "reader": reader,
    "tune": tune,
    "distill": distill,
    "calibrate": calibrate,
    "choose": choose,
    "evaluate": evaluate,
    "ship": ship,
    "sign": sign,
    "verify": verify,
    "starter": starter,
    "completion": completion,
}

RELEASED = frozenset({"model", "encoder", "adapter", "reader", "tune", "distill", "ship", "wrap"})
"""Commands that make bundles with a release number."""
REPLACED = ("tune", "distill")
"""Commands that may replace an earlier bundle, as tasks are trained again with more rows."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    :return: the exit status, which is 0 on success, 1 after a failure, 130 after Ctrl-C.
    """
    os.environ.update(TELEMETRY_OFF)
    if not sys.stderr.isatty():
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    words = sys.argv[1:] if arguments is None else arguments
    options = _parser(words).parse_args(words)
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # nohup ignores it
        signal.signal(signal.SIGHUP, _interrupt)
    try:
        _run(options)
    except KeyboardInterrupt:
        left = "nothing half-made was left"
        if options.resumes:
            left = "the same command resumes from here"
        return _fail(f"interrupted; {left}.", 130)
    except BrokenPipeError:
        sys.stdout = None  # or the flush at exit would fail again
        return 0
    except Exception as error:
        if options.debug:
            traceback.print_exc()
        return _fail(_sentence(error), 1)
    return 0


def _run(options: argparse.Namespace) -> None:
    from edgeslm_export.bundle.writer import releasing, replacing

    with contextlib.ExitStack() as settings:
        if getattr(options, "release", None) is not None:
            settings.enter_context(releasing(options.release))
        if getattr(options, "replace", False):
            settings.enter_context(replacing())
        options.run(options)


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
        return MISSING.format(error.name)
    return f"an error that was not foreseen ({type(error).__name__}: {error}); --debug shows where."


def _parser(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """:param words: the command line; ``tune --from`` has other arguments than ``tune``."""
    parser = argparse.ArgumentParser(
        prog="edgeslm-export", description="Turns models into bundles that edgeslm runs.", allow_abbrev=False
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=module.SUMMARY,
            description=f"{module.SUMMARY[0].upper()}{module.SUMMARY[1:]}.",
            epilog=f"example: {module.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.add_argument("--json", action="store_true", help="print one JSON line instead of text")
        command.add_argument(
            "--debug", action="store_true", help="show tracebacks and what the libraries print"
        )
        if module is tune and tune.is_from_node(words):
            tune.add_node_arguments(command)
        else:
            module.add_arguments(command)
        if name in RELEASED:
            command.add_argument(
                "--release",
                type=release,
                metavar="N",
                help="release number: a node that has accepted a higher one of the same name won't downgrade "
                "automatically (default: 0)",
            )
        if name in REPLACED:
            command.add_argument(
                "--replace",
                action="store_true",
                help="replace the bundle OUT, as soon as the new one is made",
            )
        command.set_defaults(run=module.run, resumes=getattr(module, "RESUMES", False), program=parser)
    return parser

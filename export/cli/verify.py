"""Command ``edgeslm-export verify``."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from edgeslm_export.cli.screen import print_json, print_line

from edgeslm.errors import BundleError

SUMMARY = "check a bundle's signature and every file, as a device does"
EXAMPLE = "edgeslm-export verify smollm2-135m-int4 --key factory.pub"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("bundle", type=Path, metavar="BUNDLE")
    command.add_argument(
        "--key",
        type=Path,
        required=True,
        action="append",
        metavar="FILE",
        help="public key (PEM); may be repeated, then one of them must have signed",
    )


def run(options: argparse.Namespace) -> None:
    """Checks the signature and prints the key that made it.

    :raises BundleError: the signature was made by none of the keys in ``--key``, or a file was changed after
        signing.
    """
    from edgeslm.bundle.trust import check_bundles

    (verdict,) = check_bundles([options.bundle], options.key)
    if options.json:
        print_json({"path": str(options.bundle), **asdict(verdict)})
    if verdict.status != "signed":
        raise BundleError(verdict.sentence)
    if not options.json:
        print_line(f"{options.bundle}: whole, and signed by {verdict.key}")

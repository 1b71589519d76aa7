"""``edgeslm doctor``: checks hardware, software, models and broker, with advice for each problem.

The modules ``probes`` and ``hardware.board`` measure the machine; each other module checks one subject.
Inference libraries are imported in a child process, since a library may use an instruction that the CPU
lacks, which would end the doctor.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeslm.cli.doctor.bundles import judge_bundles, judge_signatures, judge_tasks
from edgeslm.cli.doctor.connection import judge_broker, judge_reach, judge_secrets
from edgeslm.cli.doctor.disk import judge_disk, judge_writes
from edgeslm.cli.doctor.distributions import judge_distributions, judge_extras
from edgeslm.cli.doctor.documents import judge_collections, judge_homes
from edgeslm.cli.doctor.finding import Finding, render
from edgeslm.cli.doctor.machine import (
    judge_board,
    judge_clock,
    judge_cpu,
    judge_heat,
    judge_memory,
    judge_profile,
)
from edgeslm.cli.doctor.probes import THIS_MACHINE, Probes
from edgeslm.cli.doctor.software import judge_libraries, judge_pure_libraries, judge_python
from edgeslm.config.loader import Config

__all__ = ["TOKENS", "Finding", "examine", "render"]

TOKENS = 2048
"""Default context length for estimates, in tokens."""


def examine(
    config: Config | None = None,
    bundles: Sequence[Path] = (),
    *,
    probes: Probes = THIS_MACHINE,
    context: int = TOKENS,
    file: Path | None = None,
) -> list[Finding]:
    """Runs every check once. This takes some seconds, to load libraries and to connect to the broker.

    Memory and speed are estimated for ``bundles`` and the bundles of ``config``. If ``bundles`` and
    ``config`` name no bundle, the estimates are for the bundles in the starter folder, and a model of the
    catalog is proposed.

    :param context: context length for the estimates, in tokens.
    :param file: the file that ``config`` was read from.
    """
    root = probes.root
    findings = [judge_board(root), *judge_profile(root), *judge_cpu(root), *judge_memory(root)]
    findings += [judge_disk(config), *judge_writes(config, probes)]
    findings += [*judge_heat(probes), judge_clock(probes)]
    wanting = [name for name, model in config.models.items() if model.device == "cuda"] if config else []
    findings += [judge_python(), *judge_libraries(probes, wanting)]
    findings += [*judge_pure_libraries(), *judge_distributions(probes.distributions())]
    findings += judge_bundles(config, bundles, probes, context)
    if config is not None:
        findings += [*judge_tasks(config), *judge_extras(config), *judge_signatures(config)]
        findings += [*judge_collections(config), *judge_homes(config, file, probes)]
        findings += [*judge_secrets(config.broker), *judge_broker(config, probes)]
        findings += judge_reach(config, probes)
    return findings

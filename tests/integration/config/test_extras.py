"""The bare package is the client for apps; what else needs an extra says which.

The environments here are folders with links to what an installation would have, without a network.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from edgeslm.config.extras import EXTRAS, missing_extra
from edgeslm.errors import KnowledgeError
from edgeslm.knowledge.readers.reader import read_document
from tests.support.paths import ROOT

NEEDS_A_NODE: Sequence[Sequence[str]] = (
    ("run", "node.yaml"),
    ("check", "node.yaml"),
    ("check", "--schema"),
    ("init",),
    ("teach", "triage", "--config", "node.yaml"),
    ("demo",),
    ("try", "node.yaml", "triage", "text"),
    ("inspect", "bundle"),
    ("prepare", "bundle"),
    ("doctor",),
    ("dispatch", "pool.yaml"),
    ("feedback", "triage", "text", "label"),
    ("knowledge", "list", "manuals.sqlite"),
    ("models", "list", "node.yaml"),
    ("provision", "acl", "node.yaml"),
    ("purge", "--id", "1", "node.yaml"),
    ("recover", "node.yaml"),
    ("rollout", "hawkbit", "node.yaml"),
)
NOWHERE = ("--broker", "mqtt://127.0.0.1:1")
NEEDS_PAHO: Sequence[Sequence[str]] = (
    ("request", "triage", "text", *NOWHERE, "--node", "hall", "--timeout", "1"),
    ("top", *NOWHERE),
    ("fleet", "list", *NOWHERE),
    ("fleet", "forget", "hall", *NOWHERE),
)
NEEDS_NOTHING: Sequence[str] = ("completion", "bash")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This package and paho, nothing else."""
    folder = tmp_path_factory.mktemp("site-packages")
    for name in ("edgeslm", "paho"):
        (folder / name).symlink_to(place_of(name))
    return folder


def place_of(package: str) -> Path:
    found = importlib.util.find_spec(package)
    assert found is not None and found.submodule_search_locations
    return Path(next(iter(found.submodule_search_locations)))


def python(site: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs ``code`` with the standard library and ``site`` alone."""
    start = f"import sys; sys.path.append({str(site)!r})\n"
    command = [sys.executable, "-I", "-S", "-c", start + code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def edgeslm(site: Path, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return python(site, "from edgeslm.cli.main import main; sys.exit(main())", *arguments)


def test_the_client_for_apps_needs_paho_alone(bare: Path) -> None:
    code = (
        "from edgeslm.client import Client\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)))"
    )
    done = python(bare, code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["__main__", "edgeslm", "paho"]


@pytest.mark.parametrize("arguments", NEEDS_PAHO, ids=lambda arguments: arguments[0])
def test_commands_for_apps_need_paho_alone(bare: Path, arguments: Sequence[str]) -> None:
    done = edgeslm(bare, arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("edgeslm: Nothing listens at mqtt://127.0.0.1:1"), done.stderr


@pytest.mark.parametrize("arguments", NEEDS_A_NODE, ids=" ".join)
def test_a_command_names_the_extra_that_it_lacks(bare: Path, arguments: Sequence[str]) -> None:
    done = edgeslm(bare, arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"edgeslm: edgeslm {arguments[0]} needs the extra node, which isn't installed: "
        "pip install '.[node]' in a clone\n"
    )


def test_the_build_machine_s_command_names_its_extra(bare: Path) -> None:
    (bare / "edgeslm_export").symlink_to(place_of("edgeslm_export"))
    done = python(bare, "from edgeslm_export.cli.main import main; sys.exit(main())", "plan", "--help")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(
        r"edgeslm-export: the package \w+ is missing; pip install '\.\[export\]' in a clone brings it\.\n",
        done.stderr,
    )


def test_completion_needs_no_package(bare: Path) -> None:
    done = edgeslm(bare, NEEDS_NOTHING)
    assert done.returncode == 0 and "teach" in done.stdout, done.stderr


def test_every_command_is_tried_here(bare: Path) -> None:
    done = edgeslm(bare, ["--help"])
    assert done.returncode == 0, done.stderr
    listed = {line.split()[0] for line in done.stdout.splitlines() if line[:4] == "    " and line[4:5] != " "}
    tried = {arguments[0] for arguments in (*NEEDS_A_NODE, *NEEDS_PAHO, NEEDS_NOTHING)}
    assert listed == tried


def test_another_missing_module_is_no_extra() -> None:
    error = ModuleNotFoundError("No module named 'rumour'", name="rumour")
    assert missing_extra(error, "edgeslm run") is None
    assert missing_extra(ImportError("cannot import name 'x' from 'numpy'", name="numpy"), "it") is None


@pytest.mark.parametrize(("library", "extra"), sorted(EXTRAS.items()))
def test_each_library_s_extra_is_named(library: str, extra: str) -> None:
    error = ModuleNotFoundError(f"No module named '{library}.part'", name=f"{library}.part")
    sentence = missing_extra(error, "edgeslm run")
    assert sentence == (
        f"edgeslm run needs the extra {extra}, which isn't installed: pip install '.[{extra}]' in a clone"
    )


def test_a_document_that_needs_the_extra_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    (tmp_path / "manual.pdf").write_bytes(b"%PDF-1.7")
    with pytest.raises(KnowledgeError, match=r"^Reading manual\.pdf needs the extra documents"):
        read_document(tmp_path / "manual.pdf", "manual.pdf")


def test_nothing_says_to_install_a_name_that_is_not_ours() -> None:
    """``edgeslm`` isn't registered in the public index: whoever registers it could give users anything."""
    folders = ("edgeslm", "export", "docs", "firmware-config", "scripts", "tests", "benchmarks")
    files = [ROOT / "README.md", *(file for name in folders for file in (ROOT / name).rglob("*.*"))]
    told = re.compile(r"pip install[^\n`]*[ '\"]edgeslm(?![-/\w.])")
    wrong = []
    for file in files:
        if file.is_file() and file.stat().st_size < 1_000_000 and file != Path(__file__):
            found = told.findall(file.read_text("utf-8", "replace"))
            wrong += [f"{file.relative_to(ROOT)}: {line}" for line in found]
    assert wrong == []

"""The house rules that a machine can check: who imports whom, sizes, and what no file may hold."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

from packaging.requirements import Requirement

from edgeslm.config.extras import EXTRAS
from tests.support.paths import ROOT

LAYERS = (
    {"errors", "messages", "hardware", "ipc"},
    {"protocol", "redaction"},
    {"config", "remote"},
    {"mqtt"},
    {"storage", "client"},
    {"bundle"},
    {"telemetry"},
    {"engine", "knowledge"},
    {"tasks", "teaching"},
    {"serving"},
    {"web"},
    {"update", "console", "api"},
    {"node"},
    {"dispatcher"},
    {"cli"},
    {"__main__"},
)
"""Packages: each sees those in the lines above it. Those of a line don't see each other, save the first."""

INNER_LAYERS = {
    "edgeslm.engine": ("worker", "prepack"),
    "edgeslm.knowledge": ("documents", "readers", "index", "table_qa", "service"),
    "edgeslm.update": ("", "rollout"),
}
"""Packages within a package, likewise; "" is its own modules."""

BUS = {"mqtt", "client"}
NO_BUS = {
    *("ipc", "remote", "engine", "knowledge", "telemetry", "tasks", "teaching", "serving", "web"),
    *("console", "api"),
}
"""What computes knows no bus: requests and results are values."""

ONLY_IN = {
    "onnxruntime": {"engine"},
    "onnxruntime_genai": {"engine"},
    "numpy": {"engine", "knowledge"},
    "tokenizers": {"engine"},
    "pypdfium2": {"knowledge"},
    "snowballstemmer": {"knowledge"},
    "cryptography": {"cli", "storage", "bundle"},  # provision, an encrypted journal, signatures in a job
    "starlette": {"web", "console", "api"},
    "uvicorn": {"web"},
    "httpx2": {"remote"},
    "mcp": {"api"},
    "paho": {"mqtt", "client", "cli"},  # the demo plays the sensors and apps of others
}
"""Libraries that stay behind one door."""

WORKER_ONLY = {"onnxruntime", "onnxruntime_genai", "numpy", "tokenizers"}
WHEN_NEEDED = {
    *("cryptography", "pypdfium2", "prometheus_client", "opentelemetry", "starlette", "uvicorn", "httpx2"),
    *("snowballstemmer", "mcp"),
}
"""10 MB of memory for what reads PDFs, five for traces, one for Prometheus; the console is a process."""
BUILD_MACHINE_ONLY = {
    *("torch", "transformers", "onnx", "onnx_ir", "gguf", "accelerate", "sklearn", "optimum"),
    *("model_signing", "sigstore", "OpenSSL"),
}

EXPORT_LAYERS = (
    {"jobs"},
    {"data", "bundle"},
    {"sources"},
    {"quantize"},
    {"graph"},
    {"evaluate"},
    {"models"},
    {"train"},
    {"starter"},
    {"cli"},
)
"""Packages of export, likewise: those of a line don't see each other."""

EXPORT_SEES = {"bundle", "config", "errors", "hardware", "remote"}

RUN_WHAT_THEY_READ = (
    "pickle",
    "marshal",
    "shelve",
    "dill",
    "joblib",
    "cloudpickle",
    "multiprocessing.connection",
)
"""Reading with them can run what was written; frames of ``ipc/codec`` can't."""

STARTING_MODULES = {"subprocess", "multiprocessing"}
STARTING_CALLS = {
    *("fork", "forkpty", "posix_spawn", "posix_spawnp", "ProcessPoolExecutor"),
    *("create_subprocess_exec", "create_subprocess_shell"),
}
STARTS_PROGRAMS = {
    "edgeslm/ipc/process.py": "long-lived children of Python, with typed messages",
    "edgeslm/ipc/job.py": "children of Python that get one order and give one answer",
    "edgeslm/hardware/board.py": "vcgencmd of the Raspberry Pi",
    "edgeslm/cli/demo/__init__.py": "the daemon, by the command that a user would type",
    "edgeslm/cli/demo/broker.py": "mosquitto or amqtt",
    "edgeslm/teaching/lesson.py": "edgeslm-export, by the command that a user would type",
    "edgeslm/cli/demo/traffic.py": "sees whether the daemon still runs",
    "export/jobs/subprocess_job.py": "the build machine's children, whose environment is another",
    "export/jobs/optimum_env.py": "venv and pip",
    "export/sources/node.py": "edgeslm, by the command that a user would type",
    "export/sources/wheel_data.py": "pip",
    "export/starter.py": "apt-get and dpkg-deb",
}
"""What starts other programs, and which: children of Python in one of two ways on a device, in one on the
build machine."""

LOAD_BUNDLES = {"bundle", "engine", "update", "cli"}
"""What loads bundles past ``Trust.load``: it runs nothing of them, or was told the digest."""
EXPORT_MEASURES = {
    "evaluate/report_card.py": {"engine"},
    "evaluate/golden_answers.py": {"engine"},
    "evaluate/task_eval.py": {"tasks", "messages"},
    "sources/golden_tokens.py": {"engine"},
    "train/sft_rows.py": {"engine", "tasks", "messages"},
    "train/decoder_methods.py": {"tasks"},
    "train/encoder_methods.py": {"engine"},
    "train/labelled_bias.py": {"engine"},
    "train/reader.py": {"engine", "knowledge", "tasks"},
    "train/retriever.py": {"tasks"},
    "bundle/add_knowledge.py": {"knowledge"},
    "models/wrap.py": {"engine"},
    "cli/completion.py": {"cli"},  # of both programs alike
}
"""What is measured and taught is what a device runs: these modules see more."""

INSTALLED_AS = {
    "yaml": "pyyaml",
    "paho": "paho-mqtt",
    "sklearn": "scikit-learn",
    "model_signing": "model-signing",
    "opentelemetry": "opentelemetry-sdk",
}
TAUGHT = {"audit.py", "lora_training.py"}
"""Modules of export/ that work with the extra `teach` alone."""
OWN_ENVIRONMENT = {"optimum_worker.py"}
"""Runs in the environment of the dependency group `optimum`."""

MODULES = sorted((ROOT / "edgeslm").rglob("*.py"))
EXPORT_MODULES = sorted((ROOT / "export").rglob("*.py"))


def module_name(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[0] == "export":
        parts[0] = "edgeslm_export"
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


@cache
def imports(path: Path, *, typing_too: bool = True) -> list[tuple[int, str]]:
    """Line and absolute name of every import of a file, those inside functions included.

    ``from package import module`` gives ``package.module``, so that a submodule is seen; a name that is no
    module does no harm, since only prefixes count.
    """
    found: list[tuple[int, str]] = []
    skipped: set[ast.AST] = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.If) and not typing_too and "TYPE_CHECKING" in ast.unparse(node.test):
            skipped.update(inner for statement in node.body for inner in ast.walk(statement))
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute here"
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def unit(name: str) -> str | None:
    """The part of ``edgeslm`` that a dotted name belongs to; None for the package itself and for others."""
    parts = name.split(".")
    if parts[0] != "edgeslm" or len(parts) == 1:
        return None
    there = ROOT / "edgeslm" / parts[1]
    return parts[1] if there.is_dir() or there.with_suffix(".py").is_file() else None


def layer(part: str) -> int:
    return next(number for number, parts in enumerate(LAYERS) if part in parts)


def report(faults: list[str]) -> None:
    """Fails with all faults of a rule, a line each."""
    assert not faults, "\n".join(faults)


def test_every_module_has_a_layer() -> None:
    parts = {unit(module_name(path)) for path in MODULES} - {None}
    report(
        [
            f"{part} is in no layer: give it one in {Path(__file__).name} and in ARCHITECTURE.md"
            for part in sorted(filter(None, parts))
            if not any(part in row for row in LAYERS)
        ]
    )


def test_imports_point_down() -> None:
    wrong = []
    for path, own in [(path, unit(module_name(path))) for path in MODULES]:
        for line, name in imports(path):
            other = unit(name)
            if own is None or other is None or other == own:
                continue
            if layer(other) >= layer(own) > 0:
                wrong.append(f"{path}:{line}: {own} may not see {name}")
            if other in BUS and own in NO_BUS:
                wrong.append(f"{path}:{line}: {own} computes and may not see {name}")
            if other == "engine" and own == "tasks" and not name.startswith("edgeslm.engine.calls"):
                wrong.append(f"{path}:{line}: a task sees engine/calls alone, not {name}")
    report(wrong)


def test_imports_point_down_within_a_package() -> None:
    wrong = []
    for package, rows in INNER_LAYERS.items():
        for path in MODULES:
            own = module_name(path)
            if not own.startswith(f"{package}."):
                continue
            for line, name in imports(path):
                if name.startswith(f"{package}."):
                    is_module = (ROOT / (name.replace(".", "/") + ".py")).exists()
                    other = name if is_module else name.rpartition(".")[0]
                    if inner_row(package, rows, other) > inner_row(package, rows, own):
                        wrong.append(f"{path}:{line}: may not see {other}")
    report(wrong)


def inner_row(package: str, rows: tuple[str, ...], name: str) -> int:
    parts = name.removeprefix(f"{package}.").split(".")
    inner = parts[0] if len(parts) > 1 else ""
    return rows.index(inner) if inner in rows else -1


def test_libraries_stay_behind_one_door() -> None:
    wrong = []
    for path in MODULES:
        for line, name in imports(path):
            library = name.split(".")[0]
            if library in ("export", "edgeslm_export") or library in BUILD_MACHINE_ONLY:
                wrong.append(f"{path}:{line}: {name} belongs to the build machine")
            doors = ONLY_IN.get(library)
            if doors and unit(module_name(path)) not in doors:
                wrong.append(f"{path}:{line}: only {sorted(doors)} may import {name}")
    report(wrong)


def test_bundles_go_through_one_door() -> None:
    """What runs bundles takes them from ``Trust.load``, which checks their signatures."""
    report(
        [
            f"{path}:{line}: load bundles with Trust.load"
            for path in MODULES
            if unit(module_name(path)) not in LOAD_BUNDLES
            for line, name in imports(path)
            if name == "edgeslm.bundle.manifest.load_bundle"
        ]
    )


def test_nothing_is_unpickled() -> None:
    """Whoever owns a child process, a bundle or a file would own the node."""
    report(
        [
            f"{path}:{line}: {name}: send frames (edgeslm/ipc/codec.py) instead"
            for path in MODULES
            for line, name in imports(path)
            if any(f"{name}.".startswith(f"{module}.") for module in RUN_WHAT_THEY_READ)
            or name in ("multiprocessing.Pipe", "multiprocessing.Queue")
        ]
    )


def test_children_are_started_in_one_place() -> None:
    """``ipc/process`` or ``ipc/job``, whose limits, ends and last words are those of every child."""
    found = set()
    for path in [*MODULES, *EXPORT_MODULES]:
        calls = {node.attr for node in ast.walk(parse(path)) if isinstance(node, ast.Attribute)}
        modules = {name.partition(".")[0] for _, name in imports(path)}
        if calls & STARTING_CALLS or modules & STARTING_MODULES:
            found.add(str(path.relative_to(ROOT)))
    assert found == STARTS_PROGRAMS.keys(), "run it as a job (edgeslm/ipc/job.py), or as ipc/process does"


def test_export_sees_only_the_contract() -> None:
    wrong = []
    for path in EXPORT_MODULES:
        seen = EXPORT_SEES | EXPORT_MEASURES.get(path.relative_to(ROOT / "export").as_posix(), set())
        for line, name in imports(path):
            if (unit(name) or "errors") not in seen:
                wrong.append(f"{path}:{line}: the build machine may not see {name}")
    report(wrong)


def test_imports_of_export_point_down() -> None:
    def row(name: str) -> int:
        return next((n for n, row in enumerate(EXPORT_LAYERS) if name in row), len(EXPORT_LAYERS))

    wrong = []
    for path in EXPORT_MODULES:
        own = path.relative_to(ROOT / "export").parts[0].removesuffix(".py")
        for line, name in imports(path):
            other = (*name.split("."), "")[1] if name.startswith("edgeslm_export.") else own
            if other != own and row(other) >= row(own):
                wrong.append(f"{path}:{line}: may not see {name}")
    report(wrong)


def test_no_import_circles() -> None:
    names = {module_name(path): path for path in [*MODULES, *EXPORT_MODULES]}
    arrows = {name: _arrows(name, path, set(names)) for name, path in names.items()}
    done: set[str] = set()

    def follow(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, f"a circle of imports: {' -> '.join([*way[way.index(name) :], name])}"
        if name not in done:
            for other in sorted(arrows[name]):
                follow(other, (*way, name))
            done.add(name)

    for name in names:
        follow(name, ())


def _arrows(own: str, path: Path, known: set[str]) -> set[str]:
    found = set()
    for _, name in imports(path, typing_too=False):
        while name and name not in known:
            name = name.rpartition(".")[0]
        # A package's __init__ lists its modules; that they are in the package is no arrow back.
        if name and name != own and not own.startswith(f"{name}."):
            found.add(name)
    return found


CHILDREN = (
    *(
        "edgeslm.engine.worker",
        "edgeslm.engine.prepack",
        "edgeslm.knowledge",
        "edgeslm.web.server",
        "edgeslm.web.connections",
        "edgeslm.console",
        *(
            f"edgeslm.api.{name}"
            for name in (
                *("dialect", "mcp", "node", "ollama", "openai"),
                *("openapi", "rerank", "responses", "web", "worker"),
            )
        ),
        "edgeslm.cli",
    ),
    *("edgeslm.bundle.signature", "edgeslm.__main__"),
)
"""Modules of child processes and of other commands, with the few that a node shares with them."""


def test_the_parent_never_imports_what_belongs_to_a_worker() -> None:
    """Not even through a library: the binding holds the interpreter lock, and the memory is for the model."""
    others = (*CHILDREN, "edgeslm.remote.client")  # imported only for a stage on a server
    parts = [name for path in MODULES if not (name := module_name(path)).startswith(others)]
    forbidden = sorted(WORKER_ONLY | WHEN_NEEDED | BUILD_MACHINE_ONLY)
    code = (
        f"import importlib, sys\nfor name in {parts!r}: importlib.import_module(name)\n"
        f"print(*[name for name in {forbidden!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def declared() -> dict[str, dict[str, Requirement]]:
    """What each extra brings by pyproject.toml, those that it is made of included; "" is the bare package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {"": project["dependencies"], **project["optional-dependencies"]}

    def brought(extra: str) -> dict[str, Requirement]:
        found: dict[str, Requirement] = {}
        for requirement in map(Requirement, [*extras[""], *extras[extra]]):
            if requirement.name == "edgeslm":
                for inner in requirement.extras:
                    found |= brought(inner)
            else:
                found[requirement.name] = requirement
        return found

    return {extra: brought(extra) for extra in extras}


def libraries(path: Path) -> set[str]:
    """Names of the distributions that a file imports, functions included."""
    used = {name.split(".")[0] for _, name in imports(path)}
    used -= {"edgeslm", "edgeslm_export", "__future__", *sys.stdlib_module_names}
    return {INSTALLED_AS.get(name, name.replace("_", "-")) for name in used}


def test_a_device_installs_what_it_imports_and_nothing_of_the_build_machine() -> None:
    brings = declared()
    used = set().union(*map(libraries, MODULES))
    named = {INSTALLED_AS.get(name, name.replace("_", "-")): extra for name, extra in EXTRAS.items()}
    for library in sorted(used - {"paho-mqtt"}):
        assert library in brings[named.get(library, "")], (
            f"{library} is imported: edgeslm.config.extras, pyproject.toml"
        )
    assert set(brings[""]) == {"paho-mqtt"}
    assert set(brings["node"]) <= used, "installed and never imported"
    for extra in sorted({*EXTRAS.values(), "provision", "encrypt"}):
        assert not set(brings[extra]) & (BUILD_MACHINE_ONLY - {"sklearn"})
        assert "scikit-learn" not in brings[extra] or extra == "heads"
    for extra in ("verify", "provision", "encrypt"):
        assert "cryptography" in brings[extra]


def test_the_build_machine_installs_what_it_imports() -> None:
    brings = declared()
    for path in EXPORT_MODULES:
        if path.name not in OWN_ENVIRONMENT:
            extra = "teach" if path.name in TAUGHT else "export"
            assert libraries(path) <= set(brings[extra]), f"{path.name}: the extra {extra} lacks something"
    group = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["optimum"]
    own = {Requirement(line).name for line in group} | {"torch", "numpy"}  # these are borrowed
    for name in OWN_ENVIRONMENT:
        assert libraries(ROOT / "export" / "models" / name) <= own


def test_the_client_of_apps_imports_what_the_bare_package_has() -> None:
    known = {module_name(path): path for path in MODULES}
    waiting, seen = ["edgeslm.client", "edgeslm.cli.main", "edgeslm.cli.top", "edgeslm.cli.fleet"], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        at_once = _imported_at_once(known[name])
        assert {one.split(".")[0] for one in at_once} <= {
            "edgeslm",
            "paho",
            "__future__",
            *sys.stdlib_module_names,
        }
        for one in at_once:
            while one and one not in known:
                one = one.rpartition(".")[0]
            waiting += [one] if one else []


def _imported_at_once(path: Path) -> set[str]:
    """What is imported with the module: neither within functions nor for types."""
    body, found = list(parse(path).body), set()
    while body:
        node = body.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            body += node.orelse
        elif isinstance(node, ast.Try | ast.With | ast.If):
            body += node.body
    return found


def test_every_requirement_has_an_upper_bound() -> None:
    """But for tools of the developers, and what no interface of is used."""
    brings = declared()
    for extra in sorted(set(brings) - {"dev", "bench"}):
        for requirement in brings[extra].values():
            bounded = any(one.operator in ("<", "==") for one in requirement.specifier)
            assert bounded or requirement.name == "packaging", f"{extra}: {requirement}"


def test_files_and_functions_stay_small() -> None:
    wrong = []
    for path in [*MODULES, *EXPORT_MODULES, *sorted((ROOT / "benchmarks").rglob("*.py"))]:
        if len(path.read_text().splitlines()) > 450:
            wrong.append(f"{path} has more than 450 lines: split what is an idea of its own")
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > 75:
                    wrong.append(f"{path}:{node.lineno}: {node.name} has {lines} lines: split it")
    report(wrong)


def test_modules_say_what_they_hold() -> None:
    for path in [*MODULES, *EXPORT_MODULES]:
        assert ast.get_docstring(parse(path)), f"{path} needs a docstring"
        assert path.stem not in ("utils", "common", "helpers", "const", "types"), (
            f"{path} needs a name that says something"
        )


# --- what no file may hold -------------------------------------------------------------------------

HOSTS = [  # put together here, since this file is among those that are searched
    ".".join(parts)
    for parts in (("pypi", "org"), ("pythonhosted", "org"), ("deb", "debian", "org"), ("npmjs", "org"))
] + [".".join(("download", "pytorch", "org"))]


def tracked_files() -> list[Path]:
    """What a commit would hold; of a tree without git, everything but hidden folders' files."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return [
            path
            for path in sorted(ROOT.glob("[!.]*/**/*"))
            if path.is_file() and "__pycache__" not in path.parts
        ]
    return [path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_no_file_names_a_registry_host_or_a_path_of_a_machine() -> None:
    folders = {f"{ROOT}/", f"{Path.home()}/", *(f"/{name}/" for name in ("root", "work"))}
    forbidden = [*HOSTS, *(folder for folder in folders if len(folder) > 4)]
    pattern = re.compile(
        "|".join(
            rf"(?<![\w.~-]){re.escape(text)}" if text[0] == "/" else re.escape(text) for text in forbidden
        )
    )
    found = []
    for path in tracked_files():
        text = path.read_bytes().decode(errors="replace")
        found += [f"{path}: {match.group()}" for match in pattern.finditer(text)]
    assert not found, "\n".join(found)

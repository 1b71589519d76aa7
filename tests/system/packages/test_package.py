"""The Debian packages in clean systems: installed, run, upgraded, removed, purged."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.support.apps import App
from tests.support.brokers import Mosquitto
from tests.system.packages.roots import BootedRoot, Program, Root

PLACE = Path(os.environ["EDGESLM_TEST_DEB"])
"""A folder for each architecture: the packages, and ``root.tar``, a system that has what they need."""
NATIVE = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True).stdout.strip()
FOREIGN = "arm64" if NATIVE == "amd64" else "amd64"

BASE = "edgeslm/v1/board-1"
CONFIG = "etc/edgeslm/edgeslm.yaml"


def packages(architecture: str) -> list[Path]:
    found = sorted((PLACE / architecture).glob("*.deb"))
    assert found, f"no package for {architecture} was made: run scripts/test-deb"
    return found


def unpack(architecture: str, folder: Path) -> Path:
    root = folder / "root"
    root.mkdir()
    subprocess.run(["tar", "-xpf", PLACE / architecture / "root.tar", "-C", root], check=True)
    return root


def newer(package: Path, folder: Path) -> Path:
    """The package as a later version: a file of it is gone, the example configuration is another."""
    tree = folder / package.stem
    subprocess.run(["dpkg-deb", "--raw-extract", package, tree], check=True)
    control = tree / "DEBIAN/control"
    control.write_text(re.sub(r"(\+deb\d+)", r"\1+later", control.read_text()))
    for gone in tree.glob("opt/edgeslm/lib/*/site-packages/edgeslm/cli/demo/screen.py"):
        gone.unlink()
    for example in tree.glob("usr/share/doc/edgeslm/examples/first.yaml"):
        example.write_text(example.read_text() + "# later\n")
    file = folder / f"later_{package.name}"
    subprocess.run(["dpkg-deb", "-Zzstd", "-z1", "--root-owner-group", "--build", tree, file], check=True)
    shutil.rmtree(tree)
    return file


def bring_bundles(root: Root, starter: Path) -> None:
    for bundle in ("smollm2-135m-int4", "minilm-l6-int8"):
        shutil.copytree(starter / bundle, root.folder / "var/lib/edgeslm/bundles" / bundle)


def set_broker(root: Root, broker: Mosquitto) -> None:
    file = root.folder / CONFIG
    text = file.read_text()
    assert text.count("mqtt://localhost}") == 1
    text = text.replace("mqtt://localhost}", broker.url + "}  # ours")
    # Emulated, an instruction of many tokens takes minutes; nor may the engine be tested for hours.
    labels = "labels: {normal: all is well, warning: look at it soon, critical: act now}"
    assert text.count(labels) == 1
    text = text.replace(labels, "labels: [a, b]")
    file.write_text(text + "prepare: never\nlimits: {request_timeout_s: 1200}\n")


def ask(app: App) -> None:
    app.publish(f"{BASE}/req/triage", {"id": "1", "input": "Burnt smell"})
    result = app.take(f"{BASE}/res/triage").json
    assert result["status"] == "ok" and result["result"]["label"] in ("a", "b"), result


def owner(root: Root, path: str) -> str:
    return root.call("stat", "-c", "%a %U:%G", f"/{path}")


def check_installed(root: Root) -> None:
    assert root.call("edgeslm", "--version").startswith("edgeslm 0")
    assert root.call("edgeslm", "check", f"/{CONFIG}").startswith(f"/{CONFIG}: no errors")
    assert owner(root, CONFIG) == "644 root:root"
    assert owner(root, "etc/edgeslm/credentials") == "700 root:root"
    assert owner(root, "var/lib/edgeslm") == "750 edgeslm:edgeslm"
    wanted = root.folder / "etc/systemd/system/multi-user.target.wants/edgeslm.service"
    assert wanted.is_symlink(), "the service is not enabled"
    modules = root.folder / "opt/edgeslm/lib"
    assert list(modules.rglob("edgeslm/cli/__pycache__/main.*.pyc")), "nothing was compiled at installation"
    whole = [file for file in modules.rglob("*.so*") if b"\0.symtab\0" in file.read_bytes()]
    assert not whole, "libraries have their symbols"


def check_doctor(root: Root) -> None:
    done = root.run("edgeslm", "doctor", "--config", f"/{CONFIG}")
    assert done.returncode == 0 and "model small" in done.stdout, done.stdout + done.stderr


def check_removed(root: Root, kept: dict[str, bytes], before: dict[str, str]) -> None:
    """First removed, which keeps what is the owner's, then purged, which keeps nothing."""
    root.call("dpkg", "--remove", "edgeslm-teach", "edgeslm")
    assert not (root.folder / "opt/edgeslm").exists()
    assert not (root.folder / "usr/bin/edgeslm").is_symlink()
    left = root.texts("etc/edgeslm", "var/lib/edgeslm/bundles")
    assert left == {path: text for path, text in kept.items() if path in left} and CONFIG in left
    root.call("dpkg", "--purge", "edgeslm-teach", "edgeslm")
    assert not (root.folder / "var/log/edgeslm").exists()
    after = root.state()
    assert {path: what for path, what in after.items() if before.get(path) != what} == {}
    # dpkg takes a folder along that is empty then, and no package owns /opt.
    assert {path for path in before if path not in after} <= {"opt"}


def test_a_life_of_the_package_native(
    starter: Path, tmp_path: Path, make_broker: Callable[..., Mosquitto]
) -> None:
    """In a booted system: the service starts, goes on after the upgrade and is gone after the removal."""
    debs = packages(NATIVE)
    broker = make_broker()
    with BootedRoot(unpack(NATIVE, tmp_path), NATIVE) as root, App(broker.port, f"{BASE}/#") as app:
        before = root.state()
        said = root.install(*debs)
        assert "copy bundles to /var/lib/edgeslm/bundles" in said
        check_installed(root)
        assert root.run("systemctl", "is-active", "edgeslm").stdout.strip() == "inactive"  # it has no model
        bring_bundles(root, starter)
        set_broker(root, broker)
        check_doctor(root)
        root.call("systemctl", "start", "edgeslm")
        ask(app)

        (root.folder / "etc/edgeslm/hall.yaml").write_text("node: hall\n")
        kept = root.texts("etc/edgeslm", "var/lib/edgeslm/bundles")
        journal = (root.folder / "var/lib/edgeslm/journal-board-1.sqlite").stat().st_ino
        was = root.call("systemctl", "show", "-P", "MainPID", "edgeslm")
        root.install(*(newer(deb, tmp_path) for deb in debs))
        assert "+later" in root.call("dpkg-query", "-W", "-f", "${Version}", "edgeslm")
        assert root.call("systemctl", "is-active", "edgeslm") == "active"
        assert root.call("systemctl", "show", "-P", "MainPID", "edgeslm") != was
        assert root.texts("etc/edgeslm", "var/lib/edgeslm/bundles") == kept
        assert (root.folder / "var/lib/edgeslm/journal-board-1.sqlite").stat().st_ino == journal
        assert not list((root.folder / "opt/edgeslm").rglob("demo/**/screen.*")), "of the older version"
        ask(app)

        check_removed(root, kept, before)
        app.take_state(BASE, "stopped")
        assert root.run("systemctl", "is-active", "edgeslm").stdout.strip() == "inactive"


def test_the_demo_runs_with_the_package_native(starter: Path, tmp_path: Path) -> None:
    debs = packages(NATIVE)
    with BootedRoot(unpack(NATIVE, tmp_path), NATIVE) as root:
        root.install(*debs)
        bring_bundles(root, starter)
        shutil.copytree(starter / "data", root.folder / "var/lib/edgeslm/bundles/data")
        said = root.call("edgeslm", "demo", "--bundle", "/var/lib/edgeslm/bundles/smollm2-135m-int4")
        assert "Counted in this run" in said and "spam, after 20 labels" in said


def test_the_demo_runs_with_the_package_emulated(starter: Path, tmp_path: Path) -> None:
    debs = packages(FOREIGN)
    root = Root(unpack(FOREIGN, tmp_path), FOREIGN)
    root.install(*debs)
    bring_bundles(root, starter)
    shutil.copytree(starter / "data", root.folder / "var/lib/edgeslm/bundles/data")
    bundle = "/var/lib/edgeslm/bundles/smollm2-135m-int4"
    said = root.call("edgeslm", "demo", "--short", "--bundle", bundle)
    assert "Counted in this run" in said and "spam, after 20 labels" in said


def test_a_life_of_the_package_emulated(
    starter: Path, tmp_path: Path, make_broker: Callable[..., Mosquitto]
) -> None:
    """Without a service manager: the program is started as the service would be."""
    debs = packages(FOREIGN)
    root = Root(unpack(FOREIGN, tmp_path), FOREIGN)
    before = root.state()
    root.install(*debs)
    check_installed(root)
    bring_bundles(root, starter)
    broker = make_broker()
    set_broker(root, broker)
    check_doctor(root)
    with App(broker.port, f"{BASE}/#") as app:
        as_service = ["setpriv", "--reuid=edgeslm", "--regid=edgeslm", "--clear-groups"]
        node = Program(root, [*as_service, "/opt/edgeslm/bin/edgeslm", "run", f"/{CONFIG}"])
        app.take_state(BASE, "online")
        ask(app)
        assert node.terminate() == 0, node.words
        app.take_state(BASE, "stopped")
    kept = root.texts("etc/edgeslm", "var/lib/edgeslm/bundles")
    root.install(*(newer(deb, tmp_path) for deb in debs))
    assert root.texts("etc/edgeslm", "var/lib/edgeslm/bundles") == kept
    assert root.call("edgeslm", "--version").startswith("edgeslm 0")
    check_removed(root, kept, before)

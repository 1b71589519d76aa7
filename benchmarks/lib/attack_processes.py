"""Attacks from the machine: a child that was taken over, a directory that root works in, open files."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import textwrap

from benchmarks.lib.attack_bus import Succeeded, Verdict
from benchmarks.lib.attack_site import SMALL, NodeProcess, Site
from benchmarks.lib.paths import ROOT

INSTALL = ROOT / "firmware-config/install.sh"

HOSTILE_CHILD = """
import os, pickle, socket, struct, sys, time

class Payload:
    def __reduce__(self):
        return os.system, ("touch '{marker}'",)

end = socket.socket(fileno=int(next(word for word in sys.argv[1:] if word.isdecimal())))
frame = pickle.dumps(Payload())
for header in (struct.pack("!i", len(frame)), struct.pack("!I", len(frame)), b""):
    try:
        end.sendall(header + frame)
    except OSError:
        break
time.sleep(2)
"""

PARENT = """
import asyncio, sys
from pathlib import Path
from edgeslm.engine.host.process import EngineProcess

async def main():
    engine = EngineProcess(Path(sys.argv[1]))
    engine.command = (sys.executable, sys.argv[2])
    try:
        await asyncio.wait_for(engine.start(), 30)
    except Exception as error:
        print(type(error).__name__, error)
    await engine.stop()

asyncio.run(main())
"""

FAULTY_NODE = """
import sys
from edgeslm.node import request_handler
parse = request_handler.parse_request
def faulty(delivery, *rest, **more):
    if b"boom" in delivery.payload:
        raise RuntimeError("a fault of the handler")
    return parse(delivery, *rest, **more)
request_handler.parse_request = faulty
from edgeslm.cli.main import main
sys.exit(main(["run", sys.argv[1]]))
"""


def pickles(site: Site) -> Verdict:
    """An engine that was taken over sends its parent an object that runs a command."""
    marker = site.folder / "pickle ran"
    child, parent = site.folder / "child.py", site.folder / "parent.py"
    child.write_text(HOSTILE_CHILD.format(marker=marker))
    parent.write_text(PARENT)
    command = [sys.executable, "-P", str(parent), str(site.starter / SMALL), str(child)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if marker.exists() or done.returncode:
        raise Succeeded(f"it ran in the parent; {done.stdout}{done.stderr[-300:]}")
    return done.stdout.split(maxsplit=1)[0] if done.stdout else "nothing ran"


def current_folder(site: Site) -> Verdict:
    """install.sh, as root, in a folder that has an ``edgeslm`` and a ``pip`` of its own."""
    folder, root = site.folder / "work", site.folder / "root"
    marker = site.folder / "the folder's code ran"
    for name in ("edgeslm", "pip", "venv", "encodings_of_nobody"):
        (folder / name).mkdir(parents=True)
        for file in ("__init__.py", "__main__.py"):
            (folder / name / file).write_text(f"open({str(marker)!r}, 'w').close()\n")
    for name in ("opt", "usr/local/bin", "usr/local/lib", "var/lib", "etc"):
        (root / name).mkdir(parents=True)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    command = ["sh", str(INSTALL), "--root", str(root)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, check=False, cwd=folder, env=clean()
    )
    if marker.exists():
        raise Succeeded("code of the current folder ran as root")
    last = (done.stdout + done.stderr).strip().rpartition("\n")[2]
    return f"not run (status {done.returncode}{': ' + last[:60] if done.returncode else ''})"


def clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def open_files(site: Site) -> Verdict:
    """Files of the node that other users of the machine can read."""
    wide = []
    for folder in (site.folder / "state", site.folder / "manuals.sqlite", site.folder / "log.sqlite"):
        for path in (
            (folder, *folder.rglob("*")) if folder.is_dir() else folder.parent.glob(f"{folder.name}*")
        ):
            status = path.lstat()
            if stat.S_ISSOCK(status.st_mode) or stat.S_ISLNK(status.st_mode):
                continue
            if status.st_mode & 0o077:
                wide.append(f"{path.relative_to(site.folder)} {stat.S_IMODE(status.st_mode):o}")
    if wide:
        raise Succeeded(f"others can read {len(wide)} files: {', '.join(wide[:3])}")
    return "none"


def faulty_handler(site: Site) -> Verdict:
    """An exception in the handler of requests: the request must not vanish."""
    folder = site.folder / "faulty"
    folder.mkdir()
    program = folder / "node.py"
    program.write_text(textwrap.dedent(FAULTY_NODE))
    settings = site.smaller("faulty", folder)
    dead = "edgeslm/v1/faulty/dead"
    with NodeProcess(site.app, settings, folder, (sys.executable, "-P", str(program))):
        seen = site.app.count(dead)
        reply = "edgeslm/v1/faulty/res/triage/a"
        site.app.publish("edgeslm/v1/faulty/req/triage", '{"id": "7", "input": "boom"}', ResponseTopic=reply)
        entry = site.app.wait_for(dead, seen, 20)
        site.app.publish("edgeslm/v1/faulty/req/triage", "all quiet", ResponseTopic=f"{reply}b")
        later = site.app.wait_for(f"{reply}b", 0, 60)
    if entry is None or later is None:
        raise Succeeded(f"dead: {entry}, the next request: {later is not None}")
    return f"dead: {json.dumps(entry)[:80]}"

"""Attacks by files: bundles, archives, documents, and the node's own files."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import sqlite3
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks.lib.attack_bus import Succeeded, Verdict, ask
from benchmarks.lib.attack_site import COMMAND, SMALL, NodeProcess, Site

MOST_FOLDERS = 2_100
"""Those of bundles, and what one archive may have."""

NATIVE = """
#include <stdio.h>
__attribute__((constructor)) static void run(void) { fclose(fopen("%s", "w")); }
"""


def digest(file: Path) -> dict[str, Any]:
    content = file.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def copy_bundle(site: Site, folder: Path, **changes: Any) -> Path:
    """The small model's bundle with another manifest; unsigned, as most are."""
    shutil.copytree(site.starter / SMALL, folder)
    (folder / "model.sig").unlink(missing_ok=True)
    rewrite_manifest(folder, **changes)
    return folder


def rewrite_manifest(folder: Path, **changes: Any) -> None:
    """With the files as they are now."""
    manifest = json.loads((folder / "manifest.json").read_text())
    listed = {entry["path"]: entry for entry in manifest["files"]}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.is_file() and name not in ("manifest.json", "model.sig"):
            listed[name] = {**listed.get(name, {}), "path": name, **digest(file)}
    manifest |= {"files": list(listed.values()), **changes}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def pack(folder: Path, archive: Path) -> None:
    with tarfile.open(archive, "w") as tar:
        tar.add(folder, folder.name)


def stage(site: Site, source: Path) -> str:
    """What ``edgeslm models stage`` says; the node carries it out."""
    command = [*COMMAND, "models", "stage", str(site.node.file), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    return f"{done.returncode} {(done.stdout + done.stderr).strip()}"


def offer(site: Site, archive: Path) -> str:
    """Puts an archive into the watched folder; the node's sentence about it."""
    since = site.node.log.stat().st_size
    target = site.folder / "incoming" / f"small{''.join(archive.suffixes)}"
    shutil.copyfile(archive, target.with_name("part"))
    target.with_name("part").rename(target)
    try:
        line = site.node.wait_for_words(target.name, since, 90)
    finally:
        target.unlink()
    if not line:
        raise Succeeded("nothing was said of it in 90 s")
    return line


def native_code(site: Site) -> Verdict:
    """A bundle whose genai_config.json has the engine load a library of the bundle."""
    marker = site.folder / "native code ran"
    folder = copy_bundle(site, site.folder / "evil")
    source = site.folder / "ops.c"
    source.write_text(NATIVE % marker)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(folder / "ops.so"), str(source)], check=True)
    for file in folder.rglob("genai_config.json"):
        settings = json.loads(file.read_text())
        options = settings["model"]["decoder"].setdefault("session_options", {})
        options["custom_ops_library"] = "ops.so"
        file.write_text(json.dumps(settings))
    rewrite_manifest(folder)
    said = stage(site, folder)
    pack(folder, site.folder / "evil.tar")
    offered = offer(site, site.folder / "evil.tar")
    inspected = subprocess.run(
        [*COMMAND, "inspect", str(folder)], capture_output=True, text=True, timeout=300, check=False
    )
    if marker.exists() or said.startswith("0") or not inspected.returncode:
        raise Succeeded(f"native code ran: {marker.exists()}; staged: {said[:200]}")
    if any("ops" not in sentence for sentence in (said, offered, inspected.stderr)):
        raise Succeeded(f"refused for something else: {said[:200]}; {offered[:200]}")
    return "refused by stage, the watched folder and inspect"


def sparse_archive(site: Site) -> Verdict:
    """Old GNU sparse headers, which tarfile collects in memory without end."""
    header = tarfile.TarInfo("sparse")
    header.type = tarfile.GNUTYPE_SPARSE
    block = bytearray(header.tobuf(tarfile.GNU_FORMAT))
    block[482] = 1  # extended headers follow
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    entry = b"00000000001\0" * 2
    extended = bytearray((entry * 21).ljust(504, b"\0") + b"\1" + bytes(7))
    target = site.folder / "sparse.tar.gz"
    with gzip.open(target, "wb", compresslevel=1) as packed:
        packed.write(bytes(block))
        for _ in range(400):
            packed.write(bytes(extended) * 2048)
    offer(site, target)
    return f"refused, {target.stat().st_size / 1000:.0f} kB"


def nested_manifest(site: Site) -> Verdict:
    """A manifest of millions of empty lists, packed to some kilobytes."""
    content = b'{"files":[' + b"[]," * 10_000_000 + b"[]]}"
    target = site.folder / "nested.tar.xz"
    with tarfile.open(target, "w:xz") as tar:
        info = tarfile.TarInfo("bundle/manifest.json")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    offer(site, target)
    return f"refused, {target.stat().st_size / 1000:.0f} kB"


def folders(site: Site) -> Verdict:
    """An archive of folders within folders, which have no size."""
    target = site.folder / "folders.tar.gz"
    with tarfile.open(target, "w:gz") as tar:
        for number in range(300):
            info = tarfile.TarInfo("/".join([f"d{number}", *(["d"] * 450)]))
            info.type = tarfile.DIRTYPE
            tar.addfile(info)
    most = 0
    since = site.node.log.stat().st_size
    incoming = site.folder / "incoming" / "small.tar.gz"
    shutil.copyfile(target, incoming)
    give_up_at = time.monotonic() + 90
    while time.monotonic() < give_up_at and incoming.name not in site.node.words(since):
        made = sum(len(folders) for _, folders, _ in os.walk(site.folder / "state/updates"))
        most = max(most, made)
    incoming.unlink()
    if most > MOST_FOLDERS:
        raise Succeeded(f"{most} folders were made")
    return f"refused, {most} folders seen meanwhile"


def documents(site: Site) -> Verdict:
    """Documents that took minutes to read: blanks in a title, backticks, a word of 40 kB in a PDF."""
    folder = site.folder / "documents"
    (folder / "good.md").write_text("# Press 4\n\nThe bearings are greased every 400 hours.\n")
    (folder / "title.md").write_text("---\ntitle: a" + " " * 200_000 + "b\n---\ntext\n")
    (folder / "fence.md").write_text("`" * 200_000 + "a`\n")
    give_up_at = time.monotonic() + 120
    slowest = 0.0
    found = False
    while time.monotonic() < give_up_at and not found:
        began = time.monotonic()
        result = ask(site, "find", "How often are the bearings greased?", timeout_s=30)
        slowest = max(slowest, time.monotonic() - began)
        passages = result.get("result", {}).get("passages", [])
        found = any("400 hours" in passage["text"] for passage in passages)
        site.app.publish("shop/log", f"press 4: note {time.time()}")
        time.sleep(0.2)
    if not found or slowest > 5.0:
        raise Succeeded(f"found {found}, a search took {slowest:.1f} s")
    return f"read; slowest search {slowest * 1000:.0f} ms"


def damaged_journal(site: Site) -> Verdict:
    """A bad page in the table of stored results, while acknowledged messages lie in the spool."""
    folder = site.folder / "durable"
    folder.mkdir()
    node = NodeProcess(site.app, site.smaller("durable", folder, durability="spool"), folder)
    with node:
        for number in range(300):
            ask_second(site, number, "done")
        wait_for_answers(site, "done", 300)
        node.freeze_children()
        for number in range(100):
            ask_second(site, number, "held")
        time.sleep(2.0)  # the spool is written and synced, the broker has its acknowledgements
        node.kill()
    damage_table(next((folder / "state").rglob("journal*.sqlite")), "requests")
    with node:
        answered = wait_for_answers(site, "held", 100)
    if answered < 100:
        raise Succeeded(f"{100 - answered} of 100 acknowledged requests are lost")
    return "100 of 100 acknowledged requests answered"


def ask_second(site: Site, number: int, name: str) -> None:
    reply = f"edgeslm/v1/durable/res/triage/{name}-{number}"
    site.app.publish(
        "edgeslm/v1/durable/req/triage",
        f"note {number}",
        ResponseTopic=reply,
        CorrelationData=f"{name}-{number}".encode(),
    )


def wait_for_answers(site: Site, name: str, count: int) -> int:
    topics = [f"edgeslm/v1/durable/res/triage/{name}-{number}" for number in range(count)]
    give_up_at = time.monotonic() + 120
    while (answered := sum(site.app.count(topic) > 0 for topic in topics)) < count:
        if time.monotonic() > give_up_at:
            break
        time.sleep(0.1)
    return answered


def damage_table(database: Path, table: str) -> None:
    """Overwrites the last leaf page of a table, as a card does that loses a block."""
    with sqlite3.connect(database) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    content = bytearray(database.read_bytes())
    page = root
    while content[header := (page - 1) * size + (100 if page == 1 else 0)] == 5:  # an inner page of a table
        page = int.from_bytes(content[header + 8 : header + 12], "big")
    content[(page - 1) * size : page * size] = b"\xde\xad" * (size // 2)
    database.write_bytes(content)


def older_release(site: Site) -> Verdict:
    """An unsigned bundle where a rollout is configured, and an old release after a newer one."""
    settings = site.settings
    folder = site.folder / "rollouts"
    folder.mkdir()
    (folder / "config.yaml").write_text(
        yaml.safe_dump(
            {**settings, "rollouts": {"url": "https://rollouts.invalid", "token_file": "/dev/null"}}
        )
    )
    command = [*COMMAND, "check", str(folder / "config.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode == 0 or "sign" not in done.stdout + done.stderr:
        raise Succeeded(f"check accepts rollouts without signatures: {done.stdout[-200:]}")
    told, said, since = [], "", site.node.log.stat().st_size
    for release in (2, 1):
        bundle = copy_bundle(site, folder / f"release-{release}", release=release)
        said += stage(site, bundle) + "; "
        name = hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()[:12]
        command = [*COMMAND, "models", "activate", str(site.node.file), "small", name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        told.append(done.returncode)
        site.node.wait_for_words("SUCCEEDED", since, 30)
    if told[1] == 0:
        raise Succeeded(f"release 1 after release 2 was taken: {told}")
    if told[0] != 0:
        raise Succeeded(f"release 2 was refused: {said}{(done.stdout + done.stderr)[-300:]}")
    return "check refuses unsigned rollouts, release 1 refused after 2"

"""Bundles are brought onto a device: folders, archives, downloads that break off; what is refused of them."""

from __future__ import annotations

import contextlib
import datetime
import gzip
import hashlib
import io
import lzma
import os
import random
import ssl
import tarfile
import threading
import time
import tracemalloc
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme

from edgeslm.bundle.manifest import load_bundle
from edgeslm.errors import BundleError
from edgeslm.update import staging, unpacking
from edgeslm.update.allowance import Allowance, Stopped
from edgeslm.update.downloads import Promise, ServerLogin, Unreachable
from edgeslm.update.staging import ChildLimits, Staging
from edgeslm.update.store import Store
from tests.support.apps import WAIT_S
from tests.support.nodes import dug, write_bundle

WEIGHTS = b"weights " * 400_000


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "state", "hall")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "v2", weights=WEIGHTS)


def pack(bundle: Path, file: Path, mode: str = "w:gz", inside: str = "v2") -> Path:
    with tarfile.open(file, mode) as tar:  # type: ignore[call-overload]
        tar.add(bundle, arcname=inside)
    return file


def bring(store: Store, source: object, *, budget_bytes: int = 1 << 30, **how: Any) -> Path:
    return Staging(store, budget_bytes=budget_bytes, **how).bring(str(source)).path


def left_over(store: Store) -> list[str]:
    """What stands in the store beside bundles."""
    return sorted(path.name for path in store.folder.glob(".*"))


def test_a_folder_and_its_archives_come_to_the_same(store: Store, bundle: Path, tmp_path: Path) -> None:
    path = bring(store, bundle)
    assert load_bundle(path).digest == load_bundle(bundle).digest
    for name, mode, inside in (("a.tar", "w", "v2"), ("b.tar.gz", "w:gz", ""), ("c.tar.xz", "w:xz", "x")):
        assert bring(store, pack(bundle, tmp_path / name, mode, inside)) == path
    assert left_over(store) == []
    assert [one.bundle.path for one in store.bundles()] == [path]


def test_progress_is_shown(store: Store, bundle: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    bring(store, bundle, show=lambda done, of: seen.append((done, of)))
    total = sum(entry.bytes for entry in load_bundle(bundle).manifest.files)
    assert seen[-1][0] >= total


@pytest.mark.parametrize("make", ["missing", "text", "cut", "empty", "link", "device", "up", "absolute"])
def test_what_is_no_bundle_is_refused_with_a_sentence(
    store: Store, bundle: Path, tmp_path: Path, make: str
) -> None:
    file = tmp_path / "given.tar.gz"
    if make == "text":
        file.write_text("no archive")
    elif make == "cut":
        whole = pack(bundle, tmp_path / "whole.tar.gz").read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
    elif make != "missing":
        with tarfile.open(file, "w:gz") as tar:
            if make != "empty":
                member = tarfile.TarInfo({"up": "../../out", "absolute": "/out"}.get(make, "v2/model.onnx"))
                if make == "link":
                    member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
                elif make == "device":
                    member.type = tarfile.CHRTYPE
                tar.addfile(member, io.BytesIO())
    with pytest.raises(BundleError) as error:
        bring(store, file)
    assert "\n" not in str(error.value)
    assert store.bundles() == []
    assert left_over(store) == []
    assert not (tmp_path / "out").exists()


def test_a_damaged_file_is_found(store: Store, bundle: Path) -> None:
    weights = bundle / "model.onnx"
    weights.write_bytes(b"W" + weights.read_bytes()[1:])
    with pytest.raises(BundleError, match="SHA-256"):
        bring(store, bundle)
    assert left_over(store) == []


def test_the_budget_bounds_what_is_unpacked(store: Store, bundle: Path, tmp_path: Path) -> None:
    archive = pack(bundle, tmp_path / "a.tar.xz", "w:xz")
    assert archive.stat().st_size < 100_000 < len(WEIGHTS)
    for source in (archive, bundle):
        with pytest.raises(BundleError, match=r"updates\.budget_bytes"):
            bring(store, source, budget_bytes=100_000)
    assert left_over(store) == []


def unpacked(store: Store, archive: Path, *, budget_bytes: int = 1 << 30) -> None:
    """As the child does it, in this process."""
    allowance = Allowance(store.folder, budget_bytes, threading.Event(), lambda done, of: None)
    with archive.open("rb") as stream:
        unpacking.unpack(stream, archive.name, store, allowance)


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_name_that_would_fill_the_memory_is_refused(store: Store, tmp_path: Path, kind: bytes) -> None:
    archive = tmp_path / "x.tar.gz"
    with gzip.open(archive, "wb", 1) as stream:
        header = tarfile.TarInfo("long")
        header.type, header.size = kind, 300_000_000
        stream.write(header.tobuf())
        for _ in range(300):
            stream.write(bytes(1_000_000))
    with pytest.raises(BundleError, match="a name of 300000000 bytes"):
        bring(store, archive, budget_bytes=1_000_000)
    with little_memory(), pytest.raises(BundleError, match="a name of 300000000 bytes"):
        unpacked(store, archive, budget_bytes=1_000_000)
    assert left_over(store) == []


def test_a_name_that_would_take_minutes_is_refused(store: Store, tmp_path: Path) -> None:
    """``tarfile`` looks for a word behind digits, from each digit on: 6 s for 64 kB."""
    header = tarfile.TarInfo("long")
    header.type, header.size = tarfile.XHDTYPE, 65_536
    (tmp_path / "x.tar").write_bytes(header.tobuf() + b"1" * 65_536)
    with pytest.raises(BundleError, match="a name of 65536 bytes"):
        bring(store, tmp_path / "x.tar")


def test_a_folder_that_is_too_deep_is_a_sentence(store: Store, bundle: Path) -> None:
    with dug(bundle), pytest.raises(BundleError, match="deeper than the 16 levels"):
        bring(store, bundle)
    assert left_over(store) == []


def sparse_headers(archive: Path, blocks: int) -> Path:
    """One old GNU header whose map of holes goes on for so many blocks."""
    header = bytearray(tarfile.TarInfo("v2/model.onnx").tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[482] = 1  # another block follows
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    block = bytearray(b"%011o\0" % 1 * 42 + bytes(8))
    block[504] = 1
    with gzip.open(archive, "wb", 1) as stream:
        stream.write(header)
        for _ in range(blocks // 1000):
            stream.write(block * 1000)
    return archive


def test_old_sparse_headers_without_end_are_refused_at_the_first(store: Store, tmp_path: Path) -> None:
    archive = sparse_headers(tmp_path / "x.tar.gz", 100_000)
    with pytest.raises(BundleError, match="there is a sparse file in the archive"):
        bring(store, archive, budget_bytes=1_000_000)
    with little_memory(), pytest.raises(BundleError, match="there is a sparse file"):
        unpacked(store, archive, budget_bytes=1_000_000)
    assert left_over(store) == []


@pytest.mark.parametrize(
    "headers",
    [
        {"GNU.sparse.map": "0,1", "GNU.sparse.size": "9"},
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"},
        {"GNU.sparse.size": "9", "GNU.sparse.offset": "1", "GNU.sparse.numbytes": "1"},
    ],
)
def test_sparse_files_of_pax_headers_are_refused(
    store: Store, tmp_path: Path, headers: dict[str, str]
) -> None:
    member = tarfile.TarInfo("v2/model.onnx")
    member.size, member.pax_headers = 512, headers
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(member, io.BytesIO(b"1\n0\n1\n" + bytes(506)))
    with pytest.raises(BundleError, match="there is a sparse file in the archive"):
        bring(store, tmp_path / "x.tar")
    assert left_over(store) == []


def test_a_manifest_of_nothing_but_lists_ends_neither_process(store: Store, tmp_path: Path) -> None:
    """pydantic would take 2 GB for the errors of these, and abort where it can't have them."""
    text = b'{"format": 1, "files": [' + b"[]," * 3_000_000 + b"[]]}"
    member = tarfile.TarInfo("v2/manifest.json")
    member.size = len(text)
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as tar:
        tar.addfile(member, io.BytesIO(text))
    assert (tmp_path / "x.tar.gz").stat().st_size < 30_000
    with pytest.raises(BundleError, match=r"manifest\.json: larger than"):
        bring(store, tmp_path / "x.tar.gz")
    assert left_over(store) == []


def test_folders_count_like_files(store: Store, tmp_path: Path) -> None:
    """300 names of 450 folders each were 135,300 inodes and half a gigabyte of disk from 5 kB."""
    with tarfile.open(tmp_path / "deep.tar.gz", "w:gz") as tar:
        for number in range(300):
            tar.addfile(tarfile.TarInfo("/".join([f"{number}", *["d"] * 449, "x"])))
    with pytest.raises(BundleError, match="lies more than 16 folders deep"):
        bring(store, tmp_path / "deep.tar.gz", budget_bytes=1_000_000)
    for kind in (tarfile.DIRTYPE, tarfile.REGTYPE):
        with tarfile.open(tmp_path / "wide.tar.gz", "w:gz") as tar:
            for number in range(300):
                member = tarfile.TarInfo("/".join([f"{number}", *"abcdefghijk", "x"]))
                member.type = kind
                tar.addfile(member)
        with pytest.raises(BundleError, match="it has more than 2000 files and folders"):
            bring(store, tmp_path / "wide.tar.gz", budget_bytes=1_000_000)
    assert left_over(store) == []


def test_whatever_ends_unpacking_is_a_sentence(store: Store, bundle: Path, tmp_path: Path) -> None:
    """Libraries raise anything: an EOFError is neither an OSError nor one of tarfile's."""
    archive = pack(bundle, tmp_path / "a.tar.xz", "w:xz")
    os.truncate(archive, archive.stat().st_size // 2)
    with pytest.raises(BundleError, match=r"a\.tar\.xz: no archive that can be unpacked \(it ends too early"):
        unpacked(store, archive)


def test_a_child_that_takes_too_much_is_a_sentence_and_leaves_nothing(
    store: Store, bundle: Path, tmp_path: Path
) -> None:
    archive = pack(bundle, tmp_path / "a.tar.xz", "w:xz")
    with pytest.raises(BundleError, match=r"a\.tar\.xz: "):
        bring(store, archive, limits=ChildLimits(memory_bytes=1_000_000))
    with pytest.raises(BundleError, match=r"a\.tar\.xz: it can't be taken in: it takes longer than it may"):
        bring(store, archive, limits=ChildLimits(least_s=-1e9))
    assert left_over(store) == []


def test_it_is_told_to_end_while_the_child_works(store: Store, tmp_path: Path) -> None:
    """An archive of zeros that takes longer to unpack than to say so."""
    stop = threading.Event()
    with gzip.open(tmp_path / "x.tar.gz", "wb", 1) as stream:
        for number in range(200):
            small = tarfile.TarInfo(f"v2/{number}.npz")
            small.size = 4_000_000
            stream.write(small.tobuf() + bytes(4_000_256))
    began = threading.Event()
    failed: list[BaseException] = []

    def work() -> None:
        try:
            bring(store, tmp_path / "x.tar.gz", stop=stop, show=lambda done, of: began.set())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert began.wait(WAIT_S)
    stop.set()
    thread.join(WAIT_S)
    assert isinstance(failed[0], Stopped)
    assert left_over(store) == []


@pytest.mark.parametrize("form", [lzma.FORMAT_XZ, lzma.FORMAT_ALONE])
def test_an_archive_does_not_say_how_much_memory_it_takes(store: Store, tmp_path: Path, form: int) -> None:
    kind = lzma.FILTER_LZMA2 if form == lzma.FORMAT_XZ else lzma.FILTER_LZMA1
    filters = [{"id": kind, "preset": 0, "dict_size": 200 << 20}]
    header = tarfile.TarInfo("manifest.json")
    with lzma.open(tmp_path / "x.tar.xz", "wb", format=form, filters=filters) as stream:
        stream.write(header.tobuf() + bytes(1024))
    with pytest.raises(BundleError, match=r"no archive that can be unpacked"):
        bring(store, tmp_path / "x.tar.xz")
    with lzma.open(tmp_path / "x.tar.xz", "wb", preset=9) as stream:
        stream.write(header.tobuf() + bytes(1024))
    with pytest.raises(BundleError, match=r"manifest\.json"):  # it is empty, and was read
        bring(store, tmp_path / "x.tar.xz")


def test_an_xz_may_have_several_streams_and_end_in_zeros(store: Store, bundle: Path, tmp_path: Path) -> None:
    content = pack(bundle, tmp_path / "v2.tar", "w").read_bytes()
    parts = lzma.compress(content[:1000]), bytes(8), lzma.compress(content[1000:]), bytes(100_000)
    (tmp_path / "v2.tar.xz").write_bytes(b"".join(parts))
    assert load_bundle(bring(store, tmp_path / "v2.tar.xz")).digest == load_bundle(bundle).digest


def test_headers_that_name_one_another_are_no_archive(store: Store, tmp_path: Path) -> None:
    header = tarfile.TarInfo("long")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 512
    (tmp_path / "x.tar").write_bytes((header.tobuf() + bytes(512)) * 5000)
    with pytest.raises(BundleError, match="no archive"):
        bring(store, tmp_path / "x.tar")
    assert left_over(store) == []


@pytest.mark.parametrize("mode", ["w:gz", "w:xz", "w:bz2"])
def test_an_archive_that_is_damaged_inside_is_no_archive(store: Store, tmp_path: Path, mode: str) -> None:
    bundle = write_bundle(tmp_path / "noise", weights=random.Random(1).randbytes(300_000))
    archive = pack(bundle, tmp_path / "x.tar", mode)
    content = bytearray(archive.read_bytes())
    for place in range(100_000, 200_000):
        content[place] ^= 0xA5
    archive.write_bytes(content)
    with pytest.raises(BundleError):
        bring(store, archive)
    assert left_over(store) == []


def test_it_ends_when_it_is_told_to(store: Store, bundle: Path, tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    for source in (bundle, pack(bundle, tmp_path / "a.tar")):
        with pytest.raises(BundleError, match="cancelled"):
            bring(store, source, stop=stop)
    assert left_over(store) == []


class Server:
    """``https://localhost:PORT/v2.tar``: hangs up after ``cuts`` bytes, one each time; knows ranges."""

    def __init__(self, folder: Path, payload: bytes) -> None:
        self.authority = authority = trustme.CA()
        self.ca_file = folder / "ca.pem"
        authority.cert_pem.write_to_path(self.ca_file)
        self.login = ServerLogin(ca_file=self.ca_file)
        self.payload = payload
        self.tag = '"one"'
        self.cuts: list[int] = []
        self.ranges: list[str | None] = []
        self.status: int | None = None
        self.leads_to: str | None = None
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, *words: object) -> None:
                """Nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.context = context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(context)
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"https://localhost:{self._http.server_address[1]}/v2.tar"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range")
        self.ranges.append(wanted)
        if self.leads_to or self.status:
            request.send_response(self.status or 302)
            request.send_header("Location", self.leads_to or "")
            request.end_headers()
            return
        start = 0
        if wanted and request.headers.get("If-Range") == self.tag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{len(self.payload) - 1}/{len(self.payload)}")
        else:
            request.send_response(200)
        request.send_header("ETag", self.tag)
        request.send_header("Content-Length", str(len(self.payload) - start))
        request.end_headers()
        end = self.cuts.pop(0) if self.cuts else len(self.payload)
        request.wfile.write(self.payload[start:end])
        request.wfile.flush()
        request.close_connection = True

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server(bundle: Path, tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path, pack(bundle, tmp_path / "v2.tar", "w").read_bytes())
    yield server
    server.close()


def test_a_download_goes_on_where_it_broke_off(store: Store, server: Server, bundle: Path) -> None:
    server.cuts = [1_000_000, 2_000_000]
    path = bring(store, server.url, login=server.login)
    assert load_bundle(path).digest == load_bundle(bundle).digest
    assert server.ranges == [None, "bytes=1000000-", "bytes=2000000-"]
    assert left_over(store) == []


def test_it_goes_on_after_a_restart_too(store: Store, server: Server, bundle: Path) -> None:
    server.cuts = [1_000_000, 1_000_000, 1_000_000]
    with pytest.raises(BundleError, match="what came is kept"):
        bring(store, server.url, login=server.login)
    server.cuts, server.ranges = [], []
    assert load_bundle(bring(store, server.url, login=server.login)).digest == load_bundle(bundle).digest
    assert server.ranges == ["bytes=1000000-"]


def test_what_has_changed_meanwhile_is_fetched_anew(store: Store, server: Server, bundle: Path) -> None:
    server.cuts = [1_000_000, 1_000_000, 1_000_000]
    with pytest.raises(BundleError):
        bring(store, server.url, login=server.login)
    server.tag, server.ranges, server.cuts = '"two"', [], []
    assert load_bundle(bring(store, server.url, login=server.login)).digest == load_bundle(bundle).digest
    assert server.ranges == ["bytes=1000000-"], "and the server sent all of it"


def test_a_server_that_is_not_trusted_is_refused(store: Store, server: Server) -> None:
    with pytest.raises(BundleError, match="isn't trusted"):
        bring(store, server.url)


def test_a_download_is_held_to_the_budget(store: Store, server: Server) -> None:
    with pytest.raises(BundleError, match=r"updates\.budget_bytes"):
        bring(store, server.url, login=server.login, budget_bytes=100_000)
    assert server.ranges == [None]


def test_a_server_that_sends_a_byte_now_and_then_does_not_hold_up_the_end(
    store: Store, server: Server
) -> None:
    stop, over = threading.Event(), threading.Event()

    def trickle(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "1000000")
        request.end_headers()
        while not over.wait(0.05):
            with contextlib.suppress(OSError):
                request.wfile.write(b"x")
                request.wfile.flush()

    server.answer = trickle  # type: ignore[method-assign]
    failed: list[BundleError] = []

    def download() -> None:
        try:
            bring(store, server.url, login=server.login, stop=stop, show=lambda done, of: began.set())
        except BundleError as error:
            failed.append(error)

    began = threading.Event()
    thread = threading.Thread(target=download, daemon=True)
    thread.start()
    assert began.wait(WAIT_S)
    stop.set()
    thread.join(WAIT_S)
    over.set()
    assert "cancelled" in str(failed[0])


@pytest.mark.parametrize("address", ["https://[", "https://localhost:x/", "https://h/\xfc"])
def test_a_redirection_to_no_address_is_refused(store: Store, server: Server, address: str) -> None:
    server.leads_to = address
    with pytest.raises(BundleError):
        bring(store, server.url, login=server.login)


def test_a_redirection_does_not_climb_out_of_what_is_allowed(store: Store, server: Server) -> None:
    server.leads_to = f"{server.url.removesuffix('v2.tar')}bundles/%2e%2e/v2.tar"
    with pytest.raises(BundleError, match="outside"):
        bring(store, server.url, login=server.login, within=[f"{server.url.removesuffix('v2.tar')}bundles"])


def test_a_certificate_of_the_future_is_one_of_a_clock_that_was_not_set(store: Store, server: Server) -> None:
    later = datetime.datetime.now() + datetime.timedelta(days=1)
    server.authority.issue_cert("localhost", not_before=later).configure_cert(server.context)
    with pytest.raises(Unreachable, match="not yet valid"):
        bring(store, server.url, login=server.login)


def test_what_the_server_says_is_passed_on(store: Store, server: Server) -> None:
    server.status = 404
    with pytest.raises(BundleError, match="404"):
        bring(store, server.url, login=server.login)
    assert len(server.ranges) == 1, "it is not asked again"


@pytest.mark.parametrize("address", ["http://localhost/v2.tar", "file:///etc/passwd"])
def test_a_redirection_to_elsewhere_is_refused(store: Store, server: Server, address: str) -> None:
    server.leads_to = address
    with pytest.raises(BundleError, match="https://"):
        bring(store, server.url, login=server.login)


@pytest.mark.parametrize("source", ["http://localhost/v2.tar", "ftp://localhost/v2.tar", "file:///v2.tar"])
def test_other_addresses_are_refused(store: Store, source: str) -> None:
    with pytest.raises(BundleError, match="only https://"):
        bring(store, source)


def test_a_download_that_nobody_goes_on_with_is_removed(store: Store, server: Server) -> None:
    server.cuts = [1_000_000, 1_000_000, 1_000_000]
    with pytest.raises(BundleError):
        bring(store, server.url, login=server.login)
    assert left_over(store) != []
    long_ago = time.time() - staging.KEPT_S - 60
    for name in left_over(store):
        os.utime(store.folder / name, (long_ago, long_ago))
    with pytest.raises(BundleError):
        bring(store, server.url.replace("v2", "v3"))
    assert left_over(store) == []


def test_downloads_that_break_off_one_after_the_other_do_not_fill_the_disk(
    store: Store, server: Server
) -> None:
    for number in range(6):
        server.cuts = [1_000_000] * 3
        with pytest.raises(BundleError, match="what came is kept"):
            bring(store, f"{server.url}?{number}", login=server.login)
    kept = [name for name in left_over(store) if name.startswith(".part-") and not name.endswith(".json")]
    assert len(kept) == 1 + staging.MOST_KEPT
    assert len(left_over(store)) == 2 * len(kept), "and what is noted of each"
    server.ranges = []
    bring(store, f"{server.url}?5", login=server.login)
    assert server.ranges == ["bytes=1000000-"], "the newest is gone on with"


def test_a_download_is_held_to_what_was_promised(store: Store, server: Server, bundle: Path) -> None:
    size, right = len(server.payload), hashlib.sha256(server.payload).hexdigest()

    def brought(promise: Promise) -> Path:
        return Staging(store, budget_bytes=1 << 30, login=server.login).bring(server.url, promise).path

    with pytest.raises(BundleError, match="sha256 is not the one"):
        brought(Promise(size, {"sha256": "0" * 64, "md5": hashlib.md5(server.payload).hexdigest()}))
    with pytest.raises(BundleError, match=f"has {size} bytes and should have {size + 1}"):
        brought(Promise(size + 1, {"sha256": right}))
    with pytest.raises(BundleError, match=r"updates\.budget_bytes"):
        brought(Promise(1 << 40, {"sha256": right}))
    assert left_over(store) == []
    path = brought(Promise(size, {"sha256": right.upper()}))
    assert load_bundle(path).digest == load_bundle(bundle).digest


def test_a_login_isnt_taken_to_where_a_download_is_led(
    store: Store, server: Server, bundle: Path, tmp_path: Path
) -> None:
    seen: list[tuple[str, str | None]] = []
    answer = server.answer

    def look(request: BaseHTTPRequestHandler) -> None:
        seen.append((request.path, request.headers.get("Authorization")))
        server.leads_to = f"{server.url}?again" if request.path == "/v2.tar" else None
        answer(request)

    server.answer = look  # type: ignore[method-assign]
    login = ServerLogin(headers={"Authorization": "TargetToken secret"}, ca_file=server.ca_file)
    bring(store, server.url, login=login)
    assert seen == [("/v2.tar", "TargetToken secret"), ("/v2.tar?again", None)]
    server.answer = answer  # type: ignore[method-assign]


def test_an_archive_may_be_open_already(store: Store, bundle: Path, tmp_path: Path) -> None:
    staging = Staging(store, budget_bytes=1 << 30)
    with pack(bundle, tmp_path / "v2.tar.gz").open("rb") as archive:
        (tmp_path / "v2.tar.gz").unlink()  # as one that this user may not open
        assert staging.take(archive, "v2.tar.gz").digest == load_bundle(bundle).digest
    (tmp_path / "x.tar").write_bytes(b"nothing")
    with (tmp_path / "x.tar").open("rb") as archive, pytest.raises(BundleError, match=r"x\.tar: no archive"):
        staging.take(archive, "x.tar")


def test_a_download_that_is_whole_and_wrong_is_fetched_anew(
    store: Store, server: Server, bundle: Path
) -> None:
    good, server.payload = server.payload, b"x" * len(server.payload)
    with pytest.raises(BundleError, match="no archive"):
        bring(store, server.url, login=server.login)
    server.payload = good
    assert load_bundle(bring(store, server.url, login=server.login)).digest == load_bundle(bundle).digest

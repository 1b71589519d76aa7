"""Simulated disk: a VFS for the SQLite that Python's ``sqlite3`` uses, which knows what was synced.

The files are real files of a folder in memory, so that the product can also read them by their paths. A
killed process leaves all it wrote. A power cut also takes a random part of the sectors that weren't synced;
a sector is written as a whole or not at all (sqlite.org/atomiccommit.html).

The VFS is made with ctypes of SQLite's own interface (sqlite.org/vfs.html), since ``sqlite3`` has none.
"""

from __future__ import annotations

import ctypes
import os
import random
import re
import shutil
import sqlite3
from collections.abc import Callable
from ctypes import CFUNCTYPE, POINTER, Structure, byref, c_char_p, c_int, c_int64, c_void_p, cast
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeslm.storage.schema import PAGE_BYTES
from tests.simulation.synced_file import SECTOR, SyncedFile

_LEAF, _OVERFLOW = 13, 0
"""First byte of a page with rows, and of a page that continues a row (sqlite.org/fileformat2.html)."""
_OK, _IOERR, _FULL, _CANTOPEN, _NOTFOUND = 0, 10, 13, 14, 12
_IOERR_READ, _IOERR_SHORT_READ, _IOERR_WRITE, _IOERR_FSYNC = 266, 522, 778, 1034


class Disk:
    """The disk of one machine, in ``folder``. ``is_off`` is true while its process is dead: nothing reaches
    the disk then.

    ``fault`` is called with ``read``, ``write`` or ``sync`` before each operation of SQLite, and returns an
    error number of SQLite or 0. ``operations`` counts writes and syncs. ``spoil`` is called with each page
    that SQLite reads, and returns the number of the bit that the disk has flipped in it, or None.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.is_off = False
        self.generation = 0
        self.fault: Callable[[str], int] = lambda operation: 0
        self.spoil: Callable[[bytes], int | None] = lambda page: None
        self.operations = 0
        self.syncs = 0
        self._files: dict[str, SyncedFile] = {}
        self._elsewhere: list[SyncedFile] = []
        """Opened files that aren't at their path any more."""
        self._saved: dict[str, bytes] = {}
        DISKS[str(folder)] = self

    def opened(self, path: str) -> SyncedFile:
        known = self._files.get(path)
        if known is None or not _is_at(path, known.fd):
            if known is not None:  # the product renamed or removed it
                self._elsewhere.append(known)
            known = self._files[path] = SyncedFile(path, os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        return known

    def turn_off(self) -> None:
        """Nothing that the process does from now on reaches the disk."""
        if self.is_off:
            return
        self.is_off = True
        self._saved = {
            str(file): file.read_bytes()
            for file in self.folder.rglob("*")
            if file.is_file() and ".sqlite" not in file.name and file.suffix != ".salvaged"
        }

    def cut_power(self, chance: random.Random) -> None:
        """Takes a random part of what wasn't synced. Call it while the disk is off."""
        for file in (*self._files.values(), *self._elsewhere):
            file.lose(chance)
        for path in self._saved:
            if path.endswith(".running") and chance.random() < 0.5:
                self._saved[path] = bytes(len(self._saved[path]))

    def turn_on(self) -> None:
        """For the next process; the connections of the last one stay dead."""
        for path, content in self._saved.items():
            Path(path).write_bytes(content)
        for file in self.folder.rglob("*"):
            if file.is_file() and ".sqlite" not in file.name and str(file) not in self._saved:
                file.unlink()
        self._saved = {}
        self.close()
        self.generation += 1
        self.is_off = False

    def close(self) -> None:
        for file in (*self._files.values(), *self._elsewhere):
            os.close(file.fd)
        self._files.clear()
        self._elsewhere.clear()

    def remove(self) -> None:
        self.is_off = True
        self.close()
        DISKS.pop(str(self.folder), None)
        shutil.rmtree(self.folder, ignore_errors=True)

    def read(self, file: SyncedFile, size: int, offset: int) -> bytes:
        data = os.pread(file.fd, size, offset)
        if size != PAGE_BYTES or len(data) < size or (bit := self.spoil(data)) is None:
            return data
        byte, bit = divmod(bit, 8)
        data = data[:byte] + bytes([data[byte] ^ 1 << bit]) + data[byte + 1 :]
        # A page stays bad until it is written again. In a log, SQLite would drop all that follows it.
        if not file.path.endswith("-wal"):
            os.pwrite(file.fd, data, offset)
        return data

    def write(self, file: SyncedFile, data: bytes, offset: int) -> None:
        file.write(data, offset)

    def truncate(self, file: SyncedFile, size: int) -> None:
        file.truncate(size)

    def sync(self, file: SyncedFile) -> None:
        self.syncs += 1
        file.is_synced()

    def delete(self, path: str) -> None:
        if (known := self._files.pop(path, None)) is not None:
            self._elsewhere.append(known)
        Path(path).unlink(missing_ok=True)


def bit_of_a_row(page: bytes, chance: random.Random) -> int | None:
    """The number of a bit in the rows on a page; None if there are none."""
    if page[0] == _LEAF:
        start = int.from_bytes(page[5:7], "big")
    elif page[0] == _OVERFLOW and any(page):
        start = 4
    else:
        return None
    return chance.randrange(8 * start, 8 * len(page)) if 0 < start < len(page) else None


def _is_at(path: str, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))  # noqa: PTH116  called often
    except FileNotFoundError:
        return False


DISKS: dict[str, Disk] = {}
"""Folder -> disk."""


def sync_outside(path: Path) -> None:
    """The product syncs a file without SQLite."""
    disk = _disk_of(str(path))
    if disk is not None and (file := disk._files.get(str(path))) is not None:
        disk.sync(file)


def _disk_of(path: str) -> Disk | None:
    folder, _, _ = path.rpartition("/")
    while folder:
        if (disk := DISKS.get(folder)) is not None:
            return disk
        folder, _, _ = folder.rpartition("/")
    return None


# SQLite's C interface, https://sqlite.org/c3ref/vfs.html and https://sqlite.org/c3ref/io_methods.html


class _SqliteFile(Structure):
    _fields_ = (("methods", c_void_p), ("number", c_int64))


_F = POINTER(_SqliteFile)
_METHODS = (
    ("xClose", CFUNCTYPE(c_int, _F)),
    ("xRead", CFUNCTYPE(c_int, _F, c_void_p, c_int, c_int64)),
    ("xWrite", CFUNCTYPE(c_int, _F, c_void_p, c_int, c_int64)),
    ("xTruncate", CFUNCTYPE(c_int, _F, c_int64)),
    ("xSync", CFUNCTYPE(c_int, _F, c_int)),
    ("xFileSize", CFUNCTYPE(c_int, _F, POINTER(c_int64))),
    ("xLock", CFUNCTYPE(c_int, _F, c_int)),
    ("xUnlock", CFUNCTYPE(c_int, _F, c_int)),
    ("xCheckReservedLock", CFUNCTYPE(c_int, _F, POINTER(c_int))),
    ("xFileControl", CFUNCTYPE(c_int, _F, c_int, c_void_p)),
    ("xSectorSize", CFUNCTYPE(c_int, _F)),
    ("xDeviceCharacteristics", CFUNCTYPE(c_int, _F)),
)


class _IoMethods(Structure):
    _fields_ = (("iVersion", c_int), *_METHODS)


_OPEN = CFUNCTYPE(c_int, c_void_p, c_void_p, _F, c_int, POINTER(c_int))
_DELETE = CFUNCTYPE(c_int, c_void_p, c_char_p, c_int)
_ACCESS = CFUNCTYPE(c_int, c_void_p, c_char_p, c_int, POINTER(c_int))
_FULL_PATH = CFUNCTYPE(c_int, c_void_p, c_char_p, c_int, c_void_p)


class _Vfs(Structure):
    _fields_ = (
        ("iVersion", c_int),
        ("szOsFile", c_int),
        ("mxPathname", c_int),
        ("pNext", c_void_p),
        ("zName", c_char_p),
        ("pAppData", c_void_p),
        ("xOpen", _OPEN),
        ("xDelete", _DELETE),
        ("xAccess", _ACCESS),
        ("xFullPathname", _FULL_PATH),
        ("xDlOpen", c_void_p),
        ("xDlError", c_void_p),
        ("xDlSym", c_void_p),
        ("xDlClose", c_void_p),
        ("xRandomness", c_void_p),
        ("xSleep", c_void_p),
        ("xCurrentTime", c_void_p),
        ("xGetLastError", c_void_p),
        ("xCurrentTimeInt64", c_void_p),
        ("xSetSystemCall", c_void_p),
        ("xGetSystemCall", c_void_p),
        ("xNextSystemCall", c_void_p),
    )


def _snake_case(name: str) -> str:
    return re.sub("[A-Z]", lambda letter: "_" + letter[0].lower(), name)


@dataclass(slots=True)
class _Open:
    """An open file of a connection; ``generation`` is that of the disk when it was opened."""

    disk: Disk
    file: SyncedFile
    generation: int
    deletes: bool

    def is_dead(self) -> bool:
        return self.disk.is_off or self.generation != self.disk.generation


class SimulatedVfs:
    """SQLite's default VFS while it is registered. Only one thread may use it."""

    def __init__(self) -> None:
        import _sqlite3

        # Symbols of the library that the module is linked to, or that is part of it.
        self._library = ctypes.CDLL(_sqlite3.__file__ if hasattr(_sqlite3, "__file__") else None)
        self._library.sqlite3_vfs_find.restype = POINTER(_Vfs)
        self._library.sqlite3_vfs_find.argtypes = [c_char_p]
        self._library.sqlite3_vfs_register.argtypes = [c_void_p, c_int]
        self._library.sqlite3_vfs_unregister.argtypes = [c_void_p]
        with sqlite3.connect(":memory:"):  # initializes the library
            pass
        self._usual = self._library.sqlite3_vfs_find(None)
        self._open: dict[int, _Open] = {}
        self._closed_by_dead: set[str] = set()
        """Files that connections of killed processes closed. SQLite closes a log before it deletes it."""
        self._next = 1
        self._methods = _IoMethods(1, *(kind(getattr(self, _snake_case(name))) for name, kind in _METHODS))
        usual = self._usual.contents
        self._vfs = _Vfs(
            1,
            ctypes.sizeof(_SqliteFile),
            1024,
            None,
            b"simulated",
            None,
            _OPEN(self.x_open),
            _DELETE(self.x_delete),
            _ACCESS(self.x_access),
            _FULL_PATH(self.x_full_pathname),
            *(getattr(usual, name) for name, *_ in _Vfs._fields_[10:17]),
        )
        self._vfs.xGetLastError = None
        # Connections may be closed while the interpreter ends: what they call must still exist.
        for one in (self._methods, self._vfs):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(one))

    def register(self) -> None:
        self._library.sqlite3_vfs_register(byref(self._vfs), 1)

    def unregister(self) -> None:
        self._library.sqlite3_vfs_register(self._usual, 1)
        self._library.sqlite3_vfs_unregister(byref(self._vfs))

    # The file system

    def x_open(self, vfs: Any, name: Any, file: Any, flags: int, out: Any) -> int:
        file.contents.methods = None
        path = ctypes.string_at(name).decode() if name else ""
        disk = _disk_of(path)
        if disk is None or disk.is_off:
            return _CANTOPEN
        number, self._next = self._next, self._next + 1
        try:
            opened = disk.opened(path)
        except OSError:
            return _CANTOPEN
        self._open[number] = _Open(disk, opened, disk.generation, bool(flags & 8))
        file.contents.number = number
        file.contents.methods = cast(byref(self._methods), c_void_p).value
        if out:
            out[0] = flags
        return _OK

    def x_delete(self, vfs: Any, name: bytes, sync: int) -> int:
        path = name.decode()
        disk = _disk_of(path)
        if disk is None or disk.is_off or path in self._closed_by_dead:
            self._closed_by_dead.discard(path)
            return _IOERR
        disk.delete(path)
        return _OK

    def x_access(self, vfs: Any, name: bytes, flags: int, out: Any) -> int:
        out[0] = Path(name.decode()).exists()
        return _OK

    def x_full_pathname(self, vfs: Any, name: bytes, size: int, out: int) -> int:
        path = os.path.abspath(name) + b"\0"  # noqa: PTH100  bytes
        if len(path) > size:
            return _CANTOPEN
        ctypes.memmove(out, path, len(path))
        return _OK

    # Files

    def x_close(self, file: Any) -> int:
        opened = self._open.pop(file.contents.number, None)
        if opened is None:
            return _OK
        if opened.is_dead():
            self._closed_by_dead.add(opened.file.path)
            return _OK
        self._closed_by_dead.discard(opened.file.path)
        if opened.deletes:
            opened.disk.delete(opened.file.path)
        return _OK

    def x_read(self, file: Any, to: int, size: int, offset: int) -> int:
        opened = self._open[file.contents.number]
        if opened.is_dead():
            return _IOERR
        if code := opened.disk.fault("read"):
            return code
        data = opened.disk.read(opened.file, size, offset)
        if len(data) < size:
            ctypes.memset(to, 0, size)
            ctypes.memmove(to, data, len(data))
            return _IOERR_SHORT_READ
        ctypes.memmove(to, data, size)
        return _OK

    def x_write(self, file: Any, data: int, size: int, offset: int) -> int:
        opened = self._open[file.contents.number]
        if opened.is_dead():
            return _IOERR
        opened.disk.operations += 1
        if code := opened.disk.fault("write"):
            return code
        if opened.is_dead():  # killed by the fault
            return _IOERR
        opened.disk.write(opened.file, ctypes.string_at(data, size), offset)
        return _OK

    def x_truncate(self, file: Any, size: int) -> int:
        opened = self._open[file.contents.number]
        if opened.is_dead():
            return _IOERR
        opened.disk.truncate(opened.file, size)
        return _OK

    def x_sync(self, file: Any, flags: int) -> int:
        opened = self._open[file.contents.number]
        if opened.is_dead():
            return _IOERR
        opened.disk.operations += 1
        if code := opened.disk.fault("sync"):
            return code
        if opened.is_dead():
            return _IOERR
        opened.disk.sync(opened.file)
        return _OK

    def x_file_size(self, file: Any, out: Any) -> int:
        opened = self._open[file.contents.number]
        if opened.is_dead():
            return _IOERR
        out[0] = os.fstat(opened.file.fd).st_size
        return _OK

    def x_lock(self, file: Any, level: int) -> int:
        return _OK

    def x_unlock(self, file: Any, level: int) -> int:
        return _OK

    def x_check_reserved_lock(self, file: Any, out: Any) -> int:
        out[0] = 0
        return _OK

    def x_file_control(self, file: Any, operation: int, argument: Any) -> int:
        return _NOTFOUND

    def x_sector_size(self, file: Any) -> int:
        return SECTOR

    def x_device_characteristics(self, file: Any) -> int:
        return 0

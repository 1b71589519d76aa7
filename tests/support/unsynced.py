"""Power cut simulator: records a process with strace, then builds the files that a power cut may leave.

A kill loses nothing that was written, since the kernel has it; a power cut may. The model is the worst that a
disk and its file system may do, by the guarantees of fsync(2) and rename(2):

- A file's content is durable as of its last fsync or fdatasync; of later writes, any 512-byte sector may be
  there or not.
- A name that was created, changed or removed is durable once its folder was synced; a new file also has its
  name once it was synced itself, as on ext4, XFS, Btrfs and F2FS. Of later changes, any prefix may be there.
  With ``ordered``, any sync makes all earlier names durable, as the journals of ext4 and XFS do.

Writes through memory mappings aren't seen.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

SECTOR = 512
CALLS = (
    "openat,write,writev,pwrite64,ftruncate,fallocate,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,"
    # Not simulated; their use is an error.
    "?open,?creat,truncate,pwritev,pwritev2,copy_file_range,sendfile,link,linkat"
)


class CannotTrace(Exception):
    """This machine doesn't allow strace; the message says why."""


def record(command: Sequence[str], folder: Path) -> list[Call]:
    """Runs a command. :return: its file operations, in order. The trace is written to ``folder``.

    :raises CannotTrace: strace isn't allowed.
    :raises subprocess.CalledProcessError: the command failed.
    """
    subprocess.run([*_strace(folder), *command], check=True, timeout=120)
    return _read_record(folder)


@contextmanager
def watching(process_id: int, folder: Path) -> Iterator[list[Call]]:
    """Records a running process during the block; the list is filled at its end.

    :raises CannotTrace: strace isn't allowed.
    """
    calls: list[Call] = []
    command = [*_strace(folder), "-p", str(process_id)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr is not None
        attached = strace.stderr.readline()
        if "attached" not in attached:
            raise CannotTrace(f"strace may not trace here: {attached.strip()}")
        try:
            yield calls
        finally:
            strace.send_signal(signal.SIGINT)  # detaches
            strace.wait(timeout=60)
    calls += _read_record(folder)


def _strace(folder: Path) -> list[str]:
    program = shutil.which("strace")
    if program is None:
        raise AssertionError("strace isn't installed; install the package, or run scripts/setup test")
    tried = subprocess.run([program, "-o", os.devnull, "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        raise CannotTrace(f"strace may not trace here: {tried.stderr.strip()}")
    options = ["-f", "-y", "-xx", "-s", "16777216", "-e", f"trace={CALLS}"]
    return [program, *options, "-o", str(folder / "strace.out")]


def _read_record(folder: Path) -> list[Call]:
    with (folder / "strace.out").open(encoding="ascii") as lines:
        return list(parse(lines))


@dataclass(frozen=True)
class Call:
    """A successful system call: its strings, and the files of its descriptors, in order."""

    name: str
    texts: tuple[bytes, ...]
    paths: tuple[Path, ...]
    numbers: tuple[int, ...]
    flags: frozenset[str]
    result: int
    started: int
    """Line at which it started; later operations of other threads come after it."""


_BEGIN = re.compile(r"(?:\[pid +)?(\d*)\]? *(\w+)\((.*)$")
_RESUMED = re.compile(r"(?:\[pid +)?(\d*)\]? *<\.\.\. (\w+) resumed>(.*)$")
_TOKEN = re.compile(
    r'"(?P<text>(?:\\x[0-9a-f]{2})*)"(?P<cut>\.\.\.)?'
    r"|<(?P<path>(?:\\x[0-9a-f]{2})+)>"
    r"|(?P<word>\w+)"
)


def parse(lines: Iterable[str]) -> Iterator[Call]:
    """The successful calls of a trace, each at the line where it ended."""
    begun: dict[str, tuple[int, str, str]] = {}
    for number, line in enumerate(lines):
        text = line.rstrip("\n")
        if match := _RESUMED.match(text):
            process, name, rest = match.groups()
            if process not in begun:
                continue
            started, _, first = begun.pop(process)
        elif match := _BEGIN.match(text):
            process, name, rest = match.groups()
            started, first = number, ""
            if rest.endswith("<unfinished ...>"):
                begun[process] = (number, name, rest.removesuffix("<unfinished ...>"))
                continue
        else:
            continue  # a signal, an exit
        call = _call(name, first + rest, started)
        if call is not None:
            yield call


def _call(name: str, text: str, started: int) -> Call | None:
    # strace pads short lines, and may detach during a call.
    whole = re.match(r"(.*)\) += (0x[0-9a-f]+|-?\d+)", text)
    if whole is None or (result := int(whole[2], 0)) < 0:
        return None
    texts, paths, numbers, flags = [], [], [], set()
    for token in _TOKEN.finditer(whole[1]):
        if token["text"] is not None:
            if token["cut"]:
                raise ValueError(f"strace cut the data of {name} short")
            texts.append(bytes.fromhex(token["text"].replace("\\x", "")))
        elif token["path"]:
            paths.append(Path(os.fsdecode(bytes.fromhex(token["path"].replace("\\x", "")))))
        elif token["word"].isdigit():
            numbers.append(int(token["word"]))
        else:
            flags.add(token["word"])
    return Call(name, tuple(texts), tuple(paths), tuple(numbers), frozenset(flags), result, started)


@dataclass
class _Write:
    """Data at an offset, or, with None, a new length. ``at`` is the line of its call."""

    at: int
    offset: int
    data: bytes | None


@dataclass
class _File:
    synced: bytes = b""
    pending: list[_Write] = field(default_factory=list)
    length: int = 0
    position: int = 0

    def sync(self, started: int) -> None:
        content = bytearray(self.synced)
        while self.pending and self.pending[0].at <= started:
            _put(content, self.pending.pop(0))
        self.synced = bytes(content)

    def after_cut(self, keeps: Callable[[], bool]) -> bytes:
        content = bytearray(self.synced)
        for write in self.pending:
            if write.data is None:
                if keeps():
                    _put(content, write)
                continue
            for begin in range(0, len(write.data), SECTOR):
                if keeps():
                    piece = write.data[begin : begin + SECTOR]
                    _put(content, _Write(write.at, write.offset + begin, piece))
        return bytes(content)


def _put(content: bytearray, write: _Write) -> None:
    if write.data is None:
        del content[write.offset :]
        content.extend(bytes(write.offset - len(content)))
        return
    content.extend(bytes(max(0, write.offset - len(content))))
    content[write.offset : write.offset + len(write.data)] = write.data


class Disk:
    """The files in ``folder`` as calls change them, and what a power cut would leave.

    ``now`` has the current names, which is what a kill leaves.
    """

    def __init__(self, folder: Path, *, ordered: bool = False) -> None:
        self._folder = folder
        self._ordered = ordered
        self.now: dict[Path, _File] = {}
        self._sure: dict[Path, _File] = {}
        self._changes: list[tuple[int, Path, _File | None]] = []

    def apply(self, call: Call) -> None:
        """Applies a call. :raises ValueError: a call on these files that isn't simulated."""
        act = getattr(self, f"_{call.name}", None)
        if act is not None:
            act(call)
        elif any(self._has(path) for path in (*call.paths, *self._paths(call))):
            raise ValueError(f"{call.name} isn't understood here")

    def after_kill(self) -> dict[Path, bytes]:
        return {path: file.after_cut(lambda: True) for path, file in self.now.items()}

    def after_cut(self, keeps: Callable[[], bool] = lambda: False) -> dict[Path, bytes]:
        """The files after a power cut; ``keeps`` decides about everything that isn't durable."""
        names = dict(self._sure)
        for _, path, file in self._changes:
            if not keeps():
                break
            _rename_to(names, path, file)
        return {path: file.after_cut(keeps) for path, file in names.items()}

    def _has(self, path: Path) -> bool:
        return self._folder in path.parents

    def _paths(self, call: Call) -> list[Path]:
        """Paths in a call's strings; relative ones start at its folder argument or the current folder."""
        base = call.paths[0] if call.paths else self._folder
        return [base / os.fsdecode(text) for text in call.texts]

    def _openat(self, call: Call) -> None:
        path = self._paths(call)[0]
        if not self._has(path) or path.is_dir():
            return
        file = self.now.get(path)
        if file is None:
            if "O_CREAT" not in call.flags:
                return
            file = _File()
            self._change(call, path, file)
        elif "O_TRUNC" in call.flags:
            file.pending.append(_Write(call.started, 0, None))
            file.length = 0
        file.position = file.length if "O_APPEND" in call.flags else 0

    def _write(self, call: Call) -> None:
        if (file := self.now.get(call.paths[0])) is not None:
            self._put(call, file, file.position)
            file.position += call.result

    _writev = _write

    def _pwrite64(self, call: Call) -> None:
        if (file := self.now.get(call.paths[0])) is not None:
            self._put(call, file, call.numbers[-1])

    def _put(self, call: Call, file: _File, offset: int) -> None:
        data = b"".join(call.texts)[: call.result]
        file.pending.append(_Write(call.started, offset, data))
        file.length = max(file.length, offset + len(data))

    def _ftruncate(self, call: Call) -> None:
        if (file := self.now.get(call.paths[0])) is not None:
            file.length = call.numbers[-1]
            file.pending.append(_Write(call.started, file.length, None))

    def _fallocate(self, call: Call) -> None:
        path = call.paths[0]
        if not self._has(path):
            return
        if len(call.numbers) != 4 or call.numbers[1] != 0:
            raise ValueError("fallocate with a mode isn't understood here")
        _, _, offset, length = call.numbers
        if (file := self.now.get(path)) is not None and offset + length > file.length:
            file.length = offset + length
            file.pending.append(_Write(call.started, file.length, None))

    def _fsync(self, call: Call) -> None:
        synced = call.paths[0]
        if synced != self._folder and not self._has(synced):
            return
        file = self.now.get(synced)
        if file is not None:
            file.sync(call.started)
        waiting: list[tuple[int, Path, _File | None]] = []
        for started, path, made in self._changes:
            own = made is file and made is not None
            if started <= call.started and (self._ordered or own or path.parent == synced):
                _rename_to(self._sure, path, made)
                # Earlier changes of this name can't come back.
                waiting = [change for change in waiting if change[1] != path]
            else:
                waiting.append((started, path, made))
        self._changes = waiting

    _fdatasync = _fsync

    def _rename(self, call: Call) -> None:
        bases = call.paths if len(call.paths) == 2 else (self._folder, self._folder)
        old, new = (base / os.fsdecode(text) for base, text in zip(bases, call.texts, strict=True))
        if (file := self.now.get(old)) is not None:
            self._change(call, new, file)

    _renameat = _renameat2 = _rename

    def _unlink(self, call: Call) -> None:
        path = self._paths(call)[0]
        if path in self.now:
            self._change(call, path, None)

    _unlinkat = _unlink

    def _change(self, call: Call, path: Path, file: _File | None) -> None:
        _rename_to(self.now, path, file)
        self._changes.append((call.started, path, file))


def _rename_to(names: dict[Path, _File], path: Path, file: _File | None) -> None:
    """Gives a file this name and no other; None removes the name."""
    for old in [one for one, there in names.items() if there is file]:
        del names[old]
    names.pop(path, None)
    if file is not None:
        names[path] = file


def write_files(files: dict[Path, bytes], folder: Path, to: Path) -> None:
    """Writes files of ``folder`` into another folder, which is emptied first."""
    shutil.rmtree(to, ignore_errors=True)
    for path, content in files.items():
        place = to / path.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)

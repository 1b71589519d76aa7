"""Tampering with files of a signed bundle, and the file that the refusal must name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from edgeslm.bundle.signature import LARGEST_BYTES
from tests.support.signers import write_manifest


def edit(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def act(bundle: Path) -> None:
        (bundle / name).write_bytes(change((bundle / name).read_bytes()))

    return act


def add(name: str, data: bytes = b"more") -> Callable[[Path], None]:
    def act(bundle: Path) -> None:
        (bundle / name).parent.mkdir(exist_ok=True)
        (bundle / name).write_bytes(data)

    return act


def link(name: str) -> Callable[[Path], None]:
    """Replaces a file by a link to the same content outside of the bundle."""

    def act(bundle: Path) -> None:
        outside = bundle.parent / "outside"
        (bundle / name).rename(outside)
        (bundle / name).symlink_to(outside)

    return act


def link_inside(bundle: Path) -> None:
    (bundle / "heads/two.npz").unlink()
    (bundle / "heads/two.npz").symlink_to("one.npz")


def dangling(bundle: Path) -> None:
    (bundle / "tokenizer.json").unlink()
    (bundle / "tokenizer.json").symlink_to("gone")


def remove(name: str) -> Callable[[Path], None]:
    return lambda bundle: (bundle / name).unlink()


def rename(name: str, other: str) -> Callable[[Path], None]:
    def act(bundle: Path) -> None:
        (bundle / name).rename(bundle / other)

    return act


def swap(bundle: Path) -> None:
    """Swaps two files of equal size."""
    one, two = bundle / "heads/one.npz", bundle / "heads/two.npz"
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


def folder_for_file(bundle: Path) -> None:
    (bundle / "tokenizer.json").unlink()
    (bundle / "tokenizer.json").mkdir()


def pipe_for_file(name: str) -> Callable[[Path], None]:
    def act(bundle: Path) -> None:
        (bundle / name).unlink(missing_ok=True)
        os.mkfifo(bundle / name)

    return act


def consistent(change: Callable[[Path], None]) -> Callable[[Path], None]:
    """Updates the manifest after the change."""

    def act(bundle: Path) -> None:
        change(bundle)
        write_manifest(bundle)

    return act


def new_manifest(bundle: Path) -> None:
    write_manifest(bundle, name="another")


TAMPERING: dict[str, tuple[Callable[[Path], None], str]] = {
    "a byte changed": (edit("model.onnx.data", lambda data: b"W" + data[1:]), "model.onnx.data"),
    "truncated": (edit("model.onnx.data", lambda data: data[:-1]), "model.onnx.data"),
    "extended": (edit("model.onnx.data", lambda data: data + b"\0"), "model.onnx.data"),
    "emptied": (edit("tokenizer.json", lambda data: b""), "tokenizer.json"),
    "removed": (remove("model.onnx"), "model.onnx"),
    "renamed": (rename("tokenizer.json", "Tokenizer.json"), "Tokenizer.json"),
    "two of one size swapped": (swap, "heads/one.npz"),
    "the report changed": (edit("report.json", lambda data: data.replace(b"1", b"0")), "report.json"),
    "a file added": (add("chat_template.jinja"), "chat_template.jinja"),
    "an empty file added": (add("added_tokens.json", b""), "added_tokens.json"),
    "a file added in a new folder": (add("extra/notes.txt"), "extra/notes.txt"),
    "a file added in a known folder": (add("heads/three.npz"), "heads/three.npz"),
    "a hidden file added": (add(".hidden"), ".hidden"),
    "a file of git added": (add(".gitattributes"), ".gitattributes"),
    "a file in a folder of git added": (add(".git/config"), ".git/config"),
    "a link to the same content": (link("model.onnx.data"), "model.onnx.data"),
    "a link inside the bundle": (link_inside, "heads/two.npz"),
    "a link to nothing": (dangling, "tokenizer.json"),
    "a folder that is a link": (link("heads"), "heads"),
    "the manifest a link": (link("manifest.json"), "manifest.json"),
    "the signature a link": (link("model.sig"), "model.sig"),
    "a folder for a file": (folder_for_file, "tokenizer.json"),
    "a pipe for a file": (pipe_for_file("tokenizer.json"), "tokenizer.json"),
    "a pipe for the manifest": (pipe_for_file("manifest.json"), "manifest.json"),
    "a pipe added": (pipe_for_file("pipe"), "pipe"),
    "the manifest changed": (new_manifest, "manifest.json"),
    "the manifest removed": (remove("manifest.json"), "manifest.json"),
    "a file and the manifest changed": (
        consistent(edit("model.onnx.data", lambda data: data[::-1])),
        "manifest.json: not the file that was signed, as are model.onnx.data",
    ),
    "a file added and listed": (consistent(add("extra.json")), "as are extra.json"),
    "a file removed and no longer listed": (consistent(remove("heads/two.npz")), "as are heads/two.npz"),
    "the signature removed": (remove("model.sig"), "model.sig"),
    "the signature emptied": (edit("model.sig", lambda data: b""), "model.sig"),
    "the signature truncated": (edit("model.sig", lambda data: data[:-9]), "model.sig"),
    "the signature too large": (edit("model.sig", lambda data: data + b" " * LARGEST_BYTES), "model.sig"),
}

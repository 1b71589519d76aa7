"""German and Spanish questions to Debian's documents, with the places of their answers.

58 German and 57 Spanish questions to the Debian Reference, the Debian FAQ (German), aptitude's manual
(Spanish) and man pages, each with every span that answers it. The other documents are not asked about. The
author knew the documents, and no results of a search. ``half`` was drawn within each language: choose
settings on ``development``, report ``test``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from benchmarks.lib.grounded_questions import Member, Question, load_questions
from benchmarks.lib.paths import DATA

FILE: Final = DATA / "language_questions.jsonl"
HALVES: Final = ("development", "test")

_DIGESTS: Final = {
    "debian-reference.de": "74c413dcde5d3827c12a7000f1680a18564e397c98fc0bc4d74a84c458ebf1b9",
    "faq-basic-defs.de": "c6fb59c5c7d33bce18dc375b449a7295432384334f84bbbc01c284ff74e61126",
    "faq-choosing.de": "7e431e89265d7d3d858ebc4eaded2b73d6d07e88290ca4c9352037881d14dd5c",
    "faq-compatibility.de": "eba5ec4abe1c28616a70ebee3f4475c4b57237abd51ac5a2de9a05226dd9e9f9",
    "faq-customizing.de": "07ef622e8d4182e306155b49beec921e30a7a305526d6fb8a9fa1438d3efff60",
    "faq-ftparchives.de": "730d0f516f66e8c5ff3195a65b2d4ec219f12680396a5bff9e5bf057a92b82b0",
    "faq-kernel.de": "ddee84af921e045e60c4bb1bc0e76a64efa457598740db4c316a803212fb4792",
    "faq-pkg-basics.de": "22d6492a957e8eca10dbea66c5ecc23cf8711d99b6fbb41c30f1db6ccc95f32c",
    "faq-pkgtools.de": "3e436e2413674b254a3f2202753b479d78fce24a0b4005175afd034ab279f348",
    "faq-redistributing.de": "5952907ee14022374446971e2e4bb173d1a1a52877a73fa16b46e0f4a8ea159f",
    "faq-support.de": "934ad5a5c872f016f6104c65ffc770c1968997281cbda9108bee1325cc6de746",
    "faq-uptodate.de": "b1ab20511ebf87bdc0c2d3c88582c536a496fbce54e4a292afa356a47ce9ed6d",
    "crontab.5.de": "fbaf267f3cb2600bff539eb2105f6852810edec1db69408085a48830bf493a5f",
    "hier.7.de": "a9ae419a2a20f1e084389cb679bc12b886007cb2968c51df8ae24b428d1af5d1",
    "hosts.5.de": "cefb537589dd197c38a5f79391dc5d07fee5336da6eff0e7d4f029fc87b39987",
    "journalctl.1.de": "41725a3fede380cc404096862b8c00fc901661ee4955de406f1f529c3007748f",
    "resolv.conf.5.de": "6a95452ec85910aaaff1ad317ae2230d1d71a0002a60709aff5aea953a214790",
    "shred.1.de": "ba94d0a03618a7aeb1f81d06bb54d76d08db1368fa4986ca0afe2a776bfa6363",
    "split.1.de": "231d1d66431ecd5876094abd17d3c4639187a2907d32c0ddfc50f855fe25a426",
    "tar.1.de": "00999487f6e02346559d8dff4ce054ab86062341bb0119c7fee7b34ca75b04e3",
    "debian-reference.es": "9f12dd7e753d2a458b566d15854de6a783f2982c5f8edd5f7fccaad0927c5b3b",
    "aptitude-ch02s01s03.es": "2fd2b9c70fd45b39713b83c6fa3420deea21f6bc0336ff86ba37537975835ec5",
    "aptitude-ch02s01s04.es": "8e007f62911be11d00a4a713fb4f5ac99f74598863c651af361bc85da083316b",
    "aptitude-ch02s02s02.es": "a1605a4174969ef68ccdc4091e3166c87db80bd885238faa4221f748f92032c7",
    "aptitude-ch02s02s03.es": "f485dc6256b552f326558f6d98b7539e92370a9c3838eb6f66e25346d6f1b78c",
    "aptitude-ch02s02s04.es": "686a960b5053a480d586059287ce01876a49b42968085913849ff440e47ecd35",
    "aptitude-ch02s02s05.es": "31e4d9705d33786709dd3e8537740d9dff37e552be99137bc2340937b82dbcfe",
    "aptitude-ch02s02s06.es": "0052025538f38b65154c0063746128ee0729e213f13369a2a1dbc0d4c771551a",
    "aptitude-ch02s03s01.es": "a072907f27fa511f6a95ff30d64fbbf3d1f7365da0d4054604fa84acf30e5616",
    "aptitude-ch02s03s02.es": "9abea6d270250123ac820bb79a7e44911b7e439b08828456f7c594045e73118c",
    "aptitude-ch02s04s05.es": "01b8f1a3044a2f9f4e5aaa234bc451f9393ea5246f03f0def6d6d80a04c9468a",
    "aptitude-pr01s04s01.es": "eccb22ca44c5e996050bb7d54f182946a31471251577cfda946eb98362b1be89",
    "aptitude-pr01s04s02.es": "1c48f71545e41e2db92cad11493143ea8e68c0caef3f4453a0facc97f3c0c97a",
    "aptitude-pr01s04s03.es": "7b287dc0f702ea3917cf89dda3421d99c509ff771cfc75806c6cf8bca0d1c3c2",
    "aptitude-rn01re01.es": "69b4d09419f4d427d51eae6670b8404d7f424a36a12fd977c33d78e9f813f414",
    "at.1.es": "7a663ba2b82bbd3e04505207811199b20cff0dfea73f5a70fcd786c7ec508b6f",
    "hier.7.es": "24a8305903875311f25badc3e34fbf625c8cfa7be032764816c2c93e7e03ff48",
    "hosts.5.es": "9b711b980239c5665879349233edddffe5d9040e49d4549ccca3173412003c48",
    "logrotate.8.es": "c05c77a66867b51ccaca01f570c43cb1bd4f1777dfeeaab5ac368bc2118818d1",
    "ping.8.es": "b0604a08304d5c5ed57ebc2aefa3d304a8bc62f97a17d254b26535e4f60508f6",
    "route.8.es": "4dd4c7ea2421b7dd70ef4be75083f508ff79e3edcb03744d7ea4bbb181cf9409",
    "shred.1.es": "1c0e8597f88635b68a85e8effa7f720ef99dd9f53e7b2bc01674b6d085fdbfbd",
    "split.1.es": "6190791be4c3003509673981a7d799dfe9f0494ae4429e66b12f4804626e7b45",
    "tar.1.es": "34dd8078cca16b99397b49cc5f96d8de96e11a2ab147b5766964acf24a4f8188",
}


def _member(name: str, sha256: str) -> Member:
    stem, _, language = name.rpartition(".")
    if stem == "debian-reference":
        path = f"usr/share/doc/debian-reference-common/docs/{name}.txt.gz"
        return Member(language, f"debian-reference-{language}", "2.127", path, sha256)
    if stem.startswith("faq-"):
        path = f"usr/share/doc/debian/FAQ/de/{stem.removeprefix('faq-')}.de.html"
        return Member(language, "debian-faq-de", "12.2", path, sha256)
    if stem.startswith("aptitude-"):
        path = f"usr/share/doc/aptitude/html/es/{stem.removeprefix('aptitude-')}.html"
        return Member(language, "aptitude-doc-es", "0.8.13-7", path, sha256)
    path = f"usr/share/man/{language}/man{stem[-1]}/{stem}.gz"
    return Member(language, f"manpages-{language}", "4.27.0-1", path, sha256)


MEMBERS: Final = {name: _member(name, sha256) for name, sha256 in _DIGESTS.items()}
"""The documents by the names that questions have for them; ``collection`` is the language."""


def load_halves(halves: Sequence[str]) -> list[Question]:
    return [question for question in load_questions(FILE) if question.half in halves]

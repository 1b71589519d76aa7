"""``scripts/third_party.py``: whose work is in a package, with its licences, and a bill of materials."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT
from tests.unit.repository.test_requirements import pins

SCRIPT = ROOT / "scripts/third_party.py"
APACHE = "Apache License\n                           Version 2.0, January 2004"


def distribute(site: Path, name: str, metadata: str, **texts: str) -> None:
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\n{metadata}")
    for file, text in texts.items():
        (info / "licenses").mkdir(exist_ok=True)
        (info / "licenses" / file).write_text(text)


def write(site: Path, out: Path, made: str = "1700000000") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SOURCE_DATE_EPOCH": made}
    command = [sys.executable, "-I", str(SCRIPT), str(site), str(out)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site-packages"
    distribute(folder, "edgeslm", "License-Expression: Apache-2.0\nRequires-Dist: Paho_MQTT<3\n")
    needs = "Requires-Dist: edgeslm; extra == 'x'\nRequires-Dist: absent>=1\n"
    distribute(
        folder, "paho-mqtt", f"License-Expression: EPL-2.0 OR BSD-3-Clause\n{needs}", EPL="The Eclipse text"
    )
    distribute(folder, "tokenizers", "Classifier: License :: OSI Approved :: Apache Software License\n")
    return folder


def read(out: Path) -> tuple[str, dict[str, Any]]:
    return (out / "THIRD-PARTY.txt").read_text(), json.loads((out / "sbom.cdx.json").read_text())


def test_each_licence_is_named_with_its_text(site: Path, tmp_path: Path) -> None:
    """The wheels of tokenizers and flatbuffers have none: the Apache License stands in this repository."""
    assert write(site, tmp_path / "out").returncode == 0
    text, _ = read(tmp_path / "out")
    assert "\npaho-mqtt 1.0: EPL-2.0 OR BSD-3-Clause\n" in text and "The Eclipse text" in text
    assert "\ntokenizers 1.0: Apache Software License\n" in text and APACHE in text
    assert "\nedgeslm " not in text


def test_the_bill_of_materials_is_cyclonedx(site: Path, tmp_path: Path) -> None:
    write(site, tmp_path / "out")
    _, bill = read(tmp_path / "out")
    assert (bill["bomFormat"], bill["specVersion"], bill["version"]) == ("CycloneDX", "1.6", 1)
    assert bill["serialNumber"].startswith("urn:uuid:")
    assert bill["metadata"]["timestamp"] == "2023-11-14T22:13:20Z"
    assert bill["metadata"]["component"]["purl"] == "pkg:pypi/edgeslm@1.0"
    found = {part["purl"]: part["licenses"] for part in bill["components"]}
    assert found == {
        "pkg:pypi/paho-mqtt@1.0": [{"expression": "EPL-2.0 OR BSD-3-Clause"}],
        "pkg:pypi/tokenizers@1.0": [{"license": {"name": "Apache Software License"}}],
    }
    assert {one["ref"]: one["dependsOn"] for one in bill["dependencies"]} == {
        "pkg:pypi/edgeslm@1.0": ["pkg:pypi/paho-mqtt@1.0"],
        "pkg:pypi/paho-mqtt@1.0": [],
        "pkg:pypi/tokenizers@1.0": [],
    }


def test_the_same_packages_give_the_same_bytes(site: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(site, tmp_path / name)
    for file in ("THIRD-PARTY.txt", "sbom.cdx.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_it_has_no_time_where_none_is_known(site: Path, tmp_path: Path) -> None:
    """As in a container: 1970 would be a false one."""
    assert write(site, tmp_path / "out", made="").returncode == 0
    _, bill = read(tmp_path / "out")
    assert bill["metadata"].keys() == {"component"}


def test_a_licence_whose_text_is_unknown_stops_it(site: Path, tmp_path: Path) -> None:
    distribute(site, "stranger", "License: Beerware\n")
    done = write(site, tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr == "third_party: no licence text is known of stranger\n"
    assert not (tmp_path / "out").exists()


def test_it_knows_the_texts_of_all_that_a_device_gets(tmp_path: Path) -> None:
    """Of those that are installed here, by links to what they brought."""
    site = tmp_path / "site-packages"
    site.mkdir()
    named = {pin.name for file in sorted((ROOT / "requirements").glob("device*.txt")) for pin in pins(file)}
    linked = set()
    for name in sorted(named):
        try:
            found = distribution(name)
        except ModuleNotFoundError:
            continue
        for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            target = Path(str(found.locate_file(top)))
            if target.is_dir() and not (site / top).exists():
                (site / top).symlink_to(target)
        linked.add(name)
    assert {"tokenizers", "flatbuffers", "onnxruntime", "numpy", "paho-mqtt"} <= linked
    done = write(site, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    text, bill = read(tmp_path / "out")
    assert {part["name"] for part in bill["components"]} == linked
    assert "\nonnxruntime 1" in text and "onnxruntime/LICENSE" in text

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from edgeslm.config.diagnostics import problems_of, read_text, sentence_of
from edgeslm.config.sections import Broker, Limits, Section
from edgeslm.config.yaml_source import YamlDocument, YamlProblem
from edgeslm.errors import ConfigError


def finding(section: type[Section], values: dict[str, object]) -> str:
    with pytest.raises(ValidationError) as caught:
        section.model_validate(values)
    (entry,) = caught.value.errors(include_url=False)
    return sentence_of(entry, tuple(entry["loc"]), section)


def test_a_file_that_cannot_be_read_is_a_problem_with_a_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml:1: file: there is no such file"):
        read_text(tmp_path / "none.yaml")
    file = tmp_path / "latin.yaml"
    file.write_bytes(b"node: a\nname: \xe4\n")
    with pytest.raises(ConfigError, match="2: file: not UTF-8 here"):
        read_text(file)
    file.write_text("\ufeffnode: a\n", encoding="utf-8")
    assert read_text(file) == "node: a\n"


def test_a_finding_names_the_keys_of_its_own_section() -> None:
    assert finding(Limits, {"queu": 3}) == "unknown key: did you mean queue?"
    assert finding(Limits, {"queue": "3"}) == "must be a whole number, without quotes"
    assert "password_file" in finding(Broker, {"url": "mqtt://h", "pass": "secret"})


def test_problems_come_in_the_order_of_lines_and_once() -> None:
    late, early = YamlProblem(3, ("b",), "wrong"), YamlProblem(1, ("a", 0), "wrong\ntoo")
    assert problems_of(YamlDocument(problems=[late, early, late]), "f").problems == [
        "f:1: a[0]: wrong too",
        "f:3: b: wrong",
    ]

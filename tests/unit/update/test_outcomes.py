"""What came of the last update of each model, kept for those who asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeslm.update.outcomes import UpdateOutcomes


def test_the_reason_is_that_of_the_bundle_that_was_asked_for(tmp_path: Path) -> None:
    update_outcomes = UpdateOutcomes(tmp_path, "hall")
    update_outcomes.write("small", {"digest": "sha256:1", "why": "two of three requests failed"})
    update_outcomes.write("encoder", {"digest": "", "why": "the node ended"})
    again = UpdateOutcomes(tmp_path, "hall")
    assert again.why("small", "sha256:1") == "two of three requests failed"
    assert again.why("small", "sha256:2") == ""
    assert again.why("encoder", "sha256:3") == "the node ended", "what a start did"
    assert (again.why("other", "sha256:1"), UpdateOutcomes(tmp_path, "yard").why("small", "sha256:1")) == (
        "",
        "",
    )


@pytest.mark.parametrize("text", ["", "[]", '{"small": 7}', '{"small": {"digest": 1}}', "[" * 5000, "\xff"])
def test_a_file_that_is_damaged_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "verdicts-hall.json").write_text(text, "latin-1")
    assert UpdateOutcomes(tmp_path, "hall").why("small", "sha256:1") == ""


def test_what_others_could_have_written_is_not_believed_and_a_full_disk_costs_only_the_reason(
    tmp_path: Path,
) -> None:
    update_outcomes = UpdateOutcomes(tmp_path, "hall")
    update_outcomes.write("small", {"digest": "sha256:1", "why": "because"})
    (tmp_path / "verdicts-hall.json").chmod(0o666)
    assert update_outcomes.why("small", "sha256:1") == ""
    (tmp_path / "file").write_text("")
    UpdateOutcomes(tmp_path / "file", "hall").write("small", {"why": "because"})

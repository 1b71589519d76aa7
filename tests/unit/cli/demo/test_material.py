"""What the demo reads, from small made files."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeslm.cli.demo import material
from edgeslm.cli.demo.material import (
    LOGIN_EXAMPLES,
    MANUAL,
    QUESTIONS,
    LabelledMessage,
    load_logins,
    load_sms,
)
from edgeslm.errors import EdgeslmError


def write_sms(folder: Path, *rows: str) -> Path:
    (folder / "sms-spam.csv").write_text("\n".join([",spam,text", *rows]) + "\n", "utf-8")
    return folder


def all_of(folder: Path) -> dict[str, str]:
    """Every message by its text, whichever set it is in."""
    taught, aside = load_sms(folder, 2)
    return {row.text: row.label for row in (*taught, *aside)}


def test_sms_become_labelled_messages_without_repeats(tmp_path: Path) -> None:
    write_sms(tmp_path, '0,0,"Hi, you"', "1,1,WIN £100 now", "2,0,ok lar", "3,0,ok lar", '4,0,"  "')
    assert all_of(tmp_path) == {"Hi, you": "ham", "WIN £100 now": "spam", "ok lar": "ham"}


def test_messages_that_a_lost_quotation_mark_ran_together_are_taken_apart(tmp_path: Path) -> None:
    write_sms(tmp_path, '7,0,"one"" said he..\nham\tOk.\nspam\tCall 0900\nham\ttwo\nlines"', "8,1,prize")
    assert all_of(tmp_path) == {
        'one" said he..': "ham",
        "Ok.": "ham",
        "Call 0900": "spam",
        "two\nlines": "ham",
        "prize": "spam",
    }


def test_what_is_taught_is_not_what_is_measured_and_stays_the_same(tmp_path: Path) -> None:
    write_sms(tmp_path, *(f"{number},{number % 2},message {number}" for number in range(900)))
    taught, aside = load_sms(tmp_path)
    assert (len(taught), len(aside)) == (material.TAUGHT, material.HELD_ASIDE)
    assert not set(taught) & set(aside)
    assert (taught, aside) == load_sms(tmp_path)
    assert {row.label for row in taught} == {"ham", "spam"}


@pytest.mark.parametrize("content", [None, b"a,b\n1,2\n", b",spam,text\n0,0,caf\xe9\n"])
def test_a_file_that_can_t_be_read_is_a_sentence(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "sms-spam.csv").write_bytes(content)
    with pytest.raises(EdgeslmError, match=r"sms-spam\.csv: can't be read .* make the starter folder again"):
        load_sms(tmp_path)


LOG = """\
# filterOptions: [{}]

# failJSON: { "time": "2005-06-21T16:47:48", "match": true , "host": "192.0.2.6" }
Jun 21 16:47:48 gate sshd[1]: Failed password for root from 192.0.2.6 port 22 ssh2
# failJSON: { "match": false }
Jun 21 16:47:49 gate sshd[2]: Server listening on 0.0.0.0 port 22.
# failJSON: { "match": true , "host": "198.51.100.7" }
Jun 21 16:47:50 gate sshd[3]: a line that names another host, 203.0.113.9
Jun 21 16:47:51 gate sshd[4]: Failed password for root from 192.0.2.8 port 22 ssh2
# failJSON: broken
Jun 21 16:47:52 gate sshd[5]: Failed password for root from 192.0.2.9 port 22 ssh2
# failJSON: { "match": true , "host": "vpn.example.org" }
Jun 21 16:47:53 gate sshd[6]: error: PAM: Authentication failure for bob from vpn.example.org
"""


def test_log_lines_that_name_their_host_are_taken(tmp_path: Path) -> None:
    (tmp_path / "sshd.log").write_text(LOG)
    lines = load_logins(tmp_path, 10)
    assert {(line.text[21:28], line.label) for line in lines} == {
        ("sshd[1]", "192.0.2.6"),
        ("sshd[6]", "vpn.example.org"),
    }
    assert len(load_logins(tmp_path, 1)) == 1


def test_without_a_log_there_are_no_lines(tmp_path: Path) -> None:
    assert load_logins(tmp_path, 10) == []


def test_the_demo_s_own_messages_hold_what_is_expected_of_them() -> None:
    assert all(host in line for line, host in LOGIN_EXAMPLES)
    assert all(question.gold in question.context for question in QUESTIONS)
    documents = "\n".join(MANUAL.values())
    assert all(question.gold in documents for question in QUESTIONS)
    assert isinstance(material.NOTES_TAUGHT[0], LabelledMessage)


def test_a_few_of_each_label_are_the_first() -> None:
    rows = [LabelledMessage(str(number), "spam" if number % 3 else "ham") for number in range(90)]
    few = material.a_few_of_each(rows)
    assert [row.label for row in few] == ["ham"] * material.A_FEW + ["spam"] * material.A_FEW
    assert [row.text for row in few[:3]] == ["0", "3", "6"]

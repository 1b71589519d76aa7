"""Files read in a child: what comes back, and what a bad one does."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.errors import KnowledgeError
from edgeslm.knowledge.documents.passages import Document, Passage, split
from edgeslm.knowledge.readers import limited, read_worker
from edgeslm.knowledge.readers.limited import Reading, ReadingError, ReadingListener, limits_of
from edgeslm.knowledge.readers.reader import read_document
from tests.support.knowledge.pdfs import make_pdf, write_objects
from tests.support.knowledge.readers import bad_reader
from tests.support.knowledge.readers.bad_reader import ReadWith
from tests.support.knowledge.readers.bad_reader import read_with as read_with

TEXTS = {
    "manual.md": b"# Press\n\nOil it.\n\n## Lathe\n\nGrease it. \xc3\xa4\xe4\xb8\x80\xf0\x9f\x98\x80\n",
    "orders.csv": b"order,amount,placed\n1,4 bar,2026-01-02\n2,5 bar,2026-01-03\n",
    "log.jsonl": b'{"a": "\\ud800"}\n{"a": true}\n',
    "long.txt": b"The pump is vented every day by hand.\n\n" * 9000,
}


def read(path: Path) -> tuple[Document, list[Passage]]:
    with Reading() as reader:
        return reader.read(path, path.name, path.stat().st_size, ReadingListener())


@pytest.mark.parametrize("name", TEXTS)
def test_a_child_says_what_the_reader_reads(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(TEXTS[name])
    document, passages = read(path)
    expected = read_document(path, name)
    assert passages == split(expected)
    assert (document.source, document.title, document.table) == (name, expected.title, expected.table)


def test_one_child_reads_many_files_and_says_why_one_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Oil it.")
    (tmp_path / "b.pdf").write_bytes(b"no pdf")
    with Reading() as reader:
        for _ in range(2):
            assert reader.read(tmp_path / "a.txt", "a", 7, ReadingListener())[1][0].text == "Oil it."
            with pytest.raises(KnowledgeError, match=r"^b can't be read as a PDF") as caught:
                reader.read(tmp_path / "b.pdf", "b", 6, ReadingListener())
            assert not isinstance(caught.value, ReadingError)
        with pytest.raises(KnowledgeError, match=r"^c is not there"):
            reader.read(tmp_path / "c.txt", "c", 0, ReadingListener())


def test_what_the_reader_logs_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.pdf").write_bytes(make_pdf([["Oil it."], ["Not this."]], broken=[1]))
    with caplog.at_level(logging.WARNING, "edgeslm.knowledge"):
        assert [passage.text for passage in read(tmp_path / "a.pdf")[1]] == ["Oil it."]
    assert "1 of 2 pages can't be read" in caplog.text


@pytest.mark.parametrize(
    "act, why",
    [
        (bad_reader.CRASH, "a.txt ended the process that read it"),
        (bad_reader.FREEZE, "a.txt takes longer than 1 s to read"),
        (bad_reader.HOARD, "a.txt takes more than 128 MB of memory to read"),
    ],
)
def test_a_file_that_crashes_or_never_ends_or_takes_all_memory_is_given_up(
    tmp_path: Path, read_with: ReadWith, act: str, why: str
) -> None:
    read_with(bad_reader.command(act))
    folder = tmp_path / "files"
    folder.mkdir()
    for name in ("bomb.txt", "lathe.txt"):
        (folder / name).write_text("Oil it.")
    with Reading() as reader:
        if act == bad_reader.FREEZE:
            reader.most_s = 1.0
        with pytest.raises(ReadingError) as caught:
            reader.read(folder / "bomb.txt", "a.txt", 7, ReadingListener())
        reader.most_s = 60.0
        assert reader.read(folder / "lathe.txt", "b", 7, ReadingListener())[1][0].text == "Oil it."
    assert str(caught.value) == why


def test_a_pdf_that_unpacks_to_more_than_its_memory_is_given_up(tmp_path: Path) -> None:
    """A real one, of 300 kB."""
    packed = zlib.compress(b"BT /F1 12 Tf (a) Tj ET\n" * 12_000_000, 9)
    page = (
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] /Contents 4 0 R /Resources << /Font << /F1 "
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>"
    )
    objects = {
        1: b"<< /Type /Catalog /Pages 2 0 R >>",
        2: b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        3: page,
        4: b"<< /Length %d /Filter /FlateDecode >>\nstream\n%b\nendstream" % (len(packed), packed),
    }
    file = write_objects(objects)
    (tmp_path / "a.pdf").write_bytes(file)
    with pytest.raises(KnowledgeError) as caught:
        read(tmp_path / "a.pdf")
    assert "memory" in str(caught.value) or "can't be read as a PDF" in str(caught.value)


def test_limits_grow_with_the_file() -> None:
    small, large = limits_of(Path("a.md"), 1000), limits_of(Path("a.md"), 16 << 20)
    assert small == (30.02, 128_032_000)
    assert large[0] > 300 and 500_000_000 < large[1] <= limited.MOST_MEMORY_BYTES
    assert limits_of(Path("a.md.gz"), 1000) == limits_of(Path("a.md"), 10_000)
    assert limits_of(Path("a.md.gz"), 16 << 20) == limits_of(Path("a.md"), 16 << 20)
    assert limits_of(Path("a.docx"), 1000) == limits_of(Path("a.md"), 10_000)
    assert limits_of(Path("a.pdf"), 1 << 40) == (limited.MOST_S, limited.MOST_MEMORY_BYTES)


@given(
    st.recursive(st.none() | st.integers() | st.floats() | st.text(), lambda part: st.lists(part, max_size=4))
)
def test_what_no_child_of_ours_says_ends_it(said: object) -> None:
    content = limited.Content("a.txt", ReadingListener())
    for key in ("passages", "rows"):
        with contextlib.suppress(ValueError):
            content.take({key: said})


def test_more_than_a_document_can_be_is_not_taken() -> None:
    content = limited.Content("a.txt", ReadingListener(), most_characters=100)
    with pytest.raises(ValueError, match=r"^$"):
        content.take({"passages": [[[], "x" * 60, 0, 60]] * 2})


def test_a_mistake_of_a_reader_is_a_sentence_without_the_text(tmp_path: Path, read_with: ReadWith) -> None:
    read_with(bad_reader.command("raise IndexError('a secret of the document')"))
    bomb = tmp_path / "files/bomb.txt"
    bomb.parent.mkdir()
    bomb.write_text("Oil it.")
    with pytest.raises(KnowledgeError) as caught:
        read(bomb)
    assert str(caught.value) == "bomb.txt can't be read (IndexError)."


def test_no_process_for_it_is_a_sentence(tmp_path: Path, read_with: ReadWith) -> None:
    read_with((str(tmp_path / "python"),))
    (tmp_path / "a.txt").write_text("Oil it.")
    with pytest.raises(KnowledgeError, match="No such file"):
        read(tmp_path / "a.txt")


def test_pages_are_told_while_they_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(make_pdf([["Oil it."], ["Grease it."]]))
    said: list[object] = []
    read_worker.answer({"path": str(tmp_path / "a.pdf"), "source": "a"}, said.append, tell_every_s=-1.0)
    assert said[:2] == [{"part": "page 1 of 2"}, {"part": "page 2 of 2"}]


def test_readers_load_no_database_and_no_numpy() -> None:
    unwanted = {"numpy", "sqlite3", "pypdfium2"}
    code = f"import sys, {read_worker.__name__}\nprint({unwanted!r} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


@pytest.mark.parametrize(
    "said", [None, 1, [], {}, {"title": "a"}, {"title": "a", "columns": [{"kind": "b"}]}]
)
def test_an_answer_that_no_child_of_ours_gives_is_a_sentence(
    tmp_path: Path, read_with: ReadWith, said: object
) -> None:
    code = f"from edgeslm.ipc.job import serve; serve(lambda order, progress: {said!r})"
    read_with((sys.executable, "-P", "-c", code))
    (tmp_path / "a.txt").write_text("Oil it.")
    with pytest.raises(ReadingError, match="ended the process that read it"):
        read(tmp_path / "a.txt")

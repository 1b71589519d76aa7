"""An archive in pieces: which pieces are taken, and when another upload may begin."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest

from edgeslm.errors import Busy, InvalidRequest
from edgeslm.update import upload
from edgeslm.update.upload import Upload


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


SHA = hashlib.sha256(b"onetwo").hexdigest()


@pytest.fixture
def receiver(tmp_path: Path) -> Upload:
    return Upload(tmp_path / "updates", 100)


def test_pieces_make_an_archive_and_repeats_are_ignored(receiver: Upload, tmp_path: Path) -> None:
    assert receiver.add("a", 0, encoded(b"one")) == 3
    assert receiver.add("a", 0, encoded(b"one")) == 3
    assert receiver.add("a", 3, encoded(b"two")) == 6
    with receiver.finish("a", SHA) as file:
        assert file.read() == b"onetwo"
    assert list((tmp_path / "updates").iterdir()) == [], "nothing outlives the node"
    with pytest.raises(InvalidRequest, match="isn't complete"):
        receiver.finish("a", SHA)


def test_wrong_pieces_are_refused(receiver: Upload) -> None:
    with pytest.raises(InvalidRequest, match="begin again at byte 0"):
        receiver.add("a", 3, encoded(b"two"))
    receiver.add("a", 0, encoded(b"one"))
    with pytest.raises(InvalidRequest, match="The piece at byte 3 is missing"):
        receiver.add("a", 6, encoded(b"two"))
    with pytest.raises(InvalidRequest, match="isn't Base64"):
        receiver.add("a", 3, "?")
    with pytest.raises(InvalidRequest, match="isn't complete"):
        receiver.finish("a", SHA)
    with pytest.raises(InvalidRequest, match="larger than 100 bytes"):
        receiver.add("a", 3, encoded(bytes(98)))
    with pytest.raises(InvalidRequest, match="begin again"):
        receiver.add("a", 3, encoded(b"two"))


def test_another_upload_waits_until_the_first_is_silent(
    receiver: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.add("a", 0, encoded(b"one"))
    with pytest.raises(Busy):
        receiver.add("b", 0, encoded(b"one"))
    monkeypatch.setattr(upload, "IDLE_S", 0.0)
    assert receiver.add("b", 0, encoded(b"onetwo")) == 6
    receiver.finish("b", SHA).close()

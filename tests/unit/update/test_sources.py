"""Where bundles may come from, when somebody on the bus names them."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeslm.errors import InvalidRequest
from edgeslm.update.sources import check_source

ALLOWED = ("https://updates.plant/edgeslm", "/srv/bundles")


@pytest.mark.parametrize(
    "source",
    ["https://updates.plant/edgeslm/a.tar", "https://updates.plant/edgeslm/b/c.tar", "/srv/bundles/x"],
)
def test_what_is_below_one_of_them(source: str) -> None:
    check_source(source, ALLOWED)


@pytest.mark.parametrize(
    "source",
    [
        *(
            "https://updates.plant/edgeslmx/a.tar",
            "https://updates.plant.evil/edgeslm/a.tar",
            "/srv/bundlesx",
        ),
        *("https://updates.plant/edgeslm/../a.tar", "https://updates.plant/edgeslm/%2e%2e/a.tar"),
        *("https://updates.plant/edgeslm/..%2fa.tar", "http://updates.plant/edgeslm/a.tar"),
        *("/srv/bundles/../../etc", "file:///srv/bundles/x", "/etc/passwd", ""),
    ],
)
def test_everything_else_is_refused(source: str) -> None:
    with pytest.raises(InvalidRequest, match=r"updates\.sources"):
        check_source(source, ALLOWED)


def test_a_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "out").symlink_to("/etc")
    with pytest.raises(InvalidRequest):
        check_source(str(tmp_path / "in" / "out" / "passwd"), (str(tmp_path / "in"),))

"""The topics of a node."""

from __future__ import annotations

import pytest

from edgeslm.errors import InvalidRequest
from edgeslm.protocol.topics import Topics, check_topic_name


def test_the_layout_is_protocol_version_1() -> None:
    topics = Topics("press-hall-4")
    assert topics.base == "edgeslm/v1/press-hall-4"
    assert topics.state == "edgeslm/v1/press-hall-4/state"
    assert topics.info == "edgeslm/v1/press-hall-4/info"
    assert topics.health == "edgeslm/v1/press-hall-4/health"
    assert topics.dead == "edgeslm/v1/press-hall-4/dead"
    assert topics.cancel == "edgeslm/v1/press-hall-4/cancel"
    assert topics.requests_filter == "edgeslm/v1/press-hall-4/req/+"
    assert topics.request("triage") == "edgeslm/v1/press-hall-4/req/triage"
    assert topics.result("triage") == "edgeslm/v1/press-hall-4/res/triage"
    assert topics.event("logs") == "edgeslm/v1/press-hall-4/event/logs"
    assert topics.stream("a/b") == "a/b/stream"


def test_a_prefix_of_the_site_may_have_levels() -> None:
    assert Topics("n", "plant/slm").base == "plant/slm/v1/n"


@pytest.mark.parametrize(
    ("topic", "task"),
    [
        ("edgeslm/v1/n/req/triage", "triage"),
        ("edgeslm/v1/n/req/", None),
        ("edgeslm/v1/n/req", None),
        ("edgeslm/v1/n/req/a/b", None),
        ("edgeslm/v1/other/req/triage", None),
        ("edgeslm/v1/n/res/triage", None),
    ],
)
def test_the_task_of_a_topic(topic: str, task: str | None) -> None:
    assert Topics("n").task_of(topic) == task


def test_a_topic_to_publish_to_is_checked() -> None:
    check_topic_name("factory/line-1/label")
    for topic in ("", "a/+", "a/#", "a/\0", "$SYS/x", "a/\ufdd0"):
        with pytest.raises(InvalidRequest, match="The topic"):
            check_topic_name(topic)

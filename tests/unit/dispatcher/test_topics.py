from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.dispatcher.topics import PoolTopics, Reply
from edgeslm.errors import InvalidRequest
from edgeslm.protocol.topic_filters import matches
from edgeslm.protocol.topics import check_reply_topic

TOPICS = PoolTopics("triage")


def test_to_clients_a_pool_is_what_a_node_is() -> None:
    assert TOPICS.clients.request("label") == "edgeslm/v1/pool/triage/req/label"
    assert TOPICS.answered == "edgeslm/v1/pool/triage/answered"
    assert TOPICS.lease == "edgeslm/v1/pool/triage/lease"
    assert TOPICS.clients.task_of("edgeslm/v1/pool/triage/req/label") == "label"


def test_a_node_has_a_reply_topic_of_its_own_which_it_may_send_to() -> None:
    topic = TOPICS.reply("label", "press-4")
    assert matches(TOPICS.replies_filter, topic)
    assert TOPICS.read_reply(topic) == Reply("label", "press-4", is_piece=False)
    check_reply_topic(topic, TOPICS.node("press-4"), ["edgeslm/v1/pool/+/res/#"])
    piece = TOPICS.clients.stream(topic)
    assert matches(TOPICS.pieces_filter, piece)
    assert TOPICS.read_reply(piece) == Reply("label", "press-4", is_piece=True)


def test_reply_topics_of_clients_are_others() -> None:
    for topic in ("edgeslm/v1/pool/triage/res/label", "edgeslm/v1/pool/triage/res/label/phone", "a/b"):
        assert TOPICS.read_reply(topic) is None
        assert not matches(TOPICS.replies_filter, topic)
    for tail in ("", "/", "/A", "/a/", "/a/streams", "/a/stream/more"):
        assert TOPICS.read_reply(f"edgeslm/v1/pool/triage/res/label/.dispatch{tail}") is None


def test_nobody_has_results_sent_where_another_node_answers() -> None:
    topic = TOPICS.reply("label", "press-4")
    for others in (TOPICS.clients, PoolTopics("other").clients, TOPICS.node("press-5")):
        with pytest.raises(InvalidRequest):
            check_reply_topic(topic, others, ["edgeslm/v1/pool/+/res/#"])


def test_words_of_nodes_are_told_from_those_of_pools() -> None:
    assert TOPICS.read_word("edgeslm/v1/press-4/health") == ("press-4", "health")
    for topic in ("edgeslm/v1/pool/triage/health", "edgeslm/v1/press-4/req", "edgeslm/v1/pool/health", "x"):
        assert TOPICS.read_word(topic) is None


@given(st.text(max_size=60))
def test_no_topic_is_too_strange_to_be_read(tail: str) -> None:
    for topic in (tail, f"edgeslm/v1/{tail}", f"edgeslm/v1/pool/triage/res/{tail}"):
        TOPICS.read_reply(topic)
        TOPICS.read_word(topic)

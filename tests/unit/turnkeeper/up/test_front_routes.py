"""Who serves a request, told from the first bytes of its head."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnkeeper.up.front import HEAD_LIMIT_BYTES, UNAVAILABLE_ANSWER, Kind, route

TURN = b"/v1/sessions/0197/turns"


def head(method: bytes, target: bytes, *fields: bytes) -> bytes:
    return b"\r\n".join([method + b" " + target + b" HTTP/1.1", b"Host: here", *fields, b"", b""])


@pytest.mark.parametrize(
    ("request_head", "kind"),
    [
        (head(b"GET", b"/"), Kind.WEB),
        (head(b"GET", b"/healthz"), Kind.WEB),
        (head(b"GET", b"/v1/stream"), Kind.RELAY),
        (head(b"GET", b"/v1/stream?x=1"), Kind.RELAY),
        (head(b"GET", b"/v1/streams"), Kind.WEB),
        (head(b"GET", b"/v1/turns/0197/events?after=3"), Kind.RELAY),
        (head(b"GET", b"/v1/turns/0197"), Kind.WEB),
        (head(b"GET", b"/v1/sessions/search?q=/v1/stream"), Kind.WEB),
        (head(b"POST", TURN), Kind.WEB),
        (head(b"POST", TURN, b"accept: application/json, Text/Event-Stream"), Kind.RELAY),
        (head(b"GET", TURN, b"Accept: text/event-stream"), Kind.WEB),
    ],
)
def test_the_path_decides_who_serves(request_head: bytes, kind: Kind):
    assert route(request_head) is kind


def test_a_body_that_looks_like_a_field_decides_nothing():
    assert route(head(b"POST", TURN) + b"Accept: text/event-stream\r\n\r\n") is Kind.WEB


def test_half_a_request_line_is_waited_for():
    assert route(b"GET /v1/str") is None


def test_a_head_that_never_ends_goes_to_the_web_which_refuses_it():
    assert route(b"G" * HEAD_LIMIT_BYTES) is Kind.WEB
    endless = b"POST " + TURN + b" HTTP/1.1\r\nX: " + b"y" * HEAD_LIMIT_BYTES
    assert route(endless) is Kind.WEB


@given(
    st.sampled_from(
        [head(b"POST", TURN, b"Accept: text/event-stream"), head(b"POST", TURN), head(b"GET", b"/x")]
    ),
    st.integers(min_value=0),
)
def test_more_bytes_never_change_a_decision(whole: bytes, cut: int):
    early = route(whole[: cut % (len(whole) + 1)])
    assert early in {None, route(whole)}


@given(st.binary(max_size=200))
def test_no_bytes_are_too_strange_to_route(garbage: bytes):
    assert route(garbage) in {None, Kind.WEB, Kind.RELAY}


def test_the_answer_without_a_process_is_complete_http():
    fields, _, body = UNAVAILABLE_ANSWER.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in fields

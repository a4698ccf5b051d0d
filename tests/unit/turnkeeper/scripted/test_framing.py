import gzip
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnkeeper.scripted.directives import directives_from, script_of
from turnkeeper.scripted.framing import chunk, head_bytes, shape_of
from turnkeeper.scripted.http import MAX_BODY_BYTES, MAX_HEAD_BYTES, MAX_WAITING, RequestError, RequestReader
from turnkeeper.scripted.script import Script
from turnkeeper.scripted.steps import Head

EVENT = b'event: x\ndata: {"a":1}\n\n'


def shape(setting):
    return shape_of(script_of(directives_from(setting)))


def test_a_plain_script_needs_no_shape():
    assert shape_of(Script()) is None


@pytest.mark.parametrize(("name", "newline"), [("crlf", b"\r\n"), ("cr", b"\r")])
def test_line_ends_are_replaced(name, newline):
    assert shape(f"newline={name}").bend(EVENT) == EVENT.replace(b"\n", newline)


def test_the_byte_order_mark_comes_once():
    bent = shape("bom=1")
    assert bent.bend(EVENT) + bent.bend(EVENT) == b"\xef\xbb\xbf" + EVENT + EVENT


def test_an_event_on_two_lines_joins_to_the_same_json():
    bent = shape("multiline=1").bend(EVENT)
    data = [line[6:] for line in bent.split(b"\n") if line.startswith(b"data: ")]
    assert len(data) == 2
    assert b"\n".join(data) == b'{\n"a":1}'


def test_gzip_can_be_unpacked_and_is_flushed_at_each_event():
    bent = shape("gzip=1")
    first, second = bent.bend(EVENT), bent.bend(EVENT)
    assert first
    assert second
    assert gzip.decompress(first + second + bent.end()) == EVENT * 2


def unchunked(body):
    read = b""
    while body:
        size, body = body.split(b"\r\n", 1)
        length = int(size, 16)
        read += body[:length]
        assert body[length : length + 2] == b"\r\n"
        body = body[length + 2 :]
    return read


@given(st.binary(min_size=1), st.integers(1, 20))
def test_http_chunks_of_any_size_carry_the_same_body(body, size):
    assert unchunked(shape(f"http_chunk={size}").chunks(body)) == body
    assert unchunked(chunk(body)) == body


def test_a_head_tells_the_length_or_that_chunks_follow():
    fixed = head_bytes(Head(200, "text/plain", 5), "r", chunked=False, close=False)
    assert b"content-length: 5\r\n" in fixed
    assert b"connection: close" not in fixed
    streamed = head_bytes(Head(529, "text/plain"), "r", chunked=True, close=True)
    assert streamed.startswith(b"HTTP/1.1 529 ")
    assert b"transfer-encoding: chunked\r\n" in streamed
    assert b"connection: close\r\n" in streamed
    assert streamed.endswith(b"\r\n\r\n")


REQUEST = b"POST /v1/x?a=1&b= HTTP/1.1\r\nHost: h\r\nX-Api-Key: k\r\nContent-Length: 3\r\n\r\nabc"


@given(st.lists(st.integers(0, len(REQUEST)), max_size=6))
def test_a_request_is_read_however_it_is_cut(cuts):
    reader = RequestReader(lambda data: None)
    places = [0, *sorted(cuts), len(REQUEST)]
    for start, end in pairwise(places):
        reader.feed(REQUEST[start:end])
    request = reader.next()
    assert (request.method, request.path, request.query) == ("POST", "/v1/x", {"a": "1", "b": ""})
    assert (request.headers["x-api-key"], request.body, request.keep_alive) == ("k", b"abc", True)
    assert reader.next() is None


def test_requests_sent_ahead_are_kept_in_order_up_to_a_bound():
    reader = RequestReader(lambda data: None)
    reader.feed(REQUEST + REQUEST.replace(b"abc", b"def"))
    assert [reader.next().body, reader.next().body] == [b"abc", b"def"]
    with pytest.raises(RequestError) as refused:
        reader.feed(REQUEST * (MAX_WAITING + 1))
    assert refused.value.status == 429


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nx: " + b"a" * (MAX_HEAD_BYTES + 1) + b"\r\n\r\n", 431),
        (b"POST / HTTP/1.1\r\ncontent-length: 999999999\r\n\r\n" + b"a" * (MAX_BODY_BYTES + 1), 413),
        (b"GET / HTTP/1.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n", 400),
    ],
)
def test_what_is_no_request_or_too_large_is_refused(sent, status):
    with pytest.raises(RequestError) as refused:
        RequestReader(lambda data: None).feed(sent)
    assert refused.value.status == status


def test_a_client_that_asks_first_is_told_to_go_on():
    told = []
    RequestReader(told.append).feed(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
    assert told == [b"HTTP/1.1 100 Continue\r\n\r\n"]

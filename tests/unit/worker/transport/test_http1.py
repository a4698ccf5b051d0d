"""One HTTP/1.1 connection without a socket: bytes go in as asyncio would hand them over."""

import asyncio
import itertools

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.transport.http1 import MAX_BUFFERED_BYTES, Http1Connection


class Wire:
    """Stands in for asyncio's transport, and remembers what was asked of it."""

    def __init__(self):
        self.written = b""
        self.is_aborted = False
        self.is_paused = False

    def set_write_buffer_limits(self, high):
        assert high == 0

    def write(self, data):
        self.written += data

    def abort(self):
        self.is_aborted = True

    def pause_reading(self):
        self.is_paused = True

    def resume_reading(self):
        self.is_paused = False


def exchange(*chunks, lost=None, is_lost=False, timeout_seconds=60.0):
    """Return the connection, its wire, and the body or the error that came of `chunks`."""

    async def go():
        gone = []
        connection, wire = Http1Connection(gone.append), Wire()
        connection.connection_made(wire)
        await connection.send(b"GET / HTTP/1.1\r\n\r\n", 60.0)
        for chunk in chunks:
            if not wire.is_aborted:  # asyncio hands over nothing more then
                connection.data_received(chunk)
        if is_lost:
            connection.connection_lost(lost)
            assert gone == [connection]
        body = b""
        try:
            await connection.read_head(timeout_seconds)
            while piece := await connection.read(timeout_seconds):
                body += piece
        except httpx.TransportError as exc:
            return connection, wire, body, exc
        return connection, wire, body, None

    return asyncio.run(go())


CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n\r\n"
    b"3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\nT: v\r\n\r\n"
)
SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcde"


@given(st.sampled_from([CHUNKED, SIZED]), st.lists(st.integers(0, 200), max_size=8))
def test_every_chunking_of_a_response_gives_the_same_body(response, places):
    edges = sorted({0, len(response), *(place % len(response) for place in places)})
    chunks = [response[start:end] for start, end in itertools.pairwise(edges)]
    connection, wire, body, error = exchange(*chunks)
    assert (connection.status, body, error) == (200, b"abcde", None)
    assert connection.may_reuse()
    assert not wire.is_aborted


def test_headers_are_kept_as_they_came_and_trailers_are_not():
    connection, *_ = exchange(CHUNKED)
    assert connection.headers == [(b"Transfer-Encoding", b"chunked"), (b"X-A", b"b")]


@pytest.mark.parametrize("status", [b"100 Continue", b"102 Processing", b"103 Early Hints"])
def test_an_interim_response_is_passed_over(status):
    connection, _, body, error = exchange(b"HTTP/1.1 %b\r\nLink: x\r\n\r\n" % status, SIZED)
    assert (connection.status, body, error) == (200, b"abcde", None)
    assert connection.headers == [(b"Content-Length", b"5")]
    assert connection.may_reuse()


def test_a_change_of_protocol_is_refused():
    _, wire, _, error = exchange(b"HTTP/1.1 101 Go\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n")
    assert isinstance(error, httpx.RemoteProtocolError)
    assert wire.is_aborted


def test_a_body_without_length_ends_with_the_connection():
    connection, _, body, error = exchange(b"HTTP/1.1 200 OK\r\n\r\nabc", b"de", is_lost=True)
    assert (body, error) == (b"abcde", None)
    assert not connection.may_reuse()


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_body_needs_no_length(status):
    connection, _, body, error = exchange(b"HTTP/1.1 %d X\r\n\r\n" % status)
    assert (connection.status, body, error) == (status, b"", None)


@pytest.mark.parametrize("cut", [CHUNKED[:-5], SIZED[:-1], SIZED[:30], b""])
def test_a_connection_that_ends_within_a_response_is_an_error_after_what_came(cut):
    _, _, body, error = exchange(cut, is_lost=True)
    assert isinstance(error, httpx.RemoteProtocolError)
    assert b"abcde".startswith(body)


def test_a_reset_is_a_read_error():
    _, _, body, error = exchange(SIZED[:-1], is_lost=True, lost=ConnectionResetError())
    assert body == b"abcd"
    assert isinstance(error, httpx.ReadError)


@pytest.mark.parametrize(
    "response",
    [
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"x%d: y\r\n" % n for n in range(101)) + b"\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000,
        b"HTTP/1.1 " + b"1" * 70_000,
    ],
)
def test_what_cannot_be_trusted_closes_the_connection(response):
    connection, wire, _, error = exchange(response)
    assert isinstance(error, httpx.RemoteProtocolError)
    assert wire.is_aborted
    assert not connection.may_reuse()


def test_headers_without_end_are_given_up_while_they_come():
    pieces = (b"x%d: y\r\n" % number for number in range(10_000_000))
    taken = 0

    def counted():
        nonlocal taken
        yield b"HTTP/1.1 200 OK\r\n"
        for piece in pieces:
            taken += 1
            yield piece

    chunks = counted()

    async def go():
        connection, wire = Http1Connection(lambda _: None), Wire()
        connection.connection_made(wire)
        await connection.send(b"", 1.0)
        while not wire.is_aborted:
            connection.data_received(next(chunks))

    asyncio.run(go())
    assert taken <= 105


@pytest.mark.parametrize("endless", [b"x", b"1;" + b"x", b"0\r\nt: " + b"x"])
def test_framing_without_end_is_given_up(endless):
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    _, wire, _, error = exchange(head, endless, *[b"x" * 1000] * 100)
    assert isinstance(error, httpx.RemoteProtocolError)
    assert wire.is_aborted


@pytest.mark.parametrize(
    "extra", [b"garbage", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", b"\r\nHTTP/1.1 200 OK\r\n"]
)
@pytest.mark.parametrize("together", [True, False])
def test_more_than_one_response_makes_the_connection_useless_but_not_the_response(extra, together):
    connection, _, body, error = exchange(*([SIZED + extra] if together else [SIZED, extra]))
    assert (body, error) == (b"abcde", None)
    assert not connection.may_reuse()


def test_a_server_that_speaks_unasked_is_hung_up_on():
    async def go():
        connection, wire = Http1Connection(lambda _: None), Wire()
        connection.connection_made(wire)
        connection.data_received(b"HTTP/1.1 408 Too late\r\n\r\n")
        return wire.is_aborted

    assert asyncio.run(go())


@pytest.mark.parametrize("head", [b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 200 OK\r\nConnection: close\r\n"])
def test_a_connection_that_the_server_will_close_is_not_used_again(head):
    connection, _, body, error = exchange(head + b"Content-Length: 2\r\n\r\nab")
    assert (body, error) == (b"ab", None)
    assert not connection.may_reuse()


def test_a_reader_that_does_not_read_stops_the_socket_until_it_does():
    async def go():
        connection, wire = Http1Connection(lambda _: None), Wire()
        connection.connection_made(wire)
        await connection.send(b"", 1.0)
        connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n")
        sent = 0
        while not wire.is_paused:
            connection.data_received(b"x" * 10_000)
            sent += 10_000
        assert sent <= MAX_BUFFERED_BYTES + 10_000
        assert len(await connection.read(1.0)) == sent
        assert not wire.is_paused

    asyncio.run(go())


def test_silence_is_a_timeout():
    assert isinstance(exchange(timeout_seconds=0.01)[3], httpx.ReadTimeout)
    assert isinstance(exchange(SIZED[:-1], timeout_seconds=0.01)[3], httpx.ReadTimeout)


def slow_write(then, limit_seconds=60.0):
    async def go():
        connection, wire = Http1Connection(lambda _: None), Wire()
        connection.connection_made(wire)
        connection.pause_writing()
        task = asyncio.create_task(connection.send(b"x" * 100, limit_seconds))
        await asyncio.sleep(0)
        assert not task.done()
        then(connection)
        await task

    asyncio.run(go())


def test_sending_waits_until_the_kernel_has_it_all():
    slow_write(lambda connection: connection.resume_writing())


def test_sending_ends_when_the_server_answers_before_it_has_it_all():
    slow_write(lambda connection: connection.data_received(b"HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n"))


def test_sending_to_a_server_that_does_not_read_is_a_timeout():
    with pytest.raises(httpx.WriteTimeout):
        slow_write(lambda connection: None, limit_seconds=0.05)


def test_sending_over_a_broken_connection_is_an_error():
    with pytest.raises(httpx.WriteError):
        slow_write(lambda connection: connection.connection_lost(ConnectionResetError()))

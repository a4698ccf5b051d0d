"""Our transport does for httpx what httpx's own does: one suite for both, and what only ours does.

What a response may look like is in `tests/unit/worker/transport/test_http1.py`, without sockets.
"""

import asyncio
import contextlib
import socket

import httpx
import psutil
import pytest
import uvloop

from worker.transport.egress import MOST_ADDRESSES, SystemResolver
from worker.transport.pool import UpstreamTransport
from worker.transport.stock import PinnedHttpxTransport

LIMIT_SECONDS = 60


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request):
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:

        def limited(coroutine):
            async def go():
                async with asyncio.timeout(LIMIT_SECONDS):
                    return await coroutine

            return runner.run(go())

        yield limited


@pytest.fixture(params=["ours", "httpx"])
def make_transport(request):
    def make(resolver=None):
        if request.param == "ours":
            return UpstreamTransport(resolver=resolver)
        return PinnedHttpxTransport(resolver or SystemResolver(), max_idle=64, idle_seconds=30)

    return make


def client_over(transport, timeout=LIMIT_SECONDS):
    """Return a client whose own limits, five seconds unless said, are no part of a test."""
    return httpx.AsyncClient(transport=transport, timeout=timeout)


@contextlib.asynccontextmanager
async def serving(answer, host="127.0.0.1"):
    """Serve; `answer(head, body, reader, writer)` is called for each request. Gives port and connections."""
    tasks, connections = [], []

    async def accept(reader, writer):
        tasks.append(asyncio.current_task())
        connections.append(writer)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = [line for line in head.lower().split(b"\r\n") if b"content-length" in line]
                    body = await reader.readexactly(int(length[0].split(b":")[1])) if length else b""
                    await answer(head, body, reader, writer)
                    await writer.drain()
        finally:
            writer.close()

    server = await asyncio.start_server(accept, host, 0)
    try:
        yield server.sockets[0].getsockname()[1], connections
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result


def replies(raw):
    async def answer(head, body, reader, writer):
        writer.write(raw)

    return answer


OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def test_a_request_arrives_as_it_was_made(run, make_transport):
    seen = []

    async def answer(head, body, reader, writer):
        seen.append((head, body))
        writer.write(OK)

    async def go():
        async with serving(answer) as (port, _), client_over(make_transport()) as client:
            response = await client.post(
                f"http://127.0.0.1:{port}/a%20b/ü?q=1", content=b"body", headers={"X-Key": "v"}
            )
            return response.status_code, response.text, port

    status, text, port = run(go())
    ((head, body),) = seen
    assert (status, text, body) == (200, "ok", b"body")
    assert head.startswith(b"POST /a%20b/%C3%BC?q=1 HTTP/1.1\r\n")
    assert f"host: 127.0.0.1:{port}\r\n".encode() in head.lower()
    assert b"\r\nX-Key: v\r\n" in head
    assert b"content-length: 4\r\n" in head.lower()


def test_a_large_request_is_sent_whole(run, make_transport):
    content = bytes(range(256)) * 16_384
    seen = []

    async def answer(head, body, reader, writer):
        seen.append(body == content)
        writer.write(OK)

    async def go():
        async with serving(answer) as (port, _), client_over(make_transport()) as client:
            await client.post(f"http://127.0.0.1:{port}/", content=content)

    run(go())
    assert seen == [True]


def test_a_large_response_arrives_whole_through_a_slow_reader(run, make_transport):
    content = bytes(range(256)) * 16_384
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(content)

    async def go():
        async with (
            serving(replies(head + content)) as (port, _),
            client_over(make_transport()) as client,
            client.stream("GET", f"http://127.0.0.1:{port}/") as response,
        ):
            pieces = []
            async for piece in response.aiter_raw():
                pieces.append(piece)
                await asyncio.sleep(0)
            return b"".join(pieces) == content

    assert run(go())


def test_connections_are_used_again_and_no_more_than_needed(run, make_transport):
    async def go():
        async with (
            serving(replies(OK)) as (port, connections),
            client_over(make_transport()) as client,
        ):
            for _ in range(3):
                await client.get(f"http://127.0.0.1:{port}/")
            one_by_one = len(connections)
            await asyncio.gather(*(client.get(f"http://127.0.0.1:{port}/") for _ in range(5)))
            return one_by_one, len(connections)

    one_by_one, together = run(go())
    assert one_by_one == 1
    assert together <= 5


def test_two_origins_share_no_connection(run, make_transport):
    async def go():
        async with serving(replies(OK)) as (one, first), serving(replies(OK)) as (two, second):
            async with client_over(make_transport()) as client:
                for port in (one, two, one, two):
                    await client.get(f"http://127.0.0.1:{port}/")
            return len(first), len(second)

    assert run(go()) == (1, 1)


def test_the_errors_are_httpx_own(run, make_transport):
    async def silence(head, body, reader, writer):
        await reader.read()

    async def hang_up(head, body, reader, writer):
        writer.close()

    async def go():
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            async with client_over(make_transport()) as client:
                with pytest.raises(httpx.ConnectError):
                    await client.get(f"http://127.0.0.1:{bound.getsockname()[1]}/")
                with pytest.raises(httpx.UnsupportedProtocol):
                    await client.get("ftp://127.0.0.1/")
                async with serving(silence) as (port, _):
                    impatient = httpx.Timeout(LIMIT_SECONDS, read=0.05)
                    with pytest.raises(httpx.ReadTimeout):
                        await client.get(f"http://127.0.0.1:{port}/", timeout=impatient)
                for answer in (hang_up, replies(b"no http\r\n\r\n")):
                    async with serving(answer) as (port, _):
                        with pytest.raises(httpx.RemoteProtocolError):
                            await client.get(f"http://127.0.0.1:{port}/")

    run(go())


@pytest.mark.parametrize("value", ["a\r\nx: y", "a\nb", "a\0b"])
def test_a_header_cannot_smuggle_another(run, make_transport, value):
    async def go():
        async with serving(replies(OK)) as (port, _), client_over(make_transport()) as client:
            with pytest.raises(httpx.LocalProtocolError):
                await client.get(f"http://127.0.0.1:{port}/", headers={"x-a": value})

    run(go())


def test_closing_the_client_closes_every_connection(run, make_transport):
    closed = asyncio.Event()

    async def answer(head, body, reader, writer):
        writer.write(OK)
        await writer.drain()
        await reader.read()
        closed.set()

    async def go():
        async with serving(answer) as (port, _):
            async with client_over(make_transport()) as client:
                await client.get(f"http://127.0.0.1:{port}/")
            await closed.wait()

    run(go())


# Where it connects to.


class Addresses:
    """A resolver with given answers."""

    def __init__(self, *addresses):
        self.addresses, self.asked = addresses, []

    async def resolve(self, host, port):
        self.asked.append((host, port))
        return self.addresses


def test_a_connection_goes_where_the_resolver_says_and_keeps_the_name(run, make_transport):
    seen = []

    async def answer(head, body, reader, writer):
        seen.append(head)
        writer.write(OK)

    async def go():
        resolver = Addresses("127.0.0.1")
        async with serving(answer) as (port, _):
            async with client_over(make_transport(resolver=resolver)) as client:
                await client.get(f"http://models.example:{port}/")
                await client.get(f"http://models.example:{port}/")
            return resolver.asked == [("models.example", port)], port

    asked_once, port = run(go())
    assert asked_once
    assert all(f"host: models.example:{port}".encode() in head.lower() for head in seen)


def test_the_next_address_is_tried_when_one_refuses_or_is_silent(run, make_transport):
    async def go():
        async with serving(replies(OK)) as (port, _):
            silent = socket.socket()  # the same port elsewhere, with a full backlog
            fillers = [socket.socket() for _ in range(4)]
            try:
                silent.bind(("127.0.0.3", port))
                silent.listen(0)
                for filler in fillers:
                    filler.setblocking(False)
                    with contextlib.suppress(BlockingIOError):
                        filler.connect(silent.getsockname())
                # Each gets its share of the time: most of it is left for the one that answers.
                good = ["127.0.0.1"] * (MOST_ADDRESSES - 2)
                transport = make_transport(resolver=Addresses("127.0.0.2", "127.0.0.3", *good))
                async with client_over(transport, httpx.Timeout(LIMIT_SECONDS, connect=12)) as client:
                    return (await client.get(f"http://models.example:{port}/")).text
            finally:
                for open_socket in (silent, *fillers):
                    open_socket.close()

    assert run(go()) == "ok"


def test_a_host_without_an_address_or_refused_by_the_resolver_is_not_connected_to(run, make_transport):
    class Guard:
        async def resolve(self, host, port):
            raise PermissionError("that address is not for you")

    async def go():
        for resolver in (Addresses(), Guard()):
            async with client_over(make_transport(resolver=resolver)) as client:
                with pytest.raises(httpx.ConnectError) as caught:
                    await client.get("http://models.example/")
                assert "not for you" not in str(caught.value)

    run(go())


def test_a_resolver_that_hangs_counts_as_connecting(run, make_transport):
    class Slow:
        async def resolve(self, host, port):
            await asyncio.Event().wait()

    async def go():
        async with client_over(make_transport(resolver=Slow()), timeout=0.05) as client:
            with pytest.raises(httpx.ConnectTimeout):
                await client.get("http://models.example/")

    run(go())


# Only our transport.


def test_an_unused_connection_is_closed_after_a_while_and_no_more_than_agreed_are_kept(run):
    async def go():
        transport = UpstreamTransport(max_idle=2, idle_seconds=0.05)
        barrier = asyncio.Barrier(4)

        async def answer(head, body, reader, writer):
            await barrier.wait()
            writer.write(OK)

        async with serving(answer) as (port, connections), client_over(transport) as client:
            await asyncio.gather(*(client.get(f"http://127.0.0.1:{port}/") for _ in range(4)))
            assert len(connections) == 4
            kept = established(port)
            while established(port):  # noqa: ASYNC110 -- the kernel tells nobody
                await asyncio.sleep(0.01)
            return kept

    assert run(go()) <= 2


def established(port):
    """Count this process's open connections to `port`, seen from the client's side."""
    return sum(
        bool(connection.raddr)
        and connection.raddr.port == port
        and connection.status == psutil.CONN_ESTABLISHED
        for connection in psutil.Process().net_connections("tcp")
    )


def test_a_request_of_unknown_length_is_refused(run):
    async def pieces():
        yield b"a"

    async def go():
        async with httpx.AsyncClient(transport=UpstreamTransport()) as client:
            with pytest.raises(httpx.LocalProtocolError):
                await client.post("http://127.0.0.1:9/", content=pieces())

    run(go())

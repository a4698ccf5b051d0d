"""A wire on real Redis."""

import asyncio
import socket

import pytest
import uvloop

from shared.errors import UnavailableError
from shared.redis.wire import Wire, pack


def run(scene, factory):
    async def limited():
        async with asyncio.timeout(60):
            await scene

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(limited())


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def loop(request):
    return request.param


def test_a_wire_speaks_to_redis_and_says_when_it_is_cut(redis_url, loop):
    async def scene():
        replies, answered, lost = [], asyncio.Event(), asyncio.Event()

        def reply(value):
            replies.append(value)
            if len(replies) == 3:
                answered.set()

        wire = await Wire.open(redis_url, on_reply=reply, on_lost=lost.set, client_name="wire-test")
        wire.write(pack("CLIENT", "GETNAME") + pack("INCR", "n") + pack("INCR", "n"))
        await answered.wait()
        assert replies == [b"wire-test", 1, 2]
        wire.write(pack("QUIT"))
        await lost.wait()
        assert not wire.is_open()

    run(scene(), loop)


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1:1", "redis://no-such-host.invalid:6379", "unix:///nowhere.sock"]
)
def test_a_redis_that_is_not_there_is_unavailable(url, loop):
    async def scene():
        with pytest.raises(UnavailableError):
            await Wire.open(url, on_reply=print, on_lost=print, client_name="wire-test")

    run(scene(), loop)


def test_a_redis_that_hangs_is_given_up_in_time(loop):
    async def scene(port):
        with pytest.raises(UnavailableError):
            await Wire.open(
                f"redis://127.0.0.1:{port}",
                on_reply=print,
                on_lost=print,
                client_name="wire-test",
                connect_timeout_seconds=0.1,
            )

    with socket.create_server(("127.0.0.1", 0)) as silent:
        run(scene(silent.getsockname()[1]), loop)


def test_a_wrong_password_is_refused_without_being_repeated(redis_url, loop):
    async def scene():
        host = redis_url.partition("@")[2]
        with pytest.raises(UnavailableError) as refused:
            await Wire.open(
                f"redis://:hunter2@{host}", on_reply=print, on_lost=print, client_name="wire-test"
            )
        assert "hunter2" not in str(refused.value)

    run(scene(), loop)


def test_a_certificate_that_nobody_vouches_for_is_refused(redis_url, loop):
    """A plain server stands in for any that cannot prove its name."""

    async def scene():
        host = redis_url.partition("@")[2]
        with pytest.raises(UnavailableError):
            await Wire.open(f"rediss://{host}", on_reply=print, on_lost=print, client_name="wire-test")

    run(scene(), loop)

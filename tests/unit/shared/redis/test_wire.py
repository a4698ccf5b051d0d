"""A wire against a transport that is made up; tests/integration/test_relay_wire.py has the real ones."""

import asyncio

import hiredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import UnavailableError
from shared.redis.names import PROBE
from shared.redis.wire import Wire, pack
from tests.redis_refusals import REFUSALS

SELECTED = b"+OK\r\n+OK\r\n"


class Transport:
    def __init__(self):
        self.written, self.is_aborted = b"", False

    def get_extra_info(self, name):
        return None

    def write(self, data):
        self.written += data

    def get_write_buffer_size(self):
        return len(self.written)

    def abort(self):
        self.is_aborted = True


class Owner:
    """Opens a wire on a made-up transport, with the greeting already answered."""

    def __init__(self):
        self.replies, self.reads, self.losses = [], 0, 0
        self.wire = Wire(self.replies.append, self._lost, self._read)
        self.transport = Transport()
        self.wire.connection_made(self.transport)

    async def greet(self, **options):
        greeting = asyncio.ensure_future(self.wire._greet(options, "tests"))
        await asyncio.sleep(0)
        return greeting

    async def ready(self):
        greeting = await self.greet()
        self.wire.data_received(SELECTED)
        await greeting
        self.transport.written, self.reads = b"", 0
        return self

    def _lost(self):
        self.losses += 1

    def _read(self):
        self.reads += 1


def test_commands_are_packed_as_resp():
    assert pack("SET", b"k\xff", 5) == b"*3\r\n$3\r\nSET\r\n$2\r\nk\xff\r\n$1\r\n5\r\n"


@settings(deadline=None)
@given(st.lists(st.binary(max_size=30), max_size=20), st.integers(1, 40))
def test_replies_come_whole_and_in_order_however_the_bytes_are_cut(values, size):
    async def scene():
        owner = await Owner().ready()
        data = b"".join(b"$%d\r\n%b\r\n" % (len(value), value) for value in values)
        for start in range(0, len(data), size):
            owner.wire.data_received(data[start : start + size])
        assert owner.replies == values

    asyncio.run(scene())


def test_an_error_reply_and_nothing_are_values():
    async def scene():
        owner = await Owner().ready()
        owner.wire.data_received(b"-ERR no\r\n$-1\r\n*0\r\n:7\r\n")
        assert isinstance(owner.replies[0], hiredis.ReplyError)
        assert owner.replies[1:] == [None, [], 7]
        assert owner.reads == 1

    asyncio.run(scene())


def test_a_loss_is_told_once_and_ends_writing():
    async def scene():
        owner = await Owner().ready()
        owner.wire.connection_lost(ConnectionResetError())
        owner.wire.connection_lost(None)
        owner.wire.write(pack("PING"))
        assert (owner.losses, owner.transport.written, owner.wire.is_open()) == (1, b"", False)
        assert owner.wire.buffered() == 0

    asyncio.run(scene())


def test_a_garbled_reply_is_a_loss():
    """Nothing after it can be matched to what was asked."""

    async def scene():
        owner = await Owner().ready()
        owner.wire.data_received(b"?what\r\n")
        assert (owner.losses, owner.transport.is_aborted) == (1, True)

    asyncio.run(scene())


def test_whoever_closes_is_not_told_of_a_loss():
    async def scene():
        owner = await Owner().ready()
        owner.wire.abort()
        owner.wire.connection_lost(None)
        assert owner.losses == 0

    asyncio.run(scene())


def test_login_goes_before_the_first_reply():
    async def scene():
        owner = Owner()
        greeting = await owner.greet(username="u", password="p", db=3)
        assert owner.transport.written == pack("AUTH", "u", "p") + pack("SELECT", 3) + pack(
            "CLIENT", "SETNAME", "tests"
        ) + pack(*PROBE)
        owner.wire.data_received(b"+OK\r\n+OK\r\n-NOPERM no client\r\n+OK\r\n+after\r\n")
        await greeting
        assert owner.replies == [b"after"]

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("options", "answer", "said"),
    [
        ({"password": "hunter2"}, b"-WRONGPASS hunter2 is wrong\r\n", "redis refused AUTH: WRONGPASS"),
        ({}, b"-NOAUTH Authentication required.\r\n", "redis refused CLIENT: NOAUTH"),
        ({"db": 99}, b"-ERR DB index is out of range\r\n", "redis refused SELECT: ERR"),
    ],
)
def test_a_refused_login_is_said_without_what_was_sent(options, answer, said):
    async def scene():
        owner = Owner()
        greeting = await owner.greet(**options)
        owner.wire.data_received(answer)
        with pytest.raises(Exception, match="redis refused") as refused:
            await greeting
        assert str(refused.value) == said
        assert owner.losses == 0

    asyncio.run(scene())


def test_a_connection_that_breaks_during_login_is_no_loss_of_the_owners():
    async def scene():
        owner = Owner()
        greeting = await owner.greet(password="p")
        owner.wire.connection_lost(None)
        with pytest.raises(ConnectionResetError):
            await greeting
        assert owner.losses == 0

    asyncio.run(scene())


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_server_that_does_not_serve_is_lost_and_its_refusal_is_no_reply(refusal):
    async def scene():
        owner = await Owner().ready()
        owner.wire.data_received(b":1\r\n-" + refusal.encode() + b"\r\n:2\r\n")
        assert (owner.replies, owner.losses, owner.transport.is_aborted) == ([1], 1, True)

    asyncio.run(scene())


@pytest.mark.parametrize("refusal", REFUSALS)
def test_no_connection_is_open_before_it_took_a_write(refusal):
    async def scene():
        owner = Owner()
        greeting = await owner.greet()
        owner.wire.data_received(b"+OK\r\n-" + refusal.encode() + b"\r\n")
        with pytest.raises(UnavailableError, match="refused a write"):
            await greeting

    asyncio.run(scene())


def test_a_full_server_serves_what_needs_no_memory():
    async def scene():
        owner = Owner()
        greeting = await owner.greet()
        owner.wire.data_received(b"+OK\r\n-OOM command not allowed\r\n")
        await greeting
        owner.wire.data_received(b"-OOM command not allowed\r\n:2\r\n")
        assert (owner.replies[1:], owner.losses) == ([2], 0)

    asyncio.run(scene())

"""Turns' logs and Redis's memory: one organization cannot fill it, and the turns of others lose nothing."""

import asyncio
import contextlib
import json
from itertools import cycle
from random import Random
from string import ascii_letters

import pytest
import redis

from api.relay.log import LogReader
from shared.errors import Fault
from shared.ids import new_id
from shared.redis.doorbell import QUEUE_KEY
from shared.redis.joined import join
from shared.redis.memory import LogShares
from shared.redis.names import (
    LOG_BYTES_ENDED,
    LOG_BYTES_RUNNING,
    LOG_WORKERS,
    ended_logs_key,
    joined_log_key,
    joined_logs_key,
    log_key,
)
from shared.turn.events import MessageReset
from tests.ends import done
from tests.integration.test_publisher import ACCEPTED, Fences, until
from turnkeeper.up.embedded.redis import temporary_redis
from worker.publishing.publisher import Publisher
from worker.recovery.log_keeper import LogKeeper

LIMIT_BYTES = 32 << 20
TEXTS = cycle(["".join(Random(seed).choices(ascii_letters, k=16_000)) for seed in range(40)])
"""What can hardly be compressed."""
DELTAS = 15
HOSTILE, QUIET = new_id(), new_id()
USUAL = LogShares()


class Stage:
    """A publisher and a keeper on a small Redis, and turns of two organizations."""

    def __init__(self, url: str, shares: LogShares) -> None:
        self.url = url
        self.redis = redis.Redis.from_url(url)
        fences = Fences()
        self.publisher = Publisher(
            url,
            is_trusted=fences.is_trusted,
            holds_lease=fences.holds_lease,
            max_entries=20_000,
            live_ttl_seconds=500,
            done_ttl_seconds=300,
            buffer_bytes=32 << 20,
            shares=shares,
        )
        self.keeper = LogKeeper(self.redis, shares, 300)

    async def begin(self, organization):
        session, turn = new_id(), new_id()
        last = await self.publisher.open(session, turn, ACCEPTED)
        channel = self.publisher.channel(session, turn, 1, last, new_id(), lambda: None, organization)
        return channel, log_key(session, turn)

    async def answer(self, channel, deltas: int = DELTAS) -> None:
        for _ in range(deltas):
            channel.delta(next(TEXTS), reasoning=False)
            assert await channel.drained(20)

    async def end(self, channel) -> None:
        channel.event(done())
        channel.close()
        async with asyncio.timeout(20):
            while channel in self.publisher._channels:  # noqa: ASYNC110 -- forgotten once all is in Redis
                await asyncio.sleep(0.005)

    async def run(self, organization) -> str:
        channel, log = await self.begin(organization)
        await self.answer(channel)
        await self.end(channel)
        return log

    def has(self, log: str) -> bool:
        """Return whether a log is there, joined or not."""
        return bool(self.redis.exists(log, log.replace(":log:", ":joined:")))

    def used(self) -> int:
        return self.redis.info("memory")["used_memory"]


@pytest.fixture
def play():
    """Run an asynchronous scene on a Redis of its own with 32 MB."""
    with contextlib.ExitStack() as run:
        server = run.enter_context(temporary_redis())

        def play(scene, shares=USUAL, limit=LIMIT_BYTES) -> None:
            async def played() -> None:
                stage = Stage(server.url, shares)
                stage.redis.config_set("maxmemory", limit)
                stage.publisher.start()
                try:
                    await until(stage.publisher.is_connected)
                    await scene(stage)
                finally:
                    await stage.publisher.stop(1.0)
                    stage.redis.close()

            asyncio.run(played())

        yield play


async def reported(stage: Stage) -> None:
    """Wait until the publisher has said what its logs hold and heard the answer."""
    stage.publisher._look_at = 0.0
    before = stage.publisher.memory._running_bytes, stage.publisher.memory.memory
    async with asyncio.timeout(20):
        while stage.publisher.memory.memory is before[1]:  # noqa: ASYNC110 -- a new object with each answer
            await asyncio.sleep(0.01)


def test_one_organizations_ended_logs_give_way_to_its_own_and_to_nobody_elses(play):
    async def scene(stage: Stage) -> None:
        reader = LogReader(stage.url)
        channel, _ = await stage.begin(QUIET)
        await stage.answer(channel)
        await stage.end(channel)
        whole = await reader.tail(*channel.place(), 0)
        logs = []
        # Some 50 MB, in a server of 32.
        for _ in range(200):
            logs.append(await stage.run(HOSTILE))
            await asyncio.to_thread(stage.keeper.keep)
            assert stage.used() < LIMIT_BYTES * 0.8
        assert await reader.tail(*channel.place(), 0) == whole
        assert len(whole.entries) == DELTAS + len(ACCEPTED) + 1
        reader.close()
        kept = [stage.has(log) for log in logs]
        assert kept == sorted(kept), "the oldest go first"
        assert 20 < sum(kept) < len(logs)
        assert stage.keeper.dropped == kept.count(False)
        stage.redis.lpush(QUEUE_KEY, "a doorbell")

    play(scene)


def test_running_logs_over_their_organizations_share_keep_only_their_newest_events(play):
    async def scene(stage: Stage) -> None:
        quiet, quiet_log = await stage.begin(QUIET)
        await stage.answer(quiet)
        hostile = [await stage.begin(HOSTILE) for _ in range(40)]
        for _ in range(6):
            await asyncio.gather(*(stage.answer(channel, 6) for channel, _ in hostile))
            await reported(stage)
        await stage.answer(quiet, 1)
        await asyncio.gather(*(stage.answer(channel, 1) for channel, _ in hostile))
        assert stage.used() < LIMIT_BYTES * 0.8
        assert stage.redis.xlen(quiet_log) == len(ACCEPTED) + DELTAS + 1
        for channel, log in hostile:
            # The newest is there, so a reader that follows misses nothing and no older attempt can write.
            ((newest, _),) = stage.redis.xrevrange(log, count=1)
            assert newest == f"1-{channel.seq}".encode()
            assert channel.seq == len(ACCEPTED) + 37
        assert sum(stage.redis.xlen(log) < 37 for _, log in hostile) > 30
        assert stage.publisher.memory.cut_short > 30

    play(scene)


def test_a_redis_that_something_else_fills_keeps_room_for_doorbells(play):
    async def scene(stage: Stage) -> None:
        log = await stage.run(QUIET)
        stage.redis.setrange("somebody else's", int(LIMIT_BYTES * 0.8), b"x")
        await reported(stage)
        await asyncio.to_thread(stage.keeper.keep)
        assert not stage.has(log)
        running, log = await stage.begin(QUIET)
        await stage.answer(running, 100)
        assert stage.redis.xlen(log) < 20
        assert stage.used() < LIMIT_BYTES * 0.9
        stage.redis.lpush(QUEUE_KEY, "a doorbell")

    play(scene)


def test_a_busy_publisher_reports_and_looks_as_often_as_an_idle_one(play):
    async def scene(stage: Stage) -> None:
        channel, _ = await stage.begin(QUIET)
        stage.redis.client_pause(1500)
        channel.delta("text", reasoning=False)
        await until(lambda: channel._in_flight)
        stage.publisher._look_at = 0.0
        # The reply to the flush is still to come, as it always is when much is published.
        await until(lambda: len(stage.publisher._expected) > 1)
        assert channel._in_flight
        assert await channel.drained(20)
        channel.discard()

    play(scene)


def test_a_server_without_a_limit_is_taken_to_have_the_configured_memory(play):
    async def scene(stage: Stage) -> None:
        for _ in range(60):
            await stage.run(HOSTILE)
            await asyncio.to_thread(stage.keeper.keep)
        held = int(stage.redis.hget(LOG_BYTES_ENDED, str(HOSTILE)))
        assert 0 < held <= (10 << 20) * 0.3
        assert stage.keeper.dropped > 10

    play(scene, LogShares(assumed_bytes=10 << 20), limit=0)


def test_all_together_over_their_share_the_largest_gives_way(play):
    async def scene(stage: Stage) -> None:
        small = [await stage.run(QUIET) for _ in range(2)]
        large = [await stage.run(HOSTILE) for _ in range(20)]
        await asyncio.to_thread(stage.keeper.keep)
        assert all(stage.has(log) for log in small)
        assert not stage.has(large[0])
        assert stage.has(large[-1])

    play(scene, LogShares(assumed_bytes=5 << 20, percent=60, percent_of_one=70), limit=0)


def test_the_counts_hold_when_logs_expire_workers_die_and_redis_loses_everything(play):
    async def scene(stage: Stage) -> None:
        await stage.run(QUIET)
        running, _ = await stage.begin(HOSTILE)
        await stage.answer(running, 10)
        await reported(stage)
        assert int(stage.redis.hget(LOG_BYTES_RUNNING, str(HOSTILE))) == running.log_bytes
        stage.redis.flushall()
        await reported(stage)
        assert int(stage.redis.hget(LOG_BYTES_RUNNING, str(HOSTILE))) == running.log_bytes
        assert int(stage.redis.hget(LOG_BYTES_RUNNING, "*")) == running.log_bytes
        # A worker that has said nothing for long: what it said is taken back.
        dead = new_id()
        stage.redis.hset(f"{LOG_BYTES_RUNNING}:{dead}", str(QUIET), 1000)
        stage.redis.hincrby(LOG_BYTES_RUNNING, str(QUIET), 1000)
        stage.redis.hincrby(LOG_BYTES_RUNNING, "*", 1000)
        stage.redis.zadd(LOG_WORKERS, {str(dead): 1})
        await reported(stage)
        assert stage.redis.hget(LOG_BYTES_RUNNING, str(QUIET)) is None
        assert int(stage.redis.hget(LOG_BYTES_RUNNING, "*")) == running.log_bytes
        assert stage.redis.zcard(LOG_WORKERS) == 1
        # Ended, and then expired.
        running.event(MessageReset(Fault.WORKER_LOST))
        await stage.end(running)
        await reported(stage)
        assert stage.redis.hget(LOG_BYTES_RUNNING, str(HOSTILE)) is None
        ((member, _),) = stage.redis.zrange(ended_logs_key(HOSTILE), 0, -1, withscores=True)
        stage.redis.zadd(ended_logs_key(HOSTILE), {member: 1})
        await asyncio.to_thread(stage.keeper.keep)
        assert stage.redis.hget(LOG_BYTES_ENDED, str(HOSTILE)) is None
        assert int(stage.redis.hget(LOG_BYTES_ENDED, "*")) == 0
        assert not stage.redis.exists(ended_logs_key(HOSTILE))

    play(scene)


def test_a_joined_log_takes_a_fraction_and_is_replayed_as_before(play):
    async def scene(stage: Stage) -> None:
        reader = LogReader(stage.url)
        channel, log = await stage.begin(QUIET)
        for number in range(500):
            channel.delta(f" word{number}", reasoning=number < 20)
            assert await channel.drained(20)
        await stage.end(channel)
        session, turn = channel.place()
        before = {after: await reader.tail(session, turn, after) for after in (0, 1, 200, channel.seq)}
        size = stage.redis.memory_usage(log)
        stage.redis.expire(log, 250)
        await asyncio.to_thread(stage.keeper.keep)
        assert stage.keeper.joined == 1
        joined = joined_log_key(session, turn)
        assert not stage.redis.exists(log)
        assert stage.redis.memory_usage(joined) * 5 < size
        assert 200 < stage.redis.ttl(joined) <= 250
        assert {after: await reader.tail(session, turn, after) for after in before} == before
        # It counts as what it is now, once, and gives way like any other.
        assert int(stage.redis.hget(LOG_BYTES_ENDED, str(QUIET))) == stage.redis.strlen(joined)
        await asyncio.to_thread(stage.keeper.keep)
        assert stage.keeper.joined == 1
        stage.redis.zadd(
            joined_logs_key(QUIET), dict.fromkeys(stage.redis.zrange(joined_logs_key(QUIET), 0, -1), 1)
        )
        await asyncio.to_thread(stage.keeper.keep)
        assert not stage.has(log)
        assert stage.redis.hget(LOG_BYTES_ENDED, str(QUIET)) is None
        reader.close()

    play(scene, LogShares(assumed_bytes=1 << 20, percent=20, percent_of_one=20), limit=0)


def test_a_log_that_was_erased_meanwhile_is_not_joined(play):
    async def scene(stage: Stage) -> None:
        log = await stage.run(QUIET)
        xrange = stage.redis.xrange

        def erased_meanwhile(name):
            found = xrange(name)
            stage.redis.delete(name)
            return found

        stage.keeper._redis.xrange = erased_meanwhile
        await asyncio.to_thread(stage.keeper.keep)
        assert stage.keeper.joined == 1
        assert not stage.has(log)

    play(scene, LogShares(assumed_bytes=1 << 20), limit=0)


def test_events_of_a_joined_log_are_read_page_by_page(api, keys, as_owner, redis_url):
    session = api.session(keys.alice)
    turn = api.turn(keys.alice, session)
    client = redis.Redis.from_url(redis_url)
    events = [
        {
            "type": "content_delta",
            "session_id": session,
            "turn_id": turn,
            "seq": seq,
            "attempt": 1,
            "delta": "x",
        }
        for seq in range(1, 31)
    ]
    joined = join((f"1-{event['seq']}".encode(), b"e", json.dumps(event).encode()) for event in events)
    until_opened = log_key(session, turn)
    api.services.notices.drain()
    client.delete(until_opened)
    client.set(joined_log_key(session, turn), joined)
    as_owner("update turnkeeper.turns set attempt = 1, status = 'running'")
    page = api.get(f"/v1/turns/{turn}/events?after=10&limit=100", keys.alice).json
    assert [event["seq"] for event in page["data"]] == list(range(11, 31))
    client.close()

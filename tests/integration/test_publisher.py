"""The publisher against a real Redis: the log has exactly what was published, whatever happens to Redis."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from itertools import pairwise
from time import monotonic

import pytest
import redis

from shared.errors import Fault
from shared.ids import new_id
from shared.redis.names import log_key
from shared.turn.events import (
    EventEncoder,
    MessageEnd,
    MessageReset,
    MessageStart,
    StopRequested,
    TurnStarted,
)
from shared.turn.turns import FinishReason, StopReason
from tests.ends import done
from worker.publishing.channel import Channel
from worker.publishing.publisher import Publisher

DEADLINE_SECONDS = 60
ACCEPTED = [(1, b'{"seq":1}'), (2, b'{"seq":2}')]
STARTED = TurnStarted("p", "m")
VOID = MessageReset(Fault.WORKER_LOST)
ENDED = MessageEnd(None, FinishReason.STOP)


class Fences:
    """Replaces the lease keeper: trusts and holds until told otherwise."""

    def __init__(self) -> None:
        self.trusted = True
        self.held = True
        self.fenced = 0
        self.while_asked = lambda: None

    def is_trusted(self) -> bool:
        return self.trusted

    async def holds_lease(self, turn_id, attempt) -> bool:
        self.while_asked()
        return self.held

    def fence(self) -> None:
        self.fenced += 1


class Stage:
    """A publisher, one turn and a client that looks at the log."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.redis = redis.Redis.from_url(url)
        self.fences = Fences()
        self.session, self.turn, self.message = new_id(), new_id(), new_id()

    def begin(self, **options) -> Publisher:
        self.publisher = Publisher(
            options.pop("url", self.url),
            is_trusted=self.fences.is_trusted,
            holds_lease=self.fences.holds_lease,
            max_entries=20_000,
            live_ttl_seconds=500,
            done_ttl_seconds=300,
            buffer_bytes=options.pop("buffer_bytes", 1 << 20),
        )
        self.publisher.start()
        return self.publisher

    async def open(self, attempt=1) -> Channel:
        await until(lambda: self.publisher._wire is not None)
        last = await self.publisher.open(self.session, self.turn, ACCEPTED)
        return self.publisher.channel(self.session, self.turn, attempt, last, self.message, self.fences.fence)

    @property
    def key(self) -> str:
        return log_key(self.session, self.turn)

    def log(self):
        return [
            (entry_id.decode(), next(iter(fields)).decode(), json.loads(next(iter(fields.values()))))
            for entry_id, fields in self.redis.xrange(self.key)
        ]

    def text(self) -> str:
        text = ""
        for _, field, event in self.log():
            text = event["content"] if field == "s" else text + event.get("delta", "")
        return text


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition():  # noqa: ASYNC110 -- any condition, and this is how tests wait
            await asyncio.sleep(0.005)


def play(stage: Stage, work: Callable[[Stage], Awaitable[None]], **options) -> None:
    async def run() -> None:
        publisher = stage.begin(**options)
        try:
            await work(stage)
        finally:
            await publisher.stop(1.0)

    asyncio.run(run())


@pytest.fixture
def stage(redis_url):
    stage = Stage(redis_url)
    yield stage
    stage.redis.close()


def test_events_are_numbered_without_a_hole_and_published_as_they_are_logged(stage):
    heard = stage.redis.pubsub()
    heard.subscribe(f"tk:{{{stage.session}}}:events")
    assert heard.get_message(timeout=DEADLINE_SECONDS)["type"] == "subscribe"

    async def work(stage):
        channel = await stage.open()
        channel.event(STARTED)
        for word in ("a", "b", "c"):
            channel.delta(word, reasoning=False)
            await until(channel.is_idle)
        channel.encoded(7, b'{"type":"done","seq":7}')
        channel.close()
        await until(channel.is_idle)

    play(stage, work)
    assert [entry_id for entry_id, _, _ in stage.log()] == ["0-1", "0-2", "1-3", "1-4", "1-5", "1-6", "1-7"]
    published = [json.loads(heard.get_message(timeout=DEADLINE_SECONDS)["data"]) for _ in range(7)]
    assert published == [event for _, _, event in stage.log()]
    assert 0 < stage.redis.ttl(stage.key) <= 300
    heard.close()


def test_deltas_that_come_together_leave_as_one_event_but_never_mixed_with_thinking(stage):
    async def work(stage):
        channel = await stage.open()
        for reasoning, text in ((True, "hm"), (True, "m"), (False, "a"), (False, "b"), (True, "x")):
            channel.delta(text, reasoning=reasoning)
        await until(channel.is_idle)

    play(stage, work)
    deltas = [(event["type"], event["delta"]) for _, _, event in stage.log()[2:]]
    assert deltas == [("reasoning_delta", "hmm"), ("content_delta", "ab"), ("reasoning_delta", "x")]


def test_killed_connections_lose_and_double_nothing(stage):
    async def work(stage):
        channel = await stage.open()
        for number in range(400):
            channel.delta(f"{number} ", reasoning=False)
            if number % 40 == 7:
                stage.redis.client_kill_filter(_type="normal", skipme=True)
            await asyncio.sleep(0)
        await until(channel.is_idle)

    play(stage, work)
    assert stage.text() == "".join(f"{number} " for number in range(400))
    seqs = [event["seq"] for _, _, event in stage.log()]
    assert all(later == earlier + 1 for earlier, later in pairwise(seqs))


def test_a_log_that_redis_lost_begins_again_with_a_snapshot_and_goes_on(stage):
    async def work(stage):
        channel = await stage.open()
        channel.delta("before ", reasoning=False)
        await until(channel.is_idle)
        stage.redis.flushall()
        channel.delta("after", reasoning=False)
        await until(channel.is_idle)
        channel.delta(" and on", reasoning=False)
        await until(channel.is_idle)

    play(stage, work)
    (first_id, field, snapshot), *rest = stage.log()
    assert field == "s"
    assert snapshot["type"] == "snapshot"
    assert snapshot["message_id"] == str(stage.message)
    assert first_id == f"1-{snapshot['seq']}"
    assert [event["seq"] for _, _, event in rest] == list(
        range(snapshot["seq"] + 1, snapshot["seq"] + 1 + len(rest))
    )
    assert stage.text() == "before after and on"


def encoded_done(stage, seq: int) -> bytes:
    return EventEncoder(stage.session, stage.turn).encode(done(), seq, 1, "")


def test_done_follows_the_snapshot_of_a_log_that_was_lost_before_it(stage):
    async def work(stage):
        channel = await stage.open()
        channel.delta("before", reasoning=False)
        await until(channel.is_idle)
        stage.redis.flushall()
        channel.delta(" after", reasoning=False)
        seq = channel.next_seq()
        channel.encoded(seq, encoded_done(stage, seq))
        channel.close()
        await until(channel.is_idle)

    play(stage, work)
    (first_id, field, snapshot), (done_id, _, done) = stage.log()
    assert (field, snapshot["content"], done["type"]) == ("s", "before after", "done")
    assert (first_id, done_id) == (f"1-{snapshot['seq']}", f"1-{done['seq']}")
    assert done["seq"] == snapshot["seq"] + 1


def test_done_follows_the_snapshot_of_a_backlog_that_was_over_its_bound(stage):
    async def work(stage):
        channel = await stage.open()
        stage.fences.trusted = False  # nothing leaves
        channel.delta("x" * 5000, reasoning=False)
        seq = channel.next_seq()
        channel.encoded(seq, encoded_done(stage, seq))
        await until(lambda: not channel._pending)
        stage.fences.trusted = True
        channel.close()
        await until(channel.is_idle)

    play(stage, work, buffer_bytes=1000)
    *_, (_, field, snapshot), (_, _, done) = stage.log()
    assert (field, snapshot["content"], done["type"]) == ("s", "x" * 5000, "done")
    assert done["seq"] == snapshot["seq"] + 1


def test_a_worker_that_lost_its_lease_cannot_begin_a_log_again(stage):
    async def work(stage):
        channel = await stage.open()
        channel.delta("before", reasoning=False)
        await until(channel.is_idle)
        stage.fences.held = False
        stage.redis.flushall()
        channel.delta("after", reasoning=False)
        await until(lambda: stage.fences.fenced == 1)

    play(stage, work)
    assert stage.log() == []


def test_an_older_attempt_can_neither_write_nor_publish(stage):
    heard = stage.redis.pubsub()

    async def work(stage):
        old = await stage.open(attempt=1)
        new = await stage.open(attempt=2)
        new.delta("new", reasoning=False)
        await until(new.is_idle)
        heard.subscribe(f"tk:{{{stage.session}}}:events")
        assert heard.get_message(timeout=DEADLINE_SECONDS)["type"] == "subscribe"
        old.delta("old", reasoning=False)
        await until(lambda: stage.fences.fenced == 1)

    play(stage, work)
    assert stage.text() == "new"
    stage.redis.publish(f"tk:{{{stage.session}}}:events", "last")
    assert heard.get_message(timeout=DEADLINE_SECONDS)["data"] == b"last"  # and nothing before it
    heard.close()


def test_what_an_older_attempt_sent_is_refused_once_the_next_has_taken_over(stage):
    """I3: the log is shut before the next attempt has anything to tell."""

    async def work(stage):
        old = await stage.open(attempt=1)
        old.event(STARTED)
        await until(old.is_idle)
        assert await stage.publisher.take_over(stage.session, stage.turn, 2) is False
        before = stage.redis.xrange(stage.key)
        heard.subscribe(f"tk:{{{stage.session}}}:events")
        assert heard.get_message(timeout=DEADLINE_SECONDS)["type"] == "subscribe"
        old.delta("late", reasoning=False)
        await until(old.is_idle)
        assert stage.redis.xrange(stage.key) == before
        new = stage.publisher.channel(stage.session, stage.turn, 2, 3, stage.message, stage.fences.fence)
        new.delta("new", reasoning=False)
        await until(new.is_idle)

    heard = stage.redis.pubsub()
    play(stage, work)
    assert json.loads(heard.get_message(timeout=DEADLINE_SECONDS)["data"])["delta"] == stage.text() == "new"
    heard.close()


@pytest.mark.parametrize(
    ("told", "stands"),
    [
        (("delta",), True),
        (("delta", ENDED), True),
        (("delta", VOID), False),
        (("delta", VOID, STARTED, "delta"), True),
        ((STARTED, MessageStart("m")), False),
        ((StopRequested(StopReason.USER),) * 70, True),  # too many to look at all of them
    ],
)
def test_who_takes_over_learns_whether_text_stands_in_the_log(stage, told, stands):
    async def work(stage):
        old = await stage.open(attempt=1)
        for one in told:
            if one == "delta":
                old.delta("text", reasoning=False)
            else:
                old.event(one)
        await until(old.is_idle)
        assert await stage.publisher.take_over(stage.session, stage.turn, 2) is stands
        assert await stage.publisher.take_over(stage.session, stage.turn, 2) is stands
        stage.redis.flushdb()
        assert await stage.publisher.take_over(stage.session, stage.turn, 2) is True

    play(stage, work)


def test_a_process_whose_leases_are_stale_by_its_own_clock_shows_nothing(stage):
    async def work(stage):
        channel = await stage.open()
        stage.fences.trusted = False
        channel.delta("zombie", reasoning=False)
        for _ in range(20):
            await asyncio.sleep(0)
        assert stage.text() == ""
        stage.fences.trusted = True
        await until(channel.is_idle)

    play(stage, work)
    assert stage.text() == "zombie"


def test_a_discarded_channel_tells_nothing_any_more(stage):
    async def work(stage):
        channel = await stage.open()
        channel.delta("shown", reasoning=False)
        await until(channel.is_idle)
        channel.discard()
        channel.event(ENDED)
        channel.delta("late", reasoning=False)
        channel.encoded(channel.next_seq(), b'{"type":"done"}')
        other = stage.publisher.channel(stage.session, stage.turn, 2, 3, stage.message, stage.fences.fence)
        other.event(VOID)
        await until(other.is_idle)

    play(stage, work)
    assert [entry_id for entry_id, _, _ in stage.log()] == ["0-1", "0-2", "1-3", "2-4"]


def test_an_event_with_another_number_than_its_place_is_not_told(stage, caplog):
    """I4: a reader would take it for the next one."""

    async def work(stage):
        channel = await stage.open()
        channel.encoded(7, b'{"type":"done","seq":7}')
        assert channel.is_idle()

    play(stage, work)
    assert [entry_id for entry_id, _, _ in stage.log()] == ["0-1", "0-2"]
    assert "another number than its place" in caplog.text


def test_a_channel_that_is_being_settled_is_fenced_no_more(stage):
    async def work(stage):
        channel = await stage.open()
        stage.fences.trusted = False
        channel.delta("last words", reasoning=False)
        channel.end()
        channel.fence()
        stage.fences.trusted = True
        await until(channel.is_idle)

    play(stage, work)
    assert stage.text() == "last words"


def test_a_backlog_over_its_bound_becomes_a_snapshot(stage):
    async def work(stage):
        channel = await stage.open()
        channel.delta("a", reasoning=False)
        await until(channel.is_idle)
        stage.fences.trusted = False  # nothing leaves, as if Redis hung
        for _ in range(100):
            channel.delta("x" * 100, reasoning=False)
        await until(lambda: channel.wants_restart(monotonic()))
        stage.fences.trusted = True
        stage.redis.client_kill_filter(_type="normal", skipme=True)
        await until(channel.is_idle)
        channel.delta("z", reasoning=False)
        await until(channel.is_idle)

    play(stage, work, buffer_bytes=5000)
    assert stage.text() == "a" + "x" * 10_000 + "z"
    assert [field for _, field, _ in stage.log()].count("s") == 1


def test_a_second_opening_of_a_log_changes_nothing(stage):
    async def work(stage):
        first = await stage.open()
        first.delta("a", reasoning=False)
        await until(first.is_idle)
        assert await stage.publisher.open(stage.session, stage.turn, ACCEPTED) == 3

    play(stage, work)
    assert len(stage.log()) == 3


def test_what_another_thread_reads_is_text_exactly_through_its_number(stage):
    async def work(stage):
        channel = await stage.open()
        channel.delta("seen", reasoning=False)
        await until(channel.is_idle)
        channel.delta(" pending", reasoning=False)
        seq, content, reasoning = channel.text_so_far()
        assert (seq, content, reasoning) == (3, "seen", "")
        await until(channel.is_idle)

    play(stage, work)


def test_a_text_to_continue_stands_in_a_lost_log_before_its_continuation_and_its_end(stage):
    async def work(stage):
        stage.fences.held = False  # settled by the time that PostgreSQL would be asked
        channel = await stage.open(attempt=2)
        channel.go_on_from("so far", is_in_log=False)
        channel.delta(" and on", reasoning=False)
        channel.encoded(channel.next_seq(), b'{"type":"done","seq":5}')
        channel.close()
        await until(channel.is_idle)
        assert channel.text_so_far()[1] == "so far and on"

    play(stage, work)
    assert [entry_id for entry_id, _, _ in stage.log()] == ["0-1", "0-2", "2-3", "2-4", "2-5"]
    assert stage.text() == "so far and on"
    assert stage.fences.fenced == 0


def test_a_lost_log_of_a_turn_that_is_settled_meanwhile_begins_again(stage):
    async def work(stage):
        channel = await stage.open()
        channel.delta("text", reasoning=False)
        await until(channel.is_idle)
        stage.fences.while_asked = channel.close
        stage.fences.held = False
        stage.redis.delete(stage.key)
        channel.encoded(channel.next_seq(), b'{"type":"done","seq":4}')
        await until(channel.is_idle)

    play(stage, work)
    assert stage.fences.fenced == 0
    assert stage.text() == "text"

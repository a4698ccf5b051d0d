import threading
from uuid import uuid4

import pytest
from redis import ConnectionError as RedisConnectionError

from api.outbox import MOST_WAITING, Ended, Nudge, Outbox, Ring


class FakePipeline:
    def __init__(self, redis):
        self.redis = redis
        self.commands = []

    def eval(self, *arguments):
        self.commands.append("eval")

    def set(self, *arguments, **options):
        self.commands.append("set")

    def publish(self, *arguments):
        self.commands.append("publish")

    def execute(self, raise_on_error=True):
        self.redis.gate.wait(10)
        if self.redis.is_away:
            raise RedisConnectionError("away")
        self.redis.written += self.commands
        return [None] * len(self.commands)


class FakeRedis:
    def __init__(self):
        self.gate = threading.Event()
        self.gate.set()
        self.is_away = False
        self.written = []

    def pipeline(self, transaction=True):
        return FakePipeline(self)


class FakeDoorbell:
    def __init__(self):
        self.rung = []
        self.error = None

    def ring(self, turn_id, traceparent):
        if self.error is not None:
            raise self.error
        self.rung.append(turn_id)


@pytest.fixture
def redis():
    return FakeRedis()


@pytest.fixture
def doorbell():
    return FakeDoorbell()


@pytest.fixture
def outbox(redis, doorbell):
    outbox = Outbox(redis, doorbell, log_entries=100, log_ttl_seconds=60, ended_ttl_seconds=30)
    yield outbox
    redis.gate.set()
    outbox.close()


def ring(opened=None):
    return Ring(uuid4(), uuid4(), "", [(1, b"{}")], opened)


def test_a_turns_log_is_opened_before_its_doorbell_rings(outbox, redis, doorbell):
    redis.gate.clear()
    outbox.put(ring())
    assert doorbell.rung == []
    redis.gate.set()
    assert outbox.drain(10)
    assert (redis.written, len(doorbell.rung)) == (["eval"], 1)


def test_putting_never_waits_while_redis_hangs(outbox, redis):
    redis.gate.clear()
    for _ in range(500):
        outbox.put(ring())
    assert not outbox.drain(0)
    redis.gate.set()
    assert outbox.drain(10)


def test_a_doorbell_is_rung_although_the_log_could_not_be_written(outbox, redis, doorbell):
    redis.is_away = True
    opened = threading.Event()
    outbox.put(ring(opened))
    assert opened.wait(10)  # whoever waits for the log is not left waiting
    assert outbox.drain(10)
    assert (outbox.failed, len(doorbell.rung)) == (1, 1)


@pytest.mark.parametrize("error", [OSError("reset"), RedisConnectionError("away"), RuntimeError("a mistake")])
def test_an_error_loses_one_notice_and_not_the_outbox(outbox, redis, doorbell, error):
    doorbell.error = error
    for _ in range(5):
        outbox.put(ring())
        assert outbox.drain(10)
    doorbell.error = None
    outbox.put(ring())
    assert outbox.drain(10)
    assert (outbox.failed, len(doorbell.rung)) == (5, 1)


def test_an_overflow_drops_the_oldest(outbox, redis, doorbell):
    redis.gate.clear()
    notices = [ring() for _ in range(MOST_WAITING + 1_000)]
    for notice in notices:
        outbox.put(notice)
    assert 0 < outbox.dropped <= 1_000
    redis.gate.set()
    assert outbox.drain(30)
    assert notices[-1].turn_id in doorbell.rung
    assert len(doorbell.rung) == len(notices) - outbox.dropped


def test_a_nudge_sets_the_flag_before_it_is_published(outbox, redis, doorbell):
    outbox.put(Nudge(uuid4(), uuid4(), "user"))
    assert outbox.drain(10)
    assert redis.written == ["set", "publish"]
    assert doorbell.rung == []


def test_what_waits_is_sent_at_the_end(outbox, redis, doorbell):
    for _ in range(100):
        outbox.put(ring())
    outbox.close()
    assert len(doorbell.rung) == 100
    outbox.put(ring())  # too late, and no harm
    assert len(doorbell.rung) == 100


def test_nothing_runs_before_the_first_notice(redis, doorbell):
    before = threading.active_count()
    Outbox(redis, doorbell, log_entries=1, log_ttl_seconds=1, ended_ttl_seconds=1)
    assert threading.active_count() == before


def test_the_end_of_a_turn_that_waited_wakes_a_worker_for_the_one_behind_it(outbox, redis, doorbell):
    behind = uuid4()
    outbox.put(Ended(uuid4(), uuid4(), 0, [(1, b"{}")], 2, [b"{}"], behind))
    outbox.put(Ended(uuid4(), uuid4(), 0, [(1, b"{}")], 2, [b"{}"]))
    assert outbox.drain(10)
    assert redis.written == ["eval"] * 4
    assert doorbell.rung == [behind]

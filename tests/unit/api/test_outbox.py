import json
import threading
from uuid import UUID, uuid4

import pytest
from redis import ConnectionError as RedisConnectionError

from api.outbox import MOST_WAITING, Ended, Nudge, Outbox, Ring
from shared.doorbell import QUEUE_KEY, arguments_of


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

    def lpush(self, key, message):
        assert key == QUEUE_KEY
        turn_id, _ = arguments_of(json.loads(message)["body"])
        self.commands.append(UUID(turn_id))

    def execute(self, raise_on_error=True):
        self.redis.gate.wait(60)
        if self.redis.error is not None:
            raise self.redis.error
        self.redis.written += self.commands
        return [self._reply(command) for command in self.commands]

    def _reply(self, command):
        return RedisConnectionError("refused") if self.redis.refuses and command == "eval" else None


class FakeRedis:
    def __init__(self):
        self.gate = threading.Event()
        self.gate.set()
        self.error = None
        self.refuses = False
        self.written = []

    @property
    def rung(self):
        return [each for each in self.written if isinstance(each, UUID)]

    def pipeline(self, transaction=True):
        return FakePipeline(self)


@pytest.fixture
def redis():
    return FakeRedis()


@pytest.fixture
def outbox(redis):
    outbox = Outbox(redis, log_entries=100, log_ttl_seconds=60, ended_ttl_seconds=30)
    yield outbox
    redis.gate.set()
    outbox.close()


def ring(opened=None):
    return Ring(uuid4(), uuid4(), "", [(1, b"{}")], opened)


def test_a_turns_log_is_opened_before_its_doorbell_rings(outbox, redis):
    turn = ring()
    outbox.put(turn)
    assert outbox.drain(60)
    assert redis.written == ["eval", turn.turn_id]


def test_putting_never_waits_while_redis_hangs(outbox, redis):
    redis.gate.clear()
    for _ in range(500):
        outbox.put(ring())
    assert not outbox.drain(0)
    redis.gate.set()
    assert outbox.drain(60)


def test_a_doorbell_is_rung_although_the_log_was_refused(outbox, redis):
    redis.refuses = True
    outbox.put(ring())
    assert outbox.drain(60)
    assert (outbox.failed, len(redis.rung)) == (1, 1)


@pytest.mark.parametrize("error", [OSError("reset"), RedisConnectionError("away"), RuntimeError("a mistake")])
def test_an_error_loses_one_notice_and_not_the_outbox(outbox, redis, error):
    redis.error = error
    opened = threading.Event()
    for _ in range(5):
        outbox.put(ring(opened))
        assert outbox.drain(60)
    # Whoever waits for the log is told by a timeout of its own when the outbox made a mistake.
    assert opened.is_set() == (not isinstance(error, RuntimeError))
    redis.error = None
    outbox.put(ring())
    assert outbox.drain(60)
    assert (outbox.failed, len(redis.rung)) == (5, 1)


def test_an_overflow_drops_the_oldest(outbox, redis):
    redis.gate.clear()
    notices = [ring() for _ in range(MOST_WAITING + 1_000)]
    for notice in notices:
        outbox.put(notice)
    assert 0 < outbox.dropped <= 1_000
    redis.gate.set()
    assert outbox.drain(60)
    assert notices[-1].turn_id in redis.rung
    assert len(redis.rung) == len(notices) - outbox.dropped


def test_a_nudge_sets_the_flag_before_it_is_published(outbox, redis):
    outbox.put(Nudge(uuid4(), uuid4(), "user"))
    assert outbox.drain(60)
    assert redis.written == ["set", "publish"]
    assert redis.rung == []


def test_what_waits_is_sent_at_the_end(outbox, redis):
    for _ in range(100):
        outbox.put(ring())
    outbox.close()
    assert len(redis.rung) == 100
    outbox.put(ring())  # too late, and no harm
    assert len(redis.rung) == 100


def test_nothing_runs_before_the_first_notice(redis):
    before = set(threading.enumerate())  # one of an earlier test may end meanwhile
    Outbox(redis, log_entries=1, log_ttl_seconds=1, ended_ttl_seconds=1)
    assert set(threading.enumerate()) <= before


def test_the_end_of_a_turn_that_waited_wakes_a_worker_for_the_one_behind_it(outbox, redis):
    behind = uuid4()
    outbox.put(Ended(uuid4(), uuid4(), 0, [(1, b"{}")], 2, [b"{}"], behind))
    outbox.put(Ended(uuid4(), uuid4(), 0, [(1, b"{}")], 2, [b"{}"]))
    assert outbox.drain(60)
    assert [each for each in redis.written if each == "eval"] == ["eval"] * 4
    assert redis.rung == [behind]

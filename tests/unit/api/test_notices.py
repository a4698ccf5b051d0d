import json
import threading
from uuid import UUID, uuid4

import pytest
from redis import ConnectionError as RedisConnectionError
from redis import ResponseError

from api.notices import MOST_WAITING, Ended, Notices, Nudge, Ring
from shared.redis.doorbell import QUEUE_KEY, arguments_of


class FakePipeline:
    def __init__(self, redis):
        self.redis = redis
        self.commands = []

    @property
    def command_stack(self):
        return [((command,), {}) for command in self.commands]

    def eval(self, *arguments):
        self.commands.append("eval")

    def set(self, *arguments, **options):
        self.commands.append("set")

    def publish(self, *arguments):
        self.commands.append("publish")

    def lpush(self, key, message):
        assert key == QUEUE_KEY
        if self.redis.mistake is not None:
            raise self.redis.mistake
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


class FakeConnection:
    """A connection that is at hand; what is written on it is done when it is written."""

    def __init__(self, redis):
        self.redis = redis
        self.unread = 0
        self.has_news = False
        self.is_lost = False
        self.writers = []
        self.bytes_of_each = 100

    def pack_commands(self, commands):
        self.packed = [command for (command,) in commands]
        return [b"x" * self.bytes_of_each for _ in commands]

    def can_read(self, timeout):
        assert self.unread == 0
        return self.has_news

    def send_packed_command(self, packed, check_health):
        assert not check_health  # which would wait for an answer
        if self.is_lost:
            raise RedisConnectionError("reset")
        self.writers.append(threading.current_thread())
        self.redis.written += self.packed
        self.unread = len(packed)

    def read_response(self):
        self.redis.gate.wait(60)
        if self.redis.error is not None:
            raise self.redis.error
        self.unread -= 1
        if self.redis.refuses:
            raise ResponseError("refused")
        return 1

    def disconnect(self):
        self.unread = 0


class FakePool:
    def __init__(self, redis):
        self.redis = redis
        self.given = []
        self.is_away = True

    def get_connection(self):
        if self.is_away:
            raise RedisConnectionError("away")
        self.given.append(FakeConnection(self.redis))
        return self.given[-1]

    def release(self, connection):
        assert connection is self.given[-1]


class FakeRedis:
    def __init__(self):
        self.connection_pool = FakePool(self)
        self.mistake = None
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
def notices(redis):
    notices = Notices(redis, log_entries=100, log_ttl_seconds=60, ended_ttl_seconds=30)
    yield notices
    redis.gate.set()
    notices.close()


def ring(opened=None):
    return Ring(uuid4(), uuid4(), "", [(1, b"{}")], opened)


def test_a_turns_log_is_opened_before_its_doorbell_rings(notices, redis):
    turn = ring()
    notices.put(turn)
    assert notices.drain(60)
    assert redis.written == ["eval", turn.turn_id]


def test_putting_never_waits_while_redis_hangs(notices, redis):
    redis.gate.clear()
    for _ in range(500):
        notices.put(ring())
    assert not notices.drain(0)
    redis.gate.set()
    assert notices.drain(60)


def test_a_doorbell_is_rung_although_the_log_was_refused(notices, redis):
    redis.refuses = True
    notices.put(ring())
    assert notices.drain(60)
    assert (notices.failed, len(redis.rung)) == (1, 1)


@pytest.mark.parametrize("error", [OSError("reset"), RedisConnectionError("away"), RuntimeError("a mistake")])
def test_an_error_loses_one_notice_and_not_the_others(notices, redis, error):
    redis.error = error
    opened = threading.Event()
    for _ in range(5):
        notices.put(ring(opened))
        assert notices.drain(60)
    # Whoever waits for the log is told by a timeout of its own when a notice was refused by mistake.
    assert opened.is_set() == (not isinstance(error, RuntimeError))
    redis.error = None
    notices.put(ring())
    assert notices.drain(60)
    assert (notices.failed, len(redis.rung)) == (5, 1)


def test_an_overflow_drops_the_oldest(notices, redis):
    redis.gate.clear()
    rings = [ring() for _ in range(MOST_WAITING + 1_000)]
    for notice in rings:
        notices.put(notice)
    assert 0 < notices.dropped <= 1_000
    redis.gate.set()
    assert notices.drain(60)
    assert rings[-1].turn_id in redis.rung
    assert len(redis.rung) == len(rings) - notices.dropped


def test_a_nudge_sets_the_flag_before_it_is_published(notices, redis):
    notices.put(Nudge(uuid4(), uuid4(), "user"))
    assert notices.drain(60)
    assert redis.written == ["set", "publish"]
    assert redis.rung == []


def test_what_waits_is_sent_at_the_end(notices, redis):
    for _ in range(100):
        notices.put(ring())
    notices.close()
    assert len(redis.rung) == 100
    notices.put(ring())  # too late, and no harm
    assert len(redis.rung) == 100


def test_nothing_runs_before_the_first_notice(redis):
    before = set(threading.enumerate())  # one of an earlier test may end meanwhile
    Notices(redis, log_entries=1, log_ttl_seconds=1, ended_ttl_seconds=1)
    assert set(threading.enumerate()) <= before


def test_the_end_of_a_turn_that_waited_wakes_a_worker_for_the_one_behind_it(notices, redis):
    behind = uuid4()
    notices.put(Ended(uuid4(), uuid4(), 0, [(1, b"{}")], 2, [b"{}"], behind))
    notices.put(Ended(uuid4(), uuid4(), 0, [(1, b"{}")], 2, [b"{}"]))
    assert notices.drain(60)
    assert [each for each in redis.written if each == "eval"] == ["eval"] * 4
    assert redis.rung == [behind]


@pytest.fixture
def line(notices, redis):
    """The connection that is at hand once a notice has been sent."""
    redis.connection_pool.is_away = False
    notices.put(ring())
    assert notices.drain(60)
    redis.written.clear()
    (line,) = redis.connection_pool.given
    return line


def test_a_notice_that_finds_the_queue_empty_is_written_before_put_returns(notices, redis, line):
    for _ in range(3):
        opened = threading.Event()
        turn = ring(opened)
        notices.put(turn)
        assert redis.written[-2:] == ["eval", turn.turn_id]
        assert notices.drain(60)
        assert opened.is_set()
    assert set(line.writers) == {threading.current_thread()}
    assert redis.connection_pool.given == [line]


def test_nothing_waits_for_what_was_written_and_is_not_answered(notices, redis, line):
    redis.gate.clear()
    rings = [ring() for _ in range(500)]
    for notice in rings:
        notices.put(notice)
    assert redis.rung == [rings[0].turn_id]  # the others wait for a thread
    assert not notices.drain(0)
    redis.gate.set()
    assert notices.drain(60)
    assert set(redis.rung) == {notice.turn_id for notice in rings}


@pytest.mark.parametrize("what", ["has_news", "is_lost"])
def test_a_line_that_was_closed_costs_no_notice(notices, redis, line, what):
    setattr(line, what, True)
    turn = ring()
    notices.put(turn)
    assert notices.drain(60)
    assert (redis.rung, notices.failed) == ([turn.turn_id], 0)
    assert line.writers == []
    assert len(redis.connection_pool.given) == 2  # the next one finds another


def test_what_was_written_and_not_answered_is_sent_again(notices, redis, line):
    redis.gate.clear()
    turn = ring(threading.Event())
    notices.put(turn)
    redis.error = RedisConnectionError("reset")
    redis.gate.set()
    assert notices.drain(60)
    assert turn.opened.is_set()
    assert notices.failed == 1  # by the other way, too
    redis.error = None
    notices.put(ring())
    assert notices.drain(60)
    assert len(redis.rung) == 2


def test_a_refusal_on_the_line_is_counted(notices, redis, line):
    redis.refuses = True
    notices.put(ring())
    assert notices.drain(60)
    assert notices.failed == 2  # both of its commands
    assert redis.connection_pool.given == [line]


def test_a_large_notice_does_not_go_by_the_line(notices, redis, line):
    line.bytes_of_each = 10_000
    turn = ring()
    notices.put(turn)
    assert notices.drain(60)
    assert redis.rung == [turn.turn_id]
    assert line.writers == []


def test_a_mistake_in_a_notice_does_not_reach_the_request(notices, redis, line):
    redis.mistake = RuntimeError("a mistake")
    notices.put(ring())
    assert notices.drain(60)
    assert notices.failed == 1
    redis.mistake = None
    notices.put(ring())
    assert notices.drain(60)
    assert len(redis.rung) == 1

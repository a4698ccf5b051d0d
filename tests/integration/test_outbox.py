"""The outbox beside a real Redis, which closes connections when it likes."""

from uuid import uuid4

import pytest
from redis import Redis

from api.outbox import Outbox, Ring
from shared.redis.doorbell import QUEUE_KEY


@pytest.fixture
def redis(redis_url):
    with Redis.from_url(redis_url) as redis:
        yield redis


@pytest.fixture
def outbox(redis_url):
    with Redis.from_url(redis_url, client_name="outbox", socket_timeout=60) as redis:
        outbox = Outbox(redis, log_entries=100, log_ttl_seconds=60, ended_ttl_seconds=30)
        yield outbox
        outbox.close()


def ring():
    return Ring(uuid4(), uuid4(), "", [(1, b"{}")])


def connections(redis):
    return [each["id"] for each in redis.client_list() if each["name"] == "outbox"]


def test_a_connection_that_was_closed_between_two_notices_costs_none(outbox, redis):
    for _ in range(2):  # one by a thread, one on the line
        outbox.put(ring())
        assert outbox.drain(60)
    closed = connections(redis)
    assert closed
    for each in closed:
        redis.client_kill_filter(_id=each)
    outbox.put(ring())
    assert outbox.drain(60)
    assert (redis.llen(QUEUE_KEY), outbox.failed) == (3, 0)
    assert not set(connections(redis)) & set(closed)


def test_a_connection_that_is_closed_with_a_notice_unanswered_costs_none(outbox, redis):
    outbox.put(ring())
    assert outbox.drain(60)
    redis.client_pause(60_000, all=False)  # what would write is read and not done
    outbox.put(ring())
    for each in connections(redis):
        redis.client_kill_filter(_id=each)
    redis.client_unpause()
    assert outbox.drain(60)
    assert (redis.llen(QUEUE_KEY), outbox.failed) == (2, 0)

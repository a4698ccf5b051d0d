"""The notices with a real Redis, which closes connections at any time."""

from uuid import uuid4

import pytest
from redis import Redis

from api.notices import Notices, Ring
from shared.redis.doorbell import QUEUE_KEY


@pytest.fixture
def redis(redis_url):
    with Redis.from_url(redis_url) as redis:
        yield redis


@pytest.fixture
def notices(redis_url):
    with Redis.from_url(redis_url, client_name="notices", socket_timeout=60) as redis:
        notices = Notices(redis, log_entries=100, log_ttl_seconds=60, ended_ttl_seconds=30)
        yield notices
        notices.close()


def ring():
    return Ring(uuid4(), uuid4(), "", [(1, b"{}")])


def connections(redis):
    return [each["id"] for each in redis.client_list() if each["name"] == "notices"]


def test_a_connection_that_was_closed_between_two_notices_costs_none(notices, redis):
    for _ in range(2):  # one by a thread, one on the line
        notices.put(ring())
        assert notices.drain(60)
    closed = connections(redis)
    assert closed
    for each in closed:
        redis.client_kill_filter(_id=each)
    notices.put(ring())
    assert notices.drain(60)
    assert (redis.llen(QUEUE_KEY), notices.failed) == (3, 0)
    assert not set(connections(redis)) & set(closed)


def test_a_connection_that_is_closed_with_a_notice_unanswered_costs_none(notices, redis):
    notices.put(ring())
    assert notices.drain(60)
    redis.client_pause(60_000, all=False)  # what would write is read and not done
    notices.put(ring())
    for each in connections(redis):
        redis.client_kill_filter(_id=each)
    redis.client_unpause()
    assert notices.drain(60)
    assert (redis.llen(QUEUE_KEY), notices.failed) == (2, 0)

"""The monitor of Redis receives every command."""

import time

import pytest
import redis

from tests.monitor import Monitor
from turnkeeper.up.embedded import temporary_redis

LIMIT_SECONDS = 60.0


def test_all_that_is_said_before_the_end_is_heard(redis_url):
    heard = []
    with redis.Redis.from_url(redis_url) as client:
        client.set("before", 1)
        with Monitor(redis_url, heard.append):
            for number in range(100):
                client.set("said", f'"{number}"')
    assert [words[2] for words in heard if words[:2] == ["SET", "said"]] == [
        f'\\"{number}\\"' for number in range(100)
    ]
    assert not any("before" in words for words in heard)


def test_only_lines_that_are_wanted_are_taken_and_an_error_is_told(redis_url):
    def refuse(words):
        raise ValueError(words[1])

    def say():
        with redis.Redis.from_url(redis_url) as client, Monitor(redis_url, refuse, only=b"wanted"):
            client.set("other", 1)
            client.set("wanted", 1)

    with pytest.raises(ValueError, match="wanted"):
        say()


def test_a_connection_that_is_killed_listens_again(redis_url):
    heard = []
    with redis.Redis.from_url(redis_url) as client, Monitor(redis_url, heard.append):
        client.client_kill_filter(_type="normal", skipme=True)
        deadline = time.monotonic() + LIMIT_SECONDS
        while not any("again" in words for words in heard):
            assert time.monotonic() < deadline
            client.set("again", 1)


def test_a_redis_that_ends_is_heard_until_then():
    heard = []
    with (
        temporary_redis() as server,
        redis.Redis.from_url(server.url) as client,
        Monitor(server.url, heard.append),
    ):
        client.set("said", 1)
        client.shutdown(nosave=True)
    assert ["SET", "said", "1"] in heard

"""The search for secrets and content in Redis does find them."""

import pytest
import redis

from tests.marks import leaks_in_redis, marked


@pytest.mark.parametrize("said", ["[[tokens=3]] Hello", "a secret"])
def test_a_name_or_a_message_in_redis_is_found(redis_url, said):
    said = marked("key") if said == "a secret" else said
    with redis.Redis.from_url(redis_url) as client:
        for plant, remove in (
            (lambda: client.set(said, "1"), said),
            (lambda: client.lpush("tk:queue", said), "tk:queue"),
            (lambda: client.hset("unacked", "1", said), "unacked"),
        ):
            plant()
            assert len(leaks_in_redis(redis_url)) == 1
            client.delete(remove)
    assert leaks_in_redis(redis_url) == []


def test_a_turns_log_may_hold_content_and_no_secret(redis_url):
    with redis.Redis.from_url(redis_url) as client:
        client.xadd("log", {"event": "[[tokens=3]] Hello"})
        assert leaks_in_redis(redis_url) == []
        client.xadd("log", {"event": marked("key")})
        assert len(leaks_in_redis(redis_url)) == 1
        client.delete("log")

"""The page of keys in Redis against what a running service keeps there."""

import re

from redis import Redis

from shared.ids import new_id
from shared.redis.names import organization_turns_key, user_turns_key
from tests.e2e.conftest import Service
from tests.e2e.protocol_client import Api
from turnkeeper.reference.redis_page import NAMES


def expression(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"<[^>]+>", pattern)
    return re.compile("[A-Za-z0-9-]+".join(re.escape(part) for part in parts))


def test_every_key_that_a_running_service_keeps_is_on_the_page_with_its_type(stack: Service, api: Api):
    session = api.session(user="alice")
    api.ask("[[tokens=5]] keys", session)
    assert api.call("POST", "/v1/tickets", json={"session_id": session}).status_code == 201
    # One that a worker has: in the queue it is stopped without a flag.
    stopped = api.turn(session, "[[tokens=100000 rate=50]] stopped")
    api.await_text(stopped)
    api.stopped(stopped)
    found = set()
    with Redis.from_url(stack.state["redis_url"], decode_responses=True) as client:
        for key in client.scan_iter(count=1000):
            kind = client.type(key)
            if kind == "none":
                continue  # it ended meanwhile
            names = [name for name in NAMES if expression(name.pattern).fullmatch(key)]
            assert [name.kind for name in names] == [kind], (re.sub("[0-9a-f-]{36}", "ID", key), kind)
            found.add(names[0].pattern)
    patterns = {name.pattern for name in NAMES}
    assert {
        pattern for pattern in patterns if ":log:" in pattern or "ticket" in pattern or "abort:" in pattern
    } <= found


def test_the_names_of_limits_on_the_page_are_those_of_the_code():
    patterns = [expression(name.pattern) for name in NAMES]
    for key in (organization_turns_key(new_id()), user_turns_key(new_id(), "alice")):
        assert len([pattern for pattern in patterns if pattern.fullmatch(key)]) == 1

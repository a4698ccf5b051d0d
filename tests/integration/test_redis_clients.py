"""Clients leave a server that refuses, and a Redis in cluster mode is refused in one sentence."""

import asyncio
import socket
import subprocess
from contextlib import suppress

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from api.app import create_app
from shared.configuration.settings import load_settings
from shared.errors import SettingsError, UnavailableError
from shared.redis.client import redis_client
from shared.redis.cluster import CLUSTER
from shared.redis.wire import Wire
from tests.integration.conftest import until
from tests.ports import free_port
from tests.refusing_redis import REFUSING, SAYING, saying
from turnkeeper.doctor.command import now
from turnkeeper.doctor.redis import check_redis
from turnkeeper.up.embedded.redis import redis_binary
from worker.process.ringer import Ringer


def client_of(url):
    return redis_client(url, socket_timeout=10, retry=Retry(NoBackoff(), 0), max_connections=4)


@pytest.fixture
def server(redis_url):
    with redis.Redis.from_url(redis_url) as client:
        yield client


def test_a_connection_that_was_refused_is_not_used_again(redis_url, server):
    with client_of(redis_url) as client:
        kept = client.client_id()
        assert client.client_id() == kept
        with REFUSING["NOREPLICAS"](server), pytest.raises(redis.ResponseError, match="NOREPLICAS"):
            client.set("tk:x", "1")
        assert client.client_id() != kept


def test_a_full_server_is_not_left(redis_url, server):
    with client_of(redis_url) as client:
        kept = client.client_id()
        with REFUSING["OOM"](server), pytest.raises(redis.exceptions.OutOfMemoryError):
            client.set("tk:x", "1")
        assert client.client_id() == kept


@pytest.mark.parametrize("reply", [reply for reply in REFUSING if reply != "BUSY"])
def test_a_ringer_knows_a_server_that_takes_nothing_and_when_it_does_again(redis_url, server, reply):
    ringer = Ringer(redis_url)
    assert ringer.look()
    with REFUSING[reply](server):
        assert not ringer.look()
        assert not ringer.is_taking()
        assert not ringer.send_canary()
    assert until(ringer.look)
    assert ringer.is_taking()
    ringer.stop()


@pytest.mark.parametrize("refusal", SAYING)
def test_no_wire_opens_to_a_server_that_refuses(refusal):
    async def scene(port):
        with pytest.raises(UnavailableError):
            await Wire.open(
                f"redis://127.0.0.1:{port}/0",
                on_reply=lambda _reply: None,
                on_lost=lambda: None,
                client_name="tests",
            )

    with saying(refusal) as port:
        asyncio.run(scene(port))


@pytest.fixture
def cluster(tmp_path):
    port = free_port()
    command = [str(redis_binary()), "--port", str(port), "--bind", "127.0.0.1", "--cluster-enabled", "yes"]
    command += ["--dir", str(tmp_path), "--save", ""]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            with redis.Redis(port=port, retry=Retry(NoBackoff(), 0)) as client:
                until(lambda: answers(client))
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()


def answers(client):
    try:
        return client.ping()
    except redis.RedisError:
        return False


def test_a_redis_in_cluster_mode_is_refused_at_boot(environment, cluster):
    with pytest.raises(SettingsError) as refused:
        create_app("web", load_settings(environment | {"REDIS_URL": cluster}))
    assert refused.value.problems == (CLUSTER,)


def test_doctor_refuses_a_redis_in_cluster_mode_in_one_sentence(cluster):
    (finding,) = check_redis(cluster, now)
    assert (finding.level, finding.says) == ("wrong", CLUSTER)


@pytest.mark.parametrize("reply", ["NOREPLICAS", "MISCONF", "OOM", "NOPERM to run scripts"])
def test_doctor_names_a_redis_that_refuses_a_write(redis_url, server, reply):
    with REFUSING[reply](server):
        found = {finding.name: finding for finding in check_redis(redis_url, now)}
    assert found["redis.writable"].level == "wrong"
    assert reply.split(" ", 1)[0] in found["redis.writable"].says


def test_readiness_names_a_redis_that_refuses_writes(api, as_owner, server):
    as_owner(
        "insert into turnkeeper.workers (id, asked_at, mute_since) values (gen_random_uuid(), now(), now())"
    )
    with REFUSING["NOREPLICAS"](server):
        answer = api.get("/readyz")
    assert (answer.status_code, answer.json["status"]) == (200, "degraded")  # turns still start
    assert "NOREPLICAS" in answer.json["checks"]["redis"]["detail"]
    assert answer.json["checks"]["worker"]["ok"] is False


def test_readiness_asks_a_redis_that_hangs_once(environment):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.setblocking(False)
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        app = create_app("web", load_settings(environment | {"REDIS_URL": url}))
        connections(silent)  # those of the boot
        check = app.extensions["turnkeeper"].probe.check()
        asked = connections(silent)
        app.extensions["turnkeeper"].close()
    assert not check.ok
    assert asked == 1


def connections(server):
    """Return how many have come to a server that answers nobody."""
    count = 0
    with suppress(BlockingIOError):
        while True:
            server.accept()[0].close()
            count += 1
    return count


@pytest.mark.parametrize(
    ("columns", "values", "status", "says"),
    [
        ("deaf_since", "now()", 503, "hears"),
        ("mute_since", "now()", 503, "hears"),
        ("deaf_since, asked_at", "now(), now()", 200, "ask"),
        ("renewed_at", "now() - interval '6 seconds'", 503, "leases"),
    ],
)
def test_readiness_says_how_workers_learn_of_turns(api, as_owner, columns, values, status, says):
    as_owner(f"insert into turnkeeper.workers (id, {columns}) values (gen_random_uuid(), {values})")
    answer = api.get("/readyz")
    assert (answer.status_code, answer.json["status"]) == (status, "degraded")
    assert says in answer.json["checks"]["worker"]["detail"]

"""Redis or Valkey: it may lose everything, but must never drop a key by itself or refuse a write."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from statistics import median
from time import perf_counter
from typing import Any, Final

from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError
from redis.retry import Retry

from shared.redis.cluster import refuse_cluster
from shared.redis.memory import LogShares, Memory
from shared.redis.names import LOG_BYTES_ENDED, LOG_BYTES_RUNNING, PROBE
from shared.redis.refusals import refusal_of, word_of
from turnkeeper.doctor.clock import Clock, judged_clock
from turnkeeper.doctor.findings import Finding, Level, fine, judged, looked_at, reason, warning, wrong

OLDEST_VERSION: Final = (7, 0)
_TIMEOUT_SECONDS: Final = 2.0
_PINGS: Final = 9
_SLOW_SECONDS: Final = 0.005
"""Every event makes this trip twice."""
_LATE_SECONDS: Final = 0.05
"""How long the limits wait for Redis before each web process counts alone."""
_LEAST_BUFFER_BYTES: Final = 8 * 1024 * 1024
"""What a worker may publish while a relay is held up for a second."""


def check_redis(url: str, now: Clock, shares: LogShares | None = None) -> Iterator[Finding]:
    """Check the server, of whose memory turns' logs may take their `shares`."""
    try:
        client = Redis.from_url(
            url,
            socket_timeout=_TIMEOUT_SECONDS,
            socket_connect_timeout=_TIMEOUT_SECONDS,
            # A single failure is what this check is to report.
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
        )
    except ValueError:
        yield wrong("redis", "REDIS_URL cannot be read", "use redis://:password@host:6379/0")
        return
    with client:
        try:
            if refused := refuse_cluster(client):
                yield wrong(
                    "redis", refused, "name a single server, or a primary behind one address, in REDIS_URL"
                )
                return
            yield _version(client)
        except (RedisError, OSError) as failure:
            yield wrong("redis", f"cannot be reached: {reason(failure)}", "check REDIS_URL and the server")
            return
        questions: dict[str, Callable[[Any], Finding]] = {
            "redis.writable": _writable,
            "redis.eviction": _eviction,
            "redis.memory": lambda redis: _memory(redis, shares or LogShares()),
            "redis.persistence": _persistence,
            "redis.output_buffer": _output_buffer,
            "redis.latency": _latency,
            "redis.clock": lambda redis: _clock(redis, now),
        }
        for name, question in questions.items():
            yield looked_at(name, lambda question=question: question(client))  # type: ignore[misc]


def _version(redis: Any) -> Finding:
    server = redis.info("server")
    said = str(server["redis_version"])
    numbers = tuple(int(part) for part in said.split(".")[:2])
    words = f"Valkey {server['valkey_version']}" if "valkey_version" in server else f"Redis {said}"
    level = Level.OK if numbers >= OLDEST_VERSION else Level.WRONG
    return judged("redis", words, level, "use Redis 7 or newer, or Valkey")


def _writable(redis: Any) -> Finding:
    role = redis.info("replication").get("role")
    if role != "master":
        return wrong("redis.writable", f"it is a {role}", "name the primary in REDIS_URL")
    try:
        redis.execute_command(*PROBE)
    except RedisError as refused:
        if refusal_of(refused) is None:
            raise
        return wrong(
            "redis.writable",
            f"it refuses a write: {word_of(refused)}",
            "see to what it says; workers ask PostgreSQL for turns meanwhile",
        )
    return fine("redis.writable", "it takes writes")


def _eviction(redis: Any) -> Finding:
    policy = redis.info("memory").get("maxmemory_policy", "unknown")
    if policy != "noeviction":
        return wrong(
            "redis.eviction",
            f"maxmemory-policy is {policy}: under pressure it drops logs and Stops without a word",
            "set `maxmemory-policy noeviction`, in its configuration, too",
        )
    return fine("redis.eviction", "maxmemory-policy is noeviction")


def _memory(redis: Any, shares: LogShares) -> Finding:
    memory = redis.info("memory")
    used, most = int(memory["used_memory"]), int(memory["maxmemory"])
    logs = sum(int(redis.hget(key, "*") or 0) for key in (LOG_BYTES_RUNNING, LOG_BYTES_ENDED))
    share = shares.budget(Memory(used, most)).in_all
    of_logs = f"turns' logs take {logs >> 20} of {share >> 20} MiB"
    if not most:
        return fine("redis.memory", f"{used >> 20} MiB used, no limit of its own; {of_logs}")
    level = Level.OK if used < 0.8 * most else Level.WARNING if used < most else Level.WRONG
    return judged(
        "redis.memory",
        f"{used >> 20} of {most >> 20} MiB used; {of_logs}",
        level,
        "raise maxmemory, or lower LOG_MEMORY_PERCENT: a full server refuses writes",
    )


def _persistence(redis: Any) -> Finding:
    name, found = "redis.persistence", redis.info("persistence")
    failed = [
        words
        for key, words in (
            ("rdb_last_bgsave_status", "the last snapshot"),
            ("aof_last_write_status", "the last write of its file"),
        )
        if found.get(key, "ok") != "ok"
    ]
    if failed:
        return wrong(
            name,
            f"{' and '.join(failed)} failed, after which it refuses writes",
            "mend its disk, or switch persistence off: Turnkeeper needs none",
        )
    is_on = bool(found.get("aof_enabled")) or _setting(redis, "save") not in {"", None}
    return fine(name, "on, though nothing in it has to be kept" if is_on else "off: all of it may be lost")


def _output_buffer(redis: Any) -> Finding:
    name = "redis.output_buffer"
    remedy = "set `client-output-buffer-limit pubsub 32mb 8mb 60`"
    said = _setting(redis, "client-output-buffer-limit")
    if said is None:
        return warning(name, "CONFIG is not allowed here", f"see to it where you set it: {remedy}")
    words = said.split()
    at = words.index("pubsub")
    hard, soft, seconds = (int(word) for word in words[at + 1 : at + 4])
    if not hard and not soft:
        return warning(name, "no limit for pubsub: a relay that hangs fills its memory", remedy)
    if min(each for each in (hard, soft) if each) < _LEAST_BUFFER_BYTES:
        return warning(
            name, f"pubsub {hard} {soft} {seconds}: a relay that is held up for a moment is cut off", remedy
        )
    return fine(name, f"pubsub {hard >> 20} MiB, or {soft >> 20} MiB for {seconds} s")


def _setting(redis: Any, name: str) -> str | None:
    """Return a setting; None if a managed server does not reveal it."""
    try:
        found = redis.config_get(name)
    except ResponseError:
        return None
    return str(found[name]) if name in found else None


def _latency(redis: Any) -> Finding:
    took = []
    for _ in range(_PINGS):
        began = perf_counter()
        redis.ping()
        took.append(perf_counter() - began)
    middle = median(took)
    level = Level.OK if middle < _SLOW_SECONDS else Level.WARNING if middle < _LATE_SECONDS else Level.WRONG
    return judged(
        "redis.latency",
        f"a ping takes {middle * 1000:.1f} ms",
        level,
        "put Redis nearer to the processes: every event goes there and back",
    )


def _clock(redis: Any, now: Clock) -> Finding:
    before = now()
    seconds, microseconds = redis.time()
    after = now()
    theirs = datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=microseconds)
    return judged_clock("redis.clock", theirs, before, after, timedelta())

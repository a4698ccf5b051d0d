"""Keeps ended logs within their share of Redis's memory: joins the oldest, and drops them when that is not enough.

While logs take more than half of their share, ended ones are joined (`shared.redis.joined`), and readers notice
nothing. An organization over its share loses its own oldest ones; when all together are over theirs, or Redis is nearly
full of whatever, that organization gives way which holds the most. Readers of a dropped log get a snapshot from
PostgreSQL, then `done` (I4).
"""

import heapq
import logging
from collections.abc import Mapping
from time import time
from typing import Any, Final, cast

import redis

from shared.redis.joined import join
from shared.redis.memory import LogBudget, LogShares, Memory, memory_from
from shared.redis.names import (
    LOG_BYTES_ENDED,
    LOG_BYTES_RUNNING,
    ended_logs_key,
    joined_log_key,
    joined_logs_key,
    log_key,
)
from shared.redis.share_scripts import FORGET_ENDED, NOTE_JOINED, REPLACE_BY_JOINED

_log = logging.getLogger("turnkeeper.sweeper")

_SUM: Final = "*"
_MOST_AT_ONCE: Final = 100
"""Logs dropped by one step: a millisecond of Redis."""
_JOINED_AT_ONCE: Final = 10
"""Logs joined in one round: each may take the interpreter some milliseconds, and streams go first."""
_MOST_STEPS: Final = 100
"""Steps of one round, after which turns that need the sweeper go first."""
_LOOKED_THROUGH: Final = 200
"""Organizations of which expired logs are forgotten in one round."""


class LogKeeper:
    """Drops logs, once a round.

    Args:
        client: Redis.
        shares: The configured shares.
        log_seconds: How long a log outlives its turn.
    """

    def __init__(self, client: "redis.Redis", shares: LogShares, log_seconds: int) -> None:
        self._redis = client
        self._shares = shares
        self._log_seconds = log_seconds
        self._cursor = 0
        self.dropped = 0
        self.joined = 0

    def keep(self) -> None:
        """Forget what has expired, and drop what is over its share; a Redis that does not answer is left alone."""
        try:
            self._forget_expired()
            ended, running = self._figures(LOG_BYTES_ENDED), self._figures(LOG_BYTES_RUNNING)
            budget = self._shares.budget(self._memory())
            if self._join(ended, running, budget):
                ended = self._figures(LOG_BYTES_ENDED)
            dropped = self._drop(ended, running, budget)
        except redis.RedisError as error:
            _log.warning("logs are not kept within their share: %s", type(error).__name__)
            return
        if dropped:
            self.dropped += dropped
            _log.info("ended logs were dropped for lack of memory", extra={"logs": dropped})

    def _memory(self) -> Memory:
        try:
            return memory_from(cast("Mapping[str, Any]", self._redis.info("memory")))
        except redis.ResponseError:
            return Memory()  # not allowed here: the counts have to do

    def _figures(self, key: str) -> dict[str, int]:
        found = cast("dict[bytes, bytes]", self._redis.hgetall(key))
        return {name.decode(): int(value) for name, value in found.items() if name != _SUM.encode()}

    def _join(self, ended: Mapping[str, int], running: Mapping[str, int], budget: LogBudget) -> int:
        """Join logs of organizations over half of their share, the largest first; return how many that were."""
        is_much = 2 * (sum(ended.values()) + sum(running.values())) > budget.in_all
        left = _JOINED_AT_ONCE
        for organization in sorted(ended, key=lambda each: -ended[each]):
            if left and (is_much or 2 * (ended[organization] + running.get(organization, 0)) > budget.of_one):
                oldest = self._redis.zrange(ended_logs_key(organization), 0, left - 1)
                for noted in cast("list[bytes]", oldest):
                    self._join_one(organization, noted.decode())
                    left -= 1
        self.joined += _JOINED_AT_ONCE - left
        return _JOINED_AT_ONCE - left

    def _join_one(self, organization: str, noted: str) -> None:
        """Join one log; one that is too large or gone is only moved, so that its turn to be dropped comes."""
        session, turn, size = noted.split("/")
        log = log_key(session, turn)
        found = cast("list[tuple[bytes, dict[bytes, bytes]]]", self._redis.xrange(log))
        joined = join((entry_id, *next(iter(fields.items()))) for entry_id, fields in found)
        smaller = int(size) if joined is None else len(joined)
        if joined is not None:
            self._redis.eval(REPLACE_BY_JOINED, 2, log, joined_log_key(session, turn), joined)
        self._redis.eval(
            NOTE_JOINED, 3, ended_logs_key(organization), LOG_BYTES_ENDED, joined_logs_key(organization),
            organization, noted, f"{session}/{turn}/{smaller}", str(smaller - int(size)), str(self._log_seconds),
        )  # fmt: skip

    def _drop(self, ended: Mapping[str, int], running: Mapping[str, int], budget: LogBudget) -> int:
        """Drop what is over; return how many logs that were."""
        left, dropped, steps = dict(ended), 0, 0
        for organization in ended:
            over = left[organization] + running.get(organization, 0) - budget.of_one
            while over > 0 and left[organization] > 0 and steps < _MOST_STEPS:
                freed, count = self._step(organization, over)
                steps, dropped, over = steps + 1, dropped + count, over - freed
                left[organization] = 0 if not count else max(0, left[organization] - freed)
        over = sum(left.values()) + sum(running.values()) - budget.in_all
        if budget.before_relief is not None:
            over = max(over, -budget.before_relief)
        largest = [(-size, organization) for organization, size in left.items() if size > 0]
        heapq.heapify(largest)
        while over > 0 and largest and steps < _MOST_STEPS:
            size, organization = heapq.heappop(largest)
            # Down to the next largest, so that no organization gives way before another is as small.
            next_size = -largest[0][0] if largest else 0
            freed, count = self._step(organization, min(over, max(1, -size - next_size)))
            steps, dropped, over = steps + 1, dropped + count, over - freed
            if count and -size - freed > 0:
                heapq.heappush(largest, (size + freed, organization))
        return dropped

    def _step(self, organization: str, size: int, until: float = 0.0) -> tuple[int, int]:
        """Drop an organization's oldest ended logs; return the bytes and how many they were."""
        # Joined ones are older than all others.
        lists = (joined_logs_key(organization), ended_logs_key(organization))
        freed = count = 0
        for of_these, others in (lists, lists[::-1]):
            if size and freed >= size:
                break
            found = cast(
                "list[Any]",
                self._redis.eval(
                    FORGET_ENDED, 3, of_these, LOG_BYTES_ENDED, others,
                    organization, str(size - freed), f"{until:.3f}", str(_MOST_AT_ONCE),
                ),
            )  # fmt: skip
            places = [each.decode().split("/")[:2] for each in found[1:]]
            if places:
                keys = [name(*place) for place in places for name in (log_key, joined_log_key)]
                self._redis.unlink(*keys)
            freed, count = freed + int(found[0]), count + len(places)
        return freed, count

    def _forget_expired(self) -> None:
        """Forget logs that Redis itself has let expire, of some organizations each round."""
        cursor, found = cast(
            "tuple[int, dict[bytes, bytes]]",
            self._redis.hscan(LOG_BYTES_ENDED, self._cursor, count=_LOOKED_THROUGH),
        )
        self._cursor = cursor
        until = time() - self._log_seconds
        for organization in found:
            if organization != _SUM.encode():
                self._step(organization.decode(), 0, until)

"""Rate limits: how many turns a user and an organization may ask for, checked before a turn is accepted.

A refused request takes no place. One that is let through and then makes no turn gives its place back.
Redis counts for all processes; while it does not answer in time, each process counts for itself.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from math import ceil
from typing import Any, Final, cast
from uuid import UUID

from redis import RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

from api.caller import Caller
from api.statements.idempotency import has_turn
from api.statements.limits import user_of_session
from api.windows import Count, LocalWindows, Window
from shared.configuration.settings import Settings
from shared.errors import ProblemCode, RefusedError, UnavailableError
from shared.postgres.database import Database
from shared.redis.client import redis_client
from shared.redis.limit_scripts import GIVE_BACK, TAKE
from shared.redis.names import organization_turns_key, user_turns_key
from shared.redis.refusals import word_of

_log = logging.getLogger("turnkeeper.limits")

_REDIS_SECONDS: Final = 0.05
"""The most of a request's time that a limit is worth."""
_CONNECT_SECONDS: Final = 0.2
"""With TLS, connecting takes several round trips, but only once for each connection."""
_CONNECTIONS: Final = 64
_AWAY_SECONDS: Final = 1.0
"""How long Redis is not asked after a failure, so that not every request waits for it."""
_MINUTE: Final = 60
_HOUR: Final = 3600
_MICROSECONDS: Final = 1_000_000
_MOST_SESSIONS: Final = 10_000
"""Sessions whose users are remembered: some 3 MB."""


class Scope(StrEnum):
    """What a limit counts for."""

    USER = "user"
    ORGANIZATION = "organization"


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit that applies to a request."""

    scope: Scope
    window: Window


@dataclass(slots=True)
class Place:
    """A request's place in the windows that apply to it.

    Args:
        headers: The response headers that describe them: `RateLimit-Policy` and `RateLimit`.
    """

    headers: Mapping[str, str] = field(default_factory=dict)
    _is_kept: bool = False

    def keep(self) -> None:
        """Use up the place: the turn was accepted."""
        self._is_kept = True

    @property
    def is_kept(self) -> bool:
        """Whether it was used up."""
        return self._is_kept


@dataclass(frozen=True, slots=True)
class _Taken:
    """The windows' counts; `stamps` name the place in Redis, empty if only this process counted."""

    counts: Sequence[Count]
    stamps: Sequence[int] = ()


class TurnLimits:
    """Keeps users and organizations within their limits.

    Args:
        settings: The defaults, and the address of Redis.
        database: Knows the user of a session, and whether a request has already made a turn.
        clock: Monotonic seconds.
    """

    def __init__(
        self, settings: Settings, database: Database, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_minute = settings.turns_per_minute_per_user
        self._per_hour = settings.turns_per_hour
        self._idempotency_seconds = settings.idempotency_seconds
        self._database = database
        self._clock = clock
        self._redis = redis_client(
            settings.redis_url,
            socket_timeout=_REDIS_SECONDS,
            socket_connect_timeout=_CONNECT_SECONDS,
            max_connections=_CONNECTIONS,
            retry=Retry(NoBackoff(), 0),
            client_name="turnkeeper-limits",
        )
        self._take = self._redis.register_script(TAKE)
        self._give_back = self._redis.register_script(GIVE_BACK)
        self._local = LocalWindows(clock)
        self._away_until: float | None = None
        self._users: OrderedDict[UUID, str] = OrderedDict()
        self._lock = threading.Lock()

    @contextmanager
    def place(self, caller: Caller, session_id: UUID, key: str | None, fingerprint: bytes) -> Iterator[Place]:
        """Take a request's place in its windows; the place is given back unless it is kept.

        Without limits this costs nothing. A repeated request whose turn already exists is let through.

        Args:
            caller: Who asks.
            session_id: The session of the turn.
            key: The Idempotency-Key; None for none.
            fingerprint: The fingerprint of the request.

        Raises:
            RefusedError: A window is full.
            UnavailableError: PostgreSQL cannot be reached.
        """
        limits = self._limits_of(caller, session_id)
        if not limits:
            yield Place()
            return
        taken = self._take_places(limits)
        if any(count.refuses for count in taken.counts):
            if key is None or not self._is_repeated(caller, key, fingerprint):
                raise _rate_limited(limits, taken.counts)
            yield Place()
            return
        place = Place(_headers(limits, taken.counts))
        try:
            yield place
        except UnavailableError:
            place.keep()  # whether the turn was committed is not known
            raise
        finally:
            if not place.is_kept:
                self._return_places(limits, taken)

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def _limits_of(self, caller: Caller, session_id: UUID) -> Sequence[Limit]:
        """Return the limits that apply to a request: an organization's own one overrides the service's."""
        own = caller.limits
        per_minute = (
            self._per_minute if own.turns_per_minute_per_user is None else own.turns_per_minute_per_user
        )
        per_hour = self._per_hour if own.turns_per_hour is None else own.turns_per_hour
        limits = []
        if per_minute is not None and (user := self._user_of(caller, session_id)) is not None:
            key = user_turns_key(caller.organization_id, user)
            limits.append(Limit(Scope.USER, Window(key, per_minute, _MINUTE)))
        if per_hour is not None:
            key = organization_turns_key(caller.organization_id)
            limits.append(Limit(Scope.ORGANIZATION, Window(key, per_hour, _HOUR)))
        return limits

    def _user_of(self, caller: Caller, session_id: UUID) -> str | None:
        """Return the turn's user: the key's own, else the session's; None if there is no such session."""
        if caller.user is not None:
            return caller.user
        with self._lock:
            known = self._users.get(session_id)
        if known is not None:
            return known
        with self._database.of(caller.organization_id) as db:
            user = user_of_session(db, caller, session_id)
        if user is not None:
            with self._lock:
                self._users[session_id] = user
                while len(self._users) > _MOST_SESSIONS:
                    self._users.popitem(last=False)
        return user

    def _is_repeated(self, caller: Caller, key: str, fingerprint: bytes) -> bool:
        with self._database.of(caller.organization_id) as db:
            return has_turn(db, caller, key, fingerprint, self._idempotency_seconds)

    def _take_places(self, limits: Sequence[Limit]) -> _Taken:
        windows = [limit.window for limit in limits]
        if self._may_ask_redis():
            try:
                taken = self._take_in_redis(windows)
            except RedisError as error:
                self._leave_redis_alone(error)
            else:
                self._redis_answered()
                if not any(count.refuses for count in taken.counts):
                    self._local.note(windows)  # so that counting continues from here after a failure
                return taken
        return _Taken(self._local.take(windows))

    def _take_in_redis(self, windows: Sequence[Window]) -> _Taken:
        arguments = [
            part for window in windows for part in (window.limit, round(window.seconds * _MICROSECONDS))
        ]
        reply = cast("list[int]", self._take(keys=[window.key for window in windows], args=arguments))
        refused, rest = reply[0], reply[1:]
        counts = [
            Count(remaining, resets / _MICROSECONDS, refuses=number == refused)
            for number, (remaining, resets) in enumerate(zip(rest[::3], rest[1::3], strict=True), start=1)
        ]
        return _Taken(counts, rest[2::3])

    def _return_places(self, limits: Sequence[Limit], taken: _Taken) -> None:
        windows = [limit.window for limit in limits]
        self._local.give_back(windows)
        if taken.stamps:
            try:
                self._give_back(keys=[window.key for window in windows], args=list(taken.stamps))
            except RedisError as error:
                self._leave_redis_alone(error)

    def _may_ask_redis(self) -> bool:
        """Return whether to ask Redis; while it is down, one request a second tries it."""
        with self._lock:
            if self._away_until is None:
                return True
            if self._clock() < self._away_until:
                return False
            self._away_until = self._clock() + _AWAY_SECONDS
            return True

    def _leave_redis_alone(self, error: RedisError) -> None:
        with self._lock:
            is_new = self._away_until is None
            self._away_until = self._clock() + _AWAY_SECONDS
        if is_new:
            _log.warning("limits are counted in this process alone: %s", word_of(error))

    def _redis_answered(self) -> None:
        with self._lock:
            was_away, self._away_until = self._away_until is not None, None
        if was_away:
            _log.info("limits are counted in redis again")


def _rate_limited(limits: Sequence[Limit], counts: Sequence[Count]) -> RefusedError:
    limit, count = max(
        ((limit, count) for limit, count in zip(limits, counts, strict=True) if count.refuses),
        key=lambda pair: pair[1].resets_seconds,
    )
    most, seconds = limit.window.limit, int(limit.window.seconds)
    whose = "a user" if limit.scope is Scope.USER else "the organization"
    members: dict[str, Any] = {"scope": limit.scope.value, "limit": most, "window_seconds": seconds}
    return RefusedError(
        ProblemCode.RATE_LIMITED,
        f"{whose} may ask for {most} turns in {seconds} seconds: wait and try again",
        retry_after_ms=max(1, ceil(count.resets_seconds * 1000)),
        members=members,
        headers=_headers(limits, counts),
    )


def _headers(limits: Sequence[Limit], counts: Sequence[Count]) -> Mapping[str, str]:
    """Return the fields of draft-ietf-httpapi-ratelimit-headers, lists of structured fields (RFC 9651)."""
    policy = (f'"{limit.scope}";q={limit.window.limit};w={int(limit.window.seconds)}' for limit in limits)
    standing = (
        f'"{limit.scope}";r={count.remaining};t={ceil(count.resets_seconds)}'
        for limit, count in zip(limits, counts, strict=True)
    )
    return {"RateLimit-Policy": ", ".join(policy), "RateLimit": ", ".join(standing)}

"""Authentication: finds the `Caller` of an API key or a stream ticket, and issues tickets.

The result for a key is cached for a few seconds, so that a busy client does not cost a round trip for each
request. A revoked key therefore works for at most that long.
"""

import json
import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from redis import Redis, RedisError

from api.caller import Caller, OrganizationLimits, reader_name
from api.statements import keys
from shared.errors import ProblemCode, RefusedError, UnavailableError
from shared.postgres.accounts import digest
from shared.postgres.database import Database
from shared.postgres.rows import columns
from shared.postgres.statement import Statement
from shared.redis.names import ticket_key

_log = logging.getLogger("turnkeeper.auth")

TRUST_SECONDS: Final = 10.0
_MOST_KEPT: Final = 10_000
"""Some 5 MB."""
_LONGEST_KEY: Final = 200


@dataclass(frozen=True, slots=True)
class _Key:
    """A valid key, with its organization's own limits."""

    organization_id: UUID
    key_id: UUID
    role: str
    user_name: str | None
    max_turns_per_session: int | None
    turns_per_minute_per_user: int | None
    turns_per_hour: int | None


_AUTHENTICATE: Final = Statement(
    f"select {columns(_Key)} from turnkeeper.authenticate(:secret)",  # noqa: S608 -- our own constants
    _Key,
)


@dataclass(frozen=True, slots=True)
class Ticket:
    """A ticket as it is issued, once."""

    secret: str
    expires_at: datetime


class Authenticator:
    """Authenticates requests.

    Args:
        database: Holds the keys.
        redis: Holds the tickets.
        clock: Monotonic seconds.
    """

    def __init__(
        self, database: Database, redis: "Redis", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._redis = redis
        self._clock = clock
        self._known: OrderedDict[bytes, tuple[float, Caller]] = OrderedDict()
        self._tenants: OrderedDict[bytes, UUID] = OrderedDict()
        self._lock = threading.Lock()

    def of_header(self, authorization: str | None) -> Caller:
        """Return the caller of an `Authorization` header.

        Raises:
            RefusedError: The key is missing or not valid.
            UnavailableError: PostgreSQL cannot be reached.
        """
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise _unauthorized("send `Authorization: Bearer <api key>`")
        caller = self.of_key(key.strip())
        if caller is None:
            raise _unauthorized("the key is unknown, revoked or expired")
        return caller

    def of_key(self, key: str) -> Caller | None:
        """Return the caller of a key; None if the key is not valid.

        Raises:
            UnavailableError: PostgreSQL cannot be reached.
        """
        if len(key) > _LONGEST_KEY:
            return None
        secret = digest(key)
        if (known := self._recall(secret)) is not None:
            return known
        with self._database.across() as db:
            row = _AUTHENTICATE.one_or_none(db, {"secret": secret})
        if row is None:
            return None  # not cached: someone guessing keys must not push out the others
        caller = Caller(
            organization_id=row.organization_id,
            key_id=row.key_id,
            role=row.role,
            user=row.user_name,
            session_id=None,
            limits=OrganizationLimits(
                row.max_turns_per_session, row.turns_per_minute_per_user, row.turns_per_hour
            ),
        )
        self._remember(secret, caller)
        return caller

    def forget(self, key_id: UUID) -> None:
        """Stop trusting a key in this process at once."""
        self._forget(lambda caller: caller.key_id == key_id)

    def forget_organization(self, organization_id: UUID) -> None:
        """Forget an organization's keys and limits in this process at once, so that they are read again."""
        self._forget(lambda caller: caller.organization_id == organization_id)

    def tenant_of(self, authorization: bytes) -> UUID | None:
        """Return the organization whose key is in a header; None if this process has not seen the key yet.

        This grants nothing: the server shares its threads by it before anybody is authenticated.
        """
        scheme, _, key = authorization.partition(b" ")
        if scheme.lower() != b"bearer" or not key or len(key) > _LONGEST_KEY:
            return None
        secret = digest(key.strip().decode("latin-1"))
        with self._lock:
            return self._tenants.get(secret)

    def issue_ticket(self, caller: Caller, session_id: UUID, user: str, ttl_seconds: int) -> Ticket:
        """Make a ticket that opens one stream of a session, which is `user`'s.

        Raises:
            UnavailableError: Redis cannot be reached.
        """
        secret = "tkt_" + secrets.token_urlsafe(32)
        scope = {
            "organization_id": str(caller.organization_id),
            "key_id": str(caller.key_id),
            "role": caller.role,
            "user": caller.user,
            "session_id": str(session_id),
            "reads_for": reader_name(user),
        }
        expires_at = datetime.now(UTC) + timedelta(seconds=ttl_seconds)
        try:
            self._redis.set(ticket_key(digest(secret).hex()), json.dumps(scope), ex=ttl_seconds)
        except RedisError as exc:
            raise UnavailableError("redis cannot be reached: tickets need it") from exc
        return Ticket(secret, expires_at)

    def redeem_ticket(self, ticket: str) -> Caller | None:
        """Return the caller of a ticket and use the ticket up; None if it is not valid.

        Raises:
            UnavailableError: Redis or PostgreSQL cannot be reached.
        """
        if len(ticket) > _LONGEST_KEY:
            return None
        try:
            scope = self._redis.getdel(ticket_key(digest(ticket).hex()))
        except RedisError as exc:
            raise UnavailableError("redis cannot be reached: tickets need it") from exc
        if scope is None:
            return None
        fields = json.loads(scope)
        caller = Caller(
            organization_id=UUID(fields["organization_id"]),
            key_id=UUID(fields["key_id"]),
            role=fields["role"],
            user=fields["user"],
            session_id=UUID(fields["session_id"]),
            reads_for=fields.get("reads_for"),  # tickets of the release before lack it
        )
        return caller if self.is_valid(caller) else None

    def is_valid(self, caller: Caller) -> bool:
        """Return whether the caller's key is still neither revoked nor expired.

        Raises:
            UnavailableError: PostgreSQL cannot be reached.
        """
        if caller.key_id is None:
            return False
        with self._database.of(caller.organization_id) as db:
            return keys.key_is_valid(db, caller.organization_id, caller.key_id)

    def _forget(self, is_meant: Callable[[Caller], bool]) -> None:
        with self._lock:
            for secret in [secret for secret, (_, caller) in self._known.items() if is_meant(caller)]:
                del self._known[secret]

    def _recall(self, secret: bytes) -> Caller | None:
        with self._lock:
            known = self._known.get(secret)
            if known is None:
                return None
            until, caller = known
            if self._clock() < until:
                return caller
            del self._known[secret]
            return None

    def _remember(self, secret: bytes, caller: Caller) -> None:
        with self._lock:
            self._known[secret] = (self._clock() + TRUST_SECONDS, caller)
            self._tenants[secret] = caller.organization_id
            while len(self._tenants) > _MOST_KEPT:
                self._tenants.popitem(last=False)
            while len(self._known) > _MOST_KEPT:
                self._known.popitem(last=False)


def _unauthorized(detail: str) -> RefusedError:
    return RefusedError(ProblemCode.UNAUTHORIZED, detail)

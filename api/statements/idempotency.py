"""Idempotency keys: finds the turn that an earlier request with the same key made.

The keys of service and admin keys are the organization's, those of `user` keys the user's own: two users who send the
same key do not meet. Both are kept in one column. What a user sent is kept as a hash behind a space, which no client
can send, so nothing that a service sends is ever a user's. Releases before 0.3 kept a user's key as it was sent, with
the user in the fingerprint; such a row is still found by its fingerprint.

The statement that inserts a turn, in `accept`, also writes its key.
"""

# ruff: noqa: S608 -- statements are assembled once, from our own constants

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from api.caller import Caller
from shared.errors import ProblemCode, RefusedError
from shared.postgres.rows import columns
from shared.postgres.statement import Statement

_LOCK_NOT_AVAILABLE: Final = "55P03"
_TRY_AGAIN_MS: Final = 1000

# A foreign key binds the idempotency row to its turn, which does not exist yet: the key itself is locked.
# Two keys that share a hash only wait for each other.
_LOCK_KEY: Final = text(
    "select pg_advisory_xact_lock(hashtextextended(cast(:organization_id as text) || '/' || :key, 0))"
)


@dataclass(frozen=True, slots=True)
class _Remembered:
    """The request that a key stands for."""

    fingerprint: bytes
    turn_id: UUID


_FIND_KEY: Final = Statement(
    f"""
    select {columns(_Remembered)} from turnkeeper.idempotency_keys
    where organization_id = :organization_id
      and (key = :key or (key = cast(:key_as_sent as text) and fingerprint = :fingerprint))
      and created_at > now() - make_interval(secs => :idempotency_seconds)
    order by created_at limit 1
    """,
    _Remembered,
)
_HAS_TURN: Final = text(
    """
    select exists (
        select from turnkeeper.idempotency_keys
        where organization_id = :organization_id and key in (:key, cast(:key_as_sent as text))
          and fingerprint = :fingerprint and created_at > now() - make_interval(secs => :idempotency_seconds))
    """
)


def kept_key(caller: Caller, key: str) -> str:
    """Return the form in which a caller's Idempotency-Key is kept: as sent, or for a `user` key as the user's own."""
    if caller.role != "user":
        return key
    return " " + hashlib.sha256(f"{caller.user}\0{key}".encode()).hexdigest()


def _names_of(caller: Caller, key: str) -> dict[str, str | None]:
    kept = kept_key(caller, key)
    return {"key": kept, "key_as_sent": None if kept == key else key}


@dataclass(frozen=True, slots=True)
class Replayed:
    """The turn that the same request has made before."""

    turn_id: UUID


def replay(
    db: Connection, caller: Caller, key: str, fingerprint: bytes, remembered: timedelta
) -> Replayed | None:
    """Look up the key; the first request holds its lock until its transaction ends.

    Args:
        db: The transaction that accepts the turn.
        caller: The caller that sent the key.
        key: The Idempotency-Key.
        fingerprint: The fingerprint of this request.
        remembered: How long a key is remembered.

    Raises:
        RefusedError: The key stands for another request, or the first with it has not finished.
    """
    parameters = {
        "organization_id": caller.organization_id,
        **_names_of(caller, key),
        "fingerprint": fingerprint,
        "idempotency_seconds": remembered.total_seconds(),
    }
    try:
        db.execute(_LOCK_KEY, parameters)
    except OperationalError as exc:
        if getattr(exc.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
            raise
        raise RefusedError(
            ProblemCode.IDEMPOTENCY_IN_PROGRESS,
            "the first request with this Idempotency-Key has not finished: send it again",
            retry_after_ms=_TRY_AGAIN_MS,
        ) from exc
    # A separate statement: its snapshot must be younger than the lock.
    earlier = _FIND_KEY.one_or_none(db, parameters)
    if earlier is None:
        return None
    if earlier.fingerprint != fingerprint:
        raise RefusedError(
            ProblemCode.IDEMPOTENCY_CONFLICT,
            "this Idempotency-Key was used for another request: use a new one",
        )
    return Replayed(earlier.turn_id)


def has_turn(
    db: Connection, caller: Caller, key: str, fingerprint: bytes, idempotency_seconds: float
) -> bool:
    """Return whether the same request has made a turn, and its Idempotency-Key is still remembered."""
    parameters = {
        "organization_id": caller.organization_id,
        **_names_of(caller, key),
        "fingerprint": fingerprint,
        "idempotency_seconds": idempotency_seconds,
    }
    return bool(db.execute(_HAS_TURN, parameters).scalar_one())

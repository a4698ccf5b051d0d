"""Idempotency keys: finds the turn that an earlier request with the same key made.

The statement that inserts a turn, in `accept`, also writes its key.
"""

# ruff: noqa: S608 -- statements are assembled once, from our own constants

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
    where organization_id = :organization_id and key = :key
      and created_at > now() - make_interval(secs => :idempotency_seconds)
    """,
    _Remembered,
)
_HAS_TURN: Final = text(
    """
    select exists (
        select from turnkeeper.idempotency_keys
        where organization_id = :organization_id and key = :key and fingerprint = :fingerprint
          and created_at > now() - make_interval(secs => :idempotency_seconds))
    """
)


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
        "key": key,
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
        "key": key,
        "fingerprint": fingerprint,
        "idempotency_seconds": idempotency_seconds,
    }
    return bool(db.execute(_HAS_TURN, parameters).scalar_one())

"""Erases one user's messages and answers; the record of what happened and what it cost stays, under a pseudonym.

Content is removed with the application's role, which row-level security binds to one organization. That role can
only add to the ledger, so that the service can never change a bill; the owner renames the user in it.
"""

# ruff: noqa: S608 -- statements are assembled once, from our own constants

import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from redis import RedisError
from sqlalchemy import text

from api.caller import Caller
from api.notices import Notices
from api.statements import sessions, turns
from api.stops import tell_stop
from shared.errors import UnavailableError
from shared.postgres.database import Database, engine_for
from shared.postgres.rows import columns
from shared.postgres.statement import Statement
from shared.redis.names import abort_key, joined_log_key, log_key
from shared.turn.events import EventType, decode_header
from shared.turn.turns import ACTIVE, TERMINAL, StopReason

if TYPE_CHECKING:
    from redis import Redis

_PAGE: Final = 200
_POLL_SECONDS: Final = 0.1
_DONE_SECONDS: Final = 5.0
"""A worker writes `done` right after it has settled."""
_LOCK_TIMEOUT: Final = "10s"

_SESSIONS: Final = text(
    """
    select s.id from turnkeeper.sessions as s
    where s.organization_id = :organization_id and s.user_name = :user and s.id > :after
    order by s.id limit :most
    """
)


@dataclass(frozen=True, slots=True)
class _EndedTurn:
    """A turn that is over, whose log may be deleted."""

    id: UUID
    session_id: UUID


@dataclass(frozen=True, slots=True)
class _Forgotten:
    """Counts of what was removed of a session."""

    messages: int
    checkpoints: int
    idempotency_keys: int


@dataclass(frozen=True, slots=True)
class _Written:
    """Counts of what a user has."""

    sessions: int
    messages: int


_ENDED: Final = Statement(
    f"""
    select {columns(_EndedTurn, "t")} from turnkeeper.turns as t
    where t.organization_id = :organization_id and t.session_id = :session_id and t.status = any(:terminal)
    """,
    _EndedTurn,
)
_UNFINISHED: Final = text(
    """
    select count(*) from turnkeeper.turns as t
    where t.organization_id = :organization_id and t.user_name = :user and t.status = any(:active)
    """
)
_FORGET: Final = Statement(
    f"""
    select {columns(_Forgotten)}
    from turnkeeper.forget_content(:organization_id, array[cast(:session_id as uuid)])
    """,
    _Forgotten,
)
_COUNT: Final = Statement(
    """
    select count(*) as sessions,
           (select count(*) from turnkeeper.messages as m
            where m.organization_id = :organization_id and m.session_id = any(array_agg(s.id))) as messages
    from turnkeeper.sessions as s
    where s.organization_id = :organization_id and s.user_name = :user
    """,
    _Written,
)
_KEYS: Final = text(
    """
    select count(*) from turnkeeper.api_keys
    where organization_id = :organization_id and user_name = :user and revoked_at is null
    """
)
# Turns before sessions, as everywhere. A session opened meanwhile was not emptied and keeps its user's name. So
# does one with a turn that has not ended, since its worker will write a ledger row with the turn's user name.
_RENAME_TURNS: Final = text(
    """
    update turnkeeper.turns as t set user_name = :pseudonym
    from turnkeeper.sessions as s
    where s.organization_id = :organization_id and s.user_name = :user and s.forgotten_at is not null
      and t.organization_id = s.organization_id and t.session_id = s.id
      and not exists (
          select from turnkeeper.turns as a
          where a.organization_id = s.organization_id and a.session_id = s.id and a.status = any(:active))
    """
)
_RENAME_SESSIONS: Final = text(
    """
    update turnkeeper.sessions as s
    set user_name = :pseudonym,
        flagged_by = case when s.flagged_by = :user then :pseudonym else s.flagged_by end
    where s.organization_id = :organization_id and s.user_name = :user and s.forgotten_at is not null
      and not exists (
          select from turnkeeper.turns as t
          where t.organization_id = s.organization_id and t.session_id = s.id and t.user_name = :user)
    """
)
_RENAME_LEDGER: Final = text(
    """
    update turnkeeper.ledger as l set user_name = :pseudonym
    from turnkeeper.sessions as s
    where l.organization_id = :organization_id and l.user_name = :user
      and s.organization_id = l.organization_id and s.id = l.session_id and s.user_name = :pseudonym
    """
)
_FORGET_REFUSALS: Final = text(
    "delete from turnkeeper.refusals where organization_id = :organization_id and user_name = :user"
)
_FIRST: Final = UUID(int=0)


@dataclass(slots=True)
class Erased:
    """Counts of what was removed.

    Args:
        pseudonym: The name that replaces the user's.
        sessions: Sessions that were emptied.
        stopped: Turns that were stopped.
        messages: Messages.
        checkpoints: Texts of turns that had not ended.
        idempotency_keys: Remembered requests.
        logs: Logs of turns in Redis.
        renamed: Rows of the ledger, which are kept.
        unfinished: Turns that have not ended yet: they keep the name until the user is erased again.
        keys: API keys of the user that are still valid.
    """

    pseudonym: str
    sessions: int = 0
    stopped: int = 0
    messages: int = 0
    checkpoints: int = 0
    idempotency_keys: int = 0
    logs: int = 0
    renamed: int = 0
    unfinished: int = 0
    keys: int = 0


class Erasure:
    """Erases one user of one organization; it can be repeated, and resumed after it broke off.

    Args:
        database: The database, with the application's role.
        owner_url: The owner's login.
        redis: Holds the logs of turns.
        notices: Announces stops to workers and readers.
    """

    def __init__(
        self,
        database: Database,
        owner_url: str,
        redis: "Redis",
        notices: Notices,
        organization_id: UUID,
        user: str,
    ) -> None:
        self._database = database
        self._owner_url = owner_url
        self._redis = redis
        self._notices = notices
        self._caller = Caller(organization_id, None, "service", None, None)
        self._names = {"organization_id": organization_id, "user": user}

    def count(self) -> tuple[int, int]:
        """Return how many sessions and messages the user has."""
        with self._database.of(self._caller.organization_id) as db:
            written = _COUNT.one(db, self._names)
        return written.sessions, written.messages

    def erase(self, wait_seconds: float) -> Erased:
        """Erase the user.

        Args:
            wait_seconds: How long to wait for running turns to end; those that have not are emptied all the same.

        Raises:
            UnavailableError: PostgreSQL or Redis cannot be reached. The erasure can be run again.
        """
        erased = Erased(f"erased-{secrets.token_hex(8)}")
        for session_id in self._sessions():
            erased.stopped += self._close(session_id)
        self._notices.drain()
        self._await_ends(time.monotonic() + wait_seconds)
        for session_id in self._sessions():
            self._forget(session_id, erased)
            erased.logs += self._delete_logs(session_id)
        self._rename(erased)
        erased.unfinished = self._unfinished()
        with self._database.of(self._caller.organization_id) as db:
            erased.keys = int(db.execute(_KEYS, self._names).scalar_one())
        return erased

    def _sessions(self) -> Iterator[UUID]:
        """Yield the user's sessions, read in pages so that memory never holds all of them."""
        after = _FIRST
        while True:
            with self._database.of(self._caller.organization_id) as db:
                page = db.execute(_SESSIONS, {**self._names, "after": after, "most": _PAGE}).scalars().all()
            yield from page
            if len(page) < _PAGE:
                return
            after = page[-1]

    def _close(self, session_id: UUID) -> int:
        """Close a session, then stop its turns: from the first commit on it accepts no other."""
        with self._database.of(self._caller.organization_id) as db:
            sessions.close_session(db, self._caller, session_id)
        with self._database.of(self._caller.organization_id) as db:
            stopped = turns.stop_session(db, self._caller, session_id, StopReason.SESSION_CLOSED, drops=True)
        for turn in stopped:
            tell_stop(self._notices, turn)
        return sum(turn.is_new for turn in stopped)

    def _await_ends(self, give_up_at: float) -> None:
        while self._unfinished() and time.monotonic() < give_up_at:
            time.sleep(_POLL_SECONDS)

    def _unfinished(self) -> int:
        with self._database.of(self._caller.organization_id) as db:
            return int(db.execute(_UNFINISHED, {**self._names, "active": sorted(ACTIVE)}).scalar_one())

    def _forget(self, session_id: UUID, erased: Erased) -> None:
        with self._database.of(self._caller.organization_id) as db:
            forgotten = _FORGET.one(
                db, {"organization_id": self._caller.organization_id, "session_id": session_id}
            )
        erased.sessions += 1
        erased.messages += forgotten.messages
        erased.checkpoints += forgotten.checkpoints
        erased.idempotency_keys += forgotten.idempotency_keys

    def _delete_logs(self, session_id: UUID) -> int:
        """Delete the logs of a session's turns that have ended; a running one's log would only be restarted."""
        with self._database.of(self._caller.organization_id) as db:
            ended = _ENDED.all(
                db,
                {
                    "organization_id": self._caller.organization_id,
                    "session_id": session_id,
                    "terminal": sorted(TERMINAL),
                },
            )
        try:
            self._await_done(ended)
            for turn in ended:
                self._redis.delete(abort_key(turn.session_id, turn.id))
            # In this order: a log is joined only while it is there.
            return sum(
                int(self._redis.delete(log_key(turn.session_id, turn.id)))
                + int(self._redis.delete(joined_log_key(turn.session_id, turn.id)))
                for turn in ended
            )
        except RedisError as exc:
            raise UnavailableError("redis cannot be reached: run it again") from exc

    def _await_done(self, ended: Sequence[_EndedTurn]) -> None:
        """Wait until the last event of each turn is written: a worker would restart a deleted log to write it."""
        give_up_at = time.monotonic() + _DONE_SECONDS
        for turn in ended:
            while not self._is_done(turn) and time.monotonic() < give_up_at:
                time.sleep(_POLL_SECONDS)

    def _is_done(self, turn: _EndedTurn) -> bool:
        newest: Any = self._redis.xrevrange(log_key(turn.session_id, turn.id), count=1)
        return all(
            decode_header(event).type == EventType.DONE for _, fields in newest for event in fields.values()
        )

    def _rename(self, erased: Erased) -> None:
        engine = engine_for(self._owner_url)
        names = {**self._names, "pseudonym": erased.pseudonym, "active": sorted(ACTIVE)}
        try:
            with engine.begin() as db:
                db.execute(text(f"set local lock_timeout = '{_LOCK_TIMEOUT}'"))
                db.execute(_FORGET_REFUSALS, names)
                db.execute(_RENAME_TURNS, names)
                db.execute(_RENAME_SESSIONS, names)
                erased.renamed = db.execute(_RENAME_LEDGER, names).rowcount
        finally:
            engine.dispose()

"""Answers the relay's questions from PostgreSQL."""

from collections.abc import Collection, Mapping, Sequence
from uuid import UUID

from api.auth import Authenticator
from api.caller import Caller
from api.notices import Notices
from api.relay.store import TurnState
from api.statements import sessions, turns
from api.statements.turns import TurnWithText
from api.stops import stop
from shared.postgres.database import Database
from shared.turn.events_of_turn import done_event
from shared.turn.turns import TERMINAL, StopReason, TurnStatus


class PostgresStreamStore:
    """A `StreamStore`; data that is not the caller's does not exist for it (I9)."""

    def __init__(self, database: Database, notices: Notices, authenticator: Authenticator) -> None:
        self._database = database
        self._notices = notices
        self._authenticator = authenticator

    def session_is_visible(self, caller: Caller, session_id: UUID) -> bool:
        """Return whether the caller may read the session."""
        if not _in_scope(caller, session_id):
            return False
        with self._database.of(caller.organization_id) as db:
            return sessions.session_exists(db, caller, session_id)

    def active_turn(self, caller: Caller, session_id: UUID) -> UUID | None:
        """Return the oldest turn of the session that is not over."""
        if not _in_scope(caller, session_id):
            return None
        with self._database.of(caller.organization_id) as db:
            return turns.active_turn(db, caller, session_id)

    def newest_turn(self, caller: Caller, session_id: UUID) -> UUID | None:
        """Return the turn of the session that was accepted last."""
        if not _in_scope(caller, session_id):
            return None
        with self._database.of(caller.organization_id) as db:
            return turns.newest_turn(db, caller, session_id)

    def turns_since(self, caller: Caller, session_id: UUID, known: UUID | None) -> Sequence[UUID]:
        """Return the turns accepted after `known`, oldest first; with None from the first."""
        if not _in_scope(caller, session_id):
            return ()
        with self._database.of(caller.organization_id) as db:
            return turns.turns_since(db, caller, session_id, known)

    def turn(self, caller: Caller, turn_id: UUID) -> TurnState | None:
        """Return a turn; None if it does not exist or is not this caller's."""
        with self._database.of(caller.organization_id) as db:
            row = turns.turn_with_text(db, caller, turn_id)
        return None if row is None or not _in_scope(caller, row.session_id) else state_of(row)

    def turns_ahead(self, seen: Mapping[UUID, int]) -> Collection[UUID]:
        """Return which turns are over, have text past the number that their readers have, or do not exist."""
        with self._database.across() as db:
            return turns.turns_ahead(db, seen)

    def missing_sessions(self, sessions: Mapping[UUID, UUID]) -> Collection[UUID]:
        """Return which of these sessions, each with its organization, do not exist."""
        with self._database.across() as db:
            return turns.missing_sessions(db, sessions)

    def request_stop(self, caller: Caller, turn_id: UUID) -> bool:
        """Stop a turn; False if it is not found."""
        if caller.session_id is not None and self.turn(caller, turn_id) is None:
            return False
        return stop(self._database, self._notices, caller, turn_id, StopReason.USER) is not None

    def caller_is_valid(self, caller: Caller) -> bool:
        """Return whether the key is neither revoked nor expired."""
        return self._authenticator.is_valid(caller)


def state_of(row: TurnWithText) -> TurnState:
    """Return what a reader of events must know of a turn."""
    status = TurnStatus(row.status)
    is_over = status in TERMINAL
    last_seq = row.last_seq if is_over else max(row.last_seq, row.checkpoint_seq or 0)
    # A message that is still being written has the id under which it will be stored.
    writing_id = row.answer_id if row.content or row.reasoning else None
    return TurnState(
        turn_id=row.id,
        session_id=row.session_id,
        status=status,
        attempt=row.attempt if is_over else row.checkpoint_attempt or 0,
        last_seq=last_seq,
        message_id=row.message_id if is_over else writing_id,
        content=row.content,
        reasoning=row.reasoning,
        # Without a checkpoint the row has no text: the events are on their way to the log.
        text_seq=last_seq if is_over else row.checkpoint_seq or 0,
        done=done_event(row, row.content) if is_over else None,
    )


def _in_scope(caller: Caller, session_id: UUID) -> bool:
    """Return whether the caller is a key, or a ticket for this session."""
    return caller.session_id is None or caller.session_id == session_id

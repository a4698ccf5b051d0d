"""Turns: read, list, stop."""

# ruff: noqa: S608 -- statements are assembled once, from our own constants

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, text

from api.caller import Caller, scope_of
from shared.money.usage import ShownTokens
from shared.postgres.rows import columns
from shared.postgres.statement import Statement
from shared.turn.turns import ACTIVE, MessageStatus, Signal, StopReason, TurnStatus, sources_into

_MOST_SINCE: Final = 20
"""A session's turns run one after another, so no more than this begin while a subscription is broken."""
_VISIBLE: Final = """
    t.organization_id = :organization_id
    and (cast(:only_user as text) is null or t.user_name = :only_user)
"""


@dataclass(frozen=True, slots=True)
class ShownTurn(ShownTokens):
    """The columns from which a turn is shown and its events are written."""

    id: UUID
    session_id: UUID
    number: int
    status: str
    attempt: int
    provider: str | None
    model: str | None
    message_id: UUID | None
    user_message_id: UUID
    answer_id: UUID
    finish_reason: str | None
    stop_reason: str | None
    usage_source: str | None
    cost_usd: Decimal
    error: dict[str, Any] | None
    provider_error: str | None
    last_seq: int
    history_trimmed: int
    title: str | None
    queued_at: datetime
    started_at: datetime | None
    first_token_at: datetime | None
    stop_requested_at: datetime | None
    stop_observed_at: datetime | None
    finished_at: datetime | None
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class TurnWithText(ShownTurn):
    """A turn with its stored text, and how far its last checkpoint reaches."""

    checkpoint_seq: int | None
    checkpoint_attempt: int | None
    content: str
    reasoning: str


@dataclass(frozen=True, slots=True)
class _ChangedTurn(ShownTurn):
    """A turn that was just stopped or asked to stop."""

    traceparent: str
    content: str
    next_turn: UUID | None


_STORED: Final = columns(ShownTurn, "t", without=frozenset({"last_seq"}))
STORED_COLUMNS: Final = f"{_STORED}, t.last_seq"
"""The columns of a `ShownTurn`, from its row."""
TURN_WITH_CHECKPOINT: Final = """
    left join turnkeeper.checkpoints as c on c.organization_id = t.organization_id and c.turn_id = t.id
"""
LAST_SEQ: Final = "greatest(t.last_seq, c.seq) as last_seq"
"""The usage known of a running attempt; needs `TURN_WITH_CHECKPOINT`."""
_COLUMNS: Final = f"{_STORED}, {LAST_SEQ}"

_FIND: Final = Statement(
    f"select {_COLUMNS} from turnkeeper.turns as t {TURN_WITH_CHECKPOINT} where {_VISIBLE} and t.id = :turn_id",
    ShownTurn,
)
_STATUS: Final = text(f"select t.status from turnkeeper.turns as t where {_VISIBLE} and t.id = :turn_id")
_LIST: Final = Statement(
    f"""
    select {_COLUMNS} from turnkeeper.turns as t {TURN_WITH_CHECKPOINT}
    where {_VISIBLE} and t.session_id = :session_id
      and (cast(:before as bigint) is null or t.number < :before)
    order by t.number desc limit :most
    """,
    ShownTurn,
)
_ACTIVE_OF_SESSION: Final = text(
    f"""
    select t.id from turnkeeper.turns as t
    where {_VISIBLE} and t.session_id = :session_id and t.status = any(:active)
    order by t.number limit 1
    """
)
_STATE: Final = Statement(
    f"""
    select {STORED_COLUMNS}, c.seq as checkpoint_seq, c.attempt as checkpoint_attempt,
           coalesce(m.content, c.content, '') as content, coalesce(m.reasoning, c.reasoning, '') as reasoning
    from turnkeeper.turns as t {TURN_WITH_CHECKPOINT}
    left join turnkeeper.messages as m on m.organization_id = t.organization_id and m.id = t.message_id
    where {_VISIBLE} and t.id = :turn_id
    """,
    TurnWithText,
)
_SINCE: Final = text(
    f"""
    select t.id from turnkeeper.turns as t
    where {_VISIBLE} and t.session_id = :session_id
      and t.number > coalesce((select k.number from turnkeeper.turns as k
                               where k.organization_id = t.organization_id and k.session_id = t.session_id
                                 and k.id = cast(:known as uuid)), 0)
    order by t.number limit {_MOST_SINCE}
    """
)
_AHEAD: Final = text("select turnkeeper.turns_ahead(cast(:turns as uuid[]), cast(:seqs as bigint[]))")
_MISSING: Final = text(
    "select turnkeeper.missing_sessions(cast(:organizations as uuid[]), cast(:sessions as uuid[]))"
)
_NEWEST: Final = text(
    f"""
    select t.id from turnkeeper.turns as t where {_VISIBLE} and t.session_id = :session_id
    order by t.number desc limit 1
    """
)


# A waiting turn is stopped here at once; a running one is asked to stop. If a turn waits again after an attempt,
# the text that was shown is kept (I5): its checkpoint becomes the partial answer.
def _stopping(which: str) -> Statement[_ChangedTurn]:
    """Return the statement that stops the turns `t` for which a condition holds."""
    return Statement(
        f"""
    with stopped as (
        update turnkeeper.turns as t set
            status = case when t.status = any(:waiting) then '{TurnStatus.STOPPED.value}'
                          else '{TurnStatus.STOPPING.value}' end,
            stop_reason = :stop_reason,
            stop_requested_at = statement_timestamp(),
            stop_observed_at = case when t.status = any(:waiting) then statement_timestamp() end,
            finished_at = case when t.status = any(:waiting) then statement_timestamp() end,
            last_seq = case when t.status = any(:waiting)
                            then greatest(t.last_seq, (select c.seq from turnkeeper.checkpoints as c
                                                       where c.organization_id = t.organization_id
                                                         and c.turn_id = t.id)) + 2
                            else t.last_seq end,
            message_id = case when t.status = any(:waiting) and exists (
                                  select from turnkeeper.checkpoints as c
                                  where c.organization_id = t.organization_id and c.turn_id = t.id
                                    and c.content <> '')
                              then t.answer_id end
        where {_VISIBLE} and {which} and t.status = any(:sources)
        returning t.*
    ), kept as (
        insert into turnkeeper.messages
            (organization_id, id, session_id, turn_id, position, role, content, reasoning, status)
        select t.organization_id, t.answer_id, t.session_id, t.id, t.number * 2 + 1, 'assistant',
               c.content, nullif(c.reasoning, ''), '{MessageStatus.PARTIAL.value}'
        from stopped as t {TURN_WITH_CHECKPOINT} where t.message_id is not null  -- a dropped turn has none
    ), forgotten as (
        delete from turnkeeper.checkpoints as c using stopped as t
        where t.status = '{TurnStatus.STOPPED.value}' and c.organization_id = t.organization_id and c.turn_id = t.id
        returning c.turn_id, c.content
    ), touched as (
        update turnkeeper.sessions as s set last_activity_at = greatest(s.last_activity_at, t.finished_at)
        from stopped as t
        where t.status = '{TurnStatus.STOPPED.value}' and s.organization_id = t.organization_id and s.id = t.session_id
    )
    select {STORED_COLUMNS}, t.traceparent,
           coalesce((select f.content from forgotten as f where f.turn_id = t.id and not t.dropped), '') as content,
           (select n.id from turnkeeper.turns as n
            where n.organization_id = t.organization_id and n.session_id = t.session_id and n.number > t.number
              and n.status = any(:waiting)
            order by n.number limit 1) as next_turn
    from stopped as t
    """,
        _ChangedTurn,
    )


_STOP: Final = _stopping("t.id = :turn_id")
_STOP_ALL: Final = _stopping("t.id = any(cast(:turn_ids as uuid[]))")
# In the order of their numbers, like every statement that locks several turns of a session.
_LOCK_ACTIVE: Final = text(
    f"""
    select t.id from turnkeeper.turns as t
    where {_VISIBLE} and t.session_id = :session_id and t.status = any(:active)
    order by t.number for no key update
    """
)
_DROP: Final = text(
    """
    update turnkeeper.turns set dropped = true
    where organization_id = :organization_id and id = any(:turns)
    """
)
_DROP_MESSAGES: Final = text(
    "delete from turnkeeper.messages where organization_id = :organization_id and turn_id = any(:turns)"
)
_STOPS_AT_ONCE: Final = sources_into(Signal.STOP, TurnStatus.STOPPED)
_ASKS: Final = sources_into(Signal.STOP, TurnStatus.STOPPING) - {TurnStatus.STOPPING}
"""A turn that was asked to stop before keeps the time and reason of the first request."""


@dataclass(frozen=True, slots=True)
class StoppedTurn:
    """The result of a stop.

    Args:
        row: The turn as it is now.
        is_new: Whether this stop changed it.
        content: The text that is kept of a turn that waited again after an attempt.
        next_turn: The turn of the session that is waiting behind it.
        traceparent: The trace in which a turn that this stop changed was accepted; empty for none.
    """

    row: ShownTurn
    is_new: bool
    content: str = ""
    next_turn: UUID | None = None
    traceparent: str = ""


def find_turn(db: Connection, caller: Caller, turn_id: UUID) -> ShownTurn | None:
    """Return a turn that the caller may see."""
    return _FIND.one_or_none(db, {**scope_of(caller), "turn_id": turn_id})


def turn_status(db: Connection, caller: Caller, turn_id: UUID) -> TurnStatus | None:
    """Return the status of a turn that the caller may see."""
    status = db.execute(_STATUS, {**scope_of(caller), "turn_id": turn_id}).scalar_one_or_none()
    return None if status is None else TurnStatus(status)


def list_turns(
    db: Connection, caller: Caller, session_id: UUID, *, before: int | None, most: int
) -> Sequence[ShownTurn]:
    """Return a session's turns with numbers below `before`, newest first."""
    return _LIST.all(db, {**scope_of(caller), "session_id": session_id, "before": before, "most": most})


def active_turn(db: Connection, caller: Caller, session_id: UUID) -> UUID | None:
    """Return the oldest turn of a session that has not ended."""
    parameters = {**scope_of(caller), "session_id": session_id, "active": sorted(ACTIVE)}
    found: UUID | None = db.execute(_ACTIVE_OF_SESSION, parameters).scalar_one_or_none()
    return found


def newest_turn(db: Connection, caller: Caller, session_id: UUID) -> UUID | None:
    """Return the turn of a session that was accepted last."""
    parameters = {**scope_of(caller), "session_id": session_id}
    found: UUID | None = db.execute(_NEWEST, parameters).scalar_one_or_none()
    return found


def turns_since(db: Connection, caller: Caller, session_id: UUID, known: UUID | None) -> list[UUID]:
    """Return the turns accepted after `known`, oldest first, at most 20; with None from the first."""
    parameters = {**scope_of(caller), "session_id": session_id, "known": known}
    return list(db.execute(_SINCE, parameters).scalars())


def turn_with_text(db: Connection, caller: Caller, turn_id: UUID) -> TurnWithText | None:
    """Return a turn with its stored text: the answer, or the last checkpoint."""
    return _STATE.one_or_none(db, {**scope_of(caller), "turn_id": turn_id})


def turns_ahead(db: Connection, seen: Mapping[UUID, int]) -> frozenset[UUID]:
    """Return which of the turns are over, have a checkpoint past the number given for them, or do not exist."""
    parameters = {"turns": list(seen), "seqs": list(seen.values())}
    return frozenset(db.execute(_AHEAD, parameters).scalars())


def missing_sessions(db: Connection, sessions: Mapping[UUID, UUID]) -> frozenset[UUID]:
    """Return which of the sessions, each with its organization, do not exist."""
    parameters = {"organizations": list(sessions.values()), "sessions": list(sessions)}
    return frozenset(db.execute(_MISSING, parameters).scalars())


def stop_turn(db: Connection, caller: Caller, turn_id: UUID, reason: StopReason) -> StoppedTurn | None:
    """Stop a waiting turn, or ask a running one to stop; one that was asked before or has ended stays as it is.

    Returns:
        The turn as it is now; None if the caller sees no such turn.
    """
    row = _STOP.one_or_none(db, {**_stop_parameters(caller, reason), "turn_id": turn_id})
    if row is not None:
        return _changed(row)
    unchanged = find_turn(db, caller, turn_id)
    return None if unchanged is None else StoppedTurn(unchanged, is_new=False)


def stop_turns(
    db: Connection, caller: Caller, turn_ids: Sequence[UUID], reason: StopReason
) -> Sequence[StoppedTurn]:
    """Stop turns that are locked, in one statement; returns those that this changed."""
    parameters = {**_stop_parameters(caller, reason), "turn_ids": list(turn_ids)}
    return [_changed(row) for row in _STOP_ALL.all(db, parameters)]


def _stop_parameters(caller: Caller, reason: StopReason) -> dict[str, Any]:
    return {
        **scope_of(caller),
        "stop_reason": reason.value,
        "waiting": sorted(_STOPS_AT_ONCE),
        "sources": sorted(_STOPS_AT_ONCE | _ASKS),
    }


def _changed(row: _ChangedTurn) -> StoppedTurn:
    return StoppedTurn(
        row, is_new=True, content=row.content, next_turn=row.next_turn, traceparent=row.traceparent
    )


def lock_active_turns(db: Connection, caller: Caller, session_id: UUID) -> list[UUID]:
    """Lock a session's turns that have not ended, and return them, oldest first.

    A turn that is being settled is waited for and left out. The session's row must not be locked yet: settling
    locks the turn first and then the session.
    """
    parameters = {**scope_of(caller), "session_id": session_id, "active": sorted(ACTIVE)}
    return list(db.execute(_LOCK_ACTIVE, parameters).scalars())


def stop_session(
    db: Connection, caller: Caller, session_id: UUID, reason: StopReason, *, drops: bool = False
) -> list[StoppedTurn]:
    """Stop all queued and running turns of a session together: none of them begins in between.

    With `drops` the messages are removed with the turns, even an answer that is still being written.

    Returns:
        The turns as they are now, oldest first.
    """
    active = lock_active_turns(db, caller, session_id)
    if drops and active:
        of_active = {"organization_id": caller.organization_id, "turns": active}
        db.execute(_DROP, of_active)
        db.execute(_DROP_MESSAGES, of_active)
    stopped = [stop_turn(db, caller, turn_id, reason) for turn_id in active]
    return [turn for turn in stopped if turn is not None]

"""Ends waiting turns that may not start any more: their organization is switched off, or has nothing left to spend.

No claim takes such a turn; here it ends, so that its readers do not wait for it. Each transaction ends a bounded number
of one organization's turns, whatever became of them meanwhile: one that was claimed, stopped or ended is left alone.
"""

# ruff: noqa: S608 -- statements are assembled once, from our own constants

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from types import MappingProxyType
from typing import Any, Final, cast
from uuid import UUID

from sqlalchemy import Connection

from shared.errors import Fault, TurnProblem, fault_error
from shared.postgres.database import Database
from shared.postgres.rows import columns
from shared.postgres.schema import has_money
from shared.postgres.statement import Statement
from shared.turn.events import Event, TurnError
from shared.turn.events_of_turn import stop_requested
from shared.turn.turns import MessageStatus, Role, Signal, StopReason, TurnStatus, in_sql, sources_into
from worker.turn.moved import MovedTurn

MOST_AT_ONCE: Final = 500
"""Some ten milliseconds for each hundred: well within a statement's time, and no lock is held for long."""
_ROUNDS: Final = 40
"""20,000 turns at most before the sweeper looks at those of dead workers."""

_WAITING: Final = in_sql(
    sources_into(Signal.STOP, TurnStatus.STOPPED) & sources_into(Signal.FAIL, TurnStatus.FAILED)
)


@dataclass(frozen=True, slots=True)
class BarredTurn(MovedTurn):
    """A turn that ended because it may not start.

    Args:
        traceparent: Its trace context.
        content: The text of an earlier attempt, which is kept.
    """

    traceparent: str
    content: str


@dataclass(frozen=True, slots=True)
class _Found:
    """A turn that no claim takes, and the word for why."""

    organization_id: UUID
    turn_id: UUID
    why: str


@dataclass(frozen=True, slots=True)
class _Locked:
    """A turn that still waits."""

    id: UUID
    session_id: UUID


@dataclass(frozen=True, slots=True)
class _Session:
    """A session whose row is locked."""

    id: UUID


_BARRED: Final = Statement(
    "select organization_id, turn_id, why from turnkeeper.barred_turns(:most, :is_free)", _Found
)
# Turns, sessions, then the totals of periods: as everywhere. What is locked is being ended or claimed by somebody else.
_LOCK_TURNS: Final = Statement(
    f"""
    select t.id, t.session_id from turnkeeper.turns as t
    where t.organization_id = :organization_id and t.id = any(:turns) and t.status in ({_WAITING})
    order by t.session_id, t.number for no key update skip locked
    """,
    _Locked,
)
_LOCK_SESSIONS: Final = Statement(
    """
    select s.id from turnkeeper.sessions as s
    where s.organization_id = :organization_id and s.id = any(:sessions) order by s.id for no key update
    """,
    _Session,
)
# As a stop of a waiting turn: the text that an earlier attempt has shown is kept (I5).
_END: Final = Statement(
    f"""
    with ended as (
        update turnkeeper.turns as t set
            status = cast(:status as text),
            error = cast(:error as jsonb),
            stop_reason = coalesce(t.stop_reason, cast(:stop_reason as text)),
            stop_requested_at = case when cast(:stop_reason as text) is null then t.stop_requested_at
                                     else clock_timestamp() end,
            stop_observed_at = case when cast(:stop_reason as text) is null then t.stop_observed_at
                                    else clock_timestamp() end,
            finished_at = clock_timestamp(),
            last_seq = greatest(t.last_seq, (select c.seq from turnkeeper.checkpoints as c
                                             where c.organization_id = t.organization_id and c.turn_id = t.id)) + 2,
            message_id = case when exists (
                                  select from turnkeeper.checkpoints as c
                                  where c.organization_id = t.organization_id and c.turn_id = t.id
                                    and c.content <> '')
                              then t.answer_id end
        where t.organization_id = :organization_id and t.id = any(:turns) and t.status in ({_WAITING})
        returning t.*
    ), kept as (
        insert into turnkeeper.messages
            (organization_id, id, session_id, turn_id, position, role, content, reasoning, status)
        select t.organization_id, t.answer_id, t.session_id, t.id, t.number * 2 + 1, '{Role.ASSISTANT.value}',
               c.content, nullif(c.reasoning, ''), '{MessageStatus.PARTIAL.value}'
        from ended as t
        join turnkeeper.checkpoints as c on c.organization_id = t.organization_id and c.turn_id = t.id
        where t.message_id is not null
    ), forgotten as (
        delete from turnkeeper.checkpoints as c using ended as t
        where c.organization_id = t.organization_id and c.turn_id = t.id
        returning c.turn_id, c.content
    ), touched as (
        update turnkeeper.sessions as s set last_activity_at = greatest(s.last_activity_at, clock_timestamp())
        from ended as t where s.organization_id = t.organization_id and s.id = t.session_id
    )
    select {columns(BarredTurn, "t", without=frozenset({"content"}))},
           coalesce((select f.content from forgotten as f where f.turn_id = t.id and not t.dropped), '') as content
    from ended as t
    """,
    BarredTurn,
)
_AI_DISABLED: Final = json.dumps(
    fault_error(Fault.AI_DISABLED, "the organization switched AI off before the turn could start")
)
_ENDS: Final[Mapping[str, Mapping[str, str | None]]] = MappingProxyType(
    {
        "ai_disabled": {"status": TurnStatus.FAILED.value, "error": _AI_DISABLED, "stop_reason": None},
        "budget": {
            "status": TurnStatus.STOPPED.value,
            "error": None,
            "stop_reason": StopReason.BUDGET.value,
        },
    }
)
"""How a turn ends, by the words of `barred_turns`."""


def end_barred_turns(database: Database, *, is_free: bool) -> Iterator[Sequence[BarredTurn]]:
    """End turns that may not start any more; yield those of each transaction, committed, at most `MOST_AT_ONCE`.

    Args:
        database: PostgreSQL.
        is_free: Whether no model costs anything, so that a budget that is used up stops nothing.

    Raises:
        UnavailableError: PostgreSQL cannot be reached.
    """
    for _ in range(_ROUNDS):
        with database.across() as db:
            if not has_money(db):
                return
            found = _BARRED.all(db, {"most": MOST_AT_ONCE, "is_free": is_free})
        count = 0
        by_cause = sorted(found, key=lambda turn: (turn.organization_id, turn.why))
        for (organization_id, why), turns in groupby(by_cause, lambda turn: (turn.organization_id, turn.why)):
            with database.of(organization_id) as db:
                ended = _end(db, organization_id, [turn.turn_id for turn in turns], _ENDS[why])
            if ended:
                count += len(ended)
                yield ended
        if count < MOST_AT_ONCE:
            return  # all, or the rest is locked by whoever else ends it


def last_events(turn: BarredTurn) -> Sequence[Event]:
    """Return the event that comes before `done`."""
    return (stop_requested(turn),) if turn.error is None else (TurnError(cast("TurnProblem", turn.error)),)


def _end(
    db: Connection, organization_id: UUID, turns: Sequence[UUID], how: Mapping[str, Any]
) -> Sequence[BarredTurn]:
    of_organization = {"organization_id": organization_id}
    locked = _LOCK_TURNS.all(db, {**of_organization, "turns": list(turns)})
    if not locked:
        return ()
    _LOCK_SESSIONS.all(db, {**of_organization, "sessions": list({turn.session_id for turn in locked})})
    return _END.all(db, {**of_organization, **how, "turns": [turn.id for turn in locked]})

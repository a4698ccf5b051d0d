"""Accepts a turn: writes the user's message and the turn, in one transaction.

Parallel posts to a session wait for each other at the session's lock. A refused post leaves nothing
behind, because the refusal rolls back, with one exception: a session that is found to be over its age is
`expired` from then on.

Locks are taken in one order everywhere, so that nothing deadlocks: key, session's lock, organization's
lock, turns by number, the session's row, the totals of month and day. A worker that settles begins with the turn.
"""

# ruff: noqa: S608 -- statements are assembled once, from our own constants

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar, assert_never
from uuid import UUID

from sqlalchemy import Connection, text

from api.backlog import Look
from api.caller import Caller, scope_of
from api.multitask import MultitaskStrategy
from api.statements.acceptance import Accepted, AcceptRules, Expired, TurnRequest
from api.statements.holds import take_hold
from api.statements.idempotency import Replayed, kept_key, replay
from api.statements.sessions import refuse_ended_session, session_expired
from api.statements.turns import STORED_COLUMNS, ShownTurn, StoppedTurn, lock_active_turns, stop_session
from api.titles import title_from
from shared.errors import ProblemCode, RefusedError
from shared.ids import new_id
from shared.money.holds import MESSAGE_TOKENS
from shared.postgres.statement import Statement
from shared.turn.conversation import is_in_conversation
from shared.turn.turns import (
    ACTIVE,
    MessageStatus,
    SessionStatus,
    StopReason,
    TurnStatus,
    in_sql,
)

_TRY_AGAIN_MS: Final = 1000
_QUEUE_FULL_MS: Final = 5000
_INSERT_TRIES: Final = 3
"""A turn may end after it has blocked the insert and before it is looked up."""

_BYTES_PER_TOKEN: Final = 4
_SESSION_SPACE: Final = 1
_ORGANIZATION_SPACE: Final = 2
"""In PostgreSQL, advisory locks with two numbers never collide with those with one."""
S = TypeVar("S", bound="_Session")

_LOCK_ORGANIZATION: Final = text(
    "select pg_advisory_xact_lock(:space, hashtext(cast(:organization_id as text)))"
)
_COUNT_TURNS: Final = text(
    """
    select count(*) from (
        select from turnkeeper.turns
        where organization_id = :organization_id and status = any(:counted) limit :limit) as found
    """
)
_COUNTED: Final = sorted({TurnStatus.QUEUED, TurnStatus.RUNNING})
"""A stopping turn leaves its place to the turn that superseded it."""


@dataclass(frozen=True, slots=True)
class _Session:
    """The limits that a session and its organization set for a new turn.

    Args:
        max_concurrent_turns: The organization's; None for no limit.
        earlier_tokens: The most tokens of earlier messages that a prompt can include; None without a budget.
        is_over: Whether the session is over its idle or age limit.
    """

    title: str | None
    status: str
    max_turns: int
    turn_count: int
    ai_enabled: bool
    max_concurrent_turns: int | None
    earlier_tokens: int | None
    is_over: bool


@dataclass(frozen=True, slots=True)
class _SessionAndBacklog(_Session):
    """A session, and how long its organization's turn that has waited longest has waited; None if none is waiting.

    Args:
        heard_seconds: The part of that time in which workers received doorbells.
        has_too_many: Whether the organization has its part of all turns that may be queued.
    """

    longest_seconds: float | None
    heard_seconds: float | None
    has_too_many: bool


# We lock the session's advisory key, not its row: a worker locks the row after its turn, and `interrupt` locks a turn
# after this. The values read are as old as the statement, which may have waited for the lock: the insert checks again
# what an earlier post may have changed.
# The history is measured only for a budget. Answers still to come are assumed to be long; if one is even longer, the
# worker asks for a shorter answer (`worker/turn/allowance.py`).
_LOCK_AND_READ: Final = f"""
    select s.title, s.status, s.max_turns, s.turn_count, o.ai_enabled, o.max_concurrent_turns,
           case when coalesce(o.daily_usd, o.monthly_usd) is not null then (
               select coalesce(sum(octet_length(m.content) + {MESSAGE_TOKENS}), 0) from turnkeeper.messages as m
               join turnkeeper.turns as t on t.organization_id = m.organization_id and t.id = m.turn_id
               where m.organization_id = s.organization_id and m.session_id = s.id and {is_in_conversation("t")}
           ) + (
               select coalesce(sum(a.max_output_tokens * {_BYTES_PER_TOKEN} + {MESSAGE_TOKENS}), 0)
               from turnkeeper.turns as a
               where a.organization_id = s.organization_id and a.session_id = s.id
                 and a.status in ({in_sql(ACTIVE)})
           ) + coalesce(octet_length(s.system_prompt) + {MESSAGE_TOKENS}, 0) end as earlier_tokens,
           s.last_activity_at < now() - make_interval(secs => :idle_seconds)
           or s.created_at < now() - make_interval(secs => :age_seconds) as is_over
           {{asked}}
    from (select pg_advisory_xact_lock({_SESSION_SPACE}, hashtext(cast(:session_id as text)))) as locked,
        turnkeeper.sessions as s join turnkeeper.organizations as o on o.id = s.organization_id
        {{answer}}
    where s.organization_id = :organization_id and s.id = :session_id
      and (cast(:only_user as text) is null or s.user_name = :only_user)
    """
# Two statements: PostgreSQL would plan one with a switch in it each time, which costs more than running it.
_LOCK_AND_READ_SESSION: Final = Statement(_LOCK_AND_READ.format(asked="", answer=""), _Session)
_LOCK_READ_AND_ASK: Final = Statement(
    _LOCK_AND_READ.format(
        asked=", w.seconds as longest_seconds, w.heard_seconds, w.has_too_many",
        answer="cross join turnkeeper.own_wait(:most_queued) as w",
    ),
    _SessionAndBacklog,
)
_ACTIVE_TURN: Final = text(
    """
    select id from turnkeeper.turns
    where organization_id = :organization_id and session_id = :session_id and status = any(:active)
    order by number limit 1
    """
)
_EXPIRE: Final = text(
    f"""
    update turnkeeper.sessions set status = '{SessionStatus.EXPIRED.value}', closed_at = now()
    where organization_id = :organization_id and id = :session_id and status = '{SessionStatus.ACTIVE.value}'
    """
)
_INSERT: Final = Statement(
    f"""
    with touched as (
        update turnkeeper.sessions as s set
            next_turn_number = s.next_turn_number + 1,
            last_activity_at = now(),
            title = coalesce(s.title, :title)
        where s.organization_id = :organization_id and s.id = :session_id
          and s.status = '{SessionStatus.ACTIVE.value}'
          and s.turn_count + cast(:before as integer) < s.max_turns
          and (cast(:may_wait as boolean) or not exists (
              select from turnkeeper.turns as a
              where a.organization_id = s.organization_id and a.session_id = s.id
                and a.status in ({in_sql(ACTIVE)})))
        returning s.next_turn_number - 1 as number, s.user_name
    ), accepted as (
        insert into turnkeeper.turns as t
            (organization_id, id, session_id, number, user_name, status, recovery, user_message_id, answer_id,
             max_output_tokens, deadline_seconds, last_seq, metadata, title, traceparent, request_id, claimable_at)
        select :organization_id, :turn_id, :session_id, number, user_name, :queued, :recovery, :user_message_id,
               :answer_id, :max_output_tokens, :deadline_seconds, :last_seq, cast(:metadata as jsonb),
               cast(:title as text), :traceparent, :request_id,
               case when cast(:before as integer) = 0 then clock_timestamp() end
        from touched
        returning t.*
    ), asked as (
        insert into turnkeeper.messages
            (organization_id, id, session_id, turn_id, position, role, content, status)
        select organization_id, user_message_id, session_id, id, number * 2, 'user', :content,
               '{MessageStatus.COMPLETE.value}'
        from accepted
    ), remembered as (
        insert into turnkeeper.idempotency_keys as k (organization_id, key, fingerprint, turn_id)
        select organization_id, :key, :fingerprint, id from accepted where cast(:key as text) is not null
        on conflict (organization_id, key) do update
            set fingerprint = excluded.fingerprint, turn_id = excluded.turn_id, created_at = now()
    )
    select {STORED_COLUMNS} from accepted as t
    """,
    ShownTurn,
)


def accept_turn(
    db: Connection, caller: Caller, request: TurnRequest, limits: AcceptRules, backlog: Look
) -> Accepted | Replayed | Expired:
    """Accept a turn in the caller's transaction.

    `backlog` knows whether the queue is full, and learns what the statement found.

    Raises:
        RefusedError: Nothing was written, and the transaction must be rolled back.
    """
    if request.key is not None:
        earlier = replay(db, caller, request.key, request.fingerprint, limits.idempotency)
        if earlier is not None:
            return earlier
    if backlog.asks():
        asked = _lock_and_read(db, caller, request, limits, _LOCK_READ_AND_ASK)
        backlog.learn(asked.longest_seconds, asked.heard_seconds, has_too_many=asked.has_too_many)
        session: _Session = asked
    else:
        session = _lock_and_read(db, caller, request, limits, _LOCK_AND_READ_SESSION)
    if session.is_over and _active_turn(db, caller, request) is None:
        db.execute(_EXPIRE, {"organization_id": caller.organization_id, "session_id": request.session_id})
        return Expired()
    if not session.ai_enabled:
        raise RefusedError(ProblemCode.AI_DISABLED, "the organization has AI switched off")
    _refuse_used_up(session, 0)
    if backlog.is_full():
        raise RefusedError(
            ProblemCode.QUEUE_FULL,
            "the organization's turns wait too long for a worker, or too many of them wait: try again later",
            retry_after_ms=_QUEUE_FULL_MS,
        )
    at_once = session.max_concurrent_turns
    if at_once is None:
        at_once = limits.max_concurrent_turns
    if at_once is not None:
        db.execute(
            _LOCK_ORGANIZATION, {"space": _ORGANIZATION_SPACE, "organization_id": caller.organization_id}
        )
    accepted = _accept(db, caller, request, limits, session)
    if at_once is not None:
        # Checked after the turn was inserted and others made way for it: the transaction sees its own result.
        _refuse_too_many(db, caller, at_once)
    if session.earlier_tokens is not None:
        take_hold(
            db,
            caller.organization_id,
            accepted.row.id,
            priced=limits.priced,
            context_tokens=limits.context_tokens,
            earlier_tokens=session.earlier_tokens,
            content=request.content,
            max_output_tokens=request.max_output_tokens,
        )
    return accepted


def _lock_and_read(
    db: Connection,
    caller: Caller,
    request: TurnRequest,
    limits: AcceptRules,
    statement: Statement[S],
) -> S:
    """Lock out other posts to the session; return the session with its limits and, if asked, the queue's age."""
    session = statement.one_or_none(
        db,
        {
            **scope_of(caller),
            "session_id": request.session_id,
            "idle_seconds": limits.session_idle.total_seconds(),
            "age_seconds": limits.session_age.total_seconds(),
            "most_queued": limits.most_queued,
        },
    )
    if session is None:
        raise RefusedError(ProblemCode.NOT_FOUND, "there is no such session")
    refuse_ended_session(session.status)
    return session


def _accept(
    db: Connection, caller: Caller, request: TurnRequest, limits: AcceptRules, session: _Session
) -> Accepted:
    """Insert the turn according to its strategy."""
    title = None if session.title else title_from(request.content)
    superseded: Sequence[StoppedTurn] = ()
    match request.strategy:
        case MultitaskStrategy.REJECT:
            return _accept_alone(db, caller, request, limits, title)
        case MultitaskStrategy.ENQUEUE:
            # Locked until the commit: each of them ends after this turn is visible, and then lets it run.
            before = len(lock_active_turns(db, caller, request.session_id))
            _refuse_used_up(session, before)
        case MultitaskStrategy.INTERRUPT | MultitaskStrategy.ROLLBACK:
            drops = request.strategy is MultitaskStrategy.ROLLBACK
            superseded = stop_session(db, caller, request.session_id, StopReason.SUPERSEDED, drops=drops)
            before = sum(stopped.row.status == TurnStatus.STOPPING for stopped in superseded)
            _refuse_used_up(session, before)
        case _:
            assert_never(request.strategy)
    row = _insert(db, caller, request, title, may_wait=True, before=before)
    if row is None:
        # The session was closed or used up meanwhile: refuse for that reason.
        _refuse_used_up(_lock_and_read(db, caller, request, limits, _LOCK_AND_READ_SESSION), before)
        raise session_expired()
    return Accepted(row, superseded)


def _accept_alone(
    db: Connection, caller: Caller, request: TurnRequest, limits: AcceptRules, title: str | None
) -> Accepted:
    """Insert the turn unless another of its session is active."""
    for _ in range(_INSERT_TRIES):
        row = _insert(db, caller, request, title, may_wait=False, before=0)
        if row is not None:
            return Accepted(row)
        if (active := _active_turn(db, caller, request)) is not None:
            break  # otherwise that turn ended between the two statements, or the session did
        _refuse_used_up(_lock_and_read(db, caller, request, limits, _LOCK_AND_READ_SESSION), 0)
    raise RefusedError(
        ProblemCode.SESSION_BUSY,
        "a turn of this session is queued or running: wait for its end or stop it",
        retry_after_ms=_TRY_AGAIN_MS,
        members={"active_turn_id": None if active is None else str(active)},
    )


def _refuse_used_up(session: _Session, before: int) -> None:
    """Refuse if the session's turns are used up, including `before` turns that are not counted yet."""
    if session.turn_count + before >= session.max_turns:
        raise RefusedError(
            ProblemCode.TURN_LIMIT_REACHED,
            f"the session's {session.max_turns} turns are used up: open another session",
            members={"max_turns": session.max_turns},
        )


def _refuse_too_many(db: Connection, caller: Caller, limit: int) -> None:
    """Refuse the turn that was just inserted if the organization now has more than `limit` at once."""
    found = db.execute(
        _COUNT_TURNS,
        {"organization_id": caller.organization_id, "counted": _COUNTED, "limit": limit + 1},
    ).scalar_one()
    if found > limit:
        raise RefusedError(
            ProblemCode.TOO_MANY_TURNS,
            f"{limit} turns of the organization are queued or running: wait for one to end",
            retry_after_ms=_TRY_AGAIN_MS,
            members={"limit": limit},
        )


def _active_turn(db: Connection, caller: Caller, request: TurnRequest) -> UUID | None:
    parameters = {
        "organization_id": caller.organization_id,
        "session_id": request.session_id,
        "active": sorted(ACTIVE),
    }
    found: UUID | None = db.execute(_ACTIVE_TURN, parameters).scalar_one_or_none()
    return found


def _insert(
    db: Connection,
    caller: Caller,
    request: TurnRequest,
    title: str | None,
    *,
    may_wait: bool,
    before: int,
) -> ShownTurn | None:
    """Insert turn, message and key.

    None if the session has ended, `before` other turns use up its limit, or a turn is active for which this one
    may not wait.
    """
    parameters = {
        "organization_id": caller.organization_id,
        "session_id": request.session_id,
        "turn_id": new_id(),
        "user_message_id": new_id(),
        "answer_id": new_id(),
        "may_wait": may_wait,
        "before": before,
        "queued": TurnStatus.QUEUED.value,
        "title": title,
        "content": request.content,
        "recovery": request.recovery.value,
        "max_output_tokens": request.max_output_tokens,
        "deadline_seconds": request.deadline_seconds,
        "last_seq": 1 if title is None else 2,
        "metadata": json.dumps(request.metadata),
        "traceparent": request.traceparent,
        "request_id": request.request_id,
        "key": None if request.key is None else kept_key(caller, request.key),
        "fingerprint": request.fingerprint,
    }
    return _INSERT.one_or_none(db, parameters)

"""Taking a turn: the row decides who runs it, and says all that the attempt needs.

A doorbell only wakes: which turn comes next is decided in PostgreSQL, by fairness among organizations and
by age within one. One transaction claims by compare-and-set, enters the organization of the row (never one from a
message) and reads the history, which is committed by then.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, Row

from shared.database import Database
from shared.statement import Statement
from shared.turns import Role
from worker.prompt import StoredMessage

_BYTES_PER_TOKEN: Final = 16
"""More than any text has; bounds what is read of a long history before its tokens are estimated."""

_CLAIM: Final = Statement(
    "select turnkeeper.claim_turn(:turn_id, :worker_id, :lease_seconds) as organization_id"
)
_CLAIM_NEXT: Final = Statement(
    "select organization_id, turn_id from turnkeeper.claim_next_turn(:worker_id, :lease_seconds, :hint)"
)
_TURN: Final = Statement(
    """
    select t.id, t.organization_id, t.session_id, t.number, t.attempt, t.status, t.recovery, t.answer_id,
           t.max_output_tokens, t.last_seq, t.title, t.queued_at, t.traceparent,
           t.finish_reason, t.stop_reason, t.stop_requested_at, t.finished_at,
           t.input_tokens, t.cache_read_tokens, t.cache_write_tokens, t.output_tokens, t.reasoning_tokens,
           t.usage_source, t.cost_usd, t.error,
           t.deadline_seconds - extract(epoch from clock_timestamp() - t.started_at) as seconds_left,
           t.handed_back, s.system_prompt, c.seq as checkpoint_seq, c.content as kept_text, h.amount_usd as hold_usd,
           case when t.number = 1 then (
               select m.content from turnkeeper.messages m
               where m.organization_id = t.organization_id and m.id = t.user_message_id) end as only_question
    from turnkeeper.turns t
    join turnkeeper.sessions s on s.organization_id = t.organization_id and s.id = t.session_id
    left join turnkeeper.checkpoints c on c.organization_id = t.organization_id and c.turn_id = t.id
    left join turnkeeper.holds h
        on h.organization_id = t.organization_id and h.turn_id = t.id and h.attempt = t.attempt
    where t.organization_id = :organization_id and t.id = :turn_id
    """
)
_HISTORY: Final = Statement(
    """
    select position / 2 as turn_number, role, content, all_messages from (
        select position, role, content, count(*) over () as all_messages,
               sum(octet_length(content)) over (order by position desc) - octet_length(content) as newer_bytes
        from turnkeeper.messages
        where organization_id = :organization_id and session_id = :session_id and position <= :question
    ) as newest_first
    where newer_bytes <= :most_bytes
    order by position
    """
)
_EARLIER_TURNS: Final = Statement(
    """
    select count(*) as number from turnkeeper.messages
    where organization_id = :organization_id and session_id = :session_id and position < :question and role = 'user'
    """
)


@dataclass(frozen=True, slots=True)
class Claim:
    """A turn that this worker owns, as the row was when it was claimed.

    Args:
        row: The turn's columns, with `seconds_left`, the session's `system_prompt`, the number
            that an earlier attempt's checkpoint reached, its `kept_text`, which may be continued, and the `hold_usd`
            that the attempt may cost, None without a budget.
        history: Settled messages below this turn, as far as the context could hold them, then the question.
        dropped_turns: Earlier turns that were not even read because the history is too long.
    """

    row: Row[Any]
    history: Sequence[StoredMessage]
    dropped_turns: int

    @property
    def turn_id(self) -> UUID:
        """The turn."""
        return UUID(str(self.row.id))

    @property
    def organization_id(self) -> UUID:
        """Whose turn it is."""
        return UUID(str(self.row.organization_id))

    @property
    def attempt(self) -> int:
        """The fencing token (I3)."""
        return int(self.row.attempt)


def claim_turn(
    database: Database, turn_id: UUID, worker_id: UUID, *, lease_seconds: float, context_tokens: int
) -> Claim | None:
    """Claim one turn by its name, fair or not; None means that it is not to be had.

    It is taken, settled, not its session's next, or no turn.

    Raises:
        UnavailableError: PostgreSQL cannot be reached.
    """
    with database.across() as db:
        claimed = _CLAIM.one_or_none(
            db, {"turn_id": turn_id, "worker_id": worker_id, "lease_seconds": lease_seconds}
        )
        if claimed is None or claimed.organization_id is None:
            return None
        return _read(db, claimed.organization_id, turn_id, context_tokens)


def claim_next_turn(
    database: Database, worker_id: UUID, hint: UUID | None, *, lease_seconds: float, context_tokens: int
) -> Claim | None:
    """Claim the turn that is to run next; None means that none can be claimed.

    Args:
        database: The pool.
        worker_id: Who claims.
        hint: The turn that a doorbell named: it is taken when its organization is as entitled as any.
        lease_seconds: How long it is owned without renewing.
        context_tokens: Most tokens of history that are read.

    Raises:
        UnavailableError: PostgreSQL cannot be reached.
    """
    with database.across() as db:
        claimed = _CLAIM_NEXT.one_or_none(
            db, {"worker_id": worker_id, "lease_seconds": lease_seconds, "hint": hint}
        )
        if claimed is None:
            return None
        return _read(db, claimed.organization_id, claimed.turn_id, context_tokens)


def _read(db: Connection, organization_id: UUID, turn_id: UUID, context_tokens: int) -> Claim:
    # The transaction is the organization's since the claim, which binds it.
    row = _TURN.one_or_none(db, {"organization_id": organization_id, "turn_id": turn_id})
    assert row is not None  # this transaction has just claimed it
    return _with_history(db, row, context_tokens * _BYTES_PER_TOKEN)


def _with_history(db: Connection, row: Row[Any], most_bytes: int) -> Claim:
    if row.only_question is not None:
        return Claim(row, [StoredMessage(row.number, Role.USER, row.only_question)], 0)
    of_session = {
        "organization_id": row.organization_id,
        "session_id": row.session_id,
        "question": row.number * 2,
    }
    rows = _HISTORY.all(db, {**of_session, "most_bytes": most_bytes})
    history = [StoredMessage(message.turn_number, message.role, message.content) for message in rows]
    if not rows or len(rows) == rows[0].all_messages:
        return Claim(row, history, 0)
    while history and history[0].role != "user":
        del history[0]  # its question did not fit
    turns_read = len({message.turn_number for message in history})
    earlier = _EARLIER_TURNS.one_or_none(db, of_session)
    dropped = earlier.number - (turns_read - 1) if earlier is not None and turns_read else 0
    return Claim(row, history, max(0, dropped))

"""Taking a turn: the row decides who runs it, and says all that the attempt needs.

A doorbell only wakes: which turn comes next is decided in PostgreSQL, by fairness among organizations and
by age within one. One statement, a transaction of its own, claims by compare-and-set, enters the organization of the
row (never one from a message) and reads the history, which is committed by then: its functions see what was done before
they were called.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Row

from shared.postgres.database import Database
from shared.postgres.statement import Statement
from shared.turn.parts import parts_of
from shared.turn.turns import Role
from worker.turn.prompt import StoredMessage

_BYTES_PER_TOKEN: Final = 16
"""More than any text has; bounds what is read of a long history before its tokens are estimated."""

_CLAIM: Final = Statement(
    """
    select r.* from turnkeeper.claim_turn(:turn_id, :worker_id, :lease_seconds) as claimed_for
    cross join lateral turnkeeper.read_claim(case when claimed_for is not null then :turn_id end, :most_bytes) as r
    """
)
_CLAIM_NEXT: Final = Statement(
    """
    select r.* from turnkeeper.claim_next_turn(:worker_id, :lease_seconds, :hint) as c
    cross join lateral turnkeeper.read_claim(c.turn_id, :most_bytes) as r
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
    return _claim(
        database,
        _CLAIM,
        context_tokens,
        {"turn_id": turn_id, "worker_id": worker_id, "lease_seconds": lease_seconds},
    )


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
    return _claim(
        database,
        _CLAIM_NEXT,
        context_tokens,
        {"worker_id": worker_id, "lease_seconds": lease_seconds, "hint": hint},
    )


def _claim(
    database: Database, statement: Statement, context_tokens: int, parameters: Mapping[str, Any]
) -> Claim | None:
    with database.alone() as db:
        row = statement.one_or_none(db, {**parameters, "most_bytes": context_tokens * _BYTES_PER_TOKEN})
    if row is None:
        return None
    history = [StoredMessage(turn, role, parts_of(content)) for turn, role, content in row.history or ()]
    if len(history) == row.all_messages:
        return Claim(row, history, 0)
    while history and history[0].role != Role.USER:
        del history[0]  # its question did not fit
    turns_read = len({message.turn_number for message in history})
    return Claim(row, history, max(0, row.earlier_turns - (turns_read - 1)) if turns_read else 0)

"""Claims a turn: the row decides which worker runs it, and holds everything that the attempt needs.

A doorbell only wakes a worker. PostgreSQL decides which turn is next, by fairness among organizations and by age
within one. One statement, a transaction of its own, claims by compare-and-set, enters the organization of the row
(never one from a message) and reads the history. That is committed by then: its functions see what was done before
they were called.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from shared.money.prices import Priced
from shared.money.quotes import Quote, read_quote
from shared.postgres.database import Database
from shared.postgres.rows import columns
from shared.postgres.statement import Statement
from shared.turn.conversation import REFUSED_CODES
from shared.turn.parts import parts_of
from shared.turn.turns import Recovery, Role, Signal, in_sql, sources_of
from worker.providers.provider import Capabilities
from worker.turn.allowance import Allowance
from worker.turn.prompt import TOKENS_PER_MESSAGE, StoredMessage, size_of

_BYTES_PER_TOKEN: Final = 16
"""More than any text has; bounds how much of a long history is read before its tokens are estimated."""


@dataclass(frozen=True, slots=True)
class ClaimedTurn:
    """A turn as it was when it was claimed: the columns that `read_claimed` returns, then those of `money_of_claim`.

    Args:
        seconds_left: Until its deadline.
        queued_seconds: Since it was accepted.
        claimable_seconds: Since it could have been claimed.
        checkpoint_seq: The number that an earlier attempt's checkpoint reached.
        kept_text: The text of that checkpoint, which may be continued.
        hold_usd: What the attempt may cost; None without a budget.
        history: Number, role and text of the newest settled messages below this turn, then of its question. Turns that
        the provider refused are left out, here and in the counts.
        all_messages: How many such messages there are.
        unread_tokens: The estimated tokens of the texts of those that are not in `history`.
        earlier_turns: How many turns they belong to, without this one.
        hold_price: The price at which `hold_usd` was computed; None if that is not known.
        needs_hold: Whether there is a budget and the attempt has no hold: it was set after the turn was accepted.
    """

    id: UUID
    organization_id: UUID
    session_id: UUID
    number: int
    attempt: int
    status: str
    recovery: str
    answer_id: UUID
    max_output_tokens: int
    last_seq: int
    title: str | None
    queued_at: datetime
    traceparent: str
    seconds_left: float
    queued_seconds: float
    claimable_seconds: float
    first_token_at: datetime | None
    handed_back: int
    system_prompt: str | None
    checkpoint_seq: int | None
    kept_text: str | None
    hold_usd: Decimal | None
    history: Sequence[tuple[int, str, str]] | None
    all_messages: int
    unread_tokens: int
    earlier_turns: int
    hold_price: Mapping[str, Any] | None = None
    needs_hold: bool = False

    def is_again(self) -> bool:
        """Return whether an earlier attempt may have shown text."""
        return self.attempt > 1

    def told_seq(self) -> int:
        """Return the number of the last event that PostgreSQL knows of."""
        return max(self.last_seq, self.checkpoint_seq or 0)

    def prefix(self, capabilities: Capabilities) -> str:
        """Return the text to continue; empty if there is none, or the provider cannot continue one."""
        return self.kept_text or "" if capabilities.continuation else ""

    def allowance(self, priced: Priced, context_tokens: int) -> Allowance | None:
        """Return what the attempt may cost; None without a budget.

        Args:
            priced: The model that answers, with its prices.
            context_tokens: The length to which prompts are cut.
        """
        if self.hold_usd is None:
            return None
        quote = self.quote()
        is_of_model = quote is not None and quote.is_of(priced)
        return Allowance(priced, self.hold_usd, context_tokens, quote if is_of_model else None)

    def quote(self) -> Quote | None:
        """Return the price of the hold; None without a hold, or if its price is not known."""
        return read_quote(self.hold_price)

    def counted_attempts(self) -> int | None:
        """Return the attempt's number, not counting those handed back; None if no other may follow its text."""
        return None if self.recovery == Recovery.FAIL else self.attempt - self.handed_back


@dataclass(frozen=True, slots=True)
class Claim:
    """A turn that this worker owns.

    Args:
        turn: As it was when it was claimed.
        history: Settled messages before this turn, as many as the context could hold, then the question.
        dropped_turns: Earlier turns that were not even read because the history is too long.
        unread_tokens: Their estimated tokens.
    """

    turn: ClaimedTurn
    history: Sequence[StoredMessage]
    dropped_turns: int
    unread_tokens: int = 0

    @property
    def turn_id(self) -> UUID:
        """The turn."""
        return self.turn.id

    @property
    def organization_id(self) -> UUID:
        """The organization that the turn belongs to."""
        return self.turn.organization_id

    @property
    def attempt(self) -> int:
        """The fencing token (I3)."""
        return self.turn.attempt


_ANY_NUMBER: Final = 2**31 - 1
_MONEY: Final = ("hold_price", "needs_hold")
_COLUMNS: Final = ", ".join(
    (columns(ClaimedTurn, "r", without=frozenset(_MONEY)), *(f"m.{name}" for name in _MONEY))
)
_CLAIM: Final = Statement(
    f"""
    select {_COLUMNS}
    from turnkeeper.claim_turn(:turn_id, :worker_id, :lease_seconds) as claimed_for
    cross join lateral turnkeeper.read_claimed(
        case when claimed_for is not null then :turn_id end, :most_bytes, {REFUSED_CODES}) as r
    cross join lateral turnkeeper.money_of_claim(r.id, r.attempt) as m
    """,  # noqa: S608 -- the columns are ours
    ClaimedTurn,
)
_CLAIM_NEXT: Final = Statement(
    f"""
    select {_COLUMNS}
    from turnkeeper.claim_next_turn(:worker_id, :lease_seconds, :hint, cast(:most_of_one as integer)) as c
    cross join lateral turnkeeper.read_claimed(c.turn_id, :most_bytes, {REFUSED_CODES}) as r
    cross join lateral turnkeeper.money_of_claim(r.id, r.attempt) as m
    """,  # noqa: S608
    ClaimedTurn,
)


_LAPSE: Final[Statement[None]] = Statement(
    f"""
    update turnkeeper.turns set lease_expires_at = clock_timestamp()
    where organization_id = :organization_id and id = :turn_id and attempt = :attempt and worker_id = :worker_id
      and status in ({in_sql(sources_of(Signal.COMPLETE))})
    """  # noqa: S608 -- the statuses are ours
)


def claim_turn(
    database: Database, turn_id: UUID, worker_id: UUID, *, lease_seconds: float, context_tokens: int
) -> Claim | None:
    """Claim one turn by its id, whether or not it is fair; None if it cannot be claimed.

    It cannot be if it is taken, settled, not its session's next, or does not exist.

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
    database: Database,
    worker_id: UUID,
    hint: UUID | None,
    *,
    lease_seconds: float,
    context_tokens: int,
    most_of_one: int = _ANY_NUMBER,
) -> Claim | None:
    """Claim the turn that is to run next, for `lease_seconds`; None if no turn can be claimed.

    `hint` is the turn that a doorbell named; it is claimed if its organization is as entitled as any. At most
    `context_tokens` of history are read. An organization whose turns hold `most_of_one` slots of this worker is
    passed over, unless it is the only one.

    Raises:
        UnavailableError: PostgreSQL cannot be reached.
    """
    return _claim(
        database,
        _CLAIM_NEXT,
        context_tokens,
        {
            "worker_id": worker_id,
            "lease_seconds": lease_seconds,
            "hint": hint,
            "most_of_one": most_of_one,
        },
    )


def give_up_claim(database: Database, turn: ClaimedTurn, worker_id: UUID) -> None:
    """Let a claim's lease end now, so that the next sweep takes the turn up with all that its log knows.

    Raises:
        UnavailableError: PostgreSQL cannot be reached; the lease ends by itself.
    """
    with database.of(turn.organization_id) as db:
        _LAPSE.run(
            db,
            {
                "organization_id": turn.organization_id,
                "turn_id": turn.id,
                "attempt": turn.attempt,
                "worker_id": worker_id,
            },
        )


def _claim(
    database: Database, statement: Statement[ClaimedTurn], context_tokens: int, parameters: Mapping[str, Any]
) -> Claim | None:
    with database.alone() as db:
        turn = statement.one_or_none(db, {**parameters, "most_bytes": context_tokens * _BYTES_PER_TOKEN})
    if turn is None:
        return None
    history = [StoredMessage(number, role, parts_of(content)) for number, role, content in turn.history or ()]
    if len(history) == turn.all_messages:
        return Claim(turn, history, 0, 0)
    unread = turn.unread_tokens + TOKENS_PER_MESSAGE * (turn.all_messages - len(history))
    while history and history[0].role != Role.USER:
        unread += size_of(history.pop(0).content)  # its question did not fit
    turns_read = len({message.turn_number for message in history})
    dropped = max(0, turn.earlier_turns - (turns_read - 1)) if turns_read else 0
    return Claim(turn, history, dropped, unread)

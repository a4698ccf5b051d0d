"""Writes how a turn ended, once: one statement, guarded by the attempt (I2, I3).

Status, answer, ledger row and the totals of the session, day and month are written together or not at all. The cost
replaces the hold in the day and month of the hold, where room was kept for it (I6).
"""

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, TypeAlias, assert_never
from uuid import UUID

from sqlalchemy import Connection

from shared.configuration.provider_settings import ProviderSettings
from shared.errors import FAULT_TITLES, Fault, TurnkeeperError, TurnProblem, fault_error
from shared.ids import new_id
from shared.money.price_table import Price
from shared.money.prices import price_of
from shared.money.quotes import Quote, quote_of
from shared.money.usage import COLUMNS, SHOWN_COLUMNS, Usage, UsageSource
from shared.postgres.database import Database
from shared.postgres.rows import columns
from shared.postgres.statement import Statement
from shared.turn.turns import TERMINAL, MessageStatus, Role, Signal, TurnStatus, sources_into
from worker.turn.moved import SettledTurn
from worker.turn.outcome import Answer, Completed, Failed, Requeued, Stopped

_log = logging.getLogger("turnkeeper.settle")

_OF_TURN: Final = columns(SettledTurn, "t", without=frozenset({"released_usd", "charged_usd", "has_next"}))
_COUNTED: Final = ", ".join(SHOWN_COLUMNS)
_SPENT_COLUMNS: Final = tuple(name for name in SHOWN_COLUMNS if name != "reasoning_tokens")
"""The columns that `spend` adds up: thinking is part of the answer's tokens."""


def _each(form: str, names: Iterable[str] = SHOWN_COLUMNS) -> str:
    """Return SQL for each class of tokens, its column where `form` has `{0}`."""
    return ", ".join(form.format(name) for name in names)


# given: what is written, cast once. settled: moves the turn if the attempt still owns it; the rest depends on its row.
# released, rest: the hold is given back; what is left of it serves the next attempt of a turn that was handed back.
# answer: the message, once the turn is over. billed: the ledger's row, for a call.
# of_session, totals: sums of the session, then of month and day, on the day whose hold was released or else today.
# Last: the turn as it is now, what was released and charged, and whether a later turn of the session waits.
_SETTLE: Final = Statement(
    f"""
    with given as (
        select cast(:status as text) as status, cast(:is_terminal as boolean) as is_terminal,
            cast(:called as boolean) as called, cast(:content as text) as content,
            {_each("cast(:{0} as bigint) as {0}", COLUMNS)}, cast(:cost_usd as numeric) as cost_usd,
            cast(:provider as text) as provider, cast(:model as text) as model,
            cast(:usage_source as text) as usage_source, cast(:keeps_hold as boolean) as keeps_hold,
            cast(clock_timestamp() at time zone 'UTC' as date) as today
    ), settled as (
        update turnkeeper.turns as t set
            status = g.status,
            attempt = t.attempt + cast(:ends_attempt as integer),
            finish_reason = cast(:finish_reason as text),
            stop_reason = case when g.status = '{TurnStatus.STOPPED.value}'
                               then coalesce(t.stop_reason, cast(:stop_reason as text)) else t.stop_reason end,
            error = cast(:error as jsonb),
            message_id = case when g.is_terminal and g.content <> '' then t.answer_id end,
            provider = g.provider,
            model = g.model,
            {_each("{0} = t.{0} + g.{0}")},
            -- What one attempt disputes, the sum of all of them does.
            usage_source = case when t.usage_source = '{UsageSource.DISPUTED.value}' then t.usage_source
                                else coalesce(g.usage_source, t.usage_source) end,
            cost_usd = t.cost_usd + g.cost_usd,
            last_seq = cast(:last_seq as bigint),
            history_trimmed = cast(:history_trimmed as integer),
            first_token_at = coalesce(
                t.first_token_at, clock_timestamp() - make_interval(secs => cast(:first_token_ago as float8))),
            stop_observed_at = coalesce(
                t.stop_observed_at, clock_timestamp() - make_interval(secs => cast(:stop_observed_ago as float8))),
            finished_at = case when g.is_terminal
                               then coalesce(cast(:finished_at as timestamptz), clock_timestamp()) end,
            worker_id = coalesce(cast(:settler as uuid), t.worker_id),
            lease_expires_at = null,
            handed_back = t.handed_back + cast(:handed_back as integer),
            rung_at = case when g.is_terminal then t.rung_at else to_timestamp(0) end
        from given as g
        where t.organization_id = :organization_id and t.id = :turn_id and t.attempt = :attempt
          and t.status = any(cast(:sources as text[]))
          and (not cast(:is_lost as boolean) or t.lease_expires_at < clock_timestamp())
        returning {_OF_TURN}, t.organization_id, t.user_name, t.number, t.answer_id
    ), released as (
        delete from turnkeeper.holds as h using settled as s
        where h.organization_id = s.organization_id and h.turn_id = s.id
        returning h.day, h.month, h.amount_usd, h.price
    ), rest as (
        insert into turnkeeper.holds (organization_id, turn_id, attempt, day, month, amount_usd, price)
        select s.organization_id, s.id, s.attempt, r.day, r.month, greatest(0, r.amount_usd - g.cost_usd), r.price
        from settled as s, given as g, released as r where g.keeps_hold
        returning amount_usd
    ), answer as (
        insert into turnkeeper.messages (organization_id, id, session_id, turn_id, position, role, content, reasoning,
            status, finish_reason, {_COUNTED})
        select s.organization_id, s.answer_id, s.session_id, s.id, s.number * 2 + 1, '{Role.ASSISTANT.value}',
            g.content, cast(:reasoning as text), case when g.status = '{TurnStatus.COMPLETED.value}'
                then '{MessageStatus.COMPLETE.value}' else '{MessageStatus.PARTIAL.value}' end,
            s.finish_reason, {_each("g.{0}")}
        from settled as s, given as g where g.is_terminal and g.content <> ''
    ), billed as (
        insert into turnkeeper.ledger (organization_id, id, turn_id, session_id, user_name, attempt, provider, model,
            {", ".join(COLUMNS)}, usage_source, reported, price, cost_usd, day)
        select s.organization_id, :ledger_id, s.id, s.session_id, s.user_name, cast(:attempt as integer),
            g.provider, g.model, {_each("g.{0}", COLUMNS)}, g.usage_source, cast(:reported as jsonb),
            cast(:price as jsonb), g.cost_usd, coalesce(r.day, g.today)
        from settled as s cross join given as g left join released as r on true where g.called
    ), of_session as (
        update turnkeeper.sessions as o set
            turn_count = o.turn_count + case when g.is_terminal and s.usage_source is not null then 1 else 0 end,
            {_each("{0} = o.{0} + g.{0}")},
            cost_usd = o.cost_usd + g.cost_usd,
            last_activity_at = greatest(o.last_activity_at, clock_timestamp())
        from settled as s, given as g where o.organization_id = s.organization_id and o.id = s.session_id
        returning o.organization_id
    ), totals as (
        insert into turnkeeper.spend as p (organization_id, period, starts_on, attempts, {", ".join(_SPENT_COLUMNS)},
            spent_usd)
        select s.organization_id, period, date_trunc(period, cast(coalesce(r.day, g.today) as timestamp))::date,
            cast(g.called as integer), {_each("g.{0}", _SPENT_COLUMNS)}, g.cost_usd
        -- From the session: its row is locked before those of the periods, and a month before its day, as everywhere.
        from of_session as s cross join given as g left join released as r on true
        cross join unnest(array['month', 'day']) as period
        where g.called or r.day is not null
        order by period desc
        on conflict (organization_id, period, starts_on) do update set
            attempts = p.attempts + excluded.attempts,
            {_each("{0} = p.{0} + excluded.{0}", _SPENT_COLUMNS)},
            spent_usd = p.spent_usd + excluded.spent_usd,
            held_usd = p.held_usd - coalesce((select amount_usd from released), 0)
                + coalesce((select amount_usd from rest), 0)
    )
    select {_OF_TURN}, (select amount_usd from released) as released_usd,
        (select cost_usd from given) as charged_usd, exists (
            select from turnkeeper.turns as n
            where n.organization_id = t.organization_id and n.session_id = t.session_id
              and n.status = '{TurnStatus.QUEUED.value}' and n.number > t.number) as has_next
    from settled as t
    """,  # noqa: S608 -- the columns are ours
    SettledTurn,
)
_FORGET: Final[Statement[None]] = Statement(
    "delete from turnkeeper.checkpoints as c where c.organization_id = :organization_id and c.turn_id = :turn_id"
)
_KEEP: Final[Statement[None]] = Statement(
    f"""
    insert into turnkeeper.checkpoints as c (organization_id, turn_id, attempt, seq, called, content, reasoning)
    values (:organization_id, :turn_id, :attempt, :last_seq, false, :content, '')
    on conflict (organization_id, turn_id) do update set
        attempt = excluded.attempt, seq = excluded.seq, called = false, content = excluded.content, reasoning = '',
        {_each("{0} = 0", COLUMNS)}, usage_source = excluded.usage_source, reported = null, saved_at = now()
    """  # noqa: S608
)
"""The text that the next attempt continues. It is billed already, so it has no figures."""
_NOTE_SAID: Final[Statement[None]] = Statement(
    "update turnkeeper.turns set provider_error = :said where organization_id = :organization_id and id = :turn_id"
)
"""In a statement of its own, because it is rare; the row is locked by the settlement before it."""


@dataclass(frozen=True, slots=True)
class _Held:
    """The number of an answer's tokens that a hold was taken for."""

    tokens: int


_HOLD_AGAIN: Final = Statement(
    """
    select tokens from turnkeeper.take_hold(
        :organization_id, :turn_id, :attempt, :amount_usd, 0, 1, :max_output_tokens, cast(:at_price as jsonb))
    """,
    _Held,
)
_READ: Final = Statement(
    f"""
    select {_OF_TURN}, true as has_next, cast(null as numeric) as released_usd, (
            select l.cost_usd from turnkeeper.ledger as l
            where l.organization_id = t.organization_id and l.turn_id = t.id and l.attempt = t.attempt) as charged_usd
    from turnkeeper.turns as t
    where t.organization_id = :organization_id and t.id = :turn_id
    """,  # noqa: S608
    SettledTurn,
)

Ending: TypeAlias = Completed | Stopped | Failed | Requeued


class UnpayableError(TurnkeeperError):
    """The budget does not pay for the attempt that a turn was to wait for."""


@dataclass(frozen=True, slots=True)
class ToldEnd:
    """An end of which readers were told and the row knows nothing: the row gets what they got.

    Args:
        attempt: The attempt that ended.
        cost_usd: What of its cost no ledger row has.
        finished_at: When it ended.
    """

    attempt: int
    cost_usd: Decimal
    finished_at: datetime


@dataclass(frozen=True, slots=True)
class Settlement:
    """What settling needs besides the outcome.

    Args:
        organization_id: Whose turn it is.
        turn_id: The turn.
        attempt: The fencing token: the attempt that ends and to which its cost is billed. The returned row has
            the next number if the attempt is taken from its worker or the turn waits again, so that the log
            refuses what that worker has sent and Redis has not yet executed (I3).
        last_seq: The number of `done`; of the last event if the turn waits again.
        history_trimmed: Turns left out of the prompt.
        first_token_ago_seconds: Since the first text; None if there was none.
        stop_observed_ago_seconds: Since the upstream connection was closed for a stop; None for no stop.
        lost_to: The worker whose sweeper settles instead of the one that let the lease run out; None
            if the owner settles.
        quote: The price at which the attempt's hold was computed, which is billed; None without a hold.
        log_attempt: The newest attempt in the turn's log. After a failover it may be newer than the row's; the next
            attempt is newer than both, and those between are not counted.
        told: The end that the turn's log has; None if it has none.
    """

    organization_id: UUID
    turn_id: UUID
    attempt: int
    last_seq: int
    history_trimmed: int = 0
    first_token_ago_seconds: float | None = None
    stop_observed_ago_seconds: float | None = None
    lost_to: UUID | None = None
    quote: Quote | None = None
    log_attempt: int = 0
    told: ToldEnd | None = None

    def numbers_passed(self) -> int:
        """Return how many attempts the log has beyond the row's."""
        return max(0, (self.told.attempt if self.told else self.log_attempt) - self.attempt)


def settle(
    database: Database, provider: ProviderSettings, settlement: Settlement, ending: Ending
) -> SettledTurn | None:
    """Write the claimed turn's outcome once.

    A turn with a hold waits again only if the budget pays for another whole attempt, or if a draining worker gave it
    back: then what is left of its hold serves the next attempt.

    Returns:
        The settled turn; None if the claim was lost and nothing was written.

    Raises:
        UnpayableError: The turn was to wait for an attempt that its budget does not pay for. Nothing was written.
        UnavailableError: PostgreSQL did not answer; only `read_settled` can tell whether the outcome was
        written.
    """
    with database.of(settlement.organization_id) as db:
        turn = _SETTLE.one_or_none(db, _parameters(provider, settlement, ending))
        if turn is not None:
            # In a statement of its own: a renewal for which the first waited may have written the checkpoint.
            _forget_or_keep(db, settlement, ending)
            if isinstance(ending, Failed | Requeued) and ending.said is not None:
                _NOTE_SAID.run(db, {**_of(settlement), "said": ending.said})
            if isinstance(ending, Requeued) and not ending.handed_back and turn.released_usd is not None:
                _hold_again(db, provider, settlement, turn)
    if turn is not None and ending.answer.called and ending.answer.usage_source is UsageSource.DISPUTED:
        _log_dispute(settlement, ending.answer)
    return turn


def _log_dispute(settlement: Settlement, answer: Answer) -> None:
    """Say what the provider said and what is billed in its place."""
    reported = answer.reported
    figures = {f"reported_{name}": count for name, count in (reported.as_dict() if reported else {}).items()}
    _log.warning(
        "the provider reported more tokens than the turn can have used: the bound is billed",
        extra={"attempt": str(settlement.attempt), **asdict(answer.usage), **figures},
    )


def _hold_again(
    db: Connection, provider: ProviderSettings, settlement: Settlement, turn: SettledTurn
) -> None:
    """Hold the same amount for the next attempt as for the one that ended, at its price: it asks the same question."""
    quote = settlement.quote or quote_of(provider, datetime.now(UTC))
    held = _HOLD_AGAIN.one_or_none(
        db,
        {
            "organization_id": settlement.organization_id,
            "turn_id": settlement.turn_id,
            "attempt": turn.attempt,
            "amount_usd": turn.released_usd,
            "max_output_tokens": turn.max_output_tokens,
            "at_price": json.dumps(quote.as_dict()),
        },
    )
    if held is not None and held.tokens == 0:
        raise UnpayableError


def _forget_or_keep(db: Connection, settlement: Settlement, ending: Ending) -> None:
    of_turn = _of(settlement)
    if isinstance(ending, Requeued) and ending.keeps_text:
        kept = {"attempt": settlement.attempt, "last_seq": settlement.last_seq}
        _KEEP.run(db, {**of_turn, **kept, "content": ending.answer.content})
    else:
        _FORGET.run(db, of_turn)


def _of(settlement: Settlement) -> Mapping[str, UUID]:
    return {"organization_id": settlement.organization_id, "turn_id": settlement.turn_id}


def read_settled(database: Database, settlement: Settlement) -> SettledTurn:
    """Read the turn again, after a commit whose answer was lost."""
    with database.of(settlement.organization_id) as db:
        turn = _READ.one_or_none(
            db, {"organization_id": settlement.organization_id, "turn_id": settlement.turn_id}
        )
    assert turn is not None  # turns are never deleted
    return turn


def error_of(ending: Ending) -> TurnProblem | None:
    """Return the `error` of a turn that ended this way; None if it did not fail."""
    match ending:
        case Failed(_, fault, detail, retry_after_ms):
            return fault_error(fault, detail or FAULT_TITLES[fault], retry_after_ms)
        case Completed() | Stopped() | Requeued():
            return None
        case _:
            assert_never(ending)


def lost(answer: Answer) -> Failed:
    """Return the ending of a turn whose workers were lost."""
    return Failed(answer, Fault.WORKER_LOST, "the worker that ran the turn was lost")


def _parameters(provider: ProviderSettings, settlement: Settlement, ending: Ending) -> Mapping[str, Any]:
    answer = ending.answer
    usage = answer.usage if answer.called else Usage()  # what is not in the ledger is in no total
    # Priced by a prompt that was sent: the sum of several calls' prompts may be longer than any of them.
    price = _price(provider, settlement.quote, (answer.longest if answer.called else None) or usage)
    status, signal = _transition(ending)
    error = error_of(ending)
    told = settlement.told
    return {
        "organization_id": settlement.organization_id,
        "turn_id": settlement.turn_id,
        "attempt": settlement.attempt,
        # As a PostgreSQL array literal: from a list, the driver would look up the types of its items each time.
        "sources": "{" + ",".join(sorted(sources_into(signal, status) - {TurnStatus.QUEUED})) + "}",
        "status": status.value,
        "is_terminal": status in TERMINAL,
        "ends_attempt": settlement.numbers_passed()
        + int(told is None and (settlement.lost_to is not None or isinstance(ending, Requeued))),
        "handed_back": settlement.numbers_passed() + int(isinstance(ending, Requeued) and ending.handed_back),
        "keeps_hold": isinstance(ending, Requeued) and ending.handed_back,
        "settler": settlement.lost_to,
        "is_lost": settlement.lost_to is not None,
        "finish_reason": ending.finish_reason.value if isinstance(ending, Completed) else None,
        "stop_reason": ending.reason.value if isinstance(ending, Stopped) else None,
        "error": None if error is None else json.dumps(error),
        "content": answer.content,
        "reasoning": answer.reasoning or None,
        "called": answer.called,
        "provider": provider.name.value,
        "model": provider.model,
        **asdict(usage),
        "usage_source": answer.usage_source.value if answer.called else None,
        "reported": None if answer.reported is None else json.dumps(answer.reported.as_dict()),
        "price": json.dumps(price.as_dict()),
        "cost_usd": price.cost(usage) if told is None else told.cost_usd,
        "finished_at": None if told is None else told.finished_at,
        "ledger_id": new_id(),
        "last_seq": settlement.last_seq,
        "history_trimmed": settlement.history_trimmed,
        "first_token_ago": settlement.first_token_ago_seconds,
        "stop_observed_ago": settlement.stop_observed_ago_seconds,
    }


def _price(provider: ProviderSettings, quote: Quote | None, usage: Usage) -> Price:
    """Return the price of the hold, if it is this model's; else the one in force."""
    if quote is not None and quote.is_of(provider):
        return quote.of(usage)
    return price_of(provider, usage, datetime.now(UTC))


def _transition(ending: Ending) -> tuple[TurnStatus, Signal]:
    match ending:
        case Completed():
            return TurnStatus.COMPLETED, Signal.COMPLETE
        case Stopped():
            return TurnStatus.STOPPED, Signal.OBSERVE_STOP
        case Failed():
            return TurnStatus.FAILED, Signal.FAIL
        case Requeued():
            return TurnStatus.QUEUED, Signal.REQUEUE
        case _:
            assert_never(ending)

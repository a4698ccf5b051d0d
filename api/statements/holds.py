"""Holds: the transaction that accepts a turn sets aside what the turn can cost, or refuses it (I6)."""

# ruff: noqa: S608 -- statements are assembled once, from our own constants

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Final
from uuid import UUID

from sqlalchemy import Connection

from shared.errors import ProblemCode, RefusedError
from shared.money.holds import least_tokens, most_prompt_tokens, most_text_tokens, output_token_usd
from shared.money.money import format_usd
from shared.money.prices import Priced, most_cost
from shared.money.quotes import quote_of
from shared.money.usage import Usage
from shared.postgres.rows import columns
from shared.postgres.schema import has_money
from shared.postgres.statement import Statement
from shared.turn.events import timestamp

_FIRST_ATTEMPT: Final = 1


@dataclass(frozen=True, slots=True)
class _UsedUp:
    """A budget that does not pay for a turn, and what was spent and is held of it."""

    period: str
    limit_usd: Decimal
    spent_usd: Decimal
    held_usd: Decimal
    starts_on: date


# A row is returned only if the budget refuses.
_TAKE: Final = Statement(
    f"""
    select {columns(_UsedUp)} from turnkeeper.take_hold(
        :organization_id, :turn_id, :attempt, :prompt_usd, :token_usd, :least_tokens, :most_tokens,
        cast(:at_price as jsonb))
    where tokens = 0
    """,
    _UsedUp,
)


_TAKE_BEFORE: Final = Statement(
    f"""
    select {columns(_UsedUp)} from turnkeeper.take_hold(
        :organization_id, :turn_id, :attempt, :prompt_usd, :token_usd, :least_tokens, :most_tokens)
    where tokens = 0
    """,
    _UsedUp,
)
"""On the schema before migration 0005, where no hold keeps its price."""


def take_hold(
    db: Connection,
    organization_id: UUID,
    turn_id: UUID,
    *,
    priced: Priced,
    context_tokens: int,
    earlier_tokens: int,
    content: str,
    max_output_tokens: int,
) -> None:
    """Hold the most that a turn can cost, or what the budget pays of a shorter answer; takes the last lock of all.

    Args:
        db: The transaction that has inserted the turn.
        organization_id: The organization whose budget pays.
        turn_id: The turn; its `max_output_tokens` is lowered to what is paid for.
        priced: The model.
        context_tokens: The length to which prompts are cut.
        earlier_tokens: The most tokens of earlier messages that the prompt may include.
        content: The question.
        max_output_tokens: The limit that the client asked for.

    Raises:
        RefusedError: The budget pays for no answer that is worth a call.
    """
    prompt_tokens = most_prompt_tokens(earlier_tokens + most_text_tokens(content), context_tokens)
    quote = quote_of(priced, datetime.now(UTC))
    price = quote.of(Usage(input_tokens=prompt_tokens))
    take = _TAKE if has_money(db) else _TAKE_BEFORE
    used_up = take.one_or_none(
        db,
        {
            "organization_id": organization_id,
            "turn_id": turn_id,
            "attempt": _FIRST_ATTEMPT,
            "prompt_usd": most_cost(price, prompt_tokens, 0),
            "token_usd": output_token_usd(price),
            "least_tokens": least_tokens(max_output_tokens),
            "most_tokens": max_output_tokens,
            "at_price": json.dumps(quote.as_dict()),
        },
    )
    if used_up is not None:
        raise _refusal(used_up)


def _refusal(short: _UsedUp) -> RefusedError:
    resets_at = _end_of(short.period, short.starts_on)
    members: Mapping[str, str] = {
        "period": short.period,
        "limit_usd": format_usd(short.limit_usd),
        "spent_usd": format_usd(short.spent_usd),
        "held_usd": format_usd(short.held_usd),
        "resets_at": timestamp(resets_at),
    }
    return RefusedError(
        ProblemCode.BUDGET_EXCEEDED,
        f"the organization's budget of the {short.period} does not pay for the turn: wait for the next {short.period},"
        " or let an admin raise it",
        members=members,
    )


def _end_of(period: str, starts_on: date) -> datetime:
    """Return when the next period begins."""
    after = starts_on + timedelta(days=32 if period == "month" else 1)
    first = after.replace(day=1) if period == "month" else after
    return datetime.combine(first, time(), UTC)

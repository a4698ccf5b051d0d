"""Takes the hold of an attempt whose organization got a budget after the turn was accepted, or had taken none (I6).

A turn that is accepted within a budget holds its cost from then on. One that was accepted before takes its hold when
its next attempt begins, first or later: no attempt that begins under a budget runs without one.
"""

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from shared.money.holds import least_tokens, most_prompt_tokens, most_text_tokens, output_token_usd
from shared.money.prices import Priced, most_cost
from shared.money.quotes import quote_of
from shared.money.usage import Usage
from shared.postgres.database import Database
from shared.postgres.statement import Statement
from shared.turn.turns import Signal, in_sql, sources_of
from worker.providers.provider import Prompt
from worker.turn.claim import ClaimedTurn


@dataclass(frozen=True, slots=True)
class _Own:
    """A turn that its worker still owns."""

    id: UUID


@dataclass(frozen=True, slots=True)
class _Taken:
    """The number of an answer's tokens that are paid for; None without a budget, 0 if it pays for none."""

    tokens: int | None


# The turn is locked before the totals of its periods, as wherever it is settled.
_LOCK: Final = Statement(
    f"""
    select t.id from turnkeeper.turns as t
    where t.organization_id = :organization_id and t.id = :turn_id and t.attempt = :attempt
      and t.status in ({in_sql(sources_of(Signal.OBSERVE_STOP))})
    for no key update
    """,  # noqa: S608 -- the statuses are ours
    _Own,
)
_TAKE: Final = Statement(
    """
    select tokens from turnkeeper.take_hold(:organization_id, :turn_id, :attempt, :prompt_usd, :token_usd,
        :least_tokens, :most_tokens, cast(:at_price as jsonb))
    """,
    _Taken,
)


def take_late_hold(
    database: Database, priced: Priced, turn: ClaimedTurn, prompt: Prompt, context_tokens: int
) -> ClaimedTurn | None:
    """Hold the most that a claimed turn's attempt can cost.

    Args:
        database: PostgreSQL.
        priced: The model that answers.
        turn: A turn that has no hold.
        prompt: What is to be sent.
        context_tokens: The length to which prompts are cut.

    Returns:
        The turn with its hold, or as it was if there is no budget any more or its lease is lost; None if the budget
        pays for no answer that is worth a call.

    Raises:
        UnavailableError: PostgreSQL cannot be reached.
    """
    texts = (prompt.system or "", *(message.content for message in prompt.messages))
    most = most_prompt_tokens(sum(most_text_tokens(text) for text in texts), context_tokens)
    quote = quote_of(priced, datetime.now(UTC))
    price = quote.of(Usage(input_tokens=most))
    prompt_usd, token_usd = most_cost(price, most, 0), output_token_usd(price)
    of_turn = {"organization_id": turn.organization_id, "turn_id": turn.id, "attempt": turn.attempt}
    with database.of(turn.organization_id) as db:
        if _LOCK.one_or_none(db, of_turn) is None:
            return turn  # what this attempt writes is refused
        taken = _TAKE.one(
            db,
            {
                **of_turn,
                "prompt_usd": prompt_usd,
                "token_usd": token_usd,
                "least_tokens": least_tokens(prompt.max_output_tokens),
                "most_tokens": prompt.max_output_tokens,
                "at_price": json.dumps(quote.as_dict()),
            },
        )
    if taken.tokens is None:
        return turn
    if taken.tokens == 0:
        return None
    return replace(turn, hold_usd=prompt_usd + taken.tokens * token_usd, hold_price=quote.as_dict())

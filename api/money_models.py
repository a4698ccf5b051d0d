"""What requests about money may hold and answers do hold; everything else is in `api.models`."""

from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import Field, StringConstraints, WithJsonSchema

from api.models import Id, Request, Resource, Time, UsageCounts, Usd
from shared.money.usage import UsageSource
from shared.redis.limit_scripts import MOST_TURNS

_MOST_WHOLE: Final = 2**31 - 1
"""The largest number of the columns."""

LimitUsd = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,12}(\.[0-9]{1,12})?$")]
Price = Annotated[
    dict[str, Any],
    WithJsonSchema(
        {
            "type": "object",
            "description": "US dollars for a million tokens of each class, as decimal strings (`input_per_m_usd` …), "
            "and `assumed`: whether the model had no price of its own.",
        }
    ),
]
Reported = Annotated[
    dict[str, int],
    WithJsonSchema(
        {
            "type": "object",
            "additionalProperties": {"type": "integer"},
            "description": "The provider's own tokens by class, and its `total_tokens` where that contradicts them.",
        }
    ),
]


UsdOrLess = Annotated[
    str,
    Field(pattern=r"^-?\d+\.\d{6,}$", description="US dollars, exact; a correction may be negative."),
]


class Budget(Request):
    """An organization's limits as a whole: every field must be there, `null` is no limit, 0 allows nothing."""

    enabled: bool = Field(
        description="Whether AI is switched on; off, a new turn is refused with `ai_disabled`, and one that waits "
        "fails with it. What runs ends as usual."
    )
    daily_usd: LimitUsd | None = Field(description="Most that a UTC day may cost.", examples=["10"])
    monthly_usd: LimitUsd | None = Field(description="Most that a UTC month may cost.", examples=["200.50"])
    max_turns_per_session: int | None = Field(
        ge=0, le=_MOST_WHOLE, description="Most that a new session's `max_turns` may be."
    )
    turns_per_minute_per_user: int | None = Field(
        ge=0, le=MOST_TURNS, description="Of each user in any minute; `null`: what the service is set to."
    )
    turns_per_hour: int | None = Field(
        ge=0,
        le=MOST_TURNS,
        description="Of the organization in any hour; `null`: what the service is set to.",
    )
    max_concurrent_turns: int | None = Field(
        ge=0, le=_MOST_WHOLE, description="Most turns queued and running at once."
    )


class Period(Resource):
    """What the current UTC day or month has cost so far."""

    spent_usd: Usd
    held_usd: Usd = Field(description="What turns that have not ended may still cost at most.")
    resets_at: Time = Field(description="When the next one begins.")


class CurrentBudget(Resource):
    """An organization's limits, and what of them is used."""

    enabled: bool
    daily_usd: Usd | None
    monthly_usd: Usd | None
    max_turns_per_session: int | None
    turns_per_minute_per_user: int | None
    turns_per_hour: int | None
    max_concurrent_turns: int | None
    day: Period
    month: Period


class StopOrganization(Request):
    """Asks for the end of everything that the organization has queued and running."""

    reason: str | None = Field(
        default=None, min_length=1, max_length=200, description="For the service's log; names nobody."
    )


class StoppedOrganization(Resource):
    """How many turns were stopped."""

    queued: int = Field(description="Turns that waited and have ended.")
    running: int = Field(description="Turns that ran and were asked to end.")


class UsageTotals(Resource):
    """What a part of the ledger adds up to."""

    usage: UsageCounts
    cost_usd: Usd
    attempts: int = Field(description="Rows of the ledger, without corrections.")
    turns: int = Field(description="Turns that they belong to, each counted once.")


class UsageRow(UsageTotals):
    """What one day, user or model adds up to."""

    group: str = Field(description="The day (`2026-01-31`), the user or the model.")


class UsageReport(Resource):
    """A page of usage, and the totals of all pages."""

    data: list[UsageRow]
    totals: UsageTotals
    next_cursor: str | None


class Refusal(Resource):
    """How often a limit refused a user's turns."""

    user: str = Field(description="Empty where the session was not known.")
    code: str = Field(
        description="The limit: `budget_exceeded`, `rate_limited`, `too_many_turns`, `turn_limit_reached` or "
        "`queue_full`."
    )
    scope: str | None = Field(
        description="`user` or `organization` of a rate, `day` or `month` of a budget; else null."
    )
    refused: int = Field(description="How many requests.")
    last_at: Time


class RefusalReport(Resource):
    """Who was refused by which limit, the most frequent first."""

    data: list[Refusal]
    refused: int = Field(description="All requests of these days that limits refused, also those not listed.")


class LedgerKind(StrEnum):
    """What a row of the ledger is."""

    USAGE = "usage"
    """What an attempt used."""
    CORRECTION = "correction"
    """What was corrected of such a row; its figures, which may be negative, are to be added to it."""


class LedgerRow(Resource):
    """What one attempt cost, or what was corrected of it."""

    id: Id
    turn_id: Id
    session_id: Id
    user: str
    attempt: int
    provider: str
    model: str
    usage: UsageCounts
    usage_source: UsageSource
    price: Price
    cost_usd: UsdOrLess
    day: str = Field(
        json_schema_extra={"format": "date"},
        description="The UTC day whose budget paid.",
        examples=["2026-01-31"],
    )
    created_at: Time = Field(
        description="When the attempt ended; a correction has that of the row it corrects, and stands beside it."
    )
    reported: Reported | None = Field(
        description="What the provider said, where it is not billed as it is (`disputed`) or contradicts itself."
    )
    kind: LedgerKind
    corrects: Id | None = Field(description="The row that a correction corrects.")
    reason: str | None = Field(description="Why it was corrected.")
    corrected_by: str | None = Field(description="Who corrected it, as the operator wrote it.")
    corrected_at: Time | None


class LedgerList(Resource):
    """A page of the ledger, newest first."""

    data: list[LedgerRow]
    next_cursor: str | None

"""Query parameters: text on the wire, so numbers are plain digits and nothing else."""

import re
from datetime import date
from enum import StrEnum
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from shared.errors import Fault
from shared.ids import parse_id
from shared.money.usage import UsageSource
from shared.turn.turns import SessionStatus, TurnStatus

_WHOLE: Final = re.compile(r"[0-9]{1,18}")
_DECIMAL: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})?")
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        if not _WHOLE.fullmatch(value):
            raise ValueError("must be a whole number that is not negative")
        return int(value)
    return value


def _decimal(value: Any) -> Any:
    if isinstance(value, str):
        if not _DECIMAL.fullmatch(value):
            raise ValueError("must be a number that is not negative")
        return float(value)
    return value


def _day(value: Any) -> Any:
    if isinstance(value, str):
        if not _DAY.fullmatch(value):
            raise ValueError("must be a day: `2026-01-31`")
        return date.fromisoformat(value)
    return value


def _id(value: Any) -> Any:
    if isinstance(value, str):
        if (found := parse_id(value)) is None:
            raise ValueError("must be an id")
        return found
    return value


Whole = Annotated[int, BeforeValidator(_whole)]
Decimal = Annotated[float, BeforeValidator(_decimal)]
Day = Annotated[date | None, BeforeValidator(_day), WithJsonSchema({"type": "string", "format": "date"})]
Id = Annotated[UUID | None, BeforeValidator(_id), WithJsonSchema({"type": "string", "format": "uuid"})]
Cursor = Annotated[str | None, WithJsonSchema({"type": "string"})]


class Query(BaseModel):
    """An operation's query parameters; unknown ones are ignored, as URLs gather them on their way."""

    model_config = ConfigDict(frozen=True)


class Page(Query):
    """Which part of a list."""

    limit: Whole = Field(default=20, ge=1, le=100)
    cursor: Cursor = Field(default=None, description="`next_cursor` of the page before.")


class SessionPage(Page):
    """Which sessions."""

    status: SessionStatus | None = None
    user: str | None = Field(default=None, min_length=1, max_length=200)


class SearchPage(Page):
    """What to search for."""

    q: str = Field(min_length=1, max_length=200, description="Text in titles and messages, in any case.")


class DayRange(Query):
    """Which days, in UTC."""

    first_day: Day = Field(default=None, alias="from", description="The first day that paid, in UTC.")
    last_day: Day = Field(
        default=None, alias="to", description="The last day that paid, in UTC; it is included."
    )


class RefusalDays(DayRange):
    """Which refusals."""

    first_day: Day = Field(
        default=None, alias="from", description="The first day, in UTC; without it 29 days before the last."
    )
    last_day: Day = Field(
        default=None, alias="to", description="The last day, in UTC; it is included. Without it today."
    )
    limit: Whole = Field(default=20, ge=1, le=100, description="How many kinds at most.")


class Days(DayRange, Page):
    """A part of a list of these days."""


class UsageGroup(StrEnum):
    """What usage is added up by."""

    DAY = "day"
    USER = "user"
    MODEL = "model"


class UsageSort(StrEnum):
    """In which order groups come."""

    NAME = "name"
    COST = "cost"


class UsagePage(Days):
    """Which usage, and added up by what."""

    first_day: Day = Field(
        default=None, alias="from", description="The first day, in UTC; without it 29 days before the last."
    )
    last_day: Day = Field(
        default=None, alias="to", description="The last day, in UTC; it is included. Without it today."
    )
    group_by: UsageGroup = Field(
        default=UsageGroup.DAY, description="Days come newest first, users and models by name."
    )
    sort: UsageSort = Field(
        default=UsageSort.NAME,
        description="`cost`: the most expensive come first, and there is one page only.",
    )


class LedgerPage(Days):
    """Which rows of the ledger."""

    user: str | None = Field(default=None, min_length=1, max_length=200)
    session_id: Id = None
    turn_id: Id = None
    model: str | None = Field(default=None, min_length=1, max_length=200)
    usage_source: UsageSource | None = Field(default=None, description="Whose figures were billed.")


class Wait(Query):
    """How long to wait."""

    wait: Decimal = Field(default=0, ge=0, le=60, description="Seconds to wait for the turn's end.")


class EventRange(Query):
    """Which events."""

    after: Whole | None = Field(default=None, description="The last `seq` that is known.")
    limit: Whole = Field(default=500, ge=1, le=1000)


class TurnPage(Page):
    """Which turns of the organization."""

    status: TurnStatus | None = None
    code: Fault | None = Field(default=None, description="Of the newest 10,000 failed turns: why they did.")


class Nothing(Query):
    """No parameters."""

"""The service's resources, as frozen dataclasses. Statuses and roles are text, since new ones may be added."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Generic, TypeVar

from turnkeeper_client.decoding import decode

TERMINAL: Final = frozenset({"completed", "stopped", "failed", "expired"})
"""The statuses that a turn does not leave."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens, in classes that do not overlap except that `reasoning_tokens` are part of `output_tokens`."""

    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Session:
    """A conversation."""

    id: str
    user: str
    title: str | None
    status: str
    provider: str
    model: str
    system_prompt: str | None
    max_turns: int
    turn_count: int
    usage: Usage
    cost_usd: Decimal
    active_turn_id: str | None
    flagged: bool
    metadata: Mapping[str, Any]
    created_at: datetime
    last_activity_at: datetime


@dataclass(frozen=True, slots=True)
class FoundSession(Session):
    """A session found by a search; `matched` is the text around the hit."""

    matched: str


@dataclass(frozen=True, slots=True)
class Message:
    """One side of a turn; `position` orders a session's messages.

    `in_conversation` is False if the provider refused the turn: its messages are left out of later prompts.
    """

    id: str
    session_id: str
    turn_id: str
    position: int
    role: str
    content: str
    status: str
    finish_reason: str | None
    usage: Usage | None
    created_at: datetime
    in_conversation: bool = True


@dataclass(frozen=True, slots=True)
class Turn:
    """One user message and its answer; `error` says why a turn failed."""

    id: str
    session_id: str
    status: str
    attempt: int
    provider: str
    model: str
    message_id: str | None
    user_message_id: str
    finish_reason: str | None
    stop_reason: str | None
    usage: Usage
    cost_usd: Decimal
    usage_source: str | None
    error: Mapping[str, Any] | None
    last_seq: int
    history_trimmed: int
    queued_at: datetime
    started_at: datetime | None
    first_token_at: datetime | None
    stop_requested_at: datetime | None
    stop_observed_at: datetime | None
    finished_at: datetime | None
    metadata: Mapping[str, Any]
    links: Mapping[str, str]
    provider_error: str | None = None
    """What the provider said in its last error; for admins alone."""

    @property
    def is_over(self) -> bool:
        """Return whether the turn has ended."""
        return self.status in TERMINAL


@dataclass(frozen=True, slots=True)
class Answer:
    """What `ask` returns: a turn that has ended, with its text, which is the stored one by its SHA-256."""

    text: str
    reasoning: str
    turn: Turn

    @property
    def session_id(self) -> str:
        """The session in which to ask the next question."""
        return self.turn.session_id

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class EventPage:
    """A turn's events so far; `done` says whether they reach the turn's end."""

    data: tuple[Mapping[str, Any], ...]
    last_seq: int
    done: bool


@dataclass(frozen=True, slots=True)
class Ticket:
    """Opens one stream of one session, once."""

    ticket: str
    expires_at: datetime

    def __repr__(self) -> str:
        return f"Ticket(expires_at={self.expires_at!r})"


@dataclass(frozen=True, slots=True)
class Key:
    """An API key, without its secret."""

    id: str
    role: str
    user: str | None
    name: str
    prefix: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


@dataclass(frozen=True, slots=True, repr=False)
class CreatedKey(Key):
    """A new key; its secret, `key`, is shown only this once and appears in no `repr`."""

    key: str

    def __repr__(self) -> str:
        return f"CreatedKey(id={self.id!r}, role={self.role!r}, prefix={self.prefix!r})"


@dataclass(frozen=True, slots=True)
class Limits:
    """All limits of an organization: None is no limit, 0 allows nothing."""

    enabled: bool = True
    daily_usd: Decimal | None = None
    monthly_usd: Decimal | None = None
    max_turns_per_session: int | None = None
    turns_per_minute_per_user: int | None = None
    turns_per_hour: int | None = None
    max_concurrent_turns: int | None = None


@dataclass(frozen=True, slots=True)
class Period:
    """What the current UTC day or month has cost; `held_usd` is the most that running turns may still cost."""

    spent_usd: Decimal
    held_usd: Decimal
    resets_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget(Limits):
    """An organization's limits, and how much of them is used."""

    day: Period
    month: Period


@dataclass(frozen=True, slots=True)
class UsageTotals:
    """The sums of a part of the ledger: `attempts` are its rows, `turns` are counted once."""

    usage: Usage
    cost_usd: Decimal
    attempts: int
    turns: int


@dataclass(frozen=True, slots=True)
class UsageRow(UsageTotals):
    """The sums of one `group` (a day as `2026-01-31`, a user or a model)."""

    group: str


@dataclass(frozen=True, slots=True)
class StoppedTurns:
    """How many turns a stop of the organization has ended while they waited, and asked to end while they ran."""

    queued: int
    running: int


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """What one attempt cost; `price` is per million tokens of each class.

    A row whose `kind` is `correction` is to be added to the row that it `corrects`: its figures may be negative.
    `reported` is what the provider said, where that is not billed as it is.
    """

    id: str
    turn_id: str
    session_id: str
    user: str
    attempt: int
    provider: str
    model: str
    usage: Usage
    usage_source: str
    price: Mapping[str, Any]
    cost_usd: Decimal
    created_at: datetime
    reported: Mapping[str, Any] | None = None
    kind: str = "usage"
    corrects: str | None = None
    reason: str | None = None
    corrected_by: str | None = None
    corrected_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """One part's health."""

    ok: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the process answers."""

    status: str


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether the service can do its work, part by part; `status` is `ok` or `degraded`."""

    status: str
    checks: Mapping[str, Check]


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list; `next_cursor` asks for the next one, None ends the list."""

    data: tuple[T, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class UsageReport(Page[UsageRow]):
    """A page of usage, and the totals of all pages."""

    totals: UsageTotals


@dataclass(frozen=True, slots=True)
class _Listed:
    data: tuple[Any, ...]
    next_cursor: str | None


def page_of(kind: type[T], value: object) -> Page[T]:
    """Return parsed JSON as a page of `kind`.

    Raises:
        ProtocolError: It is not a page.
    """
    listed = decode(_Listed, value)
    return Page(tuple(decode(kind, each) for each in listed.data), listed.next_cursor)

"""What operators are shown of their organization's turns, workers and flagged sessions."""

from enum import StrEnum

from pydantic import Field

from api.models import Id, Resource, Time, Turn, TurnError, Usd
from api.money_models import LedgerRow
from shared.turn.turns import FinishReason, Recovery, SessionStatus, StopReason, TurnStatus


class WorkerState(StrEnum):
    """Whether a worker lives and hears."""

    HEARING = "hearing"
    DEAF = "deaf"
    """It renews its leases and has heard no doorbell for a minute."""
    GONE = "gone"
    """It was not heard of for 15 seconds."""


class Moment(StrEnum):
    """What happened to a turn, as far as its row says."""

    ACCEPTED = "accepted"
    CLAIMABLE = "claimable"
    CLAIMED = "claimed"
    FIRST_TOKEN = "first_token"  # noqa: S105 -- of text
    STOP_REQUESTED = "stop_requested"
    STOP_OBSERVED = "stop_observed"
    DONE = "done"


class FaultCount(Resource):
    """How many turns failed by one fault."""

    code: str = Field(description="The error's code; `expired` for turns that no worker took in time.")
    turns: int
    last_turn_id: Id


class OperationsSummary(Resource):
    """How the organization's turns stand now."""

    at: Time
    queued: int
    claimable: int = Field(description="Of the queued those that wait for a worker, not for their session.")
    running: int
    stopping: int
    oldest_turn_id: Id | None = Field(description="The turn that has waited longest for a worker.")
    oldest_wait_seconds: float | None = Field(description="How long it has waited.")
    failures: list[FaultCount] = Field(
        description="Of the turns accepted in the last 24 hours; at most the newest 10,000 of them are counted."
    )


class Percentiles(Resource):
    """Seconds that half and 95 of 100 turns stayed under."""

    p50_seconds: float
    p95_seconds: float


class Delay(Resource):
    """Turns that were first claimed in one stretch of time; null where none says."""

    begins_at: Time
    turns: int
    worker_wait: Percentiles | None = Field(
        description="From when a turn could be claimed to its claim; without turns that waited again later."
    )
    model_wait: Percentiles | None = Field(
        description="From the claim to the first text: the provider's time, retries and ours together."
    )
    first_token: Percentiles | None = Field(
        description="From acceptance to the first text; includes waiting for the session's earlier turns."
    )


class Delays(Resource):
    """Delays over the last hour, oldest stretch first."""

    stretch_seconds: int
    turns: int
    is_cut: bool = Field(description="Whether more turns were claimed than were counted: the newest 20,000.")
    completed: int
    stopped: int
    failed: int
    data: list[Delay]


class TurnSummary(Resource):
    """A turn in a list."""

    id: Id
    session_id: Id
    user: str
    status: TurnStatus
    attempt: int
    model: str | None = Field(description="Null before it was first settled.")
    finish_reason: FinishReason | None
    stop_reason: StopReason | None
    error: TurnError | None
    cost_usd: Usd
    queued_at: Time
    started_at: Time | None
    first_token_at: Time | None
    finished_at: Time | None


class TurnSummaryList(Resource):
    """A page of turns, newest first."""

    data: list[TurnSummary]
    next_cursor: str | None


class TimelineEntry(Resource):
    """One moment of a turn."""

    moment: Moment
    at: Time
    after_seconds: float = Field(description="Since the turn was accepted.")


class TurnReport(Resource):
    """All that is known of one turn, without what was said in it."""

    turn: Turn
    user: str
    recovery: Recovery
    request_id: str
    deadline_seconds: float
    handed_back: int = Field(description="Attempts that an ending worker gave back: they count for nothing.")
    worker_id: Id | None
    lease_expires_at: Time | None
    held_usd: Usd | None = Field(description="What it may still cost at most; null without a budget.")
    timeline: list[TimelineEntry] = Field(
        description="In the order of time; `claimed` and `first_token` are those of the first attempt that had them."
    )
    attempts: list[LedgerRow] = Field(description="Those that reached a provider, oldest first.")


class LeasedTurn(Resource):
    """A turn that a worker holds."""

    id: Id
    session_id: Id
    user: str
    status: TurnStatus
    attempt: int
    started_at: Time
    lease_expires_at: Time | None


class Worker(Resource):
    """A worker process, and what it runs of this organization."""

    id: Id
    state: WorkerState
    started_at: Time | None = Field(description="Null for a lease holder of which nothing else is known.")
    renewed_at: Time | None
    heard_at: Time | None = Field(description="When it last heard a doorbell or a canary.")
    running: int = Field(description="Turns of this organization; other organizations' are not counted.")
    turns: list[LeasedTurn] = Field(description="The 20 that began first.")


class WorkerList(Resource):
    """The workers, those that began first first; at most 200."""

    data: list[Worker]


class FlaggedSession(Resource):
    """A session that was marked for review."""

    id: Id
    user: str
    title: str | None
    status: SessionStatus
    flag_reason: str | None
    flagged_by: str | None
    flagged_at: Time
    last_activity_at: Time


class FlaggedSessionList(Resource):
    """A page of flagged sessions, those flagged last first."""

    data: list[FlaggedSession]
    next_cursor: str | None

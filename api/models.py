"""What requests may hold and answers do hold: one definition for validation, rendering and OpenAPI.

Requests are strict: an unknown field, `"5"` for 5 or `true` for 1 is refused, because what is guessed
today cannot be given a meaning tomorrow.
"""

import json
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
)

from api.multitask import MultitaskStrategy
from shared.errors import Fault
from shared.money.usage import UsageSource
from shared.postgres.accounts import KeyRole
from shared.turn.turns import (
    FinishReason,
    MessageStatus,
    Recovery,
    Role,
    SessionStatus,
    StopReason,
    TurnStatus,
)

CONTENT_CHARACTERS: Final = 32_000
METADATA_BYTES: Final = 16_384


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return text


def _content(text: str) -> str:
    """Check the length without surrounding whitespace; what is stored is as written."""
    if not 1 <= len(text.strip()) <= CONTENT_CHARACTERS:
        raise ValueError(f"must have 1 to {CONTENT_CHARACTERS} characters besides surrounding whitespace")
    return text


def _small(metadata: dict[str, Any]) -> dict[str, Any]:
    if len(json.dumps(metadata, ensure_ascii=False, separators=(",", ":")).encode()) > METADATA_BYTES:
        raise ValueError(f"must not be larger than {METADATA_BYTES} bytes of JSON")
    return metadata


UserName = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_not_blank)]
Title = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_not_blank)]
Metadata = Annotated[dict[str, Any], AfterValidator(_small)]
Id = Annotated[str, Field(json_schema_extra={"format": "uuid"})]
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"}, examples=["2026-01-31T09:30:00.000Z"])]
Usd = Annotated[str, Field(pattern=r"^\d+\.\d{6,}$", description="US dollars, exact.", examples=["0.001230"])]
TurnError = Annotated[
    dict[str, Any],
    WithJsonSchema(
        {
            "type": "object",
            "description": "Why the turn failed: a problem without status and request id.",
            "required": ["type", "title", "detail", "code", "retryable"],
            "properties": {
                "type": {"type": "string"},
                "title": {"type": "string"},
                "detail": {"type": "string"},
                "code": {"type": "string", "enum": [fault.value for fault in Fault]},
                "retryable": {"type": "boolean"},
                "retry_after_ms": {"type": "integer"},
            },
        }
    ),
]


class Request(BaseModel):
    """A request's body."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class NewSession(Request):
    """Opens a session."""

    user: UserName | None = Field(
        default=None, description="Whose it is; required unless the key is bound to a user.", examples=["ada"]
    )
    title: Title | None = Field(default=None, description="Without one the first message gives it.")
    system_prompt: str | None = Field(default=None, max_length=32_000)
    max_turns: int | None = Field(default=None, ge=1, le=10_000)
    metadata: Metadata | None = Field(default=None, description="Yours; at most 16 KiB.")


class SessionChanges(Request):
    """Changes what was named; a title of `null` is taken away."""

    title: Title | None = None
    metadata: Metadata | None = None


class NewFlag(Request):
    """Marks a session for review."""

    reason: str | None = Field(default=None, max_length=2_000)


class Pause(Request):
    """Pauses or resumes a session's tools."""

    paused: bool = True


class PlanApproval(Request):
    """Approves or refuses a plan."""

    approved: bool = True


class Empty(Request):
    """A body without fields; it may be left out."""


class NewTurn(Request):
    """Asks for an answer."""

    content: Annotated[str, AfterValidator(_content)] = Field(
        description="1 to 32,000 characters; stored as written.", examples=["What is a turn?"]
    )
    max_output_tokens: int | None = Field(default=None, ge=1)
    multitask_strategy: Annotated[MultitaskStrategy, Field(strict=False)] = Field(
        default=MultitaskStrategy.REJECT,
        description="What to do when a turn is queued or running: `reject` (409), `enqueue` (first in, first out), "
        "`interrupt` (stop it, keep its partial text), `rollback` (stop it and drop its messages).",
    )
    recovery: Annotated[Recovery, Field(strict=False)] = Field(
        default=Recovery.RESTART, description="What happens when an attempt dies after text was shown."
    )
    deadline_seconds: float | None = Field(default=None, gt=0)
    metadata: Metadata | None = None


class Stop(Request):
    """Asks for a turn's end."""

    wait_ms: int = Field(default=0, ge=0, le=30_000, description="How long to wait for the end.")


class NewTicket(Request):
    """Asks for a ticket that opens one stream."""

    session_id: Id
    ttl_seconds: int | None = Field(default=None, ge=1, le=60)


class NewKeyRequest(Request):
    """Makes an API key."""

    role: Annotated[KeyRole, Field(strict=False)]
    user: UserName | None = Field(default=None, description="Required for the role `user`, else refused.")
    name: str = Field(default="", max_length=200)
    expires_at: Annotated[AwareDatetime, Field(strict=False)] | None = None


class Resource(BaseModel):
    """An answer's body."""

    model_config = ConfigDict(frozen=True)


class UsageCounts(Resource):
    """Tokens in classes that do not overlap, except that reasoning is part of the output."""

    input_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int


class Session(Resource):
    """A conversation."""

    id: Id
    user: str
    title: str | None
    status: SessionStatus
    provider: str
    model: str
    system_prompt: str | None
    max_turns: int
    turn_count: int
    usage: UsageCounts
    cost_usd: Usd
    active_turn_id: Id | None
    flagged: bool
    metadata: dict[str, Any]
    created_at: Time
    last_activity_at: Time


class FoundSession(Session):
    """A session that a search found."""

    matched: str = Field(description="The text around the hit.")


class Message(Resource):
    """One side of a turn."""

    id: Id
    session_id: Id
    turn_id: Id
    position: int
    role: Role
    content: str
    status: MessageStatus
    finish_reason: FinishReason | None
    usage: UsageCounts | None
    created_at: Time
    in_conversation: bool = Field(
        description="False: the provider refused the turn, so that its messages are left out of later prompts."
    )


class TurnLinks(Resource):
    """Where a turn's things are."""

    self: str
    events: str
    stop: str
    session: str
    messages: str


class Turn(Resource):
    """One user message and its answer."""

    id: Id
    session_id: Id
    status: TurnStatus
    attempt: int = Field(
        description="The attempt that runs, or the next one while the turn waits again; a turn that was ended in "
        "place of a dead worker counts one more than were run."
    )
    provider: str
    model: str
    message_id: Id | None = Field(description="The stored answer; null until there is one.")
    user_message_id: Id
    finish_reason: FinishReason | None
    stop_reason: StopReason | None
    usage: UsageCounts
    cost_usd: Usd
    usage_source: UsageSource | None
    error: TurnError | None
    provider_error: str | None = Field(
        default=None,
        exclude_if=lambda said: said is None,
        description="Only for admins, and only if there is one: what the provider said in its last error, at most 500 "
        "characters, without keys and without what it repeats of the question.",
    )
    last_seq: int
    history_trimmed: int
    queued_at: Time
    started_at: Time | None
    first_token_at: Time | None
    stop_requested_at: Time | None
    stop_observed_at: Time | None
    finished_at: Time | None
    metadata: dict[str, Any]
    links: TurnLinks


class EventPage(Resource):
    """Events of a turn as JSON."""

    data: list[dict[str, Any]] = Field(description="Envelopes as on the streams.")
    last_seq: int
    done: bool = Field(description="Whether the turn has ended and `data` reaches its end.")


class Ticket(Resource):
    """Opens one stream, once."""

    ticket: str = Field(description="Sent as the websocket subprotocol `ticket.<ticket>`.")
    expires_at: Time


class Key(Resource):
    """An API key, without its secret."""

    id: Id
    role: KeyRole
    user: str | None
    name: str
    prefix: str = Field(description="What to recognise it by.")
    created_at: Time
    expires_at: Time | None
    revoked_at: Time | None
    last_used_at: Time | None


class CreatedKey(Key):
    """A new key; its secret is shown this once."""

    key: str


class SessionList(Resource):
    """A page of sessions, newest activity first."""

    data: list[Session]
    next_cursor: str | None


class FoundSessionList(Resource):
    """A page of sessions that a search found, newest activity first."""

    data: list[FoundSession]
    next_cursor: str | None


class MessageList(Resource):
    """A page of messages, in the order of the conversation."""

    data: list[Message]
    next_cursor: str | None


class TurnList(Resource):
    """A page of turns, newest first."""

    data: list[Turn]
    next_cursor: str | None


class KeyList(Resource):
    """A page of keys, newest first."""

    data: list[Key]
    next_cursor: str | None


class Check(Resource):
    """One part's health."""

    ok: bool
    detail: str = ""


class Health(Resource):
    """Whether the process answers."""

    status: str = "ok"


class Readiness(Resource):
    """Whether the service can do its work, part by part."""

    status: str = Field(json_schema_extra={"enum": ["ok", "degraded"]})
    checks: dict[str, Check]


class FieldError(Resource):
    """One wrong field."""

    pointer: str = Field(description="JSON pointer (RFC 6901) into the body, or `/query/…`, `/headers/…`.")
    detail: str


class ProblemBody(Resource):
    """What went wrong (RFC 9457); programs branch on `code`."""

    model_config = ConfigDict(frozen=True, extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    retryable: bool = False
    retry_after_ms: int | None = None
    errors: list[FieldError] | None = None

"""Builds the prompt that is sent to a provider from a session's settled messages.

Stopped and failed turns leave questions without answers, and chat templates refuse two user messages
in a row. These are joined, so that no text is lost. When the context is full, the oldest whole turns
are left out.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shared.errors import Fault, TurnkeeperError
from shared.money.usage import estimate_tokens
from shared.turn.parts import Parts, join_parts, text_of
from shared.turn.turns import Role
from worker.providers.provider import Prompt, PromptMessage

TOKENS_PER_MESSAGE = 4
"""What a chat template adds around each message, according to OpenAI's guide to counting tokens."""


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as the database stores it; `role` may be one that this provider does not accept."""

    turn_number: int
    role: str
    parts: Parts

    @property
    def content(self) -> str:
        """The text of its parts."""
        return text_of(self.parts)


class PromptRefusedError(TurnkeeperError):
    """The history cannot be sent to this provider; nothing was called."""

    def __init__(self, fault: Fault, detail: str) -> None:
        super().__init__(detail)
        self.fault = fault
        self.detail = detail


def build_prompt(
    messages: Sequence[StoredMessage],
    *,
    system: str | None,
    max_output_tokens: int,
    context_tokens: int,
    traceparent: str | None = None,
) -> tuple[Prompt, int]:
    """Build the prompt for a turn.

    Args:
        messages: The settled messages of the turns before this one in order of position, then this
            turn's question, once.
        system: The session's system prompt.
        max_output_tokens: The most that the answer may use; this much of the context is kept free.
        context_tokens: The most that prompt and answer may hold together.
        traceparent: Trace context for the provider.

    Returns:
        The prompt, and how many of the oldest turns were left out.

    Raises:
        PromptRefusedError: The history holds tool use, or the question alone does not fit.
    """
    if any(message.role not in (Role.USER, Role.ASSISTANT) for message in messages):
        raise PromptRefusedError(
            Fault.TOOL_USE_IN_HISTORY,
            "this session used tools, which the provider does not support: start a new one",
        )
    room = context_tokens - max_output_tokens - size_of(system or "")
    turns = _by_turn(messages)
    sizes = [sum(size_of(message.content) for message in turn) for turn in turns]
    if sizes[-1] > room:
        raise PromptRefusedError(
            Fault.CONTEXT_TOO_LONG, "the message alone is longer than the model's context"
        )
    first = len(turns) - 1
    left = room - sizes[-1]
    while first > 0 and sizes[first - 1] <= left:
        first -= 1
        left -= sizes[first]
    kept = (message for turn in turns[first:] for message in turn)
    return Prompt(_alternating(kept), system, max_output_tokens, traceparent), first


def prompt_tokens(prompt: Prompt) -> int:
    """Estimate the input tokens of `prompt`, for a call whose provider did not report them."""
    return size_of(prompt.system or "") + sum(size_of(message.content) for message in prompt.messages)


def size_of(text: str) -> int:
    """Return the estimated tokens of a message with this text; 0 for an empty text."""
    return estimate_tokens(text) + TOKENS_PER_MESSAGE if text else 0


def _by_turn(messages: Iterable[StoredMessage]) -> list[list[StoredMessage]]:
    turns: list[list[StoredMessage]] = []
    for message in messages:
        if turns and turns[-1][0].turn_number == message.turn_number:
            turns[-1].append(message)
        else:
            turns.append([message])
    return turns


def _alternating(messages: Iterable[StoredMessage]) -> tuple[PromptMessage, ...]:
    """Join neighbours of one role, and begin with the user."""
    joined: list[PromptMessage] = []
    for message in messages:
        role = Role(message.role)
        if joined and joined[-1].role is role:
            joined[-1] = PromptMessage(role, join_parts(joined[-1].parts, message.parts))
        elif joined or role is Role.USER:
            joined.append(PromptMessage(role, message.parts))
    return tuple(joined)

"""What the worker asks of a model provider, and the values that it returns.

A stream is read in batches, all items of one network chunk at once, so that a delta costs no
await of its own.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import msgspec

from shared.money.usage import Usage
from shared.turn.parts import Parts, parts_of, text_of
from shared.turn.turns import FinishReason, Role


@dataclass(frozen=True, slots=True)
class PromptMessage:
    """One message of the history, or the question itself, which comes last."""

    role: Role
    parts: Parts

    @property
    def content(self) -> str:
        """The text of its parts."""
        return text_of(self.parts)


def text_message(role: Role, text: str) -> PromptMessage:
    """Return a message that is text alone."""
    return PromptMessage(role, parts_of(text))


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a provider is sent.

    Args:
        messages: Alternating, ending with the user's. An assistant message at the end is a prefix to
            continue, which only a provider with `Capabilities.continuation` accepts.
        system: The system prompt, or None.
        max_output_tokens: The most that the answer may use; the hold is computed from it.
        traceparent: W3C trace context to send along, or None.
    """

    messages: tuple[PromptMessage, ...]
    system: str | None
    max_output_tokens: int
    traceparent: str | None = None

    def continues(self) -> bool:
        """Return whether the answer continues the last message."""
        return bool(self.messages) and self.messages[-1].role is Role.ASSISTANT


# Items are msgspec structs where everything else is a dataclass: one is made for each delta, and a frozen
# dataclass takes four times as long to make.


class MessageStart(msgspec.Struct, frozen=True, gc=False):
    """The provider began to answer; comes first, once."""


class ContentDelta(msgspec.Struct, frozen=True, gc=False):
    """A piece of the answer: safe to store, never empty."""

    text: str


class ReasoningDelta(msgspec.Struct, frozen=True, gc=False):
    """A piece of the model's thinking: safe to store, never empty."""

    text: str


class RunningUsage(msgspec.Struct, frozen=True, gc=False):
    """The usage that the provider has reported so far; neither the prompt's tokens nor the answer's ever fall."""

    usage: Usage


class UsageConflict(msgspec.Struct, frozen=True, gc=False):
    """Figures of one usage that contradict each other, as the provider sent them; 0 for what it did not send."""

    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    total_tokens: int


class Finish(msgspec.Struct, frozen=True, gc=False):
    """The answer is complete; comes last, exactly once.

    `usage` is None if the provider sent none. `conflict` has its figures as they came, if they contradict each other.
    """

    reason: FinishReason
    usage: Usage | None
    conflict: UsageConflict | None = None


Item: TypeAlias = MessageStart | ContentDelta | ReasoningDelta | RunningUsage | Finish


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a provider can do beyond plain chat.

    Args:
        tools: It may call tools.
        continuation: It continues an assistant message that ends the prompt.
        running_usage: Its `RunningUsage` keeps up with the output. Otherwise one may still come at the start,
            with the input's figures.
    """

    tools: bool = False
    continuation: bool = False
    running_usage: bool = False


class Provider(Protocol):
    """Streams one answer: `MessageStart`, deltas in order, then exactly one `Finish`.

    A stream that ends without the provider's terminal mark raises `ProviderError`, after yielding everything
    that was readable. Streams are independent; one provider runs many at once in one loop.
    """

    @property
    def name(self) -> str:
        """Return the dialect's name, as in settings and ledger."""

    @property
    def model(self) -> str:
        """Return the name of the model that answers."""

    @property
    def capabilities(self) -> Capabilities:
        """Return what it can do."""

    def stream(
        self, prompt: Prompt, *, on_sent: Callable[[], None] | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[Sequence[Item]]]:
        """Send `prompt` and read the answer in batches, none of them empty.

        Leaving the context closes the connection at once, in any phase, unless the answer was read to
        its end (I7).

        Args:
            prompt: What to send.
            on_sent: Called once when the request has been written to a connection: from here on the provider
                may be counting tokens.

        Raises:
            ProviderError: On entering (could not connect, refused) or while reading; nothing else is
                raised, except that cancellation passes through.
        """

    async def aclose(self) -> None:
        """Close every connection."""

"""How an attempt ended, as a value; one `match` in `settle` turns it into a transition."""

from dataclasses import dataclass
from typing import TypeAlias

from shared.errors import Fault
from shared.money.usage import Usage, UsageSource
from shared.turn.parts import Parts, parts_of
from shared.turn.turns import FinishReason, StopReason


@dataclass(frozen=True, slots=True)
class Answer:
    """What an attempt brought, however it ended.

    Args:
        content: The text that was shown.
        reasoning: The thinking that was shown.
        called: Whether the request reached the provider, so tokens may have been used.
        usage: What was used.
        usage_source: Who says so.
        longest: The call with the longest prompt, whose rates hold for all; None where one call was made.
    """

    content: str
    reasoning: str
    called: bool
    usage: Usage
    usage_source: UsageSource
    longest: Usage | None = None

    @property
    def parts(self) -> Parts:
        """What the stored message is made of."""
        return parts_of(self.content, self.reasoning)


NOTHING = Answer("", "", called=False, usage=Usage(), usage_source=UsageSource.ESTIMATED)
"""The answer of an attempt that ended before its call."""


@dataclass(frozen=True, slots=True)
class Completed:
    """The provider ended the answer."""

    answer: Answer
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class Stopped:
    """A stop was observed: the upstream connection is closed."""

    answer: Answer
    reason: StopReason


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt ended with a fault.

    Args:
        answer: What it brought.
        fault: The kind.
        detail: Our own words.
        retry_after_ms: What the provider asked for.
        is_passing: Whether the fault says nothing about the request, so that another attempt may do.
    """

    answer: Answer
    fault: Fault
    detail: str
    retry_after_ms: int | None = None
    is_passing: bool = False


@dataclass(frozen=True, slots=True)
class Requeued:
    """The turn waits for its next attempt; what this one used is billed.

    Args:
        answer: What it brought, void when text was shown, unless that is kept.
        handed_back: A draining worker gave it back, so it does not count against the most attempts.
        fault: Why; readers are told when their text is void.
        keeps_text: The next attempt continues the text.
    """

    answer: Answer
    handed_back: bool = False
    fault: Fault = Fault.WORKER_LOST
    keeps_text: bool = False


@dataclass(frozen=True, slots=True)
class Fenced:
    """The lease was lost: another attempt owns the turn and this one writes nothing (I3)."""


Outcome: TypeAlias = Completed | Stopped | Failed | Requeued | Fenced

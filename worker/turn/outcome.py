"""How an attempt ended, as a value; one `match` in `settle` maps it to a transition."""

from dataclasses import dataclass
from typing import TypeAlias

from shared.errors import Fault
from shared.money.usage import Reported, Usage, UsageSource
from shared.turn.parts import Parts, parts_of
from shared.turn.turns import FinishReason, StopReason


@dataclass(frozen=True, slots=True)
class Answer:
    """What an attempt produced, however it ended.

    Args:
        content: The text that was shown.
        reasoning: The thinking that was shown.
        called: Whether the request reached the provider, so tokens may have been used.
        usage: What was used.
        usage_source: Where that figure comes from.
        longest: The call with the longest prompt, whose rates apply to all; None if only one call was made.
        reported: What the provider said, where that is not billed as it is; None otherwise.
    """

    content: str
    reasoning: str
    called: bool
    usage: Usage
    usage_source: UsageSource
    longest: Usage | None = None
    reported: Reported | None = None

    @property
    def parts(self) -> Parts:
        """The parts of the stored message."""
        return parts_of(self.content, self.reasoning)


NOTHING = Answer("", "", called=False, usage=Usage(), usage_source=UsageSource.ESTIMATED)
"""The answer of an attempt that ended before its call."""


@dataclass(frozen=True, slots=True)
class Completed:
    """The provider finished the answer."""

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
        answer: What the attempt produced.
        fault: The kind.
        detail: In our own words.
        retry_after_ms: How long the provider asked us to wait.
        is_passing: Whether the fault does not lie in the request, so that another attempt may succeed.
        said: What the provider said, fit for an admin; None if it said nothing.
        may_repeat: Whether the same request may succeed a moment later; None if the fault's kind says so.
    """

    answer: Answer
    fault: Fault
    detail: str
    retry_after_ms: int | None = None
    is_passing: bool = False
    said: str | None = None
    may_repeat: bool | None = None


@dataclass(frozen=True, slots=True)
class Requeued:
    """The turn waits for its next attempt; what this one used is billed.

    Args:
        answer: What the attempt produced. Text that was shown is void, unless it is kept.
        handed_back: A draining worker gave it back, so it does not count towards the maximum of attempts.
        fault: Why; readers receive it if their text is void.
        keeps_text: The next attempt continues the text.
        said: What the provider said, fit for an admin; None if it said nothing.
    """

    answer: Answer
    handed_back: bool = False
    fault: Fault = Fault.WORKER_LOST
    keeps_text: bool = False
    said: str | None = None


@dataclass(frozen=True, slots=True)
class Fenced:
    """The lease was lost: another attempt owns the turn and this one writes nothing (I3)."""


Outcome: TypeAlias = Completed | Stopped | Failed | Requeued | Fenced

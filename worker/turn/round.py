"""One request to the provider and its answer, with a named result; an attempt is one round or several.

A round ends with the answer, at one of its limits, or when its attempt ends it, wherever it is waiting (connecting,
silent, mid-stream): leaving the provider's context closes the upstream connection at once (I7).
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import TypeAlias, assert_never

from shared import failpoints
from shared.errors import ContextTold, Fault, ProviderError
from shared.failpoints import Failpoint
from shared.money.usage import Usage
from shared.turn.turns import StopReason
from worker.providers.breaker import Permit
from worker.providers.provider import (
    ContentDelta,
    Finish,
    Item,
    MessageStart,
    Prompt,
    Provider,
    ReasoningDelta,
    RunningUsage,
    UsageConflict,
)
from worker.publishing.channel import Channel
from worker.turn.ceiling import Ceiling
from worker.turn.consumption import Consumption
from worker.turn.draft import Draft

_log = logging.getLogger("turnkeeper.attempt")


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a round.

    Args:
        ceiling: The longest that its answer may be.
        deadline: When it must have ended, by the monotonic clock.
    """

    ceiling: Ceiling
    deadline: float


@dataclass(frozen=True, slots=True)
class Whole:
    """The provider finished the answer."""

    finish: Finish


@dataclass(frozen=True, slots=True)
class CutOff:
    """A stop was requested, or the answer passed its ceiling, before the answer was whole."""

    reason: StopReason


@dataclass(frozen=True, slots=True)
class Abandoned:
    """The attempt was fenced, or was handed back before the answer was whole."""


@dataclass(frozen=True, slots=True)
class Broken:
    """A fault broke the answer off.

    Args:
        fault: The kind.
        detail: In our own words.
        retry_after_ms: How long the provider asked us to wait.
        is_passing: Whether the fault does not lie in the request, so that another one may succeed.
        said: What the provider said, fit for an admin; None if it said nothing.
        told: What it told of the length, if that is why it refused the prompt.
        may_repeat: Whether the same request may succeed a moment later; None if the fault's kind says so.
    """

    fault: Fault
    detail: str
    retry_after_ms: int | None = None
    is_passing: bool = False
    said: str | None = None
    told: ContextTold | None = None
    may_repeat: bool | None = None


Result: TypeAlias = Whole | CutOff | Abandoned | Broken
"""How a round ended; the upstream connection is closed, or free for the next request."""


class Round:
    """A request and its answer. Belongs to the loop's thread; made for one `run`.

    Args:
        provider: Answers.
        prompt: What is sent to the provider.
        permit: The breaker's permission for the call; it receives the verdict.
        draft: The answer's text is appended to it.
        channel: Notes the call.
        consumption: Counts the call's tokens.
        limits: Its ceiling and its deadline.
    """

    __slots__ = (
        "_ceiling",
        "_channel",
        "_consumption",
        "_deadline",
        "_draft",
        "_finish",
        "_is_fenced",
        "_is_handed_back",
        "_permit",
        "_prompt",
        "_provider",
        "_stop_reason",
        "_task",
    )

    def __init__(
        self,
        provider: Provider,
        prompt: Prompt,
        permit: Permit,
        draft: Draft,
        channel: Channel,
        consumption: Consumption,
        limits: Limits,
    ) -> None:
        self._provider = provider
        self._prompt = prompt
        self._permit = permit
        self._draft = draft
        self._channel = channel
        self._consumption = consumption
        self._ceiling = limits.ceiling
        self._deadline = limits.deadline
        self._finish: Finish | None = None
        self._task: asyncio.Task[None] | None = None
        self._stop_reason: StopReason | None = None
        self._is_fenced = False
        self._is_handed_back = False

    async def run(self) -> Result:
        """Send the prompt, show the answer and return how it ended; never raises."""
        try:
            result = await self._stream_within_deadline()
            match result:
                case Whole():
                    self._permit.succeed()
                case Broken():
                    self._permit.fail(result.fault, is_passing=result.is_passing)
                case _:
                    pass
        finally:
            self._permit.let_go()  # if there was no verdict
        if self._consumption.is_refused():
            # If this worker died now, a sweeper would take it for a call that was not answered yet.
            self._note_call()
        return result

    def stop(self, reason: StopReason) -> None:
        """End the round because of a stop; the first reason counts, and a passed ceiling is one."""
        if self._stop_reason is None:
            self._stop_reason = reason
            self._cancel_soon()

    def hand_back(self) -> None:
        """End the round because the worker is ending."""
        if self._stop_reason is None:
            self._is_handed_back = True
            self._cancel_soon()

    def fence(self) -> None:
        """End the round at once: the lease is lost (I3)."""
        self._is_fenced = True
        self._cancel()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _cancel_soon(self) -> None:
        """Cancel once the data that has already arrived was read: it was generated and has its price.

        In the loop's next iteration the socket is read; in the one after it the task takes the data and ends by itself.
        """
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, loop.call_soon, self._cancel)

    async def _stream_within_deadline(self) -> Result:
        self._task = asyncio.create_task(self._stream())
        done, _ = await asyncio.wait({self._task}, timeout=max(0.0, self._deadline - monotonic()))
        if not done:
            self._task.cancel()
            await asyncio.wait({self._task})
        return self._result(self._task, timed_out=not done)

    async def _stream(self) -> None:
        async with self._provider.stream(self._prompt, on_sent=self._sent) as batches:
            async for batch in batches:
                self._take(batch)
                if self._ceiling.is_passed(self._consumption):
                    self._cut_off()
                if self._stop_reason is not None:
                    return  # leaving the context closes the connection (I7)

    def _result(self, task: asyncio.Task[None], *, timed_out: bool) -> Result:
        error = None if task.cancelled() else task.exception()
        self._consumption.broke_off(error)
        if self._is_fenced:
            return Abandoned()
        if self._finish is not None and error is None:
            return Whole(self._finish)
        if self._stop_reason is not None:
            return CutOff(self._stop_reason)
        if self._is_handed_back and task.cancelled():
            return Abandoned()
        if timed_out:
            return Broken(Fault.TURN_TIMEOUT, "the turn reached its deadline before the answer ended")
        if isinstance(error, ProviderError):
            return Broken(
                error.fault,
                error.detail,
                error.retry_after_ms,
                error.is_passing,
                error.said,
                error.told,
                error.may_repeat,
            )
        _log.error("the attempt ended by an error of ours", exc_info=error)
        return Broken(Fault.INTERNAL, "an error inside the service ended the turn")

    # What is received.

    def _sent(self) -> None:
        self._consumption.sent(self._prompt)
        self._note_call()
        failpoints.reach(Failpoint.AFTER_SENT)

    def _take(self, batch: Sequence[Item]) -> None:
        draft = self._draft
        for item in batch:
            match item:
                case ContentDelta(text):
                    draft.append(text)
                case ReasoningDelta(text):
                    draft.append(text, reasoning=True)
                case RunningUsage(usage):
                    self._follow(usage)
                case MessageStart():
                    self._consumption.begun()
                    self._permit.answer()
                    draft.announce()
                case Finish():
                    self._finish = item
                    self._consumption.finished(item.usage)
                    if item.conflict is not None:
                        self._contradicted(item.conflict)
                case _:
                    assert_never(item)

    def _contradicted(self, conflict: UsageConflict) -> None:
        """Keep what the provider said where its figures contradict each other."""
        said = Usage(
            input_tokens=conflict.prompt_tokens,
            output_tokens=conflict.completion_tokens,
            reasoning_tokens=conflict.reasoning_tokens,
        )
        self._consumption.contradicted(conflict.total_tokens, said)

    def _follow(self, usage: Usage) -> None:
        """Note the provider's figures, and check all of them against the hold (I6)."""
        consumption = self._consumption
        if consumption.follow(usage):
            self._note_call()
            counted = consumption.prompt_counted(usage)
            self._ceiling.lower(counted, consumption.earlier, self._prompt.max_output_tokens)
        # A figure that is disputed says nothing, and must not cost the answer.
        if self._ceiling.is_passed_by(usage.output_tokens) and consumption.is_possible(usage.output_tokens):
            self._cut_off()

    def _cut_off(self) -> None:
        """End the answer with the batch that exceeded what the hold pays for (I6)."""
        self._stop_reason = self._stop_reason or StopReason.BUDGET

    def _note_call(self) -> None:
        """Note the call, with its prompt and those before it, so that they are known if this worker dies now."""
        self._channel.note_call(*(self._consumption.prompts() or ()))

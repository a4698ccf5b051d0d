"""One attempt at a turn: from the prompt to the outcome, all of it in the loop's thread.

A stop or a lost lease cancels the attempt's task wherever it waits (connecting, silent, mid-stream),
and leaving the provider's context closes the upstream connection at once (I7).
"""

import asyncio
import logging
from collections.abc import Sequence
from time import monotonic
from typing import Final, assert_never

from shared.errors import Fault, ProviderError
from shared.events import EventType
from shared.turns import StopReason
from shared.usage import Usage, UsageSource, estimate_tokens
from worker.outcome import Answer, Completed, Failed, Fenced, Outcome, Requeued, Stopped
from worker.prompt import prompt_tokens
from worker.provider import (
    ContentDelta,
    Finish,
    Item,
    MessageStart,
    Prompt,
    Provider,
    ReasoningDelta,
    RunningUsage,
)
from worker.publisher import Channel
from worker.retry import Retries

_log = logging.getLogger("turnkeeper.attempt")

_NO_USAGE: Final = Usage()
_REFUSALS: Final = frozenset(
    {
        Fault.PROVIDER_REJECTED,
        Fault.PROVIDER_AUTH,
        Fault.PROVIDER_RATE_LIMITED,
        Fault.PROVIDER_OVERLOADED,
        Fault.PROVIDER_PROTOCOL,
        Fault.CONTEXT_TOO_LONG,
    }
)
"""Faults that cost nothing when no answer had begun: the provider did not take the request."""


class Attempt:
    """The state of one attempt; the lease keeper's thread reads it, only the loop writes it.

    Args:
        channel: Where its events go.
        prompt: What the provider is sent.
        message_id: The stored message's id, as `message_start` tells it.
        seconds_left: Until the turn's deadline.
        retries: The rule by which a call that failed before any text is tried again.
    """

    __slots__ = (
        "_content",
        "_deadline",
        "_deltas",
        "_error",
        "_finish",
        "_is_announced",
        "_is_begun",
        "_message_id",
        "_prompt",
        "_reasoning",
        "_retries",
        "_running",
        "_spent",
        "_task",
        "called",
        "channel",
        "first_text_at",
        "is_fenced",
        "is_handed_back",
        "stop_observed_at",
        "stop_reason",
    )

    def __init__(
        self, channel: Channel, prompt: Prompt, message_id: str, seconds_left: float, retries: Retries
    ) -> None:
        """Prepare; `run` starts it."""
        self.channel = channel
        self.called = False
        self.first_text_at: float | None = None
        self.stop_reason: StopReason | None = None
        self.stop_observed_at: float | None = None
        self.is_fenced = False
        self.is_handed_back = False
        self._prompt = prompt
        self._message_id = message_id
        self._deadline = monotonic() + seconds_left
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._deltas = 0
        self._running: Usage | None = None
        self._finish: Finish | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_begun = False
        self._is_announced = False
        self._error: BaseException | None = None
        self._retries = retries
        self._spent = _NO_USAGE

    async def run(self, provider: Provider) -> Outcome:
        """Stream the answer and say how it ended; never raises."""
        tries = 0
        while True:
            if self.is_fenced:
                return Fenced()
            if self.stop_reason is not None:
                return self._stopped(self.stop_reason, provider)
            if self.is_handed_back:
                return Requeued(self.answer(provider), handed_back=True)
            tries += 1
            outcome = await self._call(provider)
            wait = self._wait_before_retry(outcome, tries)
            if wait is None:
                return outcome
            _log.info("the call is tried again", extra={"after_seconds": round(wait, 3), "tries": tries})
            self._begin_again(provider)
            self._task = asyncio.create_task(asyncio.sleep(wait))  # a stop or a fence cancels it
            await asyncio.wait({self._task})

    async def _call(self, provider: Provider) -> Outcome:
        self._task = asyncio.create_task(self._stream(provider))
        done, _ = await asyncio.wait({self._task}, timeout=max(0.0, self._deadline - monotonic()))
        if not done:
            self._task.cancel()
            await asyncio.wait({self._task})
        return self._outcome(provider, timed_out=not done)

    def _wait_before_retry(self, outcome: Outcome, tries: int) -> float | None:
        """Return the seconds until the next try; None once text was shown, and where none can help."""
        if not isinstance(outcome, Failed) or self._deltas:
            return None
        return self._retries.wait_before(
            outcome.fault,
            tries=tries,
            retry_after_ms=outcome.retry_after_ms,
            seconds_left=self._deadline - monotonic(),
        )

    def _begin_again(self, provider: Provider) -> None:
        """Forget the failed call, but for what it may have cost."""
        usage, _ = self._usage(provider)
        self._spent = usage
        self._is_begun = False
        self._running = None
        self._error = None

    def stop(self, reason: StopReason) -> None:
        """End it because somebody asked; the first reason counts."""
        if self.stop_reason is None and not self.is_fenced:
            self.stop_reason = reason
            self._cancel()

    def hand_back(self) -> None:
        """End it because the worker ends; the turn goes on elsewhere."""
        if self.stop_reason is None and not self.is_fenced and not self.is_handed_back:
            self.is_handed_back = True
            self._cancel()

    def fence(self) -> None:
        """End it without a trace: the lease is lost (I3)."""
        if not self.is_fenced:
            self.is_fenced = True
            self.channel.fence()
            self._cancel()

    def answer(self, provider: Provider) -> Answer:
        """Return what was brought so far."""
        usage, source = self._usage(provider)
        return Answer("".join(self._content), "".join(self._reasoning), self.called, usage, source)

    def checkpoint(self, provider: Provider) -> tuple[int, Answer] | None:
        """Return what was encoded so far and the number of its last event, for another thread to save.

        None when the text changed too quickly to be read; the next round tries again.
        """
        shown = self.channel.text_so_far()
        if shown is None:
            return None
        seq, content, reasoning = shown
        usage, source = self._usage(provider)
        return seq, Answer(content, reasoning, self.called, usage, source)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _sent(self) -> None:
        self.called = True

    async def _stream(self, provider: Provider) -> None:
        async with provider.stream(self._prompt, on_sent=self._sent) as batches:
            async for batch in batches:
                self._take(batch)

    def _take(self, batch: Sequence[Item]) -> None:
        for item in batch:
            match item:
                case ContentDelta(text):
                    self._show(False, text)
                case ReasoningDelta(text):
                    self._show(True, text)
                case RunningUsage(usage):
                    self._running = usage
                case MessageStart():
                    self._begin()
                case Finish():
                    self._finish = item
                case _:
                    assert_never(item)

    def _begin(self) -> None:
        self._is_begun = True
        if not self._is_announced:  # a call that failed before its text may have said it already
            self._is_announced = True
            self.channel.event(EventType.MESSAGE_START, {"message_id": self._message_id})

    def _show(self, reasoning: bool, text: str) -> None:
        if self.first_text_at is None:
            self.first_text_at = monotonic()
        self._deltas += 1
        (self._reasoning if reasoning else self._content).append(text)
        self.channel.delta(reasoning, text)

    def _outcome(self, provider: Provider, *, timed_out: bool) -> Outcome:
        task = self._task
        assert task is not None
        self._error = error = None if task.cancelled() else task.exception()
        if self.is_fenced:
            return Fenced()
        if self._finish is not None and error is None:
            return self._completed(self._finish, provider)
        if self.stop_reason is not None:
            return self._stopped(self.stop_reason, provider)
        answer = self.answer(provider)
        if self.is_handed_back and task.cancelled():
            return Requeued(answer, handed_back=True)
        if timed_out:
            return Failed(answer, Fault.TURN_TIMEOUT, "the turn reached its deadline before the answer ended")
        if isinstance(error, ProviderError):
            return Failed(answer, error.fault, error.detail, error.retry_after_ms)
        _log.error("the attempt ended by an error of ours", exc_info=error)
        return Failed(answer, Fault.INTERNAL, "an error inside the service ended the turn")

    def _completed(self, finish: Finish, provider: Provider) -> Completed:
        answer = self.answer(provider)
        fields = {"usage": answer.usage.as_dict(), "finish_reason": finish.reason.value}
        self.channel.event(EventType.MESSAGE_END, fields)
        return Completed(answer, finish.reason)

    def _stopped(self, reason: StopReason, provider: Provider) -> Stopped:
        self.stop_observed_at = monotonic()
        self.channel.event(EventType.STOP_REQUESTED, {"stop_reason": reason.value})
        return Stopped(self.answer(provider), reason)

    def _is_refused(self) -> bool:
        return (
            not self._is_begun
            and self._running is None
            and isinstance(self._error, ProviderError)
            and self._error.fault in _REFUSALS
        )

    def _usage(self, provider: Provider) -> tuple[Usage, UsageSource]:
        """Return what all calls of this attempt used; an estimate where one of them is."""
        usage, source = self._usage_of_call(provider)
        if self._spent.is_empty():
            return usage, source
        return usage + self._spent, UsageSource.ESTIMATED

    def _usage_of_call(self, provider: Provider) -> tuple[Usage, UsageSource]:
        """Return the provider's word where it gave one, else its running figures, else an estimate.

        A delta is a token at least, so their number is the least that was generated.
        """
        if self._finish is not None and self._finish.usage is not None:
            return self._finish.usage, UsageSource.PROVIDER
        if not self.called or self._is_refused():
            return _NO_USAGE, UsageSource.ESTIMATED
        content, reasoning = "".join(list(self._content)), "".join(list(self._reasoning))
        thought = estimate_tokens(reasoning)
        output = max(estimate_tokens(content) + thought, self._deltas)
        running = self._running
        if running is None:
            return Usage(
                input_tokens=prompt_tokens(self._prompt), output_tokens=output, reasoning_tokens=thought
            ), UsageSource.ESTIMATED
        if provider.capabilities.running_usage:
            return running, UsageSource.PARTIAL
        return Usage(
            input_tokens=running.input_tokens,
            cache_read_tokens=running.cache_read_tokens,
            cache_write_tokens=running.cache_write_tokens,
            output_tokens=max(output, running.output_tokens),
            reasoning_tokens=max(thought, running.reasoning_tokens),
        ), UsageSource.PARTIAL

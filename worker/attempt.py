"""One attempt at a turn: from the prompt to the outcome, all of it in the loop's thread.

A stop or a lost lease cancels the attempt's task wherever it waits (connecting, silent, mid-stream),
and leaving the provider's context closes the upstream connection at once (I7).
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import monotonic
from typing import Final, TypeGuard, assert_never

from shared import failpoints
from shared.errors import Fault, ProviderError
from shared.events import EventType
from shared.failpoints import Failpoint
from shared.holds import MOST_BYTES_PER_TOKEN
from shared.turns import StopReason
from shared.usage import Usage, UsageSource, estimate_tokens
from worker.allowance import Allowance, within_limit
from worker.breaker import Breaker, Call
from worker.channel import Channel
from worker.continuation import Seam, continued
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
from worker.retry import Retries

_log = logging.getLogger("turnkeeper.attempt")

_NO_USAGE: Final = Usage()
_UNLIMITED: Final = 1 << 62
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
_UNCONTINUABLE: Final = frozenset({Fault.PROVIDER_REJECTED, Fault.CONTEXT_TOO_LONG})
"""Refusals that may be of the text to continue alone: the question by itself is asked again."""


class Attempt:
    """The state of one attempt; the lease keeper's thread reads it, only the loop writes it.

    Args:
        channel: Where its events go.
        prompt: What the provider is sent.
        message_id: The stored message's id, as `message_start` tells it.
        seconds_left: Until the turn's deadline.
        retries: The rule by which a call that failed is made again.
        breaker: Says whether the provider is called at all.
        attempts: This one's number, those handed back not counted; None when the turn ends where its text
            breaks off (`recovery: fail`).
        prefix: The text of an earlier attempt that this one continues; empty to answer anew.
        allowance: What the attempt may cost; None where there is no budget.
        on_first_text: Called as the first text is shown.
    """

    __slots__ = (
        "_allowance",
        "_attempts",
        "_breaker",
        "_content",
        "_deadline",
        "_deltas",
        "_error",
        "_finish",
        "_is_announced",
        "_is_begun",
        "_is_sent",
        "_length",
        "_longest",
        "_message_id",
        "_most_deltas",
        "_most_length",
        "_most_tokens",
        "_on_first_text",
        "_permit",
        "_prefix",
        "_prompt",
        "_prompt_tokens",
        "_question",
        "_reasoning",
        "_retries",
        "_running",
        "_seam",
        "_spent",
        "_spent_source",
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
        self,
        channel: Channel,
        prompt: Prompt,
        message_id: str,
        seconds_left: float,
        retries: Retries,
        breaker: Breaker,
        *,
        attempts: int | None = None,
        prefix: str = "",
        allowance: Allowance | None = None,
        on_first_text: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare; `run` starts it."""
        self._on_first_text = on_first_text
        self.channel = channel
        self.called = False
        self.first_text_at: float | None = None
        self.stop_reason: StopReason | None = None
        self.stop_observed_at: float | None = None
        self.is_fenced = False
        self.is_handed_back = False
        self._question = prompt
        self._prompt = continued(prompt, prefix) if prefix else prompt
        self._prefix = prefix
        self._seam = Seam(prefix)
        self._attempts = attempts
        self._breaker = breaker
        self._permit: Call | None = None
        self._is_sent = False
        self._message_id = message_id
        self._deadline = monotonic() + seconds_left
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._deltas = 0
        self._running: Usage | None = None
        self._finish: Finish | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_begun = False
        self._is_announced = bool(prefix)
        self._error: BaseException | None = None
        self._retries = retries
        self._spent = _NO_USAGE
        self._spent_source = UsageSource.ESTIMATED
        self._longest = _NO_USAGE
        self._allowance = allowance
        self._length = 0
        self._prompt_tokens = 0
        self._most_tokens = self._most_deltas = self._most_length = _UNLIMITED

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
            if not self._is_payable(provider):
                return self._stopped(StopReason.BUDGET, provider)
            permit = self._breaker.call()
            if isinstance(permit, ProviderError):
                return Failed(self.answer(provider), permit.fault, permit.detail, permit.retry_after_ms)
            tries += 1
            outcome = await self._call(provider, permit)
            if self._is_prefix_refused(outcome):
                self._answer_anew(outcome.fault, provider)
                continue
            wait = self._wait_before_retry(outcome, tries)
            if wait is None:
                return await self._or_requeued(outcome, provider)
            _log.info("the call is tried again", extra={"after_seconds": round(wait, 3), "tries": tries})
            self._begin_again(provider)
            await self._sleep(wait)

    def _is_payable(self, provider: Provider) -> bool:
        """Lower the answer's limit to what the hold pays; False when that is no answer worth a call (I6)."""
        if self._allowance is None:
            return True
        limited = self._allowance.limited(self._prompt, self._spent)
        if limited is None:
            return False
        self._prompt = limited
        self._most_tokens = limited.max_output_tokens
        self._most_length = self._length + self._most_tokens * MOST_BYTES_PER_TOKEN
        # A delta is a token at least, unless the provider itself says how many there are.
        if not provider.capabilities.running_usage:
            self._most_deltas = self._deltas + self._most_tokens
        return True

    async def _or_requeued(self, outcome: Outcome, provider: Provider) -> Outcome:
        """Leave a text that broke off to the next attempt, after a while, where there may be one."""
        if not isinstance(outcome, Failed) or not outcome.is_passing or not self._deltas:
            return outcome
        if self._attempts is None or not self._breaker.is_closed():
            return outcome
        wait = self._retries.wait_before_attempt(
            outcome.fault,
            attempts=self._attempts,
            retry_after_ms=outcome.retry_after_ms,
            seconds_left=self._deadline - monotonic(),
        )
        if wait is None:
            return outcome
        _log.info("the turn is tried again", extra={"after_seconds": round(wait, 3)})
        await self._sleep(wait)
        if self.is_fenced:
            return Fenced()
        if self.stop_reason is not None:
            return self._stopped(self.stop_reason, provider)
        return Requeued(outcome.answer, fault=outcome.fault)

    async def _sleep(self, seconds: float) -> None:
        """Wait; a stop, a fence or the worker's end cuts it short."""
        if self.is_fenced or self.is_handed_back or self.stop_reason is not None:
            return  # it came as the call ended, so there is nothing left that it could cancel
        self._task = asyncio.create_task(asyncio.sleep(seconds))
        await asyncio.wait({self._task})

    async def _call(self, provider: Provider, permit: Call) -> Outcome:
        self._permit = permit
        self._retries.budget.note_call()
        try:
            outcome = await self._stream_within_deadline(provider)
            match outcome:
                case Completed():
                    permit.succeed()
                case Failed():
                    permit.fail(outcome.fault, is_passing=outcome.is_passing)
                case _:
                    pass
        finally:
            permit.let_go()  # where there was no verdict
        if self._is_sent and self._is_refused():
            # Should this worker die now, a sweeper would take it for a call that nobody has answered yet.
            self._note_prompt(_NO_USAGE, self._spent_source)
        return outcome

    async def _stream_within_deadline(self, provider: Provider) -> Outcome:
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

    def _is_prefix_refused(self, outcome: Outcome) -> TypeGuard[Failed]:
        return (
            bool(self._prefix)
            and not self._deltas
            and isinstance(outcome, Failed)
            and outcome.fault in _UNCONTINUABLE
        )

    def _answer_anew(self, fault: Fault, provider: Provider) -> None:
        """Declare the text void that the provider would not continue, and ask the question by itself."""
        self._begin_again(provider)
        self._prompt, self._prefix, self._seam = self._question, "", Seam("")
        self._is_announced = False
        self.channel.event(EventType.MESSAGE_RESET, {"reason": fault.value})

    def _begin_again(self, provider: Provider) -> None:
        """Forget the failed call, but for what it may have cost."""
        usage, source = self._usage_of_call(provider)
        if not usage.is_empty():
            self._spent_source = source if self._spent.is_empty() else UsageSource.ESTIMATED
        self._spent += usage
        self._longest = _longer(self._longest, usage)
        self._is_sent = False
        self._is_begun = False
        self._running = None
        self._prompt_tokens = 0
        self._error = None

    def stop(self, reason: StopReason) -> None:
        """End it because somebody asked; the first reason counts."""
        if self.stop_reason is None and not self.is_fenced:
            self.stop_reason = reason
            self._cancel_soon()

    def hand_back(self) -> None:
        """End it because the worker ends; the turn goes on elsewhere."""
        if self.stop_reason is None and not self.is_fenced and not self.is_handed_back:
            self.is_handed_back = True
            self._cancel_soon()

    def fence(self) -> None:
        """End it without a trace: the lease is lost (I3)."""
        if not self.is_fenced:
            self.is_fenced = True
            self.channel.fence()
            self._cancel()

    def answer(self, provider: Provider) -> Answer:
        """Return what was brought so far."""
        usage, source = self._usage(provider)
        content = self._prefix + "".join(self._content)
        return Answer(
            content, "".join(self._reasoning), self.called, usage, source, self._longest_call(provider)
        )

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

    def _cancel_soon(self) -> None:
        """Cancel when what has arrived was read, which is generated and has its price.

        In the loop's next round the socket is read, in the one after it the task takes that and ends by itself.
        """
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, loop.call_soon, self._cancel)

    def _sent(self) -> None:
        self.called = self._is_sent = True
        if self._spent.is_empty():
            self.channel.note_call()
        else:
            # With the calls before it: should this worker die now, they are not forgotten.
            self._note_prompt(Usage(input_tokens=prompt_tokens(self._prompt)), UsageSource.ESTIMATED)
        failpoints.reach(Failpoint.AFTER_SENT)

    async def _stream(self, provider: Provider) -> None:
        async with provider.stream(self._prompt, on_sent=self._sent) as batches:
            async for batch in batches:
                self._take(batch)
                if self._deltas > self._most_deltas or self._length > self._most_length:
                    self.stop_reason = self.stop_reason or StopReason.BUDGET
                if self.stop_reason is not None:
                    return  # leaving the context closes the connection

    def _take(self, batch: Sequence[Item]) -> None:
        for item in batch:
            match item:
                case ContentDelta(text):
                    self._say(text)
                case ReasoningDelta(text):
                    self._show(True, text)
                case RunningUsage(usage):
                    self._follow(usage)
                case MessageStart():
                    self._begin()
                case Finish():
                    self._finish = item
                case _:
                    assert_never(item)

    def _follow(self, usage: Usage) -> None:
        """Note the prompt's figures, and hold all of them against the hold."""
        self._running = usage
        length = usage.prompt_tokens()
        if length != self._prompt_tokens:
            self._prompt_tokens = length
            self._count_prompt(replace(usage, output_tokens=0, reasoning_tokens=0))
        if usage.output_tokens > self._most_tokens:
            self.stop_reason = self.stop_reason or StopReason.BUDGET

    def _count_prompt(self, prompt: Usage) -> None:
        self._note_prompt(prompt, UsageSource.PARTIAL if self._spent.is_empty() else UsageSource.ESTIMATED)
        if self._allowance is None:
            return
        # The provider's prompt may be larger than any text that we sent.
        most = self._allowance.tokens_after(prompt, self._spent, self._prompt.max_output_tokens)
        self._most_deltas -= self._most_tokens - most
        self._most_tokens = most

    def _note_prompt(self, prompt: Usage, source: UsageSource) -> None:
        earlier = replace(self._spent, output_tokens=0, reasoning_tokens=0)
        self.channel.note_call(earlier + prompt, source)

    def _begin(self) -> None:
        self._is_begun = True
        if self._permit is not None:
            self._permit.answer()
        if not self._is_announced:  # a call that failed before its text may have said it already
            self._is_announced = True
            self.channel.event(EventType.MESSAGE_START, {"message_id": self._message_id})

    def _say(self, text: str) -> None:
        if self._prefix:
            text = self._seam.join(text)
        if text:
            self._show(False, text)

    def _show(self, reasoning: bool, text: str) -> None:
        if self.first_text_at is None:
            self.first_text_at = monotonic()
            self._on_first_text()
        self._deltas += 1
        self._length += len(text)
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
            return Failed(answer, error.fault, error.detail, error.retry_after_ms, error.is_passing)
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
        if usage.is_empty():
            return self._spent, self._spent_source
        return usage + self._spent, UsageSource.ESTIMATED

    def _longest_call(self, provider: Provider) -> Usage | None:
        if self._spent.is_empty():
            return None
        return _longer(self._longest, self._usage_of_call(provider)[0])

    def _usage_of_call(self, provider: Provider) -> tuple[Usage, UsageSource]:
        """Return the provider's word where it gave one, else its running figures, else an estimate.

        A delta is a token at least, so their number is the least that was generated.
        """
        if self._finish is not None and self._finish.usage is not None:
            return self._finish.usage, UsageSource.PROVIDER
        if not self._is_sent or self._is_refused():
            return _NO_USAGE, UsageSource.ESTIMATED
        content, reasoning = "".join(list(self._content)), "".join(list(self._reasoning))
        thought = estimate_tokens(reasoning)
        most = self._prompt.max_output_tokens
        estimate = within_limit(estimate_tokens(content) + thought, self._length, most)
        output = max(estimate, self._deltas)
        thought = min(thought, output)
        running = self._running
        if running is None:
            return Usage(
                input_tokens=prompt_tokens(self._prompt), output_tokens=output, reasoning_tokens=thought
            ), UsageSource.ESTIMATED
        if provider.capabilities.running_usage and (running.output_tokens or not self._deltas):
            return running, UsageSource.PARTIAL
        return Usage(
            input_tokens=running.input_tokens,
            cache_read_tokens=running.cache_read_tokens,
            cache_write_tokens=running.cache_write_tokens,
            cache_write_1h_tokens=running.cache_write_1h_tokens,
            output_tokens=max(output, running.output_tokens),
            reasoning_tokens=max(thought, running.reasoning_tokens),
        ), UsageSource.PARTIAL


def _longer(one: Usage, other: Usage) -> Usage:
    """Return the usage with the longer prompt."""
    return max(one, other, key=Usage.prompt_tokens)

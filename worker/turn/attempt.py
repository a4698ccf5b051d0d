"""One attempt at a turn: from the prompt to the outcome, all of it in the loop's thread.

A stop or a lost lease cancels the attempt's task wherever it waits (connecting, silent, mid-stream),
and leaving the provider's context closes the upstream connection at once (I7).
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final, TypeGuard, assert_never

from shared import failpoints
from shared.errors import Fault, ProviderError
from shared.failpoints import Failpoint
from shared.money.usage import Usage
from shared.turn.events import EventType
from shared.turn.turns import StopReason
from worker.providers.provider import (
    ContentDelta,
    Finish,
    Item,
    MessageStart,
    Prompt,
    Provider,
    ReasoningDelta,
    RunningUsage,
)
from worker.publishing.channel import Channel
from worker.turn.allowance import Allowance
from worker.turn.breaker import Breaker, Permit
from worker.turn.ceiling import Ceiling
from worker.turn.consumption import Consumption, prompt_of
from worker.turn.continuation import Seam, continued
from worker.turn.outcome import Answer, Completed, Failed, Fenced, Outcome, Requeued, Stopped
from worker.turn.retry import Retries

_log = logging.getLogger("turnkeeper.attempt")

_UNCONTINUABLE: Final = frozenset({Fault.PROVIDER_REJECTED, Fault.CONTEXT_TOO_LONG})
"""Refusals that may be of the text to continue alone: the question by itself is asked again."""


class Attempt:
    """The state of one attempt; the lease keeper's thread reads it, only the loop writes it.

    Args:
        provider: Who answers.
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
        "_attempts",
        "_breaker",
        "_ceiling",
        "_consumption",
        "_deadline",
        "_finish",
        "_is_announced",
        "_message_id",
        "_on_first_text",
        "_permit",
        "_prefix",
        "_prompt",
        "_provider",
        "_question",
        "_retries",
        "_seam",
        "_task",
        "channel",
        "first_text_at",
        "is_fenced",
        "is_handed_back",
        "stop_observed_at",
        "stop_reason",
    )

    def __init__(
        self,
        provider: Provider,
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
        self._provider = provider
        self._on_first_text = on_first_text
        self.channel = channel
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
        self._permit: Permit | None = None
        self._message_id = message_id
        self._deadline = monotonic() + seconds_left
        self._finish: Finish | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_announced = bool(prefix)
        self._retries = retries
        self._consumption = Consumption()
        self._ceiling = Ceiling(allowance)

    async def run(self) -> Outcome:
        """Stream the answer and say how it ended; never raises."""
        tries = 0
        while True:
            if self.is_fenced:
                return Fenced()
            if self.stop_reason is not None:
                return self._stopped(self.stop_reason)
            if self.is_handed_back:
                return Requeued(self.answer(), handed_back=True)
            if not self._is_payable():
                return self._stopped(StopReason.BUDGET)
            permit = self._breaker.call()
            if isinstance(permit, ProviderError):
                return Failed(self.answer(), permit.fault, permit.detail, permit.retry_after_ms)
            tries += 1
            outcome = await self._call(permit)
            if self._is_prefix_refused(outcome):
                self._answer_anew(outcome.fault)
                continue
            wait = self._wait_before_retry(outcome, tries)
            if wait is None:
                return await self._or_requeued(outcome)
            _log.info("the call is tried again", extra={"after_seconds": round(wait, 3), "tries": tries})
            self._consumption.end_call(self._provider.capabilities)
            await self._sleep(wait)

    def _is_payable(self) -> bool:
        """Lower the answer's limit to what the hold pays; False when that is no answer worth a call (I6)."""
        limited = self._ceiling.limited(self._prompt, self._consumption, self._provider.capabilities)
        if limited is None:
            return False
        self._prompt = limited
        return True

    async def _or_requeued(self, outcome: Outcome) -> Outcome:
        """Leave a text that broke off to the next attempt, after a while, where there may be one."""
        if not isinstance(outcome, Failed) or not outcome.is_passing or not self._consumption.deltas:
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
            return self._stopped(self.stop_reason)
        return Requeued(outcome.answer, fault=outcome.fault)

    async def _sleep(self, seconds: float) -> None:
        """Wait; a stop, a fence or the worker's end cuts it short."""
        if self.is_fenced or self.is_handed_back or self.stop_reason is not None:
            return  # it came as the call ended, so there is nothing left that it could cancel
        self._task = asyncio.create_task(asyncio.sleep(seconds))
        await asyncio.wait({self._task})

    async def _call(self, permit: Permit) -> Outcome:
        self._permit = permit
        self._retries.budget.note_call()
        try:
            outcome = await self._stream_within_deadline()
            match outcome:
                case Completed():
                    permit.succeed()
                case Failed():
                    permit.fail(outcome.fault, is_passing=outcome.is_passing)
                case _:
                    pass
        finally:
            permit.let_go()  # where there was no verdict
        if self._consumption.is_refused():
            # Should this worker die now, a sweeper would take it for a call that nobody has answered yet.
            self._note_call()
        return outcome

    async def _stream_within_deadline(self) -> Outcome:
        self._task = asyncio.create_task(self._stream())
        done, _ = await asyncio.wait({self._task}, timeout=max(0.0, self._deadline - monotonic()))
        if not done:
            self._task.cancel()
            await asyncio.wait({self._task})
        return self._outcome(timed_out=not done)

    def _wait_before_retry(self, outcome: Outcome, tries: int) -> float | None:
        """Return the seconds until the next try; None once text was shown, and where none can help."""
        if not isinstance(outcome, Failed) or self._consumption.deltas:
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
            and not self._consumption.deltas
            and isinstance(outcome, Failed)
            and outcome.fault in _UNCONTINUABLE
        )

    def _answer_anew(self, fault: Fault) -> None:
        """Declare the text void that the provider would not continue, and ask the question by itself."""
        self._consumption.end_call(self._provider.capabilities)
        self._prompt, self._prefix, self._seam = self._question, "", Seam("")
        self._is_announced = False
        self.channel.event(EventType.MESSAGE_RESET, {"reason": fault.value})

    def has_called(self) -> bool:
        """Say whether a request reached the provider."""
        return self._consumption.called

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

    def answer(self) -> Answer:
        """Return what was brought so far."""
        used = self._consumption
        usage, source = used.usage(self._provider.capabilities)
        longest = used.longest_call(self._provider.capabilities)
        return Answer(self._prefix + used.content(), used.reasoning(), used.called, usage, source, longest)

    def checkpoint(self) -> tuple[int, Answer] | None:
        """Return what was encoded so far and the number of its last event, for another thread to save.

        None when the text changed too quickly to be read; the next round tries again.
        """
        shown = self.channel.text_so_far()
        if shown is None:
            return None
        seq, content, reasoning = shown
        usage, source = self._consumption.usage(self._provider.capabilities)
        return seq, Answer(content, reasoning, self.has_called(), usage, source)

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
        self._consumption.sent(self._prompt)
        self._note_call()
        failpoints.reach(Failpoint.AFTER_SENT)

    async def _stream(self) -> None:
        async with self._provider.stream(self._prompt, on_sent=self._sent) as batches:
            async for batch in batches:
                self._take(batch)
                if self._ceiling.is_passed(self._consumption):
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
                    self._consumption.finished(item.usage)
                case _:
                    assert_never(item)

    def _follow(self, usage: Usage) -> None:
        """Note the provider's figures, and hold all of them against the hold."""
        if self._consumption.follow(usage):
            self._note_call()
            self._ceiling.lower(prompt_of(usage), self._consumption.earlier, self._prompt.max_output_tokens)
        if self._ceiling.is_passed_by(usage.output_tokens):
            self.stop_reason = self.stop_reason or StopReason.BUDGET

    def _note_call(self) -> None:
        """Note the call and, with those before it, its prompt: should this worker die now, they are not forgotten."""
        self.channel.note_call(*(self._consumption.prompts() or ()))

    def _begin(self) -> None:
        self._consumption.begun()
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
        self._consumption.add(reasoning, text)
        self.channel.delta(reasoning, text)

    def _outcome(self, *, timed_out: bool) -> Outcome:
        task = self._task
        assert task is not None
        error = None if task.cancelled() else task.exception()
        self._consumption.broke_off(error)
        if self.is_fenced:
            return Fenced()
        if self._finish is not None and error is None:
            return self._completed(self._finish)
        if self.stop_reason is not None:
            return self._stopped(self.stop_reason)
        answer = self.answer()
        if self.is_handed_back and task.cancelled():
            return Requeued(answer, handed_back=True)
        if timed_out:
            return Failed(answer, Fault.TURN_TIMEOUT, "the turn reached its deadline before the answer ended")
        if isinstance(error, ProviderError):
            return Failed(answer, error.fault, error.detail, error.retry_after_ms, error.is_passing)
        _log.error("the attempt ended by an error of ours", exc_info=error)
        return Failed(answer, Fault.INTERNAL, "an error inside the service ended the turn")

    def _completed(self, finish: Finish) -> Completed:
        answer = self.answer()
        fields = {"usage": answer.usage.as_dict(), "finish_reason": finish.reason.value}
        self.channel.event(EventType.MESSAGE_END, fields)
        return Completed(answer, finish.reason)

    def _stopped(self, reason: StopReason) -> Stopped:
        self.stop_observed_at = monotonic()
        self.channel.event(EventType.STOP_REQUESTED, {"stop_reason": reason.value})
        return Stopped(self.answer(), reason)

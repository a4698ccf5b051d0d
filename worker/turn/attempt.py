"""One attempt at a turn: from the prompt to the outcome, all of it in the loop's thread.

An attempt is a loop of rounds: check whether it may ask, ask, wait, ask again. A stop or a lost lease ends the round,
or the wait between two rounds, so that the upstream connection is closed in every phase (I7).
"""

import asyncio
import logging
from collections.abc import Callable
from time import monotonic
from typing import Final, TypeGuard, assert_never

from shared.errors import Fault, ProviderError
from shared.turn import events
from shared.turn.turns import StopReason
from worker.providers.breaker import Gate, Permit
from worker.providers.provider import Finish, Prompt, Provider
from worker.publishing.channel import Channel
from worker.turn.allowance import Allowance
from worker.turn.ceiling import Ceiling
from worker.turn.consumption import Consumption
from worker.turn.continuation import continued
from worker.turn.draft import Draft
from worker.turn.fitting import Fitting
from worker.turn.outcome import Answer, Completed, Failed, Fenced, Outcome, Requeued, Stopped
from worker.turn.retry import Retries
from worker.turn.round import Abandoned, Broken, CutOff, Limits, Result, Round, Whole

_log = logging.getLogger("turnkeeper.attempt")

_UNCONTINUABLE: Final = frozenset({Fault.PROVIDER_REJECTED, Fault.CONTEXT_TOO_LONG})
"""Refusals that may concern only the text to continue: the question is then asked again without it."""
_PERHAPS_REFUSALS: Final = frozenset(
    {Fault.PROVIDER_AUTH, Fault.PROVIDER_OVERLOADED, Fault.PROVIDER_PROTOCOL}
)
"""What some providers answer to a question that they will never take."""


class Attempt:
    """The state of one attempt; the lease keeper's thread reads it, only the loop writes it.

    Args:
        provider: Answers.
        channel: Publishes the attempt's events.
        prompt: What is sent to the provider.
        message_id: The stored message's id, which `message_start` carries.
        seconds_left: Until the turn's deadline.
        retries: Decides whether a failed call is repeated.
        breaker: Decides whether the provider is called at all.
        attempts: This attempt's number, not counting those handed back; None if the turn ends where its text
        breaks off (`recovery: fail`).
        prefix: The text of an earlier attempt that this one continues; empty to start a new answer.
        allowance: What the attempt may cost; None without a budget.
        fitting: Made the prompt, and makes another if the provider refuses it; None to send no other.
        on_first_text: Called as the first text is shown.
    """

    __slots__ = (
        "_attempts",
        "_breaker",
        "_ceiling",
        "_consumption",
        "_draft",
        "_fitting",
        "_limits",
        "_prompt",
        "_provider",
        "_question",
        "_retries",
        "_round",
        "_waiting",
        "channel",
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
        breaker: Gate,
        *,
        attempts: int | None = None,
        prefix: str = "",
        allowance: Allowance | None = None,
        fitting: Fitting | None = None,
        on_first_text: Callable[[], None] = lambda: None,
    ) -> None:
        self._provider = provider
        self.channel = channel
        self.stop_reason: StopReason | None = None
        self.stop_observed_at: float | None = None
        self.is_fenced = False
        self.is_handed_back = False
        self._question = prompt
        self._prompt = continued(prompt, prefix) if prefix else prompt
        self._attempts = attempts
        self._breaker = breaker
        self._retries = retries
        self._consumption = Consumption()
        self._draft = Draft(
            channel, self._consumption, message_id, prefix=prefix, on_first_text=on_first_text
        )
        self._fitting = fitting
        if fitting is not None:
            self._draft.history_trimmed = fitting.left_out()
        self._ceiling = Ceiling(allowance)
        self._limits = Limits(self._ceiling, deadline=monotonic() + seconds_left)
        self._round: Round | None = None
        self._waiting: asyncio.Task[None] | None = None

    async def run(self) -> Outcome:
        """Stream the answer and return how it ended; never raises."""
        tries = 0
        while True:
            permit = self._may_ask()
            if not isinstance(permit, Permit):
                return permit
            tries += 1
            result = await self._ask(permit)
            if self._is_asked_otherwise(result):
                tries -= 1  # another request
                continue
            outcome = self._outcome(result)
            if self._is_prefix_refused(outcome):
                self._answer_anew(outcome.fault)
                continue
            wait = self._wait_before_retry(outcome, tries)
            if wait is None and self._is_asked_without_unanswered(outcome):
                continue
            if wait is None:
                return await self._or_requeued(outcome)
            _log.info("the call is tried again", extra={"after_seconds": round(wait, 3), "tries": tries})
            self._consumption.end_call(self._provider.capabilities)
            await self._sleep(wait)

    @property
    def first_text_at(self) -> float | None:
        """When the first text was shown, by the monotonic clock; None before that."""
        return self._draft.first_text_at

    def has_called(self) -> bool:
        """Return whether a request reached the provider."""
        return self._consumption.called

    def stop(self, reason: StopReason) -> None:
        """End the attempt because of a stop; the first reason counts."""
        if self.stop_reason is None and not self.is_fenced:
            self.stop_reason = reason
            if self._round is not None:
                self._round.stop(reason)
            self._wake()

    def hand_back(self) -> None:
        """End the attempt because the worker is ending; another worker continues the turn."""
        if self.stop_reason is None and not self.is_fenced and not self.is_handed_back:
            self.is_handed_back = True
            if self._round is not None:
                self._round.hand_back()
            self._wake()

    def fence(self) -> None:
        """End the attempt and write nothing more: the lease is lost (I3)."""
        if not self.is_fenced:
            self.is_fenced = True
            self.channel.fence()
            if self._round is not None:
                self._round.fence()
            self._wake()

    def answer(self) -> Answer:
        """Return what the attempt has received so far."""
        used, capabilities = self._consumption, self._provider.capabilities
        usage, source = used.usage(capabilities)
        longest = used.longest_call(capabilities)
        content = self._draft.prefix + used.content()
        reported = used.reported(capabilities)
        return Answer(content, used.reasoning(), used.called, usage, source, longest, reported)

    def checkpoint(self) -> tuple[int, Answer] | None:
        """Return what has been encoded so far and the number of its last event, for another thread to save.

        None if the text changed too quickly to be read; the next renewal tries again.
        """
        shown = self.channel.text_so_far()
        if shown is None:
            return None
        seq, content, reasoning = shown
        usage, source = self._consumption.usage(self._provider.capabilities)
        reported = self._consumption.reported(self._provider.capabilities)
        return seq, Answer(content, reasoning, self.has_called(), usage, source, reported=reported)

    # May it ask.

    def _may_ask(self) -> Permit | Outcome:
        """Return a permit to ask the provider once, or how the attempt ends without another round."""
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
        return permit

    def _is_payable(self) -> bool:
        """Lower the answer's limit to what the hold pays for; False if no such answer is worth a call (I6)."""
        limited = self._ceiling.limited(self._prompt, self._consumption, self._provider.capabilities)
        if limited is None:
            return False
        self._prompt = limited
        return True

    # Ask.

    async def _ask(self, permit: Permit) -> Result:
        self._retries.budget.note_call()
        self._round = Round(
            self._provider, self._prompt, permit, self._draft, self.channel, self._consumption, self._limits
        )
        return await self._round.run()

    def _outcome(self, result: Result) -> Outcome:
        """Return how the attempt ends if that round was its last."""
        match result:
            case Whole(finish):
                return self._completed(finish)
            case CutOff(reason):
                return self._stopped(reason)
            case Abandoned():
                return Fenced() if self.is_fenced else Requeued(self.answer(), handed_back=True)
            case Broken(fault, _, retry_after_ms, is_passing, said, _, may_repeat):
                return Failed(
                    self.answer(),
                    fault,
                    self._explained(result),
                    retry_after_ms,
                    is_passing,
                    said,
                    may_repeat,
                )
            case _:
                assert_never(result)

    def _completed(self, finish: Finish) -> Completed:
        answer = self.answer()
        self.channel.event(events.MessageEnd(answer.usage.as_dict(), finish.reason))
        return Completed(answer, finish.reason)

    def _stopped(self, reason: StopReason) -> Stopped:
        self.stop_observed_at = monotonic()
        self.channel.event(events.StopRequested(reason))
        return Stopped(self.answer(), reason)

    def _explained(self, broken: Broken) -> str:
        """Return the fault in words; what is too long, if nothing could be left out any more."""
        if broken.fault is not Fault.CONTEXT_TOO_LONG or self._fitting is None:
            return broken.detail
        return self._fitting.why_too_long() or broken.detail

    # Wait and ask again.

    def _is_asked_otherwise(self, result: Result) -> bool:
        """Return whether the provider refused the prompt, before any text, and another one is ready to be sent."""
        if self._fitting is None or not isinstance(result, Broken) or self._consumption.deltas:
            if self._fitting is not None and not isinstance(result, Abandoned):
                self._fitting.taken()
            return False
        if result.may_repeat:
            return False  # it was not the prompt
        prompt = self._fitting.again(result.fault, result.told)
        if prompt is None:
            return False
        self._ask_shorter(prompt, result.fault, self._fitting.left_out())
        return True

    def _is_asked_without_unanswered(self, outcome: Outcome) -> bool:
        """Return whether the last try failed by what may be earlier questions, and a prompt without them is ready.

        Moderation answers with 403, a filter with an error in the stream, and a server that a prompt breaks with 500:
        nothing tells these from faults of the provider, and a question that causes one would fail all later ones.
        """
        if self._fitting is None or not isinstance(outcome, Failed) or self._consumption.deltas:
            return False
        if outcome.fault not in _PERHAPS_REFUSALS:
            return False
        if outcome.retry_after_ms is not None:
            return False  # it says itself what it is
        prompt = self._fitting.without_unanswered()
        if prompt is None or not self._retries.budget.take():
            return False
        self._ask_shorter(prompt, outcome.fault, self._fitting.left_out())
        return True

    def _ask_shorter(self, prompt: Prompt, fault: Fault, left_out: int) -> None:
        self._consumption.end_call(self._provider.capabilities)
        self._question = prompt
        self._prompt = continued(prompt, self._draft.prefix) if self._draft.prefix else prompt
        self._draft.history_trimmed = left_out
        _log.info(
            "the prompt is sent again without old turns",
            extra={"fault": fault.value, "history_trimmed": left_out},
        )

    def _is_prefix_refused(self, outcome: Outcome) -> TypeGuard[Failed]:
        return (
            bool(self._draft.prefix)
            and not self._consumption.deltas
            and isinstance(outcome, Failed)
            and outcome.fault in _UNCONTINUABLE
            and not outcome.may_repeat
        )

    def _answer_anew(self, fault: Fault) -> None:
        """Declare void the text that the provider refused to continue, and ask the question without it."""
        self._consumption.end_call(self._provider.capabilities)
        self._prompt = self._question
        self._draft.begin_anew(fault)

    def _wait_before_retry(self, outcome: Outcome, tries: int) -> float | None:
        """Return the seconds until the next try; None once text was shown, or if no retry can help."""
        if not isinstance(outcome, Failed) or self._consumption.deltas:
            return None
        return self._retries.wait_before(
            outcome.fault,
            tries=tries,
            retry_after_ms=outcome.retry_after_ms,
            may_repeat=outcome.may_repeat,
            seconds_left=self._limits.deadline - monotonic(),
        )

    async def _or_requeued(self, outcome: Outcome) -> Outcome:
        """If the text broke off and another attempt is allowed, wait and leave it to that attempt."""
        if not isinstance(outcome, Failed) or not outcome.is_passing or not self._consumption.deltas:
            return outcome
        if self._attempts is None or not self._breaker.is_closed():
            return outcome
        wait = self._retries.wait_before_attempt(
            outcome.fault,
            attempts=self._attempts,
            retry_after_ms=outcome.retry_after_ms,
            seconds_left=self._limits.deadline - monotonic(),
        )
        if wait is None:
            return outcome
        _log.info("the turn is tried again", extra={"after_seconds": round(wait, 3)})
        await self._sleep(wait)
        if self.is_fenced:
            return Fenced()
        if self.stop_reason is not None:
            return self._stopped(self.stop_reason)
        return Requeued(outcome.answer, fault=outcome.fault, said=outcome.said)

    async def _sleep(self, seconds: float) -> None:
        """Wait; a stop, a fence or the worker's end cuts the wait short."""
        if self.is_fenced or self.is_handed_back or self.stop_reason is not None:
            return  # it came as the round ended, when there was no wait to cancel yet
        self._waiting = asyncio.create_task(asyncio.sleep(seconds))
        await asyncio.wait({self._waiting})

    def _wake(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()

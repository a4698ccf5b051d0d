"""A turn's life in a worker: claim, stream, settle, tell.

The Celery task's thread runs these steps and talks to PostgreSQL; the network part is handed to the
loop, so a thousand turns need no thousand sockets in threads. Doorbells wake idle threads only: one that
has settled a turn takes the next by itself.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from threading import Event
from time import monotonic
from typing import Any, Final, assert_never
from uuid import UUID

from sqlalchemy import Row

from shared import failpoints
from shared.configuration.settings import Settings
from shared.errors import Fault, UnavailableError
from shared.failpoints import Failpoint
from shared.observing.logs import log_ids
from shared.postgres.database import Database
from shared.tracing.span import Recorder
from shared.turn.events import EventType
from shared.turn.events_of_turn import accept_events, done_event
from shared.turn.turns import TERMINAL, Recovery, StopReason, TurnStatus
from worker.metrics import WorkerMetrics
from worker.process.admission import Admission
from worker.providers.provider import Prompt, Provider
from worker.publishing.channel import Channel
from worker.publishing.publisher import Publisher
from worker.recovery.aborts import AbortWatcher
from worker.recovery.leases import LeaseKeeper
from worker.traces import AttemptTrace, trace_of
from worker.turn.allowance import Allowance
from worker.turn.attempt import Attempt
from worker.turn.breaker import Breaker
from worker.turn.claim import Claim, claim_next_turn
from worker.turn.continuation import is_continued
from worker.turn.outcome import NOTHING, Completed, Failed, Fenced, Outcome, Requeued, Stopped
from worker.turn.prompt import PromptRefusedError, build_prompt
from worker.turn.retry import Retries, RetryBudget
from worker.turn.settle import Ending, Settlement, UnpayableError, error_of, lost, settle, settled_row

_log = logging.getLogger("turnkeeper.runner")

_LOOP_GRACE_SECONDS: Final = 30.0
"""How much longer than the turn's deadline the thread waits for the loop before it gives the turn up."""
_UNHEARD_SECONDS: Final = 30.0
"""How long all threads of a busy worker go on without a doorbell before one of them goes back to listen for
some: well below what makes a worker count as deaf."""
_STEPS_AT_ONCE: Final = 2
"""Transactions of turns at the same time: more would only take the interpreter from the loop that streams."""
_SETTLE_RETRY_SECONDS: Final = 0.2
_TOLD_SECONDS: Final = 5.0
_SHOWN_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class _Ended:
    """An attempt that ended and is not yet settled."""

    outcome: Outcome
    channel: Channel
    settlement: Settlement
    trace: AttemptTrace


class Runner:
    """Runs turns; `run` is called in any number of threads at once.

    Args:
        settings: The configuration.
        worker_id: Who claims.
        database: The pool for claims and settlements.
        provider: Who answers.
        publisher: Where events go.
        leases: Renews what is claimed.
        aborts: Tells of stops.
        loop: Where the network part runs.
        ring: Sends a doorbell, given turn and trace context: for what is handed back.
        metrics: Where turns and attempts are counted.
        recorder: Where their spans go; None where traces are off.
    """

    def __init__(
        self,
        settings: Settings,
        worker_id: UUID,
        database: Database,
        provider: Provider,
        publisher: Publisher,
        leases: LeaseKeeper,
        aborts: AbortWatcher,
        loop: asyncio.AbstractEventLoop,
        ring: Callable[[str, str], None],
        metrics: WorkerMetrics,
        recorder: Recorder | None = None,
    ) -> None:
        """Keep the parts."""
        self._ring = ring
        self._metrics = metrics
        self._recorder = recorder
        self._settings = settings
        self._worker_id = worker_id
        self._database = database
        self._provider = provider
        self._publisher = publisher
        self._leases = leases
        self._aborts = aborts
        self._loop = loop
        self._admission = Admission(
            loop, steps_at_once=_STEPS_AT_ONCE, patience_seconds=settings.lease_seconds
        )
        self._draining = Event()
        self._heard_at = monotonic()
        jitter = Random()  # noqa: S311 -- spreads retries, guards nothing
        self._retries = Retries(jitter.random, RetryBudget(monotonic))
        self._breaker = Breaker(monotonic, settings.provider.breaker_seconds)
        metrics.look_at(publisher, self._breaker, leases, settings.worker_turns)

    def drain(self) -> None:
        """Claim nothing more; what a doorbell still brings is rung for again by a sweeper."""
        self._draining.set()

    def run(self, turn_id: UUID, traceparent: str) -> None:
        """Run a turn, and go on while this thread is needed; nothing is raised that a retry could mend.

        A thread goes on for the next turn of the session, which nobody has rung for yet, and while the
        worker has no other thread free that could hear a doorbell.

        Args:
            turn_id: The turn that the doorbell named; another may be more entitled.
            traceparent: Its trace context.
        """
        self._heard_at = monotonic()
        hint: UUID | None = turn_id
        takes_more = True
        while takes_more and not self._draining.is_set():
            with self._admission.step(self._leases.running()):
                asked_at = monotonic()
                claim = self._claim(hint)
            if claim is None:
                return
            self._metrics.claimed(claim.row)
            failpoints.reach(Failpoint.AFTER_CLAIM)
            of_hint = traceparent if claim.turn_id == hint else ""
            trace = trace_of(self._recorder, claim, of_hint or claim.row.traceparent, asked_at)
            with log_ids(turn_id=claim.turn_id, session_id=claim.row.session_id, attempt=str(claim.attempt)):
                try:
                    takes_more = self._run(claim, trace, asked_at)
                except Exception:  # noqa: BLE001 -- logged here, where the turn is known; a sweeper takes it up
                    _log.exception("an attempt failed")
                    return
                finally:
                    trace.close()
            hint = None
            if self._draining.is_set() or self._is_to_listen():
                # What may go on now, such as the next turn of the session, is for whoever hears this.
                self._ring(str(claim.turn_id), "")
                return

    def _is_to_listen(self) -> bool:
        """Say whether this thread is the one that goes back to listen."""
        now = monotonic()
        if now - self._heard_at < _UNHEARD_SECONDS:
            return False
        self._heard_at = now  # the others go on; should two get here at once, both listen
        return True

    def _claim(self, hint: UUID | None) -> Claim | None:
        try:
            return claim_next_turn(
                self._database,
                self._worker_id,
                hint,
                lease_seconds=self._settings.lease_seconds,
                context_tokens=self._settings.context_tokens,
            )
        except UnavailableError as error:
            _log.warning("no turn was claimed: %s", error)
            return None  # what waits stays queued, the sweeper rings again

    def _run(self, claim: Claim, trace: AttemptTrace, asked_at: float) -> bool:
        """Run a claimed turn; say whether this thread is to take another."""
        prompt, trimmed, refused = self._prompt(claim, trace.traceparent)
        work = self._stream(claim, prompt, trimmed, refused, asked_at, trace)
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            ended = future.result(timeout=max(0.0, claim.row.seconds_left) + _LOOP_GRACE_SECONDS)
        except BaseException:
            # Whatever went wrong, a lease that is renewed for nobody would keep the turn for ever (I1).
            self._give_up(claim)
            raise
        self._metrics.attempt_ended(ended.outcome)
        trace.ended(ended.outcome)
        is_needed = self._leases.running() >= self._settings.worker_turns
        try:
            match ended.outcome:
                case Fenced():
                    _log.warning("the lease was lost; nothing is written")
                case Requeued():
                    self._hand_back(claim, ended, ended.outcome)
                    return False  # another worker's
                case Completed() | Stopped() | Failed() as ending:
                    is_needed = self._finish(ended, ending) or is_needed
                case _:
                    assert_never(ended.outcome)
        finally:
            self._leases.release(claim.turn_id, claim.attempt)
        return is_needed

    def _give_up(self, claim: Claim) -> None:
        """Let the lease run out, so that a sweeper takes the turn up."""
        attempt = self._leases.attempt_of(claim.turn_id)
        self._leases.release(claim.turn_id, claim.attempt)
        if attempt is not None:
            self._loop.call_soon_threadsafe(attempt.fence)

    def _prompt(self, claim: Claim, traceparent: str | None) -> tuple[Prompt, int, Failed | None]:
        row = claim.row
        try:
            prompt, trimmed = build_prompt(
                claim.history,
                system=row.system_prompt,
                max_output_tokens=row.max_output_tokens,
                context_tokens=self._settings.context_tokens,
                traceparent=traceparent,
            )
        except PromptRefusedError as error:
            nothing = Prompt((), None, row.max_output_tokens)
            return nothing, 0, Failed(NOTHING, error.fault, error.detail)
        return prompt, trimmed + claim.dropped_turns, None

    async def _stream(
        self,
        claim: Claim,
        prompt: Prompt,
        trimmed: int,
        refused: Failed | None,
        asked_at: float,
        trace: AttemptTrace,
    ) -> _Ended:
        """Run the attempt in the loop; `asked_at` is when the claim was asked for, by our monotonic clock."""
        row = claim.row
        is_again = claim.attempt > 1
        stands = is_again and await self._publisher.take_over(row.session_id, claim.turn_id, claim.attempt)
        last = await self._publisher.open(row.session_id, claim.turn_id, accept_events(row))
        attempt: Attempt | None = None

        def fence() -> None:
            if attempt is not None:
                attempt.fence()

        def showed_text() -> None:
            self._metrics.showed_text(row, asked_at)
            trace.showed_text()

        told = max(row.last_seq, row.checkpoint_seq or 0)
        channel = self._publisher.channel(
            row.session_id, claim.turn_id, claim.attempt, max(last, told), row.answer_id, fence
        )
        prefix = self._prefix(row)
        if prefix:
            channel.go_on_from(prefix, is_in_log=last == told)
        attempt = Attempt(
            self._provider,
            channel,
            prompt,
            str(row.answer_id),
            float(row.seconds_left),
            self._retries,
            self._breaker,
            attempts=None if row.recovery == Recovery.FAIL else claim.attempt - row.handed_back,
            prefix=prefix,
            allowance=self._allowance(row),
            on_first_text=showed_text,
        )
        self._leases.hold(row.session_id, claim.turn_id, claim.attempt, attempt)
        if monotonic() - asked_at > self._settings.lease_trust_seconds:
            attempt.fence()  # this process slept since: the lease may be another's by now (I3)
        self._aborts.check([(row.session_id, claim.turn_id)])
        is_void = bool(row.kept_text) or stands or (is_again and last < row.last_seq)
        if is_void and not prefix:
            # Kept and not continued, told late by a dead worker, or the reset was lost: this attempt's text must not
            # follow it (I5).
            channel.event(EventType.MESSAGE_RESET, {"reason": Fault.WORKER_LOST.value})
        channel.event(
            EventType.TURN_STARTED, {"provider": self._provider.name, "model": self._provider.model}
        )
        if refused is not None:
            outcome: Outcome = replace(refused, answer=replace(refused.answer, content=prefix))
        else:
            outcome = await attempt.run()
        channel.end()
        return _Ended(outcome, channel, _settlement(claim, attempt, outcome, trimmed), trace)

    def _allowance(self, row: Row[Any]) -> Allowance | None:
        if row.hold_usd is None:
            return None
        return Allowance(self._settings.provider, row.hold_usd, self._settings.context_tokens)

    def _prefix(self, row: Row[Any]) -> str:
        """Return the text to continue; empty when there is none, or this provider cannot."""
        return row.kept_text or "" if self._provider.capabilities.continuation else ""

    def _finish(self, ended: _Ended, ending: Ending) -> bool:
        """Settle, then tell; `done` comes after the commit. Say whether the session's next turn waits."""
        failpoints.reach(Failpoint.BEFORE_SETTLE)
        row = self._settle(ended.settlement, ending, ended.trace)
        if row is None:
            _log.warning("the claim was lost before it was settled; nothing is written")
            self._metrics.leases_lost.add()
            self._loop.call_soon_threadsafe(ended.channel.discard)
            return False
        failpoints.reach(Failpoint.AFTER_SETTLE)
        _log.info("a turn ended", extra={"status": row.status, "cost_usd": str(row.cost_usd)})
        content = "" if row.dropped else ending.answer.content  # a newer turn rolled it back
        told = asyncio.run_coroutine_threadsafe(self._tell(ended.channel, ending, row, content), self._loop)
        told.result(timeout=_TOLD_SECONDS)
        return bool(row.has_next)

    def _hand_back(self, claim: Claim, ended: _Ended, requeued: Requeued) -> None:
        """Give the turn to its next attempt at once; a turn that asked for it ends with what was shown."""
        answer = requeued.answer
        has_text = bool(answer.content or answer.reasoning)
        if has_text and claim.row.recovery == Recovery.FAIL:
            last_seq = ended.settlement.last_seq + 1  # `error` comes before `done`
            self._finish(
                replace(ended, settlement=replace(ended.settlement, last_seq=last_seq)), lost(answer)
            )
            return
        keeps_text = is_continued(answer, self._provider.capabilities)
        reset = requeued.fault if has_text and not keeps_text else None
        # The last number is that of the reset, or of what was told before it.
        told = ended.settlement.last_seq - (1 if reset is None else 0)
        settlement = replace(ended.settlement, last_seq=told)
        try:
            row = self._settle(settlement, replace(requeued, keeps_text=keeps_text), ended.trace)
        except UnpayableError:
            self._finish_stopped(ended, Stopped(answer, StopReason.BUDGET))
            return
        if row is None:
            # The row knows the real reason, and keeps it.
            self._finish_stopped(ended, Stopped(answer, StopReason.USER))
            return
        _log.info("a turn waits for its next attempt", extra={"fault": requeued.fault.value})
        told_all = asyncio.run_coroutine_threadsafe(self._tell_rest(ended.channel, reset), self._loop)
        told_all.result(timeout=_TOLD_SECONDS)
        self._ring(str(claim.turn_id), claim.row.traceparent)

    def _finish_stopped(self, ended: _Ended, stopped: Stopped) -> None:
        """End a turn that was to be handed back: it was asked to stop, or nobody pays for its next attempt.

        Nothing, when its lease was lost.
        """
        settlement = replace(ended.settlement, last_seq=ended.settlement.last_seq + 1)
        row = self._settle(settlement, stopped, ended.trace)
        if row is None:
            self._loop.call_soon_threadsafe(ended.channel.discard)
            return
        told = asyncio.run_coroutine_threadsafe(self._tell_stopped(ended.channel, stopped, row), self._loop)
        told.result(timeout=_TOLD_SECONDS)

    async def _tell_stopped(self, channel: Channel, stopped: Stopped, row: Row[Any]) -> None:
        channel.event(EventType.STOP_REQUESTED, {"stop_reason": row.stop_reason})
        await self._tell(channel, stopped, row, "" if row.dropped else stopped.answer.content)

    async def _tell_rest(self, channel: Channel, reset: Fault | None) -> None:
        if reset is not None:
            channel.event(EventType.MESSAGE_RESET, {"reason": reset.value})
        await channel.drained(_SHOWN_SECONDS)
        channel.discard()

    def _settle(self, settlement: Settlement, ending: Ending, trace: AttemptTrace) -> Row[Any] | None:
        """Write the outcome; while the lease is good, as often as it takes."""
        began_at = monotonic()
        row = self._settle_while_trusted(settlement, ending)
        trace.settled(row, began_at)
        return row

    def _settle_while_trusted(self, settlement: Settlement, ending: Ending) -> Row[Any] | None:
        is_repeated = False
        while True:
            try:
                with self._admission.step(self._leases.running() - 1):
                    row = settle(self._database, self._settings.provider, settlement, ending)
                if row is None and is_repeated:
                    row = self._own_earlier(settlement)
                if row is not None:
                    self._metrics.settled(row, ending)
                return row
            except UnavailableError as error:
                if not self._leases.is_trusted():
                    return None
                _log.warning("settling is tried again: %s", error)
                is_repeated = True
                Event().wait(_SETTLE_RETRY_SECONDS)

    def _own_earlier(self, settlement: Settlement) -> Row[Any] | None:
        """Return the row if an earlier try, whose answer was lost, had committed."""
        row = settled_row(self._database, settlement)
        is_ours = (
            TurnStatus(row.status) in TERMINAL
            and row.attempt == settlement.attempt
            and row.worker_id == self._worker_id
        )
        return row if is_ours else None

    async def _tell(self, channel: Channel, ending: Ending, row: Row[Any], content: str) -> None:
        error = error_of(ending)
        if error is not None:
            channel.event(EventType.ERROR, {"error": error})
        channel.encoded(row.last_seq, done_event(row, content))
        channel.close()


def _settlement(claim: Claim, attempt: Attempt, outcome: Outcome, trimmed: int) -> Settlement:
    now = monotonic()
    first, stopped = attempt.first_text_at, attempt.stop_observed_at
    return Settlement(
        organization_id=claim.organization_id,
        turn_id=claim.turn_id,
        attempt=claim.attempt,
        last_seq=attempt.channel.next_seq() + (1 if isinstance(outcome, Failed) else 0),
        history_trimmed=trimmed,
        first_token_ago_seconds=None if first is None else now - first,
        stop_observed_ago_seconds=None if stopped is None else now - stopped,
    )

"""A turn's life in a worker: claim, stream, settle, publish; then the next turn, or back to listening.

The Celery task's thread runs these steps and talks to PostgreSQL. The network part is handed to the
loop, so that a thousand turns do not need a thousand sockets in threads. Doorbells wake only idle threads: a thread
that has settled a turn claims the next by itself.
"""

import asyncio
import logging
from collections.abc import Callable
from random import Random
from threading import Event
from time import monotonic
from typing import Final, assert_never
from uuid import UUID

from shared import failpoints
from shared.errors import UnavailableError
from shared.failpoints import Failpoint
from shared.observing.logs import log_ids
from shared.turn.turns import StopReason
from worker.ending import Ended, Settler, settlement_of
from worker.opening import Opener, Question, question_of
from worker.process.admission import Admission
from worker.providers.choice import Choice
from worker.services import Services
from worker.traces import AttemptTrace, trace_of
from worker.turn.claim import Claim, ClaimedTurn, claim_next_turn, give_up_claim
from worker.turn.late_hold import take_late_hold
from worker.turn.outcome import Completed, Failed, Fenced, Outcome, Requeued, Stopped
from worker.turn.retry import Retries, RetryBudget

_log = logging.getLogger("turnkeeper.runner")

_LOOP_GRACE_SECONDS: Final = 30.0
"""How much longer than the turn's deadline the thread waits for the loop before it gives up the turn."""
_UNHEARD_SECONDS: Final = 30.0
"""How long all threads of a busy worker continue without a doorbell before one of them returns to listen:
well below the silence at which a worker counts as deaf."""
_STEPS_AT_ONCE: Final = 2
"""Concurrent transactions of turns: more would only take the interpreter from the loop that streams."""


class Runner:
    """Runs turns; `run` is called in any number of threads at once."""

    def __init__(self, services: Services) -> None:
        settings = services.settings
        self._services = services
        self._admission = Admission(
            services.loop, steps_at_once=_STEPS_AT_ONCE, patience_seconds=settings.lease_seconds
        )
        self._draining = Event()
        self._heard_at = monotonic()
        jitter = Random()  # noqa: S311 -- spreads retries, protects nothing
        self._opener = Opener(services, Retries(jitter.random, RetryBudget(monotonic)))
        self._settler = Settler(services, self._admission)
        breakers = [choice.breaker for choice in services.choices]
        services.metrics.look_at(services.publisher, breakers, services.leases, settings.worker_turns)
        services.metrics.look_at_contexts([choice.context for choice in services.choices])
        services.metrics.look_at_oddities([choice.oddities for choice in services.choices])

    def drain(self) -> None:
        """Stop claiming; if another doorbell arrives, a sweeper rings again for its turn."""
        self._draining.set()

    def run(self, turn_id: UUID, traceparent: str) -> None:
        """Run a turn, and continue while this thread is needed; raises nothing that a retry could mend.

        A thread continues for the next turn of the session, for which nobody has rung yet, while the worker has no
        other free thread that could receive a doorbell or one organization may hold no more of them, and while
        doorbells cannot be relied on.

        Args:
            turn_id: The turn that the doorbell named; another may be more entitled.
            traceparent: Its trace context.
        """
        self._heard_at = monotonic()
        self._take(turn_id, traceparent, _nobody)

    def take(self, answered: Callable[[bool], None]) -> None:
        """Run the turn that is next, for which no doorbell was heard; as `run`.

        Args:
            answered: Is told, before the turn runs, whether there was one.
        """
        self._take(None, "", answered)

    def _take(self, hint: UUID | None, traceparent: str, answered: Callable[[bool], None]) -> None:
        services = self._services
        takes_more = True
        while takes_more and not self._draining.is_set():
            with self._admission.step(services.leases.running()):
                asked_at = monotonic()
                claim = self._claim(hint)
            answered(claim is not None)
            answered = _nobody
            if claim is None:
                return
            turn = claim.turn
            services.metrics.claimed(turn)
            failpoints.reach(Failpoint.AFTER_CLAIM)
            of_hint = traceparent if turn.id == hint else ""
            trace = trace_of(services.recorder, turn, of_hint or turn.traceparent, asked_at)
            with log_ids(turn_id=turn.id, session_id=turn.session_id, attempt=str(turn.attempt)):
                try:
                    takes_more = self._run(claim, trace, asked_at)
                except Exception:  # noqa: BLE001 -- logged here, where the turn is known; a sweeper takes it up
                    _log.exception("an attempt failed")
                    return
                finally:
                    trace.close()
            hint = None
            if self._draining.is_set() or self._is_to_listen():
                # Whichever worker receives this takes what can run now, such as the next turn of the session.
                services.ring(str(turn.id), "")
                return

    def _is_to_listen(self) -> bool:
        """Return whether this thread is the one that returns to listen."""
        now = monotonic()
        if now - self._heard_at < _UNHEARD_SECONDS:
            return False
        self._heard_at = now  # the others continue; if two get here at once, both listen
        return True

    def _claim(self, hint: UUID | None) -> Claim | None:
        services = self._services
        try:
            return claim_next_turn(
                services.database,
                services.worker_id,
                hint,
                lease_seconds=services.settings.lease_seconds,
                context_tokens=services.settings.context_tokens,
                most_of_one=services.settings.most_turns_of_one,
            )
        except UnavailableError as error:
            _log.warning("no turn was claimed: %s", error)
            return None  # waiting turns stay queued, and the sweeper rings again

    def _run(self, claim: Claim, trace: AttemptTrace, asked_at: float) -> bool:
        """Run a claimed turn; return whether this thread is to take another."""
        services, turn = self._services, claim.turn
        choice = services.choices.choose(turn)
        question = question_of(
            claim,
            choice.provider.capabilities,
            services.settings.context_tokens,
            trace.traceparent,
            choice.context,
        )
        paid = self._paid(turn, choice, question)
        work = self._stream(paid or turn, choice, question, asked_at, trace, is_paid=paid is not None)
        future = asyncio.run_coroutine_threadsafe(work, services.loop)
        try:
            ended = future.result(timeout=max(0.0, turn.seconds_left) + _LOOP_GRACE_SECONDS)
        except BaseException:
            # Whatever went wrong, a lease renewed for nobody would hold the turn for ever (I1).
            self._give_up(turn)
            raise
        if ended is None:
            self._leave_to_sweeper(turn)
            return True
        services.metrics.attempt_ended(ended.outcome)
        trace.ended(ended.outcome)
        # Also where one organization holds all it may: the rest of the threads wait for turns of others.
        is_needed = services.must_ask() or services.leases.running() >= services.settings.most_turns_of_one
        try:
            match ended.outcome:
                case Fenced():
                    _log.warning("the lease was lost; nothing is written")
                case Requeued() as requeued:
                    self._settler.hand_back(ended, requeued)
                    return False  # another worker's
                case Completed() | Stopped() | Failed() as ending:
                    is_needed = self._settler.finish(ended, ending) or is_needed
                case _:
                    assert_never(ended.outcome)
        finally:
            services.leases.release(turn.id, turn.attempt)
        return is_needed

    def _paid(self, turn: ClaimedTurn, choice: Choice, question: Question) -> ClaimedTurn | None:
        """Return the turn with a hold if there is a budget; None if that pays for no answer (I6)."""
        if not turn.needs_hold or question.refused is not None:
            return turn
        services = self._services
        with self._admission.step(services.leases.running()):
            return take_late_hold(
                services.database, choice.settings, turn, question.prompt, services.settings.context_tokens
            )

    async def _stream(
        self,
        turn: ClaimedTurn,
        choice: Choice,
        question: Question,
        asked_at: float,
        trace: AttemptTrace,
        *,
        is_paid: bool,
    ) -> Ended | None:
        """Run the attempt in the loop; None if nothing may run, because the turn's log is ahead of its row.

        `asked_at` is when the claim was requested, by our monotonic clock.
        """
        attempt = await self._opener.open(turn, choice, question, asked_at, trace)
        if attempt is None:
            return None
        if not is_paid:
            attempt.stop(StopReason.BUDGET)  # before its first call
        outcome: Outcome = question.refused or await attempt.run()
        attempt.channel.end()
        settlement = settlement_of(turn, attempt, outcome, question.trimmed)
        return Ended(turn, choice, outcome, attempt.channel, settlement, trace)

    def _leave_to_sweeper(self, turn: ClaimedTurn) -> None:
        """Have the sweeper settle or requeue a turn whose log knows more than its row (`worker.recovery.told_end`)."""
        services = self._services
        _log.warning("a turn's log is ahead of its row: the database has lost its last commits")
        if (forgotten := services.leases.attempt_of(turn.id)) is not None:
            # It runs here, by a claim that was lost.
            services.loop.call_soon_threadsafe(forgotten.fence)
        try:
            give_up_claim(services.database, turn, services.worker_id)
        except UnavailableError as error:
            _log.warning("the turn is taken up once its lease has run out: %s", error)

    def _give_up(self, turn: ClaimedTurn) -> None:
        """Let the lease run out, so that a sweeper recovers the turn."""
        services = self._services
        attempt = services.leases.attempt_of(turn.id)
        services.leases.release(turn.id, turn.attempt)
        if attempt is not None:
            services.loop.call_soon_threadsafe(attempt.fence)


def _nobody(_is_found: bool) -> None:
    """Nobody waits for the answer: a doorbell was heard, or this thread went on by itself."""

"""Settles a turn whose attempt ended: the outcome is written first and published afterwards.

A turn whose attempt ends without an outcome of its own is handed back: its next attempt may begin at once.
"""

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from threading import Event
from time import monotonic
from typing import Final

from shared import failpoints
from shared.errors import Fault, UnavailableError
from shared.failpoints import Failpoint
from shared.turn.events import MessageReset, TurnError
from shared.turn.events_of_turn import done_event, stop_requested
from shared.turn.turns import Recovery, StopReason
from worker.process.admission import Admission
from worker.providers.choice import Choice
from worker.providers.provider import Capabilities
from worker.publishing.channel import Channel
from worker.services import Services
from worker.traces import AttemptTrace
from worker.turn.attempt import Attempt
from worker.turn.claim import ClaimedTurn
from worker.turn.continuation import is_continued
from worker.turn.moved import SettledTurn
from worker.turn.outcome import Failed, Outcome, Requeued, Stopped
from worker.turn.settle import Ending, Settlement, UnpayableError, error_of, lost, read_settled, settle

_log = logging.getLogger("turnkeeper.runner")

_SETTLE_RETRY_SECONDS: Final = 0.2
_SETTLE_SECONDS: Final = 60.0
"""For how long a settlement is tried although the leases are trusted no more. It is safe: the row says whether another
attempt has begun (I3). What is given up has been generated and paid for, and will be again."""
_LAST_SETTLE_SECONDS: Final = 5.0
"""The same in a process whose time to drain is over, trusted or not."""
_TOLD_SECONDS: Final = 5.0
_SHOWN_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Ended:
    """An attempt that ended and is not yet settled."""

    turn: ClaimedTurn
    choice: Choice
    outcome: Outcome
    channel: Channel
    settlement: Settlement
    trace: AttemptTrace


@dataclass(frozen=True, slots=True)
class HandedBack:
    """How a turn is given to its next attempt.

    Args:
        settlement: With the number of the last event that readers have then.
        ending: Says whether the text is kept.
        reset: The fault that makes the text void for readers; None if it is not void, or there is none.
    """

    settlement: Settlement
    ending: Requeued
    reset: Fault | None


def settlement_of(turn: ClaimedTurn, attempt: Attempt, outcome: Outcome, trimmed: int) -> Settlement:
    """Return what settling needs of an attempt whose channel has ended, besides the outcome.

    Args:
        turn: As it was claimed.
        attempt: Has the last number and the times.
        outcome: How it ended.
        trimmed: Earlier turns that were left out of the prompt.
    """
    now = monotonic()
    first, stopped = attempt.first_text_at, attempt.stop_observed_at
    return Settlement(
        organization_id=turn.organization_id,
        turn_id=turn.id,
        attempt=turn.attempt,
        last_seq=attempt.channel.next_seq() + (1 if isinstance(outcome, Failed) else 0),
        history_trimmed=trimmed,
        first_token_ago_seconds=None if first is None else now - first,
        stop_observed_ago_seconds=None if stopped is None else now - stopped,
        quote=turn.quote(),
    )


def ends_instead(turn: ClaimedTurn, requeued: Requeued) -> bool:
    """Return whether a turn with `recovery: fail` ends with the text that was shown, instead of being handed back."""
    return _has_text(requeued) and turn.recovery == Recovery.FAIL


def handed_back(settlement: Settlement, requeued: Requeued, capabilities: Capabilities) -> HandedBack:
    """Return how a turn waits for its next attempt.

    Args:
        settlement: With the number that the attempt's next event would have.
        requeued: What the attempt produced.
        capabilities: The provider's: whether it can continue a text.
    """
    keeps_text = is_continued(requeued.answer, capabilities)
    reset = requeued.fault if _has_text(requeued) and not keeps_text else None
    # The last number is that of the reset, or of the event before it.
    told = settlement.last_seq - (1 if reset is None else 0)
    return HandedBack(replace(settlement, last_seq=told), replace(requeued, keeps_text=keeps_text), reset)


async def tell_end(channel: Channel, ending: Ending, turn: SettledTurn) -> None:
    """Publish how the turn ended, after the events so far."""
    error = error_of(ending)
    if error is not None:
        channel.event(TurnError(error))
    content = "" if turn.dropped else ending.answer.content  # a newer turn rolled it back
    channel.encoded(turn.last_seq, done_event(turn, content))
    channel.close()


async def tell_stop(channel: Channel, stopped: Stopped, turn: SettledTurn) -> None:
    """Publish a stop that the attempt did not know of, and the end."""
    channel.event(stop_requested(turn))
    await tell_end(channel, stopped, turn)


async def tell_reset(channel: Channel, reset: Fault | None) -> None:
    """Publish the last events of an attempt that another one follows."""
    if reset is not None:
        channel.event(MessageReset(reset))
    await channel.drained(_SHOWN_SECONDS)
    channel.discard()


class Settler:
    """Settles attempts, in the threads of their tasks.

    Args:
        parts: What turns are run with.
        admission: Spaces the settlements.
    """

    def __init__(self, services: Services, admission: Admission) -> None:
        self._services = services
        self._admission = admission

    def finish(self, ended: Ended, ending: Ending) -> bool:
        """Settle, then publish: `done` follows the commit. Return whether the session's next turn is waiting."""
        failpoints.reach(Failpoint.BEFORE_SETTLE)
        turn = self._settle(ended, ended.settlement, ending)
        if turn is None:
            _log.warning("the claim was lost before it was settled; nothing is written")
            self._services.metrics.leases_lost.add()
            self._services.loop.call_soon_threadsafe(ended.channel.discard)
            return False
        failpoints.reach(Failpoint.AFTER_SETTLE)
        _log.info("a turn ended", extra={"status": turn.status, "cost_usd": str(turn.cost_usd)})
        self._in_loop(tell_end(ended.channel, ending, turn))
        return turn.has_next

    def hand_back(self, ended: Ended, requeued: Requeued) -> None:
        """Leave the turn to its next attempt at once; with `recovery: fail` it ends with the text that was shown."""
        if ends_instead(ended.turn, requeued):
            # `error` comes before `done`.
            self.finish(_one_event_more(ended), lost(requeued.answer))
            return
        back = handed_back(ended.settlement, requeued, ended.choice.provider.capabilities)
        try:
            turn = self._settle(ended, back.settlement, back.ending)
        except UnpayableError:
            self._finish_stopped(ended, Stopped(requeued.answer, StopReason.BUDGET))
            return
        if turn is None:
            # The row knows the real reason, and keeps it.
            self._finish_stopped(ended, Stopped(requeued.answer, StopReason.USER))
            return
        _log.info("a turn waits for its next attempt", extra={"fault": requeued.fault.value})
        self._in_loop(tell_reset(ended.channel, back.reset))
        self._services.ring(str(ended.turn.id), ended.turn.traceparent)

    def _finish_stopped(self, ended: Ended, stopped: Stopped) -> None:
        """End a turn that was to be handed back: a stop was requested, or its budget does not pay for another attempt.

        Does nothing if its lease was lost.
        """
        turn = self._settle(ended, _one_event_more(ended).settlement, stopped)
        if turn is None:
            self._services.loop.call_soon_threadsafe(ended.channel.discard)
            return
        self._in_loop(tell_stop(ended.channel, stopped, turn))

    def _settle(self, ended: Ended, settlement: Settlement, ending: Ending) -> SettledTurn | None:
        """Write the outcome, retrying while PostgreSQL is away."""
        began_at = monotonic()
        turn = self._settle_while_possible(ended.choice, settlement, ending)
        ended.trace.settled(turn, began_at)
        return turn

    def _settle_while_possible(
        self, choice: Choice, settlement: Settlement, ending: Ending
    ) -> SettledTurn | None:
        services, is_repeated, began_at = self._services, False, monotonic()
        while True:
            try:
                with self._admission.step(services.leases.running() - 1):
                    turn = settle(services.database, choice.settings, settlement, ending)
                if turn is None and is_repeated:
                    turn = self._own_earlier(settlement)
                if turn is not None:
                    services.metrics.settled(turn, ending)
                return turn
            except UnavailableError as error:
                if self._gives_up(monotonic() - began_at):
                    return None
                _log.warning("settling is tried again: %s", error)
                is_repeated = True
                Event().wait(_SETTLE_RETRY_SECONDS)

    def _gives_up(self, tried_seconds: float) -> bool:
        leases = self._services.leases
        if leases.has_handed_back():
            return tried_seconds >= _LAST_SETTLE_SECONDS
        return tried_seconds >= _SETTLE_SECONDS and not leases.is_trusted()

    def _own_earlier(self, settlement: Settlement) -> SettledTurn | None:
        """Return the turn if an earlier try, whose reply was lost, had committed."""
        turn = read_settled(self._services.database, settlement)
        is_ours = (
            turn.is_over()
            and turn.attempt == settlement.attempt
            and turn.worker_id == self._services.worker_id
        )
        return turn if is_ours else None

    def _in_loop(self, telling: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(telling, self._services.loop).result(timeout=_TOLD_SECONDS)


def _one_event_more(ended: Ended) -> Ended:
    last_seq = ended.settlement.last_seq + 1
    return replace(ended, settlement=replace(ended.settlement, last_seq=last_seq))


def _has_text(requeued: Requeued) -> bool:
    return bool(requeued.answer.content or requeued.answer.reasoning)

"""Leads from a claim to a running attempt: the question, the log as found, the attempt, its lease, its first events.

The question is decided in the task's thread; everything after it belongs to the loop's thread.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from time import monotonic

from shared.errors import Fault
from shared.turn.events import MessageReset, TurnStarted
from shared.turn.events_of_turn import accept_events
from worker.providers.choice import Choice
from worker.providers.context import ContextMemory
from worker.providers.provider import Capabilities, Prompt
from worker.publishing.publisher import LastEntry
from worker.services import Services
from worker.traces import AttemptTrace
from worker.turn.attempt import Attempt
from worker.turn.claim import Claim, ClaimedTurn
from worker.turn.fitting import Fitting
from worker.turn.outcome import NOTHING, Failed
from worker.turn.prompt import History, PromptRefusedError
from worker.turn.retry import Retries


@dataclass(frozen=True, slots=True)
class Question:
    """What the provider is asked.

    Args:
        prompt: Without messages if it is refused.
        fitting: Made the prompt; None if it is refused.
        refused: How the turn ends if its history cannot be sent; else None.
    """

    prompt: Prompt
    fitting: Fitting | None = None
    refused: Failed | None = None

    @property
    def trimmed(self) -> int:
        """Earlier turns that are left out, as far as is known by now."""
        return 0 if self.fitting is None else self.fitting.left_out()


@dataclass(frozen=True, slots=True)
class FoundLog:
    """A turn's log as its attempt found it.

    Args:
        last_seq: The number of its last event; 0 if Redis did not answer.
        stands: Whether readers may have text of an earlier attempt that nothing has reset.
        is_ahead: Whether it knows of an attempt, or of an end, that the row does not know of: PostgreSQL has lost its
            last commits.
    """

    last_seq: int
    stands: bool
    is_ahead: bool = False


def question_of(
    claim: Claim,
    capabilities: Capabilities,
    context_tokens: int,
    traceparent: str | None,
    memory: ContextMemory,
) -> Question:
    """Return what to ask for a turn, or why nothing can be asked.

    Args:
        claim: The turn and its history.
        capabilities: The provider's.
        context_tokens: The most that prompt and answer may hold together.
        traceparent: Trace context for the provider.
        memory: What is known of the context of the provider's model.
    """
    turn = claim.turn
    try:
        fitting = Fitting(
            History(claim.history, system=turn.system_prompt, unread_tokens=claim.unread_tokens),
            turn.max_output_tokens,
            context_tokens,
            memory,
            turn.organization_id,
            unread_turns=claim.dropped_turns,
            traceparent=traceparent,
        )
    except PromptRefusedError as error:
        shown = replace(NOTHING, content=turn.prefix(capabilities))
        return Question(
            Prompt((), None, turn.max_output_tokens), refused=Failed(shown, error.fault, error.detail)
        )
    return Question(fitting.prompt, fitting)


def has_void_text(turn: ClaimedTurn, log: FoundLog) -> bool:
    """Return whether readers may have text that a new answer must not follow (I5).

    It was kept and not continued, published late by a dead worker, or its reset was lost.
    """
    return bool(turn.kept_text) or log.stands or (turn.is_again() and log.last_seq < turn.last_seq)


def is_ahead(turn: ClaimedTurn, last: LastEntry) -> bool:
    """Return whether a turn's log ends with what its row can never have known.

    Only the end itself, and events of this attempt or a later one, say so: a dead worker's own may be published late.
    """
    is_of_later = last.attempt > turn.attempt
    return last.is_done or is_of_later or (last.attempt == turn.attempt and last.seq > turn.told_seq())


class Opener:
    """Starts the attempt of a claimed turn, in the loop's thread.

    Args:
        services: What turns are run with.
        retries: Decides whether a failed call is repeated.
    """

    def __init__(self, services: Services, retries: Retries) -> None:
        self._services = services
        self._retries = retries

    async def open(
        self, turn: ClaimedTurn, choice: Choice, question: Question, asked_at: float, trace: AttemptTrace
    ) -> Attempt | None:
        """Return an attempt whose lease is renewed and whose start was published; None if the log is ahead of the row.

        Args:
            turn: As it was claimed.
            choice: The provider that answers it.
            question: What the provider is asked.
            asked_at: When the claim was requested, by the monotonic clock.
            trace: Notes the first text.
        """

        def showed_text() -> None:
            self._services.metrics.showed_text(turn, asked_at)
            trace.showed_text()

        log = await self.find_log(turn)
        if log.is_ahead:
            return None
        attempt = self.begin(turn, choice, question, log, showed_text)
        self.hold(turn, attempt, asked_at)
        self.announce(turn, choice, log, attempt)
        return attempt

    async def find_log(self, turn: ClaimedTurn) -> FoundLog:
        """Shut earlier attempts out of the turn's log, and start the log unless it exists (I3)."""
        publisher = self._services.publisher
        stands = turn.is_again() and await publisher.take_over(turn.session_id, turn.id, turn.attempt)
        last_seq = await publisher.open(turn.session_id, turn.id, accept_events(turn))
        last = None
        if turn.is_again() or last_seq > turn.told_seq():
            last = await publisher.last_entry(turn.session_id, turn.id)
        return FoundLog(last_seq, stands, is_ahead=last is not None and is_ahead(turn, last))

    def begin(
        self,
        turn: ClaimedTurn,
        choice: Choice,
        question: Question,
        log: FoundLog,
        on_first_text: Callable[[], None],
    ) -> Attempt:
        """Make the attempt and its channel, whose numbers follow those that readers may have (I4)."""
        services, told = self._services, turn.told_seq()

        def fence() -> None:
            attempt.fence()  # called later, on a reply of Redis

        channel = services.publisher.channel(
            turn.session_id,
            turn.id,
            turn.attempt,
            max(log.last_seq, told),
            turn.answer_id,
            fence,
            turn.organization_id,
        )
        prefix = turn.prefix(choice.provider.capabilities)
        if prefix:
            channel.go_on_from(prefix, is_in_log=log.last_seq == told)
        attempt = Attempt(
            choice.provider,
            channel,
            question.prompt,
            str(turn.answer_id),
            turn.seconds_left,
            self._retries,
            choice.breaker.of(turn.organization_id),
            attempts=turn.counted_attempts(),
            prefix=prefix,
            allowance=turn.allowance(choice.settings, services.settings.context_tokens),
            fitting=question.fitting,
            on_first_text=on_first_text,
        )
        return attempt

    def hold(self, turn: ClaimedTurn, attempt: Attempt, asked_at: float) -> None:
        """Have the lease renewed and stops looked for, including those requested before now."""
        services = self._services
        services.leases.hold(turn.session_id, turn.id, turn.attempt, attempt)
        if monotonic() - asked_at > services.settings.lease_trust_seconds:
            attempt.fence()  # this process was suspended meanwhile: the lease may be another's by now (I3)
        services.aborts.check([(turn.session_id, turn.id)])

    def announce(self, turn: ClaimedTurn, choice: Choice, log: FoundLog, attempt: Attempt) -> None:
        """Publish that the attempt begins, after the reset of any text that it makes void."""
        provider = choice.provider
        if has_void_text(turn, log) and not turn.prefix(provider.capabilities):
            # This attempt's text must not follow it (I5).
            attempt.channel.event(MessageReset(Fault.WORKER_LOST))
        attempt.channel.event(TurnStarted(provider.name, provider.model))

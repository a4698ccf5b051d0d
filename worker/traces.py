"""The spans of an attempt: its claim, its calls and its settling, below the span of its turn.

Without tracing an attempt has an `Untraced`, so the runner's steps are the same: four calls that do nothing for each
attempt, and none for each delta.
"""

from time import monotonic, time_ns
from typing import Final, Protocol, assert_never

from shared.tracing.context import TraceContext
from shared.tracing.span import Recorder, Span, known
from shared.tracing.turns import TURN_ID, context_of_turn, record_turn
from worker.turn.claim import ClaimedTurn
from worker.turn.moved import SettledTurn
from worker.turn.outcome import Completed, Failed, Fenced, Outcome, Requeued, Stopped

_NS: Final = 1_000_000_000


class AttemptTrace(Protocol):
    """Notes what happens to an attempt; every method may be called from any thread."""

    traceparent: str | None
    """The trace context that is sent to the provider."""

    def showed_text(self) -> None:
        """Note the first text."""

    def settled(self, turn: SettledTurn | None, began_at: float) -> None:
        """Note that settling is over: `turn` as it was written, `began_at` by the monotonic clock."""

    def ended(self, outcome: Outcome) -> None:
        """Note how the attempt ended."""

    def close(self) -> None:
        """Send what was noted; the attempt is over, however it ended."""


class Untraced:
    """An attempt without spans; the client's trace context is passed on to the provider unchanged."""

    __slots__ = ("traceparent",)

    def __init__(self, traceparent: str | None) -> None:
        self.traceparent = traceparent

    def showed_text(self) -> None:
        """Note nothing."""

    def settled(self, turn: SettledTurn | None, began_at: float) -> None:
        """Note nothing."""

    def ended(self, outcome: Outcome) -> None:
        """Note nothing."""

    def close(self) -> None:
        """Send nothing."""


class Traced:
    """An attempt whose spans are recorded.

    Args:
        recorder: Receives the spans.
        turn: As it was claimed.
        of_turn: The context of its turn's span.
        traceparent: From the turn's row.
        asked_at: When the claim was requested, by the monotonic clock.
    """

    def __init__(
        self, recorder: Recorder, turn: ClaimedTurn, of_turn: TraceContext, traceparent: str, asked_at: float
    ) -> None:
        self._recorder = recorder
        self._turn = turn
        self._of_turn = of_turn
        self._of_row = traceparent
        self._context = recorder.begin(of_turn)
        self.traceparent: str | None = self._context.traceparent()
        self._began_ns = _at(asked_at)
        self._first_text_ns: int | None = None
        self._outcome: Outcome | None = None
        recorder.record(self._part("claim", self._began_ns))

    def showed_text(self) -> None:
        """Note the first text."""
        self._first_text_ns = time_ns()

    def settled(self, turn: SettledTurn | None, began_at: float) -> None:
        """Record settling, and the turn where it ended."""
        self._recorder.record(self._part("settle", _at(began_at)))
        if turn is not None and turn.is_over():
            record_turn(self._recorder, turn, self._of_row)

    def ended(self, outcome: Outcome) -> None:
        """Note how the attempt ended."""
        self._outcome = outcome

    def close(self) -> None:
        """Record the attempt."""
        turn = self._turn
        self._recorder.record(
            Span(
                "attempt",
                self._context,
                self._of_turn,
                self._began_ns,
                time_ns(),
                attributes=known(
                    {
                        TURN_ID: str(turn.id),
                        "gen_ai.conversation.id": str(turn.session_id),
                        "turnkeeper.attempt.number": turn.attempt,
                        "turnkeeper.attempt.outcome": _name_of(self._outcome),
                    }
                ),
                events=() if self._first_text_ns is None else (("first_token", self._first_text_ns),),
                error=self._outcome.fault.value if isinstance(self._outcome, Failed) else "",
            )
        )

    def _part(self, name: str, began_ns: int) -> Span:
        return Span(name, self._recorder.begin(self._context), self._context, began_ns, time_ns())


def trace_of(recorder: Recorder | None, turn: ClaimedTurn, traceparent: str, asked_at: float) -> AttemptTrace:
    """Return the trace that notes an attempt's steps.

    Args:
        recorder: Receives spans; None if traces are off.
        turn: As it was claimed.
        traceparent: From the turn's row; empty for none.
        asked_at: When the claim was requested, by the monotonic clock.
    """
    if recorder is None:
        return Untraced(traceparent or None)
    of_turn = context_of_turn(recorder, turn.id, traceparent)
    if not of_turn.is_sampled:
        return Untraced(traceparent or None)
    return Traced(recorder, turn, of_turn, traceparent, asked_at)


def _at(moment: float) -> int:
    """Return a time of the monotonic clock in the form that spans use."""
    return time_ns() - int((monotonic() - moment) * _NS)


def _name_of(outcome: Outcome | None) -> str:
    match outcome:
        case None:
            return "lost"
        case Completed():
            return "completed"
        case Stopped():
            return "stopped"
        case Failed():
            return "failed"
        case Requeued():
            return "handed_back" if outcome.handed_back else "requeued"
        case Fenced():
            return "fenced"
        case _:
            assert_never(outcome)

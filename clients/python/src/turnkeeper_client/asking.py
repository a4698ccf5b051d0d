"""Operations of several calls: asking a question, following a turn by its id, waiting for its end, downloading."""

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from turnkeeper_client import calls
from turnkeeper_client.errors import (
    ConnectionFailedError,
    RateLimitedError,
    TimeLimitError,
    TurnkeeperError,
)
from turnkeeper_client.events import Done
from turnkeeper_client.exchange import Means, exchange, refusal_of
from turnkeeper_client.following import Follower, follow
from turnkeeper_client.line import OPEN_SECONDS, SILENCE_SECONDS, Line, Via
from turnkeeper_client.models import Answer, Turn
from turnkeeper_client.reading import Reading
from turnkeeper_client.retry import RetryPolicy
from turnkeeper_client.steps import (
    Closed,
    Heard,
    Lost,
    Open,
    Opened,
    Steps,
    Wire,
    emit,
    hear,
    open_stream,
    pause,
)
from turnkeeper_client.watching import Watcher, watch

TURN_SECONDS: Final = 900.0
"""The default limit for one turn: longer than a turn can live with the service's own defaults."""
DOWNLOAD_SECONDS: Final = 600.0
_HOLD_SECONDS: Final = 30


class TurnEndedError(TurnkeeperError):
    """The turn that was asked for failed or expired.

    Attributes:
        answer: The turn with its `error`, and the partial text that was stored.
    """

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        error = answer.turn.error or {}
        said = f": {error.get('code')}: {error.get('detail')}" if error else ""
        super().__init__(f"turn {answer.turn.id} {answer.turn.status}{said}")


@dataclass(frozen=True, slots=True)
class Question:
    """What `ask` asks; with `session_id` None it opens a session for `user`."""

    content: str
    session_id: str | None = None
    user: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Progress:
    """The progress of one streamed turn."""

    follower: Follower | None = None
    line: Line | None = None
    answer: Answer | None = None


class StreamState:
    """What is known about a turn while it is being streamed; `text` ends up as what the service stores."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    @property
    def turn_id(self) -> str | None:
        """The turn's id; None until it is posted."""
        return None if self._progress.follower is None else self._progress.follower.reading.turn_id

    @property
    def session_id(self) -> str | None:
        """Its session; None until that is known."""
        return None if self._progress.follower is None else self._progress.follower.session_id

    @property
    def text(self) -> str:
        """The answer's text so far. Once `done` has arrived, it is the stored text, checked by its SHA-256."""
        return self._reading().text

    @property
    def reasoning(self) -> str:
        """The thinking text so far."""
        return self._reading().reasoning

    @property
    def status(self) -> str:
        """The turn's status, according to its events so far."""
        return self._reading().status

    @property
    def seq(self) -> int:
        """The cursor: `stream_turn(turn, after=seq, text=text)` resumes here, even in another process."""
        return self._reading().seq

    @property
    def attempt(self) -> int:
        """The attempt of the last event."""
        return self._reading().attempt

    @property
    def message_id(self) -> str | None:
        """The answer's message."""
        return self._reading().message_id

    @property
    def done(self) -> Done | None:
        """The last event, with usage and cost; None until it arrives."""
        return self._reading().done

    @property
    def answer(self) -> Answer | None:
        """What `ask` would have returned; None before the end, or if this stream did not post the turn."""
        return self._progress.answer

    @property
    def connections(self) -> int:
        """How many connections have been opened so far."""
        return 0 if self._progress.line is None else self._progress.line.connections

    @property
    def mended(self) -> int:
        """How often the text differed from the service's and was fetched again."""
        return 0 if self._progress.follower is None else self._progress.follower.mended

    def _reading(self) -> Reading:
        return _NOTHING_READ if self._progress.follower is None else self._progress.follower.reading


_NOTHING_READ: Final = Reading("")


def ask(
    question: Question, progress: Progress, means: Means, via: Via, limit_seconds: float
) -> Steps[Answer]:
    """Post a question and emit its turn's events to the end; return the answer.

    Raises:
        TurnEndedError: The turn failed or expired.
        TurnkeeperError: As for `exchange` and `follow`.
    """
    ends_at = means.clock() + limit_seconds
    session_id = question.session_id
    if session_id is None:
        opening = calls.create_session(user=question.user)
        session_id = (yield from exchange(opening, means, _until(ends_at, means))).id
    posting = calls.create_turn(session_id, question.content, **question.options)
    posted = yield from exchange(posting, means, _until(ends_at, means))
    yield from follow_turn(posted, progress, means, via, _until(ends_at, means, "the turn goes on"))
    # The text is complete; the few fields that no event contains must not fail because the limit has just passed.
    turn = yield from exchange(calls.get_turn(posted.id), means)
    assert progress.follower is not None
    reading = progress.follower.reading
    progress.answer = Answer(reading.text, reading.reasoning, turn)
    if turn.status in {"failed", "expired"}:
        raise TurnEndedError(progress.answer)
    return progress.answer


def follow_turn(
    turn: Turn | str,
    progress: Progress,
    means: Means,
    via: Via,
    limit_seconds: float,
    after: int = 0,
    text: str | None = None,
) -> Steps[None]:
    """Emit a turn's events after `after`, up to which its text is `text`; `done` comes last; see `follow`."""
    progress.line = Line(means, via, limit_seconds)
    if isinstance(turn, str):
        turn = yield from exchange(
            calls.get_turn(turn), means, min(limit_seconds, means.policy.limit_seconds)
        )
    progress.follower = Follower(turn.session_id, Reading(turn.id, after, text))
    yield from follow(progress.follower, progress.line)


def watch_session(session_id: str, means: Means, via: Via, limit_seconds: float | None) -> Steps[None]:
    """Emit the events of a session's turns; see `watch`.

    Raises:
        ValueError: Server-sent events carry a single turn, not a session.
    """
    if via is Via.SSE:
        raise ValueError(
            "a session is streamed by websocket; stream its turns one by one over server-sent events"
        )
    by_websocket = Via.TICKET if via is Via.TICKET else Via.WEBSOCKET
    yield from watch(Watcher(session_id, means), Line(means, by_websocket, limit_seconds))


def wait_for_turn(turn_id: str, means: Means, limit_seconds: float) -> Steps[Turn]:
    """Return the turn once it has ended, without a stream.

    Raises:
        TimeLimitError: It has not ended within the limit; the turn goes on.
    """
    ends_at = means.clock() + limit_seconds
    while True:
        remaining = _until(ends_at, means, f"turn {turn_id} goes on")
        hold = min(_HOLD_SECONDS, int(remaining))
        most = remaining + means.policy.answer_seconds
        try:
            turn = yield from exchange(calls.get_turn(turn_id, wait_seconds=hold), means, most)
        except RateLimitedError as refused:
            if refused.members.get("scope") != "waits":
                raise
            # For as long as there is no place to wait, look.
            turn = yield from exchange(calls.get_turn(turn_id), means, most)
        if turn.is_over:
            return turn
        # A service that is being restarted answers at once.
        yield from pause(min(means.policy.first_pause_seconds, remaining))


def download(path: str, query: Mapping[str, str], accept: str, means: Means) -> Steps[None]:
    """Emit the bytes of a response that is too long for memory. If it breaks off, it is not started again.

    Raises:
        ApiError: It was refused.
        ConnectionFailedError: It broke off.
        TimeLimitError: It took longer than ten minutes.
    """
    ends_at = means.clock() + DOWNLOAD_SECONDS
    opened = yield from open_stream(
        Open(Wire.EVENTS, path, OPEN_SECONDS, SILENCE_SECONDS, query, {"Accept": accept})
    )
    if isinstance(opened, Lost):
        raise ConnectionFailedError(f"GET {path} failed: {opened.why}")
    if not isinstance(opened, Opened):
        raise refusal_of(opened)
    while True:
        piece = yield from hear(min(SILENCE_SECONDS, _until(ends_at, means, "the download is too long")))
        match piece:
            case Heard(bytes(data)):
                yield from emit(data)
            case Closed():
                return
            case _:
                raise ConnectionFailedError(f"GET {path} broke off")


def means_of(policy: RetryPolicy | None, clock: Callable[[], float] = time.monotonic) -> Means:
    """Return what a client's decisions depend on."""
    return Means(policy or RetryPolicy(), clock, random.Random())  # noqa: S311 -- spreads load, protects nothing


def _until(ends_at: float, means: Means, what: str = "it was not answered in time") -> float:
    remaining = ends_at - means.clock()
    if remaining <= 0:
        raise TimeLimitError(f"the time limit is over: {what}")
    return remaining

"""What a web or relay process counts, and what is looked at once a second."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from api.notices import Ended, Notice, Notices, Ring
from api.relay.hub import Hub
from shared.errors import ProblemCode, RefusedError
from shared.metrics import table
from shared.metrics.looking import looking_at_loop, looking_at_pool
from shared.metrics.tally import Tally
from shared.postgres.database import Database
from shared.turn.turns import TurnStatus

_CLASSES: Final = {number: f"{number}xx" for number in (2, 3, 4, 5)}
_POOL: Final = "requests"


class ApiMetrics:
    """The handles of a web or relay process; every method may be called from any thread.

    Args:
        tally: Where it counts.
    """

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self._requests = {number: tally.counter(table.REQUESTS, name) for number, name in _CLASSES.items()}
        self._problems = {code: tally.counter(table.PROBLEMS, code) for code in ProblemCode}
        self._limits = {
            scope: tally.counter(table.RATE_LIMITS_HIT, scope) for (scope,) in table.RATE_LIMITS_HIT.series
        }
        self._accepted = tally.counter(table.ACCEPTED)
        self._accept_seconds = tally.histogram(table.ACCEPT_SECONDS)
        self._stopped = tally.counter(table.TURNS, TurnStatus.STOPPED, "")

    def answered(self, endpoint: str | None, status: int, seconds: float | None) -> None:
        """Count a request to the API that was answered."""
        counter = self._requests.get(status // 100)
        if counter is not None:
            counter.add()
        if endpoint == "create_turn" and status == HTTPStatus.ACCEPTED and seconds is not None:
            self._accept_seconds.observe(seconds)

    def refused(self, refused: RefusedError) -> None:
        """Count a request that was refused."""
        self._problems[refused.code].add()
        if refused.code is ProblemCode.RATE_LIMITED:
            self._limits[refused.members["scope"]].add()

    def told(self, notice: Notice) -> None:
        """Count what was committed and is told: a turn that was accepted, or ended while it waited."""
        match notice:
            case Ring():
                self._accepted.add()
            case Ended():
                self._stopped.add()
            case _:
                pass

    def look_at(self, hub: Hub, notices: Notices, database: Database) -> None:
        """Have these parts looked at once a second."""
        self.tally.on_sample(_looking_at_hub(self.tally, hub))
        self.tally.on_sample(_looking_at_notices(self.tally, notices))
        self.tally.on_sample(looking_at_pool(self.tally, database, _POOL))
        self.tally.on_sample(looking_at_loop(self.tally, hub.call_soon))


def _looking_at_hub(tally: Tally, hub: Hub) -> Callable[[], None]:
    websockets, event_streams = (
        tally.gauge(table.STREAMS_OPEN, *labels) for labels in table.STREAMS_OPEN.series
    )
    opened_websockets, opened_event_streams = (
        tally.counter(table.STREAMS_OPENED, *labels) for labels in table.STREAMS_OPENED.series
    )
    sessions, turns = tally.gauge(table.WATCHED_SESSIONS), tally.gauge(table.WATCHED_TURNS)
    subscribed, unsubscribed = (
        tally.gauge(table.RELAY_LOOPS, *labels) for labels in table.RELAY_LOOPS.series
    )
    overflows, replays = tally.counter(table.MAILBOX_OVERFLOWS), tally.counter(table.REPLAYS)
    holes, gaps = tally.counter(table.HOLES), tally.counter(table.GAPS)

    def look() -> None:
        held, occurred = hub.counts(), hub.occurred
        websockets.set(held.websockets)
        event_streams.set(held.event_streams)
        sessions.set(held.sessions)
        turns.set(held.turns)
        subscribed.set(held.is_running and held.is_connected)
        unsubscribed.set(held.is_running and not held.is_connected)
        opened_websockets.set(occurred.websockets)
        opened_event_streams.set(occurred.event_streams)
        overflows.set(occurred.overflows)
        replays.set(occurred.replays)
        holes.set(occurred.holes)
        gaps.set(occurred.gaps)

    return look


def _looking_at_notices(tally: Tally, notices: Notices) -> Callable[[], None]:
    waiting = tally.gauge(table.OUTBOX_WAITING)
    dropped, failed = tally.counter(table.OUTBOX_DROPPED), tally.counter(table.OUTBOX_FAILED)

    def look() -> None:
        waiting.set(notices.waiting())
        dropped.set(notices.dropped)
        failed.set(notices.failed)

    return look

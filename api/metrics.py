"""The metrics of a web or relay process: what it counts, and what is read once a second."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from api.notices import Ended, Notice, Notices, Ring
from api.relay.face import FaceKind
from api.relay.hub import Hub
from shared.errors import PROBLEMS, ProblemCode, RefusedError
from shared.metrics import table
from shared.metrics.looking import looking_at_loop, looking_at_pool
from shared.metrics.registry import Registry
from shared.postgres.database import Database
from shared.turn.turns import TurnStatus

_CLASSES: Final = {number: f"{number}xx" for number in (2, 3, 4, 5)}
_POOL: Final = "requests"
REQUESTS_SCOPE: Final = "requests"
"""The scope of requests that are too many at once (`turnkeeper.up.malformed_requests`)."""


class ApiMetrics:
    """The handles of a web or relay process; every method may be called from any thread.

    Args:
        registry: Receives the counts.
    """

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._requests = {number: registry.counter(table.REQUESTS, name) for number, name in _CLASSES.items()}
        self._problems = {code: registry.counter(table.PROBLEMS, code) for code in ProblemCode}
        self._limits = {
            scope: registry.counter(table.RATE_LIMITS_HIT, scope) for (scope,) in table.RATE_LIMITS_HIT.series
        }
        self._accepted = registry.counter(table.ACCEPTED)
        self._accept_seconds = registry.histogram(table.ACCEPT_SECONDS)
        self._stopped = registry.counter(table.TURNS, TurnStatus.STOPPED, "")

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

    def unserved(self, code: ProblemCode) -> None:
        """Count a request that the server refused before the application saw it."""
        counter = self._requests.get(PROBLEMS[code].status // 100)
        if counter is not None:
            counter.add()
        self._problems[code].add()
        if code is ProblemCode.RATE_LIMITED:
            self._limits[REQUESTS_SCOPE].add()

    def told(self, notice: Notice) -> None:
        """Count a committed change: a turn that was accepted, or that ended while it was waiting."""
        match notice:
            case Ring():
                self._accepted.add()
            case Ended():
                self._stopped.add()
            case _:
                pass

    def look_at(self, hub: Hub, notices: Notices, database: Database) -> None:
        """Have these parts read once a second."""
        self.registry.on_sample(_looking_at_hub(self.registry, hub))
        self.registry.on_sample(_looking_at_notices(self.registry, notices))
        self.registry.on_sample(looking_at_pool(self.registry, database, _POOL))
        self.registry.on_sample(looking_at_loop(self.registry, hub.call_soon))


def _looking_at_hub(registry: Registry, hub: Hub) -> Callable[[], None]:
    kinds = {
        "websocket": (FaceKind.WEBSOCKET,),
        "event_stream": (FaceKind.EVENT_STREAM, FaceKind.BARE_EVENT_STREAM),
    }
    streams = {name: registry.gauge(table.STREAMS_OPEN, name) for name in kinds}
    opened = {name: registry.counter(table.STREAMS_OPENED, name) for name in kinds}
    refused = registry.counter(table.STREAMS_REFUSED)
    waits, waited = registry.gauge(table.WAITS_OPEN), registry.counter(table.WAITS_OPENED)
    sessions, turns = registry.gauge(table.WATCHED_SESSIONS), registry.gauge(table.WATCHED_TURNS)
    subscribed, unsubscribed = (
        registry.gauge(table.RELAY_LOOPS, *labels) for labels in table.RELAY_LOOPS.series
    )
    overflows, replays = registry.counter(table.MAILBOX_OVERFLOWS), registry.counter(table.REPLAYS)
    holes, gaps = registry.counter(table.HOLES), registry.counter(table.GAPS)

    def look() -> None:
        held, occurred = hub.counts(), hub.occurred
        for name, faces in kinds.items():
            streams[name].set(sum(held.streams[face] for face in faces))
            opened[name].set(sum(occurred.opened[face] for face in faces))
        refused.set(occurred.refused)
        waits.set(held.streams[FaceKind.WAIT])
        waited.set(occurred.opened[FaceKind.WAIT])
        sessions.set(held.sessions)
        turns.set(held.turns)
        subscribed.set(held.is_running and held.is_connected)
        unsubscribed.set(held.is_running and not held.is_connected)
        overflows.set(occurred.overflows)
        replays.set(occurred.replays)
        holes.set(occurred.holes)
        gaps.set(occurred.gaps)

    return look


def _looking_at_notices(registry: Registry, notices: Notices) -> Callable[[], None]:
    waiting = registry.gauge(table.OUTBOX_WAITING)
    dropped, failed = registry.counter(table.OUTBOX_DROPPED), registry.counter(table.OUTBOX_FAILED)

    def look() -> None:
        waiting.set(notices.waiting())
        dropped.set(notices.dropped)
        failed.set(notices.failed)

    return look

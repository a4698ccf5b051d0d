"""Every metric: its name, what it counts, its labels with all their values, and which services have it.

Handles, the answer to a scrape and the reference page are made from this table. It lists every value of every label, so
nothing that a client sends can create a new series, and no id or content can become one (I10).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from shared.errors import Fault, ProblemCode
from shared.money.usage import SHOWN_COLUMNS
from shared.oddities import Oddity
from shared.turn.turns import TERMINAL, TurnStatus


class Kind(StrEnum):
    """A metric's type, as Prometheus names it."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Service(StrEnum):
    """The services with a `/metrics`; a service's position here is added to METRICS_PORT."""

    WEB = "web"
    RELAY = "relay"
    WORKER = "worker"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Args:
        name: With the suffix of its unit, and `_total` for a counter.
        kind: Its type.
        help: Its meaning, in one sentence.
        services: The services that expose it.
        labels: The names of its labels.
        series: All combinations of their values.
        buckets: Upper bounds of a histogram, rising; the bucket without a bound is implied.
        is_of_servers: Whether PostgreSQL or Redis knows it: read on a scrape, kept by no process.
    """

    name: str
    kind: Kind
    help: str
    services: frozenset[Service]
    labels: tuple[str, ...] = ()
    series: tuple[tuple[str, ...], ...] = ((),)
    buckets: tuple[float, ...] = ()
    is_of_servers: bool = False

    @property
    def width(self) -> int:
        """The number of figures in one series: one, or for a histogram a count for each bucket and the sum."""
        return len(self.buckets) + 2 if self.kind is Kind.HISTOGRAM else 1


_HTTP: Final = frozenset({Service.WEB, Service.RELAY})
_WORKER: Final = frozenset({Service.WORKER})
_ALL: Final = frozenset(Service)

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LONG_SECONDS: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_BYTES: Final = (256.0, 1024.0, 4096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0)


def _counter(
    name: str,
    services: frozenset[Service],
    meaning: str,
    labels: str | tuple[str, ...] = (),
    values: Iterable[str | tuple[str, ...]] = ((),),
) -> Metric:
    return Metric(name, Kind.COUNTER, meaning, services, *_labelled(labels, values))


def _gauge(
    name: str,
    services: frozenset[Service],
    meaning: str,
    labels: str | tuple[str, ...] = (),
    values: Iterable[str | tuple[str, ...]] = ((),),
    *,
    is_of_servers: bool = False,
) -> Metric:
    labelled = _labelled(labels, values)
    return Metric(name, Kind.GAUGE, meaning, services, *labelled, is_of_servers=is_of_servers)


def _histogram(
    name: str, services: frozenset[Service], meaning: str, buckets: tuple[float, ...] = _SECONDS
) -> Metric:
    return Metric(name, Kind.HISTOGRAM, meaning, services, buckets=buckets)


def _labelled(
    labels: str | tuple[str, ...], values: Iterable[str | tuple[str, ...]]
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    names = (labels,) if isinstance(labels, str) else labels
    return names, tuple((str(value),) if isinstance(value, str) else value for value in values)


REQUESTS: Final = _counter(
    "turnkeeper_http_requests_total",
    _HTTP,
    "Answered requests to the API, by class of status.",
    "status",
    ("2xx", "3xx", "4xx", "5xx"),
)
PROBLEMS: Final = _counter(
    "turnkeeper_problems_total", _HTTP, "Refused requests, by the problem's code.", "code", ProblemCode
)
RATE_LIMITS_HIT: Final = _counter(
    "turnkeeper_rate_limits_hit_total",
    _HTTP,
    "Requests refused as `rate_limited`, by whose limit or what there is too much of.",
    "scope",
    ("user", "organization", "streams", "downloads", "waits", "requests"),
)
ACCEPTED: Final = _counter("turnkeeper_turns_accepted_total", _HTTP, "Turns that were committed.")
ACCEPT_SECONDS: Final = _histogram(
    "turnkeeper_turn_accept_seconds", _HTTP, "From the request for a turn to its 202, streamed ones left out."
)
STREAMS_OPEN: Final = _gauge(
    "turnkeeper_streams_open", _HTTP, "Streams that are open.", "kind", ("websocket", "event_stream")
)
STREAMS_OPENED: Final = _counter(
    "turnkeeper_streams_opened_total",
    _HTTP,
    "Streams that were opened.",
    "kind",
    ("websocket", "event_stream"),
)
STREAMS_REFUSED: Final = _counter(
    "turnkeeper_streams_refused_total",
    _HTTP,
    "Websockets that were closed with 4429 at once, for want of a place; event streams are among the rate limits hit.",
)
WAITS_OPEN: Final = _gauge(
    "turnkeeper_waits_open", _HTTP, "Requests that wait for a turn's end, without a thread."
)
WAITS_OPENED: Final = _counter(
    "turnkeeper_waits_opened_total", _HTTP, "Requests that began to wait for a turn's end."
)
MAILBOX_OVERFLOWS: Final = _counter(
    "turnkeeper_mailbox_overflows_total", _HTTP, "Streams closed because their reader was too slow."
)
WATCHED_SESSIONS: Final = _gauge("turnkeeper_watched_sessions", _HTTP, "Sessions that streams read.")
WATCHED_TURNS: Final = _gauge("turnkeeper_watched_turns", _HTTP, "Turns that streams read.")
RELAY_LOOPS: Final = _gauge(
    "turnkeeper_relay_loops",
    _HTTP,
    "Processes that have carried a stream, by whether live events reach them; `no`: they read logs instead.",
    "subscribed",
    ("yes", "no"),
)
REPLAYS: Final = _counter(
    "turnkeeper_replays_total", _HTTP, "Replays of a turn to one reader, that of a new one included."
)
HOLES: Final = _counter(
    "turnkeeper_holes_total", _HTTP, "Live events with another number than the next, mended from the log."
)
GAPS: Final = _counter(
    "turnkeeper_gaps_total", _HTTP, "Gaps told: once for a reader, or for all that read a turn together."
)
OUTBOX_WAITING: Final = _gauge(
    "turnkeeper_outbox_waiting", _HTTP, "Notices of committed requests that wait for Redis."
)
OUTBOX_DROPPED: Final = _counter(
    "turnkeeper_outbox_dropped_total",
    _HTTP,
    "Notices that a full queue dropped; a sweeper makes good for them.",
)
OUTBOX_FAILED: Final = _counter(
    "turnkeeper_outbox_failed_total", _HTTP, "Writes of notices to Redis that failed."
)

TURNS: Final = _counter(
    "turnkeeper_turns_total",
    _ALL,
    "Turns that ended, by status and, of failed ones, fault. Web and relay end what is stopped while it waits.",
    ("status", "fault"),
    (
        *((status.value, "") for status in sorted(TERMINAL) if status is not TurnStatus.FAILED),
        *((TurnStatus.FAILED.value, fault.value) for fault in Fault),
    ),
)
POOL_SIZE: Final = _gauge(
    "turnkeeper_database_pool_size",
    _ALL,
    "Most connections to PostgreSQL that the pools may open; they have no overflow.",
    "pool",
    ("requests", "turns", "leases", "sweeper"),
)
POOL_OPEN: Final = _gauge(
    "turnkeeper_database_connections_open", _ALL, "Connections to PostgreSQL that are open.", "pool",
    ("requests", "turns", "leases", "sweeper"),
)  # fmt: skip
POOL_IN_USE: Final = _gauge(
    "turnkeeper_database_connections_in_use", _ALL, "Connections to PostgreSQL that are checked out.", "pool",
    ("requests", "turns", "leases", "sweeper"),
)  # fmt: skip
POOL_TIMEOUTS: Final = _counter(
    "turnkeeper_database_pool_timeouts_total", _ALL, "Waits for a connection of a pool that were given up.", "pool",
    ("requests", "turns", "leases", "sweeper"),
)  # fmt: skip
LOOP_LAG: Final = _histogram(
    "turnkeeper_loop_lag_seconds", _ALL, "How long the event loop took to answer, asked once a second."
)
PROCESSES: Final = _gauge(
    "turnkeeper_processes", _ALL, "Processes of this service on this host that keep figures."
)

ATTEMPTS: Final = _counter(
    "turnkeeper_attempts_total",
    _WORKER,
    "Attempts that ended, by how; `fenced`: the lease was lost before.",
    "outcome",
    ("completed", "stopped", "failed", "requeued", "handed_back", "fenced"),
)
RUNNING: Final = _gauge("turnkeeper_turns_running", _WORKER, "Turns that run here.")
SLOTS: Final = _gauge("turnkeeper_turn_slots", _WORKER, "Turns that may run here at once.")
CLAIM_WAIT: Final = _histogram(
    "turnkeeper_claim_wait_seconds",
    _WORKER,
    "Of each claim: since the turn could be claimed.",
    _LONG_SECONDS,
)
FIRST_TOKEN: Final = _histogram(
    "turnkeeper_first_token_seconds", _WORKER, "From a turn's acceptance to its first text.", _LONG_SECONDS
)
TURN_SECONDS: Final = _histogram(
    "turnkeeper_turn_seconds",
    _WORKER,
    "From a turn's acceptance to its end, of turns that ran.",
    _LONG_SECONDS,
)
STOP_SECONDS: Final = _histogram(
    "turnkeeper_stop_seconds",
    _WORKER,
    "From the request to stop a running turn to the closed upstream connection.",
)
LEASES_LOST: Final = _counter(
    "turnkeeper_leases_lost_total", _WORKER, "Attempts that wrote nothing because their lease was lost."
)
TAKEN_UP: Final = _counter(
    "turnkeeper_turns_taken_up_total",
    _WORKER,
    "Turns of lost workers that a sweeper ended or let wait again.",
)
ROUNDS_FAILED: Final = _counter(
    "turnkeeper_database_rounds_failed_total",
    _WORKER,
    "Rounds of a loop that others depend on which PostgreSQL refused or did not answer.",
    "loop",
    ("leases", "sweeper"),
)
TOKENS: Final = _counter(
    "turnkeeper_tokens_total",
    _WORKER,
    "Billed tokens, by class; `reasoning` is part of `output`.",
    "class",
    tuple(name.removesuffix("_tokens") for name in SHOWN_COLUMNS),
)
COST: Final = _counter(
    "turnkeeper_cost_usd_total", _WORKER, "US dollars billed, as a float; the ledger has them exactly."
)
DISPUTED: Final = _counter(
    "turnkeeper_disputed_usage_total",
    _WORKER,
    "Attempts whose provider reported more tokens than they can have used, so that the bound was billed.",
)
CALLS: Final = _counter(
    "turnkeeper_provider_calls_total", _WORKER, "Calls of the provider, repeated ones included."
)
CALLS_REFUSED: Final = _counter(
    "turnkeeper_provider_calls_refused_total", _WORKER, "Calls that the breaker did not let through."
)
PROVIDER_ERRORS: Final = _counter(
    "turnkeeper_provider_errors_total",
    _WORKER,
    "Calls of the provider that failed, by fault.",
    "fault",
    Fault,
)
PROMPTS_SHORTENED: Final = _counter(
    "turnkeeper_prompts_shortened_total",
    _WORKER,
    "Prompts that were too long for the model, and were sent again without their oldest turns.",
)
PROVIDER_ODDITIES: Final = _counter(
    "turnkeeper_provider_oddities_total",
    _WORKER,
    "What the provider sent that its protocol does not have, and that cost no answer, by kind.",
    "oddity",
    Oddity,
)
BREAKERS: Final = _gauge(
    "turnkeeper_breakers",
    _WORKER,
    "Processes, by the state of their breaker.",
    "state",
    ("closed", "open", "probing"),
)
BREAKERS_OF_ONE: Final = _gauge(
    "turnkeeper_breakers_of_one_organization",
    _WORKER,
    "Organizations whose own calls are held back, because they alone see the provider fail.",
)
DELTAS: Final = _counter(
    "turnkeeper_deltas_total", _WORKER, "Pieces of text, as the provider gave them, that became events."
)
DELTA_EVENTS: Final = _counter(
    "turnkeeper_delta_events_total",
    _WORKER,
    "Events that carry them; pieces that come together leave as one event.",
)
DELTA_DELAY: Final = _histogram(
    "turnkeeper_delta_delay_seconds",
    _WORKER,
    "Of the oldest piece of text in each append: from when it was read to when Redis has said that it has it.",
)
FLUSH_BYTES: Final = _histogram(
    "turnkeeper_flush_bytes",
    _WORKER,
    "Bytes of each write of events to Redis, of all turns together.",
    _BYTES,
)
BACKLOG_BYTES: Final = _gauge(
    "turnkeeper_publish_backlog_bytes", _WORKER, "Bytes of events that wait for Redis or its answer."
)
BACKLOG_OVERFLOWS: Final = _counter(
    "turnkeeper_publish_overflows_total", _WORKER, "Turns whose waiting events were given up for a snapshot."
)
LOG_BYTES: Final = _gauge(
    "turnkeeper_log_bytes", _WORKER, "Bytes of all turns' logs in Redis, as the workers count them."
)
LOG_BUDGET: Final = _gauge("turnkeeper_log_budget_bytes", _WORKER, "What they may take.")
LOGS_CUT_SHORT: Final = _counter(
    "turnkeeper_logs_cut_short_total",
    _WORKER,
    "Logs of running turns that keep only their newest events, because their organization's are over its share.",
)
LOGS_DROPPED: Final = _counter(
    "turnkeeper_logs_dropped_total", _WORKER, "Logs of ended turns that were dropped for lack of memory."
)
REDIS_MEMORY: Final = _gauge(
    "turnkeeper_redis_memory_bytes",
    _WORKER,
    "What Redis says of its memory: `used`, and its `limit`, 0 for none.",
    "what",
    ("used", "limit"),
)
PUBLISHERS: Final = _gauge(
    "turnkeeper_publishers",
    _WORKER,
    "Processes, by whether they are connected to Redis.",
    "connected",
    ("yes", "no"),
)

POSTGRES_UP: Final = _gauge(
    "turnkeeper_postgres_up",
    _ALL,
    "1 when PostgreSQL answered; else what it knows is missing here.",
    is_of_servers=True,
)
REDIS_UP: Final = _gauge(
    "turnkeeper_redis_up",
    _ALL,
    "1 when Redis answered; else what it knows is missing here.",
    is_of_servers=True,
)
TURNS_ACTIVE: Final = _gauge(
    "turnkeeper_turns_active",
    _ALL,
    "Turns of all workers that have not ended, by status.",
    "status",
    (TurnStatus.QUEUED, TurnStatus.RUNNING, TurnStatus.STOPPING),
    is_of_servers=True,
)
QUEUE_TURNS: Final = _gauge(
    "turnkeeper_queue_turns",
    _ALL,
    "Queued turns that wait for a worker, not for an earlier turn of their session.",
    is_of_servers=True,
)
QUEUE_OLDEST: Final = _gauge(
    "turnkeeper_queue_oldest_seconds", _ALL, "How long the oldest of them has waited.", is_of_servers=True
)
HOLDS: Final = _gauge("turnkeeper_holds_open", _ALL, "Turns with a hold.", is_of_servers=True)
HELD: Final = _gauge(
    "turnkeeper_held_usd",
    _ALL,
    "US dollars held for turns that have not ended, as a float.",
    is_of_servers=True,
)
WORKERS: Final = _gauge(
    "turnkeeper_workers_alive", _ALL, "Worker processes that renewed within 15 s.", is_of_servers=True
)
WORKERS_HEARING: Final = _gauge(
    "turnkeeper_workers_hearing",
    _ALL,
    "Those of them whose doorbells arrive: heard within 60 s, or full, and Redis answers them and takes writes.",
    is_of_servers=True,
)
WORKERS_ASKING: Final = _gauge(
    "turnkeeper_workers_asking",
    _ALL,
    "Those that ask for turns once a second, for they hear no doorbells, or none can be rung.",
    is_of_servers=True,
)
REDIS_WRITABLE: Final = _gauge(
    "turnkeeper_redis_writable",
    _ALL,
    "1 if Redis takes a write, else 0: it refuses, is full, or cannot be reached.",
    is_of_servers=True,
)
DOORBELLS: Final = _gauge(
    "turnkeeper_doorbells", _ALL, "Doorbells in Redis that no worker has heard.", is_of_servers=True
)

METRICS: Final = tuple(each for each in list(globals().values()) if isinstance(each, Metric))
"""All metrics, in the order above, so that none can be forgotten."""

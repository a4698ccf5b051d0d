"""The configuration: environment variables, read once into one frozen object.

To add a variable, declare its field: nothing else is needed. All problems are reported together.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from shared.configuration.environment import Reader, Section, Variable, filled_by, made_from, variable
from shared.configuration.provider_settings import ProviderSettings, read_provider
from shared.configuration.rules import (
    capped,
    collector_url,
    flag,
    ip_address,
    one_of,
    optional,
    origins,
    seconds,
    sentry_dsn,
    server_url,
    switch,
    text,
    whole,
)
from shared.configuration.secret import Secret
from shared.errors import SettingsError
from shared.redis.limit_scripts import MOST_TURNS
from shared.redis.memory import MOST_LOG_PERCENT, LogShares

_MOST_DAYS: Final = 36_500
_MOST_TICKET_SECONDS: Final = 60
MOST_METRICS_PORT: Final = 65_533
"""The relay and the worker use the next two ports."""
_OWN_SERVER: Final = "(`turnkeeper up` without it starts a server of its own)"

ENVIRONMENT: Final = Variable(
    "ENVIRONMENT",
    "development",
    "`development` or `production`, which makes the rules for URLs, secrets and origins strict.",
    Section.SERVICE,
    switch("development", "production"),
)
CONTEXT_TOKENS: Final = Variable(
    "CONTEXT_TOKENS",
    "180000",
    "Most tokens that prompt and answer may have together; the oldest turns are left out to fit. If it is not set, "
    "less where an openai-compatible server tells the length of its model's context.",
    Section.PROVIDER,
    whole(1000),
)
_ALLOWED_ORIGINS: Final = Variable(
    "ALLOWED_ORIGINS",
    "",
    "Comma-separated origins of pages that may open a websocket, besides the service's own.",
    Section.SERVICE,
    origins,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The whole configuration of a process."""

    providers: tuple[ProviderSettings, ...]
    """In the order in which they are asked; the first one answers."""
    database_url: str = variable(
        "DATABASE_URL",
        "",
        "PostgreSQL as the application's role, which owns nothing and cannot bypass row-level security.",
        Section.SERVERS,
        server_url("postgresql", "postgresql+psycopg", "postgres"),
        required=_OWN_SERVER,
        secret=True,
    )
    database_owner_url: str = variable(
        "DATABASE_OWNER_URL",
        "",
        "PostgreSQL as the owner of the schema; only `turnkeeper migrate`, `orgs`, `keys` and `users` use it.",
        Section.SERVERS,
        text,
        secret=True,
    )
    database_pool_size: int = variable(
        "DATABASE_POOL_SIZE", "16", "Connections to PostgreSQL for each process.", Section.SERVERS, whole(2)
    )
    database_prepare: bool = variable(
        "DATABASE_PREPARE",
        "true",
        "Prepare statements; `false` behind a pooler in transaction mode older than PgBouncer 1.21.",
        Section.SERVERS,
        flag,
    )
    redis_url: str = variable(
        "REDIS_URL",
        "",
        "Redis 7 or Valkey: `redis://`, `rediss://` or `unix://`, with a password where it has one.",
        Section.SERVERS,
        server_url("redis", "rediss", "unix"),
        required=_OWN_SERVER,
        secret=True,
    )
    production: bool = made_from(ENVIRONMENT)
    allowed_origins: frozenset[str] = made_from(_ALLOWED_ORIGINS)
    log_level: str = variable(
        "LOG_LEVEL",
        "INFO",
        "`DEBUG`, `INFO`, `WARNING` or `ERROR`.",
        Section.SERVICE,
        one_of("INFO", "DEBUG", "WARNING", "ERROR"),
    )
    log_format: str = variable(
        "LOG_FORMAT",
        "auto",
        "`json`, `text`, or `auto`: text on a terminal, else one JSON object a line.",
        Section.SERVICE,
        one_of("auto", "json", "text"),
    )
    web_threads: int = variable(
        "WEB_THREADS", "16", "Requests that one web process serves at once.", Section.SERVICE, whole(1)
    )
    worker_turns: int = variable(
        "WORKER_TURNS", "512", "Turns that one worker process runs at once.", Section.SERVICE, whole(1)
    )
    worker_turns_per_organization: int | None = variable(
        "WORKER_TURNS_PER_ORGANIZATION",
        "",
        "Those of one organization, where there are others; empty: seven eighths of WORKER_TURNS.",
        Section.SERVICE,
        optional(whole(1)),
    )
    max_sockets: int = variable(
        "MAX_SOCKETS", "20000", "Open streams that one relay process holds.", Section.SERVICE, whole(1)
    )
    streams_per_organization: int | None = variable(
        "STREAMS_PER_ORGANIZATION",
        "",
        "Those of them of one organization. Empty: half of `MAX_SOCKETS`.",
        Section.SERVICE,
        optional(whole(1)),
    )
    streams_per_user: int | None = variable(
        "STREAMS_PER_USER",
        "",
        "Those of them of one user of an organization. Empty: a quarter of what the organization may have.",
        Section.SERVICE,
        optional(whole(1)),
    )
    max_waits: int = variable(
        "MAX_WAITS",
        "2000",
        "Requests that one web or relay process lets wait for a turn's end; an organization gets half of them, one of "
        "its users a quarter of that.",
        Section.SERVICE,
        whole(1),
    )
    streams_per_address: int = variable(
        "STREAMS_PER_ADDRESS",
        "0",
        "Those of them from one address, that of the connection: behind a proxy, the proxy's. `0`: no limit.",
        Section.SERVICE,
        whole(0),
    )
    metrics_port: int | None = variable(
        "METRICS_PORT",
        "",
        "Where web answers `GET /metrics`; relay has the next port, worker the one after. Empty: no metrics.",
        Section.SERVICE,
        optional(whole(1, MOST_METRICS_PORT)),
    )
    metrics_bind: str = variable(
        "METRICS_BIND",
        "127.0.0.1",
        "The IP address that they listen at. Nobody is asked for a key there: open it to operators alone.",
        Section.SERVICE,
        ip_address,
    )
    context_tokens: int = filled_by(CONTEXT_TOKENS)
    is_context_given: bool = made_from(CONTEXT_TOKENS)
    max_output_tokens: int = variable(
        "MAX_OUTPUT_TOKENS",
        "4096",
        "Most tokens of an answer when the request names none; also the most it may name.",
        Section.PROVIDER,
        whole(1),
    )
    turn_timeout_seconds: float = variable(
        "TURN_TIMEOUT_SECONDS",
        "360",
        "For a whole turn; also the most that `deadline_seconds` may name.",
        Section.TIMEOUTS,
        seconds,
    )
    queue_timeout_seconds: float = variable(
        "QUEUE_TIMEOUT_SECONDS",
        "600",
        "How long a turn waits for a worker before it ends `expired`.",
        Section.TIMEOUTS,
        seconds,
    )
    queue_full_seconds: float = variable(
        "QUEUE_FULL_SECONDS",
        "60",
        "An organization's new turns are refused while one of its own has waited this long for workers that hear; "
        "below QUEUE_TIMEOUT_SECONDS.",
        Section.INTERNAL,
        seconds,
    )
    max_queued_turns: int = variable(
        "MAX_QUEUED_TURNS",
        "100000",
        "Turns that may be queued in all: an organization may have this divided by those that wait, at least two.",
        Section.LIMITS,
        whole(2, 2**31 - 1),
    )
    lease_seconds: float = variable(
        "LEASE_SECONDS", "10", "How long a worker owns a turn without renewing.", Section.TIMEOUTS, seconds
    )
    lease_renew_seconds: float = variable(
        "LEASE_RENEW_SECONDS", "3", "How often a worker renews and checkpoints.", Section.INTERNAL, seconds
    )
    lease_trust_seconds: float = variable(
        "LEASE_TRUST_SECONDS",
        "7",
        "Age of the last renewal at which a worker stops publishing.",
        Section.INTERNAL,
        seconds,
    )
    drain_seconds: float = variable(
        "DRAIN_SECONDS",
        "25",
        "How long a worker that was told to end may finish its turns.",
        Section.TIMEOUTS,
        seconds,
    )
    session_idle_seconds: float = variable(
        "SESSION_IDLE_SECONDS",
        "7200",
        "A session without activity for this long expires.",
        Section.TIMEOUTS,
        seconds,
    )
    session_age_seconds: float = variable(
        "SESSION_AGE_SECONDS", "86400", "A session older than this expires.", Section.TIMEOUTS, seconds
    )
    max_turns_per_session: int = variable(
        "MAX_TURNS_PER_SESSION",
        "50",
        "Turns of a session that names no `max_turns`.",
        Section.LIMITS,
        whole(1),
    )
    max_concurrent_turns: int | None = variable(
        "MAX_CONCURRENT_TURNS",
        "",
        "Turns that an organization may have queued and running at once, unless it has its own limit; empty: no limit.",
        Section.LIMITS,
        optional(whole(0, 2**31 - 1)),
    )
    log_max_entries: int = variable(
        "LOG_MAX_ENTRIES",
        "20000",
        "Most events that a turn's log in Redis keeps.",
        Section.INTERNAL,
        whole(100),
    )
    log_ttl_seconds: int = variable(
        "LOG_TTL_SECONDS", "3600", "How long a turn's log outlives its end.", Section.LIMITS, whole(1)
    )
    redis_memory_bytes: int = variable(
        "REDIS_MEMORY_BYTES",
        "1073741824",
        "What Redis is taken to hold if it names no `maxmemory`: turns' logs get a share of it.",
        Section.SERVERS,
        whole(1 << 20),
    )
    log_memory_percent: int = variable(
        "LOG_MEMORY_PERCENT",
        "60",
        "Percent of Redis's memory that all turns' logs may take; above it, the oldest ended ones are dropped.",
        Section.LIMITS,
        whole(1, MOST_LOG_PERCENT),
    )
    log_memory_percent_per_organization: int = variable(
        "LOG_MEMORY_PERCENT_PER_ORGANIZATION",
        "30",
        "Percent of it that the logs of one organization may take.",
        Section.LIMITS,
        whole(1, MOST_LOG_PERCENT),
    )
    publish_buffer_bytes: int = variable(
        "PUBLISH_BUFFER_BYTES",
        "33554432",
        "Most events that a worker holds back while Redis is slow or away; then readers get a snapshot.",
        Section.INTERNAL,
        whole(65_536),
    )
    ticket_ttl_seconds: int = variable(
        "TICKET_TTL_SECONDS",
        "60",
        "Longest life of a stream ticket.",
        Section.LIMITS,
        capped(whole(1), _MOST_TICKET_SECONDS),
    )
    idempotency_seconds: int = variable(
        "IDEMPOTENCY_SECONDS",
        "86400",
        "How long an Idempotency-Key is remembered.",
        Section.LIMITS,
        whole(60),
    )
    turns_per_minute_per_user: int | None = variable(
        "TURNS_PER_MINUTE_PER_USER",
        "",
        "Turns that a user may ask for in any minute, unless the organization has its own limit; empty: no limit.",
        Section.LIMITS,
        optional(whole(0, MOST_TURNS)),
    )
    turns_per_hour: int | None = variable(
        "TURNS_PER_HOUR",
        "",
        "Turns that an organization may ask for in any hour, unless it has its own limit; empty: no limit.",
        Section.LIMITS,
        optional(whole(0, MOST_TURNS)),
    )
    retention_days: int | None = variable(
        "RETENTION_DAYS",
        "",
        "Days after which the content of a closed or expired session is deleted; empty: it is kept.",
        Section.LIMITS,
        optional(whole(1, _MOST_DAYS)),
    )
    traces_endpoint: str = variable(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "",
        "Base URL of an OpenTelemetry collector, over HTTP: `http://127.0.0.1:4318`. Empty: no traces.",
        Section.OBSERVING,
        collector_url,
        secret=True,
    )
    sentry_dsn: Secret = variable(
        "SENTRY_DSN",
        "",
        "Where Sentry takes error reports of web, relay and worker. Empty: none are sent.",
        Section.OBSERVING,
        sentry_dsn,
        secret=True,
    )
    warnings: tuple[str, ...]

    @property
    def most_turns_of_one(self) -> int:
        """Return how many slots of a worker one organization may hold, where there are others."""
        if self.worker_turns_per_organization is not None:
            return min(self.worker_turns, self.worker_turns_per_organization)
        # Rounded up: a worker of fewer than eight slots has none to spare.
        return -(-self.worker_turns * 7 // 8)

    @property
    def provider(self) -> ProviderSettings:
        """Return the provider that answers."""
        return self.providers[0]


def log_shares(settings: Settings) -> LogShares:
    """Return what turns' logs may take of Redis's memory."""
    return LogShares(
        settings.redis_memory_bytes,
        settings.log_memory_percent,
        settings.log_memory_percent_per_organization,
    )


def load_settings(environ: Mapping[str, str]) -> Settings:
    """Read the configuration.

    Args:
        environ: The environment; a blank variable counts as unset.

    Raises:
        SettingsError: The configuration cannot run; the message names every problem.
    """
    read = Reader(environ)
    settings = read_settings(read)
    if read.problems:
        raise SettingsError(read.problems)
    return settings


def read_settings(read: Reader) -> Settings:
    """Return the configuration; problems are left with `read`, and some value stands in for each wrong one."""
    production = read.value(ENVIRONMENT)
    provider, warnings = read_provider(read, production=production)
    settings = Settings(
        providers=(provider,),
        production=production,
        is_context_given=read.is_set(CONTEXT_TOKENS),
        allowed_origins=_origins(read, production=production),
        warnings=warnings,
        **read.values(Settings),
    )
    if not settings.lease_renew_seconds < settings.lease_trust_seconds < settings.lease_seconds:
        read.problems.append(
            "LEASE_RENEW_SECONDS, LEASE_TRUST_SECONDS and LEASE_SECONDS must rise in this order, "
            f"not {settings.lease_renew_seconds:g}, {settings.lease_trust_seconds:g}, {settings.lease_seconds:g}"
        )
    if not settings.queue_full_seconds < settings.queue_timeout_seconds:
        read.problems.append(
            "QUEUE_FULL_SECONDS must be less than QUEUE_TIMEOUT_SECONDS, "
            f"not {settings.queue_full_seconds:g} and {settings.queue_timeout_seconds:g}"
        )
    return settings


def _origins(read: Reader, *, production: bool) -> frozenset[str]:
    origins_given = read.value(_ALLOWED_ORIGINS)
    if production and not origins_given:
        read.problems.append("ALLOWED_ORIGINS is required in production: name the origins of your pages")
    return origins_given

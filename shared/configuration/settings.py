"""The configuration: environment variables, read once into one frozen object.

All problems are reported together, so an operator mends them in one go.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from shared.configuration.environment import Reader
from shared.configuration.provider_settings import ProviderSettings, Secret, read_provider
from shared.errors import SettingsError
from shared.redis.limit_scripts import MOST_TURNS

_MOST_DAYS: Final = 36_500
MOST_METRICS_PORT: Final = 65_533
"""Relay and worker have the two ports above it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole configuration of a process."""

    provider: ProviderSettings
    database_url: str
    database_owner_url: str
    database_pool_size: int
    database_prepare: bool
    redis_url: str
    production: bool
    allowed_origins: frozenset[str]
    log_level: str
    log_format: str
    web_threads: int
    worker_turns: int
    max_sockets: int
    streams_per_address: int
    metrics_port: int | None
    metrics_bind: str
    context_tokens: int
    max_output_tokens: int
    turn_timeout_seconds: float
    queue_timeout_seconds: float
    queue_full_seconds: float
    lease_seconds: float
    lease_renew_seconds: float
    lease_trust_seconds: float
    drain_seconds: float
    session_idle_seconds: float
    session_age_seconds: float
    max_turns_per_session: int
    log_max_entries: int
    log_ttl_seconds: int
    publish_buffer_bytes: int
    ticket_ttl_seconds: int
    idempotency_seconds: int
    turns_per_minute_per_user: int | None
    turns_per_hour: int | None
    retention_days: int | None
    traces_endpoint: str
    sentry_dsn: Secret
    warnings: tuple[str, ...]


def load_settings(environ: Mapping[str, str]) -> Settings:
    """Read the configuration.

    Args:
        environ: The environment; an empty variable counts as unset.

    Raises:
        SettingsError: It cannot run; the message names every problem.
    """
    read = Reader(environ)
    production = read.choice("ENVIRONMENT", ("development", "production")) == "production"
    provider, warnings = read_provider(read, production=production)
    settings = Settings(
        provider=provider,
        database_url=_server_url(read, "DATABASE_URL", ("postgresql", "postgresql+psycopg", "postgres")),
        database_owner_url=read.text("DATABASE_OWNER_URL"),
        database_pool_size=read.whole("DATABASE_POOL_SIZE", 2),
        database_prepare=read.flag("DATABASE_PREPARE"),
        redis_url=_server_url(read, "REDIS_URL", ("redis", "rediss", "unix")),
        production=production,
        allowed_origins=_origins(read, production=production),
        log_level=read.choice("LOG_LEVEL", ("INFO", "DEBUG", "WARNING", "ERROR")),
        log_format=read.choice("LOG_FORMAT", ("auto", "json", "text")),
        web_threads=read.whole("WEB_THREADS", 1),
        worker_turns=read.whole("WORKER_TURNS", 1),
        max_sockets=read.whole("MAX_SOCKETS", 1),
        streams_per_address=read.whole("STREAMS_PER_ADDRESS", 0),
        metrics_port=read.optional_whole("METRICS_PORT", 1, MOST_METRICS_PORT),
        metrics_bind=_address(read, "METRICS_BIND"),
        context_tokens=read.whole("CONTEXT_TOKENS", 1000),
        max_output_tokens=read.whole("MAX_OUTPUT_TOKENS", 1),
        turn_timeout_seconds=read.seconds("TURN_TIMEOUT_SECONDS"),
        queue_timeout_seconds=read.seconds("QUEUE_TIMEOUT_SECONDS"),
        queue_full_seconds=read.seconds("QUEUE_FULL_SECONDS"),
        lease_seconds=read.seconds("LEASE_SECONDS"),
        lease_renew_seconds=read.seconds("LEASE_RENEW_SECONDS"),
        lease_trust_seconds=read.seconds("LEASE_TRUST_SECONDS"),
        drain_seconds=read.seconds("DRAIN_SECONDS"),
        session_idle_seconds=read.seconds("SESSION_IDLE_SECONDS"),
        session_age_seconds=read.seconds("SESSION_AGE_SECONDS"),
        max_turns_per_session=read.whole("MAX_TURNS_PER_SESSION", 1),
        log_max_entries=read.whole("LOG_MAX_ENTRIES", 100),
        log_ttl_seconds=read.whole("LOG_TTL_SECONDS", 1),
        publish_buffer_bytes=read.whole("PUBLISH_BUFFER_BYTES", 65_536),
        ticket_ttl_seconds=min(read.whole("TICKET_TTL_SECONDS", 1), 60),
        idempotency_seconds=read.whole("IDEMPOTENCY_SECONDS", 60),
        turns_per_minute_per_user=read.optional_whole("TURNS_PER_MINUTE_PER_USER", 0, MOST_TURNS),
        turns_per_hour=read.optional_whole("TURNS_PER_HOUR", 0, MOST_TURNS),
        retention_days=read.optional_whole("RETENTION_DAYS", 1, _MOST_DAYS),
        traces_endpoint=_traces_endpoint(read),
        sentry_dsn=_sentry_dsn(read),
        warnings=warnings,
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
    if read.problems:
        raise SettingsError(read.problems)
    return settings


def _server_url(read: Reader, name: str, schemes: tuple[str, ...]) -> str:
    url = read.required(name, "(`turnkeeper up` without it starts a server of its own)")
    if url and urlsplit(url).scheme not in schemes:
        read.problems.append(
            f"{name} must begin with one of {', '.join(f'{scheme}://' for scheme in schemes)}"
        )
    return url


def _address(read: Reader, name: str) -> str:
    value = read.text(name)
    try:
        return str(ip_address(value))
    except ValueError:
        read.problems.append(f"{name} must be an IP address such as 127.0.0.1, not {value!r}")
        return value


def _traces_endpoint(read: Reader) -> str:
    """Return the collector's base URL; empty where traces are off."""
    name = "OTEL_EXPORTER_OTLP_ENDPOINT"
    url = read.text(name).rstrip("/")
    if url:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            read.problems.append(f"{name} must be the base URL of a collector: http://127.0.0.1:4318")
        read.package("opentelemetry.exporter.otlp.proto.http", name, "otel")
    return url


def _sentry_dsn(read: Reader) -> Secret:
    """Return where errors are reported to; empty for nowhere."""
    name = "SENTRY_DSN"
    dsn = read.text(name)
    if dsn:
        parts = urlsplit(dsn)
        project = parts.path.rpartition("/")[2]
        # Not repeated: it holds a key.
        if parts.scheme not in {"http", "https"} or not (
            parts.hostname and parts.username and project.isdigit()
        ):
            read.problems.append(f"{name} must be a DSN as Sentry shows it: https://KEY@HOST/PROJECT")
        read.package("sentry_sdk", name, "sentry")
    return Secret(dsn)


def _origins(read: Reader, *, production: bool) -> frozenset[str]:
    origins = read.names("ALLOWED_ORIGINS")
    for origin in origins:
        parts = urlsplit(origin)
        if parts.scheme not in {"http", "https"} or not parts.netloc or parts.path:
            read.problems.append(
                f"ALLOWED_ORIGINS holds {origin!r}: use origins such as https://chat.example.com"
            )
    if production and not origins:
        read.problems.append("ALLOWED_ORIGINS is required in production: name the origins of your pages")
    return origins

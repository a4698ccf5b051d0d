"""Every environment variable: its name, default and meaning.

`.env.example` and the reference page are made from this list.
"""

from dataclasses import dataclass
from typing import Final

PLATFORM_ANTHROPIC_URL: Final = "https://api.anthropic.com"


@dataclass(frozen=True, slots=True)
class Variable:
    """One environment variable, as documented."""

    name: str
    default: str
    meaning: str
    group: str


def _variables(group: str, *rows: tuple[str, str, str]) -> tuple[Variable, ...]:
    return tuple(Variable(name, default, meaning, group) for name, default, meaning in rows)


VARIABLES: Final[tuple[Variable, ...]] = (
    *_variables(
        "Provider",
        (
            "MCP_LLM_PROVIDER",
            "anthropic",
            "Who answers: `anthropic`, `openai-compatible`, or `scripted` (never in production).",
        ),
        (
            "MCP_LLM_BASE_URL",
            "",
            "Base URL of the endpoint with its version: `http://127.0.0.1:8000/v1`. Required with `openai-compatible`.",
        ),
        (
            "MCP_LLM_MODEL",
            "",
            "Model name sent to the openai-compatible endpoint. Required with `openai-compatible`.",
        ),
        (
            "MCP_LLM_API_KEY",
            "",
            "Bearer key (any word where none is asked for). Required with `openai-compatible`.",
        ),
        (
            "MCP_LLM_PRICE_INPUT_PER_M_USD",
            "0",
            "US dollars for a million input tokens at the openai-compatible endpoint; wins over `PRICES_FILE`.",
        ),
        (
            "MCP_LLM_PRICE_OUTPUT_PER_M_USD",
            "0",
            "US dollars for a million output tokens at the openai-compatible endpoint; wins over `PRICES_FILE`.",
        ),
        (
            "PRICES_FILE",
            "",
            "TOML file of prices to use instead of the shipped one, `shared/money/prices.toml`, in the same form.",
        ),
        (
            "MCP_LLM_RUNNING_USAGE",
            "false",
            "Ask for usage on every chunk (vLLM's `continuous_usage_stats`), so that a stopped turn is billed exactly.",
        ),
        (
            "MCP_LLM_CONTINUATION",
            "false",
            "The endpoint has vLLM's `continue_final_message`: an answer that broke off is continued, not begun again.",
        ),
        (
            "MCP_LLM_ALLOWED_HOSTS",
            "",
            "Comma-separated hosts, or `host:port`, that may be internal or plain http in production.",
        ),
        ("ANTHROPIC_API_KEY", "", "Required with `anthropic`."),
        ("ANTHROPIC_MODEL", "claude-sonnet-5-5", "Model for `anthropic`."),
        ("ANTHROPIC_BASE_URL", PLATFORM_ANTHROPIC_URL, "Base URL for `anthropic`, without `/v1`."),
        (
            "SCRIPTED_BASE_URL",
            "",
            "Base URL of the scripted provider, with `/v1`. Required with `scripted`; `turnkeeper up` sets it.",
        ),
        (
            "CONTEXT_TOKENS",
            "180000",
            "Most tokens of history that a prompt may hold; the oldest turns are left out to fit.",
        ),
        (
            "MAX_OUTPUT_TOKENS",
            "4096",
            "Most tokens of an answer when the request names none; also the most it may name.",
        ),
        ("PROVIDER_TRANSPORT", "fast", "`fast` (our httptools transport) or `httpx` (the stock one)."),
    ),
    *_variables(
        "Servers",
        (
            "DATABASE_URL",
            "",
            "PostgreSQL as the application's role, which owns nothing and cannot bypass row-level security.",
        ),
        (
            "DATABASE_OWNER_URL",
            "",
            "PostgreSQL as the owner of the schema; only `turnkeeper migrate`, `orgs`, `keys` and `users` use it.",
        ),
        ("DATABASE_POOL_SIZE", "16", "Connections to PostgreSQL for each process."),
        (
            "DATABASE_PREPARE",
            "true",
            "Prepare statements; `false` behind a pooler in transaction mode older than PgBouncer 1.21.",
        ),
        (
            "REDIS_URL",
            "",
            "Redis 7 or Valkey: `redis://`, `rediss://` or `unix://`, with a password where it has one.",
        ),
    ),
    *_variables(
        "Service",
        (
            "ENVIRONMENT",
            "development",
            "`development` or `production`, which makes the rules for URLs, secrets and origins strict.",
        ),
        (
            "ALLOWED_ORIGINS",
            "",
            "Comma-separated origins of pages that may open a websocket; empty: the service's own.",
        ),
        ("LOG_LEVEL", "INFO", "`DEBUG`, `INFO`, `WARNING` or `ERROR`."),
        ("LOG_FORMAT", "auto", "`json`, `text`, or `auto`: text on a terminal, else one JSON object a line."),
        ("WEB_THREADS", "16", "Requests that one web process serves at once."),
        ("WORKER_TURNS", "512", "Turns that one worker process runs at once."),
        ("MAX_SOCKETS", "20000", "Open streams that one relay process holds."),
        (
            "STREAMS_PER_ADDRESS",
            "0",
            "Those of them from one address, that of the connection: behind a proxy, the proxy's. `0`: no limit.",
        ),
        (
            "METRICS_PORT",
            "",
            "Where web answers `GET /metrics`; relay has the next port, worker the one after. Empty: no metrics.",
        ),
        (
            "METRICS_BIND",
            "127.0.0.1",
            "The IP address that they listen at. Nobody is asked for a key there: open it to operators alone.",
        ),
    ),
    *_variables(
        "Observing",
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "",
            "Base URL of an OpenTelemetry collector, over HTTP: `http://127.0.0.1:4318`. Empty: no traces.",
        ),
        (
            "SENTRY_DSN",
            "",
            "Where Sentry takes error reports of web, relay and worker. Empty: none are sent.",
        ),
    ),
    *_variables(
        "Timeouts",
        ("PROVIDER_CONNECT_TIMEOUT_SECONDS", "5", "To connect to the provider."),
        ("PROVIDER_FIRST_TOKEN_TIMEOUT_SECONDS", "60", "From the request to the first text."),
        (
            "PROVIDER_IDLE_TIMEOUT_SECONDS",
            "30",
            "Between two pieces of text; keep-alive comments do not count.",
        ),
        (
            "PROVIDER_BREAKER_SECONDS",
            "10",
            "How long a provider that keeps failing is not called, until one call tries it; `0`: it is always called.",
        ),
        ("TURN_TIMEOUT_SECONDS", "360", "For a whole turn; also the most that `deadline_seconds` may name."),
        ("QUEUE_TIMEOUT_SECONDS", "600", "How long a turn waits for a worker before it ends `expired`."),
        (
            "QUEUE_FULL_SECONDS",
            "60",
            "New turns are refused while one has waited this long for workers that hear; below QUEUE_TIMEOUT_SECONDS.",
        ),
        ("LEASE_SECONDS", "10", "How long a worker owns a turn without renewing."),
        ("LEASE_RENEW_SECONDS", "3", "How often a worker renews and checkpoints."),
        ("LEASE_TRUST_SECONDS", "7", "Age of the last renewal at which a worker stops publishing."),
        ("DRAIN_SECONDS", "25", "How long a worker that was told to end may finish its turns."),
        ("SESSION_IDLE_SECONDS", "7200", "A session without activity for this long expires."),
        ("SESSION_AGE_SECONDS", "86400", "A session older than this expires."),
    ),
    *_variables(
        "Limits",
        ("MAX_TURNS_PER_SESSION", "50", "Turns of a session that names no `max_turns`."),
        (
            "TURNS_PER_MINUTE_PER_USER",
            "",
            "Turns that a user may ask for in any minute, unless the organization has its own limit; empty: no limit.",
        ),
        (
            "TURNS_PER_HOUR",
            "",
            "Turns that an organization may ask for in any hour, unless it has its own limit; empty: no limit.",
        ),
        ("PROVIDER_MAX_LINE_BYTES", "1048576", "Longest line of a provider's stream."),
        ("PROVIDER_MAX_EVENT_BYTES", "1048576", "Largest event of a provider's stream."),
        ("PROVIDER_MAX_ANSWER_BYTES", "67108864", "Most bytes of one provider response."),
        ("PROVIDER_MAX_TEXT_BYTES", "4194304", "Most text of one answer."),
        ("LOG_MAX_ENTRIES", "20000", "Most events that a turn's log in Redis keeps."),
        ("LOG_TTL_SECONDS", "3600", "How long a turn's log outlives its end."),
        (
            "PUBLISH_BUFFER_BYTES",
            "33554432",
            "Most events that a worker holds back while Redis is slow or away; then readers get a snapshot.",
        ),
        ("TICKET_TTL_SECONDS", "60", "Longest life of a stream ticket."),
        ("IDEMPOTENCY_SECONDS", "86400", "How long an Idempotency-Key is remembered."),
        (
            "RETENTION_DAYS",
            "",
            "Days after which the content of a closed or expired session is deleted; empty: it is kept.",
        ),
    ),
)
"""Every variable, in the order of `.env.example`."""

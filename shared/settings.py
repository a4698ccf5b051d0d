"""The configuration: environment variables, read once into one frozen object.

`VARIABLES` is the only list of names, defaults and meanings; `.env.example` and the reference page
are made from it. All problems are reported together, so an operator mends them in one go.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from shared.addresses import is_listed, is_plain_entry, is_plain_host, refusal_of_host
from shared.errors import SettingsError
from shared.limit_scripts import MOST_TURNS
from shared.price_table import RATE, SHIPPED, Price, PriceTable, is_rate, read_price_table
from shared.prices import PricedModel, is_free, is_known

_MOST_DAYS: Final = 36_500
PLATFORM_ANTHROPIC_URL: Final = "https://api.anthropic.com"


class ProviderName(StrEnum):
    """Which adapter runs the turns."""

    ANTHROPIC = "anthropic"
    OPENAI_COMPATIBLE = "openai-compatible"
    SCRIPTED = "scripted"


class Secret:
    """A string that does not show itself: not in a repr, a log line or a traceback (I10)."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        """Wrap `value`."""
        self._value = value

    def reveal(self) -> str:
        """Return the string, for the one line that sends it."""
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return "Secret('***')"

    __str__ = __repr__


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
            "TOML file of prices that stands in for the one that is shipped, `shared/prices.toml`, in the same form.",
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
        ("WEB_THREADS", "16", "Requests that one web process serves at once."),
        ("WORKER_TURNS", "512", "Turns that one worker process runs at once."),
        ("MAX_SOCKETS", "20000", "Open streams that one relay process holds."),
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

_FREE: Final = (
    "MCP_LLM_PRICE_INPUT_PER_M_USD and MCP_LLM_PRICE_OUTPUT_PER_M_USD are both 0: "
    "every turn costs nothing, so cost tracking and budgets do nothing"
)

_DEFAULTS: Final[Mapping[str, str]] = MappingProxyType(
    {variable.name: variable.default for variable in VARIABLES}
)


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """Where turns run and how long the provider may take."""

    name: ProviderName
    base_url: str
    model: str
    api_key: Secret
    connect_timeout_seconds: float
    first_token_timeout_seconds: float
    idle_timeout_seconds: float
    breaker_seconds: float
    running_usage: bool
    continuation: bool
    transport: str
    max_line_bytes: int
    max_event_bytes: int
    max_answer_bytes: int
    max_text_bytes: int
    guards_egress: bool
    allowed_hosts: frozenset[str]
    prices: PriceTable
    declared_price: Price | None


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
    web_threads: int
    worker_turns: int
    max_sockets: int
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
    warnings: tuple[str, ...]


class _Reader:
    """Reads variables and gathers what is wrong with them."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.problems: list[str] = []

    def text(self, name: str) -> str:
        """Return the value or its default; an empty or blank value counts as unset."""
        return self._environ.get(name, "").strip() or _DEFAULTS[name]

    def required(self, name: str, because: str) -> str:
        value = self.text(name)
        if not value:
            self.problems.append(f"{name} is required {because}: set it")
        return value

    def choice(self, name: str, allowed: tuple[str, ...]) -> str:
        value = self.text(name)
        if value not in allowed:
            self.problems.append(f"{name} is {value!r}: use one of {', '.join(allowed)}")
            return allowed[0]
        return value

    def whole(self, name: str, least: int) -> int:
        value = self.text(name)
        if not (value.isascii() and value.isdigit() and len(value) <= 12) or int(value) < least:
            self.problems.append(f"{name} is {value!r}: use a whole number of at least {least}")
            return least
        return int(value)

    def optional_whole(self, name: str, least: int, most: int) -> int | None:
        value = self.text(name)
        if not value:
            return None
        number = self.whole(name, least)
        if number > most:
            self.problems.append(f"{name} is {value!r}: use a whole number of at most {most}")
        return number

    def seconds(self, name: str) -> float:
        amount = self.amount(name)
        if amount <= 0:
            self.problems.append(f"{name} is {self.text(name)!r}: use a number of seconds above 0")
            return 1.0
        return float(amount)

    def amount(self, name: str) -> Decimal:
        """Read a plain decimal: digits with at most one point, nothing before or behind."""
        value = self.text(name)
        plain = value.isascii() and value.replace(".", "", 1).isdigit()
        try:
            return Decimal(value) if plain else self._refuse_amount(name, value)
        except InvalidOperation:
            return self._refuse_amount(name, value)

    def rate(self, name: str) -> Decimal:
        rate = self.amount(name)
        if not is_rate(rate):
            self.problems.append(f"{name} is {self.text(name)!r}: use {RATE}")
        return rate

    def _refuse_amount(self, name: str, value: str) -> Decimal:
        self.problems.append(f"{name} is {value!r}: use a decimal number that is not negative, such as 0.15")
        return Decimal(1)

    def is_set(self, name: str) -> bool:
        return bool(self._environ.get(name, "").strip())

    def flag(self, name: str) -> bool:
        return self.choice(name, ("false", "true")) == "true"

    def names(self, name: str) -> frozenset[str]:
        return frozenset(part.strip().lower() for part in self.text(name).split(",") if part.strip())


def load_settings(environ: Mapping[str, str]) -> Settings:
    """Read the configuration.

    Args:
        environ: The environment; an empty variable counts as unset.

    Raises:
        SettingsError: It cannot run; the message names every problem.
    """
    read = _Reader(environ)
    production = read.choice("ENVIRONMENT", ("development", "production")) == "production"
    provider, warnings = _provider(read, production=production)
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
        web_threads=read.whole("WEB_THREADS", 1),
        worker_turns=read.whole("WORKER_TURNS", 1),
        max_sockets=read.whole("MAX_SOCKETS", 1),
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


def _provider(read: _Reader, *, production: bool) -> tuple[ProviderSettings, tuple[str, ...]]:
    name = ProviderName(read.choice("MCP_LLM_PROVIDER", tuple(ProviderName)))
    allowed_hosts = _allowed_hosts(read)
    match name:
        case ProviderName.ANTHROPIC:
            url_variable, model = "ANTHROPIC_BASE_URL", read.text("ANTHROPIC_MODEL")
            key = read.required("ANTHROPIC_API_KEY", "with MCP_LLM_PROVIDER=anthropic")
            base_url = read.text(url_variable)
        case ProviderName.OPENAI_COMPATIBLE:
            because = "with MCP_LLM_PROVIDER=openai-compatible"
            url_variable = "MCP_LLM_BASE_URL"
            base_url = read.required(url_variable, because)
            model = read.required("MCP_LLM_MODEL", because)
            key = read.required("MCP_LLM_API_KEY", because)
        case ProviderName.SCRIPTED:
            url_variable, model, key = "SCRIPTED_BASE_URL", "scripted", "scripted"
            base_url = read.required(url_variable, "with MCP_LLM_PROVIDER=scripted")
            if production:
                read.problems.append(
                    "MCP_LLM_PROVIDER is 'scripted', which never runs in production: name a real provider"
                )
    if base_url:
        _check_provider_url(read, url_variable, base_url, production=production, allowed_hosts=allowed_hosts)
    if any(not 32 < ord(character) < 127 for character in key):
        read.problems.append(
            "the provider's API key holds characters that no HTTP header can carry: check it"
        )
        key = ""
    priced = _priced_model(read, name, model)
    provider = ProviderSettings(
        name=name,
        base_url=base_url.rstrip("/"),
        model=model,
        api_key=Secret(key),
        connect_timeout_seconds=read.seconds("PROVIDER_CONNECT_TIMEOUT_SECONDS"),
        first_token_timeout_seconds=read.seconds("PROVIDER_FIRST_TOKEN_TIMEOUT_SECONDS"),
        idle_timeout_seconds=read.seconds("PROVIDER_IDLE_TIMEOUT_SECONDS"),
        breaker_seconds=float(read.amount("PROVIDER_BREAKER_SECONDS")),
        running_usage=read.flag("MCP_LLM_RUNNING_USAGE"),
        # Anthropic's models refuse a prompt that ends with the assistant's message.
        continuation=read.flag("MCP_LLM_CONTINUATION") and name is not ProviderName.ANTHROPIC,
        transport=read.choice("PROVIDER_TRANSPORT", ("fast", "httpx")),
        max_line_bytes=read.whole("PROVIDER_MAX_LINE_BYTES", 1024),
        max_event_bytes=read.whole("PROVIDER_MAX_EVENT_BYTES", 1024),
        max_answer_bytes=read.whole("PROVIDER_MAX_ANSWER_BYTES", 1024),
        max_text_bytes=read.whole("PROVIDER_MAX_TEXT_BYTES", 1024),
        guards_egress=production,
        allowed_hosts=allowed_hosts,
        prices=priced.prices,
        declared_price=priced.declared_price,
    )
    return provider, _price_warnings(priced)


def load_priced_model(environ: Mapping[str, str]) -> tuple[PricedModel, tuple[str, ...]]:
    """Read what is known of the model's price and nothing else, so that it can be shown without keys.

    Args:
        environ: The environment; an empty variable counts as unset.

    Returns:
        The model and what is to be said of its price.

    Raises:
        SettingsError: The message names every problem.
    """
    read = _Reader(environ)
    name = ProviderName(read.choice("MCP_LLM_PROVIDER", tuple(ProviderName)))
    models = {ProviderName.ANTHROPIC: "ANTHROPIC_MODEL", ProviderName.OPENAI_COMPATIBLE: "MCP_LLM_MODEL"}
    model = read.text(models[name]) if name in models else "scripted"
    priced = _priced_model(read, name, model)
    if read.problems:
        raise SettingsError(read.problems)
    return priced, _price_warnings(priced)


def _priced_model(read: _Reader, name: ProviderName, model: str) -> PricedModel:
    problems: list[str] = []
    table = read_price_table(Path(read.text("PRICES_FILE") or SHIPPED), problems)
    if not problems and name is ProviderName.ANTHROPIC and not table.holding(name, date.max):
        problems.append(f"the prices in {read.text('PRICES_FILE')}: none is of anthropic, whose models run")
    read.problems += problems
    variables = ("MCP_LLM_PRICE_INPUT_PER_M_USD", "MCP_LLM_PRICE_OUTPUT_PER_M_USD")
    input_rate, output_rate = (read.rate(variable) for variable in variables)
    declared = None
    if name is ProviderName.OPENAI_COMPATIBLE and any(read.is_set(variable) for variable in variables):
        declared = Price(input_rate, output_rate, input_rate, input_rate, input_rate)
    return PricedModel(name, model, table, declared)


def _price_warnings(priced: PricedModel) -> tuple[str, ...]:
    if is_free(priced):
        return (_FREE,)
    if not is_known(priced):
        return (
            (
                f"the model {priced.model!r} has no price: it is billed as the most expensive one of "
                f"{priced.name}, and its ledger rows say so; give it one in PRICES_FILE"
            ),
        )
    return ()


def _allowed_hosts(read: _Reader) -> frozenset[str]:
    hosts = read.names("MCP_LLM_ALLOWED_HOSTS")
    for entry in sorted(hosts):
        if not is_plain_entry(entry):
            read.problems.append(
                f"MCP_LLM_ALLOWED_HOSTS holds {entry!r}: use hosts such as vllm.internal or vllm.internal:8000"
            )
    return hosts


def _check_provider_url(
    read: _Reader, name: str, url: str, *, production: bool, allowed_hosts: frozenset[str]
) -> None:
    """Refuse what is no plain http(s) base URL; the message never repeats one with a password in it."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        read.problems.append(f"{name} is no URL: use a form such as https://host/v1")
        return
    if parts.username is not None or parts.password is not None:
        read.problems.append(f"{name} holds a user or password: give the key in its own variable")
        return
    if parts.scheme not in {"http", "https"} or not host:
        read.problems.append(f"{name} is {url!r}: use a full http or https URL such as https://host/v1")
        return
    if parts.query or parts.fragment or "?" in url or "#" in url:
        read.problems.append(f"{name} holds a query or a fragment: give the base URL only")
    if not is_plain_host(host):
        read.problems.append(
            f"{name} names the host {host!r}: use a name in ASCII or an address in its usual form"
        )
        return
    port = (443 if parts.scheme == "https" else 80) if port is None else port
    if production and not is_listed(host, port, allowed_hosts):
        if parts.scheme != "https":
            read.problems.append(
                f"{name} must use https in production, or list {host!r} in MCP_LLM_ALLOWED_HOSTS"
            )
        if refusal := refusal_of_host(host):
            read.problems.append(
                f"{name} names the host {host!r} ({refusal}): list it in MCP_LLM_ALLOWED_HOSTS if that is meant"
            )


def _server_url(read: _Reader, name: str, schemes: tuple[str, ...]) -> str:
    url = read.required(name, "(`turnkeeper up` without it starts a server of its own)")
    if url and urlsplit(url).scheme not in schemes:
        read.problems.append(
            f"{name} must begin with one of {', '.join(f'{scheme}://' for scheme in schemes)}"
        )
    return url


def _origins(read: _Reader, *, production: bool) -> frozenset[str]:
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

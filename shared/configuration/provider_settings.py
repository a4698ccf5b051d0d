"""The provider's part of the configuration: which provider, its address, its timeouts and its prices."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from shared.configuration.addresses import is_listed, is_plain_host, refusal_of_host
from shared.configuration.environment import Reader, Section, Variable, made_from, variable
from shared.configuration.rules import flag, hosts, one_of, rate, seconds, seconds_or_zero, text, whole
from shared.configuration.secret import Secret
from shared.errors import SettingsError
from shared.money.price_table import RATES, SHIPPED, Price, PriceTable, read_price_table
from shared.money.prices import PricedModel, is_free, is_known

PLATFORM_ANTHROPIC_URL: Final = "https://api.anthropic.com"
_WITH_COMPATIBLE: Final = "with MCP_LLM_PROVIDER=openai-compatible"
_FREE: Final = (
    "MCP_LLM_PRICE_INPUT_PER_M_USD and MCP_LLM_PRICE_OUTPUT_PER_M_USD are both 0: "
    "every turn costs nothing, so cost tracking and budgets do nothing"
)


class ProviderName(StrEnum):
    """Which adapter runs the turns."""

    ANTHROPIC = "anthropic"
    OPENAI_COMPATIBLE = "openai-compatible"
    SCRIPTED = "scripted"


class LimitField(StrEnum):
    """The name under which an openai-compatible endpoint takes the limit of an answer."""

    AUTO = "auto"
    MAX_TOKENS = "max_tokens"
    MAX_COMPLETION_TOKENS = "max_completion_tokens"


PROVIDER: Final = Variable(
    "MCP_LLM_PROVIDER",
    "anthropic",
    "Who answers: `anthropic`, `openai-compatible`, or `scripted` (never in production).",
    Section.PROVIDER,
    one_of(*ProviderName),
)


@dataclass(frozen=True, slots=True)
class DialectVariables:
    """The variables that name a provider's endpoint, and the rates that a price of its models must have.

    The scripted provider has one model, needs no key and has no price in any file.
    """

    base_url: Variable[str]
    model: Variable[str] | None = None
    api_key: Variable[str] | None = None
    rates: frozenset[str] = frozenset()

    def variables(self) -> tuple[Variable[str], ...]:
        """Return the variables that this dialect has."""
        return tuple(each for each in (self.base_url, self.model, self.api_key) if each is not None)


DIALECT_VARIABLES: Final[Mapping[ProviderName, DialectVariables]] = MappingProxyType(
    {
        ProviderName.OPENAI_COMPATIBLE: DialectVariables(
            base_url=Variable(
                "MCP_LLM_BASE_URL",
                "",
                "Base URL of the endpoint with its version: `http://127.0.0.1:8000/v1`. "
                "Required with `openai-compatible`.",
                Section.PROVIDER,
                text,
                required=_WITH_COMPATIBLE,
            ),
            model=Variable(
                "MCP_LLM_MODEL",
                "",
                "Model name sent to the openai-compatible endpoint. Required with `openai-compatible`.",
                Section.PROVIDER,
                text,
                required=_WITH_COMPATIBLE,
            ),
            api_key=Variable(
                "MCP_LLM_API_KEY",
                "",
                "Bearer key (any word where none is asked for). Required with `openai-compatible`.",
                Section.PROVIDER,
                text,
                required=_WITH_COMPATIBLE,
                secret=True,
            ),
            rates=frozenset({"input", "output"}),
        ),
        ProviderName.ANTHROPIC: DialectVariables(
            base_url=Variable(
                "ANTHROPIC_BASE_URL",
                PLATFORM_ANTHROPIC_URL,
                "Base URL for `anthropic`, without `/v1`.",
                Section.PROVIDER,
                text,
            ),
            model=Variable(
                "ANTHROPIC_MODEL", "claude-sonnet-5-5", "Model for `anthropic`.", Section.PROVIDER, text
            ),
            api_key=Variable(
                "ANTHROPIC_API_KEY",
                "",
                "Required with `anthropic`.",
                Section.PROVIDER,
                text,
                required="with MCP_LLM_PROVIDER=anthropic",
                secret=True,
            ),
            rates=frozenset(RATES),
        ),
        ProviderName.SCRIPTED: DialectVariables(
            base_url=Variable(
                "SCRIPTED_BASE_URL",
                "",
                "Base URL of the scripted provider, with `/v1`. Required with `scripted`; `turnkeeper up` sets it.",
                Section.PROVIDER,
                text,
                required="with MCP_LLM_PROVIDER=scripted",
            ),
        ),
    }
)

PRICED: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {name.value: dialect.rates for name, dialect in DIALECT_VARIABLES.items() if dialect.rates}
)
"""The providers that a file of prices may name, and the rates that each must have."""

_ALLOWED_HOSTS: Final = Variable(
    "MCP_LLM_ALLOWED_HOSTS",
    "",
    "Comma-separated hosts, or `host:port`, that may be internal or plain http in production.",
    Section.PROVIDER,
    hosts,
)
_CONTINUATION: Final = Variable(
    "MCP_LLM_CONTINUATION",
    "false",
    "The endpoint has vLLM's `continue_final_message`: an answer that broke off is continued, not begun again.",
    Section.PROVIDER,
    flag,
)
_INPUT_RATE: Final = Variable(
    "MCP_LLM_PRICE_INPUT_PER_M_USD",
    "0",
    "US dollars for a million input tokens at the openai-compatible endpoint; wins over `PRICES_FILE`.",
    Section.PROVIDER,
    rate,
)
_OUTPUT_RATE: Final = Variable(
    "MCP_LLM_PRICE_OUTPUT_PER_M_USD",
    "0",
    "US dollars for a million output tokens at the openai-compatible endpoint; wins over `PRICES_FILE`.",
    Section.PROVIDER,
    rate,
)
_PRICES_FILE: Final = Variable(
    "PRICES_FILE",
    "",
    "TOML file of prices to use instead of the shipped one, `shared/money/prices.toml`, in the same form.",
    Section.PROVIDER,
    text,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSettings:
    """Where turns run and how long the provider may take."""

    name: ProviderName = made_from(PROVIDER)
    base_url: str = made_from(*(dialect.base_url for dialect in DIALECT_VARIABLES.values()))
    model: str = made_from(*(dialect.model for dialect in DIALECT_VARIABLES.values() if dialect.model))
    api_key: Secret = made_from(
        *(dialect.api_key for dialect in DIALECT_VARIABLES.values() if dialect.api_key)
    )
    connect_timeout_seconds: float = variable(
        "PROVIDER_CONNECT_TIMEOUT_SECONDS", "5", "To connect to the provider.", Section.TIMEOUTS, seconds
    )
    first_token_timeout_seconds: float = variable(
        "PROVIDER_FIRST_TOKEN_TIMEOUT_SECONDS",
        "60",
        "From the request to the first text.",
        Section.TIMEOUTS,
        seconds,
    )
    idle_timeout_seconds: float = variable(
        "PROVIDER_IDLE_TIMEOUT_SECONDS",
        "30",
        "Between two pieces of text; keep-alive comments do not count.",
        Section.TIMEOUTS,
        seconds,
    )
    breaker_seconds: float = variable(
        "PROVIDER_BREAKER_SECONDS",
        "10",
        "How long a provider that keeps failing is not called, until one call tries it; `0`: it is always called.",
        Section.TIMEOUTS,
        seconds_or_zero,
    )
    running_usage: bool = variable(
        "MCP_LLM_RUNNING_USAGE",
        "false",
        "Ask for usage on every chunk (vLLM's `continuous_usage_stats`), so that a stopped turn is billed exactly.",
        Section.PROVIDER,
        flag,
    )
    stream_options: bool = variable(
        "MCP_LLM_STREAM_OPTIONS",
        "true",
        "Ask for usage with `stream_options`; `false` for an openai-compatible endpoint that refuses the field.",
        Section.PROVIDER,
        flag,
    )
    limit_field: LimitField = variable(
        "MCP_LLM_LIMIT_FIELD",
        LimitField.AUTO.value,
        "The name of the limit for an openai-compatible endpoint: `max_tokens`, `max_completion_tokens`, or `auto`: "
        "the second for openai.com, else the first, until the endpoint asks for the other.",
        Section.PROVIDER,
        one_of(*LimitField),
    )
    think_tags: bool = variable(
        "MCP_LLM_THINK_TAGS",
        "false",
        "The model writes its thinking into its answer, between `<think>` and `</think>`: show it as thinking.",
        Section.PROVIDER,
        flag,
    )
    continuation: bool = made_from(_CONTINUATION)
    transport: str = variable(
        "PROVIDER_TRANSPORT",
        "fast",
        "`fast` (our httptools transport) or `httpx` (the stock one).",
        Section.PROVIDER,
        one_of("fast", "httpx"),
    )
    max_line_bytes: int = variable(
        "PROVIDER_MAX_LINE_BYTES",
        "1048576",
        "Longest line of a provider's stream.",
        Section.INTERNAL,
        whole(1024),
    )
    max_event_bytes: int = variable(
        "PROVIDER_MAX_EVENT_BYTES",
        "1048576",
        "Largest event of a provider's stream.",
        Section.INTERNAL,
        whole(1024),
    )
    max_answer_bytes: int = variable(
        "PROVIDER_MAX_ANSWER_BYTES",
        "67108864",
        "Most bytes of one provider response.",
        Section.INTERNAL,
        whole(1024),
    )
    max_text_bytes: int = variable(
        "PROVIDER_MAX_TEXT_BYTES", "4194304", "Most text of one answer.", Section.INTERNAL, whole(1024)
    )
    guards_egress: bool
    allowed_hosts: frozenset[str] = made_from(_ALLOWED_HOSTS)
    prices: PriceTable = made_from(_PRICES_FILE)
    declared_price: Price | None = made_from(_INPUT_RATE, _OUTPUT_RATE)


def read_provider(read: Reader, *, production: bool) -> tuple[ProviderSettings, tuple[str, ...]]:
    """Return the provider and the warnings for an operator; problems are left with `read`."""
    name = read.value(PROVIDER)
    dialect = DIALECT_VARIABLES[name]
    allowed_hosts = read.value(_ALLOWED_HOSTS)
    base_url = read.value(dialect.base_url)
    model = read.value(dialect.model) if dialect.model else name.value
    key = read.value(dialect.api_key) if dialect.api_key else name.value
    if production and name is ProviderName.SCRIPTED:
        read.problems.append(
            "MCP_LLM_PROVIDER is 'scripted', which never runs in production: name a real provider"
        )
    if base_url:
        _check_provider_url(
            read, dialect.base_url.name, base_url, production=production, allowed_hosts=allowed_hosts
        )
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
        # Anthropic's models refuse a prompt that ends with the assistant's message.
        continuation=read.value(_CONTINUATION) and name is not ProviderName.ANTHROPIC,
        guards_egress=production,
        allowed_hosts=allowed_hosts,
        prices=priced.prices,
        declared_price=priced.declared_price,
        **read.values(ProviderSettings),
    )
    return provider, _price_warnings(priced)


def load_priced_model(environ: Mapping[str, str]) -> tuple[PricedModel, tuple[str, ...]]:
    """Read only what is known of the model's price, so that it can be shown without keys.

    Args:
        environ: The environment; an empty variable counts as unset.

    Returns:
        The model, and warnings about its price.

    Raises:
        SettingsError: The message names every problem.
    """
    read = Reader(environ)
    name = read.value(PROVIDER)
    model = DIALECT_VARIABLES[name].model
    priced = _priced_model(read, name, read.text(model) if model else name.value)
    if read.problems:
        raise SettingsError(read.problems)
    return priced, _price_warnings(priced)


def _priced_model(read: Reader, name: ProviderName, model: str) -> PricedModel:
    problems: list[str] = []
    file = read.value(_PRICES_FILE)
    table = read_price_table(Path(file or SHIPPED), PRICED, problems)
    if not problems and name is ProviderName.ANTHROPIC and not table.holding(name, date.max):
        problems.append(f"the prices in {file}: none is of anthropic, whose models run")
    read.problems += problems
    input_rate, output_rate = read.value(_INPUT_RATE), read.value(_OUTPUT_RATE)
    declared = None
    if name is ProviderName.OPENAI_COMPATIBLE and (read.is_set(_INPUT_RATE) or read.is_set(_OUTPUT_RATE)):
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


def _check_provider_url(
    read: Reader, name: str, url: str, *, production: bool, allowed_hosts: frozenset[str]
) -> None:
    """Refuse a URL that is not a plain http(s) base URL; the message never repeats one that contains a password."""
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

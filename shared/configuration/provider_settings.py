"""The provider's part of the configuration: which one, where, for how long, at what price."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from shared.configuration.addresses import is_listed, is_plain_entry, is_plain_host, refusal_of_host
from shared.configuration.environment import Reader
from shared.errors import SettingsError
from shared.money.price_table import SHIPPED, Price, PriceTable, read_price_table
from shared.money.prices import PricedModel, is_free, is_known

_FREE: Final = (
    "MCP_LLM_PRICE_INPUT_PER_M_USD and MCP_LLM_PRICE_OUTPUT_PER_M_USD are both 0: "
    "every turn costs nothing, so cost tracking and budgets do nothing"
)


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


def read_provider(read: Reader, *, production: bool) -> tuple[ProviderSettings, tuple[str, ...]]:
    """Return the provider and what an operator should be warned of; problems are left with `read`."""
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
    read = Reader(environ)
    name = ProviderName(read.choice("MCP_LLM_PROVIDER", tuple(ProviderName)))
    models = {ProviderName.ANTHROPIC: "ANTHROPIC_MODEL", ProviderName.OPENAI_COMPATIBLE: "MCP_LLM_MODEL"}
    model = read.text(models[name]) if name in models else "scripted"
    priced = _priced_model(read, name, model)
    if read.problems:
        raise SettingsError(read.problems)
    return priced, _price_warnings(priced)


def _priced_model(read: Reader, name: ProviderName, model: str) -> PricedModel:
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


def _allowed_hosts(read: Reader) -> frozenset[str]:
    hosts = read.names("MCP_LLM_ALLOWED_HOSTS")
    for entry in sorted(hosts):
        if not is_plain_entry(entry):
            read.problems.append(
                f"MCP_LLM_ALLOWED_HOSTS holds {entry!r}: use hosts such as vllm.internal or vllm.internal:8000"
            )
    return hosts


def _check_provider_url(
    read: Reader, name: str, url: str, *, production: bool, allowed_hosts: frozenset[str]
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

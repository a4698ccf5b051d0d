"""The configuration: what is refused, and that everything wrong is said at once."""

import re
from decimal import Decimal

import pytest

from shared.configuration import provider_settings
from shared.configuration import settings as settings_module
from shared.configuration.environment import Given, Reader, Section, Variable, variables_of
from shared.configuration.provider_settings import ProviderName, ProviderSettings
from shared.configuration.secret import Secret
from shared.configuration.settings import Settings, load_settings, read_settings
from shared.configuration.variables import VARIABLES
from shared.errors import SettingsError

SERVERS = {"DATABASE_URL": "postgresql://app@127.0.0.1/tk", "REDIS_URL": "redis://127.0.0.1"}
ANTHROPIC = {**SERVERS, "ANTHROPIC_API_KEY": "sk-ant-test"}
COMPATIBLE = {
    **SERVERS,
    "MCP_LLM_PROVIDER": "openai-compatible",
    "MCP_LLM_BASE_URL": "http://127.0.0.1:8000/v1",
    "MCP_LLM_MODEL": "m",
    "MCP_LLM_API_KEY": "k",
}


def problems(environ: dict[str, str]) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as refused:
        load_settings(environ)
    return refused.value.problems


def test_without_a_flag_anthropic_answers():
    settings = load_settings(ANTHROPIC)
    assert settings.provider.name is ProviderName.ANTHROPIC
    assert settings.provider.base_url == "https://api.anthropic.com"


def test_an_empty_variable_counts_as_unset_so_an_empty_base_url_does_not_refuse_anthropic():
    settings = load_settings(
        {**ANTHROPIC, "MCP_LLM_BASE_URL": "", "MCP_LLM_MODEL": "  ", "MCP_LLM_PROVIDER": ""}
    )
    assert settings.provider.name is ProviderName.ANTHROPIC


def test_metrics_are_off_unless_a_port_is_named_and_then_on_this_machine_alone():
    settings = load_settings(ANTHROPIC)
    assert (settings.metrics_port, settings.metrics_bind) == (None, "127.0.0.1")
    assert load_settings({**ANTHROPIC, "METRICS_PORT": "65533"}).metrics_port == 65533
    assert load_settings({**ANTHROPIC, "METRICS_BIND": "::1"}).metrics_bind == "::1"
    wrong = problems({**ANTHROPIC, "METRICS_PORT": "65534", "METRICS_BIND": "localhost"})
    assert [problem.split(" ")[0] for problem in wrong] == ["METRICS_PORT", "METRICS_BIND"]


def test_limits_and_retention_are_off_unless_they_are_set():
    settings = load_settings(ANTHROPIC)
    assert (settings.turns_per_minute_per_user, settings.turns_per_hour, settings.retention_days) == (
        None,
        None,
        None,
    )
    named = {"TURNS_PER_MINUTE_PER_USER": "0", "TURNS_PER_HOUR": "1000000", "RETENTION_DAYS": "1"}
    settings = load_settings({**ANTHROPIC, **named})
    assert (settings.turns_per_minute_per_user, settings.turns_per_hour, settings.retention_days) == (
        0,
        1_000_000,
        1,
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TURNS_PER_HOUR", "-1"),
        ("TURNS_PER_HOUR", "1000001"),
        ("TURNS_PER_MINUTE_PER_USER", "ten"),
        ("RETENTION_DAYS", "0"),
        ("RETENTION_DAYS", "0.5"),
        ("RETENTION_DAYS", "40000"),
    ],
)
def test_a_limit_that_is_no_limit_is_refused(name: str, value: str):
    (problem,) = problems({**ANTHROPIC, name: value})
    assert problem.startswith(f"{name} is {value!r}")


def test_all_problems_are_reported_in_one_message():
    found = problems({"MCP_LLM_PROVIDER": "openai-compatible", "MCP_LLM_PRICE_INPUT_PER_M_USD": "1.5abc"})
    text = "\n".join(found)
    names = (
        "MCP_LLM_BASE_URL",
        "MCP_LLM_MODEL",
        "MCP_LLM_API_KEY",
        "MCP_LLM_PRICE_INPUT_PER_M_USD",
        "DATABASE_URL",
        "REDIS_URL",
    )
    for name in names:
        assert name in text
    assert len(found) == len(names)


def test_anthropic_needs_its_key():
    assert any("ANTHROPIC_API_KEY" in problem for problem in problems(SERVERS))


@pytest.mark.parametrize("missing", ["MCP_LLM_BASE_URL", "MCP_LLM_MODEL", "MCP_LLM_API_KEY"])
@pytest.mark.parametrize("blank", ["", "   "])
def test_the_three_values_of_a_compatible_endpoint_are_required_together(missing, blank):
    (problem,) = problems({**COMPATIBLE, missing: blank})
    assert missing in problem


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000/v1",
        "ftp://host/v1",
        "http://user:pass@host/v1",
        "http://user@host/v1",
        "http://host/v1?key=1",
        "http://host/v1#x",
        "http:///v1",
        "//host/v1",
        "http://host:99999/v1",
        "http://[::1/v1",
        "http://2130706433/v1",
        "http://0x7f.1/v1",
        "http://0177.0.0.1/v1",
        "http://127.1/v1",
        "http://127.0.0.1./v1",
        "http://127%2e0.0.1/v1",
        "http://１２７.0.0.1/v1",
    ],
)
def test_a_base_url_that_is_no_plain_http_url_is_refused(url):
    (problem,) = problems({**COMPATIBLE, "MCP_LLM_BASE_URL": url})
    assert "MCP_LLM_BASE_URL" in problem
    assert "pass" not in problem.replace("password", "")


@pytest.mark.parametrize(
    "price",
    ["1.5abc", "0.0000000001", "1000001", "-1", "1e3", "NaN", "Infinity", "1,5", ".", "+1", "0x10", "1 2"],
)
def test_a_price_with_anything_trailing_or_strange_is_refused(price):
    (problem,) = problems({**COMPATIBLE, "MCP_LLM_PRICE_INPUT_PER_M_USD": price})
    assert "MCP_LLM_PRICE_INPUT_PER_M_USD" in problem


def test_prices_are_exact_decimals():
    settings = load_settings({**COMPATIBLE, "MCP_LLM_PRICE_OUTPUT_PER_M_USD": "0.1"})
    assert settings.provider.declared_price.output == Decimal("0.1")


def test_two_prices_of_zero_are_said_at_startup_in_plain_words():
    assert "cost tracking and budgets do nothing" in load_settings(COMPATIBLE).warnings[0]
    assert not load_settings({**COMPATIBLE, "MCP_LLM_PRICE_OUTPUT_PER_M_USD": "0.1"}).warnings
    assert not load_settings(ANTHROPIC).warnings


@pytest.mark.parametrize("flag", ["openai", "Anthropic", "none"])
def test_an_unknown_provider_is_refused(flag):
    assert "MCP_LLM_PROVIDER" in problems({**ANTHROPIC, "MCP_LLM_PROVIDER": flag})[0]


def test_the_scripted_provider_never_runs_in_production():
    environ = {
        **SERVERS,
        "ENVIRONMENT": "production",
        "ALLOWED_ORIGINS": "https://chat.example.com",
        "MCP_LLM_PROVIDER": "scripted",
        "SCRIPTED_BASE_URL": "https://example.com/v1",
    }
    (problem,) = problems(environ)
    assert "never runs in production" in problem


@pytest.mark.parametrize(
    "url",
    [
        "http://llm.example.com/v1",
        "https://127.0.0.1/v1",
        "https://10.0.0.1/v1",
        "https://169.254.169.254/v1",
        "https://[::ffff:127.0.0.1]/v1",
        "https://vllm.internal:8000/v1",
    ],
)
def test_production_refuses_plain_http_and_internal_addresses_unless_listed(url):
    environ = {
        **COMPATIBLE,
        "ENVIRONMENT": "production",
        "ALLOWED_ORIGINS": "https://chat.example.com",
        "MCP_LLM_BASE_URL": url,
    }
    assert "MCP_LLM_ALLOWED_HOSTS" in problems(environ)[0]
    hosts = "llm.example.com, 127.0.0.1,10.0.0.1,169.254.169.254,::ffff:127.0.0.1,vllm.internal:8000"
    assert load_settings({**environ, "MCP_LLM_ALLOWED_HOSTS": hosts}).provider.base_url == url


@pytest.mark.parametrize(
    "entry",
    [
        "https://vllm",
        "10.0.0.0/8",
        "*.internal",
        "vllm:",
        "vllm:0",
        "vllm:99999",
        "vllm.",
        "127.1",
        "[::1",
        "::1]:80",
        "user@vllm",
        "a b",
    ],
)
def test_an_allowed_host_that_could_never_match_is_refused(entry):
    (problem,) = problems({**ANTHROPIC, "MCP_LLM_ALLOWED_HOSTS": f"vllm.internal,{entry}"})
    assert f"MCP_LLM_ALLOWED_HOSTS holds {entry!r}" in problem


def test_allowed_hosts_are_names_and_addresses_with_or_without_a_port():
    hosts = "vllm,Vllm.Internal:8000,10.0.0.1,10.0.0.1:80,::1,[::1],[fd00::1]:8000"
    allowed = load_settings({**ANTHROPIC, "MCP_LLM_ALLOWED_HOSTS": hosts}).provider.allowed_hosts
    assert allowed == set(hosts.lower().split(","))


def test_production_wants_its_origins_named():
    assert "ALLOWED_ORIGINS" in problems({**ANTHROPIC, "ENVIRONMENT": "production"})[0]


@pytest.mark.parametrize("value", ["0", "-1", "abc", "1.5", "9" * 40])
def test_a_limit_that_is_no_positive_whole_number_is_refused(value):
    assert "WORKER_TURNS" in problems({**ANTHROPIC, "WORKER_TURNS": value})[0]


def test_a_lease_that_is_shorter_than_its_renewal_is_refused():
    assert "LEASE_SECONDS" in problems({**ANTHROPIC, "LEASE_SECONDS": "2"})[0]


def test_a_key_that_no_header_can_carry_is_refused_without_being_shown():
    (problem,) = problems({**ANTHROPIC, "ANTHROPIC_API_KEY": "sk-\nsecret"})
    assert "secret" not in problem


def test_a_secret_does_not_show_itself():
    settings = load_settings({**ANTHROPIC, "ANTHROPIC_API_KEY": "sk-ant-hidden"})
    assert "hidden" not in repr(settings)
    assert "hidden" not in f"{settings.provider.api_key}"
    assert Secret("x").reveal() == "x"


@pytest.mark.parametrize("variable", [each for each in VARIABLES if each.secret], ids=lambda each: each.name)
@pytest.mark.parametrize(
    "value", ["hidden", "ftp://u:hidden@h/x?hidden", "http://[hidden", "hi dd en", "hidden\n"]
)
def test_no_secret_is_repeated_when_it_is_refused_or_shown(variable: Variable, value: str):
    with_it = COMPATIBLE if variable.name == "MCP_LLM_API_KEY" else ANTHROPIC
    read = Reader({**with_it, "LOG_LEVEL": "unknown", variable.name: value})
    settings = read_settings(read)
    assert any("LOG_LEVEL" in problem for problem in read.problems)
    for said in (*read.problems, repr(settings)):
        assert not re.search(r"hidden|dd en", said)


def test_a_rule_that_quotes_what_it_refuses_quotes_no_secret():
    problems: list[str] = []
    Given("A_NUMBER", "hidden", is_secret=True, problems=problems).refuse("use a number")
    Given("A_NUMBER", "shown", is_secret=False, problems=problems).refuse("use a number")
    assert problems == ["A_NUMBER is not valid: use a number", "A_NUMBER is 'shown': use a number"]


@pytest.mark.parametrize(
    "name", ["DATABASE_URL", "REDIS_URL", "ALLOWED_ORIGINS", "OTEL_EXPORTER_OTLP_ENDPOINT", "SENTRY_DSN"]
)
def test_an_address_that_cannot_be_split_is_one_of_the_problems(name: str):
    found = problems({**ANTHROPIC, "LOG_LEVEL": "unknown", name: "http://[::1"})
    assert {"LOG_LEVEL", name} <= {problem.split(" ")[0] for problem in found}


def test_every_variable_that_is_declared_is_documented():
    declared = {
        each
        for module in (provider_settings, settings_module)
        for each in vars(module).values()
        if isinstance(each, Variable)
    }
    for dialect in provider_settings.DIALECT_VARIABLES.values():
        declared |= set(dialect.variables())
    declared |= {*variables_of(ProviderSettings), *variables_of(Settings)}
    assert declared == set(VARIABLES)


def test_the_first_of_the_providers_answers():
    settings = load_settings(ANTHROPIC)
    assert settings.providers == (settings.provider,)


def test_what_no_operator_needs_to_know_stands_at_the_end():
    names = [variable.name for variable in VARIABLES]
    internal = [variable.name for variable in VARIABLES if variable.section is Section.INTERNAL]
    assert names[-len(internal) :] == internal
    assert "LEASE_SECONDS" not in internal
    assert {"LOG_MAX_ENTRIES", "PROVIDER_MAX_TEXT_BYTES", "LEASE_TRUST_SECONDS"} <= set(internal)
    assert load_settings({**ANTHROPIC, "LOG_MAX_ENTRIES": "100"}).log_max_entries == 100


def test_every_variable_says_what_it_means():
    assert all(variable.meaning.endswith(".") for variable in VARIABLES)
    assert len({variable.name for variable in VARIABLES}) == len(VARIABLES)


def test_a_queue_is_full_before_its_turns_expire():
    (problem,) = problems({**ANTHROPIC, "QUEUE_FULL_SECONDS": "30", "QUEUE_TIMEOUT_SECONDS": "30"})
    assert "QUEUE_FULL_SECONDS" in problem
    assert load_settings(ANTHROPIC).queue_full_seconds == 60

"""Money is exact."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.configuration.provider_settings import PRICED, load_priced_model
from shared.configuration.settings import load_settings
from shared.errors import SettingsError
from shared.money.price_table import FREE, SHIPPED, read_price_table
from shared.money.prices import is_free, is_known, most_cost, price_of
from shared.money.usage import Usage, estimate_tokens

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
SERVERS = {"DATABASE_URL": "postgresql://app@127.0.0.1/tk", "REDIS_URL": "redis://127.0.0.1"}
ENVIRON = {
    **SERVERS,
    "MCP_LLM_PROVIDER": "openai-compatible",
    "MCP_LLM_BASE_URL": "http://h/v1",
    "MCP_LLM_MODEL": "m",
    "MCP_LLM_API_KEY": "k",
}
ANTHROPIC = load_settings({**SERVERS, "ANTHROPIC_API_KEY": "k"}).provider
COMPATIBLE = load_settings(
    {**ENVIRON, "MCP_LLM_PRICE_INPUT_PER_M_USD": "0.02", "MCP_LLM_PRICE_OUTPUT_PER_M_USD": "0.03"}
).provider
COUNTS = st.integers(0, 10**9)


def usages():
    def make(given, read, written, output, share, thought):
        return Usage(given, read, written, output, output * thought // 100, written * share // 100)

    return st.builds(make, COUNTS, COUNTS, COUNTS, COUNTS, st.integers(0, 100), st.integers(0, 100))


def test_a_turn_of_a_cheap_model_is_not_free():
    usage = Usage(input_tokens=7, output_tokens=1)
    assert price_of(COMPATIBLE, usage, NOW).cost(usage) == Decimal("0.00000017")


def test_a_thousand_cheap_turns_cost_a_thousand_times_one():
    usage = Usage(input_tokens=1)
    price = price_of(COMPATIBLE, usage, NOW)
    assert sum(price.cost(usage) for _ in range(1000)) == 1000 * price.cost(usage) == Decimal("0.00002")


def test_cached_tokens_are_billed_at_their_own_rates():
    sonnet = replace(ANTHROPIC, model="claude-sonnet-4-5-20250929")
    usage = Usage(
        input_tokens=1_000_000,
        cache_read_tokens=1_000_000,
        cache_write_tokens=3_000_000,
        cache_write_1h_tokens=1_000_000,
        output_tokens=1_000_000,
        reasoning_tokens=400_000,
    )
    rates = (Decimal("3"), Decimal("0.30"), 2 * Decimal("3.75"), Decimal("6"), Decimal("15"))
    assert price_of(sonnet, usage, NOW).cost(usage) == sum(rates)


def test_a_long_prompt_is_billed_at_the_long_prompts_rate():
    haiku = replace(ANTHROPIC, model="claude-haiku-5-5")
    short, long = Usage(input_tokens=100_000), Usage(input_tokens=60_000, cache_read_tokens=40_001)
    assert price_of(haiku, short, NOW).input == Decimal("0.10")
    assert price_of(haiku, long, NOW).input == Decimal("0.50")


def test_an_unknown_model_is_billed_as_the_dearest_and_marked():
    unknown = replace(ANTHROPIC, model="claude-next")
    price = price_of(unknown, Usage(), NOW)
    assert not is_known(unknown)
    assert price.output == Decimal("75")
    assert price.as_dict()["assumed"] is True
    assert is_known(ANTHROPIC)
    assert price_of(ANTHROPIC, Usage(), NOW).as_dict()["assumed"] is False


def test_an_unknown_model_is_said_at_startup():
    (warning,) = load_settings(
        {**SERVERS, "ANTHROPIC_API_KEY": "k", "ANTHROPIC_MODEL": "claude-next"}
    ).warnings
    assert "'claude-next' has no price" in warning


def test_declared_prices_are_those_of_the_compatible_endpoint():
    price = price_of(COMPATIBLE, Usage(), NOW)
    assert price.rates() == {
        "input": Decimal("0.02"),
        "output": Decimal("0.03"),
        "cache_read": Decimal("0.02"),
        "cache_write_5m": Decimal("0.02"),
        "cache_write_1h": Decimal("0.02"),
    }


def test_what_the_ledger_keeps_is_written_out_in_full():
    assert price_of(ANTHROPIC, Usage(), NOW).as_dict() == {
        "input_per_m_usd": "2",
        "output_per_m_usd": "10",
        "cache_read_per_m_usd": "0.1",
        "cache_write_5m_per_m_usd": "2.5",
        "cache_write_1h_per_m_usd": "4",
        "assumed": False,
    }


@given(usages())
def test_a_cost_is_the_sum_of_its_classes_and_never_negative(usage):
    price = price_of(ANTHROPIC, usage, NOW)
    parts = (
        usage.input_tokens * price.input,
        usage.cache_read_tokens * price.cache_read,
        (usage.cache_write_tokens - usage.cache_write_1h_tokens) * price.cache_write_5m,
        usage.cache_write_1h_tokens * price.cache_write_1h,
        usage.output_tokens * price.output,
    )
    assert price.cost(usage) * 1_000_000 == sum(parts)
    assert price.cost(usage) >= 0


@given(usages(), usages())
def test_two_calls_cost_what_each_of_them_costs(one, other):
    price = price_of(ANTHROPIC, one, NOW)
    assert price.cost(one + other) == price.cost(one) + price.cost(other)


@given(usages(), st.sampled_from(["claude-haiku-5-5", "claude-opus-4-1", "claude-next"]))
def test_no_call_within_its_bounds_costs_more_than_the_most(usage, model):
    priced = replace(ANTHROPIC, model=model)
    prompt = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
    for bound in (prompt, prompt + 1, 2 * prompt + 200_000):
        most = price_of(priced, Usage(input_tokens=bound), NOW)
        assert price_of(priced, usage, NOW).cost(usage) <= most_cost(most, bound, usage.output_tokens)


def test_the_most_of_a_call_is_a_cache_write_of_an_hour_where_there_is_one():
    sonnet = price_of(replace(ANTHROPIC, model="claude-sonnet-4-5"), Usage(), NOW)
    assert most_cost(sonnet, 1_000_000, 1_000_000) == Decimal(6 + 15)
    assert most_cost(price_of(COMPATIBLE, Usage(), NOW), 1_000_000, 1_000_000) == Decimal("0.05")


# The file.

FILE = """
source = "a contract"
as_of = 2026-10-01

[[prices]]
provider = "anthropic"
model = "claude-x"
input = 3
output = 15
cache_read = 0.3
cache_write_5m = 3.75
cache_write_1h = 6

[[prices]]
provider = "openai-compatible"
model = "m"
valid_from = 2026-01-01
input = 0.1
output = 0.4

[[prices]]
provider = "openai-compatible"
model = "m"
valid_from = 2026-12-01
input = 0.2
output = 0.8
cache_read = 0.05
"""


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "prices.toml"
        path.write_text(text)
        return str(path)

    return write


def test_the_shipped_table_is_valid_and_says_where_it_is_from():
    problems = []
    table = read_price_table(SHIPPED, PRICED, problems)
    assert problems == []
    assert table.source
    assert table.as_of is not None
    for entry in table.entries:
        # Anthropic's rule for every model: writes that live five minutes cost a quarter more, an hour twice.
        assert entry.price.cache_write_5m == entry.price.input * Decimal("1.25")
        assert entry.price.cache_write_1h == entry.price.input * 2
        assert 0 < entry.price.cache_read < entry.price.input < entry.price.output


@pytest.mark.parametrize(
    ("at", "input_rate", "cache_read"),
    [
        (datetime(2025, 6, 1, tzinfo=UTC), "0.1", "0.1"),
        (datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC), "0.1", "0.1"),
        (datetime(2026, 12, 1, tzinfo=UTC), "0.2", "0.05"),
        (datetime(2026, 12, 1, 0, 30, tzinfo=timezone(timedelta(hours=1))), "0.1", "0.1"),
        (datetime(2030, 1, 1, tzinfo=UTC), "0.2", "0.05"),
    ],
)
def test_a_price_holds_from_its_day_in_utc_until_the_next(written, at, input_rate, cache_read):
    provider = load_settings({**ENVIRON, "PRICES_FILE": written(FILE)}).provider
    price = price_of(provider, Usage(), at)
    assert (price.input, price.cache_read) == (Decimal(input_rate), Decimal(cache_read))


def test_the_operators_file_stands_in_for_the_shipped_one(written):
    environ = {**SERVERS, "ANTHROPIC_API_KEY": "k", "PRICES_FILE": written(FILE)}
    provider = load_settings(environ).provider
    price = price_of(provider, Usage(), NOW)
    assert (price.input, price.assumed) == (Decimal(3), True)


def test_declared_prices_win_over_the_file_also_when_they_are_zero(written):
    environ = {**ENVIRON, "PRICES_FILE": written(FILE)}
    dear = load_settings({**environ, "MCP_LLM_PRICE_OUTPUT_PER_M_USD": "7"}).provider
    assert price_of(dear, Usage(), NOW).output == Decimal(7)
    free = load_settings({**environ, "MCP_LLM_PRICE_INPUT_PER_M_USD": "0"})
    assert price_of(free.provider, Usage(), NOW) == FREE
    assert "cost tracking and budgets do nothing" in free.warnings[0]
    assert load_settings(environ).warnings == ()


def test_without_any_price_the_compatible_endpoint_is_free():
    assert is_free(load_settings(ENVIRON).provider)


def test_a_price_can_be_known_without_a_key_or_a_server(written):
    priced, warnings = load_priced_model({"PRICES_FILE": written(FILE)})
    assert (priced.name, priced.model) == ("anthropic", "claude-sonnet-5-5")
    assert len(warnings) == 1


WRONG = """
sauce = "x"
as_of = "2026-10-01"

[[prices]]
provider = "anthropic"
model = "a"
input = -1
output = 15
cache_read = "0.3"
cache_write_5m = nan
cache_write_1h = inf

[[prices]]
provider = "nobody"
model = ""
valid_from = 2026-01-01T00:00:00Z
input = true
output = 1e9

[[prices]]
provider = "anthropic"
model = "b"
inputs = 1
input = 1.0000000001
long_prompt = { above_tokens = 0, input = 0, output = 0, cache_read = 0, cache_write_5m = 0, cache_write_1h = 0 }

[[prices]]
provider = "openai-compatible"
model = "c"
input = 2
output = 1
long_prompt = { above_tokens = 10, input = 1, output = 1 }

[[prices]]
provider = "openai-compatible"
model = "c"
input = 1
output = 1
"""


def test_everything_that_is_wrong_with_a_file_is_said_in_one_message(written):
    with pytest.raises(SettingsError) as refused:
        load_settings({**ENVIRON, "PRICES_FILE": written(WRONG), "WORKER_TURNS": "0"})
    said = str(refused.value)
    for part in (
        "WORKER_TURNS",
        "'sauce' means nothing here",
        "as_of is 2026-10-01, not a day",
        "price 1 ('a'): input is -1",
        "price 1 ('a'): cache_read is 0.3",
        "price 1 ('a'): cache_write_5m is NaN",
        "price 1 ('a'): cache_write_1h is Infinity",
        "price 2 (''): provider is 'nobody'",
        "price 2 (''): model must be its name",
        "price 2 (''): valid_from is 2026-01-01 00:00:00+00:00",
        "price 2 (''): input is True",
        "price 2 (''): output is 1E+9",
        "price 3 ('b'): 'inputs' means nothing here",
        "price 3 ('b'): input is 1.0000000001",
        "price 3 ('b'): cache_read, cache_write_1h, cache_write_5m, output missing",
        "price 3 ('b'): long_prompt: above_tokens is 0",
        "price 4 ('c'): long_prompt: input is less than for a short prompt",
        "'c' of openai-compatible has two prices",
    ):
        assert part in said, part


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no [[prices]]"),
        ("prices = 1", "holds no [[prices]]"),
        ("prices = [1]", "holds no [[prices]]"),
        ("[[prices", "are no TOML"),
        ("a = " + "[" * 5000 + "]" * 5000, "are no TOML"),
        ("#" * (1 << 20) + "\n\n", "have more than"),
    ],
    ids=["empty", "a number", "a list", "broken", "deep", "huge"],
)
def test_a_file_that_is_no_list_of_prices_is_refused(written, text, said):
    with pytest.raises(SettingsError) as refused:
        load_settings({**ENVIRON, "PRICES_FILE": written(text)})
    assert said in str(refused.value)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings({**ENVIRON, "PRICES_FILE": str(tmp_path / "none.toml")})


def test_a_file_without_a_price_of_the_provider_in_use_is_refused(written):
    environ = {**SERVERS, "ANTHROPIC_API_KEY": "k"}
    only = '[[prices]]\nprovider = "openai-compatible"\nmodel = "m"\ninput = 1\noutput = 1\n'
    with pytest.raises(SettingsError, match="none is of anthropic"):
        load_settings({**environ, "PRICES_FILE": written(only)})


def test_an_estimate_is_a_token_for_four_bytes_and_never_nothing_for_something():
    assert [estimate_tokens(text) for text in ("", "a", "abcd", "abcde", "日本")] == [0, 1, 1, 2, 2]

"""Money is exact."""

from dataclasses import replace
from decimal import Decimal

from shared.prices import is_known, price_of
from shared.settings import ProviderName, load_settings
from shared.usage import Usage, estimate_tokens

SERVERS = {"DATABASE_URL": "postgresql://app@127.0.0.1/tk", "REDIS_URL": "redis://127.0.0.1"}
ANTHROPIC = load_settings({**SERVERS, "ANTHROPIC_API_KEY": "k"}).provider
COMPATIBLE = load_settings(
    {
        **SERVERS,
        "MCP_LLM_PROVIDER": "openai-compatible",
        "MCP_LLM_BASE_URL": "http://h/v1",
        "MCP_LLM_MODEL": "m",
        "MCP_LLM_API_KEY": "k",
        "MCP_LLM_PRICE_INPUT_PER_M_USD": "0.02",
        "MCP_LLM_PRICE_OUTPUT_PER_M_USD": "0.03",
    }
).provider


def test_a_turn_of_a_cheap_model_is_not_free():
    usage = Usage(input_tokens=7, output_tokens=1)
    assert price_of(COMPATIBLE, usage).cost(usage) == Decimal("0.00000017")


def test_a_thousand_cheap_turns_cost_a_thousand_times_one():
    usage = Usage(input_tokens=1)
    price = price_of(COMPATIBLE, usage)
    assert sum(price.cost(usage) for _ in range(1000)) == 1000 * price.cost(usage) == Decimal("0.00002")


def test_cached_tokens_are_billed_at_their_own_rates():
    sonnet = replace(ANTHROPIC, model="claude-sonnet-4-5-20250929")
    usage = Usage(
        input_tokens=1_000_000,
        cache_read_tokens=1_000_000,
        cache_write_tokens=1_000_000,
        output_tokens=1_000_000,
        reasoning_tokens=400_000,
    )
    assert price_of(sonnet, usage).cost(usage) == Decimal("3") + Decimal("0.30") + Decimal("3.75") + Decimal(
        "15"
    )


def test_a_long_prompt_is_billed_at_the_long_prompts_rate():
    haiku = replace(ANTHROPIC, model="claude-haiku-5-5")
    short, long = Usage(input_tokens=100_000), Usage(input_tokens=60_000, cache_read_tokens=40_001)
    assert price_of(haiku, short).input == Decimal("0.10")
    assert price_of(haiku, long).input == Decimal("0.50")


def test_an_unknown_model_is_billed_as_the_dearest_and_marked():
    unknown = replace(ANTHROPIC, model="claude-next")
    assert not is_known(unknown)
    assert price_of(unknown, Usage()).output == Decimal("75")
    assert is_known(ANTHROPIC)


def test_declared_prices_are_those_of_the_compatible_endpoint():
    assert COMPATIBLE.name is ProviderName.OPENAI_COMPATIBLE
    price = price_of(COMPATIBLE, Usage())
    assert (price.input, price.output, price.cache_read) == (
        Decimal("0.02"),
        Decimal("0.03"),
        Decimal("0.02"),
    )


def test_an_estimate_is_a_token_for_four_bytes_and_never_nothing_for_something():
    assert [estimate_tokens(text) for text in ("", "a", "abcd", "abcde", "日本")] == [0, 1, 1, 2, 2]

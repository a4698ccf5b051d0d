"""The most that a turn can cost is never less than what a provider counts of it (I6)."""

from decimal import Decimal

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from shared.money.holds import least_tokens, most_prompt_tokens, most_text_tokens, payable_tokens
from shared.money.price_table import Price
from shared.money.prices import most_cost
from shared.turn.parts import parts_of
from shared.turn.turns import Role
from turnkeeper.scripted.ask import Dialect, read_ask
from worker.turn.prompt import StoredMessage, build_prompt, prompt_tokens

PRICE = Price(Decimal(3), Decimal(15), Decimal("0.30"), Decimal("3.75"), Decimal(6))
CONTEXT = 1000
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300)


def stored(texts):
    """Questions and answers in turn; the last is the question."""
    roles = (Role.USER, Role.ASSISTANT)
    return [
        StoredMessage(number // 2 + 1, roles[number % 2], parts_of(text)) for number, text in enumerate(texts)
    ]


@given(st.lists(TEXTS, min_size=1, max_size=9).filter(lambda texts: len(texts) % 2), TEXTS | st.none())
def test_the_bound_is_never_below_what_the_scripted_provider_and_our_estimate_count(texts, system):
    prompt, _ = build_prompt(stored(texts), system=system, max_output_tokens=16, context_tokens=10_000)
    bound = most_prompt_tokens(
        most_text_tokens(system or "") + sum(most_text_tokens(text) for text in texts), 10_000
    )
    counted = scripted_count(prompt)
    assert 0 < counted <= bound
    assert prompt_tokens(prompt) <= bound


def scripted_count(prompt):
    messages = [{"role": message.role.value, "content": message.content} for message in prompt.messages]
    if prompt.system is not None:
        messages.insert(0, {"role": "system", "content": prompt.system})
    return read_ask(Dialect.OPENAI, msgspec.json.encode({"model": "m", "messages": messages})).input_tokens


@given(st.lists(st.text("ab", min_size=1, max_size=2000), min_size=1, max_size=15))
def test_whatever_a_session_holds_no_more_is_sent_than_the_context_bounds(texts):
    messages = stored(texts[: (len(texts) - 1) // 2 * 2 + 1])
    assume(len(messages[-1].content) < 3000)
    prompt, _ = build_prompt(messages, system="ab", max_output_tokens=16, context_tokens=CONTEXT)
    sent = most_text_tokens("ab") + sum(most_text_tokens(message.content) for message in prompt.messages)
    everything = most_text_tokens("ab") + sum(most_text_tokens(message.content) for message in messages)
    assert sent <= most_prompt_tokens(everything, CONTEXT)


@given(st.integers(0, 10**6), st.integers(1, 10**5), st.decimals(0, 10, places=9))
def test_what_an_amount_pays_for_costs_no_more_and_one_token_more_would(prompt, asked, usd):
    tokens = payable_tokens(PRICE, usd, prompt, asked)
    assert 0 <= tokens <= asked
    if most_cost(PRICE, prompt, 0) > usd:
        assert tokens == 0
        return
    assert most_cost(PRICE, prompt, tokens) <= usd
    assert tokens == asked or most_cost(PRICE, prompt, tokens + 1) > usd


@pytest.mark.parametrize(("asked", "least"), [(1, 1), (15, 15), (16, 16), (4096, 16)])
def test_an_answer_of_a_few_tokens_is_none_unless_no_more_was_asked_for(asked, least):
    assert least_tokens(asked) == least


def test_a_free_answer_is_paid_by_nothing():
    free = Price(Decimal(0), Decimal(0), Decimal(0), Decimal(0), Decimal(0))
    assert payable_tokens(free, Decimal(0), 10**6, 50) == 50

"""The figures of a chat completion: where they stand, what forms they have, and what the total says about them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.providers.figures import figures_of, usages_in
from worker.providers.provider import UsageConflict
from worker.providers.reading import MOST_TOKENS, token_count

COUNTS = st.integers(1, 10**6)


@pytest.mark.parametrize(
    ("value", "count"),
    [
        (5, 5),
        (5.0, 5),
        (5.01, 6),
        ("5", 5),
        (" 5.5 ", 6),
        (1e3, 1000),
        (0, 0),
        ("-5", 0),
        (-5, 0),
        (-0.5, 0),
        ("5e3", 0),
        ("", 0),
        (None, 0),
        (True, 0),
        ([5], 0),
        (float("nan"), 0),
        (float("inf"), 0),
        (10**10, MOST_TOKENS),
        (10**400, MOST_TOKENS),
        (7.5e9, MOST_TOKENS),
        ("7500000000", MOST_TOKENS),
        ("9" * 40, 0),
    ],
)
def test_a_number_of_tokens_is_read_in_every_form(value, count):
    assert token_count(value) == count


@given(st.one_of(st.floats(), st.integers(), st.text(), st.booleans(), st.none()))
def test_no_figure_is_negative_or_absurd(value):
    assert 0 <= token_count(value) <= MOST_TOKENS


@given(COUNTS, COUNTS, COUNTS)
def test_the_total_says_whether_thinking_is_within_the_completion_or_beside_it(prompt, completion, thinking):
    usage = {"prompt_tokens": prompt, "completion_tokens": completion + thinking}
    details = {"completion_tokens_details": {"reasoning_tokens": thinking}}
    within = figures_of({**usage, **details, "total_tokens": prompt + completion + thinking})
    usage["completion_tokens"] = completion
    beside = figures_of({**usage, **details, "total_tokens": prompt + completion + thinking})
    assert (
        (within.output, within.conflict) == (beside.output, beside.conflict) == (completion + thinking, None)
    )
    assert within.reasoning == beside.reasoning == thinking


@given(COUNTS, COUNTS, COUNTS)
def test_the_total_says_whether_cached_tokens_are_within_the_prompt_or_beside_it(fresh, cached, completion):
    details = {"completion_tokens": completion, "prompt_tokens_details": {"cached_tokens": cached}}
    total = fresh + cached + completion
    within = figures_of({"prompt_tokens": fresh + cached, **details, "total_tokens": total})
    beside = figures_of({"prompt_tokens": fresh, **details, "total_tokens": total})
    assert within.prompt == beside.prompt == fresh + cached
    assert within.cached == beside.cached == cached


def test_a_total_that_agrees_with_nothing_is_kept_beside_the_figures():
    told = {"reasoning_tokens": 2, "prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 400}
    figures = figures_of(told)
    assert (figures.prompt, figures.output) == (20, 5)
    assert figures.conflict == UsageConflict(20, 5, 2, 400)


@pytest.mark.parametrize(
    ("usage", "prompt", "output"),
    [
        ({"prompt_tokens": 20, "total_tokens": 25}, 20, 5),
        ({"completion_tokens": 5, "total_tokens": 25}, 20, 5),
        ({"prompt_tokens": 20, "total_tokens": 20}, 20, 0),
        ({"total_tokens": 25}, 0, 0),
        ({"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 0}, 20, 5),
        ({}, 0, 0),
    ],
)
def test_of_two_figures_the_total_gives_the_missing_one(usage, prompt, output):
    figures = figures_of(usage)
    assert (figures.prompt, figures.output, figures.conflict) == (prompt, output, None)


def test_usage_is_found_wherever_a_server_puts_it_and_no_deeper():
    usage = {"prompt_tokens": 1}
    for chunk in (
        {"usage": usage},
        {"choices": [{"usage": usage}]},
        {"x_groq": {"usage": usage}},
        {"choices": [{"message": {"usage": usage}}]},
    ):
        assert list(usages_in(chunk)) == [usage]
    deep = {"usage": usage}
    for _ in range(2000):
        deep = {"a": deep}
    assert list(usages_in(deep)) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["prompt_tokens", "total_tokens", "usage", "prompt_tokens_details", "cached_tokens"]
            ),
            inner,
        )
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["prompt_tokens", "completion_tokens", "total_tokens", "x"]), JSON))
def test_parts_never_exceed_their_whole_whatever_is_sent(usage):
    figures = figures_of(usage)
    assert 0 <= figures.cached + figures.written <= figures.prompt
    assert 0 <= figures.reasoning <= figures.output

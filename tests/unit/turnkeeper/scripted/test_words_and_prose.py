from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnkeeper.scripted.prose import reply
from turnkeeper.scripted.words import tokens_of, words


def test_the_same_seed_gives_the_same_text():
    assert list(islice(words(7), 500)) == list(islice(words(7), 500))


def test_another_seed_gives_another_text():
    assert list(islice(words(7), 50)) != list(islice(words(8), 50))


def test_losing_repeating_or_swapping_a_token_changes_the_text():
    text = list(islice(words("seed"), 400))
    whole = "".join(text)
    for place in range(1, 399):
        assert "".join(text[:place] + text[place + 1 :]) != whole
        assert "".join([*text[:place], text[place], *text[place:]]) != whole


@given(st.text())
def test_tokens_joined_are_the_text(text):
    assert "".join(tokens_of(text)) == text
    assert all(tokens_of(text))


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("What is a turn?", "A **turn** is"),
        ("How does Stop work?", "**Stop** ends a turn"),
        ("what happens when a worker dies?", "lease"),
        ("How is cost counted?", "**hold**"),
        ("How do I configure a real provider?", "MCP_LLM_PROVIDER=anthropic"),
        ("Does it resume after a reload?", "`seq`"),
        ("How are tenants kept apart? Is it secure?", "row-level security"),
        ("Hello", "I am the scripted provider"),
        ("", "I am the scripted provider"),
    ],
)
def test_a_question_about_turnkeeper_gets_its_page(question, expected):
    assert expected in reply(question)


def test_how_to_configure_a_real_provider_names_every_variable():
    told = reply("configure provider")
    for variable in (
        "MCP_LLM_PROVIDER",
        "ANTHROPIC_API_KEY",
        "MCP_LLM_BASE_URL",
        "MCP_LLM_MODEL",
        "MCP_LLM_API_KEY",
        "MCP_LLM_PRICE_INPUT_PER_M_USD",
        "MCP_LLM_PRICE_OUTPUT_PER_M_USD",
    ):
        assert variable in told


def test_prose_has_no_broken_lines_within_its_paragraphs():
    for question in ("turn", "stop", "die", "cost", "config", "resume", "tenant", "script", "hello"):
        assert "\\" not in reply(question)
        assert "  " not in reply(question).replace("\n   ", "")

"""What is continued, how it is asked for, and how the two texts are joined."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.money.usage import Usage, UsageSource
from shared.turn.turns import Role
from worker.providers.provider import Capabilities, Prompt, text_message
from worker.turn.continuation import Seam, continued, is_continued
from worker.turn.outcome import Answer

ABLE = Capabilities(continuation=True)
PROMPT = Prompt((text_message(Role.USER, "question"),), None, 100)


def answer(content, reasoning=""):
    return Answer(content, reasoning, called=True, usage=Usage(), usage_source=UsageSource.ESTIMATED)


@pytest.mark.parametrize(
    ("left", "capabilities", "goes_on"),
    [
        (answer("text"), ABLE, True),
        (answer("text"), Capabilities(), False),
        (answer("", "thought"), ABLE, False),
        (answer("text", "thought"), ABLE, False),
        (answer(" \n"), ABLE, False),
        (answer(""), ABLE, False),
    ],
)
def test_a_text_is_continued_when_the_provider_can_and_no_thought_was_shown(left, capabilities, goes_on):
    assert is_continued(left, capabilities) is goes_on


def test_the_prompt_ends_with_the_text_and_leaves_what_it_did_not_use_of_the_limit():
    asked = continued(PROMPT, "x" * 40 + "\n\n")
    assert asked.messages == (*PROMPT.messages, text_message(Role.ASSISTANT, "x" * 40))
    assert asked.max_output_tokens == 89
    assert asked.continues()
    assert not PROMPT.continues()


def test_a_text_at_its_limit_may_still_end():
    assert continued(PROMPT, "x" * 4000).max_output_tokens == 1


WORDS = st.text(alphabet="ab \n", max_size=12)


@given(WORDS, WORDS, st.data())
def test_a_text_cut_anywhere_is_whole_again_however_its_rest_is_cut(text, rest, data):
    whole = text + "." + rest
    cut = data.draw(st.integers(0, len(whole)))
    shown = whole[:cut]
    # What a model says that was given the text without the space at its end.
    said = whole[len(shown.rstrip()) :]
    seam, pieces = Seam(shown), []
    while said:
        size = data.draw(st.integers(1, len(said)))
        pieces.append(seam.join(said[:size]))
        said = said[size:]
    assert shown + "".join(pieces) == whole


def test_a_rest_without_the_space_is_taken_as_it_is():
    assert Seam("one ").join("two") == "two"

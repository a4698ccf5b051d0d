"""From stored messages to a prompt."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import Fault
from shared.turn.parts import parts_of
from shared.turn.turns import Role
from worker.turn.prompt import PromptRefusedError, StoredMessage, build_prompt, prompt_tokens

ANSWER_TOKENS = 100


def stored(*texts):
    """Turn `("q1", "a1", "q2")` into messages; None stands for an answer that is missing."""
    messages = []
    for index, text in enumerate(texts):
        if text is not None:
            role = "user" if index % 2 == 0 else "assistant"
            messages.append(StoredMessage(index // 2 + 1, role, parts_of(text)))
    return messages


def build(messages, context_tokens=10_000, system=None):
    return build_prompt(
        messages, system=system, max_output_tokens=ANSWER_TOKENS, context_tokens=context_tokens
    )


def test_the_question_comes_last_and_once():
    prompt, trimmed = build(stored("q1", "a1", "q2"))
    assert [(message.role, message.content) for message in prompt.messages] == [
        (Role.USER, "q1"),
        (Role.ASSISTANT, "a1"),
        (Role.USER, "q2"),
    ]
    assert trimmed == 0


def test_a_question_whose_turn_failed_is_joined_with_the_next_because_templates_refuse_two_in_a_row():
    prompt, _ = build(stored("q1", None, "q2"))
    assert [message.content for message in prompt.messages] == ["q1\n\nq2"]


def test_the_oldest_whole_turns_are_left_out_and_counted():
    long = "x" * 4000  # about a thousand tokens
    prompt, trimmed = build(stored(long, long, long, long, "q3"), context_tokens=2300)
    assert trimmed == 1
    assert len(prompt.messages) == 3


def test_a_question_that_alone_is_too_long_is_refused_before_any_call():
    with pytest.raises(PromptRefusedError) as refused:
        build(stored("x" * 40_000), context_tokens=1000)
    assert refused.value.fault is Fault.CONTEXT_TOO_LONG


def test_tool_use_in_the_history_is_refused_rather_than_silently_cut():
    messages = [
        *stored("q1", "a1"),
        StoredMessage(1, "tool", parts_of("{}")),
        StoredMessage(2, "user", parts_of("q2")),
    ]
    with pytest.raises(PromptRefusedError) as refused:
        build(messages)
    assert refused.value.fault is Fault.TOOL_USE_IN_HISTORY


def test_a_chat_without_a_system_prompt_gets_none_that_advertises_tools():
    prompt, _ = build(stored("q1"))
    assert prompt.system is None


@given(
    st.lists(st.one_of(st.none(), st.text(min_size=1, max_size=400)), max_size=12),
    st.text(min_size=1, max_size=200),
    st.integers(200, 1500),
)
def test_roles_alternate_begin_and_end_with_the_user_and_fit(history, question, context_tokens):
    texts = [text if text is not None or index % 2 else "q" for index, text in enumerate(history)]
    if len(texts) % 2:
        texts.append(None)
    prompt, trimmed = build(stored(*texts, question), context_tokens=context_tokens)
    roles = [message.role for message in prompt.messages]
    assert roles == [Role.USER if index % 2 == 0 else Role.ASSISTANT for index in range(len(roles))]
    assert roles[-1] is Role.USER
    assert prompt.messages[-1].content.endswith(question)
    assert 0 <= trimmed <= len(texts) // 2
    assert prompt_tokens(prompt) + ANSWER_TOKENS <= context_tokens + len(prompt.messages)

"""From stored messages to a prompt."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import Fault
from shared.turn.parts import parts_of
from shared.turn.turns import Role
from worker.turn.prompt import (
    History,
    PromptRefusedError,
    StoredMessage,
    build_prompt,
    prompt_tokens,
    size_of,
)

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
    st.integers(300, 1500),
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
    assert prompt_tokens(prompt) + prompt.max_output_tokens <= context_tokens + len(prompt.messages)


def lengths():
    """Return turns of a conversation, each with the length of its question and of its answer; None: no answer."""
    return st.lists(
        st.tuples(st.integers(1, 300), st.one_of(st.none(), st.integers(1, 300))), min_size=1, max_size=80
    )


def growing(turns):
    """Yield the conversation at each of its questions."""
    texts = []
    for question, answer in turns:
        yield stored(*texts, "q" * question)
        texts += ["q" * question, None if answer is None else "a" * answer]


def tokens_of(messages):
    return sum(size_of(message.content) for message in messages)


@given(lengths(), st.integers(400, 2000), st.one_of(st.none(), st.text("s", min_size=1, max_size=300)))
def test_a_prompt_begins_with_the_same_turn_until_a_quarter_of_its_room_is_filled_anew(
    turns, context, system
):
    firsts = []
    for messages in growing(turns):
        prompt, first = build(messages, context_tokens=context, system=system)
        assert prompt_tokens(prompt) + prompt.max_output_tokens <= context + len(prompt.messages)
        firsts.append(first)
    assert firsts == sorted(firsts)  # what was left out does not come back
    room = context - ANSWER_TOKENS - size_of(system or "")
    changes = sum(one != other for one, other in itertools.pairwise(firsts))
    assert changes <= tokens_of(messages) // (room // 4) + 1


def test_the_beginning_of_the_prompt_stands_for_many_turns():
    """Forty turns of 100 tokens in a room of 2,000: as many as fit would change the prefix with each of the last 20."""
    turns = [(184, 184)] * 40  # 50 tokens each, with what a template adds
    firsts = [build(messages, context_tokens=2000 + ANSWER_TOKENS)[1] for messages in growing(turns)]
    changes = [number for number, (one, other) in enumerate(itertools.pairwise(firsts)) if one != other]
    assert [later - earlier for earlier, later in itertools.pairwise(changes)] == [4, 5, 5, 5]


def test_turns_longer_than_a_quarter_are_left_out_one_by_one():
    turns = [(2000, 1900)] * 12  # nearly a thousand tokens each
    firsts = [build(messages, context_tokens=3000 + ANSWER_TOKENS)[1] for messages in growing(turns)]
    assert firsts == [0, 0, 0, *range(1, 10)]


@given(lengths(), st.integers(400, 1200), st.integers(0, 40))
def test_what_was_not_read_changes_nothing(turns, context, unread):
    """A worker reads the newest messages alone, but counts from the beginning of the conversation."""
    *_, messages = growing(turns)
    whole = History(messages, system=None).fit(context, ANSWER_TOKENS)
    numbers = sorted({message.turn_number for message in messages})
    unread = min(unread, whole.first)  # more than fits is always read
    read = [message for message in messages if message.turn_number >= numbers[unread]]
    cut = History(read, system=None, unread_tokens=tokens_of(messages) - tokens_of(read))
    assert cut.fit(context, ANSWER_TOKENS).first == whole.first - unread


@pytest.mark.parametrize(
    ("asked", "context", "question", "given"),
    [
        (100, 1000, 10, 100),
        (750, 1000, 10, 750),
        (4096, 4096, 10, 2048),  # the default beside a small model: its conversations need room as well
        (4096, 4096, 3000, 1096),
        (4096, 4096, 3900, 512),  # not less: such a question is refused
        (100, 1000, 950, 100),
    ],
)
def test_an_answers_limit_leaves_room_for_the_conversation(asked, context, question, given):
    fit = History(stored("x" * (question * 4 - 16)), system=None).fit(context, asked)
    assert (fit.needed_tokens, fit.answer_tokens) == (question, given)


def test_a_system_prompt_that_is_too_long_by_itself_is_named():
    with pytest.raises(
        PromptRefusedError, match=r"system prompt is longer .* open a session with a shorter one"
    ):
        build(stored("Hi"), context_tokens=1000, system="x" * 4000)

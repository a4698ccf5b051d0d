"""A prompt that is refused is made shorter, or asked without what may be refused in it."""

import itertools
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ContextTold, Fault
from shared.ids import new_id
from shared.turn.parts import parts_of
from worker.providers.context import ContextMemory
from worker.turn.fitting import Fitting
from worker.turn.prompt import History, PromptRefusedError, StoredMessage, prompt_tokens

ACME = new_id()
OUTPUT = 100


def history(*texts, system=None):
    """Turns `("q1", "a1", "q2")`; None stands for an answer that is missing."""
    messages = [
        StoredMessage(index // 2 + 1, "assistant" if index % 2 else "user", parts_of(text))
        for index, text in enumerate(texts)
        if text is not None
    ]
    return History(messages, system=system)


def fitting(talk, context=100_000, memory=None, organization: UUID = ACME, output=OUTPUT, unread=0):
    memory = memory if memory is not None else ContextMemory()
    return Fitting(talk, output, context, memory, organization, unread_turns=unread)


def long_talk(turns, tokens=100, question="Hi"):
    """A talk of so many turns before the question, each of about `tokens` tokens."""
    half = "x" * (tokens * 2 - 16)
    return history(*[half] * (2 * turns), question)


def asks_of(one, context, *, density=1.0, tells=True):
    """Refuse prompts of more than `context` tokens, as a provider with a denser tokenizer; return the asks."""
    asked = [one.prompt]
    while (counted := round(prompt_tokens(asked[-1]) * density)) + asked[-1].max_output_tokens > context:
        told = ContextTold(context, counted) if tells else None
        prompt = one.again(Fault.CONTEXT_TOO_LONG, told)
        if prompt is None:
            return asked, False
        asked.append(prompt)
    one.taken()
    return asked, True


def test_a_limit_that_is_told_is_used_at_once():
    one = fitting(long_talk(50))
    asked, is_taken = asks_of(one, 2000)
    assert (len(asked), is_taken) == (2, True)
    assert 1300 < prompt_tokens(one.prompt) <= 1900
    assert one.left_out() == 50 - (len(one.prompt.messages) - 1) // 2


@pytest.mark.parametrize("density", [1.3, 2.0, 3.9])
def test_a_text_with_more_tokens_than_estimated_is_measured_by_what_was_counted(density):
    one = fitting(long_talk(50))
    asked, is_taken = asks_of(one, 2000, density=density)
    assert (len(asked), is_taken) == (2, True)


def test_without_figures_half_of_what_can_go_is_left_out_each_time():
    one = fitting(long_talk(64))
    asked, is_taken = asks_of(one, 2000, tells=False)
    assert is_taken
    sizes = [prompt_tokens(prompt) for prompt in asked]
    assert len(sizes) == 3
    assert all(later <= earlier / 2 + 100 for earlier, later in itertools.pairwise(sizes))


def test_in_the_end_the_question_is_asked_alone():
    one = fitting(long_talk(64))
    asked, is_taken = asks_of(one, OUTPUT + 10, tells=False)
    assert (len(asked), is_taken) == (5, True)
    assert [message.content for message in one.prompt.messages] == ["Hi"]
    assert one.left_out() == 64


def test_a_question_that_is_too_long_by_itself_is_refused_in_the_end_and_says_why():
    one = fitting(history("q" * 400, "a" * 400, "x" * 40_000))
    asked, is_taken = asks_of(one, 2000)
    assert (len(asked) <= 5, is_taken) == (True, False)
    assert one.why_too_long() == "the message alone is longer than the model's context"
    one = fitting(history("Hi", system="x" * 40_000))
    assert asks_of(one, 2000)[1] is False
    assert "system prompt" in one.why_too_long()


def test_what_is_too_long_is_not_said_while_something_could_be_left_out():
    assert fitting(long_talk(3)).why_too_long() is None


def test_the_next_turns_are_short_enough_at_once():
    memory = ContextMemory()
    asks_of(fitting(long_talk(50), memory=memory), 2000, density=1.5)
    for turns in range(51, 70):
        asked, is_taken = asks_of(fitting(long_talk(turns), memory=memory), 2000, density=1.5)
        assert (len(asked), is_taken) == (1, True)


def test_what_one_organizations_texts_taught_shortens_nobody_elses_prompts():
    memory = ContextMemory()
    asks_of(fitting(long_talk(50), memory=memory), 300, tells=False)
    other = fitting(long_talk(50), memory=memory, organization=new_id())
    assert other.left_out() == 0


def test_what_a_server_told_is_true_for_all():
    memory = ContextMemory()
    memory.told_tokens = 1000
    assert fitting(long_talk(50), memory=memory).left_out() > 40
    assert fitting(long_talk(50), context=800, memory=memory).left_out() > 42


def test_a_question_is_asked_whatever_was_learned_of_the_context():
    """An error may name any figure: nothing but the setting refuses a question before the provider does."""
    memory = ContextMemory()
    memory.learn(ACME, 1)
    one = fitting(long_talk(3, question="x" * 4000), memory=memory)
    assert [len(message.content) for message in one.prompt.messages] == [4000]
    with pytest.raises(PromptRefusedError):
        fitting(long_talk(3, question="x" * 4000), context=500, memory=memory)


def test_what_was_learned_is_forgotten_in_time_and_bounded():
    now = [0.0]
    memory = ContextMemory(lambda: now[0])
    memory.learn(ACME, 500)
    now[0] = 3599.0
    assert memory.tokens(ACME) == 500
    now[0] = 3601.0
    assert memory.tokens(ACME) is None
    for _ in range(1500):
        memory.learn(new_id(), 500)
    assert len(memory._learned) == 1000


def test_an_answers_limit_that_leaves_no_room_is_lowered():
    """The default limit beside a model of 4,096 tokens, in vLLM's words."""
    one = fitting(history("Hi"), output=4096)
    asked, is_taken = asks_of(one, 4096)
    assert (is_taken, [prompt.max_output_tokens for prompt in asked]) == (True, [4096, 2048])


def test_a_rejection_is_asked_again_without_earlier_questions_that_nobody_took():
    one = fitting(history("first", "fine", "poison", None, "also stopped", None, "Hi"), unread=2)
    prompt = one.again(Fault.PROVIDER_REJECTED, None)
    assert [message.content for message in prompt.messages] == ["first", "fine", "Hi"]
    assert one.left_out() == 4
    assert one.again(Fault.PROVIDER_REJECTED, None) is None


def test_a_rejection_of_a_conversation_whose_questions_were_all_taken_is_final():
    assert fitting(history("first", "fine", "Hi")).again(Fault.PROVIDER_REJECTED, None) is None


def test_a_rejection_for_its_length_is_answered_with_a_shorter_prompt():
    """As a proxy's 413, which has no word for a context."""
    one = fitting(long_talk(8))
    assert len(one.again(Fault.PROVIDER_REJECTED, ContextTold()).messages) < len(long_talk(8)) * 2 - 1


@pytest.mark.parametrize("fault", sorted(set(Fault) - {Fault.PROVIDER_REJECTED, Fault.CONTEXT_TOO_LONG}))
def test_no_other_fault_is_answered_with_another_prompt(fault):
    assert fitting(history("one", None, "two")).again(fault, ContextTold(10, 20)) is None


@given(
    st.lists(st.integers(1, 4000), min_size=1, max_size=40),
    st.integers(1, 5000),
    st.floats(0.3, 4.0),
    st.booleans(),
    st.one_of(st.none(), st.integers(1, 10_000)),
)
def test_a_few_asks_are_enough_and_each_is_shorter(sizes, context, density, tells, lie):
    """Whatever the server counts and tells, true or not: at most five asks, each with less than the one before."""
    texts = ["x" * size for size in sizes]
    if len(texts) % 2 == 0:
        texts.append("Hi")
    one = fitting(history(*texts), output=500)
    asked = [one.prompt]
    while True:
        counted = round(prompt_tokens(asked[-1]) * density)
        if counted + asked[-1].max_output_tokens <= context:
            break
        told = ContextTold(lie or context, counted) if tells else None
        prompt = one.again(Fault.CONTEXT_TOO_LONG, told)
        if prompt is None:
            assert len(asked[-1].messages) == 1
            break
        weight = (len(asked[-1].messages), asked[-1].max_output_tokens)
        assert (len(prompt.messages), prompt.max_output_tokens) < weight
        assert prompt.messages[-1].content == texts[-1]
        asked.append(prompt)
    assert len(asked) <= 5

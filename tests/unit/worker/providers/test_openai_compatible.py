"""What is particular to chat completions; what both dialects share is in the contract suite."""

import json

import pytest

from shared.configuration.provider_settings import LimitField, ProviderName, ProviderSettings
from shared.configuration.secret import Secret
from shared.errors import Fault, ProviderError
from shared.money.price_table import PriceTable
from shared.money.usage import Usage
from shared.oddities import Oddity
from shared.turn.turns import FinishReason, Role
from worker.providers.oddities import Oddities
from worker.providers.openai_compatible import OpenAICompatible
from worker.providers.provider import (
    ContentDelta,
    Finish,
    MessageStart,
    Prompt,
    ReasoningDelta,
    RunningUsage,
    text_message,
)
from worker.providers.reading import Reading


def settings(base_url="http://127.0.0.1:8000/v1", running_usage=False, continuation=False):
    return ProviderSettings(
        name=ProviderName.OPENAI_COMPATIBLE,
        base_url=base_url,
        model="model-1",
        api_key=Secret("key-1"),
        connect_timeout_seconds=5,
        first_token_timeout_seconds=5,
        idle_timeout_seconds=5,
        breaker_seconds=10,
        running_usage=running_usage,
        continuation=continuation,
        stream_options=True,
        limit_field=LimitField.AUTO,
        think_tags=False,
        transport="fast",
        max_line_bytes=1000,
        max_event_bytes=1000,
        max_answer_bytes=1000,
        max_text_bytes=1000,
        guards_egress=False,
        allowed_hosts=frozenset(),
        prices=PriceTable("none"),
        declared_price=None,
    )


def read(*events, oddities=None):
    """Return the items of `events`: dictionaries, or bytes as they are; the response then ends cleanly."""
    answer = Reading(1000)
    reader = OpenAICompatible(settings()).reader(answer, oddities)
    for event in events:
        reader.feed("", event if isinstance(event, bytes) else json.dumps(event).encode())
    if answer.is_marked:
        reader.end(is_clean=True)
    return answer.take()


def delta(reason=None, **fields):
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": reason}]}


def usage(**figures):
    return {"choices": [], "usage": figures}


def fault(*events):
    with pytest.raises(ProviderError) as caught:
        read(*events)
    return caught.value.fault


DONE = b"[DONE]"


def test_an_empty_list_of_tool_calls_is_no_tool_call():
    items = read(delta(content="x", tool_calls=[], function_call=None), delta("stop", tool_calls=[]), DONE)
    assert items == [MessageStart(), ContentDelta("x"), Finish(FinishReason.STOP, None)]


@pytest.mark.parametrize(
    "event",
    [
        delta(tool_calls=[{"index": 0, "id": "t", "type": "function", "function": {"name": "f"}}]),
        delta(tool_calls=[None, {"index": 1, "function": {"arguments": '{"a":'}}]),
        delta(tool_calls={"name": "f"}),
        delta(tool_calls=[{"type": "custom", "custom": {"name": "f", "input": ""}}]),
        delta(tool_call={"name": "f"}),
        delta(function_call={"name": "f"}),
        delta(function_call={"name": None, "arguments": {"a": 1}}),
        delta(content=[{"type": "tool_use", "name": "f"}]),
        delta("tool_calls"),
        delta("function_call"),
    ],
)
def test_every_form_of_a_tool_call_is_refused(event):
    assert fault(delta(content="x"), event) is Fault.TOOL_CALL_UNSUPPORTED


def test_thinking_has_two_names():
    items = read(
        delta(reasoning_content="a"), delta(reasoning="b"), delta(reasoning="c", reasoning_content="c")
    )
    assert items == [MessageStart(), ReasoningDelta("a"), ReasoningDelta("b"), ReasoningDelta("c")]


def test_a_role_that_comes_with_each_chunk_starts_no_second_message():
    items = read(delta(role="assistant", content="a"), delta(role="assistant", content="b"))
    assert items == [MessageStart(), ContentDelta("a"), ContentDelta("b")]


@pytest.mark.parametrize("index", [0, 1, 7, -1, None, "0", "a", 1.5, [], True])
def test_one_choice_was_asked_for_so_it_is_the_answer_whatever_its_index(index):
    chunks = [{"choices": [{"index": index, "delta": {"content": text}}]} for text in ("a", "b")]
    del chunks[1]["choices"][0]["index"]
    assert read(delta(content="x"), *chunks)[1:] == [ContentDelta(text) for text in "xab"]


def test_of_several_choices_in_one_event_the_first_is_the_answer_and_the_others_are_counted():
    both = {"choices": [{"index": 1, "delta": {"content": "yes"}}, {"index": 0, "delta": {"content": "no"}}]}
    oddities = Oddities()
    assert read(both, oddities=oddities) == [MessageStart(), ContentDelta("yes")]
    assert oddities.counts == {Oddity.OTHER_CHOICE: 1}
    same = {
        "choices": [{"index": 0, "delta": {"content": "a"}}, None, {"index": 0, "delta": {"content": "b"}}]
    }
    assert read(same)[1:] == [ContentDelta("a"), ContentDelta("b")]


def test_a_refusal_in_words_is_shown_and_named():
    items = read(delta(refusal="I can"), delta(refusal="not"), delta("stop"), DONE)
    assert items[1:] == [ContentDelta("I can"), ContentDelta("not"), Finish(FinishReason.REFUSAL, None)]


@pytest.mark.parametrize("reason", ["abort", "error", "insufficient_system_resource"])
def test_generation_that_was_cut_off_on_their_side_is_no_answer(reason):
    assert fault(delta(content="x"), delta(reason)) is Fault.PROVIDER_OVERLOADED


def test_an_empty_finish_reason_is_none_yet():
    items = read(delta("", content="x"), delta("length"), DONE)
    assert items[-1].reason is FinishReason.LENGTH


@pytest.mark.parametrize("error", ["overloaded", {"message": "x"}, [], 5])
def test_an_error_of_any_shape_is_an_error(error):
    assert fault({"error": error}) is Fault.PROVIDER_PROTOCOL


def test_an_event_named_error_is_an_error_whatever_it_holds():
    reader = OpenAICompatible(settings()).reader(Reading(1000))
    with pytest.raises(ProviderError) as caught:
        reader.feed("error", b'{"message": "x"}')
    assert caught.value.fault is Fault.PROVIDER_PROTOCOL


def test_an_error_that_is_null_is_none():
    assert read({**delta(content="x"), "error": None}) == [MessageStart(), ContentDelta("x")]


def test_running_usage_is_given_as_it_grows_and_its_last_figures_are_final():
    items = read(
        {**delta(content="a"), "usage": {"prompt_tokens": 7, "completion_tokens": 1}},
        {**delta(content="b"), "usage": {"prompt_tokens": 7, "completion_tokens": 2}},
        {**delta("stop"), "usage": None},
        DONE,
    )
    assert [item.usage for item in items if isinstance(item, RunningUsage)] == [
        Usage(input_tokens=7, output_tokens=1),
        Usage(input_tokens=7, output_tokens=2),
    ]
    assert items[-1] == Finish(FinishReason.STOP, Usage(input_tokens=7, output_tokens=2))


def test_cached_tokens_are_part_of_the_prompt_and_thinking_part_of_the_answer():
    figures = usage(
        prompt_tokens=100,
        completion_tokens=50,
        prompt_tokens_details={"cached_tokens": 80},
        completion_tokens_details={"reasoning_tokens": 30},
    )
    (*_, finish) = read(delta(content="x"), figures, DONE)
    assert finish.usage == Usage(input_tokens=20, cache_read_tokens=80, output_tokens=50, reasoning_tokens=30)


def test_parts_that_are_larger_than_the_whole_are_cut_to_it():
    figures = usage(
        prompt_tokens=10,
        completion_tokens=5,
        prompt_tokens_details={"cached_tokens": 80},
        completion_tokens_details={"reasoning_tokens": 30},
    )
    (*_, finish) = read(delta(content="x"), figures, DONE)
    assert finish.usage == Usage(cache_read_tokens=10, output_tokens=5, reasoning_tokens=5)


def test_cached_tokens_told_late_are_not_counted_twice():
    (*_, finish) = read(
        delta(content="x"),
        usage(prompt_tokens=100, completion_tokens=1),
        usage(prompt_tokens=100, completion_tokens=2, prompt_tokens_details={"cached_tokens": 80}),
        DONE,
    )
    assert finish.usage == Usage(input_tokens=20, cache_read_tokens=80, output_tokens=2)


@pytest.mark.parametrize("odd", [[], "many", 7, {"prompt_tokens_details": []}, {"prompt_tokens": {}}])
def test_a_usage_of_an_odd_shape_costs_no_answer(odd):
    (*_, finish) = read({**delta(content="x"), "usage": odd}, delta("stop"), DONE)
    assert finish == Finish(FinishReason.STOP, None)


@pytest.mark.parametrize("mark", [b"[DONE]", b" [DONE]", b"[DONE] "])
def test_the_mark_may_have_blanks_around_it(mark):
    assert isinstance(read(delta(content="x"), mark)[-1], Finish)


@pytest.mark.parametrize(
    ("base_url", "name"),
    [
        ("https://api.openai.com/v1", "max_completion_tokens"),
        ("http://127.0.0.1:8000/v1", "max_tokens"),
        ("https://notopenai.com.example/v1", "max_tokens"),
        ("https://notopenai.com/v1", "max_tokens"),
    ],
)
def test_the_limit_has_the_name_that_the_server_obeys(base_url, name):
    # I6
    prompt = Prompt((text_message(Role.USER, "hi"),), None, 99)
    body = json.loads(OpenAICompatible(settings(base_url)).body(prompt))
    assert body[name] == 99
    assert len({"max_tokens", "max_completion_tokens"} & body.keys()) == 1
    assert body["messages"] == [{"role": "user", "content": "hi"}]


def test_running_usage_is_asked_for_where_it_is_configured():
    prompt = Prompt((text_message(Role.USER, "hi"),), None, 99)
    dialect = OpenAICompatible(settings(running_usage=True))
    assert json.loads(dialect.body(prompt))["stream_options"] == {
        "include_usage": True,
        "continuous_usage_stats": True,
    }
    assert dialect.capabilities.running_usage
    assert not OpenAICompatible(settings()).capabilities.running_usage


def test_a_text_to_continue_is_the_last_message_and_no_other_is_begun():
    question = text_message(Role.USER, "hi")
    dialect = OpenAICompatible(settings(continuation=True))
    body = json.loads(dialect.body(Prompt((question, text_message(Role.ASSISTANT, "The sea")), None, 99)))
    assert body["messages"][-1] == {"role": "assistant", "content": "The sea"}
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    plain = json.loads(dialect.body(Prompt((question,), None, 99)))
    assert not {"continue_final_message", "add_generation_prompt"} & plain.keys()
    assert dialect.capabilities.continuation
    assert not OpenAICompatible(settings()).capabilities.continuation


def test_a_continuation_may_have_nothing_to_add():
    answer = Reading(1000, continues=True)
    reader = OpenAICompatible(settings()).reader(answer)
    reader.feed("", json.dumps(delta(finish_reason="stop")).encode())
    reader.feed("", b"[DONE]")
    reader.end(is_clean=True)
    assert isinstance(answer.take()[-1], Finish)

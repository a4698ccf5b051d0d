"""What is particular to Anthropic's messages; what both dialects share is in the contract suite."""

import json

import pytest

from shared.errors import Fault, ProviderError
from shared.money.usage import Usage
from shared.turn.turns import FinishReason
from worker.providers.anthropic import EventReader
from worker.providers.provider import ContentDelta, Finish, MessageStart, ReasoningDelta, RunningUsage
from worker.providers.reading import Reading


def read(*events):
    answer = Reading(1000)
    reader = EventReader(answer)
    for event in events:
        reader.feed(event.get("type", ""), json.dumps(event).encode())
    if answer.is_marked:
        reader.end(is_clean=True)
    return answer.take()


def start(**usage):
    return {"type": "message_start", "message": {"id": "m", "usage": usage}}


def block(kind, **fields):
    return {"type": "content_block_start", "index": 0, "content_block": {"type": kind, **fields}}


def delta(kind, **fields):
    return {"type": "content_block_delta", "index": 0, "delta": {"type": kind, **fields}}


def end(reason="end_turn", **usage):
    return {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage}


def fault(*events):
    with pytest.raises(ProviderError) as caught:
        read(*events)
    return caught.value.fault


TEXT = delta("text_delta", text="x")
STOP = {"type": "message_stop"}


def test_a_second_message_start_is_a_fault():
    assert fault(start(), TEXT, start()) is Fault.PROVIDER_PROTOCOL


@pytest.mark.parametrize("event", [TEXT, block("text"), end(), STOP])
def test_nothing_of_a_message_comes_before_its_start(event):
    assert fault(event) is Fault.PROVIDER_PROTOCOL


@pytest.mark.parametrize(
    "event",
    [
        block("tool_use", name="f"),
        block("server_tool_use", name="web_search"),
        block("mcp_tool_use", name="f"),
        delta("input_json_delta", partial_json="{"),
        end("tool_use"),
        end("pause_turn"),
    ],
)
def test_every_form_of_a_tool_call_is_refused(event):
    assert fault(start(), event) is Fault.TOOL_CALL_UNSUPPORTED


def test_text_and_thinking_that_a_block_starts_with_are_kept():
    items = read(start(), block("thinking", thinking="a"), block("text", text="b"))
    assert items == [MessageStart(), ReasoningDelta("a"), ContentDelta("b")]


def test_signatures_citations_and_hidden_thinking_are_passed_over():
    items = read(
        start(),
        block("redacted_thinking", data="xyz"),
        delta("signature_delta", signature="s"),
        delta("citations_delta", citation={}),
        delta("brand_new_delta", text="no"),
    )
    assert items == [MessageStart()]


def test_usage_grows_from_the_start_to_the_end_and_counts_caches_apart():
    first = {
        "input_tokens": 10,
        "cache_read_input_tokens": 4,
        "cache_creation_input_tokens": 3,
        "output_tokens": 1,
    }
    items = read(start(**first), TEXT, end(output_tokens=20), STOP)
    running = [item.usage for item in items if isinstance(item, RunningUsage)]
    assert running == [Usage(10, 4, 3, 1), Usage(10, 4, 3, 20)]
    assert items[-1] == Finish(FinishReason.STOP, Usage(10, 4, 3, 20))


def test_the_input_told_at_the_end_is_taken_when_it_is_larger():
    items = read(start(input_tokens=10), TEXT, end(input_tokens=12, output_tokens=20), STOP)
    assert items[-1].usage == Usage(input_tokens=12, output_tokens=20)


def test_the_figures_of_the_start_alone_count_no_answer():
    items = read(start(input_tokens=10, output_tokens=1), TEXT, end(), STOP)
    assert items[-1] == Finish(FinishReason.STOP, None)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("end_turn", FinishReason.STOP),
        ("stop_sequence", FinishReason.STOP),
        ("max_tokens", FinishReason.LENGTH),
        ("model_context_window_exceeded", FinishReason.LENGTH),
        ("refusal", FinishReason.REFUSAL),
        ("sensitive", FinishReason.CONTENT_FILTER),
        ("a_new_one", FinishReason.UNKNOWN),
        (None, FinishReason.UNKNOWN),
    ],
)
def test_a_stop_reason_is_a_finish_reason(reason, expected):
    assert read(start(), TEXT, end(reason), STOP)[-1].reason is expected


def test_an_event_is_known_by_its_name_when_its_data_has_no_type():
    reader = EventReader(Reading(1000))
    with pytest.raises(ProviderError) as caught:
        reader.feed("error", b'{"error": {"type": "overloaded_error"}}')
    assert caught.value.fault is Fault.PROVIDER_OVERLOADED


def test_an_error_without_its_type_is_an_error():
    assert fault({"error": {"type": "overloaded_error"}}) is Fault.PROVIDER_OVERLOADED


def test_unknown_events_may_have_any_shape_and_known_ones_may_not():
    assert read(start(), {"type": "brand_new", "delta": 5, "message": []}, TEXT)[-1] == ContentDelta("x")
    assert fault(start(), {"type": "content_block_delta", "delta": 5}) is Fault.PROVIDER_PROTOCOL
    assert fault(start(), {"type": "content_block_delta", "delta": {"type": "text_delta", "text": 5}}) is (
        Fault.PROVIDER_PROTOCOL
    )

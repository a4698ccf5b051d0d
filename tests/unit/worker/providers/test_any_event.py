"""Whatever an event holds, reading it is a value or a fault of the provider's, and never an error of ours."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import Fault, ProviderError
from worker.providers.anthropic import EventReader
from worker.providers.chunks import ChunkReader
from worker.providers.provider import ContentDelta
from worker.providers.reading import Reading
from worker.providers.think_tags import TaggedReading

NAMES = [
    "choices", "delta", "content", "index", "finish_reason", "usage", "message", "error", "type", "text", "thinking",
    "reasoning", "reasoning_details", "tool_calls", "function_call", "name", "arguments", "refusal", "prompt_tokens",
    "total_tokens", "completion_tokens", "content_block", "stop_reason", "input_tokens", "output_tokens", "x_groq",
    "cache_creation", "cache_read_input_tokens", "prompt_tokens_details", "object",
]  # fmt: skip
WORDS = st.sampled_from(
    ["", "text", "thinking", "stop", "null", "text_delta", "error", "tool_use", "7", "<think>"]
)
ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats() | WORDS | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)
CHOICE = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(("index", "delta", "finish_reason", "message", "usage", "error", "text"), ANY),
)
DELTA = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("content", "reasoning", "tool_calls", "refusal"), ANY)
)
CHUNK = st.one_of(
    ANY,
    st.fixed_dictionaries(
        {"choices": st.lists(st.one_of(CHOICE, st.fixed_dictionaries({"delta": DELTA})), max_size=2)},
        optional={"usage": ANY, "error": ANY},
    ),
)
KINDS = st.sampled_from(
    [
        "content_block_start",
        "content_block_delta",
        "message_delta",
        "message_stop",
        "message_start",
        "ping",
        "new",
    ]
)
EVENT = st.one_of(
    ANY,
    st.fixed_dictionaries(
        {"type": KINDS},
        optional=dict.fromkeys(("delta", "content_block", "message", "usage", "error", "stop_reason"), ANY),
    ),
)


def read_all(reader, events, *, is_clean):
    with suppress(ProviderError):
        for name, event in events:
            reader.feed(name, event if isinstance(event, bytes) else json.dumps(event).encode())
        reader.end(is_clean=is_clean)


def check(reading):
    items = reading.take()
    assert all(item.text for item in items if isinstance(item, ContentDelta))
    for item in items:
        if isinstance(item, ContentDelta):
            item.text.encode()


EVENT_NAMES = st.sampled_from(["", "", "message", "error", "keepalive"])


@given(
    st.lists(st.tuples(EVENT_NAMES, st.one_of(CHUNK, st.just(b"[DONE]"), st.binary(max_size=8)))),
    st.booleans(),
)
def test_no_event_of_a_chat_completion_is_an_error_of_ours(events, is_clean):
    for made in (Reading, TaggedReading):
        reading = made(10_000)
        read_all(ChunkReader(reading), events, is_clean=is_clean)
        check(reading)


@given(st.lists(st.tuples(EVENT_NAMES, st.one_of(EVENT, st.binary(max_size=8)))), st.booleans())
def test_no_event_of_a_message_is_an_error_of_ours(events, is_clean):
    reading = Reading(10_000)
    start = ("", {"type": "message_start", "message": {}})
    read_all(EventReader(reading), [start, *events], is_clean=is_clean)
    check(reading)


@given(
    st.text(min_size=1, max_size=20),
    st.dictionaries(st.sampled_from(["id", "model", "role", "created"]), ANY),
)
def test_text_of_the_usual_form_is_never_lost_whatever_stands_beside_it(text, others):
    for form in (text, [text], {"type": "text", "text": text}, [{"type": "text", "text": text}]):
        reading = Reading(10_000)
        reader = ChunkReader(reading)
        event = {**others, "choices": [{**others, "index": others, "delta": {**others, "content": form}}]}
        reader.feed("", json.dumps(event).encode())
        reader.feed("", b'{"choices":[{"delta":{},"finish_reason":"stop"}]}')
        with suppress(ProviderError):
            reader.feed("", b"[DONE]")
            reader.end(is_clean=True)
        said = "".join(item.text for item in reading.take() if isinstance(item, ContentDelta))
        assert said.replace("\N{REPLACEMENT CHARACTER}", "") == text.replace("\0", "").replace(
            "\N{REPLACEMENT CHARACTER}", ""
        )


@pytest.mark.parametrize("event", [b"{", b'{"choices":5}', b'{"choices":[5]}', b'{"choices":[{"delta":5}]}'])
def test_what_cannot_be_read_is_a_fault_of_the_provider(event):
    with pytest.raises(ProviderError) as caught:
        ChunkReader(Reading(100)).feed("", event)
    assert caught.value.fault is Fault.PROVIDER_PROTOCOL

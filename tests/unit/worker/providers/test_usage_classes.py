"""V12: whatever a provider says of usage, the classes stay disjoint, bounded and never negative (both dialects)."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.money.usage import Usage
from worker.providers.anthropic import EventReader
from worker.providers.openai_compatible import ChunkReader
from worker.providers.provider import Finish, RunningUsage
from worker.providers.reading import MOST_TOKENS, Reading

COUNTS = st.integers(0, 10**6)
STRANGE = st.one_of(
    COUNTS,
    st.integers(-(10**12), 10**18),
    st.floats(allow_nan=False),
    st.none(),
    st.booleans(),
    st.text(max_size=3),
    st.lists(st.integers(), max_size=1),
)


def some(names, values=STRANGE):
    return st.one_of(
        st.dictionaries(st.sampled_from(names), values, max_size=len(names)), st.none(), st.integers()
    )


def nested(names, details):
    """Return a strategy for a usage object with objects in it, any of which may be missing or wrong."""
    plain = st.dictionaries(st.sampled_from(names), STRANGE, max_size=len(names))
    inner = st.fixed_dictionaries({}, optional={name: some(fields) for name, fields in details.items()})
    return st.one_of(st.builds(lambda one, two: {**one, **two}, plain, inner), st.none(), st.text(max_size=3))


OPENAI = nested(
    ["prompt_tokens", "completion_tokens", "total_tokens"],
    {"prompt_tokens_details": ["cached_tokens"], "completion_tokens_details": ["reasoning_tokens"]},
)
ANTHROPIC = nested(
    ["input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"],
    {
        "cache_creation": ["ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens"],
        "output_tokens_details": ["thinking_tokens"],
    },
)


def read_openai(usages):
    answer = Reading(1000)
    reader = ChunkReader(answer)
    reader.feed("", b'{"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}]}')
    for usage in usages:
        reader.feed("", json.dumps({"choices": [], "usage": usage}).encode())
    reader.feed("", b"[DONE]")
    reader.end(is_clean=True)
    return answer.take()


def read_anthropic(usages):
    answer = Reading(1000)
    reader = EventReader(answer)
    first, *rest = usages or [None]
    events = [
        {"type": "message_start", "message": {"usage": first}},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "x"}},
        *({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage} for usage in rest),
        {"type": "message_stop"},
    ]
    for event in events:
        reader.feed("", json.dumps(event).encode())
    reader.end(is_clean=True)
    return answer.take()


def told(items):
    """Return every usage that was told on the way, and the final one."""
    running = [item.usage for item in items if isinstance(item, RunningUsage)]
    return running, items[-1].usage


def prompt_of(usage):
    return usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens


def check(items):
    running, final = told(items)
    assert isinstance(items[-1], Finish)
    for usage in [*running, *([final] if final else [])]:
        assert min(usage.as_dict().values()) >= 0
        assert max(usage.as_dict().values()) <= MOST_TOKENS
        assert usage.reasoning_tokens <= usage.output_tokens
        assert 0 <= usage.cache_write_1h_tokens <= usage.cache_write_tokens
    for before, after in pairwise(running):
        assert prompt_of(after) >= prompt_of(before)
        assert after.output_tokens >= before.output_tokens
    if final is not None:
        assert final == running[-1]
        assert final.output_tokens > 0, "text was said, and none was counted"
        assert prompt_of(final) > 0


@given(st.lists(OPENAI, max_size=4))
def test_whatever_a_compatible_endpoint_counts_the_classes_hold(usages):
    check(read_openai(usages))


@given(st.lists(ANTHROPIC, max_size=4))
def test_whatever_anthropic_counts_the_classes_hold(usages):
    check(read_anthropic(usages))


@given(st.integers(1, 10**6), COUNTS, st.integers(1, 10**6), COUNTS)
def test_the_classes_of_a_compatible_endpoint_add_up_to_what_it_counted(
    prompt, cached, completion, reasoning
):
    _, usage = told(
        read_openai(
            [
                {
                    "prompt_tokens": prompt,
                    "completion_tokens": completion,
                    "prompt_tokens_details": {"cached_tokens": cached},
                    "completion_tokens_details": {"reasoning_tokens": reasoning},
                }
            ]
        )
    )
    # The cached ones are inside the prompt's, the reasoning ones inside the completion's: no more of them count.
    assert usage.input_tokens + usage.cache_read_tokens == prompt
    assert usage.cache_read_tokens == min(cached, prompt)
    assert (usage.output_tokens, usage.reasoning_tokens) == (completion, min(reasoning, completion))


@given(st.integers(1, 10**6), COUNTS, COUNTS, COUNTS, st.integers(1, 10**6))
def test_the_classes_of_anthropic_are_disjoint_as_they_come(fresh, read, short, long, output):
    figures = {
        "input_tokens": fresh,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": short + long,
        "cache_creation": {"ephemeral_5m_input_tokens": short, "ephemeral_1h_input_tokens": long},
    }
    _, usage = told(read_anthropic([{**figures, "output_tokens": 1}, {"output_tokens": output}]))
    assert usage == Usage(
        input_tokens=fresh,
        cache_read_tokens=read,
        cache_write_tokens=short + long,
        cache_write_1h_tokens=long,
        output_tokens=output,
    )


@pytest.mark.parametrize(
    ("said", "written", "for_an_hour"),
    [
        ({"cache_creation_input_tokens": 7}, 7, 0),
        ({"cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 4}}, 7, 4),
        ({"cache_creation_input_tokens": 7, "cache_creation": {"ephemeral_1h_input_tokens": 9}}, 9, 9),
        ({"cache_creation_input_tokens": 7, "cache_creation": {"ephemeral_1h_input_tokens": -1}}, 7, 0),
        ({"cache_creation_input_tokens": 7, "cache_creation": None}, 7, 0),
        ({"cache_creation_input_tokens": -7, "cache_creation": [1]}, 0, 0),
    ],
)
def test_cache_writes_are_split_as_far_as_anthropic_says(said, written, for_an_hour):
    _, usage = told(read_anthropic([{"input_tokens": 1, **said}, {"output_tokens": 5}]))
    assert (usage.cache_write_tokens, usage.cache_write_1h_tokens) == (written, for_an_hour)

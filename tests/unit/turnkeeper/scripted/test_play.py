import json
import re

import pytest

from turnkeeper.scripted.ask import AskError, Dialect, read_ask, roles_alternate
from turnkeeper.scripted.directives import directives_in, script_of
from turnkeeper.scripted.play import play, wire_for
from turnkeeper.scripted.steps import Act, Emit, Head, Pause, Say
from turnkeeper.scripted.wire import SECRET_MARK, as_json

BOTH = pytest.mark.parametrize("dialect", list(Dialect))


def ask_for(dialect, script="", **fields):
    body = {
        "model": "m",
        "stream": True,
        "max_tokens": 1_000_000,
        "stream_options": {"include_usage": True},
        "messages": [{"role": "user", "content": f"question [[key=k {script}]]"}],
        **fields,
    }
    return read_ask(dialect, json.dumps(body).encode())


def steps_of(dialect, script="", **fields):
    ask = ask_for(dialect, script, **fields)
    chosen = script_of(directives_in(ask.question))
    wire = wire_for(ask, chosen, 1)
    steps = list(play(ask, chosen, wire, directed=True))
    return steps, wire


def text_of(steps, reasoning=False):
    return "".join(step.text for step in steps if isinstance(step, Say) and step.reasoning is reasoning)


def events_of(steps):
    """Decode what a client would see; the deltas' JSON included."""
    body = b"".join(
        step.body if isinstance(step, Emit) else step.head + (step.raw or as_json(step.text)) + step.tail
        for step in steps
        if isinstance(step, Emit | Say)
    )
    lines = [line[6:] for line in body.split(b"\n") if line.startswith(b"data: ")]
    return [line if line == b"[DONE]" else json.loads(line) for line in lines]


@BOTH
def test_an_answer_has_as_many_tokens_as_directed_and_reports_them(dialect):
    steps, wire = steps_of(dialect, "tokens=7 reasoning=3")
    said = [step for step in steps if isinstance(step, Say)]
    assert [step.reasoning for step in said] == [True] * 3 + [False] * 7
    told = wire.reported
    if dialect is Dialect.OPENAI:
        assert told["completion_tokens"] == 10
        assert told["completion_tokens_details"] == {"reasoning_tokens": 3}
        assert events_of(steps)[-1] == b"[DONE]"
    else:
        assert told["output_tokens"] == 10
        assert events_of(steps)[-1] == {"type": "message_stop"}


@BOTH
def test_a_literal_text_is_said_exactly(dialect):
    steps, _ = steps_of(dialect, 'text="Grüße,  wörld\nnext 😀"')
    assert text_of(steps) == "Grüße,  wörld\nnext 😀"


@BOTH
def test_the_limit_of_tokens_cuts_the_answer_and_is_named(dialect):
    steps, _ = steps_of(dialect, "tokens=50", max_tokens=5)
    assert sum(isinstance(step, Say) for step in steps) == 5
    flat = json.dumps([event for event in events_of(steps) if event != b"[DONE]"])
    assert ('"length"' if dialect is Dialect.OPENAI else '"max_tokens"') in flat


@BOTH
def test_an_answer_that_just_fits_the_limit_ends_by_itself(dialect):
    steps, _ = steps_of(dialect, "tokens=5", max_tokens=5)
    flat = json.dumps([event for event in events_of(steps) if event != b"[DONE]"])
    assert ('"stop"' if dialect is Dialect.OPENAI else '"end_turn"') in flat


@BOTH
@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("fault", ["cut", "eof", "fin", "hang"])
def test_a_break_comes_after_exactly_so_many_tokens(dialect, chunk, fault):
    steps, _ = steps_of(dialect, f"tokens=20 {fault}=7 chunk={chunk}")
    assert steps[-1] is Act(fault)
    assert sum(step.tokens for step in steps if isinstance(step, Say)) == 7


@BOTH
def test_a_break_beyond_the_answer_comes_at_its_end_before_the_mark(dialect):
    steps, _ = steps_of(dialect, "tokens=3 cut=100")
    assert steps[-1] is Act.CUT
    assert sum(isinstance(step, Say) for step in steps) == 3


@BOTH
def test_a_break_after_no_token_still_sends_the_opening(dialect):
    steps, _ = steps_of(dialect, "tokens=3 cut=0")
    assert [type(step) for step in steps] == [Head, Emit, Act]


@BOTH
@pytest.mark.parametrize("chunk", [1, 2, 7, 1000])
def test_grouping_tokens_changes_no_text(dialect, chunk):
    plain, _ = steps_of(dialect, "tokens=50 reasoning=9 seed=3")
    grouped, _ = steps_of(dialect, f"tokens=50 reasoning=9 seed=3 chunk={chunk}")
    assert text_of(grouped) == text_of(plain)
    assert text_of(grouped, reasoning=True) == text_of(plain, reasoning=True)


@BOTH
def test_an_in_band_error_names_its_type_and_ends_the_body(dialect):
    steps, _ = steps_of(dialect, "tokens=9 error_after=2 error_type=api_error")
    assert steps[-1] is Act.ERROR
    errors = [event for event in events_of(steps) if event != b"[DONE]" and "error" in event]
    assert [error["error"]["type"] for error in errors] == ["api_error"]


@BOTH
def test_a_status_replaces_the_answer_and_carries_the_mark_that_must_not_leak(dialect):
    steps, _ = steps_of(dialect, "status=429 retry_after=2")
    head, body = steps
    assert (head.status, head.headers) == (429, (("retry-after", "2"),))
    assert SECRET_MARK.encode() in body.body
    assert json.loads(body.body)["error"]["type"] == "rate_limit_error"


@BOTH
def test_pauses_and_gaps_follow_the_script(dialect):
    steps, _ = steps_of(dialect, "tokens=4 delay=1 first=2 rate=10 chunk=2")
    assert [step.seconds for step in steps if isinstance(step, Pause)] == [1.0, 2.0]
    assert [step.gap_seconds for step in steps if isinstance(step, Say)] == [0.2, 0.2]


def test_jitter_stays_within_its_share():
    steps, _ = steps_of(Dialect.OPENAI, "tokens=200 rate=10 jitter=0.5 seed=1")
    gaps = [step.gap_seconds for step in steps if isinstance(step, Say)]
    assert len(set(gaps)) > 1
    assert all(0.05 <= gap <= 0.15 for gap in gaps)


@BOTH
@pytest.mark.parametrize(
    ("mode", "figures"),
    [
        ("full", [4]),
        ("duplicate", [4, 4]),
        ("decreasing", [4, 2]),
        ("negative", [-5]),
        ("huge", [10**12 + 4]),
    ],
)
def test_usage_is_told_as_truthfully_as_directed(dialect, mode, figures):
    steps, _ = steps_of(dialect, f"tokens=4 usage={mode}")
    name = "completion_tokens" if dialect is Dialect.OPENAI else "output_tokens"
    told = [e["usage"][name] for e in events_of(steps) if e != b"[DONE]" and e.get("usage")]
    assert told == figures


@BOTH
def test_usage_can_be_withheld(dialect):
    steps, wire = steps_of(dialect, "tokens=4 usage=none")
    assert wire.reported is None
    assert not any(event.get("usage") for event in events_of(steps) if event != b"[DONE]")


def test_usage_after_the_mark_is_after_the_mark():
    steps, _ = steps_of(Dialect.OPENAI, "tokens=4 usage=after_finish")
    assert events_of(steps)[-2] == b"[DONE]"
    assert events_of(steps)[-1]["usage"]["completion_tokens"] == 4
    steps, _ = steps_of(Dialect.ANTHROPIC, "tokens=4 usage=after_finish")
    assert [event["type"] for event in events_of(steps)[-2:]] == ["message_stop", "message_delta"]


def test_openai_tells_no_usage_that_nobody_asked_for():
    _, wire = steps_of(Dialect.OPENAI, "tokens=4", stream_options=None)
    assert wire.reported is None


def test_running_usage_counts_up_with_each_chunk():
    options = {"include_usage": True, "continuous_usage_stats": True}
    steps, wire = steps_of(Dialect.OPENAI, "tokens=3", stream_options=options)
    told = [e["usage"]["completion_tokens"] for e in events_of(steps) if e != b"[DONE]" and e.get("usage")]
    assert told == [1, 2, 3, 3]
    steps, wire = steps_of(Dialect.OPENAI, "tokens=9 usage=continuous cut=2", stream_options=None)
    assert wire.reported["completion_tokens"] == 2


def test_cached_tokens_are_inside_openais_prompt_and_outside_anthropics_input():
    _, plain = steps_of(Dialect.OPENAI, "tokens=1 input=10")
    _, wire = steps_of(Dialect.OPENAI, "tokens=1 cached=100")
    told = wire.reported
    assert told["prompt_tokens_details"] == {"cached_tokens": 100}
    assert told["prompt_tokens"] > 100
    assert told["total_tokens"] == told["prompt_tokens"] + told["completion_tokens"]
    assert plain.reported["prompt_tokens_details"] == {"cached_tokens": 0}
    _, wire = steps_of(Dialect.ANTHROPIC, "tokens=1 cached=100 cache_write=7 cache_write_1h=5")
    told = wire.reported
    assert told["input_tokens"] < 100
    assert (told["cache_read_input_tokens"], told["cache_creation_input_tokens"]) == (100, 12)


@BOTH
@pytest.mark.parametrize("usage", ["full", "continuous"])
def test_reasoning_is_told_as_a_part_of_the_output(dialect, usage):
    _, wire = steps_of(dialect, f"tokens=3 reasoning=4 usage={usage}")
    told = wire.reported
    if dialect is Dialect.OPENAI:
        assert told["completion_tokens_details"] == {"reasoning_tokens": 4}
    else:
        assert told["output_tokens_details"] == {"thinking_tokens": 4}


@BOTH
def test_a_continuation_says_only_what_is_missing(dialect):
    full, _ = steps_of(dialect, "tokens=30")
    whole = text_of(full)
    question = {"role": "user", "content": "question [[key=k tokens=30]]"}
    for cut in (1, 4, 5, 60, len(whole) - 1):
        prefix = whole[:cut]
        if dialect is Dialect.ANTHROPIC and prefix[-1].isspace():
            continue
        messages = [question, {"role": "assistant", "content": prefix}]
        rest, _ = steps_of(
            dialect, messages=messages, continue_final_message=True, add_generation_prompt=False
        )
        assert prefix + text_of(rest) == whole


def test_a_stamped_prefix_is_continued_too():
    full, _ = steps_of(Dialect.OPENAI, "tokens=10")
    tokens = [step.text for step in full if isinstance(step, Say)]
    question = {"role": "user", "content": "question [[key=k tokens=10]]"}
    prefix = "".join(f"⟦{place}99⟧{token}" for place, token in enumerate(tokens[:4]))
    messages = [question, {"role": "assistant", "content": prefix}]
    rest, _ = steps_of(Dialect.OPENAI, messages=messages, continue_final_message=True)
    assert text_of(rest) == "".join(tokens[4:])


@BOTH
def test_a_retry_of_the_same_conversation_gets_the_same_words(dialect):
    assert text_of(steps_of(dialect, "tokens=40")[0]) == text_of(steps_of(dialect, "tokens=40")[0])


def test_awkward_text_is_encoded_as_directed():
    steps, _ = steps_of(
        Dialect.OPENAI, "tokens=2 split_surrogates=1 lone_surrogate=1 nul=1 u2028=1 bad_utf8=1 chunk=1"
    )
    raw = b"".join(s.head + (s.raw or as_json(s.text)) + s.tail for s in steps if isinstance(s, Say))
    assert b'" \\ud83d"' in raw
    assert b'"\\ude00"' in raw
    assert b"\\u0000" in raw
    assert "\u2028paragraph\u2029next\u0085".encode() in raw
    assert b"bad\xffbyte" in raw
    assert "😀" in text_of(steps).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@BOTH
def test_a_tool_call_is_one_and_an_empty_list_is_none(dialect):
    steps, _ = steps_of(dialect, "tokens=1 tool_call=1")
    flat = json.dumps([event for event in events_of(steps) if event != b"[DONE]"])
    assert "scripted_tool" in flat
    assert ('"tool_calls"' if dialect is Dialect.OPENAI else '"tool_use"') in flat
    steps, _ = steps_of(Dialect.OPENAI, "tokens=1 empty_tool_calls=1")
    assert any(
        event["choices"][0]["delta"].get("tool_calls") == []
        for event in events_of(steps)
        if event != b"[DONE]" and event["choices"]
    )


@BOTH
def test_the_ends_of_a_stream_are_bent_as_directed(dialect):
    mark = b"[DONE]" if dialect is Dialect.OPENAI else {"type": "message_stop"}
    assert mark not in events_of(steps_of(dialect, "tokens=2 no_done=1")[0])
    assert events_of(steps_of(dialect, "tokens=2 after_done=1")[0])[-2] == mark
    torn = steps_of(dialect, "tokens=2 torn=1 no_reason=1")[0]
    assert torn[-1] is Act.FIN
    assert events_of(torn)[-1] == mark
    flat = json.dumps([event for event in events_of(torn) if event != b"[DONE]"])
    assert not {'"finish_reason": "stop"', '"stop_reason": "end_turn"'} & set(
        re.findall(r'"\w+_reason": "\w+"', flat)
    )
    last = steps_of(dialect, "tokens=2 no_final_blank=1")[0][-1].body
    assert last.endswith(b"\n")
    assert not last.endswith(b"\n\n")
    assert not steps_of(dialect, "tokens=2 no_final_blank=2")[0][-1].body.endswith(b"\n")


@BOTH
def test_a_field_of_the_request_is_refused_as_directed(dialect):
    (head, body), _ = steps_of(dialect, "tokens=2 refuse=max_tokens")
    assert (head.status, b"'max_tokens'" in body.body) == (400, True)
    assert steps_of(dialect, "tokens=2 refuse=seed")[0][0].status == 200


@BOTH
def test_an_empty_answer_ends_well_without_text(dialect):
    steps, _ = steps_of(dialect, "empty=1")
    assert not any(isinstance(step, Say) for step in steps)
    assert not isinstance(steps[-1], Act)


@BOTH
def test_a_huge_line_has_its_size_and_is_made_piece_by_piece(dialect):
    steps, _ = steps_of(dialect, "tokens=2 huge_line=1000000")
    flood = [step.body for step in steps if isinstance(step, Emit) and step.body.strip(b"a") == b""]
    assert sum(map(len, flood)) == 1_000_000
    assert max(map(len, flood)) <= 65_536


@BOTH
def test_an_endless_answer_does_not_end(dialect):
    ask = ask_for(dialect, "endless=1", max_tokens=5)
    script = script_of(directives_in(ask.question))
    steps = play(ask, script, wire_for(ask, script, 1), directed=True)
    assert sum(isinstance(next(steps), Say) for _ in range(3000)) > 2900


@BOTH
@pytest.mark.parametrize("script", ["cut=1", "fin=1", "hang=1", "eof=1", "garbage=1"])
def test_an_unstreamed_answer_breaks_in_its_middle(dialect, script):
    steps, _ = steps_of(dialect, f"tokens=9 {script}", stream=False)
    with pytest.raises(ValueError):
        json.loads(b"".join(step.body for step in steps if isinstance(step, Emit)))


def test_a_request_without_directives_is_answered_in_prose():
    ask = read_ask(
        Dialect.OPENAI,
        b'{"model":"m","stream":true,"messages":[{"role":"user","content":"How does Stop work?"}]}',
    )
    script = script_of()
    steps = list(play(ask, script, wire_for(ask, script, 1), directed=False))
    assert text_of(steps).startswith("**Stop** ends a turn")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"model":"m"}',
        b'{"model":"m","messages":[]}',
        b'{"model":"m","messages":[{"role":"robot","content":"x"}]}',
        b'{"model":"m","messages":[{"role":"user","content":"x"}],"max_tokens":0}',
        b'{"model":"m","messages":"x"}',
        b'{"model":"m","messages":[{"role":"user","content":"\\ud83d"}]}',
        b'{"model":"m","messages":[{"role":"user","content":"\xff"}]}',
    ],
)
@BOTH
def test_a_request_that_the_imitated_api_would_refuse_is_refused(dialect, body):
    with pytest.raises(AskError):
        read_ask(dialect, body)


def test_anthropic_needs_a_limit_and_no_trailing_space():
    with pytest.raises(AskError, match="max_tokens"):
        read_ask(Dialect.ANTHROPIC, b'{"model":"m","messages":[{"role":"user","content":"x"}]}')
    with pytest.raises(AskError, match="whitespace"):
        ask_for(
            Dialect.ANTHROPIC,
            messages=[{"role": "user", "content": "x"}, {"role": "assistant", "content": "a "}],
        )


def test_content_in_parts_is_the_same_question():
    parts = [{"type": "text", "text": "question "}, {"type": "text", "text": "[[key=k ]]"}]
    assert (
        ask_for(Dialect.OPENAI, messages=[{"role": "user", "content": parts}]).question
        == ask_for(Dialect.OPENAI).question
    )


def test_a_conversation_is_the_same_for_a_retry_and_another_for_another_question():
    first = ask_for(Dialect.OPENAI)
    question = {"role": "user", "content": "question [[key=k ]]"}
    again = ask_for(
        Dialect.OPENAI,
        messages=[question, {"role": "assistant", "content": "par"}],
        continue_final_message=True,
    )
    other = ask_for(Dialect.OPENAI, messages=[{"role": "user", "content": "else"}])
    assert first.conversation == again.conversation != other.conversation


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        (("user",), True),
        (("system", "user", "assistant", "user"), True),
        (("user", "user"), False),
        (("assistant", "user"), False),
    ],
)
def test_roles_that_take_turns_are_told_from_those_that_do_not(roles, expected):
    assert roles_alternate(roles) is expected

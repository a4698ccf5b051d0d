"""How turns end when the provider hangs, breaks off, lies or floods (rows V of the fault matrix).

How each adapter reads each of these is for the contract tests; here it is what a user gets and is billed.
"""

from dataclasses import dataclass

import psutil
import pytest

from tests.faults.world import Asked, World

SILENCE_SECONDS = 5
"""Longer than a busy machine needs for an answer that does not count as silence."""
FEW = 8
ATTEMPTS = 3


@pytest.fixture(scope="module")
def more_environment() -> dict[str, str]:
    return {
        "PROVIDER_FIRST_TOKEN_TIMEOUT_SECONDS": str(SILENCE_SECONDS),
        "PROVIDER_IDLE_TIMEOUT_SECONDS": str(SILENCE_SECONDS),
        "PROVIDER_MAX_TEXT_BYTES": "200000",
        # Here half of all calls fail, each on purpose.
        "PROVIDER_BREAKER_SECONDS": "0",
    }


@dataclass(frozen=True)
class End:
    """How a turn ends: its status or the code of its error, the words shown, the calls made."""

    status: str
    words: int | None = None
    calls: int | None = 1
    is_free: bool = False


def ends(world: World, **wanted: End) -> None:
    """Run a script for each wanted end, all at once, and check them."""
    asked = {script: world.ask(script) for script in wanted}
    for script, each in asked.items():
        turn, want = each.check(), wanted[script]
        got = turn["error"]["code"] if turn["error"] else turn["status"]
        assert got == want.status, (script, turn)
        if want.words is not None:
            assert len(each.reader.reading.text.split()) == want.words, (script, each.reader.reading.text)
        if want.calls is not None:
            assert len(each.requests()) == want.calls, (script, each.requests())
        assert (float(turn["cost_usd"]) == 0) == want.is_free, (script, turn)
        assert not leaks(each), script


def leaks(asked: Asked) -> bool:
    """Return whether a reader received the text that the provider puts into its errors."""
    return any("refused by the script" in str(event) for _, event in asked.reader.times)


def test_v1_a_provider_that_says_nothing_fails_the_turn_after_one_more_try(world: World):
    ends(
        world, **{"hang_headers=1": End("provider_timeout", 0, 2), "first=60": End("provider_timeout", 0, 2)}
    )


def test_v2_silence_in_mid_stream_is_tried_again_and_keeps_the_text_with_or_without_comments(world: World):
    end = End("provider_timeout", FEW, ATTEMPTS)
    ends(world, **{f"tokens=50 hang={FEW}": end, f"tokens=50 hang={FEW} comments=0.2 pings=0.3": end})


def test_v3_a_reset_is_tried_again_and_keeps_the_last_text(world: World):
    ends(
        world,
        **{
            f"tokens=50 cut={FEW} rate=100": End("provider_protocol", FEW, ATTEMPTS),
            f"tokens=50 cut={FEW} rate=100 fail_times=1": End("completed", 50, 2),
            "tokens=50 cut=0": End("provider_protocol", 0, 2),
            "tokens=5 cut=0 fail_times=1": End("completed", 5, 2),
        },
    )


def test_v4_a_stream_that_ends_without_its_mark_is_never_complete(world: World):
    end = End("provider_protocol", FEW, ATTEMPTS)
    ends(world, **{f"tokens=50 eof={FEW}": end, f"tokens=50 fin={FEW} rate=100": end})


def test_v5_strange_but_valid_streams_are_read_whole_and_garbage_is_a_fault(world: World):
    whole = End("completed", 20)
    scripts = (
        "newline=cr",
        "newline=crlf bom=1",
        "multiline=1",
        "drip=1",
        "http_chunk=3",
        "no_final_blank=2",
    )
    odd = ("u2028=1", "split_surrogates=1", "lone_surrogate=1", "nul=1", "bad_utf8=1")
    ends(
        world,
        **{f"tokens=20 {script}": whole for script in scripts},
        **{f"tokens=20 {script}": End("completed") for script in odd},
        **{f"tokens=20 garbage={FEW}": End("provider_protocol", FEW)},
    )


def test_v6_refusals_are_tried_again_where_that_helps_and_cost_nothing(world: World):
    ends(
        world,
        **{
            "status=429 retry_after=1 fail_times=1 tokens=4": End("completed", 4, 2),
            "status=429": End("provider_rate_limited", 0, 1, is_free=True),
            "status=503 fail_times=2 tokens=4": End("completed", 4, 3),
            "status=529": End("provider_overloaded", 0, 3, is_free=True),
            "status=408 fail_times=2 tokens=4": End("completed", 4, 3),
            "status=408": End("provider_rejected", 0, 3, is_free=True),
            "status=400": End("provider_rejected", 0, 1, is_free=True),
            "status=401": End("provider_auth", 0, 1, is_free=True),
        },
    )


def test_v7_what_is_no_event_stream_is_no_answer_and_no_redirect_is_followed(world: World):
    end = End("provider_protocol", 0, 1, is_free=True)
    ends(world, **{"html=1": end, "json=1": end})
    asked = world.ask("redirect=/elsewhere")
    turn = asked.check()
    assert turn["status"] == "failed"
    assert [record["path"] for record in asked.requests()] == ["/v1/chat/completions"]


def test_v8_one_endless_line_is_given_up_and_takes_no_memory(world: World):
    workers = [psutil.Process(pid) for pid in world.service.pids("worker")]
    before = [process.memory_info().rss for process in workers]
    ends(world, **{"tokens=5 huge_line=1000000000": End("provider_protocol", None)})
    for process, rss in zip(workers, before, strict=True):
        assert process.memory_info().rss - rss < 20 * 2**20


def test_v9_an_endless_answer_is_ended_at_its_limit_and_keeps_the_text(world: World):
    asked = world.ask("endless=1 pad=500 rate=2000")
    turn = asked.check()
    assert turn["status"] == "failed"
    assert len(asked.reader.reading.text.encode()) <= 200_000
    assert asked.outcomes()[0] == "client_disconnected"


def test_v9_an_answer_that_ignores_its_limit_is_cut_within_a_flush_of_its_hold(world: World):
    limit, each_second = 60, 200
    with world.budget(world.spent_today() + 1):
        asked = world.ask(f"endless=1 rate={each_second}", max_output_tokens=limit)
        turn = asked.check()
        (held,) = world.rows("select held_usd from turnkeeper.spend where period = 'day'")
    assert (turn["status"], turn["stop_reason"]) == ("stopped", "budget")
    # What comes in the time of one flush, by the goal: a quarter of a second.
    assert limit < turn["usage"]["output_tokens"] <= limit + each_second // 4
    assert asked.outcomes()[0] == "client_disconnected"
    assert asked.requests()[0]["max_tokens"] == limit
    assert held["held_usd"] == 0


def test_v10_an_encoded_answer_is_refused_before_it_is_unpacked(world: World):
    end = End("provider_protocol", 0, 1, is_free=True)
    ends(world, **{"tokens=5 gzip=1": end, "gzip=bomb": end})


def test_v11_a_tool_call_ends_the_turn_with_its_own_error(world: World):
    ends(
        world,
        **{
            "tokens=5 tool_call=1": End("tool_call_unsupported", 5),
            "tokens=5 empty_tool_calls=1": End("completed", 5),
        },
    )


def test_v12_usage_that_is_missing_or_absurd_is_never_negative_and_never_free(world: World):
    modes = ("none", "duplicate", "decreasing", "negative", "with_finish", "after_finish", "continuous")
    asked = [world.ask(f"tokens=10 usage={mode}") for mode in modes]
    for each in asked:
        each.reader.until_done()
        turn = world.api.final(each.turn_id)
        assert turn["status"] == "completed"
        assert turn["usage"]["output_tokens"] >= 10
        assert turn["usage"]["input_tokens"] > 0
        assert float(turn["cost_usd"]) > 0


def test_v20_figures_that_no_turn_can_have_are_billed_by_their_bound(world: World):
    asked = world.ask("tokens=10 usage=inflated")
    asked.reader.until_done()
    turn = world.api.final(asked.turn_id)
    assert (turn["status"], turn["finish_reason"], turn["usage_source"]) == ("completed", "stop", "disputed")
    (row,) = world.rows("select * from turnkeeper.ledger where turn_id = %s", asked.turn_id)
    assert row["reported"]["output_tokens"] > 10**8
    assert row["output_tokens"] < 10_000
    assert float(turn["cost_usd"]) < 1


def test_v18_an_end_that_nobody_explains_is_unknown_and_a_torn_one_is_no_end(world: World):
    ends(
        world,
        **{
            "tokens=5 no_reason=1": End("completed", 5),
            "tokens=5 no_done=1": End("completed", 5),
            "tokens=5 no_reason=1 torn=1": End("provider_protocol", 5, ATTEMPTS),
            "tokens=5 no_reason=1 torn=1 fail_times=1": End("completed", 5, 2),
        },
    )
    asked = {script: world.ask(script) for script in ("tokens=4 no_reason=1", "tokens=4 no_done=1")}
    reasons = {script: each.check()["finish_reason"] for script, each in asked.items()}
    assert reasons == {"tokens=4 no_reason=1": "unknown", "tokens=4 no_done=1": "stop"}


def test_v19_a_refused_field_is_left_out_and_the_refusal_costs_nothing(world: World):
    # The last test of the module: its workers remember both refusals.
    sources = {"max_tokens": "provider", "stream_options": "estimated"}
    for field, source in sources.items():
        asked = world.ask(f"tokens=4 refuse={field}")
        turn = asked.check()
        assert (turn["status"], turn["usage_source"]) == ("completed", source), field
        assert len(asked.requests()) <= 2

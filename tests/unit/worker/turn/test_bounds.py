"""What a provider says it used is billed up to what the turn can have used, and no further."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from shared.errors import Fault, ProviderError
from shared.money.prices import price_of
from shared.money.usage import Reported, Usage, UsageSource
from shared.turn.turns import FinishReason, Role, StopReason
from tests.unit.worker.turn.playing import Playing
from tests.unit.worker.turn.test_attempt import (
    MODEL,
    PROMPT_USD,
    TOKEN_USD,
    Again,
    Moody,
    run_on,
)
from worker.providers.provider import (
    Capabilities,
    ContentDelta,
    Finish,
    MessageStart,
    Prompt,
    ReasoningDelta,
    RunningUsage,
    text_message,
)
from worker.turn.bounds import ADDED_TOKENS, OVERSHOOT_TOKENS
from worker.turn.consumption import Consumption, prompt_of
from worker.turn.outcome import Completed, Stopped

PROMPT = Prompt((text_message(Role.USER, "x" * 40),), "be brief", 100)
# By hand: a token for each byte, eight around each message, and what a template puts in front.
HELD_PROMPT = (40 + 8) + (8 + 8) + 128
MOST_PROMPT = (40 + 8) + (8 + 8) + ADDED_TOKENS
LIMIT = 100
MOST_UNSEEN = LIMIT + OVERSHOOT_TOKENS
PLAIN = Capabilities()
COUNTS = Capabilities(running_usage=True)
ABSURD = 1_000_000_000


def call(*pieces: str, final=None, running=None, thought=(), prompt=PROMPT) -> Consumption:
    consumption = Consumption()
    consumption.sent(prompt)
    consumption.begun()
    for piece in thought:
        consumption.add(True, piece)
    for piece in pieces:
        consumption.add(False, piece)
    if running is not None:
        consumption.follow(running)
    if final is not None:
        consumption.finished(final)
    return consumption


def billed(consumption, capabilities=PLAIN):
    return consumption.usage(capabilities)


def test_an_absurd_figure_for_the_answer_is_billed_by_the_limit_that_was_sent():
    used = call("Hello", final=Usage(20, output_tokens=ABSURD))
    assert billed(used) == (Usage(20, output_tokens=LIMIT), UsageSource.DISPUTED)
    assert used.reported(PLAIN) == Reported(Usage(20, output_tokens=ABSURD))


def test_an_absurd_figure_for_the_prompt_is_billed_by_its_bytes():
    used = call("Hello", final=Usage(ABSURD, output_tokens=2))
    assert billed(used) == (Usage(HELD_PROMPT, output_tokens=2), UsageSource.DISPUTED)
    assert used.reported(PLAIN).as_dict()["input_tokens"] == ABSURD


@pytest.mark.parametrize("name", ["input_tokens", "cache_read_tokens", "cache_write_tokens"])
def test_no_class_of_the_prompt_escapes_the_bound(name):
    said = Usage(**{"input_tokens": 5, name: ABSURD, "output_tokens": 2})
    usage, source = billed(call("Hello", final=said))
    assert (usage.prompt_tokens(), source) == (HELD_PROMPT, UsageSource.DISPUTED)
    if name != "input_tokens":
        assert usage.input_tokens == 5  # what is possible of it is believed


def test_writes_of_an_hour_stay_a_part_of_the_writes():
    said = Usage(5, cache_write_tokens=ABSURD, cache_write_1h_tokens=ABSURD, output_tokens=2)
    usage, _ = billed(call("Hello", final=said))
    assert usage.cache_write_1h_tokens == usage.cache_write_tokens == HELD_PROMPT - 5


def test_classes_that_are_possible_alone_are_bounded_by_their_sum():
    each = MOST_PROMPT // 2 + 1
    usage, source = billed(call("a", final=Usage(each, each, each, output_tokens=1)))
    assert (usage.prompt_tokens(), source) == (HELD_PROMPT, UsageSource.DISPUTED)


def test_thinking_that_is_billed_and_not_shown_is_never_disputed():
    final = Usage(20, output_tokens=100, reasoning_tokens=99)
    assert billed(call("4", final=final)) == (final, UsageSource.PROVIDER)


def test_one_batch_past_the_limit_is_not_disputed():
    final = Usage(20, output_tokens=MOST_UNSEEN)
    assert billed(call("4", final=final)) == (final, UsageSource.PROVIDER)
    above = Usage(20, output_tokens=MOST_UNSEEN + 1)
    assert billed(call("4", final=above)) == (Usage(20, output_tokens=LIMIT), UsageSource.DISPUTED)


def test_a_provider_that_ignores_its_limit_is_billed_for_the_text_that_came():
    final = Usage(20, output_tokens=1000)
    assert billed(call("x" * 600, thought=["y" * 500], final=final)) == (final, UsageSource.PROVIDER)


@pytest.mark.parametrize("text", ["\N{FAMILY}" * 300, "語" * 400])
def test_a_text_of_many_bytes_may_have_as_many_tokens(text):
    final = Usage(20, output_tokens=len(text.encode()))
    assert billed(call(text, final=final)) == (final, UsageSource.PROVIDER)


def test_thinking_stays_a_part_of_a_cut_answer():
    usage, _ = billed(call("a", final=Usage(5, output_tokens=ABSURD, reasoning_tokens=ABSURD - 1)))
    assert usage.reasoning_tokens == usage.output_tokens == LIMIT


def test_a_template_and_a_default_system_prompt_are_not_disputed():
    final = Usage(40 + 8 + 16 + 700, output_tokens=1)
    assert billed(call("a", final=final)) == (final, UsageSource.PROVIDER)


def test_no_figure_for_the_prompt_is_no_figure():
    usage, source = billed(call("Hello", final=Usage(output_tokens=2)))
    assert usage.input_tokens > 0
    assert (usage.output_tokens, source) == (2, UsageSource.ESTIMATED)


def test_no_figure_for_a_text_is_no_figure():
    usage, source = billed(call("Hello there", final=Usage(20)))
    assert (usage.input_tokens, usage.output_tokens, source) == (20, 3, UsageSource.ESTIMATED)


def test_no_figure_for_thinking_that_was_shown_is_no_figure():
    usage, source = billed(call(thought=["Hello there"], final=Usage(20)))
    assert (usage.output_tokens, usage.reasoning_tokens, source) == (3, 3, UsageSource.ESTIMATED)


def test_an_answer_without_text_may_cost_nothing():
    assert billed(call(final=Usage(20))) == (Usage(20), UsageSource.PROVIDER)


def test_a_cached_prompt_is_a_figure():
    final = Usage(cache_read_tokens=20, output_tokens=1)
    assert billed(call("a", final=final)) == (final, UsageSource.PROVIDER)


@pytest.mark.parametrize("capabilities", [PLAIN, COUNTS])
def test_running_figures_are_bounded_where_an_answer_broke_off(capabilities):
    used = call("Hello", running=Usage(ABSURD, output_tokens=ABSURD))
    assert billed(used, capabilities) == (
        Usage(HELD_PROMPT, output_tokens=LIMIT),
        UsageSource.DISPUTED,
    )
    assert used.reported(capabilities) == Reported(Usage(ABSURD, output_tokens=ABSURD))


def test_what_is_disputed_never_costs_more_than_was_held():
    """Whichever class lies, and however long the text is that came within the limit."""
    hold = PROMPT_USD + 100 * TOKEN_USD
    for said in (
        Usage(ABSURD, output_tokens=3),
        Usage(3, 0, ABSURD, ABSURD, 0, ABSURD),
        Usage(3, output_tokens=ABSURD),
    ):
        steps = [MessageStart(), *[ContentDelta("four ")] * 100, Finish(FinishReason.STOP, said)]
        _, outcome = run_on(hold, Playing(steps))
        assert outcome.answer.usage_source is UsageSource.DISPUTED
        assert price_of(MODEL, outcome.answer.usage, datetime.now(UTC)).cost(outcome.answer.usage) <= hold


def test_a_text_that_is_too_long_for_the_limit_is_billed_by_its_bytes_where_the_figure_is_absurd():
    text = "x" * (LIMIT * 16 + 1)
    assert billed(call(text, final=Usage(20, output_tokens=ABSURD))) == (
        Usage(20, output_tokens=len(text)),
        UsageSource.DISPUTED,
    )


def test_what_a_provider_adds_is_billed_until_it_cannot_be():
    most = Usage(MOST_PROMPT, output_tokens=1)
    assert billed(call("a", final=most)) == (most, UsageSource.PROVIDER)
    assert billed(call("a", final=Usage(MOST_PROMPT + 1, output_tokens=1))) == (
        Usage(HELD_PROMPT, output_tokens=1),
        UsageSource.DISPUTED,
    )


def test_running_figures_without_a_prompt_are_estimated_there():
    usage, source = billed(call("Hello", running=Usage(output_tokens=2)), COUNTS)
    assert usage.input_tokens > 0
    assert source is UsageSource.ESTIMATED


def test_the_note_of_a_call_is_bounded_too():
    """A worker that dies leaves it, and a sweeper bills it."""
    prompts, source = call("Hello", running=Usage(7, cache_write_tokens=ABSURD)).prompts()
    assert (prompts.prompt_tokens(), source) == (HELD_PROMPT, UsageSource.DISPUTED)
    assert call("Hello", running=Usage(output_tokens=7)).prompts() is None  # it says nothing of the prompt


def test_a_disputed_call_disputes_the_sum_of_all_calls():
    used = call(running=Usage(ABSURD))
    used.broke_off(ProviderError(Fault.PROVIDER_TIMEOUT, "silent"))
    used.end_call(PLAIN)
    used.sent(PROMPT)
    used.begun()
    used.add(False, "Hello")
    used.finished(Usage(30, output_tokens=2))
    assert billed(used) == (Usage(HELD_PROMPT + 30, output_tokens=2), UsageSource.DISPUTED)
    assert used.reported(PLAIN) == Reported(Usage(ABSURD))
    assert used.longest_call(PLAIN) == Usage(HELD_PROMPT)


def test_what_every_disputed_call_said_is_added_up():
    used = call(running=Usage(ABSURD))
    used.end_call(PLAIN)
    used.sent(PROMPT)
    used.begun()
    used.add(False, "Hello")
    used.finished(Usage(ABSURD, output_tokens=2))
    assert used.reported(PLAIN) == Reported(Usage(2 * ABSURD, output_tokens=2))


def test_a_total_that_contradicts_the_figures_is_kept_beside_them():
    final = Usage(20, output_tokens=5)
    used = call("Hello", final=final)
    assert used.reported(PLAIN) is None
    used.contradicted(40)
    assert billed(used) == (final, UsageSource.PROVIDER)  # they are billed as they are
    assert used.reported(PLAIN).as_dict() == {
        "input_tokens": 20,
        "cache_read_tokens": 0,
        "cache_write_tokens": 0,
        "output_tokens": 5,
        "reasoning_tokens": 0,
        "cache_write_1h_tokens": 0,
        "total_tokens": 40,
    }


def test_one_wrong_figure_costs_neither_the_answer_nor_the_budget():
    wrong = Usage(20, output_tokens=ABSURD)
    hold = PROMPT_USD + 100 * TOKEN_USD
    steps = [
        [MessageStart(), ContentDelta("Hello")],
        [RunningUsage(wrong)],
        [Finish(FinishReason.STOP, wrong)],
    ]
    for capabilities in (PLAIN, COUNTS):
        _, outcome = run_on(hold, Playing(*steps, capabilities=capabilities))
        assert isinstance(outcome, Completed)
        answer = outcome.answer
        assert (answer.usage_source, answer.content) == (UsageSource.DISPUTED, "Hello")
        cost = price_of(MODEL, answer.usage, datetime.now(UTC)).cost(answer.usage)
        assert cost <= hold


def test_a_wrong_figure_for_the_prompt_does_not_end_the_answer():
    wrong = RunningUsage(Usage(ABSURD))
    hold = PROMPT_USD + (ADDED_TOKENS + 200) * TOKEN_USD
    said = [ContentDelta("Hello"), Finish(FinishReason.STOP, Usage(ABSURD, output_tokens=1))]
    _, outcome = run_on(hold, Playing([MessageStart(), wrong], said))
    assert isinstance(outcome, Completed)
    assert outcome.answer.usage_source is UsageSource.DISPUTED


def test_figures_of_a_call_that_is_tried_again_are_bounded():
    begun = [MessageStart(), RunningUsage(Usage(ABSURD))]
    broken = ProviderError(Fault.PROVIDER_PROTOCOL, "cut")
    whole = [MessageStart(), ContentDelta("a"), Finish(FinishReason.STOP, Usage(9, output_tokens=1))]
    _, outcome = run_on(Decimal(1), Moody([begun, broken], [whole]), retries=Again(1))
    assert isinstance(outcome, Completed)
    assert prompt_of(outcome.answer.usage).prompt_tokens() < 2 * HELD_PROMPT
    assert outcome.answer.usage_source is UsageSource.DISPUTED


def test_a_provider_that_counts_honestly_past_its_limit_is_still_cut_off():
    steps = [[ContentDelta("word "), RunningUsage(Usage(30, output_tokens=n))] for n in range(1, 200)]
    _, outcome = run_on(PROMPT_USD + 20 * TOKEN_USD, Playing([MessageStart()], *steps, capabilities=COUNTS))
    assert isinstance(outcome, Stopped)
    assert outcome.reason is StopReason.BUDGET
    assert outcome.answer.usage == Usage(30, output_tokens=21)


def test_thinking_that_is_shown_in_part_is_billed_whole():
    """A provider that sums its thinking up bills all of it: more than the text, within the limit."""
    steps = [
        [MessageStart(), ReasoningDelta("in short")],
        [ContentDelta("4"), Finish(FinishReason.STOP, Usage(9, output_tokens=95, reasoning_tokens=94))],
    ]
    _, outcome = run_on(Decimal(1), Playing(*steps))
    assert outcome.answer.usage == Usage(9, output_tokens=95, reasoning_tokens=94)
    assert outcome.answer.usage_source is UsageSource.PROVIDER


def test_figures_that_were_read_in_another_way_are_kept_as_they_were_sent():
    used = call("Hello", final=Usage(20, output_tokens=12, reasoning_tokens=7))
    used.contradicted(32, Usage(20, output_tokens=5, reasoning_tokens=7))  # thinking beside the completion
    assert used.reported(PLAIN) == Reported(Usage(20, output_tokens=5, reasoning_tokens=7), 32)

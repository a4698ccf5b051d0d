"""What a claimed turn says of its attempt."""

from dataclasses import replace
from decimal import Decimal

import pytest

from shared.money.price_table import PriceTable
from shared.money.prices import PricedModel
from tests.unit.worker.claimed import FIRST
from worker.providers.provider import Capabilities
from worker.turn.allowance import Allowance

MODEL = PricedModel("scripted", "m", PriceTable(()), None)


def test_the_first_attempt_follows_none_and_each_other_one_does():
    assert not FIRST.is_again()
    assert replace(FIRST, attempt=2).is_again()


@pytest.mark.parametrize(("last_seq", "checkpoint_seq", "told"), [(3, None, 3), (3, 2, 3), (3, 9, 9)])
def test_what_was_told_ends_with_the_row_or_the_checkpoint_whichever_is_later(last_seq, checkpoint_seq, told):
    assert replace(FIRST, last_seq=last_seq, checkpoint_seq=checkpoint_seq).told_seq() == told


@pytest.mark.parametrize(
    ("kept_text", "continuation", "prefix"),
    [("half", True, "half"), ("half", False, ""), ("", True, ""), (None, True, ""), (None, False, "")],
)
def test_a_text_that_was_kept_is_continued_by_a_provider_that_can(kept_text, continuation, prefix):
    turn = replace(FIRST, kept_text=kept_text)
    assert turn.prefix(Capabilities(continuation=continuation)) == prefix


def test_an_attempt_may_cost_what_was_held_and_anything_without_a_budget():
    assert FIRST.allowance(MODEL, 1000) is None
    held = Decimal("0.5")
    assert replace(FIRST, hold_usd=held).allowance(MODEL, 1000) == Allowance(MODEL, held, 1000)


@pytest.mark.parametrize(
    ("recovery", "attempt", "handed_back", "counted"),
    [("restart", 1, 0, 1), ("restart", 3, 2, 1), ("fail", 1, 0, None), ("fail", 3, 1, None)],
)
def test_attempts_that_were_handed_back_do_not_count_and_a_turn_that_fails_has_one(
    recovery, attempt, handed_back, counted
):
    turn = replace(FIRST, recovery=recovery, attempt=attempt, handed_back=handed_back)
    assert turn.counted_attempts() == counted

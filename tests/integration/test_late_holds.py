"""No attempt that begins under a budget runs without a hold, and what was held at a price is billed at that price."""

from dataclasses import replace
from decimal import Decimal

import pytest

from shared.configuration.settings import load_settings
from shared.money.price_table import Price
from shared.turn.turns import FinishReason
from tests.integration.conftest import LONG_LEASES
from tests.integration.test_holds import ANSWER, COST, OUTPUT_USD, bank, hold_of
from tests.integration.test_worker import Desk, patience, patient_worker, provider
from worker.ending import settlement_of
from worker.turn.late_hold import take_late_hold
from worker.turn.outcome import Completed, Requeued
from worker.turn.prompt import build_prompt
from worker.turn.settle import Settlement, settle

__all__ = ["bank", "patience", "provider", "settlement_of"]

DEARER = Price(*[Decimal(1000)] * 5)


@pytest.fixture
def desk(database, environment, organization, provider, patience):
    settings = load_settings({**environment, "SCRIPTED_BASE_URL": f"{provider}/v1", **LONG_LEASES})
    worker = patient_worker(settings)
    worker.start()
    desk = Desk(database, organization, worker, settings, provider)
    yield desk
    desk.close()
    worker.stop()


def prompt_of(claim):
    prompt, _ = build_prompt(
        claim.history,
        system=claim.turn.system_prompt,
        max_output_tokens=claim.turn.max_output_tokens,
        context_tokens=10_000,
        traceparent=None,
    )
    return prompt


def late_hold(bank, claim, settings=None):
    priced = (settings or bank.settings).provider
    return take_late_hold(bank.database, priced, claim.turn, prompt_of(claim), 10_000)


def test_a_first_attempt_that_begins_after_the_budget_was_set_takes_a_hold(bank):
    turn = bank.accepted(max_output_tokens=50)
    assert bank.holds() == []
    bank.budget(10, 20)
    claim = bank.claim(turn)
    assert (claim.turn.hold_usd, claim.turn.needs_hold) == (None, True)
    held = late_hold(bank, claim)
    assert bank.holds() == [held.hold_usd] == [hold_of("question", 50)]
    assert bank.totals() == {"day": (0, held.hold_usd), "month": (0, held.hold_usd)}
    bank.settle(claim, Completed(ANSWER, FinishReason.STOP))
    assert bank.totals() == {"day": (COST, 0), "month": (COST, 0)}


def test_a_later_attempt_that_begins_after_the_budget_was_set_takes_a_hold(bank):
    turn = bank.accepted(max_output_tokens=50)
    first = bank.claim(turn)
    assert first.turn.needs_hold is False
    bank.budget(10, 20)
    bank.settle(first, Requeued(ANSWER))
    second = bank.claim(turn)
    assert (second.attempt, second.turn.needs_hold) == (2, True)
    assert late_hold(bank, second).hold_usd == hold_of("question", 50)
    bank.settle(second, Requeued(ANSWER))  # from here on it holds again as any other
    assert bank.claim(turn).turn.needs_hold is False
    assert bank.holds() == [hold_of("question", 50)]


def test_a_late_hold_is_for_as_long_an_answer_as_is_paid_for(bank):
    turn = bank.accepted(max_output_tokens=1000)
    bank.budget(hold_of("question", 200))
    held = late_hold(bank, bank.claim(turn))
    assert held.hold_usd == hold_of("question", 200)
    assert bank.turn(turn).max_output_tokens == 200


def test_a_budget_that_pays_for_nothing_gives_no_late_hold(bank):
    turn = bank.accepted(max_output_tokens=1000)
    bank.budget(hold_of("question", 15))
    assert late_hold(bank, bank.claim(turn)) is None
    assert bank.holds() == []


def test_a_budget_that_is_gone_again_asks_for_none(bank):
    turn = bank.accepted()
    bank.budget(10)
    claim = bank.claim(turn)
    bank.budget()
    assert late_hold(bank, claim).hold_usd is None


def test_an_attempt_that_lost_its_lease_holds_nothing(bank, as_owner):
    turn = bank.accepted()
    bank.budget(10)
    claim = bank.claim(turn)
    as_owner("update turnkeeper.turns set attempt = 2 where id = :t", t=turn)
    assert late_hold(bank, claim).hold_usd is None
    assert bank.holds() == []


def test_a_turn_that_the_late_budget_does_not_pay_for_ends_and_calls_nobody(desk, as_owner):
    turn = desk.queue("[[tokens=5]]")
    as_owner(
        "update turnkeeper.organizations set daily_usd = :usd where id = :o",
        o=desk.organization,
        usd=OUTPUT_USD,
    )
    desk.ring(turn)
    row = desk.ended(turn)
    assert (row.status, row.stop_reason, row.cost_usd) == ("stopped", "budget", 0)
    assert [event["type"] for event in desk.told(turn)[-2:]] == ["stop_requested", "done"]
    assert desk.sql("select * from turnkeeper.ledger where turn_id = :t", t=turn) == []
    assert desk.sql("select * from turnkeeper.holds") == []


def test_a_worker_takes_the_late_hold_and_keeps_within_it(desk, as_owner):
    content = "[[tokens=300]]"
    turn = desk.queue(content)
    as_owner(
        "update turnkeeper.organizations set daily_usd = :usd where id = :o",
        o=desk.organization,
        usd=hold_of(content, 40),
    )
    desk.ring(turn)
    row = desk.ended(turn)
    assert (row.status, row.finish_reason, row.max_output_tokens) == ("completed", "length", 40)
    (spend,) = desk.sql("select spent_usd, held_usd from turnkeeper.spend where period = 'day'")
    assert 0 < spend.spent_usd == row.cost_usd <= hold_of(content, 40)
    assert spend.held_usd == 0


def dearer(settings):
    """The configuration of a worker that was started again with a higher price."""
    provider = replace(settings.provider, declared_price=DEARER)
    return replace(settings, providers=(provider, *settings.providers[1:]))


def settled(bank, claim, ending, settings):
    wanted = Settlement(
        claim.organization_id, claim.turn_id, claim.attempt, last_seq=9, quote=claim.turn.quote()
    )
    return settle(bank.database, settings.provider, wanted, ending)


def test_what_was_held_at_a_price_is_billed_at_that_price(bank):
    bank.budget(10)
    turn = bank.accepted()
    claim = bank.claim(turn)
    settled(bank, claim, Completed(ANSWER, FinishReason.STOP), dearer(bank.settings))
    assert bank.turn(turn).cost_usd == COST
    (row,) = bank.rows("select price from turnkeeper.ledger where organization_id = :o")
    assert row.price["output_per_m_usd"] == "15"


def test_the_limit_of_the_answer_comes_from_the_price_of_the_hold(bank):
    bank.budget(10)
    claim = bank.claim(bank.accepted(max_output_tokens=50))
    allowance = claim.turn.allowance(dearer(bank.settings).provider, 10_000)
    assert allowance.limited(prompt_of(claim), ANSWER.usage.__class__()).max_output_tokens == 50


@pytest.mark.parametrize("is_handed_back", [False, True])
def test_the_next_attempt_keeps_the_price(bank, is_handed_back):
    bank.budget(10)
    turn = bank.accepted()
    settled(bank, bank.claim(turn), Requeued(ANSWER, handed_back=is_handed_back), dearer(bank.settings))
    again = bank.claim(turn)
    assert again.turn.quote().price.output == 15
    settled(bank, again, Completed(ANSWER, FinishReason.STOP), dearer(bank.settings))
    assert bank.turn(turn).cost_usd == 2 * COST


def test_a_sweeper_bills_at_the_price_of_the_hold(bank, monkeypatch, as_owner):
    bank.budget(10)
    turn = bank.accepted(recovery="fail")
    bank.claim(turn)
    as_owner(
        "insert into turnkeeper.checkpoints (organization_id, turn_id, attempt, seq, called, content, reasoning,"
        " input_tokens, output_tokens) values (:o, :t, 1, 3, true, 'hello', '', 10, 5)",
        o=bank.organization,
        t=turn,
    )
    as_owner("update turnkeeper.turns set lease_expires_at = now() - interval '1 s' where id = :t", t=turn)
    bank.sweep(monkeypatch, dearer(bank.settings))
    assert bank.turn(turn).cost_usd == COST


def test_another_models_price_is_not_the_answers(bank):
    """A hold bounds what is spent, but a row of the ledger never has the price of a model that did not answer."""
    bank.budget(10)
    turn = bank.accepted()
    claim = bank.claim(turn)
    other = dearer(bank.settings)
    other = replace(other, providers=(replace(other.provider, model="another"), *other.providers[1:]))
    settled(bank, claim, Completed(ANSWER, FinishReason.STOP), other)
    assert bank.turn(turn).cost_usd == Decimal("0.015")


def test_a_hold_of_the_release_before_has_no_price_and_is_billed_at_the_one_in_force(bank, as_owner):
    bank.budget(10)
    turn = bank.accepted()
    as_owner("update turnkeeper.holds set price = null")
    claim = bank.claim(turn)
    assert claim.turn.quote() is None
    settled(bank, claim, Completed(ANSWER, FinishReason.STOP), bank.settings)
    assert bank.turn(turn).cost_usd == COST

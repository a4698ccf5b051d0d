"""No place that copies token classes forgets one that was added to `Usage`."""

from dataclasses import fields
from decimal import Decimal
from types import SimpleNamespace

import pytest

from api import ledger_csv
from shared.metrics import table
from shared.money.price_table import Price
from shared.money.prices import most_cost
from shared.money.usage import COLUMNS, PROMPT_COLUMNS, SHOWN_COLUMNS, ShownTokens, Usage, UsageSource
from shared.turn.events_of_turn import usage_of
from shared.turn.turns import Role
from worker.providers.provider import Capabilities, Prompt, text_message
from worker.publishing.call_note import CallNote, read_note
from worker.recovery import leases, left_behind
from worker.turn.consumption import Consumption, prompt_of

ALL = Usage(**{name: 1000 * (20 - place) for place, name in enumerate(COLUMNS)})
"""Each class with a number of its own; that of a part is less than that of the whole before it."""
PARTS = {"reasoning_tokens", "cache_write_1h_tokens"}
"""Part of another class, so they are not billed beside it."""
ONE = Decimal(1)


def of(usage: Usage, names) -> dict[str, int]:
    return {name: getattr(usage, name) for name in names}


def test_two_usages_are_added_class_by_class():
    assert of(ALL + ALL, COLUMNS) == {name: 2 * count for name, count in of(ALL, COLUMNS).items()}


def test_the_wire_and_the_rows_show_the_same_classes():
    assert ALL.as_dict() == of(ALL, SHOWN_COLUMNS)
    assert [field.name for field in fields(ShownTokens)] == list(ALL.as_dict())
    assert of(usage_of(SimpleNamespace(**of(ALL, SHOWN_COLUMNS))), SHOWN_COLUMNS) == of(ALL, SHOWN_COLUMNS)
    assert table.TOKENS.series == tuple((name.removesuffix("_tokens"),) for name in SHOWN_COLUMNS)


@pytest.mark.parametrize("name", sorted(set(COLUMNS) - PARTS))
def test_every_class_is_billed(name):
    price = Price(ONE, ONE, ONE, ONE, ONE)
    assert price.cost(Usage(**{name: 1_000_000})) == 1


@pytest.mark.parametrize("rate", [field.name for field in fields(Price) if field.name != "assumed"])
def test_a_hold_covers_the_dearest_class(rate):
    rates = {field.name: ONE for field in fields(Price) if field.name != "assumed"}
    dear = Price(**{**rates, rate: Decimal(7)})
    assert most_cost(dear, 1_000_000, 1_000_000) >= 8  # the prompt or the answer at that rate, the other at 1


def test_the_note_of_a_call_holds_all_that_a_prompt_has():
    prompt = prompt_of(ALL)
    assert of(prompt, PROMPT_COLUMNS) == of(ALL, PROMPT_COLUMNS)
    assert read_note(CallNote(3, prompt, UsageSource.PROVIDER).encoded().encode()) == CallNote(
        3, prompt, UsageSource.PROVIDER
    )


def test_a_note_that_another_release_wrote_is_read_as_far_as_both_know():
    known = Usage(**{name: place for place, name in enumerate(PROMPT_COLUMNS)})
    figures = [str(number) for number in range(len(PROMPT_COLUMNS) + 1)]
    assert read_note(f"3 provider {' '.join(figures)}".encode()) == CallNote(3, known, UsageSource.PROVIDER)
    assert read_note(f"3 provider {' '.join(figures[:4])}".encode()) is not None  # the first release's
    assert read_note(b"3 provider 17") is None


def test_the_running_figures_of_a_call_that_broke_off_are_kept_whole():
    consumption = Consumption()
    # Long enough for all of these tokens, and as long an answer: figures that cannot be are disputed.
    prompt = Prompt((text_message(Role.USER, "question " * 10_000),), None, 20_000)
    consumption.sent(prompt)
    consumption.begun()
    consumption.follow(ALL)
    used, source = consumption.usage(Capabilities())
    assert source is UsageSource.PARTIAL
    assert of(used, COLUMNS) == of(ALL, COLUMNS)


def test_a_checkpoint_holds_all_classes_and_they_are_billed_after_a_death():
    assert set(leases._COUNTS) == set(COLUMNS)
    turn = SimpleNamespace(
        **of(ALL, COLUMNS), content="", reasoning="", max_output_tokens=10**9, prompt_bytes=0
    )
    assert of(left_behind.usage_of(turn, "", "", 10**9), COLUMNS) == of(ALL, COLUMNS)


def test_the_ledger_as_csv_has_a_column_for_every_class():
    assert set(COLUMNS) <= set(ledger_csv.header().strip().split(","))

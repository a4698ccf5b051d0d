"""Which provider answers a turn, and who is next."""

import asyncio
from dataclasses import replace

from shared.errors import Fault
from tests.unit.worker.claimed import AGAIN, FIRST, Speaking, World, services
from worker.providers.breaker import Breaker
from worker.providers.choice import Choice, Choices


class Closing(Speaking):
    """A provider that says when its connections were closed."""

    def __init__(self, closed):
        super().__init__()
        self.closed = closed

    async def aclose(self):
        self.closed.append(self)


def of(*models, closed=None):
    settings = services(World()).settings.provider
    return Choices(
        Choice(
            replace(settings, model=model),
            Closing([] if closed is None else closed),
            Breaker(lambda: 0.0, 10.0),
        )
        for model in models
    )


def test_the_first_configured_provider_answers_every_turn():
    choices = of("large", "small")
    assert [choices.choose(turn).settings.model for turn in (FIRST, AGAIN)] == ["large", "large"]


def test_after_each_provider_comes_the_next_in_their_order_and_after_the_last_none():
    choices = of("large", "small")
    second = choices.after(choices.choose(FIRST))
    assert second.settings.model == "small"
    assert choices.after(second) is None
    assert list(choices) == [choices.first, second]


def test_a_single_provider_has_none_after_it():
    choices = of("only")
    assert choices.after(choices.choose(FIRST)) is None


def test_two_entries_of_the_same_settings_are_two_choices():
    choices = of("same", "same")
    first, second = choices
    assert choices.after(first) is second
    assert choices.after(second) is None


def test_the_failures_of_one_provider_do_not_open_the_breaker_of_another():
    first, second = of("large", "small")
    for _ in range(3):
        first.breaker.call().fail(Fault.PROVIDER_AUTH, is_passing=False)
    assert (first.breaker.state, second.breaker.state) == ("open", "closed")


def test_every_provider_is_closed():
    closed = []
    choices = of("large", "small", closed=closed)
    asyncio.run(choices.aclose())
    assert closed == [choice.provider for choice in choices]

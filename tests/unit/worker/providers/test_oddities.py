"""What a provider does that its protocol does not have: counted always, logged once, and the ends that it names."""

import logging

import pytest

from shared.metrics import table
from shared.metrics.registry import PLACES, Registry
from shared.oddities import Oddity
from shared.turn.turns import FinishReason
from worker.metrics import WorkerMetrics
from worker.providers.ends import WORDS, Cut, end_of
from worker.providers.oddities import Oddities


def test_an_oddity_is_counted_each_time_and_logged_once_for_each_word(caplog):
    oddities = Oddities()
    with caplog.at_level(logging.WARNING, "turnkeeper.provider"):
        for word in ("sensible", "sensible", "other"):
            oddities.note(Oddity.UNKNOWN_END, word)
    assert oddities.counts == {Oddity.UNKNOWN_END: 3}
    assert [(record.oddity, record.word) for record in caplog.records] == [
        ("unknown_end", "sensible"),
        ("unknown_end", "other"),
    ]


@pytest.mark.parametrize("word", ["what you asked", "sk-x y", "a" * 41, "\x1b[2J", "<script>", "né"])
def test_a_word_that_has_not_the_form_of_a_name_stays_out_of_the_log(caplog, word):  # I10
    oddities = Oddities()
    with caplog.at_level(logging.WARNING, "turnkeeper.provider"):
        oddities.note(Oddity.UNKNOWN_PART, word)
    assert [record.word for record in caplog.records] == [""]


def test_new_words_for_ever_fill_no_log_and_no_memory(caplog):
    oddities = Oddities()
    with caplog.at_level(logging.WARNING, "turnkeeper.provider"):
        for number in range(1000):
            oddities.note(Oddity.UNKNOWN_END, f"word-{number}")
    assert len(caplog.records) == 100
    assert oddities.counts[Oddity.UNKNOWN_END] == 1000


def test_the_oddities_of_all_providers_add_up_in_the_metric():
    registry, one, two = Registry(), Oddities(), Oddities()
    WorkerMetrics(registry).look_at_oddities([one, two])
    for oddities in (one, two):
        oddities.note(Oddity.NO_REASON)
    registry.sample()
    assert registry.values[PLACES[table.PROVIDER_ODDITIES, ("no_reason",)]] == 2
    assert registry.values[PLACES[table.PROVIDER_ODDITIES, ("no_mark",)]] == 0


def test_no_two_providers_mean_different_things_by_one_word():
    for words in WORDS.values():
        for word, end in words.items():
            assert end_of(word) is end
            assert end_of(word.upper()) is end


@pytest.mark.parametrize(
    ("word", "end"),
    [
        ("sensitive", FinishReason.CONTENT_FILTER),
        ("FINISH_REASON_SAFETY", FinishReason.CONTENT_FILTER),
        ("content-filter", FinishReason.CONTENT_FILTER),
        (" length ", FinishReason.LENGTH),
        ("MAX_TOKENS", FinishReason.LENGTH),
        ("tool-calls", Cut.TOOL_CALL),
        ("network_error", Cut.BROKEN),
        ("other", None),
        ("unknown", None),
        ("", None),
    ],
)
def test_a_word_of_any_provider_says_what_it_means(word, end):
    assert end_of(word) is end

import asyncio

import pytest

from turnkeeper.scripted import oracle as oracle_module
from turnkeeper.scripted.oracle import Oracle, Outcome
from turnkeeper.scripted.pacer import Pacer


def finished(oracle, text="word"):
    record = oracle.open("openai", "/v1/chat/completions", {})
    record.say(text, reasoning=False)
    record.content_tokens += 1
    oracle.close(record, Outcome.COMPLETED)
    return record


def test_a_record_closes_once_and_keeps_its_first_outcome():
    oracle = Oracle()
    record = oracle.open("openai", "/", {})
    oracle.close(record, Outcome.CLIENT_DISCONNECTED)
    gone = record.disconnected_ns
    oracle.close(record, Outcome.COMPLETED)
    assert (record.outcome, record.disconnected_ns) == (Outcome.CLIENT_DISCONNECTED, gone)
    assert gone is not None
    assert oracle.totals()["running"] == 0
    assert oracle.totals()["outcomes"] == {"client_disconnected": 1}


def test_records_are_read_from_any_place_on():
    oracle = Oracle()
    for _ in range(5):
        finished(oracle)
    assert [record.id for record in oracle.after(0)] == [1, 2, 3, 4, 5]
    assert [record.id for record in oracle.after(3)] == [4, 5]
    assert list(oracle.after(99)) == []
    oracle.clear()
    assert list(oracle.after(0)) == []
    assert finished(oracle).id == 6
    assert [record.id for record in oracle.after(0)] == [6]


def test_the_oldest_records_are_forgotten_beyond_the_bound(monkeypatch):
    monkeypatch.setattr(oracle_module, "MAX_RECORDS", 3)
    oracle = Oracle()
    for _ in range(5):
        finished(oracle)
    assert [record.id for record in oracle.after(0)] == [3, 4, 5]
    assert oracle.find(1) is None


def test_the_oldest_texts_are_forgotten_beyond_the_bound(monkeypatch):
    monkeypatch.setattr(oracle_module, "MAX_TEXT_BYTES", 250)
    oracle = Oracle()
    for _ in range(3):
        finished(oracle, "x" * 100)
    shown = [record.shown() for record in oracle.after(0)]
    assert [len(record["text"]) for record in shown] == [0, 100, 100]
    assert [record["text_forgotten"] for record in shown] == [True, False, False]
    assert [record["content_tokens"] for record in shown] == [1, 1, 1]


def test_one_answer_is_kept_up_to_a_bound(monkeypatch):
    monkeypatch.setattr(oracle_module, "MAX_ANSWER_CHARACTERS", 10)
    record = finished(Oracle(), "x" * 8)
    record.say("y" * 8, reasoning=False)
    assert (record.shown()["text"], record.text_forgotten) == ("x" * 8, True)


def test_when_tokens_were_written_is_kept_up_to_a_bound(monkeypatch):
    monkeypatch.setattr(oracle_module, "MAX_PROGRESS", 2)
    record = Oracle().open("openai", "/", {})
    record.note_progress()
    for _ in range(3):
        record.content_tokens += 2
        record.note_progress()
    shown = record.shown()["progress"]
    assert [tokens for _, tokens in shown] == [2, 4]
    assert record.received_at <= shown[0][0] <= shown[1][0] < record.received_at + 60


def test_text_is_kept_only_when_wanted():
    record = finished(Oracle(keep_text=False))
    assert record.shown()["text"] == ""
    assert record.text_forgotten


def test_requests_of_a_conversation_are_counted_by_script():
    oracle = Oracle()
    assert [oracle.count("a", "s"), oracle.count("a", "s"), oracle.count("a", "t"), oracle.count("b", "s")] == [
        1, 2, 1, 1,
    ]  # fmt: skip


def test_the_pacer_calls_in_order_of_due_times_and_never_early():
    loop = asyncio.new_event_loop()
    try:
        pacer = Pacer(loop)
        start = loop.time()
        called = []
        ended = loop.create_future()

        def call(due):
            called.append((due, loop.time()))
            if len(called) == 6:
                ended.set_result(None)

        def again(due):
            call(due)
            pacer.at(start + 0.006, lambda: call(0.006))

        for due in (0.02, 0.01, 0.01, -1.0):
            pacer.at(start + due, lambda due=due: call(due))
        pacer.at(start + 0.005, lambda: again(0.005))
        loop.run_until_complete(asyncio.wait_for(ended, 60))
        assert [due for due, _ in called] == [-1.0, 0.005, 0.006, 0.01, 0.01, 0.02]
        assert all(moment >= start + due for due, moment in called)
    finally:
        loop.close()


@pytest.mark.parametrize("times", [1000])
def test_the_pacer_keeps_nothing_of_what_it_called(times):
    loop = asyncio.new_event_loop()
    try:
        pacer = Pacer(loop)
        ended = loop.create_future()
        for number in range(times):
            pacer.at(loop.time() + number / 1e5, lambda: None)
        pacer.at(loop.time() + 0.02, lambda: ended.set_result(None))
        loop.run_until_complete(asyncio.wait_for(ended, 60))
        assert (pacer._calls, pacer._ticks) == ({}, [])
    finally:
        loop.close()
